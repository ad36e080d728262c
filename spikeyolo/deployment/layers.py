"""The layers of a network in deploy form: whole numbers in, fixed-point weights; see `spikeyolo.deployment`."""

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import Detect

from spikeyolo.blocks import RAW_MAPS, SpikeDetect
from spikeyolo.neurons import IBRALIF

FINEST_GRID = 12  # finer ones change no mAP, but the width of the weights


class FixedPointConv(nn.Conv2d):
    """Convolution of whole numbers 0..largest by weights and biases on the grid 2^-grid.

    Args:
        conv: Convolution of spike values (or pixels / 255), float, with zero padding.
        scale: Factor of its weights: unit / N of the neuron before it (unit / 255 for the stem).
        unit: Potentials come out as unit * v.
        largest: Largest operand.
        rest: Operand that means 0; not 0 itself for a neuron that reads potentials on both sides of 0. The bias takes
            it back, and the operand comes with a border of it in place of zero padding.
        grid: Weights and biases are multiples of 2^-grid, until `snap` chooses another grid.
    """

    def __init__(
        self, conv: nn.Conv2d, *, scale: float, unit: float, largest: int, rest: int = 0, grid: int = FINEST_GRID
    ):
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size)
        padding = 0 if rest else conv.padding
        super().__init__(*shape, conv.stride, padding, conv.dilation, conv.groups, device=conv.weight.device)  # pyright: ignore[reportArgumentType]
        self.largest, self.rest = largest, rest
        self.factored_weights: int | None = getattr(conv, "factored_weights", None)
        self._exact_weight = conv.weight.detach().double() * scale
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self._exact_bias = bias.double() * unit
        self.requires_grad_(False)
        self.snap(grid)

    def snap(self, grid: int) -> None:
        """Round weights and biases to multiples of 2^-grid.

        Each filter's rounding errors are carried on from weight to weight, so that they add up to less than a step:
        neighbouring codes are alike, and most of the error cancels (docs/export.md).
        """
        self.grid = grid
        assert self.bias is not None
        steps = (self._exact_weight.flatten(1) * 2.0**grid).cumsum(1).round()
        weight = torch.diff(steps, dim=1, prepend=torch.zeros_like(steps[:, :1])) / 2.0**grid
        self.weight.data.copy_(weight.view_as(self.weight))
        bias = (self._exact_bias * 2.0**grid).round() / 2.0**grid - self.rest * weight.sum(1)
        self.bias.data.copy_(bias + 0.0)  # no -0.0: it looks different

    def forget(self) -> None:
        """Drop the unrounded weights."""
        del self._exact_weight, self._exact_bias

    def bounds(self) -> Tensor:
        """Return the largest magnitude that a partial sum can reach in any order, per output channel, float64."""
        assert self.bias is not None
        weight = self.weight.double().flatten(1)
        reach = torch.maximum(weight.clamp(min=0).sum(1), -weight.clamp(max=0).sum(1))
        operand = 2.0 ** self.largest.bit_length() - 1  # what its planes can hold
        return reach * operand + self.bias.double().abs()

    def extra_repr(self) -> str:
        """Return the convolution's numbers, its operand and grid."""
        return f"{super().extra_repr()}, operand=0..{self.largest}, grid=2^-{self.grid}"


class PixelConv(FixedPointConv):
    """The stem: pixels (B, c1, H, W) in [0, 1] enter as whole numbers 0..255."""

    def forward(self, input: Tensor) -> Tensor:
        """Recover the whole numbers and convolve."""
        return super().forward(input.mul(255).clamp_(0, 255).round_())


class PlaneConv(FixedPointConv):
    """Convolution of codes 0..largest, at once (integer graph) or one binary plane after the other (spike graph)."""

    spike_driven = False

    @property
    def planes(self) -> int:
        """Number of binary planes of the codes."""
        return self.largest.bit_length()

    def forward(self, input: Tensor) -> Tensor:
        """Convolve codes (B, c1, H, W); on planes only weights are accumulated, where a spike is."""
        if not self.spike_driven or self.planes == 1:  # one plane: the codes are the spikes
            return super().forward(input)
        codes = input.to(torch.int16 if self.largest < 2**15 else torch.int32)
        total = None
        for b in reversed(range(self.planes)):
            plane = torch.bitwise_and(codes, torch.tensor(1 << b, dtype=codes.dtype)).bool().to(input.dtype)
            # The bias enters once: B planes would add it B times.
            current = self._conv_forward(plane, self.weight, self.bias if b == 0 else None)
            total = current if total is None else (total + total) + current
        assert total is not None
        return total


