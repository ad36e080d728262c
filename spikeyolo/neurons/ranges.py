"""The range of an aligned neuron, found from its potentials in training; N is a power of two. Needs torch alone.

A range follows what the neuron reads as the statistics of a BatchNorm do: what a forward finds counts from the next one
on, evaluation changes nothing, and under DDP the first rank's buffers are broadcast, so that all ranks emit alike.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from spikeyolo.neurons.equations import Dynamics, fire
from spikeyolo.neurons.kernels import layout_of

MAX_PLANES = 16
PERCENTILE = 99.9  # of the potentials; what is above is clipped
MOMENTUM = 0.05  # share of the newest potentials in the running percentile
SAMPLES = 4096  # potentials that a forward looks at, per timestep
START = 3.0  # that of a neuron that has read nothing yet: BatchNorm gives potentials a spread of 1
SMALLEST, LARGEST = 2.0**-4, 2.0**14  # so that float16 holds the spike values of 10 planes and less
TRACKED_PART = 0.75  # of a training; behind it ranges are frozen


def check_planes(planes: object) -> None:
    """Raise ValueError if this is no number of planes."""
    if isinstance(planes, bool) or not isinstance(planes, int) or not 1 <= planes <= MAX_PLANES:
        raise ValueError(f"planes must be a whole number from 1 to {MAX_PLANES}, got planes={planes!r}; try planes=5")


class TrackedRange(nn.Module):
    """A running high percentile of potentials, rounded up to the next power of two 2^e; N = 2^(planes - e).

    Its tensors stay in float32 whatever a model is converted to: half precision could round to the next power of two.

    Args:
        planes: Binary planes of a code, 1 to 16; the largest code is 2^planes - 1.

    Attributes:
        reach: The running percentile, (); 0 until there is one.
        tracking: Whether training changes it.
        layer: Name of the layer, for messages.
    """

    reach: Tensor
    learned = False

    def __init__(self, planes: int):
        super().__init__()
        check_planes(planes)
        self.planes, self.tracking, self.layer = planes, True, ""
        self.register_buffer("reach", torch.zeros(()))

    @property
    def tracked(self) -> bool:
        """Whether there is a range: potentials have been read in training."""
        return float(self.reach) != 0

    @property
    def width(self) -> Tensor:
        """What is rounded up to a power of two, (); float32."""
        return torch.where(self.reach == 0, START, self.reach)

    @property
    def N(self) -> float:
        """Codes per unit of potential.

        Raises:
            ValueError: If potentials were no numbers.
        """
        width = float(self.width)
        if not math.isfinite(width):
            raise ValueError(self._no_numbers())
        return 2.0 ** (self.planes - math.frexp(width)[1])

    def N_tensor(self) -> Tensor:
        """Return N where the range is, (), float32, without waiting for a GPU."""
        width = self.width
        return torch.frexp(width).mantissa / width * 2.0**self.planes  # exact: width is mantissa * 2^e

    @torch.no_grad()
    def observe(self, potentials: Tensor) -> None:
        """Move the running percentile towards that of potentials.

        Where none is above 0, it stays as it is (or begins at `START`): such a neuron emits nothing in any range.

        Args:
            potentials: A sample, any shape.

        Raises:
            ValueError: If there are none, or (on a CPU, where looking costs nothing) if they are no numbers.
        """
        if not potentials.numel():
            raise ValueError(f"{self._who()} got an empty feature map, which has no range; use larger images, batches")
        above = max(1, round(potentials.numel() * (1 - PERCENTILE / 100)))
        reach = potentials.float().flatten().topk(above).values[-1]
        if not (potentials.is_cuda or torch.compiler.is_compiling()):
            self._look(potentials, float(reach))
        reach = torch.where(reach > 0, reach.clamp(SMALLEST, LARGEST), reach * 0 + self.width)  # not a number stays so
        self.reach.copy_(torch.where(self.reach == 0, reach, torch.lerp(self.reach, reach, MOMENTUM)))

    def _look(self, potentials: Tensor, reach: float) -> None:
        """Complain of potentials that give no range."""
        if math.isnan(reach):
            raise ValueError(self._no_numbers())
        low, high = (float(edge) for edge in potentials.aminmax())
        if low == high:
            warnings.warn(
                f"{self._who()} reads the same potential {low:g} everywhere, which says little about its range: "
                "are the images empty?",
                stacklevel=2,
            )

    def _who(self) -> str:
        return self.layer or f"a neuron with {self.planes} planes"

    def _no_numbers(self) -> str:
        return (
            f"{self._who()} reads potentials that are no numbers (NaN): the training has diverged; go on from the last "
            "checkpoint with a smaller lr0"
        )

    def pull(self, spikes: Tensor, x: Tensor, potentials: Tensor, dynamics: Dynamics) -> Tensor:
        """Return spike values as they are: the gradient does not reach a tracked range."""
        return spikes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(moved, recurse)  # pyright: ignore[reportUnknownMemberType]

    def extra_repr(self) -> str:
        """Return the range."""
        N = "" if math.isnan(self.width) else f", N={self.N:g}"
        kind = "learned" if self.learned else "tracked"
        return f"{kind}, {float(self.width):.3g}{N}{'' if self.tracked else ' (start)'}"


class LearnedRange(TrackedRange):
    """A range that the gradient scales: 2^gain times the tracked one, then rounded up to a power of two.

    The gradient is that of learned step sizes (LSQ, arXiv 1902.08153, as in QB-LIF, arXiv 2604.25688), of the sampled
    potentials; the rounding to a power of two passes it on.

    Attributes:
        gain: Learned, (); a power of two is 1.
    """

    learned = True

    def __init__(self, planes: int):
        super().__init__(planes)
        self.gain = nn.Parameter(torch.zeros(()))

    @property
    def width(self) -> Tensor:
        """What is rounded up to a power of two, (); float32."""
        return (super().width * torch.exp2(self.gain.detach())).clamp(SMALLEST, LARGEST)

    def pull(self, spikes: Tensor, x: Tensor, potentials: Tensor, dynamics: Dynamics) -> Tensor:
        """Return spike values whose gradient also reaches ``gain``.

        Args:
            spikes: Spike values of all potentials, (T*B, ...).
            x: What the neuron read, whose layout in memory the gradient is to have.
            potentials: Those at `strided_sample`, (T, n).
            dynamics: What they were emitted with.
        """
        return _Scaled.apply(spikes, self.gain, dynamics, potentials, layout_of(x))


class _Scaled(torch.autograd.Function):
    """Spike values as they are; backward also gives the gradient of the range's logarithm, from a sample.

    do / d(log D) = o - v where 0 <= v <= D (the error of rounding), D above, 0 below; scaled by 1 / sqrt(n * D_N).
    """

    @staticmethod
    def forward(ctx: Any, spikes: Tensor, gain: Tensor, dynamics: Dynamics, v: Tensor, layout: torch.memory_format):
        o = fire(v, dynamics) / dynamics.N
        slope = torch.where(v < 0, 0, torch.where(v > dynamics.D, o, o - v))
        ctx.save_for_backward(slope)
        ctx.layout = layout
        ctx.share = math.log(2) * spikes.numel() / max(1, v.numel()) / math.sqrt(max(1, spikes.numel()) * dynamics.D_N)
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        sample = strided_sample(grad.contiguous(memory_format=ctx.layout), slope.shape[0])
        return grad, (sample.float() * slope).sum() * ctx.share, None, None, None


def strided_sample(x: Tensor, T: int) -> Tensor:
    """Return evenly spaced elements of a tensor, the same of every timestep.

    The stride has no factor in common with the sizes, so that it meets every channel, row and column.

    Args:
        x: (T*B, ...), time-major.
        T: Timesteps.

    Returns:
        At most about `SAMPLES` elements of each timestep, (T, n), detached.
    """
    x = x.detach().contiguous(memory_format=layout_of(x))
    n = x.numel() // T
    stride = max(1, n // SAMPLES)
    while _common_divisor(stride, n) > 1:
        stride += 1
    return x.as_strided((T, -(-n // stride)), (n, stride))


def _common_divisor(a: int, b: int) -> int:
    """As `math.gcd`, which compilers cannot trace where sizes are symbols."""
    while b:
        a, b = b, a % b
    return a


def name_ranges(layers: nn.Module) -> None:
    """Tell ranges the names of their layers, as a YOLO network names them, for messages."""
    for name, module in cast(Any, layers).named_modules(prefix="model"):  # which torch gives no type
        if isinstance(module, TrackedRange):
            module.layer = name.removesuffix(".range")


def ranges_of(model: nn.Module) -> list[TrackedRange]:
    """Return the ranges of all aligned neurons of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, TrackedRange)]


def check_tracked(model: nn.Module) -> None:
    """Raise ValueError if a neuron of a model has no range yet."""
    if missing := [own_range for own_range in ranges_of(model) if not own_range.tracked]:
        raise ValueError(
            f"{missing[0].layer or 'a neuron'} has no range yet ({len(missing)} neurons): ranges are found "
            "in training; train the model first"
        )
