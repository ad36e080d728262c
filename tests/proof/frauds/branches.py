"""Frauds about branches: eight bits times steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, set_attribute

from frauds.registry import (
    CHANGES,
    FAILS,
    SAME,
    before,
    behind,
    f32,
    give,
    op,
    plus,
    register,
    set_op,
    swap_inputs,
    through,
)


def at_branch(name: str, change: Callable[[Surgery, onnx.NodeProto], Any], truth: str = CHANGES) -> None:
    """Add a fraud about the multiplication by steps."""
    register("branches", name, lambda s: change(s, s.potentials[1]), truth)


def dequantised(s: Surgery, node: onnx.NodeProto) -> onnx.NodeProto:
    return s.made(node.input[0], "DequantizeLinear")


def expanded(s: Surgery, node: onnx.NodeProto) -> onnx.NodeProto:
    return s.made(node.input[1], "Expand")


at_branch("scale 3", lambda s, n: s.give(dequantised(s, n), 1, 3, np.float32))
at_branch("zero point 127", lambda s, n: s.give(dequantised(s, n), 2, 127, np.uint8))
at_branch("no zero point", lambda s, n: dequantised(s, n).input.pop(2))
at_branch("no zero point's name", lambda s, n: dequantised(s, n).input.__setitem__(2, ""))
at_branch("an axis", lambda s, n: set_attribute(dequantised(s, n), "axis", 0), SAME)
at_branch("block_size 0", lambda s, n: set_attribute(dequantised(s, n), "block_size", 0), FAILS)
at_branch("steps doubled", lambda s, n: s.change_at(expanded(s, n), 0, lambda a: a * 2))
at_branch("steps in another order", lambda s, n: s.change_at(expanded(s, n), 0, lambda a: np.sort(a)))
at_branch("one step for all", lambda s, n: s.change_at(expanded(s, n), 0, lambda a: a[:1]))
at_branch(
    "steps along the columns",
    lambda s, n: s.give(n, 1, np.linspace(1, 2, 16)[:, None] * s.value(expanded(s, n).input[0]), np.float32),
)
at_branch(
    "steps along the rows",
    lambda s, n: s.give(n, 1, np.linspace(1, 2, 16)[:, None, None] * s.value(expanded(s, n).input[0]), np.float32),
)
at_branch("steps of each pixel", give(1, f32(np.random.default_rng(0).uniform(1, 2, (1, 16, 16, 8)))))
at_branch(
    "steps expanded to more than there is", lambda s, n: s.give(expanded(s, n), 1, [1, 16, 16, 8], np.int64), SAME
)
at_branch("steps not expanded", lambda s, n: n.input.__setitem__(1, expanded(s, n).input[0]), SAME)
at_branch("steps of another layer", lambda s, n: n.input.__setitem__(1, s.potentials[0].input[1]))
at_branch("inputs exchanged", lambda s, n: swap_inputs(n, 0, 1), SAME)
at_branch("divided by steps", lambda s, n: set_op(n, "Div"))
at_branch("times its own", lambda s, n: n.input.__setitem__(1, n.input[0]))
at_branch("times another branch", lambda s, n: n.input.__setitem__(1, s.potentials[0].output[0]))
at_branch("steps of float64 and back", before(1, through(TensorProto.DOUBLE, TensorProto.FLOAT)), SAME)
at_branch(
    "a denormal step",
    lambda s, n: s.change_at(expanded(s, n), 0, lambda a: np.where(np.arange(len(a)) == 1, 1e-40, a).astype(a.dtype)),
)
at_branch(
    "a step of -0.0",
    lambda s, n: s.change_at(expanded(s, n), 0, lambda a: np.where(np.arange(len(a)) == 1, -0.0, a).astype(a.dtype)),
)
at_branch(
    "a step of no number",
    lambda s, n: s.change_at(expanded(s, n), 0, lambda a: np.where(np.arange(len(a)) == 1, np.nan, a).astype(a.dtype)),
)
at_branch(
    "DequantizeLinear with a step per channel",
    lambda s, n: (
        s.give(dequantised(s, n), 1, s.value(expanded(s, n).input[0])),
        s.give(dequantised(s, n), 2, np.full(len(s.value(expanded(s, n).input[0])), 128), np.uint8),
        set_attribute(dequantised(s, n), "axis", 3),
        s.remove(n),
        s.drop_unused(),
    ),
    SAME,
)
at_branch(
    "a wrong rounding by a Sub before", lambda s, n: s.behind(n.input[0], lambda x: plus(s, plus(s, x, 1e9), -1e9))
)
at_branch("a branch squared by Pow", behind(op("Pow", f32(2))))
at_branch("tanh", behind(op("Tanh")))
at_branch("normalised by its layer", behind(op("LayerNormalization", f32(np.ones(8)))))
at_branch("a matrix behind it", behind(op("MatMul", f32(np.random.default_rng(0).normal(size=(8, 8))))))
at_branch(
    "a sum over channels", behind(lambda s, x: s.add("Add", [x, s.add("ReduceSum", [x, s.constant([3])], keepdims=1)]))
)
at_branch(
    "gated by its mean (squeeze and excitation)",
    behind(
        lambda s, x: s.add("Mul", [x, s.add("Sigmoid", [s.add("ReduceMean", [x, s.constant([1, 2])], keepdims=1)])])
    ),
)
at_branch(
    "attention of float",
    behind(
        lambda s, x: s.add(
            "Add",
            [
                x,
                s.add(
                    "MatMul",
                    [s.add("Softmax", [s.add("MatMul", [x, s.add("Transpose", [x], perm=[0, 1, 3, 2])])], axis=-1), x],
                ),
            ],
        )
    ),
)
