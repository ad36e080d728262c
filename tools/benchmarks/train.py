"""Benchmark: the training step (forward, loss, backward) and its memory: ours, PoT-LIF, textbook neuron, ANN twins.

Interleaved runs, medians; each memory figure is taken in a process of its own. Prints a table, writes JSON. Examples:
    python tools/benchmarks/train.py scales=p,n,s imgsz=320 batch=4 rounds=7
    python tools/benchmarks/train.py scales=s imgsz=640 batch=16 device=cuda amp=True
Further arguments: T=1,4 (timesteps of ours), layout=contiguous_format. A CPU is used as by `yolo train`: channels_last,
all cores, and memory that is kept.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")

import harness
import torch
from naive_neuron import make_naive
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG, YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.blocks import SpikeBlock
from spikeyolo.neurons import NeuronConfig
from spikeyolo.processor import keep_memory

ANNS = ("relu", "silu")
ALIGNED = {"PoT-LIF": "tracked", "PoT-LIF, learned range": "learned"}
CHECKPOINTED = "ours, checkpoint=True"
IMAGES_WITH = 3  # objects per image


def network(name: str, scale: str, T: int, options: dict[str, str]) -> Any:
    """Make a network in training mode."""
    neuron: dict[str, Any] = {"type": name}
    if name not in ANNS:
        aligned = {"type": "pot-lif", "range": ALIGNED[name]} if name in ALIGNED else {}
        neuron = (aligned or NeuronConfig.preset("ibra-lif").to_mapping()) | {"T": T}
    torch.manual_seed(0)
    architecture: Any = YAML.load(str(ARCHITECTURE)) | {"neuron": neuron, "scale": scale}
    model: Any = DetectionModel(architecture, verbose=False)
    if name == "naive":
        make_naive(model)
    for module in model.modules():
        if isinstance(module, SpikeBlock):
            module.checkpoint = name == CHECKPOINTED
    model.args = DEFAULT_CFG  # as the trainer does
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(".dfl" not in parameter_name)
    layout = options["layout"] or ("channels_last" if options["device"] == "cpu" else "contiguous_format")
    return model.train().to(options["device"]).to(memory_format=getattr(torch, layout))


def batch_of(options: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return random images with objects."""
    size, imgsz = int(options["batch"]), int(options["imgsz"])
    torch.manual_seed(0)
    batch = {
        "img": torch.rand(size, 3, imgsz, imgsz),
        "batch_idx": torch.arange(size).repeat_interleave(IMAGES_WITH).float(),
        "cls": torch.randint(0, 80, (IMAGES_WITH * size, 1)).float(),
        "bboxes": torch.rand(IMAGES_WITH * size, 4) * 0.4 + 0.3,
    }
    return {key: value.to(options["device"]) for key, value in batch.items()}


def stepper(model: Any, batch: dict[str, torch.Tensor], options: dict[str, str]) -> Callable[[], float]:
    """Return a function that does one step and says how many seconds it took."""
    cuda = options["device"].startswith("cuda")
    amp = options["amp"].lower() == "true"
    scaler = torch.amp.GradScaler("cuda", enabled=amp and cuda)

    def step() -> float:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast("cuda" if cuda else "cpu", enabled=amp):
            loss = model(batch)[0].sum()
        scaler.scale(loss).backward()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        model.zero_grad()
        return seconds

    return step


def memory(name: str, scale: str, T: int, options: dict[str, str]) -> dict[str, float]:
    """Return, in MB, what one step needs at most beyond the network, and what is kept from forward for backward.

    To be called in a process of its own. The first number is what the system (or CUDA) gave, the second one counts the
    tensors that autograd saves.
    """
    cuda = options["device"].startswith("cuda")
    model, batch = network(name, scale, T, options), batch_of(options)
    step = stepper(model, batch, options)
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers(), *batch.values())}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(batch)[0].sum()
    found = {"kept_mb": sum(size for address, size in kept.items() if address not in own) / 2**20}
    del loss
    if cuda:
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        found["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts (Linux)
        before = _status("VmRSS")
        step()
        found["peak_mb"] = _status("VmHWM") - before
    return found


def _status(key: str) -> float:
    return float(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def memory_apart(name: str, scale: str, T: int, options: dict[str, str]) -> dict[str, float]:
    """Take the memory figures in a process of its own."""
    task = json.dumps([name, scale, T, options])
    done = subprocess.run([sys.executable, __file__, "memory", task], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {name}-{scale} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(scale: str, options: dict[str, str]) -> list[dict[str, Any]]:
    """Compare all networks of a scale."""
    steps = [int(T) for T in options["T"].split(",")]
    contenders = [("ours", T) for T in steps] + [(CHECKPOINTED, T) for T in steps]
    contenders += [*((name, steps[0]) for name in (*ALIGNED, "naive")), *((name, 1) for name in ANNS)]
    batch = batch_of(options)
    runs = {key: stepper(network(key[0], scale, key[1], options), batch, options) for key in contenders}
    times = harness.interleave(runs, int(options["rounds"]))
    ours = times["ours", steps[0]]
    rows = []
    for name, T in contenders:
        seconds = times[name, T]
        rows.append(
            {
                "scale": scale,
                "network": name,
                "T": T,
                "step_s": statistics.median(seconds),
                "images_per_s": int(options["batch"]) / statistics.median(seconds),
                "to_ours": harness.ratio(seconds, ours),
                "ours_to_it": harness.ratio(ours, seconds),
            }
            | memory_apart(name, scale, T, options)
        )
    return rows


def main() -> None:
    """Run the benchmark."""
    options = harness.options(
        scales="p,n,s",
        imgsz="320",
        batch="4",
        T="1,4",
        device="cpu",
        amp="False",
        layout="",
        rounds="5",
        out="train.json",
    )
    torch.set_num_threads(harness.CORES)
    keep_memory()
    rows = [row for scale in options["scales"].split(",") for row in measure(scale, options)]
    header = [
        "scale",
        "network",
        "T",
        "step, s",
        "images/s",
        "its time / ours",
        "ours / its time",
        "kept, MB",
        "peak, MB",
    ]
    lines = [
        [
            r["scale"],
            r["network"],
            r["T"],
            f"{r['step_s']:.3f}",
            f"{r['images_per_s']:.1f}",
            harness.show_ratio(r["to_ours"]),
            harness.show_ratio(r["ours_to_it"]),
            f"{r['kept_mb']:.0f}",
            f"{r['peak_mb']:.0f}",
        ]
        for r in rows
    ]
    print(harness.table(header, lines))
    harness.write(options["out"], rows, options, "ultralytics", device=options["device"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        torch.set_num_threads(harness.CORES)
        keep_memory()
        print(json.dumps(memory(*json.loads(sys.argv[2]))))
    else:
        main()
