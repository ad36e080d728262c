"""Frauds about what else a file can hold."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from surgery import Surgery, first, rewire

from frauds.registry import FAILS, SAME, fraud, rename


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
    """Write two equal nodes of which one is enough."""
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


@fraud("file", SAME, ordered=False)
def not_in_topological_order(s: Surgery) -> None:
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in s.graph.node]
    s.graph.ClearField("node")
    s.graph.node.extend(copies[::-1])


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


@fraud("file", SAME)
def names_of_weights_exchanged(s: Surgery) -> None:
    """Let each layer read what it read, under the name of another one."""
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
    """Write sparse weights, nearly all of them zero."""
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


@fraud("file", SAME, ordered=False, forged=False)
def unknown_fields(s: Surgery) -> None:
    """Append bytes of a field that no version of the format has."""
    s.model = onnx.ModelProto.FromString(s.model.SerializeToString() + bytes.fromhex("a2d2050474657374"))


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


@fraud("file", FAILS)
def an_operator_that_does_not_exist(s: Surgery) -> None:
    """One of the name of a term, or of a method of the parser."""
    s.additions[0].op_type = "potential"


@fraud("file", SAME)
def a_product_whose_name_is_a_claim(s: Surgery) -> None:
    s.direct[0].name = "model.1.conv" + " " * 60 + "ok    equal     its program is that of small.pt"


@fraud("file")
def pixels_that_are_clipped(s: Surgery) -> None:
    pixels = first(n for n in s.graph.node if n.op_type == "QuantizeLinear")
    s.graph.initializer.append(numpy_helper.from_array(np.uint8(100), "hundred"))
    s.graph.node.append(onnx.helper.make_node("Clip", [pixels.output[0], "", "hundred"], ["clipped"], "clip"))
    for node in s.graph.node:
        if node.name != "clip":
            rewire(node, pixels.output[0], "clipped")
