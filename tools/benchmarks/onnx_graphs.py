"""Benchmark: the exported graphs in ONNX Runtime beside the float and the int8 ANN; time, peak memory, file size.

The relu twin in float and quantised to int8 (tools/benchmarks/int8_twin.py; both also as chains, which need fewer
operations than the dense convolutions that they equal), the integer graph (7 planes), spike graphs (5 and 7 planes).
Scales are those of SpikeYOLO, and v8: YOLOv8 at a pico scale with ReLU, and its conversion. Weights are random:
neither time nor memory depends on them. Interleaved runs on the CPU with a pause before each, medians; each export and
each memory figure is taken in a process of its own; "net" is without what that process holds before it opens the graph.
Prints a table and writes JSON. Example:
    python tools/benchmarks/onnx_graphs.py scales=p,n,v8 imgsz=320,640 threads=1,2 rounds=7 out=onnx_graphs.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import harness
import numpy as np
import onnxruntime
import torch

import spikeyolo  # noqa: F401 (registers the plugin)

GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("relu", {}),
    "int8": ("relu", {"int8": True}),
    "chain": ("relu", {"chain": True}),
    "chain-int8": ("relu", {"int8": True, "chain": True}),
    "integer": ("ibra", {"graph": "integer"}),
    "spike-5": ("ibra", {"graph": "spike", "planes": 5}),
    "spike": ("ibra", {"graph": "spike"}),  # 7 planes
}
RATIOS = [(graph, "relu") for graph in GRAPHS if graph != "relu"] + [("integer", "int8"), ("integer", "chain-int8")]


def new_model(name: str) -> Any:
    """Make a model of an architecture, with random weights."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO(name)
    assert isinstance(model.model, torch.nn.Module)
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a new network's residual branches are zero
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        model.model.train()(torch.rand(2, 3, 64, 64))  # gives aligned neurons a range
    return model


