"""Frauds about opsets, versions, functions."""

from __future__ import annotations

import onnx
from onnx import helper
from surgery import Surgery, first, set_attribute

from frauds.decoder import softmax
from frauds.registry import FAILS, SAME, fraud, register


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
    """Take the axis of the softmax from the caller, which gives another one."""
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
    """Refer to nothing; ONNX Runtime reads the number beside the reference: 0."""
    found = softmax(s)
    set_attribute(found, "axis", None)
    found.attribute.append(onnx.AttributeProto(name="axis", ref_attr_name="axis", type=onnx.AttributeProto.INT))


@fraud("functions", SAME)
def an_attribute_with_a_value_and_a_reference(s: Surgery) -> None:
    found = first(a for a in softmax(s).attribute if a.name == "axis")
    found.ref_attr_name = "axis"


@fraud("functions", SAME)
def a_function_of_an_older_opset(s: Surgery) -> None:
    """Import opset 12, where Softmax takes all dimensions behind the axis as one; ONNX Runtime ignores it."""
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
