"""Frauds about neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, first, set_attribute, some

from frauds.registry import (
    CHANGES,
    FAILS,
    SAME,
    before,
    behind,
    cast,
    chain,
    f32,
    give,
    i64,
    op,
    raised,
    register,
    scaled,
    setting,
    through,
    u8,
)


def at_neuron(name: str, change: Callable[[Surgery, onnx.NodeProto], Any], truth: str = CHANGES) -> None:
    register("neurons", name, lambda s: change(s, some_neuron(s)), truth)


def some_neuron(s: Surgery) -> onnx.NodeProto:
    """Return one that reads a residual stream."""
    return some(n for n in s.neurons if s.made_by(n.input[0], "Add"))[1]


at_neuron("a larger step", give(1, f32(2)))
at_neuron(
    "a step one unit in the last place larger",
    lambda s, n: s.give(n, 1, np.nextafter(np.float32(1), np.float32(2))),
    SAME,
)
at_neuron("a negative step", give(1, f32(-1)))
at_neuron("a zero point", give(2, u8(3)))
at_neuron("no zero point", lambda s, n: n.input.pop(2), SAME)
at_neuron("no zero point's name", lambda s, n: n.input.__setitem__(2, ""), SAME)
at_neuron(
    "signed codes",
    lambda s, n: (
        s.give(n, 2, 0, np.int8),
        s.remove(s.reader(n.output[0], "Clip")),
        s.behind(n.output[0], lambda x: cast(s, x, TensorProto.UINT8)),
    ),
)
at_neuron(
    "codes of 16 bits",
    lambda s, n: (s.give(n, 2, 0, np.uint16), s.behind(n.output[0], lambda x: cast(s, x, TensorProto.UINT8))),
    FAILS,
)
at_neuron("an axis", setting("axis", 3), SAME)
at_neuron("an axis that does not exist", setting("axis", 9), SAME)
at_neuron("saturate 0", setting("saturate", 0), FAILS)
at_neuron("block_size", setting("block_size", 2), FAILS)
at_neuron("output_dtype", setting("output_dtype", TensorProto.UINT8), FAILS)
at_neuron(
    "one step for each channel",
    lambda s, n: (
        s.give(n, 1, np.linspace(1, 2, channels(s, n)), np.float32),
        s.give(n, 2, np.zeros(channels(s, n)), np.uint8),
        set_attribute(n, "axis", 3),
    ),
)
at_neuron("clipped lower", lambda s, n: s.give(s.reader(n.output[0], "Clip"), 2, 63, np.uint8))
at_neuron("clipped higher", lambda s, n: s.give(s.reader(n.output[0], "Clip"), 2, 128, np.uint8))
at_neuron("clipped from below", lambda s, n: s.give(s.reader(n.output[0], "Clip"), 1, 5, np.uint8))
at_neuron("clipped from 0", lambda s, n: s.give(s.reader(n.output[0], "Clip"), 1, 0, np.uint8), SAME)
at_neuron("a lowest code above the largest", lambda s, n: s.give(s.reader(n.output[0], "Clip"), 1, 200, np.uint8))
at_neuron("no Clip", lambda s, n: s.remove(s.reader(n.output[0], "Clip")))
at_neuron("a Clip without bounds", lambda s, n: s.reader(n.output[0], "Clip").input.pop(2))
at_neuron("Min in the place of Clip", lambda s, n: clip_by_min(s, n), SAME)
at_neuron("potential times 2", before(0, scaled(2)))
at_neuron("potential plus a half", before(0, raised(0.5)))
at_neuron("potential rounded before", before(0, op("Round")), SAME)
at_neuron("potential rounded up", before(0, op("Ceil")), SAME)
at_neuron("potential through Relu", before(0, op("Relu")), SAME)
at_neuron("potential through a detour of float16", before(0, through(TensorProto.FLOAT16, TensorProto.FLOAT)), SAME)
at_neuron("potential through a detour of bfloat16", before(0, through(TensorProto.BFLOAT16, TensorProto.FLOAT)), SAME)
at_neuron("potential through Sigmoid", before(0, chain(op("Sigmoid"), scaled(90))))
at_neuron("potential through LeakyRelu", before(0, op("LeakyRelu", alpha=0.1)), SAME)
at_neuron("potential through Softmax", before(0, chain(op("Softmax", axis=3), scaled(127))))
at_neuron("potential of another place", before(0, op("Slice", i64([-1]), i64([-99]), i64([1]), i64([-1]))))
at_neuron("potential of the stem", lambda s, n: n.input.__setitem__(0, other_potential(s, n)))
at_neuron("codes plus 1", behind(op("Add", u8(1))))
at_neuron(
    "codes of the largest of neighbours",
    behind(
        chain(
            op("Transpose", perm=[0, 3, 1, 2]),
            op("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            op("Transpose", perm=[0, 2, 3, 1]),
        )
    ),
)
at_neuron(
    "codes pooled alone",
    behind(
        chain(
            op("Transpose", perm=[0, 3, 1, 2]), op("MaxPool", kernel_shape=[1, 1]), op("Transpose", perm=[0, 2, 3, 1])
        )
    ),
    SAME,
)
for words, attributes, outcome in (
    ("pooled with pads on one side", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, CHANGES),
    ("pooled with dilations", {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2], "dilations": [2, 2]}, CHANGES),
    ("pooled with auto_pad", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, CHANGES),
    ("pooled alone, ceil_mode", {"kernel_shape": [1, 1], "ceil_mode": 1}, SAME),
    ("pooled alone, storage_order", {"kernel_shape": [1, 1], "storage_order": 1}, SAME),
    ("pooled alone, dilations that reach nothing", {"kernel_shape": [1, 1], "dilations": [5, 5]}, SAME),
):
    first_last = op("Transpose", perm=[0, 3, 1, 2]), op("MaxPool", **attributes), op("Transpose", perm=[0, 2, 3, 1])
    at_neuron(words, behind(chain(*first_last)), outcome)
at_neuron("never fires", before(0, raised(-1000000.0)))
at_neuron("always fires", before(0, raised(1000000.0)))
at_neuron("emits NaN", before(0, raised(np.nan)))
at_neuron(
    "Cast in the place of QuantizeLinear",
    lambda s, n: (s.behind(n.output[0], lambda _: cast(s, n.input[0], TensorProto.UINT8)), s.drop_unused()),
)


def channels(s: Surgery, neuron: onnx.NodeProto) -> int:
    """Return the channels of a neuron, of the addition before it."""
    add = s.made(neuron.input[0], "Add")
    maker = s.producer_of(first(i for i in add.input if s.potential(i)))
    expand = s.made(maker.input[1], "Expand")
    return int(s.value(expand.input[1])[-1])


def other_potential(s: Surgery, neuron: onnx.NodeProto) -> str:
    """Return another neuron's potential of the same shape."""
    add = s.made(neuron.input[0], "Add")
    return first(i for i in add.input if not s.is_constant(i))


def clip_by_min(s: Surgery, neuron: onnx.NodeProto) -> None:
    clip = s.reader(neuron.output[0], "Clip")
    clip.op_type = "Min"
    clip.input.pop(1)


for index in range(5):

    def lower(s: Surgery, index: int = index) -> None:
        s.give(s.clips[index * len(s.clips) // 5], 2, 100, np.uint8)

    register("neurons", f"largest code 100, place {index}", lower)
