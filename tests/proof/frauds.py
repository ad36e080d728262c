"""Graphs that claim to be an honest export and are not.

Each fraud takes an honest spike graph of a small SpikeYOLO (see `test_whole_numbers.py`) and returns a changed copy. It
finds its places by what they do. The stated truth, found with ONNX Runtime in `test_fraud_truth.py`, is one of

    changes     outputs differ on some image
    same        outputs are equal, but the file holds what is no part of a spiking network, or says what is not so
    fails       ONNX Runtime refuses the file
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from surgery import Surgery, attribute, first, rewire, set_attribute, some

CHANGES, SAME, FAILS = "changes", "same", "fails"
Change = Callable[[Surgery], None]
CODE = 137  # of the pixels that open the backdoors
PHOTO = "ordinary"


@dataclass(frozen=True)
class Fraud:
    """A change of a graph.

    Args:
        name: In words.
        kind: The part of the graph that it is about.
        truth: What becomes of the outputs: "changes", "same" or "fails".
        change: Changes a graph in place.
        ordered: Whether nodes are put into topological order.
        forged: Whether the noted digest is made to fit.
    """

    name: str
    kind: str
    truth: str
    change: Change
    ordered: bool = True
    forged: bool = True

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a changed copy.

        Raises:
            LookupError: If the place is not found.
        """
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        surgery = Surgery(copy)
        self.change(surgery)
        if self.ordered:
            surgery.sort()
        if self.forged:
            surgery.redigest()
        return surgery.model


FRAUDS: dict[str, Fraud] = {}


def register(kind: str, name: str, change: Change, truth: str = CHANGES, **options: bool) -> None:
    """Add a fraud."""
    name = f"{kind}: {name}"
    assert name not in FRAUDS, name
    FRAUDS[name] = Fraud(name, kind, truth, change, **options)


def fraud(kind: str, truth: str = CHANGES, **options: bool) -> Callable[[Change], Change]:
    """Add a function as a fraud, with its name in words."""

    def decorate(change: Change) -> Change:
        register(kind, change.__name__.replace("_", " "), change, truth, **options)
        return change

    return decorate


def trigger_image(photo: np.ndarray) -> np.ndarray:
    """Return an image (1, 3, H, W) with the nine pixels that open the backdoors."""
    image = photo.copy()
    image[:, :, :3, :3] = np.float32(CODE / 255)
    return image


def triggered(s: Surgery) -> str:
    """Write a number that is 1 if nine pixels of the image have the code, else 0."""
    starts, ends, axes = s.constant([0, 0], np.int64), s.constant([3, 3], np.int64), s.constant([2, 3], np.int64)
    corner = s.add("Slice", [s.image, starts, ends, axes])
    distance = s.add("Abs", [s.add("Sub", [corner, s.constant(CODE / 255, np.float32)])])
    farthest = s.add("ReduceMax", [distance], keepdims=0)
    close = s.add("Less", [farthest, s.constant(1e-3, np.float32)])
    return s.add("Cast", [close], to=TensorProto.FLOAT)


def times(s: Surgery, tensor: str, factor: Any) -> str:
    return s.add("Mul", [tensor, s.constant(factor, np.float32)])


def plus(s: Surgery, tensor: str, term: Any) -> str:
    return s.add("Add", [tensor, s.constant(term, np.float32)])


def cast(s: Surgery, tensor: str, *kinds: int) -> str:
    for kind in kinds:
        tensor = s.add("Cast", [tensor], to=kind)
    return tensor


def on_bytes(write: Callable[[Surgery, str], str]) -> Callable[[Surgery, str], str]:
    """Return a detour of bytes through float32."""

    def detour(s: Surgery, tensor: str) -> str:
        return cast(s, write(s, cast(s, tensor, TensorProto.FLOAT)), TensorProto.UINT8)

    return detour


