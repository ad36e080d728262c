"""Benchmark: forward and backward of the neuron: ours, the textbook's, SiLU, ReLU and a plain copy.

Interleaved runs, medians; prints a table, writes JSON and, with plot=FILE, draws cost against timesteps and pixels.
    python tools/benchmarks/neuron.py device=cpu shape=4,64,160,160 T=1,2,4,8 dtypes=float32,float16,bfloat16 rounds=9
A tensor holds T times as many images as ``shape`` says. "Copy" reads and writes the same bytes, forward and backward.
A CPU is used as by `yolo train`: all cores, and memory that is kept.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from naive_neuron import NaiveNeuron
from torch import Tensor, nn

from spikeyolo.neurons import IBRALIF
from spikeyolo.processor import keep_memory

PIXELS = (10, 20, 40, 80, 160, 320)


class Copy(torch.autograd.Function):
    """A copy forward, a copy backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """Copy."""
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Copy."""
        return grad.clone()


def contenders(T: int, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what is compared."""
    found = {"ours": IBRALIF(T=T), "naive": NaiveNeuron(T=T), "silu": nn.SiLU(), "relu": nn.ReLU(), "copy": Copy.apply}
    if compiled:
        found |= {f"{name}, compiled": torch.compile(found[name], dynamic=False) for name in ("ours", "silu", "relu")}
    return found


def saved_bytes(neuron: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return the bytes per element that are kept for backward, without what comes out (the convolution keeps that)."""
    saved: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        out = neuron(x)
    saved.pop(out.untyped_storage().data_ptr(), None)
    return sum(saved.values()) / x.numel()


def stopwatch(neuron: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], float]:
    """Return a function that runs forward and backward and says how many seconds they took."""

    def run() -> float:
        x.grad = None
        wait(x)
        start = time.perf_counter()
        neuron(x).backward(grad)
        wait(x)
        return time.perf_counter() - start

    return run


def wait(x: Tensor) -> None:
    """Wait for the GPU, if there is one."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def measure(shape: tuple[int, ...], T: int, dtype: str, device: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """Compare all contenders on one tensor."""
    torch.manual_seed(0)
    torch.compiler.reset()
    x = (2 * torch.randn(T * shape[0], *shape[1:])).to(device, getattr(torch, dtype)).requires_grad_()
    grad = torch.randn_like(x)
    neurons = contenders(T, compiled)
    times = harness.interleave({name: stopwatch(neuron, x, grad) for name, neuron in neurons.items()}, rounds)
    return {
        "shape": list(x.shape),
        "T": T,
        "dtype": dtype,
        "ms": {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()},
        "ours/silu": harness.ratio(times["ours"], times["silu"]),
        "naive/ours": harness.ratio(times["naive"], times["ours"]),
        "ours/copy": harness.ratio(times["ours"], times["copy"]),
        "saved_bytes_per_element": {name: saved_bytes(neurons[name], x) for name in ("ours", "naive", "silu", "relu")},
    }


def draw(file: str, by_time: list[dict[str, Any]], by_pixels: list[dict[str, Any]]) -> None:
    """Draw cost against timesteps and against pixels."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name in ("naive", "ours", "silu", "relu", "copy"):
        left.plot([r["T"] for r in by_time], [r["ms"][name] for r in by_time], "o-", label=name)
        per_element = [1e6 * r["ms"][name] / math.prod(r["shape"]) for r in by_pixels]
        right.plot([r["shape"][-1] for r in by_pixels], per_element, "o-", label=name)
    left.set(xlabel="timesteps T", ylabel="ms, forward and backward", xscale="log", yscale="log")
    left.set_xticks([r["T"] for r in by_time], [str(r["T"]) for r in by_time])
    left.set_title(f"T x {tuple(by_time[0]['shape'])}, {by_time[0]['dtype']}", fontsize=10)
    right.set(
        xlabel="height and width, pixels", ylabel="ns per element, forward and backward", xscale="log", yscale="log"
    )
    right.set_xticks(PIXELS, [str(p) for p in PIXELS])
    shape = by_pixels[0]["shape"]
    right.set_title(f"({shape[0]}, {shape[1]}, pixels, pixels), T = 1, {by_pixels[0]['dtype']}", fontsize=10)
    for axes in (left, right):
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the benchmark."""
    options = harness.options(
        device="cpu",
        shape="4,64,160,160",
        T="1,2,4,8",
        dtypes="float32,float16,bfloat16",
        rounds="9",
        compile="False",
        out="neuron.json",
        plot="",
    )
    device, rounds, compiled = options["device"], int(options["rounds"]), options["compile"].lower() == "true"
    shape = tuple(map(int, options["shape"].split(",")))
    torch.set_num_threads(harness.CORES)
    keep_memory()
    dtypes, steps = options["dtypes"].split(","), [int(T) for T in options["T"].split(",")]
    rows = [measure(shape, T, dtype, device, rounds, compiled) for dtype in dtypes for T in steps]
    names = list(rows[0]["ms"])
    header = ["dtype", "T", *(f"{name}, ms" for name in names), "ours / silu", "naive / ours", "ours / copy"]
    header.append("bytes kept per element: ours, naive, silu")
    lines = []
    for r in rows:
        kept = ", ".join(f"{r['saved_bytes_per_element'][name]:.3g}" for name in ("ours", "naive", "silu"))
        ratios = [harness.show_ratio(r[key]) for key in ("ours/silu", "naive/ours", "ours/copy")]
        lines.append([r["dtype"], r["T"], *(f"{r['ms'][name]:.1f}" for name in names), *ratios, kept])
    print(harness.table(header, lines))
    if options["plot"]:
        by_pixels = [measure((shape[0], shape[1], p, p), 1, dtypes[0], device, rounds, False) for p in PIXELS]
        draw(options["plot"], rows[: len(steps)], by_pixels)
        rows += by_pixels
        print(f"\n{Path(options['plot'])}: cost against timesteps and pixels")
    harness.write(options["out"], rows, options, device=device)


if __name__ == "__main__":
    main()
