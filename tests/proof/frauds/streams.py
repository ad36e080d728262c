"""Frauds about residual additions, concatenations, upsampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, first, set_attribute

from frauds.registry import (
    CHANGES,
    FAILS,
    SAME,
    behind,
    cast,
    f32,
    fraud,
    give,
    i64,
    op,
    plus,
    register,
    set_op,
    setting,
    swap_inputs,
    times,
)

for position in range(4):

    def addition(s: Surgery, position: int = position) -> onnx.NodeProto:
        return s.additions[position]

    at = f"addition {position}"
    register("additions", f"twice the stream, {at}", lambda s, a=addition: a(s).input.__setitem__(1, a(s).input[0]))
    register("additions", f"twice the branch, {at}", lambda s, a=addition: a(s).input.__setitem__(0, a(s).input[1]))
    register("additions", f"left out, {at}", lambda s, a=addition: s.remove(a(s)))
    register("additions", f"Sub, {at}", lambda s, a=addition: set_op(a(s), "Sub"))
    register("additions", f"Max, {at}", lambda s, a=addition: set_op(a(s), "Max"))
    register("additions", f"exchanged, {at}", lambda s, a=addition: swap_inputs(a(s), 0, 1), SAME)
    register("additions", f"Sum, {at}", lambda s, a=addition: set_op(a(s), "Sum"), SAME)
    register(
        "additions",
        f"a constant as well, {at}",
        lambda s, a=addition: s.behind(a(s).output[0], lambda x: plus(s, x, 4)),
    )
    register(
        "additions",
        f"half of the stream, {at}",
        lambda s, a=addition: a(s).input.__setitem__(0, times(s, a(s).input[0], 0.5)),
    )


@fraud("additions")
def another_stream(s: Surgery) -> None:
    adds = s.additions
    adds[1].input[0] = adds[0].input[0]


@fraud("additions")
def a_stream_of_another_branch(s: Surgery) -> None:
    potentials = s.potentials
    add = s.additions[1]
    add.input[1] = first(p.output[0] for p in potentials if p.output[0] in s.additions[0].input)


@fraud("additions")
def a_stream_that_is_clipped(s: Surgery) -> None:
    floor = s.constant(0, np.float32)
    s.behind(s.additions[0].output[0], lambda x: s.add("Max", [x, floor]))


@fraud("additions")
def a_shift_by_a_pixel(s: Surgery) -> None:
    add = s.additions[0]
    widths, floor = s.constant([0, 1, 0, 0, 0, -1, 0, 0]), s.constant(0, np.float32)
    add.input[0] = s.add("Pad", [add.input[0], widths, floor])


@fraud("additions", SAME)
def in_float64(s: Surgery) -> None:
    add = s.additions[0]
    for i in (0, 1):
        add.input[i] = cast(s, add.input[i], TensorProto.DOUBLE)
    s.behind(add.output[0], lambda x: cast(s, x, TensorProto.FLOAT))


def at_resize(name: str, change: Callable[[Surgery, onnx.NodeProto], Any], truth: str = CHANGES) -> None:
    register("upsampling", name, lambda s: change(s, s.resize), truth)


at_resize("linear", setting("mode", "linear"))
at_resize("cubic", setting("mode", "cubic"))
at_resize("nearest_mode ceil", setting("nearest_mode", "ceil"))
at_resize("nearest_mode left out", setting("nearest_mode", None), SAME)
at_resize("nearest_mode round_prefer_ceil", setting("nearest_mode", "round_prefer_ceil"))
at_resize("half_pixel", setting("coordinate_transformation_mode", "half_pixel"))
at_resize(
    "half_pixel with round_prefer_floor",
    lambda s, n: (
        set_attribute(n, "coordinate_transformation_mode", "half_pixel"),
        set_attribute(n, "nearest_mode", "round_prefer_floor"),
    ),
    SAME,
)
at_resize("align_corners", setting("coordinate_transformation_mode", "align_corners"))
at_resize(
    "tf_crop_and_resize",
    lambda s, n: (
        set_attribute(n, "coordinate_transformation_mode", "tf_crop_and_resize"),
        s.give(n, 1, [0, 0.25, 0.25, 0, 1, 0.75, 0.75, 1], np.float32),
    ),
)
at_resize("mode left out", setting("mode", None), SAME)
at_resize("cubic_coeff_a", setting("cubic_coeff_a", 5.0), SAME)
at_resize("exclude_outside", setting("exclude_outside", 1), FAILS)
at_resize("extrapolation_value", setting("extrapolation_value", 9.0), SAME)
at_resize("antialias 0", setting("antialias", 0), SAME)
at_resize(
    "sizes in the place of scales",
    lambda s, n: (n.input.__setitem__(2, ""), s.give(n, 3, [1, 16, 16, 16], np.int64)),
    SAME,
)
at_resize("scales a little off", give(2, f32([1, 2.05, 2.05, 1])))
at_resize(
    "scales of 2 and 4, then cut",
    lambda s, n: (
        s.give(n, 2, [1, 4, 4, 1], np.float32),
        s.behind(
            n.output[0], lambda x: s.add("Slice", [x, s.constant([0, 0]), s.constant([16, 16]), s.constant([1, 2])])
        ),
    ),
)
at_resize("a region that is ignored", give(1, f32([0, 0.5, 0.5, 0, 1, 1, 1, 1])), SAME)
at_resize(
    "as Tile and Transpose",
    lambda s, n: (
        s.behind(
            n.output[0],
            lambda _: s.add(
                "Reshape",
                [
                    s.add(
                        "Tile",
                        [
                            s.add("Reshape", [n.input[0], s.constant([1, 8, 1, 8, 1, 16])]),
                            s.constant([1, 1, 2, 1, 2, 1]),
                        ],
                    ),
                    s.constant([1, 16, 16, 16]),
                ],
            ),
        ),
        s.drop_unused(),
    ),
    SAME,
)
at_resize("rows in reverse", behind(op("Slice", i64([-1]), i64([-99]), i64([1]), i64([-1]))))


@fraud("concatenation")
def maps_exchanged(s: Surgery) -> None:
    join = s.maps_joined
    swap_inputs(join, 0, 1)


@fraud("concatenation", SAME)
def axis_counted_from_the_end(s: Surgery) -> None:
    set_attribute(s.maps_joined, "axis", -1)


@fraud("concatenation")
def a_map_twice(s: Surgery) -> None:
    """Join a map with its own half."""
    join = s.maps_joined
    join.input[1] = s.add("Slice", [join.input[0], s.constant([0]), s.constant([8]), s.constant([3])])
    s.drop_unused()


@fraud("concatenation")
def channels_shuffled(s: Surgery) -> None:
    s.behind(s.maps_joined.output[0], lambda x: s.add("Gather", [x, s.constant(np.arange(24)[::-1])], axis=3))


@fraud("concatenation", SAME)
def two_concatenations(s: Surgery) -> None:
    join = s.maps_joined
    part = [s.add("Slice", [join.input[1], s.constant([a]), s.constant([a + 4]), s.constant([3])]) for a in (0, 4)]
    join.input[1] = s.add("Concat", part, axis=3)