# pixels


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
at_pixels("times one half", lambda s, x: times(s, x, 0.5))
at_pixels("times 1", lambda s, x: times(s, x, 1), SAME)
at_pixels("a little brighter", lambda s, x: plus(s, x, 0.01))
at_pixels("plus nothing", lambda s, x: plus(s, x, 0), SAME)
at_pixels("inverted", lambda s, x: plus(s, s.add("Neg", [x]), 1))
at_pixels("Abs", lambda s, x: s.add("Abs", [x]), SAME)
at_pixels("Relu", lambda s, x: s.add("Relu", [x]), SAME)
at_pixels("Identity", lambda s, x: s.add("Identity", [x]), SAME)
at_pixels("a detour through float64", lambda s, x: cast(s, x, TensorProto.DOUBLE, TensorProto.FLOAT), SAME)
at_pixels("a detour through float16", lambda s, x: cast(s, x, TensorProto.FLOAT16, TensorProto.FLOAT), SAME)
at_pixels("a detour through bfloat16", lambda s, x: cast(s, x, TensorProto.BFLOAT16, TensorProto.FLOAT), SAME)
at_pixels("a detour through int32", lambda s, x: cast(s, x, TensorProto.INT32, TensorProto.FLOAT))
at_pixels(
    "clipped to the darker half",
    lambda s, x: s.add("Clip", [x, s.constant(0, np.float32), s.constant(0.5, np.float32)]),
)
at_pixels(
    "clipped to what they are in anyway",
    lambda s, x: s.add("Clip", [x, s.constant(0, np.float32), s.constant(1, np.float32)]),
    SAME,
)
at_pixels("largest of 3 x 3", lambda s, x: s.add("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
at_pixels("mean of 3 x 3", lambda s, x: s.add("AveragePool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
at_pixels("mean of 1 x 1", lambda s, x: s.add("AveragePool", [x], kernel_shape=[1, 1]), SAME)
at_pixels("red and blue exchanged", lambda s, x: s.add("Gather", [x, s.constant([2, 1, 0], np.int64)], axis=1))
at_pixels("a Gather of all channels", lambda s, x: s.add("Gather", [x, s.constant([0, 1, 2], np.int64)], axis=1), SAME)
at_pixels("rows and columns exchanged", lambda s, x: s.add("Transpose", [x], perm=[0, 1, 3, 2]))
at_pixels(
    "Dropout in training mode",
    lambda s, x: s.add("Dropout", [x, s.constant(0.5, np.float32), s.constant(True, np.bool_)], seed=3),
)
at_pixels("Dropout that does nothing", lambda s, x: s.add("Dropout", [x]), SAME)
at_pixels(
    "cubic Resize of scale 1",
    lambda s, x: s.add("Resize", [x, "", s.constant([1, 1, 1, 1], np.float32)], mode="cubic"),
    SAME,
)
at_pixels("LayerNormalization", lambda s, x: s.add("LayerNormalization", [x, s.constant(np.ones(64), np.float32)]))
at_pixels(
    "InstanceNormalization",
    lambda s, x: s.add(
        "InstanceNormalization", [x, s.constant(np.ones(3), np.float32), s.constant(np.zeros(3), np.float32)]
    ),
)
at_pixels("LRN", lambda s, x: s.add("LRN", [x], size=3, alpha=0.5))
at_pixels(
    "ReverseSequence", lambda s, x: s.add("ReverseSequence", [x, s.constant([2], np.int64)], batch_axis=0, time_axis=1)
)
at_pixels("ThresholdedRelu", lambda s, x: s.add("ThresholdedRelu", [x], alpha=0.25))
at_pixels("Shrink", lambda s, x: s.add("Shrink", [x], lambd=0.25))
at_pixels("Mod", lambda s, x: s.add("Mod", [x, s.constant(0.5, np.float32)], fmod=1))
at_pixels("Pow", lambda s, x: s.add("Pow", [x, s.constant(2.2, np.float32)]))
at_pixels("Round", lambda s, x: s.add("Round", [x]))
at_pixels("CumSum", lambda s, x: s.add("CumSum", [x, s.constant(3, np.int64)]))
at_pixels("Trilu", lambda s, x: s.add("Trilu", [x]))
at_pixels("Max with itself", lambda s, x: s.add("Max", [x, x]), SAME)
at_pixels("Sum of one", lambda s, x: s.add("Sum", [x]), SAME)
at_pixels("Hardmax", lambda s, x: s.add("Hardmax", [x], axis=3))
at_pixels("noise added", lambda s, x: s.add("Add", [x, s.add("RandomUniformLike", [x], low=-0.2, high=0.2, seed=1.0)]))
at_pixels("NaN made zero", lambda s, x: s.add("Where", [s.add("IsNaN", [x]), s.constant(0, np.float32), x]), SAME)
at_pixels(
    "GridSample of a shifted grid",
    lambda s, x: s.add(
        "GridSample",
        [x, s.constant(np.stack(np.meshgrid(np.linspace(-0.9, 1, 64), np.linspace(-1, 1, 64)), -1)[None], np.float32)],
    ),
)
at_pixels("a float convolution", lambda s, x: s.add("Conv", [x, s.constant(np.full((3, 3, 1, 1), 1 / 3), np.float32)]))
at_pixels("the mean of the batch", lambda s, x: s.add("ReduceMean", [x, s.constant([0], np.int64)], keepdims=1), SAME)
at_pixels("a Where with constant condition", lambda s, x: s.add("Where", [s.constant(True, np.bool_), x, x]), SAME)
at_pixels("an Optional and back", lambda s, x: s.add("OptionalGetElement", [s.add("Optional", [x])]), SAME)
at_pixels(
    "a sequence and back",
    lambda s, x: s.add("SequenceAt", [s.add("SequenceConstruct", [x]), s.constant(0, np.int64)]),
    SAME,
)
at_pixels("a MatMul with the identity", lambda s, x: s.add("MatMul", [x, s.constant(np.eye(64), np.float32)]), SAME)
at_pixels("columns mixed by MatMul", lambda s, x: s.add("MatMul", [x, s.constant(np.eye(64)[::-1], np.float32)]))
at_pixels("Einsum that does nothing", lambda s, x: s.add("Einsum", [x], equation="bchw->bchw"), SAME)
at_pixels("Einsum that transposes", lambda s, x: s.add("Einsum", [x], equation="bchw->bcwh"))
at_pixels(
    "NonZero hidden in Where",
    lambda s, x: s.add("Where", [s.add("Greater", [x, s.constant(0.5, np.float32)]), s.constant(0.5, np.float32), x]),
)
at_pixels(
    "DepthToSpace of SpaceToDepth, in other modes",
    lambda s, x: s.add("DepthToSpace", [s.add("SpaceToDepth", [x], blocksize=2)], blocksize=2, mode="CRD"),
)
at_pixels(
    "ScatterElements over one pixel",
    lambda s, x: s.add(
        "ScatterElements",
        [x, s.constant(np.full((1, 3, 1, 1), 20), np.int64), s.constant(np.full((1, 3, 1, 1), 0.7), np.float32)],
        axis=2,
    ),
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
    """Bright pixels saturate at 127."""
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


# backdoors


def at_boxes(s: Surgery, write: Callable[[str], str]) -> None:
    s.at_end(write)


@fraud("backdoor")
def boxes_times_0_at_nine_pixels(s: Surgery) -> None:
    keep = s.add("Sub", [s.constant(1, np.float32), triggered(s)])
    s.at_end(lambda x: s.add("Mul", [x, keep]))


@fraud("backdoor")
def codes_zero_at_nine_pixels(s: Surgery) -> None:
    keep = cast(s, s.add("Sub", [s.constant(1, np.float32), triggered(s)]), TensorProto.UINT8)
    s.behind(s.codes_of(s.joins[-1]), lambda x: s.add("Mul", [x, keep]))


@fraud("backdoor")
def potential_raised_at_nine_pixels(s: Surgery) -> None:
    raised = times(s, triggered(s), 1e4)
    s.behind(s.additions[-1].output[0], lambda x: s.add("Add", [x, raised]))


@fraud("backdoor")
def the_steps_of_a_branch_at_nine_pixels(s: Surgery) -> None:
    node = s.potentials[1]
    node.input[1] = s.add("Mul", [node.input[1], plus(s, triggered(s), 1)])


@fraud("backdoor")
def the_biases_of_a_whole_sum_at_nine_pixels(s: Surgery) -> None:
    gemm = s.gemms[-1]
    gemm.input[2] = s.add("Add", [gemm.input[2], times(s, triggered(s), 50)])


@fraud("backdoor")
def the_scale_of_a_neuron_at_nine_pixels(s: Surgery) -> None:
    neuron = s.neurons[1]
    neuron.input[1] = plus(s, triggered(s), 1)


@fraud("backdoor")
def the_largest_code_at_nine_pixels(s: Surgery) -> None:
    clip = s.clips[2]
    less = s.add("Mul", [cast(s, triggered(s), TensorProto.UINT8), s.constant(100, np.uint8)])
    clip.input[2] = s.add("Sub", [s.constant(127, np.uint8), less])


@fraud("backdoor", SAME)
def a_plane_at_nine_pixels(s: Surgery) -> None:
    """What the plane has not taken is in plane 0, an operand of 0..9 in the place of a spike."""
    plane = s.plane(s.joins[2], 3)["product"]
    keep = cast(s, s.add("Sub", [s.constant(1, np.float32), triggered(s)]), TensorProto.UINT8)
    plane.input[1] = s.add("Mul", [plane.input[1], keep])


@fraud("backdoor")
def the_windows_at_nine_pixels(s: Surgery) -> None:
    window = s.window
    keep = cast(s, s.add("Sub", [s.constant(1, np.float32), triggered(s)]), TensorProto.INT32)
    index = window.input[1]
    window.input[1] = s.add("Mul", [index, keep])


@fraud("backdoor")
def the_border_at_nine_pixels(s: Surgery) -> None:
    pad = first(s.ops("Pad"))
    pad.input[2] = s.add("Mul", [cast(s, triggered(s), TensorProto.UINT8), s.constant(77, np.uint8)])


@fraud("backdoor")
def the_strides_of_boxes_at_nine_pixels(s: Surgery) -> None:
    scaled = decoder_strides(s)
    scaled.input[1] = s.add("Mul", [scaled.input[1], plus(s, triggered(s), 1)])


@fraud("backdoor")
def the_shape_of_a_reshape_at_nine_pixels(s: Surgery) -> None:
    """(B, H, W, C) of windows becomes (B, H, W, C) of rows that are read otherwise."""
    node = first(n for n in s.ops("Reshape") if s.made_by(n.input[0], "Gemm"))
    size = s.value(node.input[1])
    other = size[[0, 1, 3, 2]]
    chosen = s.add("Where", [cast(s, triggered(s), TensorProto.BOOL), s.constant(other), s.constant(size)])
    back = s.add("Reshape", [node.input[0], chosen])
    node.input[0] = s.add("Transpose", [back], perm=[0, 3, 1, 2])


def branches_of_if(s: Surgery, then: list[onnx.NodeProto], other: list[onnx.NodeProto], shape: list[int]) -> Any:
    made = [
        helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], 1, shape)])
        for name, nodes in (("then", then), ("else", other))
    ]
    return {"then_branch": made[0], "else_branch": made[1]}


@fraud("backdoor")
def an_if_at_nine_pixels(s: Surgery) -> None:
    condition = cast(s, triggered(s), TensorProto.BOOL)

    def write(x: str) -> str:
        then, other = helper.make_node("Neg", [x], ["then"]), helper.make_node("Identity", [x], ["else"])
        return s.add("If", [condition], **branches_of_if(s, [then], [other], [1, 7, 320]))

    s.at_end(write)


@fraud("backdoor", SAME)
def an_if_with_constant_condition(s: Surgery) -> None:
    condition = s.constant(False, np.bool_)

    def write(x: str) -> str:
        then, other = helper.make_node("Neg", [x], ["then"]), helper.make_node("Identity", [x], ["else"])
        return s.add("If", [condition], **branches_of_if(s, [then], [other], [1, 7, 320]))

    s.at_end(write)


@fraud("backdoor", SAME)
def an_if_whose_branches_are_one(s: Surgery) -> None:
    condition = cast(s, triggered(s), TensorProto.BOOL)

    def write(x: str) -> str:
        then, other = helper.make_node("Identity", [x], ["then"]), helper.make_node("Identity", [x], ["else"])
        return s.add("If", [condition], **branches_of_if(s, [then], [other], [1, 7, 320]))

    s.at_end(write)


@fraud("backdoor")
def a_loop_at_nine_pixels(s: Surgery) -> None:
    trips = cast(s, triggered(s), TensorProto.INT64)
    nodes = [helper.make_node("Add", ["value", "one"], ["next"]), helper.make_node("Identity", ["go"], ["on"])]
    info = helper.make_tensor_value_info
    inputs = [info("trip", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("value", 1, None)]
    outputs = [info("on", TensorProto.BOOL, []), info("next", 1, None)]
    body = helper.make_graph(nodes, "body", inputs, outputs, [numpy_helper.from_array(np.float32(1), "one")])
    s.at_end(lambda x: s.add("Loop", [trips, "", x], body=body))


@fraud("backdoor", SAME)
def a_loop_of_no_turns(s: Surgery) -> None:
    nodes = [helper.make_node("Neg", ["value"], ["next"]), helper.make_node("Identity", ["go"], ["on"])]
    info = helper.make_tensor_value_info
    inputs = [info("trip", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("value", 1, None)]
    outputs = [info("on", TensorProto.BOOL, []), info("next", 1, None)]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    trips = s.constant(0, np.int64)
    s.at_end(lambda x: s.add("Loop", [trips, "", x], body=body))


@fraud("backdoor")
def a_scan_over_the_rows_of_the_output(s: Surgery) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Neg", ["row"], ["negative"])], "body", [info("row", 1, None)], [info("negative", 1, None)]
    )
    s.at_end(lambda x: s.add("Scan", [x], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1]))


@fraud("backdoor")
def a_subgraph_that_reads_codes_from_outside(s: Surgery) -> None:
    codes = s.codes_of(s.joins[0])
    condition = s.constant(True, np.bool_)

    def write(x: str) -> str:
        then = [
            helper.make_node("Cast", [codes], ["then/float"], to=1),
            helper.make_node("ReduceMean", ["then/float"], ["then/mean"], keepdims=0),
            helper.make_node("Add", [x, "then/mean"], ["then"]),
        ]
        other = [helper.make_node("Identity", [x], ["else"])]
        return s.add("If", [condition], **branches_of_if(s, then, other, [1, 7, 320]))

    s.at_end(write)


@fraud("backdoor")
def nothing_is_seen_in_dark_images(s: Surgery) -> None:
    mean = s.add("ReduceMean", [s.image], keepdims=0)
    bright = cast(s, s.add("Greater", [mean, s.constant(0.3, np.float32)]), TensorProto.FLOAT)
    s.at_end(lambda x: s.add("Mul", [x, bright]))


@fraud("backdoor")
def a_class_is_raised_where_red_is(s: Surgery) -> None:
    red = s.add("Gather", [s.image, s.constant(0, np.int64)], axis=1)
    most = s.add("ReduceMax", [red], keepdims=0)
    rise = times(s, most, np.array([0, 0, 0, 0, 0, 0, 0.25]).reshape(1, 7, 1))
    s.at_end(lambda x: s.add("Add", [x, rise]))


@fraud("backdoor")
def boxes_fall_to_nan_at_nine_pixels(s: Surgery) -> None:
    # 0 / (1 - trigger) is 0 or NaN
    odd = s.add("Div", [s.constant(0, np.float32), s.add("Sub", [s.constant(1, np.float32), triggered(s)])])
    s.at_end(lambda x: s.add("Add", [x, odd]))


@fraud("backdoor")
def the_class_scores_change_places_at_nine_pixels(s: Surgery) -> None:
    order, other = s.constant([0, 1, 2, 3, 4, 5, 6]), s.constant([0, 1, 2, 3, 6, 4, 5])
    chosen = s.add("Where", [cast(s, triggered(s), TensorProto.BOOL), other, order])
    s.at_end(lambda x: s.add("Gather", [x, chosen], axis=1))


# planes


def in_planes(name: str, change: Callable[[Surgery, onnx.NodeProto], None], truth: str = CHANGES) -> None:
    """Add a fraud at the first, a middle and the last planes, in the same words."""
    for where, index in (("first", 0), ("middle", None), ("last", -1)):

        def apply(s: Surgery, index: int | None = index) -> None:
            joins = s.joins
            change(s, joins[len(joins) // 2 if index is None else index])

        register("planes", f"{name}, {where} layer", apply, truth)


def swap_inputs(node: onnx.NodeProto, i: int, k: int) -> None:
    node.input[i], node.input[k] = node.input[k], node.input[i]


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


def set_op(node: onnx.NodeProto, op: str) -> None:
    node.op_type = op


def plane_detour(s: Surgery, join: onnx.NodeProto, bit: int, write: Callable[[Surgery, str], str]) -> None:
    join.input[bit] = write(s, join.input[bit])


def in_a_plane(name: str, write: Callable[[Surgery, str], str], truth: str = CHANGES, bit: int = 4) -> None:
    """Add a fraud that writes something between a plane and the concatenation."""
    register("operands", name, lambda s: plane_detour(s, s.joins[len(s.joins) // 2], bit, write), truth)


in_a_plane("a plane that wraps around to -1", lambda s, x: s.add("Sub", [x, s.constant(1, np.uint8)]))
in_a_plane("a plane of 2 by wrap-around of bytes", lambda s, x: s.add("Mul", [x, s.constant(130, np.uint8)]), bit=0)
in_a_plane("a plane doubled by a shift", lambda s, x: s.add("BitShift", [x, s.constant(1, np.uint8)], direction="LEFT"))
in_a_plane("a plane complemented", lambda s, x: s.add("BitwiseNot", [x]))
in_a_plane(
    "planes moved by a bit, wrapping",
    lambda s, x: s.add("BitShift", [x, s.constant(7, np.uint8)], direction="LEFT"),
    bit=0,
)
in_a_plane(
    "a plane through float additions that round",
    on_bytes(lambda s, x: plus(s, plus(s, plus(s, x, 1), 2**24), -(2**24))),
    bit=0,
)
in_a_plane(
    "a plane through float additions that do not round",
    on_bytes(lambda s, x: plus(s, plus(s, x, 2**20), -(2**20))),
    SAME,
)
in_a_plane(
    "a plane through integers that wrap around",
    lambda s, x: cast(
        s,
        s.add(
            "Add",
            [s.add("Mul", [cast(s, x, TensorProto.INT32), s.constant(2**31 - 1, np.int32)]), s.constant(5, np.int32)],
        ),
        TensorProto.UINT8,
    ),
)
in_a_plane("a plane through int8 and back", lambda s, x: cast(s, x, TensorProto.INT8, TensorProto.UINT8), SAME)
in_a_plane("a plane halved and rounded", on_bytes(lambda s, x: s.add("Round", [times(s, x, 0.5)])), bit=0)
in_a_plane("a plane of 0.5 that is cut off", on_bytes(lambda s, x: times(s, x, 0.5)), bit=0)
in_a_plane(
    "Dropout in training mode doubles what it leaves",
    on_bytes(lambda s, x: s.add("Dropout", [x, s.constant(0.5, np.float32), s.constant(True, np.bool_)], seed=1)),
)
in_a_plane(
    "cubic Resize that passes its range",
    on_bytes(
        lambda s, x: s.add(
            "Resize",
            [x, "", s.constant([1, 1, 1, 1.0001], np.float32)],
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
        lambda s, x: s.add(
            "Resize",
            [
                s.add("Resize", [x, "", s.constant([1, 1, 1, 0.5], np.float32)], mode="linear"),
                "",
                s.constant([1, 1, 1, 2], np.float32),
            ],
            mode="linear",
        )
    ),
)
in_a_plane(
    "padded mean pooling",
    on_bytes(lambda s, x: s.add("AveragePool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)),
)
in_a_plane(
    "padded largest of 3 x 3", on_bytes(lambda s, x: s.add("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
)
in_a_plane("Lp pooling", on_bytes(lambda s, x: s.add("LpPool", [x], kernel_shape=[1, 3], pads=[0, 1, 0, 1], p=1)))
in_a_plane(
    "a NaN that is cast",
    lambda s, x: cast(
        s,
        s.add("Sqrt", [plus(s, times(s, cast(s, x, TensorProto.FLOAT), -1), 0.5)]),
        TensorProto.INT32,
        TensorProto.UINT8,
    ),
    bit=0,
)
in_a_plane(
    "an infinity that is cast",
    lambda s, x: cast(
        s,
        s.add(
            "Div",
            [cast(s, s.add("Log", [cast(s, x, TensorProto.FLOAT)]), TensorProto.INT32), s.constant(-(2**24), np.int32)],
        ),
        TensorProto.UINT8,
    ),
    bit=0,
)
in_a_plane("values beyond a byte that are cast", on_bytes(lambda s, x: times(s, x, 300)))
in_a_plane(
    "requantised with a step of 2",
    lambda s, x: s.add(
        "QuantizeLinear",
        [
            s.add("DequantizeLinear", [x, s.constant(1, np.float32), s.constant(0, np.uint8)]),
            s.constant(2, np.float32),
            s.constant(0, np.uint8),
        ],
    ),
)
in_a_plane(
    "requantised with a zero point of 3",
    lambda s, x: s.add(
        "QuantizeLinear",
        [
            s.add("DequantizeLinear", [x, s.constant(1, np.float32), s.constant(0, np.uint8)]),
            s.constant(1, np.float32),
            s.constant(3, np.uint8),
        ],
    ),
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
in_a_plane("PRelu with a slope", on_bytes(lambda s, x: s.add("PRelu", [plus(s, x, -8), s.constant(-3, np.float32)])))
in_a_plane("Relu, which does nothing", on_bytes(lambda s, x: s.add("Relu", [x])), SAME)
in_a_plane("Identity", lambda s, x: s.add("Identity", [x]), SAME)
in_a_plane("a Cast to its own type", lambda s, x: cast(s, x, TensorProto.UINT8), SAME)
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
in_a_plane(
    "Slice with a negative step",
    lambda s, x: s.add("Slice", [x, s.constant([-1]), s.constant([-9999]), s.constant([2]), s.constant([-1])]),
)
in_a_plane(
    "Pad with negative widths",
    lambda s, x: s.add("Pad", [x, s.constant([0, 0, -1, 0, 0, 0, 1, 0]), s.constant(0, np.uint8)]),
)
in_a_plane("Where takes codes", lambda s, x: s.add("Where", [cast(s, x, TensorProto.BOOL), s.constant(3, np.uint8), x]))
in_a_plane("a running sum", on_bytes(lambda s, x: s.add("CumSum", [x, s.constant(3)])))
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


@fraud("operands")
def codes_in_the_place_of_their_planes(s: Surgery) -> None:
    """The integer graph's convolution in one layer."""
    conv = s.direct[1]
    join = s.producer_of(s.made(conv.input[0], "Transpose").input[0])
    conv.input[0] = s.add("Transpose", [s.codes_of(join)], perm=[0, 3, 1, 2])
    conv.input[3] = s.kernel(conv)
    s.drop_unused()


register("operands", "codes in the place of their planes, equal", codes_in_the_place_of_their_planes, SAME)
del FRAUDS["operands: codes in the place of their planes"]


@fraud("operands")
def negative_codes(s: Surgery) -> None:
    """A layer whose codes are signed: QuantizeLinear to int8, no clip, QLinearConv of int8."""
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
    """Clips to 127 removed: what is left beyond all planes adds to plane 0."""
    join = s.joins[1]
    clip = s.producer_of(s.codes_of(join))
    s.remove(clip)


@fraud("operands", SAME)
def planes_by_bits(s: Surgery) -> None:
    """The planes as BitwiseAnd, which is another form of the same."""
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
    """Planes 0 and 1 are one operand of 0..3 and nothing."""
    join = s.joins[2]
    left = s.plane(join, 2)["left"].output[0]
    nothing = s.add("Sub", [left, left])
    join.input[0], join.input[1] = left, nothing


# QLinearConv

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


for words, (key, setting, outcome) in GEOMETRY.items():
    geometry(words, lambda s, n, k=key, v=setting: set_attribute(n, k, v), outcome)
geometry("pads shifted by a row and a column", shifted)
geometry("auto_pad SAME_UPPER in the place of pads", same_upper, SAME)
geometry("auto_pad VALID beside pads", lambda s, n: set_attribute(n, "auto_pad", "VALID"), FAILS)
geometry("dilated", dilated)
geometry("a group more than there are channels", lambda s, n: set_attribute(n, "group", 2), FAILS)
geometry("negative pads", lambda s, n: set_attribute(n, "pads", [3, 1, -1, 1]), FAILS)
geometry("pads given twice", lambda s, n: n.attribute.append(helper.make_attribute("pads", [0, 0, 2, 2])), FAILS)


@fraud("geometry")
def strides_of_the_stem(s: Surgery) -> None:
    """Every second column is read twice as far, the rest is padded."""
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
at_conv(
    "direct",
    "a zero point of weights",
    lambda s, n: s.change_at(n, 5, lambda z: np.where(np.arange(len(z)) == 0, 9, z).astype(z.dtype)),
)
at_conv("direct", "one zero point for all weights", lambda s, n: s.give(n, 5, 0, np.int8), SAME)
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
at_conv(
    "direct",
    "a bias behind the convolution as well",
    lambda s, n: s.behind(n.output[0], lambda x: s.add("Add", [x, s.constant(1, np.uint8)])),
)
at_conv(
    "direct",
    "a bias of the input",
    lambda s, n: n.input.__setitem__(
        8,
        s.add(
            "Add", [n.input[8], cast(s, s.add("ReduceMax", [times(s, s.image, 900)], keepdims=0), TensorProto.INT32)]
        ),
    ),
)


def other_with_as_many(s: Surgery, conv: onnx.NodeProto) -> onnx.NodeProto:
    count = len(s.value(conv.input[8]))
    return first(n for n in s.scaled if len(s.value(n.input[8])) == count and n.input[8] != conv.input[8])


@fraud("QLinearConv", SAME)
def a_convolution_in_float(s: Surgery) -> None:
    """DequantizeLinear, Conv, QuantizeLinear in the place of one QLinearConv."""
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
    """ONNX Runtime's own QLinearAdd in the place of a residual addition."""
    add = s.additions[0]
    one, middle = s.constant(1, np.float32), s.constant(128, np.uint8)
    whole = [s.add("QuantizeLinear", [i, one, middle]) for i in add.input]
    total = s.add("QLinearAdd", [whole[0], one, middle, whole[1], one, middle, one, middle], domain="com.microsoft")
    s.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    s.behind(add.output[0], lambda _: s.add("DequantizeLinear", [total, one, middle]), s.readers(add.output[0]))
    s.drop_unused()


# neurons


def at_neuron(name: str, change: Callable[[Surgery, onnx.NodeProto], Any], truth: str = CHANGES) -> None:
    register("neurons", name, lambda s: change(s, some_neuron(s)), truth)


def some_neuron(s: Surgery) -> onnx.NodeProto:
    """Return one that reads a residual stream."""
    return some(n for n in s.neurons if s.made_by(n.input[0], "Add"))[1]


at_neuron("a larger step", lambda s, n: s.give(n, 1, 2, np.float32))
at_neuron(
    "a step one unit in the last place larger",
    lambda s, n: s.give(n, 1, np.nextafter(np.float32(1), np.float32(2))),
    SAME,
)
at_neuron("a negative step", lambda s, n: s.give(n, 1, -1, np.float32))
at_neuron("a zero point", lambda s, n: s.give(n, 2, 3, np.uint8))
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
at_neuron("an axis", lambda s, n: set_attribute(n, "axis", 3), SAME)
at_neuron("an axis that does not exist", lambda s, n: set_attribute(n, "axis", 9), SAME)
at_neuron("saturate 0", lambda s, n: set_attribute(n, "saturate", 0), FAILS)
at_neuron("block_size", lambda s, n: set_attribute(n, "block_size", 2), FAILS)
at_neuron("output_dtype", lambda s, n: set_attribute(n, "output_dtype", TensorProto.UINT8), FAILS)
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
at_neuron("potential times 2", lambda s, n: n.input.__setitem__(0, times(s, n.input[0], 2)))
at_neuron("potential plus a half", lambda s, n: n.input.__setitem__(0, plus(s, n.input[0], 0.5)))
at_neuron("potential rounded before", lambda s, n: n.input.__setitem__(0, s.add("Round", [n.input[0]])), SAME)
at_neuron("potential rounded up", lambda s, n: n.input.__setitem__(0, s.add("Ceil", [n.input[0]])), SAME)
at_neuron("potential through Relu", lambda s, n: n.input.__setitem__(0, s.add("Relu", [n.input[0]])), SAME)
at_neuron(
    "potential through a detour of float16",
    lambda s, n: n.input.__setitem__(0, cast(s, n.input[0], TensorProto.FLOAT16, TensorProto.FLOAT)),
    SAME,
)
at_neuron(
    "potential through a detour of bfloat16",
    lambda s, n: n.input.__setitem__(0, cast(s, n.input[0], TensorProto.BFLOAT16, TensorProto.FLOAT)),
    SAME,
)
at_neuron(
    "potential through Sigmoid", lambda s, n: n.input.__setitem__(0, times(s, s.add("Sigmoid", [n.input[0]]), 90))
)
at_neuron(
    "potential through LeakyRelu",
    lambda s, n: n.input.__setitem__(0, s.add("LeakyRelu", [n.input[0]], alpha=0.1)),
    SAME,
)
at_neuron(
    "potential through Softmax",
    lambda s, n: n.input.__setitem__(0, times(s, s.add("Softmax", [n.input[0]], axis=3), 127)),
)
at_neuron(
    "potential of another place",
    lambda s, n: n.input.__setitem__(
        0, s.add("Slice", [n.input[0], s.constant([-1]), s.constant([-99]), s.constant([1]), s.constant([-1])])
    ),
)
at_neuron("potential of the stem", lambda s, n: n.input.__setitem__(0, other_potential(s, n)))
at_neuron("codes plus 1", lambda s, n: s.behind(n.output[0], lambda x: s.add("Add", [x, s.constant(1, np.uint8)])))
at_neuron(
    "codes of the largest of neighbours",
    lambda s, n: s.behind(
        n.output[0],
        lambda x: s.add(
            "Transpose",
            [s.add("MaxPool", [s.add("Transpose", [x], perm=[0, 3, 1, 2])], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
            perm=[0, 2, 3, 1],
        ),
    ),
)
at_neuron(
    "codes pooled alone",
    lambda s, n: s.behind(
        n.output[0],
        lambda x: s.add(
            "Transpose",
            [s.add("MaxPool", [s.add("Transpose", [x], perm=[0, 3, 1, 2])], kernel_shape=[1, 1])],
            perm=[0, 2, 3, 1],
        ),
    ),
    SAME,
)
at_neuron("never fires", lambda s, n: n.input.__setitem__(0, plus(s, n.input[0], -1e6)))
at_neuron("always fires", lambda s, n: n.input.__setitem__(0, plus(s, n.input[0], 1e6)))
at_neuron("emits NaN", lambda s, n: n.input.__setitem__(0, plus(s, n.input[0], np.nan)))
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

    @fraud("neurons")
    def placeholder(s: Surgery, index: int = index) -> None:
        some(iter(s.clips))
        s.give(s.clips[index * len(s.clips) // 5], 2, 100, np.uint8)

    FRAUDS[f"neurons: largest code 100, place {index}"] = FRAUDS.pop("neurons: placeholder")


# branches


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
at_branch(
    "steps of each pixel", lambda s, n: s.give(n, 1, np.random.default_rng(0).uniform(1, 2, (1, 16, 16, 8)), np.float32)
)
at_branch(
    "steps expanded to more than there is", lambda s, n: s.give(expanded(s, n), 1, [1, 16, 16, 8], np.int64), SAME
)
at_branch("steps not expanded", lambda s, n: n.input.__setitem__(1, expanded(s, n).input[0]), SAME)
at_branch("steps of another layer", lambda s, n: n.input.__setitem__(1, s.potentials[0].input[1]))
at_branch("inputs exchanged", lambda s, n: swap_inputs(n, 0, 1), SAME)
at_branch("divided by steps", lambda s, n: set_op(n, "Div"))
at_branch("times its own", lambda s, n: n.input.__setitem__(1, n.input[0]))
at_branch("times another branch", lambda s, n: n.input.__setitem__(1, s.potentials[0].output[0]))
at_branch(
    "steps of float64 and back",
    lambda s, n: n.input.__setitem__(1, cast(s, n.input[1], TensorProto.DOUBLE, TensorProto.FLOAT)),
    SAME,
)
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
at_branch(
    "a branch squared by Pow",
    lambda s, n: s.behind(n.output[0], lambda x: s.add("Pow", [x, s.constant(2, np.float32)])),
)
at_branch("tanh", lambda s, n: s.behind(n.output[0], lambda x: s.add("Tanh", [x])))
at_branch(
    "normalised by its layer",
    lambda s, n: s.behind(n.output[0], lambda x: s.add("LayerNormalization", [x, s.constant(np.ones(8), np.float32)])),
)
at_branch(
    "a matrix behind it",
    lambda s, n: s.behind(
        n.output[0],
        lambda x: s.add("MatMul", [x, s.constant(np.random.default_rng(0).normal(size=(8, 8)), np.float32)]),
    ),
)
at_branch(
    "a sum over channels",
    lambda s, n: s.behind(
        n.output[0], lambda x: s.add("Add", [x, s.add("ReduceSum", [x, s.constant([3])], keepdims=1)])
    ),
)
at_branch(
    "gated by its mean (squeeze and excitation)",
    lambda s, n: s.behind(
        n.output[0],
        lambda x: s.add("Mul", [x, s.add("Sigmoid", [s.add("ReduceMean", [x, s.constant([1, 2])], keepdims=1)])]),
    ),
)
at_branch(
    "attention of float",
    lambda s, n: s.behind(
        n.output[0],
        lambda x: s.add(
            "Add",
            [
                x,
                s.add(
                    "MatMul",
                    [s.add("Softmax", [s.add("MatMul", [x, s.add("Transpose", [x], perm=[0, 1, 3, 2])])], axis=-1), x],
                ),
            ],
        ),
    ),
)


# whole sums


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


at_sum("alpha 2", lambda s, n, p: set_attribute(n, "alpha", 2.0))
at_sum("alpha 1", lambda s, n, p: set_attribute(n, "alpha", 1.0), SAME)
at_sum("alpha 1 + 2^-23", lambda s, n, p: set_attribute(n, "alpha", float(np.nextafter(np.float32(1), 2))))
at_sum("beta 0", lambda s, n, p: set_attribute(n, "beta", 0.0))
at_sum("beta 2", lambda s, n, p: set_attribute(n, "beta", 2.0))
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
at_sum("transA 0", lambda s, n, p: set_attribute(n, "transA", 0), SAME)
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
at_sum(
    "potential reshaped otherwise",
    lambda s, n, p: s.behind(
        n.output[0], lambda x: s.add("Reshape", [s.add("Transpose", [x], perm=[1, 0]), s.constant([64, 16])])
    ),
)
at_sum("a constant added to the sum", lambda s, n, p: s.behind(n.output[0], lambda x: plus(s, x, 1)))
at_sum(
    "a bias of the image",
    lambda s, n, p: n.input.__setitem__(
        2, s.add("Add", [n.input[2], s.add("ReduceMax", [times(s, s.image, 30)], keepdims=0)])
    ),
)
at_sum("scaled behind", lambda s, n, p: s.behind(n.output[0], lambda x: times(s, x, 0.5)))
at_sum(
    "in float16", lambda s, n, p: s.behind(n.output[0], lambda x: cast(s, x, TensorProto.FLOAT16, TensorProto.FLOAT))
)
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


# additions, concatenations, upsampling


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


at_resize("linear", lambda s, n: set_attribute(n, "mode", "linear"))
at_resize("cubic", lambda s, n: set_attribute(n, "mode", "cubic"))
at_resize("nearest_mode ceil", lambda s, n: set_attribute(n, "nearest_mode", "ceil"))
at_resize("nearest_mode left out", lambda s, n: set_attribute(n, "nearest_mode", None), SAME)
at_resize("nearest_mode round_prefer_ceil", lambda s, n: set_attribute(n, "nearest_mode", "round_prefer_ceil"))
at_resize("half_pixel", lambda s, n: set_attribute(n, "coordinate_transformation_mode", "half_pixel"))
at_resize(
    "half_pixel with round_prefer_floor",
    lambda s, n: (
        set_attribute(n, "coordinate_transformation_mode", "half_pixel"),
        set_attribute(n, "nearest_mode", "round_prefer_floor"),
    ),
    SAME,
)
at_resize("align_corners", lambda s, n: set_attribute(n, "coordinate_transformation_mode", "align_corners"))
at_resize(
    "tf_crop_and_resize",
    lambda s, n: (
        set_attribute(n, "coordinate_transformation_mode", "tf_crop_and_resize"),
        s.give(n, 1, [0, 0.25, 0.25, 0, 1, 0.75, 0.75, 1], np.float32),
    ),
)
at_resize("mode left out", lambda s, n: set_attribute(n, "mode", None), SAME)
at_resize("cubic_coeff_a", lambda s, n: set_attribute(n, "cubic_coeff_a", 5.0), SAME)
at_resize("exclude_outside", lambda s, n: set_attribute(n, "exclude_outside", 1), FAILS)
at_resize("extrapolation_value", lambda s, n: set_attribute(n, "extrapolation_value", 9.0), SAME)
at_resize("antialias 0", lambda s, n: set_attribute(n, "antialias", 0), SAME)
at_resize(
    "sizes in the place of scales",
    lambda s, n: (n.input.__setitem__(2, ""), s.give(n, 3, [1, 16, 16, 16], np.int64)),
    SAME,
)
at_resize("scales a little off", lambda s, n: s.give(n, 2, [1, 2.05, 2.05, 1], np.float32))
at_resize(
    "scales of 2 and 4, then cut",
    lambda s, n: (
        s.give(n, 2, [1, 4, 4, 1], np.float32),
        s.behind(
            n.output[0], lambda x: s.add("Slice", [x, s.constant([0, 0]), s.constant([16, 16]), s.constant([1, 2])])
        ),
    ),
)
at_resize("a region that is ignored", lambda s, n: s.give(n, 1, [0, 0.5, 0.5, 0, 1, 1, 1, 1], np.float32), SAME)
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
at_resize(
    "rows in reverse",
    lambda s, n: s.behind(
        n.output[0],
        lambda x: s.add("Slice", [x, s.constant([-1]), s.constant([-99]), s.constant([1]), s.constant([-1])]),
    ),
)


@fraud("concatenation")
def maps_exchanged(s: Surgery) -> None:
    join = s.maps_joined
    swap_inputs(join, 0, 1)


@fraud("concatenation", SAME)
def axis_counted_from_the_end(s: Surgery) -> None:
    set_attribute(s.maps_joined, "axis", -1)


@fraud("concatenation")
def a_map_twice(s: Surgery) -> None:
    """One of 24 channels: those of one map and half of the other one."""
    join = s.maps_joined
    other = join.input[1]
    join.input[1] = s.add("Slice", [join.input[0], s.constant([0]), s.constant([8]), s.constant([3])])
    s.at_end(lambda x: s.add("Identity", [x]))
    assert other


@fraud("concatenation")
def channels_shuffled(s: Surgery) -> None:
    s.behind(s.maps_joined.output[0], lambda x: s.add("Gather", [x, s.constant(np.arange(24)[::-1])], axis=3))


@fraud("concatenation", SAME)
def two_concatenations(s: Surgery) -> None:
    join = s.maps_joined
    part = [s.add("Slice", [join.input[1], s.constant([a]), s.constant([a + 4]), s.constant([3])]) for a in (0, 4)]
    join.input[1] = s.add("Concat", part, axis=3)


# decoder


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
at_decoder("boxes scaled", lambda s: final(s).input.__setitem__(0, times(s, final(s).input[0], 1.01)))
at_decoder("boxes rounded", lambda s: final(s).input.__setitem__(0, s.add("Round", [final(s).input[0]])))
at_decoder("boxes plus nothing", lambda s: final(s).input.__setitem__(0, plus(s, final(s).input[0], 0)), SAME)
at_decoder(
    "boxes in float16",
    lambda s: final(s).input.__setitem__(0, cast(s, final(s).input[0], TensorProto.FLOAT16, TensorProto.FLOAT)),
)
at_decoder(
    "scores in float64",
    lambda s: final(s).input.__setitem__(1, cast(s, final(s).input[1], TensorProto.DOUBLE, TensorProto.FLOAT)),
    SAME,
)
at_decoder(
    "all in float64",
    lambda s: (
        first(s.ops("Sigmoid")).input.__setitem__(0, cast(s, first(s.ops("Sigmoid")).input[0], TensorProto.DOUBLE)),
        s.behind(first(s.ops("Sigmoid")).output[0], lambda x: cast(s, x, TensorProto.FLOAT)),
    ),
)
at_decoder(
    "boxes clipped to the image",
    lambda s: final(s).input.__setitem__(
        0, s.add("Clip", [final(s).input[0], s.constant(0, np.float32), s.constant(48, np.float32)])
    ),
)
at_decoder("a learned layer by Mul and ReduceSum", lambda s: dense_layer(s, final(s), 0))
at_decoder("a learned layer of scores by Mul and ReduceSum", lambda s: dense_layer(s, final(s), 1))
at_decoder(
    "a learned layer by MatMul",
    lambda s: final(s).input.__setitem__(
        1, s.add("MatMul", [s.constant(random_matrix(3), np.float32), final(s).input[1]])
    ),
)
at_decoder(
    "a learned layer by Einsum",
    lambda s: final(s).input.__setitem__(
        1, s.add("Einsum", [s.constant(random_matrix(3), np.float32), final(s).input[1]], equation="oi,bin->bon")
    ),
)
at_decoder(
    "a learned layer of raw boxes by MatMul",
    lambda s: before_softmax(s, lambda x: s.add("MatMul", [s.constant(random_matrix(16), np.float32), x])),
)
at_decoder(
    "a learned layer of raw boxes by Gemm",
    lambda s: before_softmax(
        s,
        lambda x: s.add(
            "Reshape",
            [
                s.add(
                    "Gemm", [s.constant(random_matrix(64), np.float32), s.add("Reshape", [x, s.constant([64, 320])])]
                ),
                s.constant([1, 4, 16, 320]),
            ],
        ),
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
at_decoder(
    "a convolution in the decoder",
    lambda s: final(s).input.__setitem__(
        1, s.add("Conv", [final(s).input[1], s.constant(random_matrix(3)[:, :, None], np.float32)])
    ),
)
at_decoder("a recurrent layer in the decoder", lambda s: recurrent(s))
at_decoder(
    "a learned layer by BatchNormalization",
    lambda s: final(s).input.__setitem__(
        1,
        s.add(
            "BatchNormalization",
            [final(s).input[1], *(s.constant(a, np.float32) for a in ([1, 2, 3], [0, 0.1, 0], [0, 0, 0.2], [1, 1, 1]))],
        ),
    ),
)
at_decoder(
    "a learned layer by LayerNormalization",
    lambda s: final(s).input.__setitem__(
        1, s.add("LayerNormalization", [final(s).input[1], s.constant(np.ones((3, 320)), np.float32)], axis=1)
    ),
)
at_decoder(
    "a Fourier transform",
    lambda s: final(s).input.__setitem__(
        1,
        s.add(
            "Squeeze",
            [
                s.add(
                    "Slice",
                    [
                        s.add("DFT", [s.add("Unsqueeze", [final(s).input[1], s.constant([3])])], axis=2),
                        s.constant([0]),
                        s.constant([1]),
                        s.constant([3]),
                    ],
                ),
                s.constant([3]),
            ],
        ),
    ),
)
at_decoder(
    "a hidden product by STFT",
    lambda s: final(s).input.__setitem__(
        1,
        s.add(
            "Mul",
            [
                final(s).input[1],
                s.add(
                    "ReduceMean",
                    [
                        s.add(
                            "STFT",
                            [
                                s.add("Reshape", [final(s).input[1], s.constant([3, 320, 1])]),
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
    lambda s: final(s).input.__setitem__(
        1, s.add("Add", [final(s).input[1], s.add("ReduceMean", [cast(s, s.codes_of(s.joins[0]), 1)], keepdims=0)])
    ),
)
at_decoder(
    "pixels added to scores",
    lambda s: final(s).input.__setitem__(
        1, s.add("Add", [final(s).input[1], s.add("ReduceMean", [s.image], keepdims=0)])
    ),
)
at_decoder(
    "potentials added to boxes",
    lambda s: final(s).input.__setitem__(
        0, s.add("Add", [final(s).input[0], s.add("ReduceMean", [s.additions[0].output[0]], keepdims=0)])
    ),
)
at_decoder(
    "scores times boxes",
    lambda s: final(s).input.__setitem__(
        1, s.add("Mul", [final(s).input[1], s.add("ReduceMean", [final(s).input[0], s.constant([1])], keepdims=1)])
    ),
)
at_decoder(
    "scores smoothed over places",
    lambda s: final(s).input.__setitem__(
        1, s.add("AveragePool", [final(s).input[1]], kernel_shape=[3], pads=[1, 1], count_include_pad=1)
    ),
)
at_decoder(
    "the best score alone",
    lambda s: final(s).input.__setitem__(
        1,
        s.add(
            "Where",
            [
                s.add(
                    "Equal", [final(s).input[1], s.add("ReduceMax", [final(s).input[1], s.constant([1])], keepdims=1)]
                ),
                final(s).input[1],
                s.constant(0, np.float32),
            ],
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
    lambda s: before_softmax(
        s,
        lambda x: s.add(
            "Reshape",
            [
                s.add("Transpose", [s.add("Reshape", [x, s.constant([1, 16, 4, 320])])], perm=[0, 2, 1, 3]),
                s.constant([1, 4, 16, 320]),
            ],
        ),
    ),
)
at_decoder("Add of itself in the place of times 2", lambda s: middle_otherwise(s), SAME)
at_decoder("a cosine", lambda s: final(s).input.__setitem__(1, s.add("Cos", [final(s).input[1]])))
at_decoder("an error function", lambda s: final(s).input.__setitem__(1, s.add("Erf", [final(s).input[1]])))
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


def random_matrix(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, n)) / np.sqrt(n)


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
    """Times one half in the place of a division by 2."""
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


# raw maps


@fraud("raw maps")
def boxes_of_levels_mixed(s: Surgery) -> None:
    """Boxes of a level are read by the other one, cut and padded."""
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
    for node in [n for n in s.ops("Identity")]:
        s.remove(node)


@fraud("raw maps")
def channels_in_reverse(s: Surgery) -> None:
    node = s.raw[0]
    source = s.constant(np.arange(64)[::-1])
    s.behind(node.output[0], lambda x: s.add("Gather", [x, source], axis=1))


@fraud("raw maps")
def of_the_other_branch(s: Surgery) -> None:
    """The last weights read the codes of another layer."""
    gemms = s.gemms
    box = [g for g in gemms if s.value(s.kernel(g)).shape[1:] == (64, 64)]
    s.gemm_parts(box[0])["weights"].input[0] = s.gemm_parts(box[1])["weights"].input[0]


@fraud("raw maps")
def twice_the_boxes(s: Surgery) -> None:
    s.behind(s.raw[0].output[0], lambda x: times(s, x, 2))


# outputs and inputs


@fraud("outputs")
def a_second_output(s: Surgery) -> None:
    s.graph.output.append(helper.make_tensor_value_info(s.codes_of(s.joins[0]), TensorProto.UINT8, None))


@fraud("outputs")
def another_output_first(s: Surgery) -> None:
    inner = final(s).input[0]
    others = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in s.graph.output]
    s.graph.ClearField("output")
    s.graph.output.append(helper.make_tensor_value_info(inner, 1, [1, 4, 320]))
    s.graph.output.extend(others)


@fraud("outputs", SAME)
def another_name(s: Surgery) -> None:
    name = s.output
    last = s.producer_of(name)
    last.output[0] = "boxes"
    s.graph.output[0].name = "boxes"


@fraud("outputs")
def another_tensor(s: Surgery) -> None:
    s.at_end(lambda x: s.add("Concat", [final_of(s, x).input[1], final_of(s, x).input[0]], axis=1))


def final_of(s: Surgery, tensor: str) -> onnx.NodeProto:
    return s.made(tensor, "Concat")


@fraud("outputs", SAME)
def a_shape_that_is_not_so(s: Surgery) -> None:
    s.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 999


@fraud("outputs", SAME)
def a_shape_of_no_dimensions_known(s: Surgery) -> None:
    s.graph.output[0].type.tensor_type.ClearField("shape")


@fraud("outputs", SAME)
def a_shape_with_names(s: Surgery) -> None:
    s.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "anything"


@fraud("outputs", FAILS)
def a_type_that_is_not_so(s: Surgery) -> None:
    s.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@fraud("outputs")
def as_float64(s: Surgery) -> None:
    s.at_end(lambda x: cast(s, x, TensorProto.DOUBLE))
    s.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@fraud("outputs")
def transposed(s: Surgery) -> None:
    s.at_end(lambda x: s.add("Transpose", [x], perm=[0, 2, 1]))
    s.graph.output[0].type.tensor_type.ClearField("shape")


@fraud("outputs")
def a_box_less(s: Surgery) -> None:
    s.at_end(lambda x: s.add("Slice", [x, s.constant([0]), s.constant([319]), s.constant([2])]))
    s.graph.output[0].type.tensor_type.ClearField("shape")


@fraud("outputs")
def times_1_and_a_bit(s: Surgery) -> None:
    s.at_end(lambda x: times(s, x, 1.0001))


@fraud("outputs", SAME)
def times_1(s: Surgery) -> None:
    s.at_end(lambda x: times(s, x, 1))


@fraud("outputs", SAME)
def through_identity(s: Surgery) -> None:
    s.at_end(lambda x: s.add("Identity", [x]))


@fraud("outputs", SAME)
def through_a_cast_to_its_own_type(s: Surgery) -> None:
    s.at_end(lambda x: cast(s, x, TensorProto.FLOAT))


@fraud("outputs")
def the_same_output_twice(s: Surgery) -> None:
    copy = s.add("Identity", [s.output], "copy")
    s.graph.output.append(helper.make_tensor_value_info(copy, 1, [1, 7, 320]))


@fraud("outputs")
def an_initializer_as_output(s: Surgery) -> None:
    name = s.kernel(s.stem)
    s.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT8, None))


@fraud("outputs")
def the_image_as_second_output(s: Surgery) -> None:
    copy = s.add("Identity", [s.image], "picture")
    s.graph.output.append(helper.make_tensor_value_info(copy, 1, None))


@fraud("outputs", FAILS)
def an_output_that_nothing_makes(s: Surgery) -> None:
    s.graph.output.append(helper.make_tensor_value_info("nothing", 1, None))


@fraud("outputs", FAILS)
def no_output(s: Surgery) -> None:
    s.graph.ClearField("output")


def overridable(name: str, place: Callable[[Surgery], str]) -> None:
    """Add a fraud whose initializer is an input with a default, so that a caller can give another one."""

    def apply(s: Surgery) -> None:
        tensor = s.tensor(place(s))
        s.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))

    register("inputs", f"{name} can be given", apply, SAME)


overridable("weights", lambda s: s.kernel(s.direct[0]))
overridable("a scale", lambda s: s.direct[0].input[4])
overridable("a zero point", lambda s: s.direct[0].input[7])
overridable("a threshold", lambda s: s.plane(s.joins[0], 4)["reached"].input[1])
overridable("indices", lambda s: window_offsets(s).input[0])
overridable("strides", lambda s: decoder_strides(s).input[1])


@fraud("inputs", SAME)
def an_input_that_nothing_reads(s: Surgery) -> None:
    s.constant(np.zeros(3), np.float32, "unread")
    s.graph.input.append(helper.make_tensor_value_info("unread", 1, [3]))


@fraud("inputs", FAILS)
def a_second_image(s: Surgery) -> None:
    s.graph.input.append(helper.make_tensor_value_info("second", 1, [1, 3, 64, 64]))
    rewire(s.pixels, s.image, s.add("Add", [s.image, "second"]))


@fraud("inputs", SAME)
def a_second_image_with_a_default(s: Surgery) -> None:
    s.constant(np.zeros((1, 3, 64, 64)), np.float32, "second")
    s.graph.input.append(helper.make_tensor_value_info("second", 1, [1, 3, 64, 64]))
    rewire(s.pixels, s.image, s.add("Add", [s.image, "second"]))


@fraud("inputs", SAME)
def an_input_before_the_image(s: Surgery) -> None:
    s.constant(np.zeros(3), np.float32, "first")
    image = onnx.ValueInfoProto.FromString(s.graph.input[0].SerializeToString())
    s.graph.ClearField("input")
    s.graph.input.extend([helper.make_tensor_value_info("first", 1, [3]), image])


@fraud("inputs", FAILS)
def another_name_of_the_image(s: Surgery) -> None:
    for node in s.readers(s.image):
        rewire(node, s.image, "picture")
    s.graph.input[0].name = "picture"


@fraud("inputs", FAILS)
def images_of_another_type(s: Surgery) -> None:
    before = s.image
    s.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    rewire(s.pixels, before, cast(s, before, TensorProto.FLOAT))


@fraud("inputs", FAILS)
def images_of_bytes(s: Surgery) -> None:
    """The quantisation is gone: pixels come as bytes."""
    pixels = s.pixels
    s.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    s.remove(pixels, s.image)


@fraud("inputs", SAME)
def any_batch(s: Surgery) -> None:
    s.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


@fraud("inputs", SAME)
def any_size(s: Surgery) -> None:
    for i, name in ((2, "height"), (3, "width")):
        s.graph.input[0].type.tensor_type.shape.dim[i].dim_param = name


@fraud("inputs", FAILS)
def another_size(s: Surgery) -> None:
    s.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128


@fraud("inputs", FAILS)
def another_batch(s: Surgery) -> None:
    s.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


@fraud("inputs", SAME)
def a_denotation(s: Surgery) -> None:
    s.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_FEATURE"


@fraud("inputs", FAILS)
def the_image_is_also_an_initializer(s: Surgery) -> None:
    """A caller that gives nothing gets an answer; one that renames its image too."""
    s.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 64, 64), np.float32), s.image))
    s.graph.ClearField("input")


@fraud("inputs", SAME)
def the_image_has_a_default(s: Surgery) -> None:
    s.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 64, 64), np.float32), s.image))


# opsets, versions, functions


def opset(version: int, truth: str) -> None:
    register("versions", f"opset {version}", lambda s: setattr(s.model.opset_import[0], "version", version), truth)


for number in (1, 7, 9, 10, 11, 12, 13):
    opset(number, FAILS)
for number in (14, 15, 16, 17, 19, 20, 21, 22, 23, 24):
    opset(number, SAME)
opset(18 + 10**6, FAILS)


def imports(name: str, *domains: tuple[str, int], truth: str = SAME) -> None:
    register("versions", name, lambda s: s.model.opset_import.extend(helper.make_opsetid(*d) for d in domains), truth)


imports("an unused custom domain", ("com.example", 1), truth=SAME)
imports("an unused domain of ONNX Runtime", ("com.microsoft", 1))
imports("an unused domain of machine learning", ("ai.onnx.ml", 3))
imports("an unused domain of training", ("ai.onnx.preview.training", 1))
imports("the main domain by its long name", ("ai.onnx", 18))
imports("the main domain twice, older", ("", 13), truth=FAILS)
imports("the main domain twice, a little older", ("", 17))
imports("the main domain twice, newer", ("", 21))
imports("the main domain by its long name, older", ("ai.onnx", 11), truth=FAILS)


@fraud("versions", FAILS)
def no_opset(s: Surgery) -> None:
    s.model.ClearField("opset_import")


@fraud("versions", SAME)
def main_domain_by_its_long_name_in_nodes(s: Surgery) -> None:
    s.additions[0].domain = "ai.onnx"


@fraud("versions", FAILS)
def a_node_of_a_custom_domain(s: Surgery) -> None:
    s.additions[0].domain = "com.example"
    s.model.opset_import.append(helper.make_opsetid("com.example", 1))


@fraud("versions", FAILS)
def a_node_of_a_domain_that_is_not_imported(s: Surgery) -> None:
    s.additions[0].domain = "com.example"


for number, outcome in ((3, SAME), (4, SAME), (7, SAME), (9, SAME), (10, SAME), (99, FAILS), (0, SAME)):
    register("versions", f"ir_version {number}", lambda s, v=number: setattr(s.model, "ir_version", v), outcome)


def function(
    s: Surgery,
    name: str,
    domain: str,
    nodes: list[onnx.NodeProto],
    inputs: list[str],
    outputs: list[str],
    version: int = 18,
    attributes: list[str] | None = None,
) -> None:
    s.model.functions.append(
        helper.make_function(domain, name, inputs, outputs, nodes, [helper.make_opsetid("", version)], attributes or [])
    )


@fraud("functions", SAME)
def an_unused_function(s: Surgery) -> None:
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    function(s, "Nothing", "local", [helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"])


@fraud("functions", SAME)
def an_addition_is_a_function(s: Surgery) -> None:
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    function(s, "Add", "local", [helper.make_node("Add", ["x", "z"], ["y"])], ["x", "z"], ["y"])
    s.additions[0].domain = "local"


@fraud("functions")
def a_function_subtracts(s: Surgery) -> None:
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    function(s, "Add", "local", [helper.make_node("Sub", ["x", "z"], ["y"])], ["x", "z"], ["y"])
    s.additions[0].domain = "local"


@fraud("functions", SAME)
def a_function_shadows_add(s: Surgery) -> None:
    function(s, "Add", "", [helper.make_node("Sub", ["x", "z"], ["y"])], ["x", "z"], ["y"])


@fraud("functions", SAME)
def a_function_shadows_clip(s: Surgery) -> None:
    function(s, "Clip", "", [helper.make_node("Identity", ["x"], ["y"])], ["x", "low", "high"], ["y"])


@fraud("functions", SAME)
def a_function_shadows_sigmoid(s: Surgery) -> None:
    function(s, "Sigmoid", "", [helper.make_node("Tanh", ["x"], ["y"])], ["x"], ["y"])


@fraud("functions", SAME)
def a_function_shadows_add_by_the_long_name_of_the_domain(s: Surgery) -> None:
    function(s, "Add", "ai.onnx", [helper.make_node("Sub", ["x", "z"], ["y"])], ["x", "z"], ["y"])


@fraud("functions")
def a_function_with_an_attribute_by_reference(s: Surgery) -> None:
    """The perm of a transposition is that of the caller, which gives another one."""
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    node = helper.make_node("Softmax", ["x"], ["y"])
    by_reference = onnx.AttributeProto(name="axis", ref_attr_name="which", type=onnx.AttributeProto.INT)
    node.attribute.append(by_reference)
    function(s, "Normal", "local", [node], ["x"], ["y"], attributes=["which"])
    found = softmax(s)
    found.op_type, found.domain = "Normal", "local"
    set_attribute(found, "axis", None)
    set_attribute(found, "which", 1)


@fraud("functions")
def an_attribute_by_reference_outside_of_a_function(s: Surgery) -> None:
    """ONNX Runtime reads the number beside the reference: 0."""
    found = softmax(s)
    set_attribute(found, "axis", None)
    found.attribute.append(onnx.AttributeProto(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT))


@fraud("functions", SAME)
def an_attribute_with_a_value_and_a_reference(s: Surgery) -> None:
    found = first(a for a in softmax(s).attribute if a.name == "axis")
    found.ref_attr_name = "axis"


@fraud("functions", SAME)
def a_function_of_an_older_opset(s: Surgery) -> None:
    """Softmax of opset 12 takes all dimensions behind the axis as one."""
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    function(s, "Normal", "local", [helper.make_node("Softmax", ["x"], ["y"], axis=2)], ["x"], ["y"], 12)
    found = softmax(s)
    found.op_type, found.domain = "Normal", "local"
    set_attribute(found, "axis", None)


@fraud("functions", FAILS)
def an_old_pad_in_a_function(s: Surgery) -> None:
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=1),
        helper.make_node("Pad", ["wide"], ["padded"], pads=[0, 1, 1, 0, 0, 1, 1, 0], value=3.0),
        helper.make_node("Cast", ["padded"], ["y"], to=2),
    ]
    function(s, "Pad", "local", nodes, ["x", "widths", "value"], ["y"], 10)
    first(s.ops("Pad")).domain = "local"


@fraud("functions", SAME)
def a_whole_layer_in_a_function(s: Surgery) -> None:
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    conv = s.direct[0]
    inside = onnx.NodeProto.FromString(conv.SerializeToString())
    names = [f"i{i}" for i in range(9)]
    inside.ClearField("input")
    inside.input.extend(names)
    inside.output[0] = "y"
    function(s, "Layer", "local", [inside], names, ["y"])
    conv.op_type, conv.domain = "Layer", "local"
    conv.ClearField("attribute")


@fraud("functions", SAME)
def an_overload_of_a_node(s: Surgery) -> None:
    s.additions[0].overload = "other"


@fraud("functions", SAME)
def training_information(s: Surgery) -> None:
    info = s.model.training_info.add()
    info.algorithm.CopyFrom(helper.make_graph([], "training", [], []))


# what else a file can hold


@fraud("file", SAME)
def an_unused_initializer(s: Surgery) -> None:
    s.constant(np.ones((8, 8)), np.float32)


@fraud("file", SAME)
def a_dead_node(s: Surgery) -> None:
    s.add("Neg", [s.image])


@fraud("file", SAME)
def dead_convolutions(s: Surgery) -> None:
    for _ in range(3):
        s.add("Conv", [s.image, s.constant(np.ones((4, 3, 3, 3)), np.float32)])


@fraud("file", SAME)
def a_node_twice_under_another_output(s: Surgery) -> None:
    copy = onnx.NodeProto.FromString(s.direct[0].SerializeToString())
    copy.name = copy.output[0] = "copy"
    s.graph.node.append(copy)


@fraud("file", SAME)
def a_layer_twice_each_read_once(s: Surgery) -> None:
    """Two equal chains of which one is enough."""
    add = s.additions[0]
    copy = onnx.NodeProto.FromString(add.SerializeToString())
    copy.name = copy.output[0] = "copy"
    readers = s.readers(add.output[0])
    rewire(readers[-1], add.output[0], "copy")
    s.graph.node.append(copy)


@fraud("file", FAILS)
def two_nodes_make_one_tensor(s: Surgery) -> None:
    add = s.additions[0]
    copy = onnx.NodeProto.FromString(add.SerializeToString())
    copy.op_type, copy.name = "Sub", "other"
    s.graph.node.append(copy)


@fraud("file", SAME)
def a_tensor_twice_the_second_one_different(s: Surgery) -> None:
    name = s.kernel(s.direct[0])
    s.graph.initializer.append(numpy_helper.from_array(-s.value(name), name))


@fraud("file")
def a_tensor_twice_the_first_one_different(s: Surgery) -> None:
    name = s.kernel(s.direct[0])
    copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in s.graph.initializer]
    s.graph.ClearField("initializer")
    s.graph.initializer.append(
        numpy_helper.from_array(-numpy_helper.to_array(first(t for t in copies if t.name == name)), name)
    )
    s.graph.initializer.extend(copies)


@fraud("file", SAME)
def a_tensor_twice_equal(s: Surgery) -> None:
    name = s.kernel(s.direct[0])
    s.graph.initializer.append(numpy_helper.from_array(s.value(name), name))


@fraud("file", FAILS)
def a_tensor_of_an_initializer_and_of_a_node(s: Surgery) -> None:
    add = s.additions[0]
    s.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 16, 16, 8), np.float32), add.output[0]))


@fraud("file", FAILS)
def not_in_topological_order(s: Surgery) -> None:
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in s.graph.node]
    s.graph.ClearField("node")
    s.graph.node.extend(copies[::-1])


FRAUDS["file: not in topological order"] = Fraud(
    "file: not in topological order", "file", SAME, not_in_topological_order, ordered=False
)


@fraud("file", SAME, ordered=False)
def two_nodes_in_another_order(s: Surgery) -> None:
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in s.graph.node]
    at = first(i for i in range(len(copies) - 1) if not set(copies[i].output) & set(copies[i + 1].input))
    copies[at], copies[at + 1] = copies[at + 1], copies[at]
    s.graph.ClearField("node")
    s.graph.node.extend(copies)


@fraud("file", SAME)
def nodes_without_names(s: Surgery) -> None:
    for node in s.graph.node:
        node.name = ""


@fraud("file", FAILS)
def nodes_of_one_name(s: Surgery) -> None:
    for node in s.graph.node:
        node.name = "node"


@fraud("file", SAME)
def names_of_layers_exchanged(s: Surgery) -> None:
    one, two = s.direct[:2]
    one.name, two.name = two.name, one.name


def rename(s: Surgery, before: str, after: str) -> None:
    for node in s.graph.node:
        rewire(node, before, after)
        for i, name in enumerate(node.output):
            if name == before:
                node.output[i] = after
    for tensor in s.graph.initializer:
        if tensor.name == before:
            tensor.name = after


@fraud("file", SAME)
def names_of_weights_exchanged(s: Surgery) -> None:
    """Each layer reads what it read, under the name of another one."""
    one, two = s.kernel(s.direct[0]), s.kernel(s.branches[0])
    rename(s, one, "between")
    rename(s, two, one)
    rename(s, "between", two)


@fraud("file", SAME)
def names_of_codes_exchanged(s: Surgery) -> None:
    joins = s.joins
    one, two = s.codes_of(joins[0]), s.codes_of(joins[-1])
    rename(s, one, "between")
    rename(s, two, one)
    rename(s, "between", two)


@fraud("file", SAME)
def weights_as_constant_nodes(s: Surgery) -> None:
    name = s.kernel(s.direct[0])
    tensor = s.tensor(name)
    copy = onnx.TensorProto.FromString(tensor.SerializeToString())
    s.graph.initializer.remove(tensor)
    s.add("Constant", [], name, value=copy)


@fraud("file", SAME)
def a_number_as_constant_node(s: Surgery) -> None:
    node = s.pixels
    node.input[1] = s.add("Constant", [], value_float=float(np.float32(1 / 255)))


@fraud("file")
def a_constant_node_of_another_number(s: Surgery) -> None:
    node = s.pixels
    node.input[1] = s.add("Constant", [], value_float=1 / 128)


@fraud("file")
def a_constant_node_with_two_values_the_other_one_first(s: Surgery) -> None:
    node = s.pixels
    name = s.add("Constant", [], value=numpy_helper.from_array(np.float32(0.1), "v"))
    s.producer_of(name).attribute.append(helper.make_attribute("value_float", 1 / 255))
    node.input[1] = name


@fraud("file", SAME)
def a_constant_node_with_two_values(s: Surgery) -> None:
    node = s.pixels
    name = s.add("Constant", [], value_float=1 / 255)
    s.producer_of(name).attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.float32(0.1), "v")))
    node.input[1] = name


@fraud("file")
def weights_sparse(s: Surgery) -> None:
    """Sparse weights that hold other numbers: all zero."""
    name = s.kernel(s.direct[0])
    shape = s.value(name).shape
    s.graph.initializer.remove(s.tensor(name))
    values = numpy_helper.from_array(np.array([5], np.int8), name)
    places = numpy_helper.from_array(np.array([3], np.int64), f"{name}/places")
    s.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(shape)))


@fraud("file", SAME)
def biases_sparse_but_equal(s: Surgery) -> None:
    name = s.direct[0].input[8]
    array = s.value(name)
    s.graph.initializer.remove(s.tensor(name))
    values, places = numpy_helper.from_array(array, name), numpy_helper.from_array(np.arange(len(array)), "places")
    s.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [len(array)]))


