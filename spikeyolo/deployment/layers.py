"""The layers of a network in deploy form: codes, eight-bit weights, whole sums; see `spikeyolo.deployment`."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikeyolo.neurons import IBRALIF

WEIGHT_BITS = 8
SUM_BITS = 24  # of a sum's worst case: float32 holds whole numbers up to 2^24, so a runtime may sum in int32 or float32
PAIR = 2**15 - 1  # what two products may add up to: processors without VNNI saturate there
BYTE = 255  # codes above it do not go through eight-bit operators
DOMAIN = "spikeyolo"  # of nodes that name a layer in a skeleton; none of them is left in a file


class Opaque(torch.autograd.Function):
    """A layer that an exported skeleton names in place of its arithmetic, for `spikeyolo.graph.lowering`.

    It reads its weights, if it has any, so that the skeleton has the size of a network, which Ultralytics asks for.
    """

    @staticmethod
    def forward(ctx: Any, layer: "IntegerConv | CodeNeuron", operand: Tensor, *weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return zeros in the shape of the layer's result: what is computed is no part of a skeleton."""
        batch, *shape = (int(side) for side in operand.shape)
        return torch.from_numpy(np.zeros((batch, *layer.output_shape(*shape)), np.float32)).to(operand)

    @staticmethod
    def symbolic(g: Any, layer: "IntegerConv | CodeNeuron", operand: Any, *weights: Any) -> Any:
        """Return the node that names the layer."""
        shape: list[Any]
        batch, *shape = operand.type().sizes() or [None] * 4
        known: Any = [None] * 3 if None in shape else layer.output_shape(*shape)
        result = g.op(f"{DOMAIN}::{layer.kind}", operand, *weights, layer_s=layer.name)
        return result.setType(operand.type().with_sizes([batch, *known]))


