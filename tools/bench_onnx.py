"""Benchmark: the exported graphs in ONNX Runtime: relu twin, integer graph, spike graph; time, peak memory, file size.

Networks have random weights: neither time nor memory depends on them. Interleaved runs on the CPU, medians; every export
and every memory figure is taken in a process of its own. Prints a table and writes JSON. Example:
    python tools/bench_onnx.py scales=p,n imgsz=320,640 rounds=7 out=bench_onnx.json
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import numpy as np
import onnx
import onnxruntime
import torch
import ultralytics

import spikeyolo

GRAPHS = {"relu": ("relu", {}), "integer": ("ibra", {"graph": "integer"}), "spike": ("ibra", {"graph": "spike"})}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def export(graph: str, scale: str, imgsz: int, folder: Path) -> dict[str, Any]:
    """Export a graph of a network with random weights; return its file, size and the seconds it took."""
    from ultralytics import YOLO

    neuron, arguments = GRAPHS[graph]
    torch.manual_seed(0)
    model = YOLO(f"{neuron}-spikeyolo-{scale}.yaml")
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a new network's residual branches are zero
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    os.chdir(folder)
    start = time.perf_counter()
    file = Path(model.export(format="onnx", imgsz=imgsz, **arguments)).resolve()
    return {"file": str(file), "export_s": time.perf_counter() - start, "megabytes": file.stat().st_size / 2**20}


def session(file: str) -> Any:
    """Open a graph with all cores and every optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def image(imgsz: int) -> dict[str, Any]:
    """Return one random image as input."""
    return {"images": np.random.default_rng(0).integers(0, 256, (1, 3, imgsz, imgsz)).astype(np.float32) / 255}


def run(file: str, imgsz: int) -> dict[str, Any]:
    """Run a graph twice."""
    opened = session(file)
    for _ in range(2):
        opened.run(None, image(imgsz))
    return {}


def apart(task: str, *arguments: str) -> dict[str, Any]:
    """Do a task in a process of its own; add its peak memory in megabytes to the result."""
    done = subprocess.run([sys.executable, __file__, f"task={task}", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task} {arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(task: str, *arguments: str) -> None:
    """Do a task and print its result, in a process of its own."""
    import resource

    if task == "export":
        graph, scale, imgsz, folder = arguments
        result = export(graph, scale, int(imgsz), Path(folder))
    else:
        file, imgsz = arguments
        result = run(file, int(imgsz))
    print(json.dumps(result | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measure(scale: str, imgsz: int, rounds: int) -> dict[str, Any]:
    """Export and run the three graphs of a scale."""
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for graph in GRAPHS:
            folder = Path(name) / graph
            folder.mkdir()
            found[graph] = apart("export", graph, scale, str(imgsz), str(folder))
            found[graph]["export_peak_mb"] = found[graph].pop("peak_mb")
            found[graph] |= apart("run", found[graph]["file"], str(imgsz))
        sessions = {graph: session(f["file"]) for graph, f in found.items()}
        times = {graph: [] for graph in GRAPHS}
        for i in range(rounds + 1):
            for graph, opened in sessions.items():
                start = time.perf_counter()
                opened.run(None, image(imgsz))
                if i:  # the first round warms up
                    times[graph].append(time.perf_counter() - start)
    for graph in GRAPHS:
        found[graph]["ms"] = 1000 * statistics.median(times[graph])
        del found[graph]["file"]
    row: dict[str, Any] = {"scale": scale, "imgsz": imgsz, "graphs": found}
    for one, other in (("integer", "relu"), ("spike", "integer")):
        ratios = [a / b for a, b in zip(times[one], times[other], strict=True)]
        row[f"{one}/{other}"] = {
            "time": statistics.median(ratios),
            "time_spread": [min(ratios), max(ratios)],
            "memory": found[one]["peak_mb"] / found[other]["peak_mb"],
            "file": found[one]["megabytes"] / found[other]["megabytes"],
        }
    return row


def main() -> None:
    """Run the benchmark."""
    options = {"scales": "p,n", "imgsz": "320,640", "rounds": "7", "out": "bench_onnx.json"}
    options |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    rows = []
    print(
        "| scale | image | relu, ms | integer, ms | spike, ms | integer / relu | spike / integer | memory, MB | "
        "spike / integer | file, MB | spike / integer | export, s | export, MB |\n" + "|---" * 13 + "|"
    )
    for scale in options["scales"].split(","):
        for imgsz in options["imgsz"].split(","):
            row = measure(scale, int(imgsz), int(options["rounds"]))
            rows.append(row)
            g, cheap, dear = row["graphs"], row["integer/relu"], row["spike/integer"]

            def ratio(r: dict[str, Any]) -> str:
                return f"{r['time']:.2f} ({r['time_spread'][0]:.2f} to {r['time_spread'][1]:.2f})"

            print(
                f"| {scale} | {imgsz} | {g['relu']['ms']:.0f} | {g['integer']['ms']:.0f} | {g['spike']['ms']:.0f} "
                f"| {ratio(cheap)} | {ratio(dear)} | {g['spike']['peak_mb']:.0f} | {dear['memory']:.2f} "
                f"| {g['spike']['megabytes']:.1f} | {dear['file']:.3f} | {g['spike']['export_s']:.0f} "
                f"| {g['spike']['export_peak_mb']:.0f} |",
                flush=True,
            )
    versions = {module.__name__: module.__version__ for module in (spikeyolo, ultralytics, torch, onnx, onnxruntime)}
    machine = {"processor": platform.processor() or platform.machine(), "threads": CORES}
    Path(options["out"]).write_text(
        json.dumps({"versions": versions, "machine": machine, "options": options, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("task="):
        work(sys.argv[1].removeprefix("task="), *sys.argv[2:])
    else:
        main()