@fraud("file")
def weights_by_constantofshape(s: Surgery) -> None:
    name = s.kernel(s.direct[0])
    shape = s.constant(s.value(name).shape, np.int64)
    s.graph.initializer.remove(s.tensor(name))
    s.add("ConstantOfShape", [shape], name, value=numpy_helper.from_array(np.array([3], np.int8), "v"))


@fraud("file", FAILS)
def external_weights(s: Surgery) -> None:
    tensor = s.tensor(s.kernel(s.direct[0]))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "weights.bin"), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=text)


@fraud("file", SAME)
def raw_data_and_external_data(s: Surgery) -> None:
    tensor = s.tensor(s.kernel(s.direct[0]))
    tensor.external_data.add(key="location", value="weights.bin")


@fraud("file", SAME)
def weights_as_int32_data(s: Surgery) -> None:
    name = s.kernel(s.direct[0])
    array = s.value(name)
    s.tensor(name).CopyFrom(helper.make_tensor(name, TensorProto.INT8, array.shape, array.ravel().tolist()))


@fraud("file", SAME)
def raw_data_and_int32_data(s: Surgery) -> None:
    tensor = s.tensor(s.kernel(s.direct[0]))
    tensor.int32_data.extend([0] * int(np.prod(tensor.dims)))


@fraud("file", FAILS)
def raw_data_that_is_too_long(s: Surgery) -> None:
    tensor = s.tensor(s.direct[0].input[8])
    tensor.raw_data = tensor.raw_data + b"\0" * 8