class IntegerConv(nn.Conv2d):
    """Convolution of whole numbers by whole weights of at most eight bits, with a power-of-two step per channel.

    u = 2^exponent * (sum_i weight_i * k_i + bias)

    All of the sum are whole numbers, in the worst case below 2^24, so every runtime has the same sum in any order.

    Args:
        conv: Convolution of spike values (or pixels / 255), float, with zero padding.
        scale: Factor of its weights: unit / N of the neuron before it (unit / 255 for the stem).
        unit: Potentials come out as unit * v.
        largest: Largest operand.
        rest: Operand that means 0; not 0 itself for a neuron that reads potentials on both sides of 0. The bias takes
            it back, and the operand comes with a border of it in place of zero padding.
        weight_bits: Width of the weights, 2 to 8.
        name: Name of the layer.

    Attributes:
        weight, bias: Whole numbers, (O, I / groups, kh, kw) and (O,), float32.
        exponent: Of the steps of the sums, (O,), float32, whole.
        coarsened: Number of channels that have lost more than one bit of their weights to the bound of their sums.
        branch: Exponents of the steps, (O,), of an output that is rounded to eight bits; None where it is the sum.
    """

    kind = "Conv"  # what a skeleton calls it
    spike_driven = False  # whether it is computed on binary planes
    exponent: Tensor
    branch: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        scale: float,
        unit: float,
        largest: int,
        rest: int = 0,
        weight_bits: int = WEIGHT_BITS,
        name: str = "",
    ):
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size)
        padding = 0 if rest else conv.padding
        super().__init__(*shape, conv.stride, padding, conv.dilation, conv.groups, device=conv.weight.device)  # pyright: ignore[reportArgumentType]
        self.name, self.unit, self.largest, self.rest, self.weight_bits = name, unit, largest, rest, weight_bits
        self.border = conv.padding if rest else (0, 0)  # what the operand comes with
        self.factored_weights: int | None = getattr(conv, "factored_weights", None)
        self._exact_weight = conv.weight.detach().double() * scale
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self._exact_bias = bias.double() * unit
        if not (self._exact_weight.isfinite().all() and self._exact_bias.isfinite().all()):
            raise ValueError(
                f"{name} has weights that are not finite; train the model again, or take another checkpoint"
            )
        self.requires_grad_(False)
        self.register_buffer("exponent", torch.zeros(conv.out_channels))
        self.register_buffer("branch", None)
        self.quantise()

    @property
    def planes(self) -> int:
        """Number of binary planes of the operand."""
        return self.largest.bit_length()

    @property
    def limit(self) -> int:
        """Largest magnitude of a weight: what its bits hold, and two products saturate no int16."""
        limit = 2 ** (self.weight_bits - 1) - 1
        return limit if self.largest > BYTE else min(limit, PAIR // (2 * (2**self.planes - 1)))

    def quantise(self, floor: float = -math.inf) -> None:
        """Choose the exponents of all channels by the squared error of their weights, none below ``floor``.

        A channel whose sum would reach 2^24 takes the next coarser step, until it does not.

        Raises:
            ValueError: If not even weights of 0, 1 and -1 keep the sum.
        """
        weight = self._exact_weight.flatten(1)
        largest = weight.abs().amax(1)
        bias = self._exact_bias.abs()
        lowest = torch.maximum(bias.log2().ceil() - (SUM_BITS - 2), torch.full_like(bias, floor))  # room for the bias
        lowest = lowest.clamp(min=-126 + SUM_BITS)  # scales of normal float32
        top = (largest / self.limit).log2().ceil()
        candidates = [torch.maximum(top - shift, lowest) for shift in (0, 1, 2)]
        errors = torch.stack([(self._steps(e) * 2 ** e[:, None] - weight).square().sum(1) for e in candidates])
        exponent = torch.stack(candidates).gather(0, errors.argmin(0, keepdim=True))[0]
        finest = exponent.clone()
        while (full := self._sums(exponent) >= 2**SUM_BITS).any():
            if (2 ** exponent[full] >= largest[full]).any():
                raise ValueError(
                    f"{self.name}: its sums of {weight.shape[1]} products with codes up to {self.largest:,} cannot be "
                    f"kept below 2^{SUM_BITS} by any weights; export fewer planes, e.g. planes=7"
                )
            exponent[full] += 1
        self.coarsened = int((exponent > finest + 1).sum())
        self.exponent.copy_(exponent)
        self.weight.data.copy_(self._steps(exponent).view_as(self.weight))
        self.bias.data.copy_(self._bias(exponent))  # pyright: ignore[reportOptionalMemberAccess]

    def _steps(self, exponent: Tensor) -> Tensor:
        """Return the weights in steps of 2^exponent, (O, I)."""
        weight = self._exact_weight.flatten(1)
        return (weight / 2 ** exponent[:, None]).round().clamp(-self.limit, self.limit)

    def _bias(self, exponent: Tensor) -> Tensor:
        return (self._exact_bias / 2**exponent).round() - self.rest * self._steps(exponent).sum(1) + 0.0

    def _sums(self, exponent: Tensor) -> Tensor:
        return worst_sums(self._steps(exponent), self._bias(exponent), self.largest)

    def count_clipped(self) -> int:
        """Return the number of weights that the limit has clipped; only until `forget`."""
        steps = self._exact_weight.flatten(1) / 2 ** self.exponent.double()[:, None]
        return int((steps.round().abs() > self.limit).sum())

    def round_output(self, spread: Tensor) -> None:
        """Round the output to eight bits from now on, with steps of a power of two.

        Args:
            spread: Largest magnitude to be expected of each channel, (O,); larger potentials are clipped.
        """
        step = (spread.double().clamp(min=1e-30) / 2**7).log2().ceil()
        self.branch = torch.maximum(step, self.exponent.double()).to(self.exponent)

    def forget(self) -> None:
        """Drop the unrounded weights."""
        self.clipped = self.count_clipped()
        del self._exact_weight, self._exact_bias

    @property
    def output_exponent(self) -> Tensor:
        """Exponents of the steps of the potentials that come out, (O,)."""
        return self.exponent if self.branch is None else self.branch

    def sums(self) -> Tensor:
        """Return the largest magnitude that a partial sum can reach in any order, (O,), float64."""
        return worst_sums(self.weight.double().flatten(1), self.bias.double(), self.largest)  # pyright: ignore[reportOptionalMemberAccess]

    def bounds(self) -> Tensor:
        """Return the largest magnitude of the potentials that come out, (O,), float64."""
        reach = self.sums() * 2 ** self.exponent.double()
        return reach if self.branch is None else torch.minimum(reach, 2 ** (7 + self.branch.double()))

    def output_shape(self, channels: int, *size: int) -> tuple[int, int, int]:
        """Return channels, height and width of the output for codes of this shape."""
        padding: Any = self.padding
        sides = zip(size, padding, self.dilation, self.kernel_size, self.stride, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sides)
        return self.out_channels, height, width

    def operand(self, input: Tensor) -> Tensor:
        """Return the whole numbers that are convolved."""
        return input

    def forward(self, input: Tensor) -> Tensor:
        """Convolve codes (B, c1, H, W) to potentials (B, c2, H', W')."""
        return Opaque.apply(self, input, self.weight) if torch.onnx.is_in_onnx_export() else self.compute(input)

    def compute(self, input: Tensor) -> Tensor:
        """Convolve; on planes, by sums of shifted weights."""
        codes = self.operand(input)
        if not self.spike_driven or self.planes == 1:  # one plane: the codes are the spikes
            total = self._conv_forward(codes, self.weight, self.bias)
        else:
            total = torch.zeros((), dtype=codes.dtype, device=codes.device)
            whole = codes.to(torch.int32)
            for b in range(self.planes):
                plane = torch.bitwise_and(whole, torch.tensor(1 << b, dtype=whole.dtype)).to(codes.dtype)  # 0 or 2^b
                # The bias enters once: B planes would add it B times.
                total = total + self._conv_forward(plane, self.weight, self.bias if b == 0 else None)
        u = total * power(self.exponent).view(1, -1, 1, 1)
        if self.branch is not None:
            step = power(self.branch).view(1, -1, 1, 1)
            u = (u / step).round().clamp(-128, 127) * step
        return u

    def extra_repr(self) -> str:
        """Return the convolution's numbers, its operand and the width of its weights."""
        return f"{super().extra_repr()}, codes=0..{self.largest}, weight_bits={self.weight_bits}"


class PixelConv(IntegerConv):
    """The stem: an `IntegerConv` of pixels p / 255, which it makes whole numbers p again."""

    def operand(self, input: Tensor) -> Tensor:
        """Recover the whole numbers, as QuantizeLinear does with a step of 1/255."""
        return input.div(1 / 255).round().clamp(0, 255)


def power(exponent: Tensor) -> Tensor:
    """Return 2^exponent, exactly."""
    return torch.ldexp(torch.ones_like(exponent), exponent.to(torch.int32))


def worst_sums(weight: Tensor, bias: Tensor, largest: int) -> Tensor:
    """Return the largest magnitude that a partial sum can reach in any order and for any operands.

    Args:
        weight: Whole weights, (O, I), float64.
        bias: Whole biases, (O,), float64.
        largest: Largest operand; its planes can hold 2^planes - 1.
    """
    reach = torch.maximum(weight.clamp(min=0).sum(1), -weight.clamp(max=0).sum(1))
    return reach * (2.0 ** largest.bit_length() - 1) + bias.abs()


class CodeNeuron(nn.Module):
    """The neuron in units of u = unit * v: potentials (T*B, ...) to codes of the same shape.

    u[t] = x[t] + round_step(decay * (u[t-1] - k[t-1] / scale)),
    k[t] = clip(rest + round(scale * u[t]), 0, D_N)

    Args:
        neuron: The trained neuron.
        unit: Potentials come as unit * v.
        padding: Zero padding (height, width) of the convolution behind it: a border of code ``rest``, if that is not 0.
        name: Name of the convolution behind it.

    Attributes:
        exponent: Of the step of its potentials; what leaks is rounded to it, half to even.
    """

    kind = "Neuron"  # what a skeleton calls it

    def __init__(self, neuron: IBRALIF, unit: float, padding: tuple[int, int] = (0, 0), name: str = ""):
        super().__init__()
        self.D, self.N, self.T, self.decay = neuron.D, neuron.N, neuron.T, neuron.decay
        self.rest = neuron.rest
        height, width = padding if neuron.rest else (0, 0)
        self.border = (width, width, height, height)  # in the order of `nn.functional.pad`
        self.scale = neuron.N / unit
        self.D_N = neuron.D_N
        self.name, self.exponent = name, -SUM_BITS

    @property
    def planes(self) -> int:
        """Number of binary planes that hold a code."""
        return self.D_N.bit_length()

    @property
    def gain(self) -> float:
        """How many times the largest current a potential can be."""
        return sum(self.decay**t for t in range(self.T))

    def output_shape(self, channels: int, *size: int) -> tuple[int, int, int]:
        """Return channels, height and width of the codes for potentials of this shape."""
        left, right, top, bottom = self.border
        return channels, size[0] + top + bottom, size[1] + left + right

    def emit(self, u: Tensor) -> Tensor:
        """Return the codes of potentials."""
        codes = (u if self.scale == 1 else u * self.scale).round()
        return (codes + self.rest if self.rest else codes).clamp(0, self.D_N)

    def leak(self, u: Tensor, codes: Tensor) -> Tensor:
        """Return what is left of potentials after leak and reset, rounded to the step."""
        emitted = codes if self.scale == 1 else codes / self.scale
        left = (u - emitted) * self.decay
        return (left * 2.0**-self.exponent).round() * 2.0**self.exponent

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes of all timesteps."""
        return Opaque.apply(self, x) if torch.onnx.is_in_onnx_export() else self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """Emit one timestep after the other."""
        u, *currents = x.chunk(self.T)
        codes = [self.emit(u)]
        for current in currents:
            u = current + self.leak(u, codes[-1])
            codes.append(self.emit(u))
        emitted = torch.cat(codes) if currents else codes[0]
        if any(self.border):
            emitted = nn.functional.pad(emitted, self.border, value=float(self.rest))
        return emitted

    def extra_repr(self) -> str:
        """Return the numbers of the neuron."""
        rest = f", rest={self.rest}" if self.rest else ""
        return f"codes=0..{self.D_N}, scale={self.scale:g}, T={self.T}, decay={self.decay:g}{rest}"


class StepActivation(nn.Module):
    """An activation of potentials u = unit * v, evaluated in float64 and rounded to a step: (B, ...) to the same.

    Exponentials differ between runtimes in their last bits; of float64 these are gone behind the rounding.

    Args:
        activation: Any elementwise function of v; None if potentials come in float64 and only need rounding.
        unit: Potentials come and go as unit * v.

    Attributes:
        exponent: Of the step.
    """

    def __init__(self, activation: nn.Module | None, unit: float):
        super().__init__()
        if isinstance(activation, nn.LeakyReLU):  # ONNX has its slope in float32
            activation = nn.LeakyReLU(float(np.float32(activation.negative_slope)))
        self.activation, self.unit, self.exponent = activation, unit, -SUM_BITS

    def forward(self, u: Tensor) -> Tensor:
        """Return the potentials in float32, multiples of 2^exponent."""
        u = u.double()
        if self.activation is not None:
            u = self.activation(u / self.unit) * self.unit
        return ((u * 2.0**-self.exponent).round() * 2.0**self.exponent).float()

    def extra_repr(self) -> str:
        """Return the step."""
        return f"step=2^{self.exponent}"


class Widen(nn.Module):
    """Potentials in float64, for what multiplies them with each other (attention)."""

    def forward(self, u: Tensor) -> Tensor:
        """Return the same numbers in float64."""
        return u.double()
