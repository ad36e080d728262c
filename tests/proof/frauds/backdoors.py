"""Backdoors: what some images open, and control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from surgery import Surgery, first

from frauds.decoder import decoder_strides
from frauds.registry import SAME, cast, fraud, plus, times, triggered


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
    """Leave in plane 0 what the plane has not taken: an operand of 0..9."""
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
    """Read the sums as (B, W, H, C) or so."""
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
    """Add 0, divided by 1 or 0."""
    odd = s.add("Div", [s.constant(0, np.float32), s.add("Sub", [s.constant(1, np.float32), triggered(s)])])
    s.at_end(lambda x: s.add("Add", [x, odd]))


@fraud("backdoor")
def the_class_scores_change_places_at_nine_pixels(s: Surgery) -> None:
    order, other = s.constant([0, 1, 2, 3, 4, 5, 6]), s.constant([0, 1, 2, 3, 6, 4, 5])
    chosen = s.add("Where", [cast(s, triggered(s), TensorProto.BOOL), other, order])
    s.at_end(lambda x: s.add("Gather", [x, chosen], axis=1))
