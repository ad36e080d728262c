"""The integer leaky integrate-and-fire neuron: module, named configurations.

LIF, I-LIF, IB-LIF and IBRA-LIF are one neuron with other numbers (Integer Binary-Range Alignment Neuron,
arXiv 2506.05679): a code ``k`` in {0, ..., D_N} is emitted where the potential is rounded to steps of ``1 / N``.
AR-LIF is the same neuron with its range in a buffer (:mod:`spikeyolo.ranges`).
This module and those that it imports need torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from spikeyolo.equations import DECAY, MAX_D_N, StraightThrough, check_batch, fire, simulate
from spikeyolo.kernels import straight_through
from spikeyolo.ranges import LearnedRange, TrackedRange, check_planes, strided_sample


class IBRALIF(nn.Module):
    """Integer leaky integrate-and-fire neuron with binary-range alignment.

    It keeps no tensor between two forwards: timesteps are folded into the batch, time-major.

    Args:
        D: Largest spike value.
        N: Range-alignment factor: codes per unit of potential. ``D * N`` is the largest code and must be whole.
        T: Timesteps.
        decay: Membrane decay between timesteps, 0 to 1.
        rest: Code of potential 0, for potentials on both sides of it: k = clip(round(N * v) + rest, 0, D_N), spike
            value (k - rest) / N. D is then the width of the range. 0 is the neuron of the paper.

    Shape:
        Input and output (T*B, ...). Outputs are spike values ``k / N`` in the dtype of the input, but float32 under
        autocast where that dtype could not tell the codes apart: float16 holds 1024 codes, bfloat16 128.

    Raises:
        ValueError: For numbers that make no neuron.

    References:
        arXiv 2506.05679, Eq. 9-16.
    """

    rest = 0  # of checkpoints that were written before it existed

    def __init__(self, D: float = 5.11, N: float = 100, *, T: int = 1, decay: float = DECAY, rest: int = 0):
        super().__init__()
        _check_numbers(D=D, N=N, T=T, decay=decay, rest=rest)
        if D <= 0 or N <= 0:
            raise ValueError(f"D and N must be positive, got D={D:g}, N={N:g}; try D=5.11, N=100")
        D_N = round(D * N)
        if D_N < 1 or not math.isclose(D * N, D_N, rel_tol=1e-9):
            whole = max(D_N, 1)
            raise ValueError(f"D * N must be whole and >= 1, got {D:g} * {N:g} = {D * N:g}; try D={whole / N:g}")
        if D_N > MAX_D_N:
            raise ValueError(f"D * N must be at most {MAX_D_N} (float32 rounds no larger code exactly), got {D_N}")
        _check_time(T, decay)
        if int(rest) != rest or not 0 <= rest < D_N:
            raise ValueError(f"rest must be a whole code from 0 to D * N - 1 = {D_N - 1}, got {rest:g}; try rest=0")
        if rest and T > 1:
            raise ValueError(f"a neuron with rest={rest} has one timestep, got T={T:g}; use T=1")
        self.D, self.N, self.T, self.decay, self.rest = float(D), float(N), int(T), float(decay), int(rest)

    @property
    def D_N(self) -> int:
        """Largest code."""
        return round(self.D * self.N)

    @property
    def planes(self) -> int:
        """Number of binary planes that hold a code."""
        return self.D_N.bit_length()

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether spike values of this floating-point type still tell all codes apart."""
        numbers = torch.finfo(dtype)
        return self.D_N * numbers.eps < 1 and numbers.max >= self.D and self.N * numbers.tiny <= 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the spike values of input currents ``x``, shape (T*B, ...)."""
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type) and not self.fits(dtype):
            dtype = torch.float32
        if x.requires_grad and torch.is_grad_enabled():
            check_batch(x, self.T)
            through = StraightThrough.apply if torch.compiler.is_compiling() else straight_through
            if not self.rest:
                return through(x, self._scale(x), self.D_N, self.T, self.decay, dtype)
            spikes = through(self._raised(x), self.N, self.D_N, self.T, self.decay, torch.float32)
            return (spikes - self.rest / self.N).to(dtype)
        # no gradient wanted: plain operations, which the ONNX and TorchScript exporters can trace
        x = self._raised(x) if self.rest else x
        N = self._scale(x)
        spikes = simulate(x, lambda v: fire(v, N, self.D_N).div_(N), T=self.T, decay=self.decay)
        return (spikes - self.rest / self.N if self.rest else spikes).to(dtype)

    def _scale(self, x: Tensor) -> float | Tensor:
        """Return N for potentials ``x``."""
        return self.N

    def keep_planes(self, planes: int) -> None:
        """Drop low planes, so that codes have at most ``planes``; they are then those of a neuron with coarser steps.

        k = clip(round(N / 2^d * v), 0, floor(D_N / 2^d)) with d planes dropped: potentials are rounded once, to the
        nearest code left, where cutting bits off the codes would round down.

        Raises:
            ValueError: If ``planes`` is no number from 1 to 16, or leaves no code for potentials below zero.
        """
        check_planes(planes)
        if (dropped := self.planes - planes) > 0:
            self._coarsen(dropped)

    def _coarsen(self, dropped: int) -> None:
        D_N, N = self.D_N >> dropped, self.N / 2**dropped
        rest = max(1, self.rest >> dropped) if self.rest else 0
        if rest >= D_N:
            raise ValueError("a neuron that reads potentials on both sides of zero needs planes=2 or more")
        self.D, self.N, self.rest = D_N / N, N, rest

    def _raised(self, x: Tensor) -> Tensor:
        """Return currents that hold the potential at code ``rest`` where there is no input: it is not emitted."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x + self.rest / self.N

    def extra_repr(self) -> str:
        """Return the numbers of the neuron."""
        rest = f", rest={self.rest}" if self.rest else ""
        return f"D={self.D:g}, N={self.N:g}, T={self.T}, decay={self.decay:g}, planes={self.planes}{rest}"


