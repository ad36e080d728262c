"""Convolutions of codes, or of their binary planes, in ONNX operators of eight bits.

An operand of the integer graph is a code, one of the spike graph is 0 or 2^b on its plane b: one value per plane, so
that its product by a weight is the weight, shifted. Sums are whole numbers in int32.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikeyolo.deployment import BYTE, IntegerConv, PixelConv
from spikeyolo.graph.builder import Array, Builder

Size = tuple[int, int] | None
DIRECT, BRANCH, WHOLE, WIDE = "direct", "branch", "whole", "wide"  # what becomes of a sum, see `Product`


@dataclass(frozen=True)
class Map:
    """A feature map.

    Args:
        name: Its tensor, (B, height, width, channels).
        channels: Number of channels.
        size: Height and width; None if they are not known when the graph is written.
        order: Of its dimensions: NHWC wherever it is read; what a graph notes may be NCHW.
    """

    name: str
    channels: int
    size: Size
    order: str = "NHWC"


@dataclass(frozen=True)
class Product:
    """A convolution in a graph.

    Args:
        conv: The convolution.
        kind: "direct": its sum is scaled and rounded to the codes of the one neuron that reads it (QLinearConv).
            "branch": scaled and rounded to eight bits (QLinearConv). "whole": all of it, as a potential (Gemm on
            gathered windows, which ONNX Runtime computes in integers). "wide": all of it, by a float convolution, which
            is exact as well: codes of more than a byte (a branch is rounded thereafter), groups, and sizes that are
            not known.
        scale: Codes per unit of potential of the neuron that reads it directly.
        largest: Its largest code.
        rest: Its code of potential 0.
    """

    conv: IntegerConv
    kind: str
    scale: float = 1.0
    largest: int = BYTE
    rest: int = 0


class Products:
    """Writes convolutions into a graph.

    Args:
        builder: The graph.
        spikes: Whether operands are binary planes.
    """

    def __init__(self, builder: Builder, *, spikes: bool):
        self.builder, self.spikes = builder, spikes
        self._split: dict[tuple[str, int, int, bool], str] = {}
        self._gathered: dict[tuple[Any, ...], str] = {}

    def convolve(self, product: Product, codes: Map) -> Map:
        """Write one convolution of codes; return its result: codes if it is direct, else potentials."""
        conv = product.conv
        planes = conv.planes if self.spikes and not isinstance(conv, PixelConv) and conv.planes > 1 else 1
        padded = self._padded(conv, codes)
        size = padded.size and conv.output_shape(codes.channels, *padded.size)[1:]
        write = {DIRECT: self._scaled, BRANCH: self._scaled, WHOLE: self._whole, WIDE: self._wide}[product.kind]
        return Map(write(product, padded, planes, size), conv.out_channels, size)

    def _padded(self, conv: IntegerConv, codes: Map) -> Map:
        """Return the codes with a border of the code that means 0, if that is not 0 itself."""
        height, width = side(conv.border)
        if not (height or width):
            return codes
        dtype = np.float32 if conv.largest > BYTE else np.uint8  # in which codes come
        return self._pad(codes, (height, width, height, width), conv.rest, dtype)

    def _pad(self, codes: Map, border: tuple[int, int, int, int], value: int, dtype: Any = np.uint8) -> Map:
        """Return a map with a border: top, left, bottom, right."""
        b = self.builder
        top, left, bottom, right = border
        target = f"{codes.name}/pad{'_'.join(map(str, border))}"
        if target not in b.made:
            widths = b.shape(0, top, left, 0, 0, bottom, right, 0)
            b.add("Pad", [codes.name, widths, b.scalar(value, dtype)], target)
        size = codes.size and (codes.size[0] + top + bottom, codes.size[1] + left + right)
        return Map(target, codes.channels, size)

    def _operand(self, codes: Map, conv: IntegerConv, planes: int) -> Map:
        """Return codes, or their planes: beside the channels, of a depthwise convolution beside the columns."""
        if planes == 1:
            return codes
        depthwise = is_depthwise(conv)
        groups = 1 if depthwise else conv.groups
        key = codes.name, planes, groups, depthwise
        if key not in self._split:
            split = self._planes(codes, planes, groups)
            if depthwise or groups > 1:
                # (B, H, W, planes * C) is (B, H, W * planes, C) as well
                sides = (0, 0, -1, codes.channels) if depthwise else (0, 0, 0, -1)
                split = self.builder.reshape(split, f"{split}/{'columns' if depthwise else 'channels'}", *sides)
            self._split[key] = split
        channels = codes.channels if depthwise else codes.channels * planes
        return Map(self._split[key], channels, codes.size)

    def _planes(self, codes: Map, planes: int, groups: int) -> str:
        """Write the planes of codes, one after the other along the channels (of each group).

        The highest plane first: it spikes where what is left reaches 2^b, and 2^b is subtracted. ONNX Runtime has these
        four operators on bytes in vector instructions; one BitwiseAnd has none, and is slower.
        """
        b, left, stem = self.builder, codes.name, f"{codes.name}/{groups}planes" if groups > 1 else codes.name
        if f"{stem}/planes" in b.made:
            return f"{stem}/planes"
        if groups > 1:
            left = b.reshape(left, f"{stem}/grouped", 0, 0, 0, groups, codes.channels // groups)
        dtype = np.float32 if planes > BYTE.bit_length() else np.uint8  # in which codes come
        parts: list[str] = []
        for i in reversed(range(1, planes)):
            below, threshold = b.scalar(2**i - 1, dtype), b.scalar(2**i, dtype)
            reached = b.add("Clip", [left, below, threshold], f"{stem}/reached{i}")
            fired = b.add("Sub", [reached, below], f"{stem}/fired{i}")  # 0 or 1
            parts.append(b.add("Mul", [fired, threshold], f"{stem}/plane{i}"))
            left = b.add("Sub", [left, parts[-1]], f"{stem}/left{i}")
        return b.add("Concat", [left, *reversed(parts)], f"{stem}/planes", axis=4 if groups > 1 else 3)

    def _geometry(self, conv: IntegerConv, planes: int) -> dict[str, list[int] | int]:
        """Return the attributes of an ONNX convolution."""
        (sh, sw), (ph, pw), (dh, dw) = conv.stride, side(conv.padding), conv.dilation
        if planes > 1 and is_depthwise(conv):
            sw, pw = sw * planes, pw * planes
        kernel = [conv.kernel_size[0], conv.kernel_size[1] * (planes if is_depthwise(conv) else 1)]
        return {
            "kernel_shape": kernel,
            "strides": [sh, sw],
            "pads": [ph, pw, ph, pw],
            "dilations": [dh, dw],
            "group": conv.groups,
        }

    def _weight(self, conv: IntegerConv, planes: int) -> str:
        """Return the weights of a convolution, (O, I, kh, kw) int8; one for all planes, which a runtime folds."""
        b, name = self.builder, conv.name
        weight = b.constant(integers_of(conv)[0], f"{name}.weight")
        if planes == 1:
            return weight
        o, i, kh, kw = conv.weight.shape
        if not is_depthwise(conv):
            return b.add("Tile", [weight, b.shape(1, planes, 1, 1)], f"{name}/weights")
        column = b.reshape(weight, f"{name}/column", o, i, kh * kw, 1)
        tiled = b.add("Tile", [column, b.shape(1, 1, 1, planes)], f"{name}/tiled")
        return b.reshape(tiled, f"{name}/weights", o, i, kh, kw * planes)

    def _scaled(self, product: Product, codes: Map, planes: int, size: Size) -> str:
        """Write a convolution whose sums are scaled and rounded to eight bits."""
        b, conv = self.builder, product.conv
        name, direct = conv.name, product.kind == DIRECT
        operand = b.first(self._operand(codes, conv, planes).name)
        _, bias, step = integers_of(conv)
        output_step = 2.0 ** conv.output_exponent.double().numpy(force=True)
        scales = step * product.scale if direct else step / output_step
        one, zero = b.scalar(1, np.float32), b.scalar(0, np.uint8)
        inputs = [operand, one, zero, self._weight(conv, planes)]
        inputs += [
            b.constant(scales, f"{name}.scale", np.float32),
            b.constant(np.zeros(len(scales)), f"zeros/{len(scales)}", np.int8),
        ]
        inputs += [one, b.scalar(product.rest if direct else 128, np.uint8)]
        inputs += [b.constant(bias, f"{name}.bias")]
        found = b.last(b.add("QLinearConv", inputs, f"{name}/rounded", name, **self._geometry(conv, planes)))
        if not direct:
            whole = b.add("DequantizeLinear", [found, one, b.scalar(128, np.uint8)], f"{name}/whole")
            return b.add("Mul", [whole, self._steps(conv, output_step, size)], f"{name}/potential")
        if product.largest < BYTE:
            found = b.add("Clip", [found, "", b.scalar(product.largest, np.uint8)], f"{name}/clipped")
        return found

    def _steps(self, conv: IntegerConv, step: Array, size: Size) -> str:
        """Return the steps of a branch by channel, repeated over a row if its width is known.

        ONNX Runtime multiplies by a row faster than by a few channels, and folds the repetition; DequantizeLinear with
        a step per channel is slower still.
        """
        b = self.builder
        steps = b.constant(step, f"{conv.name}.step", np.float32)
        if size is None:
            return steps
        return b.add("Expand", [steps, b.shape(size[1], conv.out_channels)], f"{conv.name}/steps")

    def _whole(self, product: Product, codes: Map, planes: int, size: Size) -> str:
        """Write a convolution of all the sum: windows, gathered, times a matrix."""
        b, conv = self.builder, product.conv
        name = conv.name
        weight, bias, step = integers_of(conv)
        assert size is not None
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = conv.kernel_size, conv.stride, side(conv.padding), conv.dilation
        if isinstance(conv, PixelConv) and sh == sw > 1 and (dh, dw) == (1, 1):
            codes, weight = self._folded_pixels(conv, codes, size, weight)
            kh, kw, sh, sw, ph, pw = *weight.shape[2:], 1, 1, 0, 0
        operand = self._operand(codes, conv, planes)
        if (kh, kw, sh, sw) != (1, 1, 1, 1):
            if ph or pw:
                operand = self._pad(operand, (ph, pw, ph, pw), 0)
            operand = self._windows(operand, size, (kh, kw), (sh, sw), (dh, dw))
        depth = kh * kw * operand.channels
        rows = b.reshape(operand.name, f"{name}/rows", -1, depth)
        matrix = b.constant(weight.transpose(2, 3, 1, 0).reshape(kh * kw, -1, conv.out_channels), f"{name}.weight")
        if planes > 1:
            column = b.reshape(matrix, f"{name}/column", kh * kw, 1, operand.channels // planes * conv.out_channels)
            matrix = b.add("Tile", [column, b.shape(1, planes, 1)], f"{name}/tiled")
        matrix = b.reshape(matrix, f"{name}/matrix", depth, conv.out_channels)
        steps = b.constant(step, f"{name}.step", np.float32)
        zeros = b.constant(np.zeros(conv.out_channels), f"zeros/{conv.out_channels}", np.int8)
        biases = b.constant(bias, f"{name}.bias")
        one, zero = b.scalar(1, np.float32), b.scalar(0, np.uint8)
        factors = [
            b.add("DequantizeLinear", [rows, one, zero], f"{name}/operands"),
            b.add("DequantizeLinear", [matrix, steps, zeros], f"{name}/weights", axis=1),
            b.add("DequantizeLinear", [biases, steps], f"{name}/biases", axis=0),
        ]
        sums = b.add("Gemm", factors, f"{name}/sums", name)
        return b.reshape(sums, f"{name}/potential", -1, *size, conv.out_channels)

    def _folded_pixels(self, conv: IntegerConv, pixels: Map, size: tuple[int, int], weight: Array) -> tuple[Map, Array]:
        """Return pixels and weights of a strided stem, squares of stride x stride pixels folded into channels."""
        b, step = self.builder, conv.stride[0]
        blocks = [math.ceil(k / step) for k in conv.kernel_size]
        (ph, pw), (height, width), c = side(conv.padding), pixels.size or (0, 0), pixels.channels
        sides = [(n + k - 1) * step for n, k in zip(size, blocks, strict=True)]
        border = ph, pw, sides[0] - height - ph, sides[1] - width - pw
        padded = self._pad(pixels, border, 0).name
        rows, columns = sides[0] // step, sides[1] // step
        cut = b.reshape(padded, f"{conv.name}/cut", -1, rows, step, columns, step * c)
        moved = b.add("Transpose", [cut], f"{conv.name}/moved", perm=[0, 1, 3, 2, 4])
        folded = b.reshape(moved, f"{conv.name}/folded", -1, rows, columns, step * step * c)
        kh, kw = conv.kernel_size
        grown = np.pad(weight, [(0, 0), (0, 0), (0, blocks[0] * step - kh), (0, blocks[1] * step - kw)])
        squares = grown.reshape(-1, c, blocks[0], step, blocks[1], step).transpose(0, 3, 5, 1, 2, 4)
        return Map(folded, step * step * c, (rows, columns)), squares.reshape(-1, step * step * c, *blocks)

    def _windows(
        self, operand: Map, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: Any
    ) -> Map:
        """Return the windows of a convolution: (B, height * width * taps, channels)."""
        b = self.builder
        assert operand.size is not None
        key = operand.name, size, kernel, stride, dilation
        if key not in self._gathered:
            height, width = operand.size
            row = np.arange(size[0])[:, None] * stride[0] + np.arange(kernel[0]) * dilation[0]
            column = np.arange(size[1])[:, None] * stride[1] + np.arange(kernel[1]) * dilation[1]
            stem = f"windows/{size[0]}x{size[1]}k{kernel[0]}x{kernel[1]}s{stride[0]}d{dilation[0]}of{width}"
            rows = b.constant(row[:, None, :, None] * width, f"{stem}/rows", np.int32)
            columns = b.constant(column[None, :, None, :], f"{stem}/columns", np.int32)
            if f"{stem}/at" not in b.made:
                b.add("Add", [rows, columns], f"{stem}/at")  # folded by a runtime; the file holds the two factors
                b.reshape(f"{stem}/at", f"{stem}/index", -1)
            flat = f"{operand.name}/flat"
            if flat not in b.made:
                b.reshape(operand.name, flat, -1, height * width, operand.channels)
            self._gathered[key] = b.add("Gather", [flat, f"{stem}/index"], f"{operand.name}/{stem}", axis=1)
        return Map(self._gathered[key], operand.channels, size)

    def _wide(self, product: Product, codes: Map, planes: int, size: Size) -> str:
        """Write a convolution of all the sum in float32, which holds it exactly."""
        b, conv = self.builder, product.conv
        name = conv.name
        operand = self._operand(codes, conv, planes)
        numbers = operand.name if conv.largest > BYTE else b.add("Cast", [operand.name], f"{name}/operands", to=1)
        weight = self._weight(conv, planes)
        _, bias, step = integers_of(conv)
        steps = b.constant(step, f"{name}.step", np.float32)
        zeros = b.constant(np.zeros(conv.out_channels), f"zeros/{conv.out_channels}", np.int8)
        biases = b.constant(bias, f"{name}.bias")
        inputs = [
            b.first(numbers),
            b.add("DequantizeLinear", [weight, steps, zeros], f"{name}/factors", axis=0),
            b.add("DequantizeLinear", [biases, steps], f"{name}/biases", axis=0),
        ]
        potential = b.last(b.add("Conv", inputs, f"{name}/sums", name, **self._geometry(conv, planes)))
        if conv.branch is None:
            return potential
        output_step = 2.0 ** conv.output_exponent.double().numpy(force=True)
        branch, one = b.constant(output_step, f"{name}.branch", np.float32), b.scalar(1, np.float32)
        eight_bits = one, b.scalar(128, np.uint8)
        scaled = b.add("Div", [potential, branch], f"{name}/scaled")
        found = b.add("QuantizeLinear", [scaled, *eight_bits], f"{name}/rounded")
        return b.add(
            "Mul", [b.add("DequantizeLinear", [found, *eight_bits], f"{name}/steps"), branch], f"{name}/potential"
        )


def integers_of(conv: IntegerConv) -> tuple[Array, Array, Array]:
    """Return weights (O, I / groups, kh, kw) int8, biases (O,) int32, and steps of the sums (O,) float64."""
    assert conv.bias is not None
    weight, bias = conv.weight.numpy(force=True).astype(np.int8), conv.bias.numpy(force=True).astype(np.int32)
    return weight, bias, 2.0 ** conv.exponent.double().numpy(force=True)


def is_depthwise(conv: IntegerConv) -> bool:
    """Return whether each channel has its own filter, undilated."""
    return 1 < conv.groups == conv.in_channels == conv.out_channels and tuple(conv.dilation) == (1, 1)


def side(padding: Any) -> tuple[int, int]:
    """Return the border of a convolution: height, width."""
    height, width = padding
    return int(height), int(width)


def about(product: Product, codes: Map) -> dict[str, Any]:
    """Return what a graph notes of a layer; its codes come without the border of a rest code."""
    conv = product.conv
    return {
        "codes": codes.name,
        "order": codes.order,
        "size": codes.size,
        "kind": product.kind,
        "channels": [conv.in_channels, conv.out_channels],
        "kernel": list(conv.kernel_size),
        "stride": list(conv.stride),
        "padding": list(side(conv.border if conv.rest else conv.padding)),
        "dilation": list(conv.dilation),
        "groups": conv.groups,
    }
