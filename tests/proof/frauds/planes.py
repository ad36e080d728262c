"""Frauds about planes and other operands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, attribute, first, rewire, set_attribute

from frauds.registry import (
    CHANGES,
    FAILS,
    SAME,
    cast,
    chain,
    f32,
    flag,
    fraud,
    i32,
    i64,
    on_bytes,
    op,
    raised,
    register,
    scaled,
    set_op,
    swap_inputs,
    through,
    u8,
)


def in_planes(name: str, change: Callable[[Surgery, onnx.NodeProto], None], truth: str = CHANGES) -> None:
    """Add a fraud at the first, a middle and the last planes, in the same words."""
    for where, index in (("first", 0), ("middle", None), ("last", -1)):

        def apply(s: Surgery, index: int | None = index) -> None:
            joins = s.joins
            change(s, joins[len(joins) // 2 if index is None else index])

        register("planes", f"{name}, {where} layer", apply, truth)


def give_plane(bit: int, part: str, index: int, value: int) -> Callable[[Surgery, onnx.NodeProto], None]:
    return lambda s, join: s.give(s.plane(join, bit)[part], index, value, np.uint8)


in_planes("a threshold one lower", give_plane(6, "reached", 1, 62))
in_planes("a ceiling one higher", give_plane(5, "reached", 2, 33))
in_planes("no floor", give_plane(4, "reached", 1, 0))
in_planes("a floor above the ceiling", give_plane(4, "reached", 1, 17))
in_planes("something else subtracted", give_plane(3, "fired", 1, 6))
in_planes("a spike of twice its weight", give_plane(1, "product", 1, 4))
in_planes("a spike of zero, so that plane 0 takes what it leaves", give_plane(2, "product", 1, 0), SAME)
in_planes("a spike of -1", give_plane(2, "product", 1, 255))
in_planes("a plane twice, another one missing", lambda s, join: join.input.__setitem__(3, join.input[4]))
in_planes("the whole codes in the place of plane 0", lambda s, join: join.input.__setitem__(0, s.codes_of(join)))
in_planes("the whole codes in the place of plane 6", lambda s, join: join.input.__setitem__(6, s.codes_of(join)))
in_planes(
    "spikes in the place of a plane", lambda s, join: join.input.__setitem__(6, s.plane(join, 6)["product"].input[0])
)
in_planes("two planes exchanged", lambda s, join: swap_inputs(join, 2, 3), SAME)
in_planes("all planes in reverse", lambda s, join: join.input.__setitem__(slice(None), list(join.input)[::-1]), SAME)
in_planes(
    "a plane that is not subtracted", lambda s, join: s.plane(join, 4)["left"].input.__setitem__(1, join.input[5])
)
in_planes("a plane that is added", lambda s, join: set_op(s.plane(join, 4)["left"], "Add"))
in_planes("the subtraction turned round", lambda s, join: swap_inputs(s.plane(join, 4)["left"], 0, 1))
in_planes("the spike turned round", lambda s, join: swap_inputs(s.plane(join, 4)["fired"], 0, 1))
in_planes(
    "planes taken of the codes, not of what is left",
    lambda s, join: s.plane(join, 3)["reached"].input.__setitem__(0, s.codes_of(join)),
)
register("planes", "joined along the columns", lambda s: set_attribute(s.joins[0], "axis", 2), FAILS)
register("planes", "of the whole sum, joined along the columns", lambda s: set_attribute(s.joins[-1], "axis", 2))
in_planes(
    "planes joined along the last dimension, counted from the end",
    lambda s, join: set_attribute(join, "axis", -1),
    SAME,
)


def plane_detour(s: Surgery, join: onnx.NodeProto, bit: int, write: Callable[[Surgery, str], str]) -> None:
    join.input[bit] = write(s, join.input[bit])


def in_a_plane(name: str, write: Callable[[Surgery, str], str], truth: str = CHANGES, bit: int = 4) -> None:
    """Add a fraud that writes something between a plane and the concatenation."""
    register("operands", name, lambda s: plane_detour(s, s.joins[len(s.joins) // 2], bit, write), truth)


in_a_plane("a plane that wraps around to -1", op("Sub", u8(1)))
in_a_plane("a plane of 2 by wrap-around of bytes", op("Mul", u8(130)), bit=0)
in_a_plane("a plane doubled by a shift", op("BitShift", u8(1), direction="LEFT"))
in_a_plane("a plane complemented", op("BitwiseNot"))
in_a_plane("planes moved by a bit, wrapping", op("BitShift", u8(7), direction="LEFT"), bit=0)
in_a_plane(
    "a plane through float additions that round", on_bytes(chain(raised(1), raised(2**24), raised(-(2**24)))), bit=0
)
in_a_plane("a plane through float additions that do not round", on_bytes(chain(raised(2**20), raised(-(2**20)))), SAME)
in_a_plane(
    "a plane through integers that wrap around",
    chain(through(TensorProto.INT32), op("Mul", i32(2**31 - 1)), op("Add", i32(5)), through(TensorProto.UINT8)),
)
in_a_plane("a plane through int8 and back", through(TensorProto.INT8, TensorProto.UINT8), SAME)
in_a_plane("a plane halved and rounded", on_bytes(chain(scaled(0.5), op("Round"))), bit=0)
in_a_plane("a plane of 0.5 that is cut off", on_bytes(scaled(0.5)), bit=0)
in_a_plane("Dropout in training mode doubles what it leaves", on_bytes(op("Dropout", f32(0.5), flag(True), seed=1)))
in_a_plane(
    "cubic Resize that passes its range",
    on_bytes(
        op(
            "Resize",
            "",
            f32([1, 1, 1, 1.0001]),
            mode="cubic",
            coordinate_transformation_mode="align_corners",
            cubic_coeff_a=-2.0,
        )
    ),
    SAME,
)
in_a_plane(
    "linear Resize to half a size and back",
    on_bytes(
        chain(op("Resize", "", f32([1, 1, 1, 0.5]), mode="linear"), op("Resize", "", f32([1, 1, 1, 2]), mode="linear"))
    ),
)
in_a_plane(
    "padded mean pooling", on_bytes(op("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
)
in_a_plane("padded largest of 3 x 3", on_bytes(op("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])))
in_a_plane("Lp pooling", on_bytes(op("LpPool", kernel_shape=[1, 3], pads=[0, 1, 0, 1], p=1)))
in_a_plane(
    "a NaN that is cast",
    chain(
        through(TensorProto.FLOAT), scaled(-1), raised(0.5), op("Sqrt"), through(TensorProto.INT32, TensorProto.UINT8)
    ),
    bit=0,
)
in_a_plane(
    "an infinity that is cast",
    chain(
        through(TensorProto.FLOAT),
        op("Log"),
        through(TensorProto.INT32),
        op("Div", i32(-(2**24))),
        through(TensorProto.UINT8),
    ),
    bit=0,
)
in_a_plane("values beyond a byte that are cast", on_bytes(scaled(300)))
in_a_plane(
    "requantised with a step of 2", chain(op("DequantizeLinear", f32(1), u8(0)), op("QuantizeLinear", f32(2), u8(0)))
)
in_a_plane(
    "requantised with a zero point of 3",
    chain(op("DequantizeLinear", f32(1), u8(0)), op("QuantizeLinear", f32(1), u8(3))),
)
in_a_plane(
    "BatchNormalization",
    on_bytes(
        lambda s, x: s.add(
            "Reshape",
            [
                s.add(
                    "BatchNormalization",
                    [
                        s.add("Reshape", [x, s.constant([1, 1, -1])]),
                        s.constant([3], np.float32),
                        s.constant([1], np.float32),
                        s.constant([0], np.float32),
                        s.constant([1], np.float32),
                    ],
                ),
                s.add("Shape", [x]),
            ],
        )
    ),
)
in_a_plane("PRelu with a slope", on_bytes(chain(raised(-8), op("PRelu", f32(-3)))))
in_a_plane("Relu, which does nothing", on_bytes(op("Relu")), SAME)
in_a_plane("Identity", op("Identity"), SAME)
in_a_plane("a Cast to its own type", through(TensorProto.UINT8), SAME)
in_a_plane(
    "its neighbour's spikes",
    lambda s, x: s.add(
        "Concat",
        [
            s.add("Slice", [x, s.constant([1]), s.constant([9999]), s.constant([2])]),
            s.add("Slice", [x, s.constant([0]), s.constant([1]), s.constant([2])]),
        ],
        axis=2,
    ),
)
in_a_plane("Slice with a negative step", op("Slice", i64([-1]), i64([-9999]), i64([2]), i64([-1])))
in_a_plane("Pad with negative widths", op("Pad", i64([0, 0, -1, 0, 0, 0, 1, 0]), u8(0)))
in_a_plane("Where takes codes", lambda s, x: s.add("Where", [cast(s, x, TensorProto.BOOL), s.constant(3, np.uint8), x]))
in_a_plane("a running sum", on_bytes(op("CumSum", i64(3))))
in_a_plane(
    "the largest code of the map",
    lambda s, x: s.add(
        "Max", [x, cast(s, s.add("ReduceMax", [cast(s, x, TensorProto.INT32)], keepdims=1), TensorProto.UINT8)]
    ),
)
in_a_plane("products of spikes", on_bytes(lambda s, x: s.add("Einsum", [x, x], equation="bhwc,bhvc->bhvc")))


def pair(s: Surgery) -> list[onnx.NodeProto]:
    """Return two joins of planes of one shape, the earlier one first."""
    found = [n for n in s.direct if attribute(n, "strides") == [1, 1]]
    count = s.value(s.kernel(found[0])).shape[1]
    other = first(n for n in found[1:] if s.value(s.kernel(n)).shape[1] == count)
    return [s.producer_of(s.made(n.input[0], "Transpose").input[0]) for n in (found[0], other)]


@fraud("operands")
def planes_of_another_layer(s: Surgery) -> None:
    one, two = pair(s)
    s.behind(two.output[0], lambda _: one.output[0])


@fraud("operands")
def the_codes_of_another_layer_below_the_planes(s: Surgery) -> None:
    one, two = pair(s)
    source, target = s.codes_of(one), s.codes_of(two)
    for part in s.plane(two, 6).values():
        rewire(part, target, source)


@fraud("operands")
def one_plane_of_another_layer(s: Surgery) -> None:
    one, two = pair(s)
    two.input[3] = one.input[3]


@fraud("operands", SAME)
def codes_in_the_place_of_their_planes(s: Surgery) -> None:
    """Write the integer graph's convolution in one layer."""
    conv = s.direct[1]
    join = s.producer_of(s.made(conv.input[0], "Transpose").input[0])
    conv.input[0] = s.add("Transpose", [s.codes_of(join)], perm=[0, 3, 1, 2])
    conv.input[3] = s.kernel(conv)
    s.drop_unused()