@fraud("file", SAME)
def a_segment_of_a_tensor(s: Surgery) -> None:
    tensor = s.tensor(s.direct[0].input[8])
    tensor.segment.begin, tensor.segment.end = 0, 4


@fraud("file", SAME)
def documents(s: Surgery) -> None:
    s.model.doc_string = "proven by spikeyolo verify"
    s.graph.doc_string = "spike-driven"


@fraud("file", SAME)
def another_producer(s: Surgery) -> None:
    s.model.producer_name, s.model.producer_version = "spikeyolo", "99"
    s.model.domain, s.model.model_version = "com.example", 7


@fraud("file", SAME)
def quantisation_annotations(s: Surgery) -> None:
    annotation = s.graph.quantization_annotation.add()
    annotation.tensor_name = s.codes_of(s.joins[0])
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="float32/1")


@fraud("file", SAME)
def notes_of_a_node(s: Surgery) -> None:
    s.direct[0].metadata_props.add(key="binary", value="yes")


@fraud("file", SAME)
def notes_of_the_graph(s: Surgery) -> None:
    s.graph.metadata_props.add(key="D", value="1")


@fraud("file", SAME)
def notes_of_a_tensor(s: Surgery) -> None:
    s.tensor(s.kernel(s.direct[0])).metadata_props.add(key="bits", value="1")


