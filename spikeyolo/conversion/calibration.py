"""Ranges of neurons from data: what potentials a network has on images, and the D, N and rest code that fit them."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeyolo.neurons import IBRALIF, neurons_of

BITS = 8
PAPER_D = 5.11  # one range for all neurons
SAMPLES = 4096  # potentials kept of each image and neuron
CANDIDATES = np.geomspace(1, 1 / 64, 49)  # shares of the largest potential that are tried for the least squared error


@dataclass(frozen=True)
class Potentials:
    """What one neuron reads.

    Args:
        low: Smallest potential, 0 if none is below.
        high: Largest potential, 0 if none is above.
        sample: Some of them, drawn at random, (n,).
    """

    low: float
    high: float
    sample: NDArray[np.float32]


def observe(
    layers: nn.Module, run: Callable[[Tensor], object], images: Iterable[Tensor], ann: Callable[[Tensor], Tensor]
) -> dict[str, Potentials]:
    """Run an ANN on images whose neurons stand ready; they pass on what the ANN has in their place.

    Args:
        layers: Layers with neurons.
        run: Runs the network on a batch.
        images: Batches (B, 3, H, W) in [0, 1].
        ann: What the ANN has in place of a neuron: its activation, or the identity.

    Returns:
        What each neuron would read, by its name within the layers.

    Raises:
        ValueError: If a potential is not a number.
    """
    generator = torch.Generator().manual_seed(0)
    samples: dict[str, list[Tensor]] = {}
    ends: dict[str, tuple[float, float]] = {}

    def look(name: str):
        def hook(neuron: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            potential = ann(inputs[0])
            low, high = (float(edge) for edge in torch.aminmax(potential))
            if not math.isfinite(high - low):
                raise ValueError(f"the neuron {name} reads {low:g} to {high:g}: this network computes no numbers")
            before = ends.get(name, (0.0, 0.0))
            ends[name] = min(before[0], low), max(before[1], high)
            chosen = torch.randint(potential.numel(), (SAMPLES * len(potential),), generator=generator)
            samples.setdefault(name, []).append(potential.flatten()[chosen.to(potential.device)].float().cpu())
            return potential

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, neuron in neurons_of(layers).items():
            hooks.enter_context(neuron.register_forward_hook(look(name)))
        for batch in images:
            run(batch)
    return {name: Potentials(*ends[name], torch.cat(samples[name]).numpy()) for name in samples}


def choose_range(
    potentials: Potentials, bits: int, *, percentile: float = 0.0, shift: bool = False
) -> tuple[float, float, int]:
    """Choose the range of a neuron.

    Args:
        potentials: What it reads.
        bits: Its codes are 0 to 2^bits - 1.
        percentile: Share of potentials, in percent, that the range holds, on both sides of 0; 100 clips none. 0 for the
            range of the least mean squared error.
        shift: Whether N must be a power of two, so that scaling is a shift; the next one below, which clips less.

    Returns:
        D, N and rest of the neuron.
    """
    x = potentials.sample
    if percentile:
        low, high = potentials.low, potentials.high
        if percentile < 100:
            low, high = (float(edge) for edge in np.percentile(x, [100 - percentile, percentile]))
        return fit(min(low, 0.0), max(high, 0.0), bits, shift=shift)
    candidates = dict.fromkeys(fit(potentials.low * s, potentials.high * s, bits, shift=shift) for s in CANDIDATES)
    return min(candidates, key=lambda numbers: _error(x, bits, numbers))


def fit(low: float, high: float, bits: int, *, shift: bool = False) -> tuple[float, float, int]:
    """Return D, N and rest of the neuron with the finest steps whose range holds low <= 0 <= high.

    The code of potential 0 is 0 where no potential is below; else a power of two, so that rest costs one spike.
    """
    codes = 2**bits - 1
    rests = [1 << i for i in range(bits) if 1 << i < codes] if low < 0 else []
    candidates = []
    for rest in rests or [0]:
        N = min((codes - rest) / high if high > 0 else math.inf, rest / -low if rest else math.inf)
        if not math.isfinite(N):  # there is nothing to tell apart
            N = float(codes)
        candidates.append((2.0 ** math.floor(math.log2(N)) if shift else N, -rest))
    N, rest = max(candidates)
    return codes / N, N, -rest


def _error(x: NDArray[np.float32], bits: int, numbers: tuple[float, float, int]) -> float:
    """Return the mean squared error of the spike values of potentials."""
    _, N, rest = numbers
    codes = np.clip(np.rint(x * np.float32(N)) + rest, 0, 2**bits - 1)
    return float(np.square((codes - rest) / N - x, dtype=np.float64).mean())


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How the ranges of neurons are chosen.

    Args:
        bits: Codes are 0 to 2^bits - 1; 0 for the usual number, or for what D and N make.
        D: Largest spike value of all neurons; 0 to calibrate.
        N: Range-alignment factor of all neurons; 0 for the one that D and bits make.
        percentile: Share of potentials, in percent, that a range does not clip; 0 for ranges of the least mean squared
            error.
        per_layer: Whether each neuron has a range of its own; if not, all have D = 5.11, as in the paper.
        power_of_two: Whether the N of ranges per layer must be powers of two, so that a graph's scales are.

    Raises:
        ValueError: For impossible or contradicting numbers.
    """

    bits: int = 0
    D: float = 0.0
    N: float = 0.0
    percentile: float = 0.0
    per_layer: bool = True
    power_of_two: bool = True

    def __post_init__(self):
        if not (0 <= self.bits <= 16) or self.bits != int(self.bits):
            raise ValueError(f"bits must be a whole number from 1 to 16, got bits={self.bits}")
        if self.percentile and not 50 < self.percentile <= 100:
            raise ValueError(
                f"percentile must be above 50 and at most 100 (0: least squared error), got {self.percentile:g}"
            )
        if self.D and self.N:
            if self.bits:
                raise ValueError(f"D and N make the number of bits; leave bits={self.bits} away")
            IBRALIF(self.D, self.N)  # which checks them
        if min(self.D, self.N) < 0 or (self.N and not self.D):
            raise ValueError(f"N needs D, and both are positive, got D={self.D:g}, N={self.N:g}; try D=5.11 N=100")
        if self.one and self.percentile:
            raise ValueError("percentile chooses ranges per layer; leave D, N and per_layer=False away")

    @property
    def one(self) -> bool:
        """Whether all neurons share one range."""
        return bool(self.D) or not self.per_layer

    @property
    def planes(self) -> int:
        """Number of binary planes."""
        return round(self.D * self.N).bit_length() if self.N else self.bits or BITS

    def choose(self, potentials: Mapping[str, Potentials]) -> dict[str, list[float]]:
        """Return [D, N, rest] of each neuron, by name."""
        return {name: list(self._range(read)) for name, read in potentials.items()}

    def _range(self, read: Potentials) -> tuple[float, float, int]:
        if self.N:
            return self.D, self.N, 0
        if self.one:
            return fit(read.low, self.D or PAPER_D, self.planes)
        return choose_range(read, self.planes, percentile=self.percentile, shift=self.power_of_two)

    def __str__(self) -> str:
        bits = f"{self.planes} bit{'s' * (self.planes > 1)}"
        if self.one:
            return f"{bits}, one range: D = {self.D or PAPER_D:g}" + f", N = {self.N:g}" * bool(self.N)
        how = f"{self.percentile:g}th percentile" if self.percentile else "least squared error"
        return f"{bits}, a range per layer: {how}{', N a power of two' * self.power_of_two}"
