"""Messages of an ONNX file, read strictly: what has more in it than we read is refused. Needs onnx alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from spikeyolo.proof.program import Array, Numbers


class Refused(ValueError):
    """Something that is no part of a spiking network."""


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return the shape of an input or output: a number, or the name of a side that may differ."""
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


MODEL = {"ir_version", "opset_import", "producer_name", "producer_version", "graph", "metadata_props", "doc_string"}
GRAPH = {"node", "name", "initializer", "input", "output", "doc_string"}
NODE = {"input", "output", "name", "op_type", "attribute", "domain", "doc_string"}
TENSOR = {"dims", "data_type", "name", "raw_data", "float_data", "int32_data", "int64_data", "double_data"}
TENSOR |= {"uint64_data"}
ATTRIBUTE = {
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
}


def check_fields(message: Any, known: set[str], where: str) -> None:
    """Refuse a message that has more in it than we read."""
    if unknown := [field.name for field, _ in message.ListFields() if field.name not in known]:
        raise Refused(f"{where} has {unknown[0]}, which no spike graph has")


def read_attribute(attribute: onnx.AttributeProto) -> Any:
    """Return an attribute's value, hashable; one with a graph, or with more than its value, is refused."""
    field = ATTRIBUTE.get(attribute.type)
    if field is None:
        raise Refused(f"has the attribute {attribute.name}, which is no number or text")
    check_fields(attribute, {"name", "type", field, "doc_string"}, f"attribute {attribute.name}")
    value = helper.get_attribute_value(attribute)
    if field == "t":
        return Numbers.of(read_array(value))
    return tuple(value) if field in {"floats", "ints", "strings"} else value


def read_array(tensor: onnx.TensorProto) -> Array:
    """Return the numbers of a tensor that are in the file itself."""
    where = f"tensor {tensor.name}"
    check_fields(tensor, TENSOR, where)
    if min(tensor.dims, default=0) < 0:
        raise Refused(f"{where} has the shape {list(tensor.dims)}")
    if sum(field.name.endswith("_data") for field, _ in tensor.ListFields()) > 1:
        raise Refused(f"{where} has its numbers twice")
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as e:  # of a tensor whose numbers do not fit its type and shape
        raise Refused(f"{where} is damaged ({e}); export the file again") from e
    if array.dtype.kind not in "fiub":
        raise Refused(f"{where} holds {array.dtype}, not numbers")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise Refused(f"{where} holds what is not a number")
    return array


def shown(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}" + (f" {array.ravel().tolist()}" if array.size < 4 else "")