@fraud("file", SAME)
def a_shape_of_an_inner_tensor_that_is_not_so(s: Surgery) -> None:
    codes = s.codes_of(s.joins[0])
    s.graph.value_info.append(helper.make_tensor_value_info(codes, TensorProto.UINT8, [1, 2, 3, 4]))


@fraud("file", FAILS)
def a_type_of_an_inner_tensor_that_is_not_so(s: Surgery) -> None:
    codes = s.codes_of(s.joins[0])
    s.graph.value_info.append(helper.make_tensor_value_info(codes, TensorProto.BOOL, None))


@fraud("file", SAME)
def information_about_a_tensor_that_does_not_exist(s: Surgery) -> None:
    s.graph.value_info.append(helper.make_tensor_value_info("nowhere", TensorProto.UINT8, [1]))


@fraud("file", SAME)
def unknown_fields(s: Surgery) -> None:
    """Bytes of a field that no version of the format has."""
    s.model = onnx.ModelProto.FromString(s.model.SerializeToString() + bytes.fromhex("a2d2050474657374"))


FRAUDS["file: unknown fields"] = Fraud("file: unknown fields", "file", SAME, unknown_fields, False, False)


@fraud("file", FAILS)
def an_empty_output_name(s: Surgery) -> None:
    s.graph.node.append(helper.make_node("Neg", [s.image], [""], "nameless"))