class CodeNeuron(nn.Module):
    """The neuron in units of u = unit * v: potentials (T*B, ...) to codes of the same shape.

    u[t] = x[t] + decay * (u[t-1] - k[t-1] / scale),
    k[t] = rest + round(clip(scale * u[t], -rest, D_N - rest))

    Args:
        neuron: The trained neuron.
        unit: Potentials come as unit * v.
        padding: Zero padding (height, width) of the convolution behind it: a border of code ``rest``, if that is not 0.
    """

    def __init__(self, neuron: IBRALIF, unit: float, padding: tuple[int, int] = (0, 0)):
        super().__init__()
        self.D, self.N, self.T, self.decay = neuron.D, neuron.N, neuron.T, neuron.decay
        self.rest = neuron.rest
        height, width = padding if neuron.rest else (0, 0)
        self.border = (width, width, height, height)
        self.scale = neuron.N / unit
        self.D_N = neuron.D_N

    @property
    def planes(self) -> int:
        """Number of binary planes that hold a code."""
        return self.D_N.bit_length()

    def emit(self, u: Tensor) -> Tensor:
        """Return the codes of potentials."""
        # Clipping first gives the same codes, and ONNX Runtime joins it to the convolution before. Were scaling first,
        # it would be joined to the weights, which would leave their grid.
        low, high = -self.rest, self.D_N - self.rest
        if self.scale == 1:
            codes = u.clamp(low, high).round_()
        else:
            codes = u.clamp(low / self.scale, high / self.scale).mul(self.scale).round_()
        return codes + self.rest if self.rest else codes

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes of all timesteps."""
        if self.T == 1:
            codes = self.emit(x)
            return nn.functional.pad(codes, self.border, value=float(self.rest)) if any(self.border) else codes
        u, *currents = x.chunk(self.T)
        codes = [self.emit(u)]
        for current in currents:
            # Each operation rounds by itself: a fused multiply-add would give other codes than ONNX Runtime.
            emitted = codes[-1] if self.scale == 1 else codes[-1] / self.scale
            u = current + (u - emitted) * self.decay
            codes.append(self.emit(u))
        return torch.cat(codes)

    def extra_repr(self) -> str:
        """Return the numbers of the neuron."""
        rest = f", rest={self.rest}" if self.rest else ""
        return f"codes=0..{self.D_N}, scale={self.scale:g}, T={self.T}, decay={self.decay:g}{rest}"


class GridActivation(nn.Module):
    """An activation of potentials u = unit * v, evaluated in float64 and rounded to the grid: (B, ...) to the same.

    Exponentials differ between runtimes in their last bits; of float64 these are gone behind the rounding.

    Args:
        activation: Any elementwise function of v; None if potentials come in float64 and only need rounding.
        unit: Potentials come and go as unit * v.
    """

    def __init__(self, activation: nn.Module | None, unit: float):
        super().__init__()
        self.activation, self.unit, self.grid = activation, unit, FINEST_GRID

    def forward(self, u: Tensor) -> Tensor:
        """Return the potentials in float32, multiples of 2^-grid."""
        u = u.double()
        if self.activation is not None:
            u = self.activation(u / self.unit) * self.unit
        return ((u * 2.0**self.grid).round() / 2.0**self.grid).float()

    def extra_repr(self) -> str:
        """Return the grid."""
        return f"grid=2^-{self.grid}"


class Widen(nn.Module):
    """Potentials in float64, for what multiplies them with each other (attention)."""

    def forward(self, u: Tensor) -> Tensor:
        """Return the same numbers in float64."""
        return u.double()


class _CodeHead(Detect):
    """A head in deploy form: potentials u = unit * v in, decoded in float64.

    Exponentials differ between runtimes in their last bits; of float64 these are gone when boxes and scores are rounded
    to float32.
    """

    unit: float

    def forward_head(
        self, x: list[Tensor], box_head: nn.Module | None = None, cls_head: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Return raw boxes and scores, in float64."""
        preds = super().forward_head(x, box_head, cls_head)
        # in the head's own order, so that an exported graph is the same in every process
        return {key: value.double() / self.unit if key in RAW_MAPS else value for key, value in preds.items()}

    def _inference(self, x: dict[str, Tensor]) -> Tensor:
        return super()._inference(x).float()


class CodeDetect(_CodeHead, SpikeDetect):
    """`SpikeDetect` in deploy form."""


class CodeStockDetect(_CodeHead):
    """Ultralytics' `Detect` with neurons, in deploy form."""


HEADS: dict[type[Detect], type[_CodeHead]] = {SpikeDetect: CodeDetect, Detect: CodeStockDetect}


class Expectation(nn.Module):
    """Box distances as the expectation of their bins (`DFL`), in any precision: (B, 4 * bins, A) to (B, 4, A)."""

    values: Tensor

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins
        self.register_buffer("values", torch.arange(bins, dtype=torch.float64).view(1, 1, bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the distances."""
        batch, _, anchors = x.shape
        return (x.view(batch, 4, self.bins, anchors).softmax(2) * self.values).sum(2)
