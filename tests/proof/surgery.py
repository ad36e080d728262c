"""Finds the places of an exported graph by what they do, and changes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from spikeyolo.graph.bounds import digest_of


class Surgery:
    """An ONNX model that is changed in place.

    Places are found by operators and by how they are wired, never by index, and only the names of initializers that
    docs/export.md promises are used.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model, self.graph = model, model.graph
        self.count = 0
        self._made: dict[str, onnx.NodeProto] = {}  # by tensor; what is not or no longer so is looked for again

    # what is there

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        known = self._made.get(tensor)
        if known is None or tensor not in known.output:
            self._made = {name: n for n in reversed(self.graph.node) for name in n.output}
            known = self._made.get(tensor)
        return known

    def made_by(self, tensor: str, op: str) -> bool:
        node = self.producer(tensor)
        return node is not None and node.op_type == op

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [n for n in self.graph.node if tensor in n.input]

    def reader(self, tensor: str, op: str) -> onnx.NodeProto:
        return first(n for n in self.readers(tensor) if n.op_type == op)

    def ops(self, *names: str) -> list[onnx.NodeProto]:
        return some(n for n in self.graph.node if n.op_type in names)

    def tensor(self, name: str) -> onnx.TensorProto:
        return first(t for t in self.graph.initializer if t.name == name)

    def is_constant(self, name: str) -> bool:
        return any(t.name == name for t in self.graph.initializer)

    def value(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.tensor(name)).copy()

    # places

    @property
    def image(self) -> str:
        return self.graph.input[0].name

    @property
    def output(self) -> str:
        return self.graph.output[0].name

    @property
    def pixels(self) -> onnx.NodeProto:
        """What turns the image into whole numbers."""
        return first(n for n in self.ops("QuantizeLinear") if n.input[0] == self.image)

    @property
    def neurons(self) -> list[onnx.NodeProto]:
        """Neurons that read potentials; others are in QLinearConv."""
        return some(n for n in self.ops("QuantizeLinear") if n.input[0] != self.image)

    @property
    def stem(self) -> onnx.NodeProto:
        return first(n for n in self.ops("QLinearConv") if n.input[0] == self.pixels.output[0])

    @property
    def scaled(self) -> list[onnx.NodeProto]:
        """QLinearConvs behind the stem."""
        return some(n for n in self.ops("QLinearConv") if n.input[0] != self.pixels.output[0])

    @property
    def direct(self) -> list[onnx.NodeProto]:
        """QLinearConvs that emit codes, each channel from all."""
        return some(n for n in self.scaled if self.value(n.input[7]) == 0 and attribute(n, "group", 1) == 1)

    @property
    def branches(self) -> list[onnx.NodeProto]:
        """QLinearConvs whose sums are added to a residual stream."""
        return some(n for n in self.scaled if self.value(n.input[7]) == 128)

    @property
    def depthwise(self) -> list[onnx.NodeProto]:
        return some(n for n in self.scaled if attribute(n, "group", 1) > 1)

    @property
    def joins(self) -> list[onnx.NodeProto]:
        """Concats of planes: what is left first, then planes 1, 2, ..."""
        return some(
            n for n in self.ops("Concat") if len(n.input) > 2 and all(self.made_by(i, "Mul") for i in n.input[1:])
        )

    def plane(self, join: onnx.NodeProto, bit: int) -> dict[str, onnx.NodeProto]:
        """Return the four nodes of a plane of 1, 2, ..."""
        product = self.made(join.input[bit], "Mul")
        fired = self.made(product.input[0], "Sub")
        reached = self.made(fired.input[0], "Clip")
        left = first(n for n in self.readers(product.output[0]) if n.op_type == "Sub")
        return {"reached": reached, "fired": fired, "product": product, "left": left}

    def codes_of(self, join: onnx.NodeProto) -> str:
        """Return the codes whose planes are joined."""
        return self.plane(join, len(join.input) - 1)["reached"].input[0]

    @property
    def clips(self) -> list[onnx.NodeProto]:
        """Clips of codes to the largest one."""
        return some(n for n in self.ops("Clip") if not n.input[1])

    @property
    def gemms(self) -> list[onnx.NodeProto]:
        return self.ops("Gemm")

    @property
    def window(self) -> onnx.NodeProto:
        """The gathering of windows."""
        return first(self.ops("Gather"))

    def gemm_parts(self, gemm: onnx.NodeProto) -> dict[str, onnx.NodeProto]:
        """Return what reads the operand, the weights and the biases of a whole sum."""
        names = "operands", "weights", "biases"
        return {name: self.made(source, "DequantizeLinear") for name, source in zip(names, gemm.input, strict=True)}

    @property
    def additions(self) -> list[onnx.NodeProto]:
        """Additions to a residual stream."""
        return some(n for n in self.ops("Add") if self.potential(n.input[1]) or self.potential(n.input[0]))

    def potential(self, tensor: str) -> bool:
        """Return whether a tensor is a branch's potential: codes dequantised, times steps."""
        node = self.producer(tensor)
        return node is not None and node.op_type == "Mul" and self.made_by(node.input[0], "DequantizeLinear")

    @property
    def potentials(self) -> list[onnx.NodeProto]:
        return some(n for n in self.ops("Mul") if self.potential(n.output[0]))

    @property
    def resize(self) -> onnx.NodeProto:
        return first(self.ops("Resize"))

    @property
    def maps_joined(self) -> onnx.NodeProto:
        """The concatenation of the neck: of potentials, behind the upsampling."""
        return first(n for n in self.ops("Concat") if self.resize.output[0] in n.input)

    @property
    def raw(self) -> list[onnx.NodeProto]:
        """Identities or transpositions that give the head's raw maps: boxes and classes of each level."""
        return some(
            n
            for n in self.ops("Identity", "Transpose")
            if any(r.op_type == "Reshape" and self.ends(r) for r in self.readers(n.output[0]))
        )

    def ends(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is behind all products."""
        later, seen = [node], 0
        while later:
            at = later.pop()
            seen += 1
            if at.op_type in ("QLinearConv", "Gemm") or seen > 40:
                return False
            later += [r for o in at.output for r in self.readers(o)]
        return True

    def kernel(self, layer: onnx.NodeProto) -> str:
        """Return the weights of a product: an initializer."""
        name = layer.input[3 if layer.op_type == "QLinearConv" else 1]
        while not self.is_constant(name):
            name = self.producer_of(name).input[0]
        return name

    def producer_of(self, tensor: str) -> onnx.NodeProto:
        return first(n for n in [self.producer(tensor)] if n is not None)

    def made(self, tensor: str, op: str) -> onnx.NodeProto:
        """Return what makes a tensor, an operator of that type."""
        node = self.producer_of(tensor)
        if node.op_type != op:
            raise LookupError(f"{tensor} is made by {node.op_type}, not by {op}")
        return node

    # changes

    def name(self, stem: str = "extra") -> str:
        self.count += 1
        return f"{stem}/{self.count}"

    def constant(self, array: Any, dtype: Any = None, name: str = "") -> str:
        """Add an initializer."""
        tensor = numpy_helper.from_array(np.asarray(array, dtype), name or self.name("constant"))
        self.graph.initializer.append(tensor)
        return tensor.name

    def give(self, node: onnx.NodeProto, index: int, array: Any, dtype: Any = None) -> None:
        """Let a node alone read another constant in the place of an input."""
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = self.constant(array, dtype)

    def change(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace the numbers of an initializer."""
        self.tensor(name).CopyFrom(numpy_helper.from_array(np.asarray(change(self.value(name))), name))

    def change_at(self, node: onnx.NodeProto, index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Let a node alone read changed numbers of a constant."""
        self.give(node, index, change(self.value(node.input[index])))

    def add(self, op: str, inputs: list[str], target: str = "", **attributes: Any) -> str:
        """Add a node; the last step of a fraud puts all into order."""
        target = target or self.name(op.lower())
        self.graph.node.append(helper.make_node(op, inputs, [target], f"node/{target}", **attributes))
        return target

    def behind(self, tensor: str, write: Callable[[str], str], only: list[onnx.NodeProto] | None = None) -> str:
        """Let the readers of a tensor read what is written behind it."""
        readers = self.readers(tensor) if only is None else only
        after = write(tensor)
        for node in readers:
            rewire(node, tensor, after)
        return after

    def at_end(self, write: Callable[[str], str]) -> None:
        """Write something between the last node and the output."""
        last, inner = self.producer_of(self.output), self.name("inner")
        for i, name in enumerate(last.output):
            if name == self.output:
                last.output[i] = inner
        for node in self.readers(self.output):
            rewire(node, self.output, inner)
        made = write(inner)
        maker = self.producer_of(made)
        for i, name in enumerate(maker.output):
            if name == made:
                maker.output[i] = self.output
        for node in self.readers(made):
            rewire(node, made, self.output)

    def remove(self, node: onnx.NodeProto, instead: str = "") -> None:
        """Remove a node; its readers read its first input, or something else."""
        source = instead or node.input[0]
        for reader in self.readers(node.output[0]):
            rewire(reader, node.output[0], source)
        self.graph.node.remove(node)
        self._made = {}

    def drop_unused(self) -> None:
        """Remove nodes and initializers that nothing reads."""
        self.sort()
        needed, kept = {o.name for o in self.graph.output}, []
        for node in reversed(self.graph.node):
            if needed & set(node.output):
                kept.append(node)
                needed.update(node.input)
        nodes = kept[::-1]
        tensors = [t for t in self.graph.initializer if t.name in needed]
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        constants = [onnx.TensorProto.FromString(t.SerializeToString()) for t in tensors]
        self.graph.ClearField("node")
        self.graph.ClearField("initializer")
        self.graph.node.extend(copies)
        self.graph.initializer.extend(constants)
        self._made = {}

    def sort(self) -> None:
        """Put nodes into topological order, those that are in order as they are."""
        known = {i.name for i in self.graph.input} | {t.name for t in self.graph.initializer} | {""}
        known |= {s.values.name for s in self.graph.sparse_initializer}
        waiting, order = list(self.graph.node), []
        while waiting:
            rest = []
            for node in waiting:
                if known.issuperset(outer(node)):
                    order.append(node)
                    known.update(node.output)
                else:
                    rest.append(node)
            if len(rest) == len(waiting):
                raise LookupError(f"{rest[0].op_type} {rest[0].name} reads what is not there")
            waiting = rest
        if all(a is b for a, b in zip(order, self.graph.node, strict=True)):
            return
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
        self.graph.ClearField("node")
        self.graph.node.extend(copies)
        self._made = {}

    # notes

    def notes(self) -> dict[str, str]:
        return {p.key: p.value for p in self.model.metadata_props}

    def note(self, key: str, value: str | None) -> None:
        """Write a note as text; None removes it."""
        found = first(p for p in self.model.metadata_props if p.key == key)
        if value is None:
            self.model.metadata_props.remove(found)
        else:
            found.value = value

    def note_json(self, key: str, change: Callable[[Any], Any]) -> None:
        """Change a note that is JSON."""
        self.note(key, json.dumps(change(json.loads(self.notes()[key]))))

    def redigest(self) -> None:
        """Let the noted digest fit, as a forger would."""
        if any(p.key == "graph_sha256" for p in self.model.metadata_props):
            self.note("graph_sha256", digest_of(self.model))


def first(found: Iterator[Any] | list[Any]) -> Any:
    """Return the first of what was looked for.

    Raises:
        LookupError: If there is none.
    """
    for one in found:
        return one
    raise LookupError("the place is not found in the graph")


def some(found: Iterator[Any]) -> list[Any]:
    """Return what was looked for.

    Raises:
        LookupError: If there is none.
    """
    every = list(found)
    if not every:
        raise LookupError("the place is not found in the graph")
    return every


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute; None removes it."""
    kept = [a for a in node.attribute if a.name != name]
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    node.ClearField("attribute")
    node.attribute.extend(copies)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def rewire(node: onnx.NodeProto, before: str, after: str) -> None:
    """Let a node read another tensor."""
    for i, name in enumerate(node.input):
        if name == before:
            node.input[i] = after


def outer(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, those that its subgraphs read from outside included."""
    found = set(node.input)
    for a in node.attribute:
        for graph in [a.g, *a.graphs] if a.HasField("g") or a.graphs else []:
            inner = {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}
            inner |= {i.name for i in graph.input}
            made = set().union(*(outer(n) for n in graph.node)) | {o.name for o in graph.output}
            found |= made - inner
    return found