@fraud("operands")
def negative_codes(s: Surgery) -> None:
    """Let the codes of a layer be signed: QuantizeLinear to int8, no clip, QLinearConv of int8."""
    conv = s.direct[0]
    join = s.producer_of(s.made(conv.input[0], "Transpose").input[0])
    codes = s.codes_of(join)
    clip = s.producer_of(codes)
    quantised = s.producer_of(clip.input[0])
    signed = s.add("QuantizeLinear", [quantised.input[0], s.constant(1, np.float32), s.constant(0, np.int8)])
    conv.input[0] = s.add("Transpose", [signed], perm=[0, 3, 1, 2])
    conv.input[3] = s.kernel(conv)
    s.give(conv, 2, 0, np.int8)
    s.give(conv, 7, 0, np.int8)
    output = conv.output[0]
    s.behind(output, lambda x: cast(s, s.add("Max", [cast(s, x, TensorProto.INT32), s.constant(0, np.int32)]), 2))
    s.drop_unused()


@fraud("operands")
def a_seventh_plane_of_a_bit_more(s: Surgery) -> None:
    """Remove a Clip to 127: what is left beyond all planes adds to plane 0."""
    join = s.joins[1]
    clip = s.producer_of(s.codes_of(join))
    s.remove(clip)


@fraud("operands", SAME)
def planes_by_bits(s: Surgery) -> None:
    """Take planes by BitwiseAnd, which is another form of the same."""
    join = s.joins[0]
    codes = s.codes_of(join)
    for bit in range(7):
        join.input[bit] = s.add("BitwiseAnd", [codes, s.constant(2**bit, np.uint8)])
    s.drop_unused()


@fraud("operands")
def planes_by_modulo(s: Surgery) -> None:
    join = s.joins[0]
    codes = s.codes_of(join)
    join.input[0] = s.add("Mod", [codes, s.constant(3, np.uint8)])


@fraud("operands", SAME)
def six_planes_and_codes_of_two(s: Surgery) -> None:
    """Let planes 0 and 1 be one operand of 0..3, and nothing."""
    join = s.joins[2]
    left = s.plane(join, 2)["left"].output[0]
    nothing = s.add("Sub", [left, left])
    join.input[0], join.input[1] = left, nothing
