"""Frauds behind the last exact numbers: raw maps, decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, first, set_attribute, some

from frauds.registry import (
    CHANGES,
    SAME,
    Change,
    Write,
    before,
    cast,
    chain,
    f32,
    fraud,
    i64,
    op,
    plus,
    raised,
    random_matrix,
    register,
    scaled,
    set_op,
    swap_inputs,
    through,
    times,
)


def into(index: int, write: Write) -> Change:
    """Return what writes before the last concatenation: of boxes (0) or scores (1)."""
    return lambda s: before(index, write)(s, final(s))


def into_bins(write: Write) -> Change:
    """Return what writes before the softmax of box bins."""
    return lambda s: before(0, write)(s, softmax(s))


def decoder_strides(s: Surgery) -> onnx.NodeProto:
    """Return the last multiplication, of boxes by strides."""
    return first(
        n
        for n in s.ops("Mul")
        if s.is_constant(n.input[1]) and any(s.output in r.output for r in s.readers(n.output[0]))
    )


def softmax(s: Surgery) -> onnx.NodeProto:
    return first(s.ops("Softmax"))


def bins(s: Surgery) -> onnx.NodeProto:
    """Return the multiplication by the values of box bins."""
    return s.reader(softmax(s).output[0], "Mul")


def at_decoder(name: str, change: Callable[[Surgery], Any], truth: str = CHANGES) -> None:
    register("decoder", name, change, truth)


at_decoder("softmax over sides", lambda s: set_attribute(softmax(s), "axis", 1))
at_decoder("softmax over places", lambda s: set_attribute(softmax(s), "axis", 3))
at_decoder("softmax axis counted from the end", lambda s: set_attribute(softmax(s), "axis", -2), SAME)
at_decoder("softmax without axis", lambda s: set_attribute(softmax(s), "axis", None))
at_decoder("LogSoftmax", lambda s: set_op(softmax(s), "LogSoftmax"))
at_decoder("Hardmax", lambda s: set_op(softmax(s), "Hardmax"))
at_decoder("a temperature of the softmax", lambda s: softmax(s).input.__setitem__(0, times(s, softmax(s).input[0], 2)))
at_decoder("bins of other values", lambda s: s.change_at(bins(s), 1, lambda a: a[:, :, ::-1]))
at_decoder("bins one higher", lambda s: s.change_at(bins(s), 1, lambda a: a + 1))
at_decoder(
    "bins of each place",
    lambda s: s.change_at(bins(s), 1, lambda a: a * np.linspace(0.5, 1.5, 320, dtype=np.float32).reshape(1, 1, 1, 320)),
)
at_decoder(
    "bins of each side",
    lambda s: s.change_at(bins(s), 1, lambda a: a * np.array([1, 1, 1, 2], np.float32).reshape(1, 4, 1, 1)),
)
at_decoder("mean of bins", lambda s: set_op(first(s.ops("ReduceSum")), "ReduceMean"))
at_decoder(
    "keepdims",
    lambda s: (
        set_attribute(first(s.ops("ReduceSum")), "keepdims", 1),
        s.behind(first(s.ops("ReduceSum")).output[0], lambda x: s.add("Squeeze", [x, s.constant([2])])),
    ),
    SAME,
)
at_decoder("noop_with_empty_axes", lambda s: set_attribute(first(s.ops("ReduceSum")), "noop_with_empty_axes", 1), SAME)
at_decoder("scores through Tanh", lambda s: set_op(first(s.ops("Sigmoid")), "Tanh"))
at_decoder("scores through HardSigmoid", lambda s: set_op(first(s.ops("Sigmoid")), "HardSigmoid"))
at_decoder("scores without Sigmoid", lambda s: s.remove(first(s.ops("Sigmoid"))))
at_decoder(
    "scores through two Sigmoids",
    lambda s: s.behind(first(s.ops("Sigmoid")).output[0], lambda x: s.add("Sigmoid", [x])),
)
at_decoder(
    "scores lowered before",
    lambda s: first(s.ops("Sigmoid")).input.__setitem__(0, plus(s, first(s.ops("Sigmoid")).input[0], -1)),
)
at_decoder(
    "the scores of one class zero",
    lambda s: s.behind(first(s.ops("Sigmoid")).output[0], lambda x: times(s, x, np.array([1, 0, 1]).reshape(1, 3, 1))),
)
at_decoder("anchors moved", lambda s: [s.change_at(n, 0, lambda a: a + 1) for n in anchored(s)])
at_decoder("anchors of one side moved", lambda s: s.change_at(anchored(s)[0], 0, lambda a: a + np.float32(0.25)))
at_decoder("strides doubled", lambda s: s.change_at(decoder_strides(s), 1, lambda a: a * 2))
at_decoder("strides of one level", lambda s: s.change_at(decoder_strides(s), 1, lambda a: np.full_like(a, 4)))
at_decoder(
    "strides of one box",
    lambda s: s.change_at(
        decoder_strides(s), 1, lambda a: np.where(np.arange(a.size).reshape(a.shape) == 7, 0, a).astype(a.dtype)
    ),
)
at_decoder(
    "left and right exchanged",
    lambda s: first(n for n in anchored(s) if n.op_type == "Sub").input.__setitem__(
        1, first(n for n in anchored(s) if n.op_type == "Add").input[1]
    ),
)
at_decoder("a wider middle", lambda s: s.change_at(first(s.ops("Div")), 1, lambda a: a * np.float32(1.5)))
at_decoder("a slice that starts later", lambda s: s.give(s.ops("Slice")[0], 1, [1], np.int64))
at_decoder("slices exchanged", lambda s: swap_slices(s))
at_decoder(
    "a slice with a step of -1",
    lambda s: (
        s.give(s.ops("Slice")[0], 1, [1], np.int64),
        s.give(s.ops("Slice")[0], 2, [-9], np.int64),
        s.give(s.ops("Slice")[0], 4, [-1], np.int64),
    ),
)
at_decoder("a slice that starts at a negative place", lambda s: s.give(s.ops("Slice")[0], 1, [-4], np.int64), SAME)
at_decoder("a slice that ends far beyond", lambda s: s.give(s.ops("Slice")[1], 2, [2**40], np.int64), SAME)
at_decoder(
    "boxes before scores exchanged", lambda s: final(s).input.__setitem__(slice(None), list(final(s).input)[::-1])
)
at_decoder("boxes scaled", into(0, scaled(1.01)))
at_decoder("boxes rounded", into(0, op("Round")))
at_decoder("boxes plus nothing", into(0, raised(0)), SAME)
at_decoder("boxes in float16", into(0, through(TensorProto.FLOAT16, TensorProto.FLOAT)))
at_decoder("scores in float64", into(1, through(TensorProto.DOUBLE, TensorProto.FLOAT)), SAME)
at_decoder(
    "all in float64",
    lambda s: (
        first(s.ops("Sigmoid")).input.__setitem__(0, cast(s, first(s.ops("Sigmoid")).input[0], TensorProto.DOUBLE)),
        s.behind(first(s.ops("Sigmoid")).output[0], lambda x: cast(s, x, TensorProto.FLOAT)),
    ),
)
at_decoder("boxes clipped to the image", into(0, op("Clip", f32(0), f32(48))))
at_decoder("a learned layer by Mul and ReduceSum", lambda s: dense_layer(s, final(s), 0))
at_decoder("a learned layer of scores by Mul and ReduceSum", lambda s: dense_layer(s, final(s), 1))
at_decoder(
    "a learned layer by MatMul", into(1, lambda s, x: s.add("MatMul", [s.constant(random_matrix(3), np.float32), x]))
)
at_decoder(
    "a learned layer by Einsum",
    into(1, lambda s, x: s.add("Einsum", [s.constant(random_matrix(3), np.float32), x], equation="oi,bin->bon")),
)
at_decoder(
    "a learned layer of raw boxes by MatMul",
    into_bins(lambda s, x: s.add("MatMul", [s.constant(random_matrix(16), np.float32), x])),
)
at_decoder(
    "a learned layer of raw boxes by Gemm",
    into_bins(
        lambda s, x: s.add(
            "Reshape",
            [
                s.add(
                    "Gemm", [s.constant(random_matrix(64), np.float32), s.add("Reshape", [x, s.constant([64, 320])])]
                ),
                s.constant([1, 4, 16, 320]),
            ],
        )
    ),
)
at_decoder(
    "a hidden layer with an activation",
    lambda s: final(s).input.__setitem__(
        1,
        s.add(
            "Sigmoid",
            [
                s.add(
                    "MatMul",
                    [
                        s.constant(random_matrix(3), np.float32),
                        s.add(
                            "Relu",
                            [
                                s.add(
                                    "MatMul",
                                    [s.constant(random_matrix(3), np.float32), first(s.ops("Sigmoid")).input[0]],
                                )
                            ],
                        ),
                    ],
                )
            ],
        ),
    ),
)
at_decoder("a convolution in the decoder", into(1, op("Conv", f32(random_matrix(3)[:, :, None]))))
at_decoder("a recurrent layer in the decoder", lambda s: recurrent(s))
at_decoder(
    "a learned layer by BatchNormalization",
    into(
        1,
        lambda s, x: s.add(
            "BatchNormalization",
            [x, *(s.constant(a, np.float32) for a in ([1, 2, 3], [0, 0.1, 0], [0, 0, 0.2], [1, 1, 1]))],
        ),
    ),
)
at_decoder("a learned layer by LayerNormalization", into(1, op("LayerNormalization", f32(np.ones((3, 320))), axis=1)))
at_decoder(
    "a Fourier transform",
    into(
        1,
        chain(
            op("Unsqueeze", i64([3])),
            op("DFT", axis=2),
            op("Slice", i64([0]), i64([1]), i64([3])),
            op("Squeeze", i64([3])),
        ),
    ),
)
at_decoder(
    "a hidden product by STFT",
    into(
        1,
        lambda s, x: s.add(
            "Mul",
            [
                x,
                s.add(
                    "ReduceMean",
                    [
                        s.add(
                            "STFT",
                            [
                                s.add("Reshape", [x, s.constant([3, 320, 1])]),
                                s.constant(64),
                                s.constant(np.hanning(64), np.float32),
                            ],
                        )
                    ],
                    keepdims=0,
                ),
            ],
        ),
    ),
)
at_decoder(
    "codes added to scores",
    into(1, lambda s, x: s.add("Add", [x, s.add("ReduceMean", [cast(s, s.codes_of(s.joins[0]), 1)], keepdims=0)])),
)
at_decoder(
    "pixels added to scores", into(1, lambda s, x: s.add("Add", [x, s.add("ReduceMean", [s.image], keepdims=0)]))
)
at_decoder(
    "potentials added to boxes",
    into(0, lambda s, x: s.add("Add", [x, s.add("ReduceMean", [s.additions[0].output[0]], keepdims=0)])),
)
at_decoder(
    "scores times boxes",
    lambda s: final(s).input.__setitem__(
        1, s.add("Mul", [final(s).input[1], s.add("ReduceMean", [final(s).input[0], s.constant([1])], keepdims=1)])
    ),
)
at_decoder(
    "scores smoothed over places", into(1, op("AveragePool", kernel_shape=[3], pads=[1, 1], count_include_pad=1))
)
at_decoder(
    "the best score alone",
    into(
        1,
        lambda s, x: s.add(
            "Where",
            [s.add("Equal", [x, s.add("ReduceMax", [x, s.constant([1])], keepdims=1)]), x, s.constant(0, np.float32)],
        ),
    ),
)
at_decoder(
    "a bias for each place",
    lambda s: first(s.ops("Sigmoid")).input.__setitem__(
        0, plus(s, first(s.ops("Sigmoid")).input[0], np.random.default_rng(0).normal(size=(1, 3, 320)))
    ),
)
at_decoder("constant boxes", lambda s: final(s).input.__setitem__(0, s.constant(np.full((1, 4, 320), 20), np.float32)))
at_decoder("axis of the last concatenation counted from the end", lambda s: set_attribute(final(s), "axis", -2), SAME)
at_decoder(
    "sides as the other reshape",
    lambda s: s.give(s.made(softmax(s).input[0], "Reshape"), 1, [1, -1, 16, 320], np.int64),
    SAME,
)
at_decoder(
    "sides of transposed bins",
    into_bins(
        chain(
            op("Reshape", i64([1, 16, 4, 320])), op("Transpose", perm=[0, 2, 1, 3]), op("Reshape", i64([1, 4, 16, 320]))
        )
    ),
)
at_decoder("Add of itself in the place of times 2", lambda s: middle_otherwise(s), SAME)
at_decoder("a cosine", into(1, op("Cos")))
at_decoder("an error function", into(1, op("Erf")))
at_decoder("TopK", lambda s: sorted_scores(s))
at_decoder(
    "non-maximum suppression",
    lambda s: final(s).input.__setitem__(
        1,
        s.add(
            "Mul",
            [
                final(s).input[1],
                cast(
                    s,
                    s.add(
                        "ReduceMax",
                        [
                            s.add(
                                "NonMaxSuppression",
                                [
                                    s.add("Transpose", [final(s).input[0]], perm=[0, 2, 1]),
                                    final(s).input[1],
                                    s.constant([9]),
                                    s.constant([0.5], np.float32),
                                ],
                            )
                        ],
                        keepdims=0,
                    ),
                    TensorProto.FLOAT,
                ),
            ],
        ),
    ),
)


def final(s: Surgery) -> onnx.NodeProto:
    """Return the last concatenation: boxes, scores."""
    return s.made(s.output, "Concat")


def anchored(s: Surgery) -> list[onnx.NodeProto]:
    """Return the subtraction and the addition of distances from and to anchors."""
    return some(n for n in s.ops("Sub", "Add") if s.is_constant(n.input[0]) and s.made_by(n.input[1], "Slice"))


def before_softmax(s: Surgery, write: Callable[[str], str]) -> None:
    softmax(s).input[0] = write(softmax(s).input[0])


def dense_layer(s: Surgery, node: onnx.NodeProto, index: int) -> None:
    """Write a matrix as a multiplication and a sum."""
    n = 3 if index else 4
    matrix = s.constant(random_matrix(n)[None, :, :, None], np.float32)
    apart = s.add("Unsqueeze", [node.input[index], s.constant([1])])
    node.input[index] = s.add("ReduceSum", [s.add("Mul", [apart, matrix]), s.constant([2])], keepdims=0)


def swap_slices(s: Surgery) -> None:
    one, two = s.ops("Slice")[:2]
    for i in (1, 2):
        one.input[i], two.input[i] = two.input[i], one.input[i]


def middle_otherwise(s: Surgery) -> None:
    """Write times one half in the place of a division by 2."""
    node = first(s.ops("Div"))
    node.op_type = "Mul"
    s.give(node, 1, 0.5, np.float32)


def recurrent(s: Surgery) -> None:
    numbers = np.random.default_rng(0).normal(size=(1, 12, 3))
    weight, state = s.constant(numbers, np.float32), s.constant(numbers, np.float32)
    sequence = s.add("Transpose", [final(s).input[1]], perm=[2, 0, 1])
    found = s.add("LSTM", [sequence, weight, state], hidden_size=3)
    squeezed = s.add("Squeeze", [found, s.constant([1])])
    final(s).input[1] = s.add("Transpose", [squeezed], perm=[1, 2, 0])


def sorted_scores(s: Surgery) -> None:
    join = final(s)
    values = s.add("TopK", [join.input[1], s.constant([320])], axis=2)
    s.producer_of(values).output.append("places")
    join.input[1] = values


@fraud("raw maps")
def boxes_of_levels_mixed(s: Surgery) -> None:
    """Join the levels in the other order."""
    joined = s.made(s.made(softmax(s).input[0], "Reshape").input[0], "Concat")
    swap_inputs(joined, 0, 1)


@fraud("raw maps")
def scores_of_levels_mixed(s: Surgery) -> None:
    joined = s.made(first(s.ops("Sigmoid")).input[0], "Concat")
    swap_inputs(joined, 0, 1)


@fraud("raw maps")
def turned_by_a_quarter(s: Surgery) -> None:
    node = s.raw[0]
    transposed = s.producer_of(node.input[0]) if node.op_type == "Identity" else node
    set_attribute(transposed, "perm", [0, 3, 2, 1])


@fraud("raw maps", SAME)
def without_their_identity(s: Surgery) -> None:
    for node in list(s.ops("Identity")):
        s.remove(node)


@fraud("raw maps")
def channels_in_reverse(s: Surgery) -> None:
    node = s.raw[0]
    source = s.constant(np.arange(64)[::-1])
    s.behind(node.output[0], lambda x: s.add("Gather", [x, source], axis=1))


@fraud("raw maps")
def of_the_other_branch(s: Surgery) -> None:
    """Give the last product of a level the weights of the other level."""
    gemms = s.gemms
    box = [g for g in gemms if s.value(s.kernel(g)).shape[1:] == (64, 64)]
    s.gemm_parts(box[0])["weights"].input[0] = s.gemm_parts(box[1])["weights"].input[0]


@fraud("raw maps")
def twice_the_boxes(s: Surgery) -> None:
    s.behind(s.raw[0].output[0], lambda x: times(s, x, 2))
