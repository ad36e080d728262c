"""What the benchmarks share: options, interleaved runs, the machine, tables, JSON."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spikeyolo.files import whole_file

Key = TypeVar("Key", bound=Hashable)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def options(**defaults: str) -> dict[str, str]:
    """Read key=value arguments; an unknown one ends the program."""
    given = {key: value for key, _, value in (argument.partition("=") for argument in sys.argv[1:])}
    if unknown := given.keys() - defaults.keys():
        known = " ".join(f"{key}={value}" for key, value in defaults.items())
        sys.exit(f"{sys.argv[0]}: no argument {', '.join(sorted(unknown))}; arguments and defaults are {known}")
    return defaults | given


def interleave(runs: Mapping[Key, Callable[[], float]], rounds: int) -> dict[Key, list[float]]:
    """Run all in turn, ``rounds`` times after one round that warms up; return what they measured."""
    measured: dict[Key, list[float]] = {key: [] for key in runs}
    for i in range(rounds + 1):
        for key, run in runs.items():
            number = run()
            if i:
                measured[key].append(number)
    return measured


def steady(run: Callable[[], object]) -> float:
    """Run for half a second, twice at least; return the median seconds of the runs behind the first one.

    Threads that another contender has left spinning still slow down the first one.
    """
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < 0.5:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def ratio(numbers: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of the ratios of numbers measured in turn."""
    ratios = [a / b for a, b in zip(numbers, base, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def show_ratio(ratio: Mapping[str, float]) -> str:
    """Return a ratio with its spread."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe the hardware."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    if models := [x for x in text.splitlines() if x.startswith("model name")]:
        name = models[0].partition(":")[2].strip()
        flags = text.partition("flags")[2].partition("\n")[0].split()
        name += "".join(f", {flag}" for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni") if flag in flags)
    described = {"processor": name, "cores": CORES, "threads": torch.get_num_threads()}
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def write(out: str, rows: Sequence[object], options: Mapping[str, str], *packages: str, device: str = "cpu") -> None:
    """Write rows as JSON, with versions, hardware and options."""
    versions = {name: importlib.import_module(name).__version__ for name in ("spikeyolo", "torch", *packages)}
    result = {"versions": versions, "machine": machine(device), "options": options, "rows": rows}
    with whole_file(Path(out), "choose another out=") as part:
        part.write_text(json.dumps(result, indent=2) + "\n")
