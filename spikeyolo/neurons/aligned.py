"""The integer neuron that finds its own range. Needs torch alone."""

import torch
from torch import Tensor, nn

from spikeyolo.neurons.equations import DECAY, Dynamics, fire, simulate
from spikeyolo.neurons.integer import IBRALIF, check_time
from spikeyolo.neurons.ranges import LearnedRange, TrackedRange, strided_sample

RANGES = {"tracked": TrackedRange, "learned": LearnedRange}


class PoTLIF(IBRALIF):
    """IBRA-LIF whose range is aligned to what it reads: N is a power of two that training finds, D = D_N / N.

    All equations are those of `IBRALIF`; only where N and D come from is another matter.

    Args:
        planes: Binary planes of a code, 1 to 16; the largest code is 2^planes - 1.
        range: "tracked" or "learned", see `spikeyolo.neurons.ranges`.
        T: Timesteps.
        decay: Membrane decay between timesteps, 0 to 1.

    Raises:
        ValueError: For numbers that make no neuron.

    >>> import torch
    >>> neuron = PoTLIF(planes=3)
    >>> _ = neuron.train()(torch.linspace(0, 1.5, 1001))
    >>> neuron.N, neuron.D  # 0 to 2, the next power of two, in 2^3 codes
    (4.0, 1.75)
    """

    def __init__(self, planes: int = 5, *, range: str = "tracked", T: int = 1, decay: float = DECAY):
        nn.Module.__init__(self)
        check_time(T, decay)
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
            dynamics = self.dynamics(x)  # as it emitted, before the range moves on
            potentials = self._potentials(x, dynamics)
            if self.range.tracking:
                self.range.observe(potentials)
            spikes = self.range.pull(spikes, x, potentials, dynamics)
        return spikes

    def fits(self, dtype: torch.dtype) -> bool:
        """Return whether spike values of this floating-point type still tell all codes apart, in any range."""
        return self.D_N * torch.finfo(dtype).eps < 1

    def _potentials(self, x: Tensor, dynamics: Dynamics) -> Tensor:
        """Return membrane potentials at evenly spaced places, (T, n)."""
        potentials: list[Tensor] = []

        def emit(v: Tensor) -> Tensor:
            potentials.append(v)
            return fire(v, dynamics).div_(dynamics.N)

        simulate(strided_sample(x, self.T), emit, dynamics)
        return torch.cat(potentials)

    def dynamics(self, x: Tensor) -> Dynamics:
        """Return the numbers of the equations; on a GPU and for compilers N stays in its tensor."""
        N = self.range.N_tensor() if x.is_cuda or torch.compiler.is_compiling() else self.N
        return Dynamics(N, self.D_N, self.T, self.decay)

    def _coarsen(self, dropped: int) -> None:
        self.range.planes -= dropped

    def extra_repr(self) -> str:
        """Return the numbers that are not the range's."""
        return f"planes={self.planes}, T={self.T}, decay={self.decay:g}"
