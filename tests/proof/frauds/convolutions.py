"""Frauds about QLinearConv: its numbers and its geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from surgery import Surgery, attribute, first, set_attribute

from frauds.registry import (
    CHANGES,
    FAILS,
    SAME,
    alter,
    before,
    behind,
    cast,
    fraud,
    give,
    i8,
    op,
    register,
    setting,
    times,
    u8,
)

NUMBERS = {
    "input scale 2": (1, lambda a: a * 2),
    "input scale -1": (1, lambda a: -a),
    "input zero point 1": (2, lambda a: a + 1),
    "input zero point 255": (2, lambda a: a - 1),
    "a scale doubled": (4, lambda a: a * np.where(np.arange(len(a)) == 1, 2, 1).astype(a.dtype)),
    "a scale one unit in the last place larger": (4, lambda a: np.nextafter(a, np.float32(9))),
    "all scales zero": (4, lambda a: a * 0),
    "a negative scale": (4, lambda a: a * np.where(np.arange(len(a)) == 1, -1, 1).astype(a.dtype)),
    "a scale that is no number": (4, lambda a: np.where(np.arange(len(a)) == 1, np.nan, a).astype(a.dtype)),
    "one scale for all": (4, lambda a: a[:1].reshape(())),
    "scales in another order": (4, lambda a: a[::-1]),
    "output scale 2": (6, lambda a: a * 2),
    "output zero point moved": (7, lambda a: a + 3),
    "a bias one higher": (8, lambda a: a + 300),
    "biases in another order": (8, lambda a: a[::-1]),
    "no bias": (8, lambda a: a * 0),
}


def convs(s: Surgery) -> dict[str, list[onnx.NodeProto]]:
    return {"stem": [s.stem], "direct": s.direct, "branch": s.branches, "depthwise": s.depthwise}


def at_conv(place: str, name: str, change: Callable[[Surgery, onnx.NodeProto], None], truth: str = CHANGES) -> None:
    def apply(s: Surgery) -> None:
        found = convs(s)[place]
        change(s, found[len(found) // 2])

    register("QLinearConv", f"{name}, {place}", apply, truth)


for words, (position, formula) in NUMBERS.items():
    for spot in ("stem", "direct", "branch", "depthwise"):
        # scales of ratios that pass float32's rounding alike
        at_conv(spot, words, lambda s, n, p=position, f=formula: s.change_at(n, p, f))


def change_kernel(s: Surgery, conv: onnx.NodeProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    s.change(s.kernel(conv), change)


KERNELS = {
    "weights negated": lambda w: -w,
    "filters in another order": lambda w: w[::-1],
    "filters turned": lambda w: w[..., ::-1, ::-1],
    "filters transposed": lambda w: w.swapaxes(2, 3),
    "one weight moved": lambda w: np.where(np.arange(w.size).reshape(w.shape) == 5, w + 40, w).astype(w.dtype),
    "a weight of -128": lambda w: np.where(np.arange(w.size).reshape(w.shape) == 5, -128, w).astype(w.dtype),
    "weights shuffled": lambda w: np.random.default_rng(3).permutation(w.ravel()).reshape(w.shape),
    "all weights zero": lambda w: w * 0,
}
for words, formula in KERNELS.items():
    for spot in ("stem", "direct", "branch", "depthwise"):
        at_conv(spot, words, lambda s, n, f=formula: change_kernel(s, n, f))


def unsigned_weights(s: Surgery, conv: onnx.NodeProto) -> None:
    change_kernel(s, conv, lambda w: w.view(np.uint8))
    s.change_at(conv, 5, lambda z: z.view(np.uint8))


def offset_weights(s: Surgery, conv: onnx.NodeProto) -> None:
    change_kernel(s, conv, lambda w: (w.astype(np.int32) + 128).astype(np.uint8))
    s.give(conv, 5, np.full(len(s.value(s.kernel(conv))), 128), np.uint8)


GEOMETRY: dict[str, tuple[str, Any, str]] = {
    "pads moved to one side": ("pads", [0, 0, 2, 2], CHANGES),
    "auto_pad SAME_LOWER": ("auto_pad", "SAME_LOWER", FAILS),
    "no kernel_shape": ("kernel_shape", None, SAME),
    "no strides": ("strides", None, SAME),
    "no dilations": ("dilations", None, SAME),
    "an unknown attribute": ("unknown", 1, FAILS),
}


def same_upper(s: Surgery, conv: onnx.NodeProto) -> None:
    set_attribute(conv, "pads", None)
    set_attribute(conv, "auto_pad", "SAME_UPPER")


def dilated(s: Surgery, conv: onnx.NodeProto) -> None:
    set_attribute(conv, "dilations", [2, 2])
    set_attribute(conv, "pads", [2, 2, 2, 2])


def shifted(s: Surgery, conv: onnx.NodeProto) -> None:
    top, left, bottom, right = attribute(conv, "pads")
    set_attribute(conv, "pads", [top + 1, left - 1, bottom - 1, right + 1])


def some_3x3(s: Surgery) -> onnx.NodeProto:
    return first(n for n in s.direct if attribute(n, "kernel_shape") == [3, 3])


def geometry(name: str, change: Callable[[Surgery, onnx.NodeProto], None], truth: str = CHANGES) -> None:
    register("geometry", name, lambda s: change(s, some_3x3(s)), truth)


for words, (key, value, outcome) in GEOMETRY.items():
    geometry(words, lambda s, n, k=key, v=value: set_attribute(n, k, v), outcome)
geometry("pads shifted by a row and a column", shifted)
geometry("auto_pad SAME_UPPER in the place of pads", same_upper, SAME)
geometry("auto_pad VALID beside pads", setting("auto_pad", "VALID"), FAILS)
geometry("dilated", dilated)
geometry("a group more than there are channels", setting("group", 2), FAILS)
geometry("negative pads", setting("pads", [3, 1, -1, 1]), FAILS)
geometry("pads given twice", lambda s, n: n.attribute.append(helper.make_attribute("pads", [0, 0, 2, 2])), FAILS)


@fraud("geometry")
def strides_of_the_stem(s: Surgery) -> None:
    """Read every second column twice as far."""
    set_attribute(s.stem, "dilations", [1, 2])
    set_attribute(s.stem, "pads", [2, 5, 2, 5])


@fraud("geometry")
def the_filter_of_a_depthwise_convolution_is_dilated(s: Surgery) -> None:
    conv = s.depthwise[0]
    height, _ = attribute(conv, "kernel_shape")
    top, left, bottom, right = attribute(conv, "pads")
    set_attribute(conv, "dilations", [2, 1])
    set_attribute(conv, "pads", [top + (height - 1) // 2, left, bottom + (height - 1) // 2, right])


at_conv("direct", "unsigned weights", unsigned_weights)
at_conv("direct", "weights moved by a zero point of 128", offset_weights, SAME)
at_conv("direct", "weights' zero points left out", lambda s, n: n.input.__setitem__(5, ""), FAILS)
at_conv("direct", "a zero point of weights", alter(5, lambda z: np.where(np.arange(len(z)) == 0, 9, z).astype(z.dtype)))
at_conv("direct", "one zero point for all weights", give(5, i8(0)), SAME)
at_conv("direct", "bias left out", lambda s, n: n.input.pop(8))
at_conv("direct", "bias given as no name", lambda s, n: n.input.__setitem__(8, ""))
at_conv("direct", "another layer's scale", lambda s, n: n.input.__setitem__(4, other_with_as_many(s, n).input[4]))
at_conv("direct", "another layer's bias", lambda s, n: n.input.__setitem__(8, other_with_as_many(s, n).input[8]))
at_conv(
    "direct",
    "scales divided between input and channels",
    lambda s, n: (s.change_at(n, 1, lambda a: a * 4), s.change_at(n, 4, lambda a: a / 4)),
    SAME,
)
at_conv(
    "direct",
    "scales divided between output and channels",
    lambda s, n: (s.change_at(n, 6, lambda a: a * 4), s.change_at(n, 4, lambda a: a * 4)),
    SAME,
)
at_conv(
    "direct",
    "weights halved and scales doubled",
    lambda s, n: (
        change_kernel(s, n, lambda w: w // 2),
        s.change_at(n, 4, lambda a: a * 2),
        s.change_at(n, 8, lambda a: a // 2),
    ),
)
at_conv(
    "direct", "rank 1 scalars", lambda s, n: [s.change_at(n, i, lambda a: a.reshape(1)) for i in (1, 2, 6, 7)], SAME
)
at_conv("direct", "a bias behind the convolution as well", behind(op("Add", u8(1))))
at_conv(
    "direct",
    "a bias of the input",
    before(
        8,
        lambda s, x: s.add(
            "Add", [x, cast(s, s.add("ReduceMax", [times(s, s.image, 900)], keepdims=0), TensorProto.INT32)]
        ),
    ),
)


def other_with_as_many(s: Surgery, conv: onnx.NodeProto) -> onnx.NodeProto:
    count = len(s.value(conv.input[8]))
    return first(n for n in s.scaled if len(s.value(n.input[8])) == count and n.input[8] != conv.input[8])


@fraud("QLinearConv", SAME)
def a_convolution_in_float(s: Surgery) -> None:
    """Write DequantizeLinear, Conv, QuantizeLinear in the place of one QLinearConv."""
    conv = s.direct[0]
    data, scale, zero, weight, scales, zeros, out, out_zero, bias = conv.input
    numbers = s.add("DequantizeLinear", [data, scale, zero])
    factors = s.add("DequantizeLinear", [weight, scales, zeros], axis=0)
    biases = s.add("DequantizeLinear", [bias, scales], axis=0)
    attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    sums = s.add("Conv", [numbers, factors, biases], **attributes)
    s.behind(conv.output[0], lambda _: s.add("QuantizeLinear", [sums, out, out_zero]), s.readers(conv.output[0]))
    s.drop_unused()


@fraud("QLinearConv", SAME)
def a_convolution_as_convinteger(s: Surgery) -> None:
    conv = s.direct[0]
    data, _, zero, weight, scales, _, _, _, bias = conv.input
    attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    total = s.add("ConvInteger", [data, weight, zero], **attributes)
    shape = s.constant([1, -1, 1, 1], np.int64)
    total = s.add("Add", [total, s.add("Reshape", [bias, shape])])
    scaled = s.add("Mul", [cast(s, total, 1), s.add("Reshape", [scales, shape])])
    one, nothing = s.constant(1, np.float32), s.constant(0, np.uint8)
    s.behind(conv.output[0], lambda _: s.add("QuantizeLinear", [scaled, one, nothing]), s.readers(conv.output[0]))
    s.drop_unused()


@fraud("QLinearConv")
def an_operator_of_another_domain(s: Surgery) -> None:
    """Write ONNX Runtime's own QLinearAdd in the place of a residual addition."""
    add = s.additions[0]
    one, middle = s.constant(1, np.float32), s.constant(128, np.uint8)
    whole = [s.add("QuantizeLinear", [i, one, middle]) for i in add.input]
    total = s.add("QLinearAdd", [whole[0], one, middle, whole[1], one, middle, one, middle], domain="com.microsoft")
    s.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    s.behind(add.output[0], lambda _: s.add("DequantizeLinear", [total, one, middle]), s.readers(add.output[0]))
    s.drop_unused()