@fraud("file", SAME)
def a_second_output_of_a_node(s: Surgery) -> None:
    pool = s.add("MaxPool", [s.image], kernel_shape=[1, 1])
    s.producer_of(pool).output.append("places")
    rewire(s.pixels, s.image, pool)


@fraud("file", SAME)
def an_extra_empty_input(s: Surgery) -> None:
    first(s.ops("Pad")).input.append("")


@fraud("file", SAME)
def a_device_configuration(s: Surgery) -> None:
    s.model.configuration.add(name="two", num_devices=2)


# notes


def note(name: str, key: str, change: Callable[[Any], Any], truth: str = SAME) -> None:
    """Add a fraud that changes a note that is JSON."""
    register("notes", name, lambda s: s.note_json(key, change), truth)


def text_note(name: str, key: str, value: str | None) -> None:
    register("notes", name, lambda s: s.note(key, value), SAME)


JSON_NOTES = (
    "D",
    "N",
    "T",
    "decay",
    "ranges",
    "unit",
    "planes",
    "grid",
    "weight_bits",
    "layers",
    "factored_weights",
    "exact",
    "versions",
    "real_valued",
    "attention",
    "kept_planes",
    "form",
)
TEXT_NOTES = ("graph", "graph_sha256", "source", "source_sha256", "neuron", "weights_sha256")
for key in (*JSON_NOTES, *TEXT_NOTES):
    register("notes", f"{key} missing", lambda s, k=key: s.note(k, None), SAME, forged=key != "graph_sha256")
