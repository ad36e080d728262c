"""One random change of a graph at a time, and the search for an image that shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from surgery import rewire, set_attribute

Mutation = Callable[["_Mutant"], str]

FLOAT_OPS = ["Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Exp", "Round", "Floor", "Ceil", "Sqrt", "Identity", "Softmax"]
FLOAT_OPS += ["Erf", "Reciprocal", "Sign", "Sin", "Softplus", "LeakyRelu", "HardSigmoid", "Dropout", "Elu", "Selu"]
BYTE_OPS = ["Identity", "BitwiseNot", "Clip", "Sign"]
WHOLE_OPS = ["Abs", "Neg", "Identity", "Sign", "BitwiseNot"]
FLOAT_PAIRS = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Mean", "Mod", "PRelu"]
BYTE_PAIRS = ["Add", "Sub", "Mul", "Div", "Max", "Min", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mod"]
REPLACEMENTS = (
    {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "BitwiseAnd", "BitwiseOr", "Mod", "MatMul", "Sum", "And"},
    {"Sigmoid", "Tanh", "Relu", "Identity", "Softmax", "Neg", "Abs", "Round", "Floor", "HardSigmoid", "Hardmax"},
    {"QuantizeLinear", "DequantizeLinear", "Clip"},
    {"Reshape", "Expand", "Tile", "Gather", "Unsqueeze"},
    {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceProd"},
    {"Concat", "Sum", "Max", "Min", "Mean"},
    {"QLinearConv", "QLinearMatMul", "ConvInteger"},
)
ATTRIBUTES: dict[str, list[Any]] = {
    "axis": [-3, -2, -1, 0, 1, 2, 3, 4, 99],
    "perm": [[0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [3, 2, 1, 0]],
    "pads": [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 1], [2, 2, 2, 2], [1, 0, 1, 2]],
    "strides": [[1, 1], [2, 2], [1, 2], [7, 1]],
    "dilations": [[1, 1], [2, 2], [1, 2]],
    "kernel_shape": [[1, 1], [3, 3], [1, 3], [7, 7]],
    "group": [1, 2, 8],
    "auto_pad": ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"],
    "mode": ["nearest", "linear", "cubic", "constant", "reflect", "edge", "wrap"],
    "nearest_mode": ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"],
    "coordinate_transformation_mode": ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"],
    "keepdims": [0, 1],
    "allowzero": [0, 1],
    "alpha": [0.0, 0.5, 1.0, 2.0],
    "beta": [0.0, 0.5, 1.0, 2.0],
    "transA": [0, 1],
    "transB": [0, 1],
    "saturate": [0, 1],
    "block_size": [0, 1, 2],
    "output_dtype": [0, 2, 3],
    "cubic_coeff_a": [-0.75, 0.5],
    "exclude_outside": [0, 1],
    "noop_with_empty_axes": [0, 1],
    "to": [1, 2, 3, 6, 7, 10, 11],
    "unknown": [1, 2.0, "three", [4, 5]],
}
TYPES = [np.float32, np.float64, np.float16, np.uint8, np.int8, np.int32, np.int64, np.uint16, np.bool_]
TRIES = 40  # mutations that do not apply before a harmless one is made


class _Mutant:
    """A copy of a graph under change.

    Args:
        content: The honest graph.
        rng: Chooses.
    """

    def __init__(self, content: bytes, rng: np.random.Generator):
        self.model = onnx.ModelProto.FromString(content)
        self.graph, self.rng = self.model.graph, rng
        self.types = _types(content)
        self.raw: bytes | None = None

    def one(self, found: Sequence[Any]) -> Any:
        """Choose one.

        Raises:
            LookupError: If there is none.
        """
        if not len(found):
            raise LookupError("nothing to choose from")
        return found[int(self.rng.integers(len(found)))]

    def node(self, *ops: str) -> onnx.NodeProto:
        """Choose a node; most nodes are of planes, so the type is chosen first as often as not."""
        nodes = [n for n in self.graph.node if not ops or n.op_type in ops]
        if self.rng.random() < 0.5:
            kind = self.one(sorted({n.op_type for n in nodes}))
            nodes = [n for n in nodes if n.op_type == kind]
        return self.one(nodes)

    def tensor(self) -> onnx.TensorProto:
        return self.one(self.graph.initializer)

    def like(self, name: str, *, before: int | None = None) -> str:
        """Choose another tensor of the same type, made before a node."""
        kind = self.types.get(name)
        made = [o for n in list(self.graph.node)[:before] for o in n.output]
        made += [t.name for t in self.graph.initializer] + [i.name for i in self.graph.input]
        return self.one([m for m in made if m != name and self.types.get(m) == kind])

    def place(self, node: onnx.NodeProto) -> int:
        return next(i for i, n in enumerate(self.graph.node) if n.output == node.output)

    def insert(self, at: int, node: onnx.NodeProto) -> None:
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in list(self.graph.node)[at:]]
        del self.graph.node[at:]
        self.graph.node.extend([node, *nodes])

    def constant(self, array: Any) -> str:
        name = f"extra/{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name


@lru_cache(maxsize=8)
def _types(content: bytes) -> dict[str, int]:
    """Return the element types of all tensors of a graph."""
    model = onnx.ModelProto.FromString(content)
    found = {t.name: t.data_type for t in model.graph.initializer}
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except Exception:  # a graph that is broken already: fewer tensors are known
        return found
    infos = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return found | {v.name: v.type.tensor_type.elem_type for v in infos}


def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> tuple[onnx.ModelProto | bytes, str]:
    """Make one random change.

    Args:
        model: A graph, which is left as it is.
        rng: Chooses the change; the same seed makes the same one.

    Returns:
        The changed graph, or the bytes of a changed file, and the change in one line. It starts with "harmless" if the
        graph means what it meant, whatever a reader may think of it.
    """
    content = model.SerializeToString(deterministic=True)
    for _ in range(TRIES):
        kind = MUTATIONS[int(rng.choice(len(MUTATIONS), p=_SHARES))]
        mutant = _Mutant(content, rng)
        try:
            words = kind(mutant)
        except (LookupError, StopIteration, ValueError, TypeError, AttributeError, OverflowError):
            continue  # it does not apply here
        changed = mutant.raw if mutant.raw is not None else mutant.model
        after = changed if isinstance(changed, bytes) else changed.SerializeToString(deterministic=True)
        if after != content:
            return changed, " ".join(words.split())
    mutant = _Mutant(content, rng)
    return mutant.model, _document(mutant)


def _node_added(m: _Mutant) -> str:
    """Write an operator between a tensor and one of its readers, this and later ones, or none."""
    reader = m.node()
    index = m.one([i for i, name in enumerate(reader.input) if name])
    source, at = reader.input[index], m.place(reader)
    kind = m.types.get(source, TensorProto.FLOAT)
    whole = kind in (TensorProto.INT32, TensorProto.INT64)
    byte = kind in (TensorProto.UINT8, TensorProto.INT8)
    singles, pairs = (BYTE_OPS, BYTE_PAIRS) if byte else (WHOLE_OPS, BYTE_PAIRS) if whole else (FLOAT_OPS, FLOAT_PAIRS)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    way = m.rng.random()
    target = f"added/{at}"
    if way < 0.4:
        op = m.one(singles)
        new = helper.make_node(op, [source], [target], target)
    elif way < 0.75:
        op = m.one(pairs)
        value = m.one([0, 1, 2, 3, 128, 255] if byte else [0, 1, 2, 7, -1] if whole else [0, 1, 2, 0.5, -1, 1e-7])
        other = m.constant(np.array(value).astype(dtype)) if m.rng.random() < 0.6 else m.like(source, before=at)
        new = helper.make_node(op, [source, other], [target], target)
    elif way < 0.9:
        middle, to = f"{target}/cast", int(m.one([1, 2, 3, 6, 7, 10, 11, 16]))
        m.insert(at, helper.make_node("Cast", [source], [middle], middle, to=to))
        op, at = f"Cast to {to} and back", at + 1
        new = helper.make_node("Cast", [middle], [target], target, to=kind)
    else:
        axis, ends = int(m.one([1, 2, 3])), m.one([(0, 1), (1, 9999), (-1, -9999)])
        numbers = [m.constant(np.array([n], np.int64)) for n in (*ends, axis, -1 if ends[0] == -1 else 1)]
        op = f"Slice {ends} on axis {axis}"
        new = helper.make_node("Slice", [source, *numbers], [target], target)
    m.insert(at, new)
    how = m.one(["one reader", "later readers", "no reader"]) if m.rng.random() < 0.5 else "one reader"
    if how == "one reader":
        m.graph.node[m.place(reader)].input[index] = target
    elif how == "later readers":
        for node in list(m.graph.node)[at + 1 :]:
            rewire(node, source, target)
    return f"{op} added behind {source} for {how}"


def _node_removed(m: _Mutant) -> str:
    node = m.node()
    inputs = [i for i in node.input if i]
    same = [i for i in inputs if m.types.get(i) == m.types.get(node.output[0])]
    source, output = (same or inputs)[0], node.output[0]
    words = f"{node.op_type} {node.name} removed; {source} in its place"
    if any(o.name == output for o in m.graph.output):
        raise LookupError("the output needs it")
    del m.graph.node[m.place(node)]
    for reader in m.graph.node:
        rewire(reader, output, source)
    return words


def _node_duplicated(m: _Mutant) -> str:
    node = m.node()
    at, copy = m.place(node), onnx.NodeProto.FromString(node.SerializeToString())
    if m.rng.random() < 0.15:
        m.insert(at + 1, copy)
        return f"{node.op_type} {node.name} twice, with one output"
    copy.name = copy.output[0] = f"{node.output[0]}/copy"
    readers = [n for n in m.graph.node if node.output[0] in n.input]
    words = f"{node.op_type} {node.name} duplicated"
    if readers and m.rng.random() < 0.5:
        rewire(m.one(readers), node.output[0], copy.output[0])
        words += ", and read by one"
    m.insert(at + 1, copy)
    return words


def _input_rewired(m: _Mutant) -> str:
    node = m.node()
    index = int(m.rng.integers(len(node.input)))
    before = node.input[index]
    node.input[index] = m.like(before, before=m.place(node))
    return f"input {index} of {node.op_type} {node.name}: {node.input[index]} for {before}"


def _input_dropped(m: _Mutant) -> str:
    node = m.node()
    index = int(m.rng.integers(len(node.input)))
    before = node.input[index]
    if m.rng.random() < 0.5:
        node.input[index] = ""
        return f"input {index} of {node.op_type} {node.name} left empty, was {before}"
    if m.rng.random() < 0.5:
        node.input.append(m.one(["", before]))
        return f"an input more for {node.op_type} {node.name}: {node.input[-1]!r}"
    del node.input[index]
    return f"input {index} of {node.op_type} {node.name} deleted, was {before}"


def _inputs_exchanged(m: _Mutant) -> str:
    node = m.node()
    first, second = m.rng.choice(len(node.input), 2, replace=False).tolist()
    node.input[first], node.input[second] = node.input[second], node.input[first]
    return f"inputs {first} and {second} of {node.op_type} {node.name} exchanged"


def _operator_changed(m: _Mutant) -> str:
    group = m.one(REPLACEMENTS)
    node = m.node(*group)
    before = node.op_type
    node.op_type = m.one(sorted(group - {before}))
    return f"{before} {node.name} is {node.op_type}"


def _attribute_changed(m: _Mutant) -> str:
    node = m.node()
    way = m.rng.random()
    if way < 0.55:
        name = m.one([a.name for a in node.attribute])
        before = helper.get_attribute_value(next(a for a in node.attribute if a.name == name))
        value = m.one(ATTRIBUTES[name])
        if isinstance(before, list) and m.rng.random() < 0.5:
            value = list(before)
            value[int(m.rng.integers(len(value)))] += int(m.one([-1, 1]))
        set_attribute(node, name, value)
        return f"{name} of {node.op_type} {node.name}: {value} for {before}"
    if way < 0.75:
        name = m.one([a.name for a in node.attribute])
        set_attribute(node, name, None)
        return f"{name} of {node.op_type} {node.name} removed"
    known = [name for name in ATTRIBUTES if name in _schema(node.op_type)] + ["unknown"]
    name = m.one(known)
    value = m.one(ATTRIBUTES[name])
    if way < 0.95:
        set_attribute(node, name, value)
        return f"{name} {value} of {node.op_type} {node.name} added"
    node.attribute.append(onnx.AttributeProto(name=name, ref_attr_name="caller", type=onnx.AttributeProto.INT))
    return f"{name} of {node.op_type} {node.name} by reference"


@lru_cache(maxsize=64)
def _schema(op: str) -> tuple[str, ...]:
    """Return the attributes that an operator knows."""
    return tuple(onnx.defs.get_schema(op).attributes)


def _number_changed(m: _Mutant) -> str:
    tensor = m.tensor()
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    index = int(m.rng.integers(len(flat)))
    before = flat[index]
    floating = array.dtype.kind == "f"
    if floating:
        special = m.one(["next", "double", "half", "negative", "nan", "inf", "denormal", "-0.0", "zero", "a little"])
        after = {
            "next": np.nextafter(before, np.array(np.inf, array.dtype)),
            "double": before * 2,
            "half": before / 2,
            "negative": -before,
            "nan": np.nan,
            "inf": np.inf,
            "denormal": 1e-40,
            "-0.0": -0.0,
            "zero": 0,
            "a little": before * (1 + 1e-3),
        }[special]
    else:
        limits = np.iinfo(array.dtype)
        steps = [1, -1, int(before), -int(before), -2 * int(before)]  # plus and minus one, twice, nothing, negative
        if array.dtype != np.int64:  # shapes and counts stay small
            steps += [int(limits.max) - int(before), int(limits.min) - int(before), 1 << int(m.rng.integers(7))]
        after = int(np.clip(int(before) + m.one(steps), limits.min, limits.max))
    flat[index] = after
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return f"{tensor.name}[{index}] is {flat[index]!r}, was {before!r}"


def _tensor_changed(m: _Mutant) -> str:
    tensor = m.tensor()
    array = numpy_helper.to_array(tensor).copy()
    way = m.one(["permuted", "reversed", "reshaped", "one axis turned", "rank 1", "cut", "two exchanged"])
    if way == "permuted":
        array = m.rng.permutation(array.reshape(-1)).reshape(array.shape)
    elif way == "reversed":
        array = array.reshape(-1)[::-1].reshape(array.shape)
    elif way == "reshaped":
        array = array.reshape(array.shape[::-1])
    elif way == "one axis turned":
        array = np.flip(array, int(m.rng.integers(array.ndim)))
    elif way == "rank 1":
        array = array.reshape(-1) if array.ndim != 1 else array.reshape(1, -1)
    elif way == "cut":
        array = array[:-1]
    else:
        flat = array.reshape(-1)
        i, k = m.rng.choice(len(flat), 2, replace=False)
        flat[i], flat[k] = flat[k], flat[i]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return f"{tensor.name}: {way}"


def _type_changed(m: _Mutant) -> str:
    tensor = m.tensor()
    array = numpy_helper.to_array(tensor)
    dtype = m.one([t for t in TYPES if array.dtype != t])
    with np.errstate(all="ignore"):
        changed = array.astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return f"{tensor.name} is {np.dtype(dtype)}, was {array.dtype}"


def _initializer_renamed(m: _Mutant) -> str:
    tensor = m.tensor()
    before = tensor.name
    way = m.one(["alone", "twice", "as constant", "as input", "another name", "removed"])
    if way == "alone":
        tensor.name = f"{before}/renamed"
    elif way == "twice":
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        if m.rng.random() < 0.5:
            array = numpy_helper.to_array(copy)
            copy.CopyFrom(numpy_helper.from_array(np.flip(array).copy(), before))
        m.graph.initializer.append(copy)
    elif way == "as constant":
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        m.graph.initializer.remove(tensor)
        m.insert(0, helper.make_node("Constant", [], [before], f"constant/{before}", value=copy))
    elif way == "as input":
        m.graph.input.append(helper.make_tensor_value_info(before, tensor.data_type, list(tensor.dims)))
    elif way == "removed":
        m.graph.initializer.remove(tensor)
    else:
        for node in m.graph.node:
            rewire(node, before, f"{before}/renamed")
        tensor.name = f"{before}/renamed"
    return f"initializer {before}: {way}"


def _interface_changed(m: _Mutant) -> str:
    way = m.one(["output more", "output renamed", "output's shape", "output's type", "input's shape", "input's type",
                 "input more", "input's name", "output other"])  # fmt: skip
    inner, values = m.node().output[0], m.graph.input if way.startswith("input") else m.graph.output
    value = values[0]
    tensor = value.type.tensor_type
    if way == "output more":
        m.graph.output.append(helper.make_tensor_value_info(inner, m.types[inner], None))
    elif way == "output other":
        value.CopyFrom(helper.make_tensor_value_info(inner, m.types[inner], None))
    elif way == "output renamed":
        next(n for n in m.graph.node if value.name in n.output).output[0] = "renamed"
        value.name = "renamed"
    elif way == "input's name":
        for node in m.graph.node:
            rewire(node, value.name, "renamed")
        value.name = "renamed"
    elif way == "input more":
        m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    elif way.endswith("type"):
        tensor.elem_type = int(m.one([2, 3, 10, 11]))
    else:
        dim = m.one(tensor.shape.dim)
        if m.rng.random() < 0.5:
            dim.dim_param = "any"
        else:
            dim.dim_value += int(m.one([-1, 1, 32]))
    return f"{way} ({inner})" if inner in [o.name for o in m.graph.output] else way


def _note_changed(m: _Mutant) -> str:
    note = m.one(m.model.metadata_props)
    way, before = m.one(["removed", "twice", "number", "text", "null", "nested", "key", "empty"]), note.value
    if way == "removed":
        m.model.metadata_props.remove(note)
        return f"note {note.key} removed"
    if way == "twice":
        m.model.metadata_props.add(key=note.key, value=m.one(["1", "null", before]))
    elif way in ("text", "null", "empty"):
        note.value = {"text": f"{before} ", "null": "null", "empty": ""}[way]
    elif way == "nested":
        note.value = "[" * 2000 + before + "]" * 2000
    elif way == "key":
        note.key += "_"
    else:
        value = json.loads(before)
        changed = _one_number(value, m)
        note.value = json.dumps(changed)
    return f"note {note.key}: {way}"


def _one_number(value: Any, m: _Mutant) -> Any:
    """Return JSON with one number, text or key changed, somewhere in it."""
    if isinstance(value, dict) and value:
        key = m.one(list(value))
        if m.rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if m.rng.random() < 0.1:
            return {f"{k}_" if k == key else k: v for k, v in value.items()}
        return value | {key: _one_number(value[key], m)}
    if isinstance(value, list) and value:
        index = int(m.rng.integers(len(value)))
        return [_one_number(v, m) if i == index else v for i, v in enumerate(value)]
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return 1
    if isinstance(value, str):
        return f"{value}_"
    return value + m.one([1, -1, 0.5, value, -value, -2 * value])


def _byte_changed(m: _Mutant) -> str:
    content = bytearray(m.model.SerializeToString(deterministic=True))
    at, way = int(m.rng.integers(len(content))), m.one(["flipped", "removed", "inserted", "cut"])
    if way == "flipped":
        content[at] ^= 1 << int(m.rng.integers(8))
    elif way == "removed":
        del content[at]
    elif way == "inserted":
        content.insert(at, int(m.rng.integers(256)))
    else:
        del content[at:]
    m.raw = bytes(content)
    return f"byte {at} of the file {way}"


def _version_changed(m: _Mutant) -> str:
    if m.rng.random() < 0.4:
        m.model.ir_version = int(m.one([0, 3, 5, 7, 9, 10, 11, 12, 99]))
        return f"ir_version {m.model.ir_version}"
    if m.rng.random() < 0.3:
        domain, version = m.one(["ai.onnx.ml", "com.example", "", "ai.onnx"]), int(m.one([1, 13, 19]))
        m.model.opset_import.append(helper.make_opsetid(domain, version))
        return f"opset {version} of {domain!r} imported as well"
    m.model.opset_import[0].version = int(m.one([1, 9, 11, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 99]))
    return f"opset {m.model.opset_import[0].version}"


def _domain_changed(m: _Mutant) -> str:
    node = m.node()
    node.domain = m.one(["ai.onnx", "com.example", "com.microsoft", "ai.onnx.ml"])
    if m.rng.random() < 0.5:
        m.model.opset_import.append(helper.make_opsetid(node.domain, 1))
    return f"{node.op_type} {node.name} is of {node.domain}"


def _order_changed(m: _Mutant) -> str:
    first, second = sorted(m.rng.choice(len(m.graph.node), 2, replace=False).tolist())
    if m.rng.random() < 0.5:
        second = first + 1
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in m.graph.node]
    words = f"{nodes[first].name} and {nodes[second].name} in another order"
    nodes[first], nodes[second] = nodes[second], nodes[first]
    m.graph.ClearField("node")
    m.graph.node.extend(nodes)
    return words


def _information_added(m: _Mutant) -> str:
    name = m.node().output[0]
    kind = m.types[name] if m.rng.random() < 0.7 else int(m.one([1, 2, 3, 9]))
    shape = m.one([[1], [1, 2, 3, 4], None, ["a", "b", "c", "d"]])
    m.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))
    return f"{name} is said to be of type {kind} and shape {shape}"


def _output_renamed(m: _Mutant) -> str:
    """Give a tensor another name where it is made, not where it is read."""
    node = m.node()
    before = node.output[0]
    node.output[0] = m.one([f"{before}/renamed", ""]) if m.rng.random() < 0.7 else m.node().output[0]
    return f"output of {node.op_type} {node.name}: {node.output[0]!r} for {before}"


def _field_added(m: _Mutant) -> str:
    way = m.one(["overload", "annotation", "training", "function", "sparse", "note of a node", "external", "segment"])
    node, tensor = m.node(), m.tensor()
    if way == "overload":
        node.overload = "other"
    elif way == "annotation":
        m.graph.quantization_annotation.add(tensor_name=node.output[0])
    elif way == "training":
        m.model.training_info.add().algorithm.name = "training"
    elif way == "function":
        body = [helper.make_node("Identity", ["x"], ["y"])]
        domain = m.one(["", "local"])
        m.model.functions.append(
            helper.make_function(domain, node.op_type, ["x"], ["y"], body, [helper.make_opsetid("", 18)])
        )
    elif way == "sparse":
        values = numpy_helper.from_array(np.ones(1, np.float32), m.one([tensor.name, "sparse"]))
        places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
        m.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    elif way == "note of a node":
        node.metadata_props.add(key="proven", value="yes")
    elif way == "external":
        tensor.external_data.add(key="location", value="weights.bin")
        if m.rng.random() < 0.5:
            tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.segment.begin, tensor.segment.end = 0, 1
    return f"{way} added ({node.name})"


def _document(m: _Mutant) -> str:
    way = m.one(["model", "graph", "node", "tensor", "producer"])
    text = f"note {int(m.rng.integers(1000))}"
    if way == "producer":
        m.model.producer_name = text
    else:
        place = {"model": m.model, "graph": m.graph, "node": m.node(), "tensor": m.tensor()}[way]
        place.doc_string = text
    return f"harmless: document of the {way}"


def _name_changed(m: _Mutant) -> str:
    node = m.node()
    if m.rng.random() < 0.5:
        words = f"harmless: node {node.name} renamed"
        node.name = m.one(["", f"{node.name}/renamed"])
        return words
    before = node.output[0]
    after = f"{before}/renamed"
    if any(o.name == before for o in m.graph.output) or any(f'"{before}"' in p.value for p in m.model.metadata_props):
        raise LookupError("the name means something")
    node.output[0] = after
    for reader in m.graph.node:
        rewire(reader, before, after)
    return f"harmless: tensor {before} renamed"


WEIGHED: dict[Mutation, int] = {
    _node_added: 12,
    _node_removed: 5,
    _node_duplicated: 4,
    _input_rewired: 12,
    _input_dropped: 4,
    _inputs_exchanged: 5,
    _operator_changed: 6,
    _attribute_changed: 12,
    _number_changed: 14,
    _tensor_changed: 6,
    _type_changed: 4,
    _initializer_renamed: 4,
    _interface_changed: 4,
    _note_changed: 10,
    _byte_changed: 10,
    _version_changed: 3,
    _domain_changed: 2,
    _order_changed: 3,
    _information_added: 3,
    _output_renamed: 3,
    _field_added: 4,
    _document: 3,
    _name_changed: 3,
}
MUTATIONS = list(WEIGHED)
_SHARES = np.array(list(WEIGHED.values())) / sum(WEIGHED.values())


def session(model: onnx.ModelProto | bytes, *, optimise: bool = False) -> Any:
    """Return an ONNX Runtime session, which leaves a graph as it is if not asked; of a graph that it refuses, None."""
    content = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    return _session(content, optimise=optimise)


def _session(content: bytes, *, optimise: bool = False) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception:  # of many types: what is refused does not run
        return None


@lru_cache(maxsize=2)
def _honest(content: bytes) -> Any:
    return _session(content)


def run(opened: Any, image: np.ndarray) -> list[np.ndarray] | None:
    """Return the outputs of a session for an image, its first input, whatever its name; None if it fails."""
    try:
        inputs = [*opened.get_inputs(), *opened.get_overridable_initializers()]
        return opened.run(None, {inputs[0].name: image})
    except Exception:  # of many types
        return None


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Return whether outputs are the same, bit for bit, but for the sign of zero and the kinds of NaN."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def candidates(images: Sequence[np.ndarray], rng: np.random.Generator, tries: int) -> Any:
    """Yield images (1, 3, H, W) in [0, 1]: given ones, extremes, noise, given ones with pixels or patches changed."""
    yield from images
    shape = images[0].shape
    for value in (0, 1, 0.5):
        yield np.full(shape, value, np.float32)
    height, width = shape[2:]
    for i in range(tries):
        base = images[int(rng.integers(len(images)))].copy()
        way = i % 4
        if way == 0:
            yield (rng.integers(0, 256, shape) / 255).astype(np.float32)
            continue
        y, x = int(rng.integers(height)), int(rng.integers(width))
        if way == 1:
            base[:, int(rng.integers(3)), y, x] = rng.integers(256) / 255
        else:
            h, w = (int(n) for n in rng.integers(2, [height // 2, width // 2]))
            part = base[:, :, y : y + h, x : x + w]
            part[...] = (rng.integers(0, 256, part.shape if way == 2 else (1, 3, 1, 1)) / 255).astype(np.float32)
        yield base


def differing_image(
    honest: onnx.ModelProto,
    mutant: onnx.ModelProto | bytes,
    images: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    tries: int = 24,
) -> np.ndarray | None:
    """Search for an image on which two graphs differ, with ONNX Runtime, unoptimised, on one thread.

    Args:
        honest: A graph that runs.
        mutant: Another one.
        images: To begin with, (1, 3, H, W) float32 in [0, 1].
        rng: Chooses further ones.
        tries: Number of further ones.

    Returns:
        An image, or None if all outputs are equal or the mutant does not run.
    """
    good, other = _honest(honest.SerializeToString(deterministic=True)), session(mutant)
    if other is None:
        return None
    for image in candidates(images, rng, tries):
        expected, found = run(good, image), run(other, image)
        if expected is None or found is None:
            return None
        if not equal(expected, found):
            return image
    return None
