"""Benchmark: images per second of a network in all its forms on the CPU: PyTorch, deploy form, ONNX graphs, relu twin.

Networks have random weights, on which time does not depend. Interleaved runs, medians; prints a table, writes JSON:
    python tools/benchmarks/infer.py scales=p,n imgsz=192,320 batch=1,16 rounds=7
The spike graph is as many times slower as there are planes; spike=False leaves it out.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import harness
import torch
from onnx_graphs import export_apart, session
from ultralytics.nn.tasks import DetectionModel

from spikeyolo.deployment import deploy

REFERENCE = "ibra .pt, eager"


def torch_forms(scale: str) -> dict[str, torch.nn.Module]:
    """Return the networks that run in PyTorch."""
    found: dict[str, torch.nn.Module] = {}
    for neuron in ("ibra", "relu"):
        torch.manual_seed(0)
        network: Any = DetectionModel(f"{neuron}-spikeyolo-{scale}.yaml", verbose=False).eval()
        found[f"{neuron} .pt, eager"] = network
        found[f"{neuron} .pt, fused"] = copy.deepcopy(network).fuse(verbose=False)
        if neuron == "ibra":
            found["ibra deploy form"] = deploy(network)
    return found


def measure(scale: str, imgsz: int, options: dict[str, str]) -> list[dict[str, Any]]:
    """Compare all forms of a scale at one image size."""
    graphs = {"relu": "relu ONNX", "integer": "ibra ONNX, integer graph", "spike": "ibra ONNX, spike graph"}
    if options["spike"].lower() == "false":
        del graphs["spike"]
    rows = []
    networks = torch_forms(scale)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for graph, name in graphs.items():
            place = Path(folder) / graph
            place.mkdir()
            sessions[name] = session(export_apart(graph, scale, imgsz, place, dynamic=True)["file"])
        for batch in map(int, options["batch"].split(",")):
            x = torch.randint(0, 256, (batch, 3, imgsz, imgsz)).float() / 255
            feed = {"images": x.numpy()}
            runs: dict[str, Callable[[], object]] = {name: partial(n, x) for name, n in networks.items()}
            runs |= {name: partial(opened.run, None, feed) for name, opened in sessions.items()}
            with torch.inference_mode():
                times = harness.interleave(
                    {name: partial(harness.steady, r) for name, r in runs.items()}, int(options["rounds"])
                )
            rows += [
                {
                    "scale": scale,
                    "imgsz": imgsz,
                    "batch": batch,
                    "form": name,
                    "images_per_s": batch / statistics.median(seconds),
                    "speed_to_eager": harness.ratio(times[REFERENCE], seconds),
                }
                for name, seconds in times.items()
            ]
    return rows


def main() -> None:
    """Run the benchmark."""
    options = harness.options(scales="p,n", imgsz="192,320", batch="1,16", rounds="5", spike="True", out="infer.json")
    torch.set_num_threads(harness.CORES)
    rows = [
        row
        for scale in options["scales"].split(",")
        for imgsz in options["imgsz"].split(",")
        for row in measure(scale, int(imgsz), options)
    ]
    header = ["scale", "image", "batch", "form", "images/s", "times as fast as the eager .pt"]
    lines = [
        [
            r["scale"],
            r["imgsz"],
            r["batch"],
            r["form"],
            f"{r['images_per_s']:.1f}",
            harness.show_ratio(r["speed_to_eager"]),
        ]
        for r in rows
    ]
    print(harness.table(header, lines))
    harness.write(options["out"], rows, options, "ultralytics", "onnx", "onnxruntime")


if __name__ == "__main__":
    main()