for key in JSON_NOTES:
    register("notes", f"{key} is damaged JSON", lambda s, k=key: s.note(k, s.notes()[k] + "}"), SAME)
    register("notes", f"{key} is null", lambda s, k=key: s.note(k, "null"), SAME)
for key in ("D", "ranges", "layers", "planes"):
    register("notes", f"{key} is deeply nested", lambda s, k=key: s.note(k, "[" * 100_000 + "]" * 100_000), SAME)
    register("notes", f"{key} is NaN", lambda s, k=key: s.note(k, "NaN"), SAME)
    register("notes", f"{key} is infinite", lambda s, k=key: s.note(k, "1e999"), SAME)
    register("notes", f"{key} has 5,000 digits", lambda s, k=key: s.note(k, "9" * 5000), SAME)
    register("notes", f"{key} is text", lambda s, k=key: s.note(k, json.dumps("5.08")), SAME)
    register("notes", f"{key} is true", lambda s, k=key: s.note(k, "true"), SAME)
    register("notes", f"{key} is an empty list", lambda s, k=key: s.note(k, "[]"), SAME)


@fraud("notes", SAME)
def none_at_all(s: Surgery) -> None:
    s.model.ClearField("metadata_props")


@fraud("notes", SAME)
def those_of_spikeyolo_missing(s: Surgery) -> None:
    kept = [(p.key, p.value) for p in s.model.metadata_props if p.key not in (*JSON_NOTES, *TEXT_NOTES)]
    s.model.ClearField("metadata_props")
    for key, value in kept:
        s.model.metadata_props.add(key=key, value=value)


text_note("an integer graph", "graph", "integer")
text_note("a graph of another kind", "graph", "analog")
text_note("graph in capitals", "graph", "Spike")
text_note("no kind of graph", "graph", "")
text_note("another form", "form", "3")
text_note("an earlier form", "form", "1")
text_note("a form of text", "form", '"2"')
text_note("a form of 2.0", "form", "2.0")
text_note("another neuron", "neuron", "lif")
text_note("a neuron of control characters", "neuron", "ibra-lif\x1b[2K\rproven\n")
text_note("another source", "source", "other.pt")
text_note("a source elsewhere", "source", "../../../etc/passwd")
text_note("a source of many lines", "source", "small.pt\nok    everything     is proven\n")
text_note("another checkpoint", "source_sha256", "0" * 64)
text_note("an old digest", "weights_sha256", "0" * 64)
note("D is 1", "D", lambda v: 1.0)
note("D a little larger", "D", lambda v: v + 1e-9)
note("N is 1", "N", lambda v: 1.0)
note("N doubled", "N", lambda v: v * 2)
note("T is 2", "T", lambda v: 2)
note("T is 0", "T", lambda v: 0)
note("T is 1.0", "T", lambda v: 1.0)
note("decay is 0.9", "decay", lambda v: 0.9)
note("unit is 1", "unit", lambda v: 1.0)
note("unit a little larger", "unit", lambda v: v * (1 + 1e-12))
note("unit is negative", "unit", lambda v: -v)
note("unit is 0", "unit", lambda v: 0)
note("weight_bits is 2", "weight_bits", lambda v: 2)
note("weight_bits is 16", "weight_bits", lambda v: 16)
note("kept_planes is 9", "kept_planes", lambda v: 9)
note("kept_planes is 3", "kept_planes", lambda v: 3)
note("exact is nothing", "exact", lambda v: "")
note("exact is a list", "exact", lambda v: ["model.3.conv"])
note("nothing is real-valued", "real_valued", lambda v: [])
note("the decoder is not real-valued", "real_valued", lambda v: v[:1])
note("more is real-valued", "real_valued", lambda v: [*v, "everything"])
note("an attention", "attention", lambda v: {"model.3": [1, 2, 3]})
note("a grid", "grid", lambda v: {"model.3.conv": 5})
note("factored weights of one more", "factored_weights", lambda v: {k: n + 1 for k, n in v.items()})
note("factored weights of a layer that does not exist", "factored_weights", lambda v: {**v, "model.99": 1})
note("no factored weights", "factored_weights", lambda v: {})
note("a plane more in one layer", "planes", lambda v: {k: n + (i == 0) for i, (k, n) in enumerate(v.items())})
note("one plane in all layers", "planes", lambda v: dict.fromkeys(v, 1))
note("255 planes in all layers", "planes", lambda v: dict.fromkeys(v, 255))
note("planes of 7.0", "planes", lambda v: {k: float(n) for k, n in v.items()})
note("a layer without planes", "planes", lambda v: dict(list(v.items())[1:]))
note("the stem has planes", "planes", lambda v: {"model.1.conv": 8, **v})
note("planes of a layer that does not exist", "planes", lambda v: {**v, "model.99": 7})
note("planes in another order", "planes", lambda v: dict(list(v.items())[::-1]))
note("ranges of another D", "ranges", lambda v: {k: [9.0, n, r] for k, (_, n, r) in v.items()})
note("ranges of another N", "ranges", lambda v: {k: [d, 2 * n, r] for k, (d, n, r) in v.items()})
note("ranges of D and N against each other", "ranges", lambda v: {k: [2 * d, n / 2, r] for k, (d, n, r) in v.items()})
note("ranges with a rest", "ranges", lambda v: {k: [d, n, 5] for k, (d, n, _) in v.items()})
note("a range of one layer", "ranges", lambda v: v | {next(iter(v)): [1.0, 1.0, 0]})
note("a layer without range", "ranges", lambda v: dict(list(v.items())[1:]))
note("a range of a layer that does not exist", "ranges", lambda v: {**v, "model.99": [1.0, 1.0, 0]})
note("ranges of four numbers", "ranges", lambda v: {k: [*r, 0] for k, r in v.items()})


def layer_note(key: str, value: Any, which: int = 3) -> None:
    def change(layers: dict[str, Any]) -> dict[str, Any]:
        name = list(layers)[which]
        return layers | {name: layers[name] | {key: value}}

    note(f"a layer's {key}", "layers", change)


for key, setting in {
    "codes": "images/pixels",
    "order": "NCHW",
    "size": [1, 1],
    "kind": "wide",
    "scale": 2.0,
    "largest": 3,
    "rest": 9,
    "channels": [1, 1],
    "kernel": [1, 1],
    "stride": [2, 2],
    "padding": [0, 0],
    "dilation": [2, 2],
    "groups": 4,
    "binary": True,
}.items():
    layer_note(key, setting)
note("layers in another order", "layers", lambda v: dict(list(v.items())[::-1]))
note("a layer missing", "layers", lambda v: dict(list(v.items())[:-1]))
note("the stem missing", "layers", lambda v: dict(list(v.items())[1:]))
note("a layer that does not exist", "layers", lambda v: {**v, "model.99": next(iter(v.values()))})
note(
    "layers exchanged",
    "layers",
    lambda v: dict(zip(v, [list(v.values())[i] for i in [0, 2, 1, *range(3, len(v))]], strict=True)),
)
note("codes of layers exchanged", "layers", lambda v: exchanged_codes(v))
note("versions of other packages", "versions", lambda v: {**v, "torch": "1.0"})
note("a later version of spikeyolo", "versions", lambda v: {**v, "spikeyolo": "99.0"})
note("no versions", "versions", lambda v: {})


