"""What a graph of whole numbers claims, checked without running it: bounds, origin, binary planes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from spikeyolo.deployment import BYTE, DeployForm
from spikeyolo.graph.bounds import PARTS, digest_of, numbers_of, problems
from spikeyolo.graph.notes import Notes
from spikeyolo.graph.onnx_files import constants
from spikeyolo.graph.products import constants_of
from spikeyolo.proof.spike_graph import Check

PRODUCTS = {"QLinearConv", "Gemm", "Conv"}  # that a layer is
OTHER_PRODUCTS = {"ConvTranspose", "ConvInteger", "DeformConv", "MatMulInteger", "QLinearMatMul", "Einsum"}
MOVING = {"Reshape", "Transpose", "Pad", "Gather", "DequantizeLinear", "Cast", "Identity"}  # of numbers
WEIGHING = {"Reshape", "Tile", "DequantizeLinear"}


class WholeNumbers:
    """The claims of a graph that notes its layers, for any image.

    Args:
        model: The graph.
        notes: What it notes.

    Attributes:
        checks: The claims.
        codes: By layer: the tensor of its codes, (T*B, H, W, C).
    """

    def __init__(self, model: onnx.ModelProto, notes: Notes):
        self.model, self.notes = model, notes
        self.codes = {name: layer["codes"] for name, layer in notes.layers.items() if name in notes.planes}
        self.producer = {name: node for node in model.graph.node for name in node.output}
        self.constants = constants(model)
        self.checks = [self._operators(), self._operands(), self._bounds(), self._origin()]

    def _operators(self) -> Check:
        strange = [f"{n.op_type} {n.name}: a custom operator ({n.domain})" for n in self.model.graph.node if n.domain]
        strange += [f"function {f.name}: a custom operator" for f in self.model.functions]
        return Check("operators", "ONNX operators only", strange)

    def _bounds(self) -> Check:
        text = (
            "int8 weights, int32 biases; for any image every sum is below 2^24 and no pair of products passes 16 bits"
        )
        return Check("bounds", text, list(problems(self.model, self.notes)))

    def _origin(self) -> Check:
        same = digest_of(self.model) == self.notes.graph_sha256
        text = f"all nodes and numbers are as exported from {self.notes.source or '?'}"
        return Check("origin", text, [] if same else ["some are not those that were exported (SHA-256 differs)"])

    def _operands(self) -> Check:
        """Demand that every layer is one product of its own weights with its codes, in the spike graph with planes."""
        spikes = self.notes.graph == "spike"
        products: dict[str, list[onnx.NodeProto]] = {name: [] for name in self.notes.layers}
        wrong = []
        for node in self.model.graph.node:
            if node.name in products and node.op_type in PRODUCTS:
                products[node.name].append(node)
            elif node.op_type in PRODUCTS | OTHER_PRODUCTS:
                wrong.append(f"{node.op_type} {node.name}: no layer that was exported")
        for name, nodes in products.items():
            if len(nodes) != 1:
                wrong.append(f"{name}: there are {len(nodes)} products of that name, not one")
                continue
            planes = self.notes.planes.get(name, 1) if spikes else 1
            if not self._takes(nodes[0].input[0], self.notes.layers[name]["codes"], planes):
                what = f"the {planes} planes of its codes" if planes > 1 else "its codes"
                wrong.append(f"{name}: its operand is not {what}")
            weight = nodes[0].input[3 if nodes[0].op_type == "QLinearConv" else 1]
            if self._source(weight, WEIGHING)[0] != f"{name}.weight":
                wrong.append(f"{name}: its weights are not its own")
            wrong += [f"{name}: {what}" for what in self._wiring(nodes[0], name, planes)]
        real = ", ".join(self.notes.real_valued) or "none"
        takes = "planes, 0 or 2^b" if spikes else "codes, whose planes the spike graph takes"
        text = f"{len(self.notes.planes)} of {len(products)} layers take {takes}; excepted: {real}"
        return Check("operands", text, wrong)

    def _wiring(self, node: onnx.NodeProto, name: str, planes: int) -> Iterator[str]:
        """Yield what of a product is not as exported: geometry, zero points, scales, bias, ceiling of its codes."""
        noted, attributes = self.notes.layers[name], {a.name: helper.get_attribute_value(a) for a in node.attribute}
        D, N, rest = self.notes.ranges.get(name, [BYTE, 1, 0])
        if node.op_type == "Gemm":
            if attributes.get("alpha", 1) != 1 or attributes.get("beta", 1) != 1:
                yield "its product is scaled"
        else:
            inputs, outputs = noted["channels"]
            depthwise = 1 < noted["groups"] == inputs == outputs and noted["dilation"] == [1, 1]
            across = planes if depthwise else 1  # planes are beside the columns
            (sh, sw), (ph, pw) = noted["stride"], [0, 0] if rest else noted["padding"]
            wanted = {"strides": [sh, sw * across], "pads": [ph, pw * across] * 2, "dilations": noted["dilation"]}
            wanted["group"] = noted["groups"]
            yield from (
                f"its {key} are not those that were exported" for key in wanted if attributes.get(key) != wanted[key]
            )
        if node.op_type == "QLinearConv":
            zero_point = 128 if noted["kind"] == "branch" else noted["rest"]
            wanted_inputs = {1: 1, 2: 0, 5: 0, 6: 1, 7: zero_point}
            if any(not np.all(self.constants.get(node.input[i], np.nan) == v) for i, v in wanted_inputs.items()):
                yield "its zero points or scales are not those that were exported"
            if (node.input[4], node.input[8]) != (f"{name}.scale", f"{name}.bias"):
                yield "its scale or bias is not its own"
        elif self._source(node.input[2], WEIGHING)[0] != f"{name}.bias":
            yield "its bias is not its own"
        if name in self.notes.planes:
            largest = 2 ** self.notes.planes[name] - 1
            if self.notes.planes[name] != round(D * N).bit_length() or self._ceiling(noted["codes"]) > largest:
                yield f"its codes can be above {largest}"

    def _ceiling(self, codes: str) -> float:
        """Return the largest value that codes can have."""
        node = self.producer.get(codes)
        if node is not None and node.op_type in MOVING | {"MaxPool", "Resize"}:
            return self._ceiling(node.input[0])
        if node is not None and node.op_type == "Concat":
            return max(self._ceiling(name) for name in node.input)
        if node is not None and node.op_type == "Clip" and node.input[2] in self.constants:
            return float(self.constants[node.input[2]].item())
        return BYTE if node is not None and node.op_type in {"QLinearConv", "QuantizeLinear"} else np.inf

    def _source(self, name: str, passing: set[str]) -> tuple[str, onnx.NodeProto | None]:
        """Follow a tensor back through nodes that move its numbers; return where it comes from, and what makes that."""
        node = self.producer.get(name)
        while node is not None and node.op_type in passing:
            name = node.input[0]
            node = self.producer.get(name)
        return name, node

    def _takes(self, operand: str, codes: str, planes: int) -> bool:
        """Return whether an operand is codes, or so many of their planes."""
        if planes > 1:
            _, join = self._source(operand, MOVING)
            if join is None or join.op_type != "Concat" or len(join.input) != planes:
                return False
            left = join.input[0]  # what no higher plane has taken
            for b, plane in enumerate(join.input[1:], 1):
                if (before := self._before_spike(left, plane, b)) is None:
                    return False
                left = before
            operand = left
        return self._source(operand, MOVING) == self._source(codes, MOVING)

    def _before_spike(self, left: str, plane: str, b: int) -> str | None:
        """Return of what a plane took its spikes of 2^b, so that this was left; None if it is no such plane."""
        after, spike = self._made_by("Sub", left), self._made_by("Mul", plane)
        fired = self._made_by("Sub", spike.input[0]) if spike is not None else None
        reached = self._made_by("Clip", fired.input[0]) if fired is not None else None
        if after is None or spike is None or fired is None or reached is None or len(reached.input) != 3:
            return None
        constants = [spike.input[1], fired.input[1], reached.input[1], reached.input[2]]
        values = [self.constants[name].tolist() if name in self.constants else None for name in constants]
        right = values == [2**b, 2**b - 1, 2**b - 1, 2**b]
        return after.input[0] if right and list(after.input) == [reached.input[0], plane] else None

    def _made_by(self, op: str, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor, if it is this operator."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == op else None

    def same_weights(self, form: DeployForm, checkpoint: Any) -> Check:
        """Compare weights, biases, scales and steps with those of a checkpoint.

        Raises:
            ValueError: If it is another network.
        """
        ours, found = numbers_of(self.model, self.notes), []
        if ours.keys() != form.convs.keys():
            raise ValueError(
                f"{checkpoint} is another network than the graph: {len(form.convs)} layers, of which "
                f"{len(ours.keys() & form.convs.keys())} are among the graph's {len(ours)}; give the one exported"
            )
        for name, conv in form.convs.items():
            theirs = constants_of(conv, self.notes.layers[name])
            theirs = {part: theirs[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in theirs}
            if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in ours[name].items()}:
                shape = tuple(conv.weight.shape)
                raise ValueError(f"{checkpoint} is another network than the graph: {name} has {shape} weights")
            changed = sum(int((theirs[part] != ours[name][part]).sum()) for part in theirs)
            if changed:
                found.append(f"{name}: {changed} weights, biases or steps differ")
        text = f"{len(form.convs)} layers have the weights of {checkpoint} in deploy form, bit for bit"
        return Check("weights", text, found)