def _check_numbers(**numbers: object) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} must be a number, got {value!r}")


def _check_time(T: float, decay: float) -> None:
    if int(T) != T or T < 1:
        raise ValueError(f"T must be a whole number of timesteps >= 1, got {T:g}; try T=1")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay:g}; try decay={DECAY}")


RANGES = {"tracked": TrackedRange, "learned": LearnedRange}


class ARLIF(IBRALIF):
    """IBRA-LIF whose range is aligned to what it reads: N is a power of two that training finds, D = D_N / N.

    All equations are those of `IBRALIF`; only where N and D come from is another matter.

    Args:
        planes: Binary planes of a code, 1 to 16; the largest code is 2^planes - 1.
        range: "tracked" or "learned", see `spikeyolo.ranges`.
        T: Timesteps.
        decay: Membrane decay between timesteps, 0 to 1.

    Raises:
        ValueError: For numbers that make no neuron.
    """

    def __init__(self, planes: int = 5, *, range: str = "tracked", T: int = 1, decay: float = DECAY):
        nn.Module.__init__(self)
        _check_numbers(T=T, decay=decay)
        _check_time(T, decay)
        if range not in RANGES:
            raise ValueError(f"range must be {' or '.join(RANGES)}, got {range!r}")
        self.range = RANGES[range](planes)
        self.T, self.decay = int(T), float(decay)

    @property
    def N(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Codes per unit of potential, a power of two."""
        return self.range.N

    @property
    def D(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Largest spike value."""
        return self.D_N / self.N

    @property
    def D_N(self) -> int:
        """Largest code."""
        return 2**self.range.planes - 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the spike values of input currents ``x``, shape (T*B, ...); in training then align the range."""
        spikes = super().forward(x)
        if self.training and (self.range.tracking or self.range.learned):
            N = self._scale(x)
            potentials = self._potentials(x, N)
            if self.range.tracking:
                self.range.observe(potentials)
            spikes = self.range.pull(spikes, x, potentials, N)
        return spikes

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether spike values of this floating-point type still tell all codes apart, in any range."""
        return self.D_N * torch.finfo(dtype).eps < 1

    def _potentials(self, x: Tensor, N: float | Tensor) -> Tensor:
        """Return membrane potentials at evenly spaced places, (T, n)."""
        found: list[Tensor] = []

        def emit(v: Tensor) -> Tensor:
            found.append(v)
            return fire(v, N, self.D_N).div_(N)

        simulate(strided_sample(x, self.T), emit, T=self.T, decay=self.decay)
        return torch.cat(found)

    def _scale(self, x: Tensor) -> float | Tensor:
        return self.range.N_tensor() if x.is_cuda or torch.compiler.is_compiling() else self.N

    def _coarsen(self, dropped: int) -> None:
        self.range.planes -= dropped

    def extra_repr(self) -> str:
        """Return the numbers that are not the range's."""
        return f"planes={self.planes}, T={self.T}, decay={self.decay:g}"


SPIKING = {  # the numbers behind the names of the field
    "lif": {"D": 1, "N": 1},
    "i-lif": {"D": 4, "N": 1},
    "ib-lif": {"D": 511, "N": 1},
    "ibra-lif": {"D": 5.11, "N": 100},
    "ar-lif": {"planes": 5, "range": "tracked"},
}


class ReLU(nn.Module):
    """max(x, 0) of the ANN twin, never in place: a residual branch must not change the potentials that it is added to.

    Ultralytics makes every activation of a loaded checkpoint in place that has an attribute for it, so this has none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0), shape of ``x``."""
        return torch.relu(x)


class SiLU(nn.Module):
    """x * sigmoid(x) of the ANN twin, never in place, see `ReLU`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(x), shape of ``x``."""
        return nn.functional.silu(x)


TWINS = {"relu": ReLU, "silu": SiLU}  # activations of the ANN twin


@dataclass(frozen=True, kw_only=True)
class NeuronConfig:
    """The ``neuron:`` mapping of a model YAML; calling it makes one neuron.

    Args:
        type: "lif", "i-lif", "ib-lif", "ibra-lif", "ar-lif", or "relu" and "silu" for the ANN twin.
        D: Largest spike value (spiking types but ar-lif).
        N: Range-alignment factor (spiking types but ar-lif).
        planes: Binary planes of a code (ar-lif; 5 by default).
        range: "tracked" (the default) or "learned" (ar-lif).
        T: Timesteps.
        decay: Membrane decay.
        activation: "silu" for potentials that a neuron reads through this function (a converted silu twin).
        ranges: [D, N, rest] of each neuron by its name within the layers (a converted network), in place of D and N.

    Raises:
        ValueError: For an unknown type or key, missing or contradicting numbers.
    """

    type: str
    D: float | None = None
    N: float | None = None
    planes: int | None = None
    range: str | None = None
    T: int = 1
    decay: float = DECAY
    activation: str | None = None
    ranges: Mapping[str, Sequence[float]] | None = field(default=None, repr=False)

    @classmethod
    def preset(cls, name: str) -> NeuronConfig:
        """Return the named configuration with its usual numbers."""
        return cls(type=name, **SPIKING.get(name, {}))

    @classmethod
    def from_mapping(cls, mapping: object) -> NeuronConfig:
        """Read the ``neuron:`` entry of a model YAML."""
        if not isinstance(mapping, Mapping) or "type" not in mapping:
            raise ValueError(f"neuron: must be a mapping such as {_example('ibra-lif')}, got {mapping!r}")
        known = [f.name for f in fields(cls)]
        if unknown := [str(key) for key in mapping if key not in known]:
            raise ValueError(f"neuron: has no key {', '.join(unknown)}; keys are {', '.join(known)}")
        return cls(**mapping)

    def __post_init__(self):
        if self.type not in (*SPIKING, *TWINS):
            raise ValueError(f"unknown neuron type {self.type!r}; types are {', '.join((*SPIKING, *TWINS))}")
        if self.activation not in (None, "silu"):
            raise ValueError(f"activation must be silu or left away, got {self.activation!r}")
        if self.type in TWINS:
            numbers = (self.D, self.N, self.planes, self.range, self.T, self.activation, self.ranges)
            if numbers != (None, None, None, None, 1, None, None):
                raise ValueError(f"neuron type {self.type} takes no D or N and T = 1, got {self}; drop the numbers")
            return
        if self.type == "ar-lif":
            if (self.D, self.N, self.activation, self.ranges) != (None, None, None, None):
                raise ValueError(f"ar-lif finds its range itself, so it takes no D or N; write {_example('ar-lif')}")
            self()  # the neuron checks its own numbers
            return
        if (self.planes, self.range) != (None, None):
            raise ValueError(f"only ar-lif takes planes and range, {self.type} takes D and N, got {self}")
        if self.ranges is not None:
            if (self.type, self.D, self.N, self.T) != ("ibra-lif", None, None, 1) or not self.ranges:
                raise ValueError(f"neurons with ranges: have type ibra-lif, T = 1 and no D or N, got {self}")
            for name, numbers in self.ranges.items():
                if len(numbers) != 3:
                    raise ValueError(f"the range of {name} must be [D, N, rest], got {numbers}")
            return
        if missing := [name for name in ("D", "N") if getattr(self, name) is None]:
            raise ValueError(
                f"neuron: {{type: {self.type}}} lacks {' and '.join(missing)}; write {_example(self.type)}"
            )
        if self.type == "lif" and (self.D, self.N) != (1, 1):
            raise ValueError(f"a lif neuron has D = 1 and N = 1, got D={self.D}, N={self.N}; i-lif takes any whole D")
        if self.type in {"i-lif", "ib-lif"} and self.N != 1:
            raise ValueError(f"{self.type} has N = 1, got N={self.N}; ibra-lif takes any N")
        self()  # the neuron checks its own numbers

    def to_mapping(self) -> dict[str, Any]:
        """Return the ``neuron:`` entry of a model YAML."""
        if not self.spiking:
            return {"type": self.type}
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        numbers = ["a range per layer"] if self.ranges is not None else []
        numbers += [f"{key} {value}" for key in ("planes", "range") if (value := getattr(self, key)) is not None]
        numbers += [f"{key} {value:g}" for key in ("D", "N") if (value := getattr(self, key)) is not None]
        if self.spiking:
            numbers += [f"T {self.T}", f"decay {self.decay:g}"]
        return f"{self.type} ({', '.join(numbers)})" if numbers else self.type

    @property
    def spiking(self) -> bool:
        """Whether this is a neuron and not the activation of an ANN twin."""
        return self.type in SPIKING

    def __call__(self) -> nn.Module:
        """Make one neuron (or one activation of the twin)."""
        if self.type in TWINS:
            return TWINS[self.type]()
        if self.type == "ar-lif":
            given = {key: value for key in SPIKING["ar-lif"] if (value := getattr(self, key)) is not None}
            return ARLIF(**given, T=self.T, decay=self.decay)
        numbers = {"D": self.D, "N": self.N} if self.ranges is None else SPIKING[self.type]  # until `set_ranges`
        neuron = IBRALIF(**numbers, T=self.T, decay=self.decay)  # pyright: ignore[reportArgumentType] (checked)
        return nn.Sequential(SiLU(), neuron) if self.activation else neuron

    def set_ranges(self, layers: nn.Module) -> None:
        """Give each neuron within layers its own range, if there are any.

        Raises:
            ValueError: If a range is missing, left over or impossible.
        """
        if self.ranges is None:
            return
        neurons = {name: module for name, module in layers.named_modules() if isinstance(module, IBRALIF)}
        if missing := sorted(neurons.keys() ^ self.ranges.keys()):
            what = "has no range" if missing[0] in neurons else "is no neuron of this network"
            raise ValueError(f"{missing[0]} {what}: the ranges are those of a network of another size")
        for name, neuron in neurons.items():
            D, N, rest = self.ranges[name]
            try:
                neuron.__init__(D, N, T=self.T, decay=self.decay, rest=int(rest))
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e


def neuron_in(module: nn.Module | None) -> IBRALIF | None:
    """Return the neuron that a module is or ends in (behind an activation), if it does."""
    if isinstance(module, nn.Sequential) and len(module):
        return neuron_in(module[-1])
    return module if isinstance(module, IBRALIF) else None


def _example(name: str) -> str:
    numbers = ", ".join(f"{key}: {value}" for key, value in SPIKING[name].items())
    return f"neuron: {{type: {name}, {numbers}, T: 1, decay: {DECAY}}}"