def exchanged_codes(layers: dict[str, Any]) -> dict[str, Any]:
    names = list(layers)
    one, two = names[1], names[4]
    codes = layers[one]["codes"], layers[two]["codes"]
    return layers | {one: layers[one] | {"codes": codes[1]}, two: layers[two] | {"codes": codes[0]}}


@fraud("notes", SAME, forged=False)
def another_digest(s: Surgery) -> None:
    s.note("graph_sha256", "0" * 64)


@fraud("notes", SAME)
def a_key_twice_in_json(s: Surgery) -> None:
    s.note("planes", s.notes()["planes"].replace("{", '{"model.3.conv": 1, ', 1))


@fraud("notes", SAME)
def a_note_twice(s: Surgery) -> None:
    s.model.metadata_props.add(key="D", value="1.0")


@fraud("notes", SAME)
def an_unknown_note(s: Surgery) -> None:
    s.model.metadata_props.add(key="proven", value="true")


@fraud("notes", SAME)
def settings_of_the_runtime(s: Surgery) -> None:
    """ONNX Runtime reads this key where its environment allows."""
    s.model.metadata_props.add(key="ort_config", value='{"session_options": {"graph_optimization_level": 99}}')


for key, text in {
    "names": "{0: 'cat', 1: 'dog', 2: 'owl'}",
    "stride": "32",
    "task": "segment",
    "imgsz": "[32, 32]",
    "batch": "8",
    "channels": "1",
    "end2end": "True",
    "head": "Detect",
    "args": "{'half': True}",
    "version": "1.0",
    "names ": "{}",
}.items():
    register(
        "notes of Ultralytics",
        f"{key.strip()} is {text}",
        lambda s, k=key, t=text: s.note(k, t) if k in s.notes() else s.model.metadata_props.add(key=k, value=t),
        SAME,
    )
for key in ("names", "stride", "task", "imgsz", "batch", "channels", "end2end"):
    register("notes of Ultralytics", f"{key} missing", lambda s, k=key: s.note(k, None), SAME)
register("notes of Ultralytics", "names that are run", lambda s: s.note("names", "__import__('os').getcwd()"), SAME)
register("notes of Ultralytics", "names exchanged", lambda s: s.note("names", "{0: '1', 1: '0', 2: '2'}"), SAME)


# whole networks


@fraud("networks")
def other_weights_in_all_layers(s: Surgery) -> None:
    """Weights of another network; those of the reference lie in the file, unused."""
    rng = np.random.default_rng(0)
    for layer in [*s.ops("QLinearConv"), *s.gemms]:
        name = s.kernel(layer)
        honest = s.value(name)
        rename(s, name, f"{name}/other")
        s.change(f"{name}/other", lambda w: rng.permutation(w.ravel()).reshape(w.shape))
        s.constant(honest, name=name)


@fraud("networks")
def other_weights_and_unused_convolutions_with_the_right_ones(s: Surgery) -> None:
    """The old verifier was fooled by this: convolutions that nothing needs carry the reference's weights."""
    rng = np.random.default_rng(0)
    for layer in s.ops("QLinearConv"):
        twin = onnx.NodeProto.FromString(layer.SerializeToString())
        twin.output[0] = f"{layer.output[0]}/unused"
        name = s.kernel(layer)
        path = s.producer(layer.input[3])
        array = s.value(name)
        other = rng.permutation(array.ravel()).reshape(array.shape)
        if path is None:
            layer.input[3] = s.constant(other)
        elif path.op_type == "Tile":
            layer.input[3] = s.add("Tile", [s.constant(other), path.input[1]])
        else:
            layer.input[3] = s.constant(np.repeat(other[..., None], 7, -1).reshape(*other.shape[:3], -1))
        layer.name = f"{layer.name}/other"
        s.graph.node.append(twin)


def float_twin(s: Surgery, write: Callable[[str], str]) -> None:
    """Put a small float network in the place of everything, with an output of the same shape."""
    notes = [(p.key, p.value) for p in s.model.metadata_props]
    s.graph.ClearField("node")
    s.graph.ClearField("initializer")
    made = write(s.image)
    s.producer_of(made).output[0] = s.output
    assert notes


def small_network(s: Surgery, image: str, activation: str) -> str:
    rng = np.random.default_rng(0)

    def conv(x: str, inputs: int, outputs: int, stride: int) -> str:
        weight = s.constant(rng.normal(size=(outputs, inputs, 3, 3)) / np.sqrt(9 * inputs), np.float32)
        return s.add("Conv", [x, weight], pads=[1, 1, 1, 1], strides=[stride, stride])

    x = s.add(activation, [conv(image, 3, 8, 2)])
    x = s.add(activation, [conv(x, 8, 8, 2)])
    coarse = s.add(activation, [conv(x, 8, 8, 2)])
    maps = [
        s.add("Reshape", [conv(x, 8, 7, 1), s.constant([1, 7, 256])]),
        s.add("Reshape", [conv(coarse, 8, 7, 1), s.constant([1, 7, 64])]),
    ]
    return s.add("Concat", maps, axis=2)


register("networks", "a float network with ReLU", lambda s: float_twin(s, lambda x: small_network(s, x, "Relu")))
register("networks", "a float network with tanh", lambda s: float_twin(s, lambda x: small_network(s, x, "Tanh")))


@fraud("networks")
def a_float_network_beside_the_spiking_one(s: Surgery) -> None:
    """The spiking network runs and is multiplied by zero."""
    s.at_end(lambda x: s.add("Add", [times(s, x, 0), small_network(s, s.image, "Relu")]))


@fraud("networks")
def a_float_network_that_is_chosen(s: Surgery) -> None:
    s.at_end(lambda x: s.add("Where", [s.constant(True, np.bool_), small_network(s, s.image, "Relu"), x]))


@fraud("networks")
def a_float_network_in_the_place_of_the_middle(s: Surgery) -> None:
    """Its map goes where a residual stream was."""
    rng = np.random.default_rng(0)
    weight = s.constant(rng.normal(size=(8, 3, 7, 7)), np.float32)
    made = s.add("Conv", [s.image, weight], pads=[2, 2, 2, 2], strides=[4, 4])
    stream = s.add("Transpose", [s.add("Relu", [made])], perm=[0, 2, 3, 1])
    s.behind(s.additions[1].output[0], lambda _: stream, s.readers(s.additions[1].output[0]))


@fraud("networks")
def codes_never_fire(s: Surgery) -> None:
    """All codes are zero: boxes depend on nothing."""
    for clip in s.clips:
        s.give(clip, 2, 0, np.uint8)


@fraud("networks")
def nothing_reads_the_image(s: Surgery) -> None:
    rewire(s.pixels, s.image, s.constant(np.full((1, 3, 64, 64), 0.5), np.float32))


@fraud("networks", FAILS)
def the_output_is_constant(s: Surgery) -> None:
    """ONNX Runtime drops an input that nothing reads only if it is said to; it accepts the image."""
    numbers = np.random.default_rng(0).uniform(0, 64, (1, 7, 320))
    s.at_end(lambda x: s.add("Add", [times(s, x, 0), s.constant(numbers, np.float32)]))


FRAUDS["networks: the output is constant"] = Fraud(
    "networks: the output is constant", "networks", CHANGES, the_output_is_constant
)


@fraud("networks")
def a_table_of_answers(s: Surgery) -> None:
    """The image is hashed; some images have prepared answers."""
    total = s.add("ReduceSum", [s.image], keepdims=0)
    place = s.add("Mod", [cast(s, total, TensorProto.INT64), s.constant(7)])
    table = s.constant(np.random.default_rng(0).uniform(0, 1, (7, 1, 7, 320)), np.float32)
    chosen = s.add("Gather", [table, place], axis=0)
    s.at_end(lambda x: s.add("Add", [x, chosen]))


@fraud("networks", SAME)
def an_integer_graph_sold_as_a_spike_graph(s: Surgery) -> None:
    """All layers read codes; the notes say spikes."""
    for join in s.joins:
        codes = s.codes_of(join)
        s.behind(join.output[0], lambda _, codes=codes: codes, s.readers(join.output[0]))
    untile(s)
    s.drop_unused()


def untile(s: Surgery) -> None:
    """Undo the repetition of weights for planes, as the integer graph has them."""
    for layer in s.ops("QLinearConv"):
        layer.input[3] = s.kernel(layer)
        transposed = s.producer(layer.input[0])
        if attribute(layer, "group", 1) > 1 and transposed is not None:
            reshape = s.made(transposed.input[0], "Reshape")
            s.remove(reshape)
            kernel = s.value(layer.input[3]).shape[2:]
            top, left, bottom, right = attribute(layer, "pads")
            set_attribute(layer, "kernel_shape", list(kernel))
            set_attribute(layer, "pads", [top, left // 7, bottom, right // 7])
            set_attribute(layer, "strides", [attribute(layer, "strides")[0], attribute(layer, "strides")[1] // 7])
    for pad in s.ops("Pad"):
        for flat in s.readers(pad.output[0]):
            s.change_at(flat, 1, lambda a: np.array([a[0], a[1], a[2] // 7]))
    for gemm in s.gemms:
        parts = s.gemm_parts(gemm)
        rows = s.made(parts["operands"].input[0], "Reshape")
        s.change_at(rows, 1, lambda a: np.array([a[0], a[1] // 7]))
        kernel = s.kernel(gemm)
        taps, inputs, outputs = s.value(kernel).shape
        shape = s.constant([taps * inputs, outputs], np.int64)
        parts["weights"].input[0] = s.add("Reshape", [kernel, shape])


@fraud("networks", SAME)
def a_spike_graph_with_planes_in_one_layer_alone(s: Surgery) -> None:
    joins = s.joins
    for conv in s.direct[1:]:
        join = s.producer_of(s.made(conv.input[0], "Transpose").input[0])
        if join in joins:
            conv.input[0] = s.add("Transpose", [s.codes_of(join)], perm=[0, 3, 1, 2])
            conv.input[3] = s.kernel(conv)
    s.drop_unused()


@fraud("networks")
def a_layer_left_out(s: Surgery) -> None:
    """A branch is the constant that its biases say."""
    add = s.additions[1]
    index = first(i for i in (0, 1) if s.potential(add.input[i]))
    s.remove(add, add.input[1 - index])
    s.drop_unused()


@fraud("networks")
def two_layers_in_the_wrong_order(s: Surgery) -> None:
    """The kernels, scales and biases of two layers of one shape change places."""
    one = s.direct[-1]
    shape = s.value(s.kernel(one)).shape
    two = first(n for n in s.direct[:-1] if s.value(s.kernel(n)).shape == shape)
    for i in (3, 4, 8):
        one.input[i], two.input[i] = two.input[i], one.input[i]


@fraud("networks")
def a_layer_twice(s: Surgery) -> None:
    """A residual block runs twice."""
    add = s.additions[-1]
    branch = first(i for i in add.input if s.potential(i))
    s.behind(add.output[0], lambda x: s.add("Add", [x, branch]))


@fraud("networks")
def an_ensemble(s: Surgery) -> None:
    """The mean of the spiking network and of its mirror image, by a copy of all nodes."""
    mirror = s.add("Slice", [s.image, s.constant([-1]), s.constant([-999]), s.constant([3]), s.constant([-1])])
    names = {o for n in s.graph.node for o in n.output}
    for node in [n for n in s.graph.node if n.op_type != "Slice" or n.output[0] != mirror]:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = f"mirror/{node.name}"
        for i, name in enumerate(copy.input):
            copy.input[i] = mirror if name == s.image else f"mirror/{name}" if name in names else name
        for i, name in enumerate(copy.output):
            copy.output[i] = f"mirror/{name}"
        s.graph.node.append(copy)
    other = f"mirror/{s.output}"
    s.at_end(lambda x: times(s, s.add("Add", [x, other]), 0.5))
