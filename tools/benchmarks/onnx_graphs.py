"""Benchmark: the exported graphs in ONNX Runtime: relu twin, integer graph, spike graphs; time, peak memory, file size.

Networks have random weights: neither time nor memory depends on them. Interleaved runs on the CPU, medians; each export
and each memory figure is taken in a process of its own. Prints a table and writes JSON. Example:
    python tools/benchmarks/onnx_graphs.py scales=p,n imgsz=320,640 rounds=7 out=onnx_graphs.json
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

GRAPHS = {
    "relu": ("relu", {}),
    "integer": ("ibra", {"graph": "integer"}),
    "spike": ("ibra", {"graph": "spike"}),  # 9 planes
    "aligned": ("potlif", {"graph": "spike"}),  # PoT-LIF, 5 planes
}


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


def export(graph: str, scale: str, imgsz: int, folder: Path, dynamic: bool) -> dict[str, Any]:
    """Export a graph of a network with random weights; return its file, size and the seconds it took."""
    neuron, arguments = GRAPHS[graph]
    model = new_model(f"{neuron}-spikeyolo-{scale}.yaml")
    os.chdir(folder)
    start = time.perf_counter()
    file = Path(model.export(format="onnx", imgsz=imgsz, dynamic=dynamic, **arguments)).resolve()
    return {
        "file": str(file),
        "export_s": time.perf_counter() - start,
        "export_peak_mb": peak_of(Path("/proc/self/status").read_text()),
        "megabytes": file.stat().st_size / 2**20,
    }


def session(file: str) -> Any:
    """Open a graph with all cores and every optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = harness.CORES
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def image(imgsz: int) -> dict[str, Any]:
    """Return one random image as input."""
    return {"images": np.random.default_rng(0).integers(0, 256, (1, 3, imgsz, imgsz)).astype(np.float32) / 255}


def peak_memory(file: str, imgsz: int) -> float:
    """Run a graph twice in a process that imports nothing else; return its peak memory in megabytes."""
    code = (
        "import sys, numpy, onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 3\n"
        "o.intra_op_num_threads = int(sys.argv[3]); s = ort.InferenceSession(sys.argv[1], o)\n"
        "x = numpy.zeros((1, 3, int(sys.argv[2]), int(sys.argv[2])), 'f'); s.run(None, {'images': x})\n"
        "s.run(None, {'images': x}); print(open('/proc/self/status').read())"
    )
    arguments = [sys.executable, "-c", code, file, str(imgsz), str(harness.CORES)]
    return peak_of(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


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


def measure(scale: str, imgsz: int, rounds: int) -> dict[str, Any]:
    """Export and run the graphs of a scale."""
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for graph in GRAPHS:
            folder = Path(name) / graph
            folder.mkdir()
            found[graph] = export_apart(graph, scale, imgsz, folder)
            found[graph]["peak_mb"] = peak_memory(found[graph]["file"], imgsz)
        sessions = {graph: session(f["file"]) for graph, f in found.items()}
        runs = {
            graph: partial(harness.steady, partial(opened.run, None, image(imgsz)))
            for graph, opened in sessions.items()
        }
        times = harness.interleave(runs, rounds)
    for graph in GRAPHS:
        found[graph]["ms"] = 1000 * statistics.median(times[graph])
        del found[graph]["file"]
    row: dict[str, Any] = {"scale": scale, "imgsz": imgsz, "graphs": found}
    for one, other in (("integer", "relu"), ("spike", "integer"), ("aligned", "spike")):
        row[f"{one}/{other}"] = {
            "time": harness.ratio(times[one], times[other]),
            "memory": found[one]["peak_mb"] / found[other]["peak_mb"],
            "file": found[one]["megabytes"] / found[other]["megabytes"],
        }
    return row


def main() -> None:
    """Run the benchmark."""
    options = harness.options(scales="p,n", imgsz="320,640", rounds="7", out="onnx_graphs.json")
    rows = []
    print(
        "| scale | image | relu, ms | integer, ms | spike, ms | PoT-LIF spike, ms | integer / relu | spike / integer | "
        "PoT-LIF / IBRA-LIF | memory, MB | spike / integer | file, MB | spike / integer | export, s | export, MB |\n"
        + "|---" * 15
        + "|"
    )
    for scale in options["scales"].split(","):
        for imgsz in options["imgsz"].split(","):
            row = measure(scale, int(imgsz), int(options["rounds"]))
            rows.append(row)
            g, dear = row["graphs"], row["spike/integer"]
            pairs = ("integer/relu", "spike/integer", "aligned/spike")
            ratios = " | ".join(harness.show_ratio(row[pair]["time"]) for pair in pairs)
            print(
                f"| {scale} | {imgsz} | {g['relu']['ms']:.0f} | {g['integer']['ms']:.0f} | {g['spike']['ms']:.0f} "
                f"| {g['aligned']['ms']:.0f} | {ratios} | {g['spike']['peak_mb']:.0f} | {dear['memory']:.2f} "
                f"| {g['spike']['megabytes']:.1f} | {dear['file']:.3f} | {g['spike']['export_s']:.0f} "
                f"| {g['spike']['export_peak_mb']:.0f} |",
                flush=True,
            )
    harness.write(options["out"], rows, options, "ultralytics", "onnx", "onnxruntime")


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"]:
        graph, scale, imgsz, folder, dynamic = json.loads(sys.argv[2])
        print(json.dumps(export(graph, scale, imgsz, Path(folder), dynamic)))
    else:
        main()
