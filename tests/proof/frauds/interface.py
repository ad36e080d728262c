"""Frauds about outputs and inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from surgery import Surgery, rewire

from frauds.decoder import decoder_strides, final
from frauds.registry import FAILS, SAME, cast, fraud, register, times
from frauds.sums import window_offsets


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


@fraud("inputs", SAME)
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
    """Remove the quantisation: pixels come as bytes."""
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
    """Make the image a constant."""
    s.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 64, 64), np.float32), s.image))
    s.graph.ClearField("input")


@fraud("inputs", SAME)
def the_image_has_a_default(s: Surgery) -> None:
    s.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 64, 64), np.float32), s.image))
