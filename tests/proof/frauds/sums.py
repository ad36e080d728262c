"""Frauds about whole sums: windows, Gemm."""

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
    before,
    behind,
    cast,
    chain,
    i64,
    op,
    raised,
    register,
    scaled,
    setting,
    through,
    times,
)


def at_sum(
    name: str, change: Callable[[Surgery, onnx.NodeProto, dict[str, onnx.NodeProto]], Any], truth: str = CHANGES
) -> None:
    """Add a fraud about a product by a matrix."""

    def apply(s: Surgery) -> None:
        gemm = first(
            n for n in s.gemms if s.made_by(s.made(s.gemm_parts(n)["operands"].input[0], "Reshape").input[0], "Gather")
        )
        change(s, gemm, s.gemm_parts(gemm))

    register("whole sums", name, apply, truth)


at_sum("alpha 2", setting("alpha", 2.0))
at_sum("alpha 1", setting("alpha", 1.0), SAME)
at_sum("alpha 1 + 2^-23", setting("alpha", float(np.nextafter(np.float32(1), 2))))
at_sum("beta 0", setting("beta", 0.0))
at_sum("beta 2", setting("beta", 2.0))
at_sum("no bias", lambda s, n, p: n.input.pop(2))
at_sum(
    "transB of a transposed matrix",
    lambda s, n, p: (
        n.input.__setitem__(1, s.add("Transpose", [n.input[1]], perm=[1, 0])),
        set_attribute(n, "transB", 1),
    ),
    SAME,
)
at_sum(
    "transB of a matrix that is read otherwise",
    lambda s, n, p: (
        n.input.__setitem__(1, s.add("Reshape", [n.input[1], s.constant([16, -1])])),
        set_attribute(n, "transB", 1),
    ),
)
at_sum("transA 0", setting("transA", 0), SAME)
at_sum(
    "weights per row",
    lambda s, n, p: (
        set_attribute(p["weights"], "axis", 0),
        s.give(p["weights"], 1, np.full(504, 2.0**-8), np.float32),
        s.give(p["weights"], 2, np.zeros(504), np.int8),
    ),
)
at_sum("no axis of the weights", lambda s, n, p: set_attribute(p["weights"], "axis", None), SAME)
at_sum("axis -1 of the weights", lambda s, n, p: set_attribute(p["weights"], "axis", -1), SAME)
at_sum("steps of the weights doubled", lambda s, n, p: s.change_at(p["weights"], 1, lambda a: a * 2))
at_sum("steps of the biases doubled", lambda s, n, p: s.change_at(p["biases"], 1, lambda a: a * 2))
at_sum("zero points of the weights", lambda s, n, p: s.change_at(p["weights"], 2, lambda a: a + np.int8(1)))
at_sum("zero points of the biases", lambda s, n, p: s.give(p["biases"], 2, np.full(16, 700), np.int32))
at_sum("zero points of the biases, all zero", lambda s, n, p: s.give(p["biases"], 2, np.zeros(16), np.int32), SAME)
at_sum("scale of the operands", lambda s, n, p: s.give(p["operands"], 1, 2, np.float32))
at_sum("zero point of the operands", lambda s, n, p: s.give(p["operands"], 2, 1, np.uint8))
at_sum("no zero point of the operands", lambda s, n, p: p["operands"].input.pop(2), SAME)
at_sum(
    "Cast in the place of DequantizeLinear",
    lambda s, n, p: (n.input.__setitem__(0, cast(s, p["operands"].input[0], 1)), s.drop_unused()),
    SAME,
)
at_sum(
    "MatMul and Add in the place of Gemm",
    lambda s, n, p: (
        s.behind(n.output[0], lambda _: s.add("Add", [s.add("MatMul", [n.input[0], n.input[1]]), n.input[2]])),
        s.drop_unused(),
    ),
    SAME,
)
at_sum("weights changed", lambda s, n, p: s.change(s.kernel(n), lambda w: w[:, ::-1]))
at_sum("taps in another order", lambda s, n, p: s.change(s.kernel(n), lambda w: w[::-1]))
at_sum("outputs in another order", lambda s, n, p: s.change(s.kernel(n), lambda w: w[..., ::-1]))
at_sum("biases changed", lambda s, n, p: s.change(p["biases"].input[0], lambda a: a + 4096))
at_sum("a bias of -2^31", lambda s, n, p: s.change(p["biases"].input[0], lambda a: np.where(a == a[0], -(2**31), a)))
at_sum("biases along an axis that is not there", lambda s, n, p: set_attribute(p["biases"], "axis", 1), FAILS)
at_sum(
    "weights and biases of another step, the operands to match",
    lambda s, n, p: [
        s.change_at(p[part], 1, change)
        for part, change in (("operands", lambda a: a * np.float32(2)), ("weights", lambda a: a / np.float32(2)))
    ],
    SAME,
)
at_sum("repeated along another axis", lambda s, n, p: tile_otherwise(s, n))
at_sum(
    "planes of other weights",
    lambda s, n, p: (
        p["weights"].input.__setitem__(0, s.constant(np.random.default_rng(0).integers(-60, 60, (504, 16)), np.int8)),
        s.constant(0, np.float32, "left"),
    ),
)
at_sum("windows of other taps", lambda s, n, p: s.change_at(window_offsets(s), 1, lambda a: a[..., ::-1]))
at_sum(
    "windows further below", lambda s, n, p: s.change_at(window_offsets(s), 0, lambda a: np.minimum(a + 18, a.max()))
)
at_sum(
    "windows by negative indices",
    lambda s, n, p: s.behind(s.window.input[1], lambda x: s.add("Sub", [x, s.constant(324, np.int32)])),
    SAME,
)
at_sum(
    "windows by indices of 64 bits",
    lambda s, n, p: s.behind(s.window.input[1], lambda x: cast(s, x, TensorProto.INT64)),
    SAME,
)
at_sum("windows along another axis", lambda s, n, p: set_attribute(s.window, "axis", -2), SAME)
at_sum(
    "one window for all",
    lambda s, n, p: s.behind(s.window.input[1], lambda x: s.add("Mul", [x, s.constant(0, np.int32)])),
)
at_sum(
    "windows beyond the map",
    lambda s, n, p: s.behind(s.window.input[1], lambda x: s.add("Add", [x, s.constant(999, np.int32)])),
    FAILS,
)
at_sum("a border of 1", lambda s, n, p: s.give(first(s.ops("Pad")), 2, 1, np.uint8))
at_sum("a border without a value", lambda s, n, p: first(s.ops("Pad")).input.pop(2), SAME)
at_sum("a reflected border", lambda s, n, p: set_attribute(first(s.ops("Pad")), "mode", "reflect"))
at_sum("an edge as border", lambda s, n, p: set_attribute(first(s.ops("Pad")), "mode", "edge"))
at_sum("a border wrapped round", lambda s, n, p: set_attribute(first(s.ops("Pad")), "mode", "wrap"))
at_sum("mode constant said", lambda s, n, p: set_attribute(first(s.ops("Pad")), "mode", "constant"), SAME)
at_sum("a border on one side", lambda s, n, p: s.give(first(s.ops("Pad")), 1, [0, 2, 0, 0, 0, 0, 2, 0], np.int64))
at_sum("a border that cuts off", lambda s, n, p: s.give(first(s.ops("Pad")), 1, [0, 3, 1, 0, 0, -1, 1, 0], np.int64))
at_sum(
    "a border given by axes",
    lambda s, n, p: (
        s.give(first(s.ops("Pad")), 1, [1, 1, 1, 1], np.int64),
        s.give(first(s.ops("Pad")), 3, [1, 2], np.int64),
    ),
    SAME,
)
at_sum(
    "rows of another shape",
    lambda s, n, p: p["operands"].input.__setitem__(
        0,
        s.add(
            "Reshape",
            [
                s.add(
                    "Transpose", [s.add("Reshape", [p["operands"].input[0], s.constant([-1, 56, 9])])], perm=[0, 2, 1]
                ),
                s.constant([-1, 504]),
            ],
        ),
    ),
)
at_sum("potential reshaped otherwise", behind(chain(op("Transpose", perm=[1, 0]), op("Reshape", i64([64, 16])))))
at_sum("a constant added to the sum", behind(raised(1)))
at_sum(
    "a bias of the image",
    before(2, lambda s, x: s.add("Add", [x, s.add("ReduceMax", [times(s, s.image, 30)], keepdims=0)])),
)
at_sum("scaled behind", behind(scaled(0.5)))
at_sum("in float16", behind(through(TensorProto.FLOAT16, TensorProto.FLOAT)))
at_sum("allowzero", lambda s, n, p: set_attribute(s.reader(n.output[0], "Reshape"), "allowzero", 1), SAME)
at_sum(
    "weights of float",
    lambda s, n, p: n.input.__setitem__(1, s.constant(np.random.default_rng(0).normal(size=(504, 16)), np.float32)),
)


def tile_otherwise(s: Surgery, gemm: onnx.NodeProto) -> None:
    """Repeat the weights of all taps, not of each."""
    node = s.made(s.made(s.gemm_parts(gemm)["weights"].input[0], "Reshape").input[0], "Tile")
    s.give(node, 1, [7, 1, 1], np.int64)


def window_offsets(s: Surgery) -> onnx.NodeProto:
    return s.made(s.made(s.window.input[1], "Reshape").input[0], "Add")
