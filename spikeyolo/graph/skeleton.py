"""The skeleton of an exported network: neurons and convolutions by name, everything else in ONNX operators.

PyTorch's exporter writes it of the deploy form. Neurons are then moved towards the convolutions whose potentials they
read, past whatever they commute with, so that codes move through the network in bytes and most convolutions are read by
one neuron alone.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import onnx
from onnx import helper

from spikeyolo.deployment import DOMAIN, CodeNeuron, DeployForm

MOVERS = ("Concat", "Resize", "MaxPool", "Relu")


class Skeleton:
    """The nodes of an exported network, neurons as near to the convolutions before them as they can be.

    Args:
        model: What the exporter has written.
        form: The deploy form that it was written of.

    Raises:
        RuntimeError: If a layer is not found.

    Attributes:
        nodes: Nodes in topological order.
        neuron: By node name: the neuron.
    """

    def __init__(self, model: onnx.ModelProto, form: DeployForm):
        self.model, self.form = model, form
        self.outputs = {output.name for output in model.graph.output}
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        found = {layer_of(node) for node in self.nodes if is_layer(node, "Conv")}
        if missing := sorted(form.convs.keys() - found):
            raise RuntimeError(f"the exported graph has no convolution for {', '.join(missing)}; please report this")
        self._join_neurons()
        while self._move_neurons():
            self._join_neurons()

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def neuron(self, node: onnx.NodeProto) -> CodeNeuron:
        """Return the neuron that a node names."""
        return self.form.neurons[layer_of(node)]

    def _join_neurons(self) -> None:
        """Let equal neurons that read the same potential be one, in place."""
        first: dict[Hashable, str] = {}
        renamed: dict[str, str] = {}
        kept: list[onnx.NodeProto] = []
        for node in self.nodes:
            _rename(node, renamed)
            if is_layer(node, "Neuron"):
                key = node.input[0], identity_of(self.neuron(node))
                if key in first:
                    renamed[node.output[0]] = first[key]
                    continue
                first[key] = node.output[0]
            kept.append(node)
        self.nodes = kept

    def _move_neurons(self) -> bool:
        """Move neurons past one node, in place; return whether one was found."""
        consumers = self.consumers()
        for i, node in enumerate(self.nodes):
            if node.op_type not in MOVERS or node.domain or self.outputs & set(node.output):
                continue
            readers = consumers.get(node.output[0], [])
            if readers and all(is_layer(r, "Neuron") and commute(node, self.neuron(r)) for r in readers):
                moved = [new for reader in readers for new in self._moved(node, reader)]
                kept = [n for n in self.nodes[i + 1 :] if not any(n is r for r in readers)]
                self.nodes = [*self.nodes[:i], *moved, *kept]
                return True
        return False

    def _moved(self, node: onnx.NodeProto, reader: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return neurons on the potentials that a node moves, and the node, which then moves their codes."""
        target = reader.output[0]
        if node.op_type == "Relu":  # no potential below 0 is emitted anyway
            return [_neuron(reader, node.input[0], target)]
        sources = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        codes = [f"{target}/{node.op_type}{i}" for i in range(len(sources))]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{target}/{node.op_type}"
        copy.output[0] = target
        for i, name in enumerate(codes):
            copy.input[i] = name
        return [*(_neuron(reader, s, c) for s, c in zip(sources, codes, strict=True)), copy]


def _neuron(like: onnx.NodeProto, source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Neuron", [source], [target], f"{target}/neuron", domain=DOMAIN, layer=layer_of(like))


def _rename(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for i, name in enumerate(node.input):
        node.input[i] = renamed.get(name, name)


def is_layer(node: onnx.NodeProto, kind: str) -> bool:
    """Return whether a node names a neuron ("Neuron") or a convolution ("Conv")."""
    return node.domain == DOMAIN and node.op_type == kind


def layer_of(node: onnx.NodeProto) -> str:
    """Return the name of the convolution that a node names, or whose neuron it names."""
    return attributes_of(node)["layer"].decode() if node.domain == DOMAIN else ""


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def identity_of(neuron: CodeNeuron) -> tuple[float, ...]:
    """Return what two neurons must have in common to be one."""
    return neuron.scale, neuron.D_N, neuron.rest, neuron.T, neuron.decay, neuron.exponent if neuron.T > 1 else 0


def commute(node: onnx.NodeProto, neuron: CodeNeuron) -> bool:
    """Return whether the codes of what a node moves are what it makes of the codes."""
    attributes = attributes_of(node)
    if node.op_type == "Concat":
        return attributes["axis"] == 1
    if node.op_type == "Resize":
        return attributes.get("mode", b"nearest") == b"nearest"
    if node.op_type == "Relu":
        return neuron.rest == 0 and neuron.T == 1  # what is below 0 leaks into later timesteps
    return neuron.T == 1 and len(node.output) == 1  # the largest of leaky potentials is not that of their codes


def used(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes, in topological order, that the outputs need."""
    needed, kept = set(outputs), []
    for node in reversed(list(nodes)):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]
