"""What recording spikes costs: a forward pass of the deploy form with and without it, interleaved.

python tools/benchmarks/spikes.py [scales=p,n] [imgsz=160,320,640] [batch=1,4] [rounds=9]

Weights are random with BatchNorms that fit the image, so that codes use their range. Prints a table and writes
spikes.json.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc

import harness
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.utils import ASSETS

from spikeyolo.data.images import Images
from spikeyolo.deployment import deploy
from spikeyolo.measure.recorder import record_spikes


def fitted(scale: str, images: torch.Tensor) -> torch.nn.Module:
    """Return a network in deploy form whose potentials are of usual size."""
    model = YOLO(f"ibra-spikeyolo-{scale}.yaml")
    network: torch.nn.Module = model.model  # pyright: ignore[reportAssignmentType]
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None
    with torch.no_grad():
        network.train()(images)
    network.eval()
    return deploy(model)


def main() -> None:
    """Run the benchmark."""
    options = harness.options(scales="p,n", imgsz="160,320,640", batch="1,4", rounds="9", out="spikes.json")
    rows = []
    print("| scale | image | batch | forward, ms | recording, ms | ratio (min to max) | kept, kB |")
    print("|---" * 7 + "|")
    for scale in options["scales"].split(","):
        for size in map(int, options["imgsz"].split(",")):
            image = next(Images.of_source(ASSETS, 1).batches(1, size, size))
            network = fitted(scale, torch.from_numpy(image))
            for batch in map(int, options["batch"].split(",")):
                x = torch.from_numpy(np.repeat(image, batch, 0))
                rows.append(
                    {"scale": scale, "imgsz": size, "batch": batch} | measure(network, x, int(options["rounds"]))
                )
                r = rows[-1]
                spread = harness.show_ratio(r["ratio"])
                times = f"{r['forward_ms']:.0f} | {r['recording_ms']:.0f}"
                print(f"| {scale} | {size} | {batch} | {times} | {spread} | {r['kept_kb']:.0f} |", flush=True)
    harness.write(options["out"], rows, options, "ultralytics")


def measure(network: torch.nn.Module, x: torch.Tensor, rounds: int) -> dict:
    """Return medians of interleaved runs, the first left out, and what a recording keeps in Python and NumPy."""
    plain, recording = [], []
    with torch.no_grad():
        for _ in range(rounds + 1):
            start = time.perf_counter()
            network(x)
            plain.append(time.perf_counter() - start)
            start = time.perf_counter()
            with record_spikes(network):
                network(x)
            recording.append(time.perf_counter() - start)
        tracemalloc.start()
        with record_spikes(network) as spikes:
            network(x)
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert spikes.images == len(x)
    return {
        "forward_ms": 1e3 * statistics.median(plain[1:]),
        "recording_ms": 1e3 * statistics.median(recording[1:]),
        "ratio": harness.ratio(recording[1:], plain[1:]),
        "kept_kb": kept / 1e3,
    }


if __name__ == "__main__":
    main()
