"""Benchmark: the training step of the spiking model against its relu twin, and images per second.

Interleaved runs on the CPU, medians; prints a table and writes JSON. Example:
    python tools/bench_train.py scales=p,n imgsz=192 batch=16 rounds=7 out=bench_train.json
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
import ultralytics
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG

import spikeyolo


def make_step(name: str, batch: dict[str, torch.Tensor], layout: torch.memory_format):
    """Return a function that does one forward, loss and backward of a model."""
    model = DetectionModel(name, verbose=False).train().to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    setattr(model, "args", DEFAULT_CFG)  # noqa: B010 (as the trainer does)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(".dfl" not in parameter_name)

    def step() -> float:
        start = time.perf_counter()
        loss, _ = model(batch)
        loss.sum().backward()
        seconds = time.perf_counter() - start
        model.zero_grad()
        return seconds

    return step


def main() -> None:
    """Run the benchmark."""
    options = {"scales": "p,n", "imgsz": "192", "batch": "16", "rounds": "7", "out": "bench_train.json"}
    options |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    imgsz, size, rounds = int(options["imgsz"]), int(options["batch"]), int(options["rounds"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    batch = {
        "img": torch.rand(size, 3, imgsz, imgsz),
        "batch_idx": torch.arange(size).repeat_interleave(3).float(),
        "cls": torch.randint(0, 80, (3 * size, 1)).float(),
        "bboxes": torch.rand(3 * size, 4) * 0.4 + 0.3,
    }
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    rows = []
    for scale in options["scales"].split(","):
        steps = {
            (neuron, layout): make_step(f"{neuron}-spikeyolo-{scale}.yaml", batch, layouts[layout])
            for layout in layouts
            for neuron in ("ibra", "relu")
        }
        times = {key: [] for key in steps}
        for i in range(rounds + 1):
            for key, step in steps.items():
                seconds = step()
                if i:  # the first round warms up
                    times[key].append(seconds)
        for layout in layouts:
            ibra, relu = times["ibra", layout], times["relu", layout]
            ratios = [a / b for a, b in zip(ibra, relu, strict=True)]
            rows.append(
                {
                    "scale": scale,
                    "layout": layout,
                    "ibra_step_s": statistics.median(ibra),
                    "relu_step_s": statistics.median(relu),
                    "ratio": statistics.median(ratios),
                    "ratio_spread": [min(ratios), max(ratios)],
                    "ibra_images_per_s": size / statistics.median(ibra),
                }
            )
    print("| scale | layout | ibra step, s | relu step, s | ratio (min to max) | images/s |\n|---|---|---|---|---|---|")
    for r in rows:
        spread = f"{r['ratio']:.2f} ({r['ratio_spread'][0]:.2f} to {r['ratio_spread'][1]:.2f})"
        print(
            f"| {r['scale']} | {r['layout']} | {r['ibra_step_s']:.3f} | {r['relu_step_s']:.3f} | {spread} "
            f"| {r['ibra_images_per_s']:.1f} |"
        )
    versions = {"spikeyolo": spikeyolo.__version__, "ultralytics": ultralytics.__version__, "torch": torch.__version__}
    machine = {"processor": platform.processor() or platform.machine(), "threads": cores}
    Path(options["out"]).write_text(
        json.dumps({"versions": versions, "machine": machine, "options": options, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
