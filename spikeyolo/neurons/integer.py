"""The integer leaky integrate-and-fire neuron. Needs torch alone."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from spikeyolo.neurons.equations import DECAY, MAX_D_N, Dynamics, StraightThrough, check_batch, fire, simulate
from spikeyolo.neurons.kernels import straight_through
from spikeyolo.neurons.ranges import check_planes


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

    >>> import torch
    >>> IBRALIF(D=4, N=1)(torch.tensor([-1.0, 0.6, 2.2, 9.0]))
    tensor([0., 1., 2., 4.])
    >>> IBRALIF(D=0.75, N=4)(torch.tensor([0.3, 0.6, 0.9]))  # codes 1, 2, 3 in steps of 1 / N
    tensor([0.2500, 0.5000, 0.7500])
    >>> IBRALIF(D=4, N=1, T=3)(torch.tensor([1.5, 0.5, 0.5]))  # v = 1.5, 0.375, 0.59375
    tensor([2., 0., 1.])

    References:
        arXiv 2506.05679, Eq. 9-16.
    """

    rest = 0  # of checkpoints that were written before it existed

    def __init__(self, D: float = 5.11, N: float = 100, *, T: int = 1, decay: float = DECAY, rest: int = 0):
        super().__init__()
        check_time(T, decay)
        self.T, self.decay = int(T), float(decay)
        self.set_range(D, N, rest)

    def set_range(self, D: float, N: float, rest: int = 0) -> None:
        """Take other numbers for D, N and rest.

        Raises:
            ValueError: For numbers that make no neuron.
        """
        check_numbers(D=D, N=N, rest=rest)
        if D <= 0 or N <= 0:
            raise ValueError(f"D and N must be positive, got D={D:g}, N={N:g}; try D=5.11, N=100")
        D_N = round(D * N)
        if D_N < 1 or not math.isclose(D * N, D_N, rel_tol=1e-9):
            whole = max(D_N, 1)
            raise ValueError(f"D * N must be whole and >= 1, got {D:g} * {N:g} = {D * N:g}; try D={whole / N:g}")
        if D_N > MAX_D_N:
            raise ValueError(f"D * N must be at most {MAX_D_N} (float32 rounds no larger code exactly), got {D_N}")
        if int(rest) != rest or not 0 <= rest < D_N:
            raise ValueError(f"rest must be a whole code from 0 to D * N - 1 = {D_N - 1}, got {rest:g}; try rest=0")
        if rest and self.T > 1:
            raise ValueError(f"a neuron with rest={rest} has one timestep, got T={self.T}; use T=1")
        self.D, self.N, self.rest = float(D), float(N), int(rest)  # pyright: ignore[reportConstantRedefinition]

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
                return through(x, self.dynamics(x), dtype)
            return (through(self._raised(x), self.dynamics(x), torch.float32) - self.rest / self.N).to(dtype)
        # no gradient wanted: plain operations, which the ONNX and TorchScript exporters can trace
        x = self._raised(x) if self.rest else x
        dynamics = self.dynamics(x)
        spikes = simulate(x, lambda v: fire(v, dynamics).div_(dynamics.N), dynamics)
        return (spikes - self.rest / self.N if self.rest else spikes).to(dtype)

    def dynamics(self, x: Tensor) -> Dynamics:
        """Return the numbers of the equations for input currents ``x``."""
        return Dynamics(self.N, self.D_N, self.T, self.decay)

    def keep_planes(self, planes: int) -> None:
        """Drop low planes, so that codes have at most ``planes``; they are then those of a neuron with coarser steps.

        k = clip(round(N / 2^d * v), 0, floor(D_N / 2^d)) with d planes dropped: potentials are rounded once, to the
        nearest code left, where cutting bits off the codes would round down.

        Raises:
            ValueError: If ``planes`` is no number from 1 to 16, or leaves no code for potentials below zero.

        >>> neuron = IBRALIF(D=5.11, N=100)
        >>> neuron.keep_planes(4)  # D_N = 511 >> 5, N = 100 / 2^5
        >>> neuron.D_N, neuron.N
        (15, 3.125)
        """
        check_planes(planes)
        if (dropped := self.planes - planes) > 0:
            self._coarsen(dropped)

    def _coarsen(self, dropped: int) -> None:
        D_N, N = self.D_N >> dropped, self.N / 2**dropped
        rest = max(1, self.rest >> dropped) if self.rest else 0
        if rest >= D_N:
            raise ValueError("a neuron that reads potentials on both sides of zero needs planes=2 or more")
        self.set_range(D_N / N, N, rest)

    def _raised(self, x: Tensor) -> Tensor:
        """Return currents that hold the potential at code ``rest`` where there is no input: it is not emitted."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x + self.rest / self.N

    def extra_repr(self) -> str:
        """Return the numbers of the neuron."""
        rest = f", rest={self.rest}" if self.rest else ""
        return f"D={self.D:g}, N={self.N:g}, T={self.T}, decay={self.decay:g}, planes={self.planes}{rest}"


def check_numbers(**numbers: object) -> None:
    """Raise ValueError if one of these is no finite number."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} must be a number, got {value!r}")


def check_time(T: float, decay: float) -> None:
    """Raise ValueError if these are no timesteps and decay."""
    check_numbers(T=T, decay=decay)
    if int(T) != T or T < 1:
        raise ValueError(f"T must be a whole number of timesteps >= 1, got {T:g}; try T=1")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie between 0 and 1, got {decay:g}; try decay={DECAY}")


def neurons_of(module: nn.Module) -> dict[str, IBRALIF]:
    """Return all neurons within a module by name, in the order of its modules."""
    named = cast(Any, module).named_modules()  # which torch gives no type
    return {name: part for name, part in named if isinstance(part, IBRALIF)}


def neuron_in(module: nn.Module | None) -> IBRALIF | None:
    """Return the neuron that a module is or ends in (behind an activation), if it does."""
    if isinstance(module, nn.Sequential) and len(module):
        return neuron_in(module[-1])
    return module if isinstance(module, IBRALIF) else None