def model_of(kind: str, scale: str, folder: Path) -> Any:
    """Make the ANN ("relu") or the spiking network ("ibra") of a scale."""
    if scale != "v8":
        return new_model(f"{kind}-spikeyolo-{scale}.yaml")
    import ultralytics
    from ultralytics.utils import YAML

    from spikeyolo.conversion.spiking_copy import SpikingCopy

    d = YAML.load(str(Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"))
    file = folder / f"{kind}.yaml"
    YAML.save(str(file), d | {"scales": {"p": [0.33, 0.125, 1024]}, "activation": "nn.ReLU()"})
    model = new_model(str(file))
    if kind == "ibra":
        model.model = SpikingCopy(model.model).network
    return model


def export(graph: str, scale: str, imgsz: int, folder: Path, dynamic: bool) -> dict[str, Any]:
    """Export a graph of a network with random weights; return its file, size and the seconds it took."""
    import int8_twin  # which takes random weights from here

    kind, arguments = GRAPHS[graph]
    model = model_of(kind, scale, folder)
    start, file = time.perf_counter(), folder / "graph.onnx"
    arguments = dict(arguments)
    int8, chain = arguments.pop("int8", False), arguments.pop("chain", False)
    int8_twin.export_float(model, file, imgsz=imgsz, chain=chain, dynamic=dynamic, **arguments)
    if int8:
        images = int8_twin.calibration_images("", int8_twin.FEW, imgsz)
        int8_twin.quantise(file, images, file)
    return {
        "file": str(file),
        "export_s": time.perf_counter() - start,
        "export_peak_mb": peak_of(Path("/proc/self/status").read_text()),
        "megabytes": file.stat().st_size / 2**20,
    }


def session(file: str, threads: int = harness.CORES) -> Any:
    """Open a graph with every optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def image(imgsz: int) -> dict[str, Any]:
    """Return one random image as input."""
    return {"images": np.random.default_rng(0).integers(0, 256, (1, 3, imgsz, imgsz)).astype(np.float32) / 255}


def peak_memory(file: str, imgsz: int) -> dict[str, float]:
    """Run a graph twice in a process that imports nothing else; return its peak memory before and after, megabytes."""
    code = (
        "import sys, numpy, onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 3\n"
        "o.intra_op_num_threads = int(sys.argv[3]); print(open('/proc/self/status').read(), '---')\n"
        "s = ort.InferenceSession(sys.argv[1], o)\n"
        "x = numpy.zeros((1, 3, int(sys.argv[2]), int(sys.argv[2])), 'f'); s.run(None, {'images': x})\n"
        "s.run(None, {'images': x}); print(open('/proc/self/status').read())"
    )
    arguments = [sys.executable, "-c", code, file, str(imgsz), str(harness.CORES)]
    before, after = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split("---")
    return {"idle_mb": peak_of(before), "peak_mb": peak_of(after)}


def peak_of(status: str) -> float:
    """Return the peak memory in megabytes from the text of /proc/PID/status (Linux).

    Not ru_maxrss: a process that is started by another one inherits the memory of that one there.
    """
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def export_apart(graph: str, scale: str, imgsz: int, folder: Path, *, dynamic: bool = False) -> dict[str, Any]:
    """Export a graph in a process of its own, to know its peak memory."""
    command = [sys.executable, __file__, "export", json.dumps([graph, scale, imgsz, str(folder), dynamic])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def net(found: dict[str, Any]) -> float:
    """Return the megabytes that a graph adds to a process."""
    return found["peak_mb"] - found["idle_mb"]


def measure(scale: str, imgsz: int, threads: list[int], rounds: int, wanted: list[str]) -> list[dict[str, Any]]:
    """Export and run the graphs of a scale; return a row for each number of threads."""
    import int8_twin

    graphs = [graph for graph in wanted if scale != "v8" or "chain" not in graph]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for graph in graphs:
            folder = Path(name) / graph
            folder.mkdir()
            found[graph] = export_apart(graph, scale, imgsz, folder)
            found[graph] |= peak_memory(found[graph]["file"], imgsz)
        for count in threads:
            sessions = {graph: session(f["file"], count) for graph, f in found.items()}
            runs = {
                graph: partial(int8_twin.paused, partial(opened.run, None, image(imgsz)))
                for graph, opened in sessions.items()
            }
            times = harness.interleave(runs, rounds)
            about = {graph: f | {"ms": 1000 * statistics.median(times[graph])} for graph, f in found.items()}
            row: dict[str, Any] = {"scale": scale, "imgsz": imgsz, "threads": count, "graphs": about}
            for one, other in RATIOS:
                if one in graphs and other in graphs:
                    row[f"{one} / {other}"] = {
                        "time": harness.ratio(times[one], times[other]),
                        "memory": found[one]["peak_mb"] / found[other]["peak_mb"],
                        "net memory": net(found[one]) / net(found[other]),
                        "file": found[one]["megabytes"] / found[other]["megabytes"],
                    }
            rows.append(row)
    return rows


def main() -> None:
    """Run the benchmark."""
    every = ",".join(GRAPHS)
    options = harness.options(
        scales="p,n,v8", imgsz="320,640", threads="1,2", rounds="7", graphs=every, out="onnx_graphs.json"
    )
    graphs = options["graphs"].split(",")
    if unknown := set(graphs) - GRAPHS.keys() or {"relu", "integer", "spike"} - set(graphs):
        sys.exit(f"graphs={options['graphs']}: {', '.join(unknown)} is unknown or missing; graphs are {every}")
    rows, threads = [], [int(count) for count in options["threads"].split(",")]
    pairs = [f"{one} / {other}" for one, other in RATIOS]
    head = [
        "scale",
        "image",
        "threads",
        "relu, ms",
        *pairs,
        "memory: integer; spike / relu",
        "net memory: integer; spike / relu",
        "file: integer; spike / relu",
    ]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    for scale in options["scales"].split(","):
        for imgsz in options["imgsz"].split(","):
            for row in measure(scale, int(imgsz), threads, int(options["rounds"]), graphs):
                rows.append(row)
                cells = [scale, imgsz, str(row["threads"]), f"{row['graphs']['relu']['ms']:.0f}"]
                cells += [harness.show_ratio(row[pair]["time"]) if pair in row else "" for pair in pairs]
                for what in ("memory", "net memory", "file"):
                    cells.append("; ".join(f"{row[f'{graph} / relu'][what]:.2f}" for graph in ("integer", "spike")))
                print(f"| {' | '.join(cells)} |", flush=True)
    harness.write(options["out"], rows, options, "ultralytics", "onnx", "onnxruntime")


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"]:
        graph, scale, imgsz, folder, dynamic = json.loads(sys.argv[2])
        print(json.dumps(export(graph, scale, imgsz, Path(folder), dynamic)))
    else:
        main()
