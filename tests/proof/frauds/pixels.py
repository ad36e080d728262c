"""Frauds about pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, first, rewire

from frauds.registry import (
    CHANGES,
    SAME,
    cast,
    chain,
    f32,
    flag,
    fraud,
    i64,
    op,
    raised,
    register,
    scaled,
    through,
    times,
)


def at_pixels(name: str, write: Callable[[Surgery, str], str], truth: str = CHANGES) -> None:
    """Add a fraud that writes something between the image and its quantisation."""
    register("pixels", name, lambda s: rewire(s.pixels, s.image, write(s, s.image)), truth)


register("pixels", "divided by 254", lambda s: s.give(s.pixels, 1, 1 / 254, np.float32))
register("pixels", "half as large", lambda s: s.give(s.pixels, 1, 2 / 255, np.float32))
register(
    "pixels",
    "a step that is one unit in the last place larger",
    lambda s: s.give(s.pixels, 1, np.nextafter(np.float32(1 / 255), np.float32(1))),
    SAME,
)
register("pixels", "a negative step", lambda s: s.give(s.pixels, 1, -1 / 255, np.float32))
register("pixels", "a step of zero", lambda s: s.give(s.pixels, 1, 0, np.float32))
register("pixels", "a step that is no number", lambda s: s.give(s.pixels, 1, np.nan, np.float32))
register("pixels", "a step that is infinite", lambda s: s.give(s.pixels, 1, np.inf, np.float32))
register("pixels", "zero point 1", lambda s: s.give(s.pixels, 2, 1, np.uint8))
register("pixels", "zero point 128", lambda s: s.give(s.pixels, 2, 128, np.uint8))
at_pixels("times one half", scaled(0.5))
at_pixels("times 1", scaled(1), SAME)
at_pixels("a little brighter", raised(0.01))
at_pixels("plus nothing", raised(0), SAME)
at_pixels("inverted", chain(op("Neg"), raised(1)))
at_pixels("Abs", op("Abs"), SAME)
at_pixels("Relu", op("Relu"), SAME)
at_pixels("Identity", op("Identity"), SAME)
at_pixels("a detour through float64", through(TensorProto.DOUBLE, TensorProto.FLOAT), SAME)
at_pixels("a detour through float16", through(TensorProto.FLOAT16, TensorProto.FLOAT))
at_pixels("a detour through bfloat16", through(TensorProto.BFLOAT16, TensorProto.FLOAT))
at_pixels("a detour through int32", through(TensorProto.INT32, TensorProto.FLOAT))
at_pixels("clipped to the darker half", op("Clip", f32(0), f32(0.5)))
at_pixels("clipped to what they are in anyway", op("Clip", f32(0), f32(1)), SAME)
at_pixels("largest of 3 x 3", op("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
at_pixels("mean of 3 x 3", op("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
at_pixels("mean of 1 x 1", op("AveragePool", kernel_shape=[1, 1]), SAME)
at_pixels("red and blue exchanged", op("Gather", i64([2, 1, 0]), axis=1))
at_pixels("a Gather of all channels", op("Gather", i64([0, 1, 2]), axis=1), SAME)
at_pixels("rows and columns exchanged", op("Transpose", perm=[0, 1, 3, 2]))
at_pixels("Dropout in training mode", op("Dropout", f32(0.5), flag(True), seed=3))
at_pixels("Dropout that does nothing", op("Dropout"), SAME)
at_pixels("cubic Resize of scale 1", op("Resize", "", f32([1, 1, 1, 1]), mode="cubic"), SAME)
at_pixels("LayerNormalization", op("LayerNormalization", f32(np.ones(64))))
at_pixels("InstanceNormalization", op("InstanceNormalization", f32(np.ones(3)), f32(np.zeros(3))))
at_pixels("LRN", op("LRN", size=3, alpha=0.5))
at_pixels("ReverseSequence", op("ReverseSequence", i64([2]), batch_axis=0, time_axis=1))
at_pixels("ThresholdedRelu", op("ThresholdedRelu", alpha=0.25))
at_pixels("Shrink", op("Shrink", lambd=0.25))
at_pixels("Mod", op("Mod", f32(0.5), fmod=1))
at_pixels("Pow", op("Pow", f32(2.2)))
at_pixels("Round", op("Round"))
at_pixels("CumSum", op("CumSum", i64(3)))
at_pixels("Trilu", op("Trilu"))
at_pixels("Max with itself", lambda s, x: s.add("Max", [x, x]), SAME)
at_pixels("Sum of one", op("Sum"), SAME)
at_pixels("Hardmax", op("Hardmax", axis=3))
at_pixels("noise added", lambda s, x: s.add("Add", [x, s.add("RandomUniformLike", [x], low=-0.2, high=0.2, seed=1.0)]))
at_pixels("NaN made zero", lambda s, x: s.add("Where", [s.add("IsNaN", [x]), s.constant(0, np.float32), x]), SAME)
at_pixels(
    "GridSample of a shifted grid",
    op("GridSample", f32(np.stack(np.meshgrid(np.linspace(-0.9, 1, 64), np.linspace(-1, 1, 64)), -1)[None])),
)
at_pixels("a float convolution", op("Conv", f32(np.full((3, 3, 1, 1), 1 / 3))))
at_pixels("the mean of the batch", op("ReduceMean", i64([0]), keepdims=1), SAME)
at_pixels("a Where with constant condition", lambda s, x: s.add("Where", [s.constant(True, np.bool_), x, x]), SAME)
at_pixels("an Optional and back", chain(op("Optional"), op("OptionalGetElement")), SAME)
at_pixels("a sequence and back", chain(op("SequenceConstruct"), op("SequenceAt", i64(0))), SAME)
at_pixels("a MatMul with the identity", op("MatMul", f32(np.eye(64))), SAME)
at_pixels("columns mixed by MatMul", op("MatMul", f32(np.eye(64)[::-1])))
at_pixels("Einsum that does nothing", op("Einsum", equation="bchw->bchw"), SAME)
at_pixels("Einsum that transposes", op("Einsum", equation="bchw->bcwh"))
at_pixels(
    "NonZero hidden in Where",
    lambda s, x: s.add("Where", [s.add("Greater", [x, s.constant(0.5, np.float32)]), s.constant(0.5, np.float32), x]),
)
at_pixels(
    "DepthToSpace of SpaceToDepth, in other modes",
    chain(op("SpaceToDepth", blocksize=2), op("DepthToSpace", blocksize=2, mode="CRD")),
)
at_pixels(
    "ScatterElements over one pixel",
    op("ScatterElements", i64(np.full((1, 3, 1, 1), 20)), f32(np.full((1, 3, 1, 1), 0.7)), axis=2),
)


@fraud("pixels")
def quantised_by_their_own_range(s: Surgery) -> None:
    pixels = s.pixels
    made = s.add("DynamicQuantizeLinear", [s.image], "dynamic/codes")
    node = s.producer_of(made)
    node.output.extend(["dynamic/scale", "dynamic/zero"])
    s.behind(pixels.output[0], lambda _: made)
    s.drop_unused()


@fraud("pixels")
def signed_bytes(s: Surgery) -> None:
    """Let bright pixels saturate at 127."""
    s.give(s.pixels, 2, 0, np.int8)
    s.give(s.stem, 2, 0, np.int8)
    s.give(s.stem, 7, 0, np.int8)
    s.give(first(n for n in s.ops("DequantizeLinear") if n.input[0] in behind_transpose(s, s.stem)), 2, 0, np.int8)


def behind_transpose(s: Surgery, node: onnx.NodeProto) -> list[str]:
    return [node.output[0], *(r.output[0] for r in s.readers(node.output[0]))]


@fraud("pixels")
def cast_in_the_place_of_rounding(s: Surgery) -> None:
    pixels = s.pixels
    s.behind(
        pixels.output[0], lambda _: cast(s, times(s, s.image, 255), TensorProto.UINT8), s.readers(pixels.output[0])
    )
    s.drop_unused()


@fraud("pixels")
def their_lowest_bit_lost(s: Surgery) -> None:
    s.behind(s.pixels.output[0], lambda x: s.add("BitwiseAnd", [x, s.constant(0xFE, np.uint8)]))


@fraud("pixels")
def their_bytes_wrap_around(s: Surgery) -> None:
    s.behind(s.pixels.output[0], lambda x: s.add("Add", [x, s.constant(100, np.uint8)]))


@fraud("pixels", SAME)
def their_bytes_times_1(s: Surgery) -> None:
    s.behind(s.pixels.output[0], lambda x: s.add("Mul", [x, s.constant(1, np.uint8)]))


@fraud("pixels")
def quantised_twice_with_a_coarse_step_between(s: Surgery) -> None:
    step, zero = s.constant(4 / 255, np.float32), s.constant(0, np.uint8)
    coarse = s.add("DequantizeLinear", [s.add("QuantizeLinear", [s.image, step, zero]), step, zero])
    rewire(s.pixels, s.image, coarse)


@fraud("pixels")
def one_step_for_each_channel(s: Surgery) -> None:
    s.give(s.pixels, 1, [1 / 255, 1 / 255, 1 / 200], np.float32)
    s.give(s.pixels, 2, [0, 0, 0], np.uint8)


@fraud("pixels", SAME)
def the_same_step_for_each_channel(s: Surgery) -> None:
    s.give(s.pixels, 1, [1 / 255] * 3, np.float32)
    s.give(s.pixels, 2, [0, 0, 0], np.uint8)
