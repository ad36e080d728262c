"""What can be proven about an ONNX graph without running it: spike-driven, complete planes, exact sums, as exported.

Intervals and grids of all tensors come from `spikeyolo.proof.intervals`; every convolution's result is followed as a
sum of convolutions of binary planes. All of it holds for any image.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from spikeyolo.graph.notes import Notes, digest
from spikeyolo.graph.onnx_files import scope
from spikeyolo.proof.intervals import SIGNIFICANT, Array, Graph, Values

ACCUMULATING = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"}
ACCUMULATING |= {"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "Einsum"}
CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
RECURRENT = {"RNN", "LSTM", "GRU", "Attention"}
MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat", "Slice", "Split"}
EXACT = 2 ** SIGNIFICANT[TensorProto.FLOAT]
SHOWN = 5


@dataclass
class Check:
    """One claim and what speaks against it.

    Args:
        name: The claim in a word.
        text: What was found.
        problems: Where it fails; it holds if there are none.
    """

    name: str
    text: str
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'FAIL' if self.problems else 'ok':<4}  {self.name:<9} {self.text}"]
        lines += [f"      - {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"      - and {len(self.problems) - SHOWN} more")
        return "\n".join(lines)


class Layer(NamedTuple):
    """A convolution of codes: what its planes have in common."""

    codes: str
    weight: str
    attributes: str


@dataclass
class Form:
    """A tensor as a sum: coefficients of plane convolutions by layer and bit, and of biases by tensor and layer."""

    layers: dict[Layer, dict[int, float]] = field(default_factory=dict)
    biases: dict[tuple[str, str], float] = field(default_factory=dict)

    def plus(self, other: Form, factor: float = 1) -> Form:
        """Return this form plus a multiple of another."""
        layers = {layer: dict(bits) for layer, bits in self.layers.items()}
        for layer, bits in other.layers.items():
            mine = layers.setdefault(layer, {})
            for bit, coefficient in bits.items():
                mine[bit] = mine.get(bit, 0) + factor * coefficient
        biases = dict(self.biases)
        for bias, coefficient in other.biases.items():
            biases[bias] = biases.get(bias, 0) + factor * coefficient
        return Form(layers, biases)


class SpikeGraph:
    """What can be proven about an ONNX graph without running it.

    Args:
        model: Any ONNX model.

    Attributes:
        checks: The static claims.
        layers: Convolutions of codes that are complete: the tensor that holds each one's result, and its bias.
        spiking: Number of convolutions that take binary spikes.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.graph = Graph(model)
        self.layers: dict[Layer, tuple[str, str]] = {}
        self.planes: dict[Layer, int] = {}
        self.names: dict[Layer, str] = {}
        self.spiking = 0
        self.notes = Notes.read(model)
        self._bits, self._codes = self._find_planes()
        self.attention = self._find_attention()
        self.checks = [self._known(), self._operands(), *self._sums()]
        self.checks += [self._as_exported()] if self.notes.weights_sha256 else []

    def name(self, node: onnx.NodeProto) -> str:
        """Return the layer of a node (``LAYER/conv3`` takes its plane 3), else its own name or result."""
        return re.sub(r"/conv\d+$", "", node.name) or node.output[0]

    def _known(self) -> Check:
        """Find what no rule covers."""
        problems = [f"function {f.name}: a custom operator" for f in self.model.functions]
        for node in self.model.graph.node:
            what = f"{node.op_type} {node.name or node.output[0]}"
            if node.domain not in ("", "ai.onnx"):
                problems.append(f"{what}: a custom operator ({node.domain})")
            elif node.op_type in CONTROL:
                problems.append(f"{what}: control flow")
            elif node.op_type in RECURRENT:
                problems.append(f"{what}: recurrent or attention operator")
        text = "cannot be proven" if problems else "ONNX operators only, no control flow"
        return Check("operators", text, problems)

    def _find_planes(self) -> tuple[dict[str, tuple[str, int]], dict[str, str]]:
        """Trace tensors back: to bit b of codes, and whole-number tensors to the codes that they copy."""
        bits: dict[str, tuple[str, int]] = {}
        masked: dict[str, tuple[str, int]] = {}
        copies: dict[str, str] = {}
        for node in self.model.graph.node:
            source, target = (node.input[0] if node.input else ""), node.output[0]
            if node.op_type == "Identity":
                if source in bits:
                    bits[target] = bits[source]
                if source in copies:
                    copies[target] = copies[source]
            elif node.op_type == "Cast":
                to = next(a.i for a in node.attribute if a.name == "to")
                if source in masked and to == TensorProto.BOOL:
                    bits[target] = masked[source]
                elif source in bits:
                    bits[target] = bits[source]
                elif self.graph[source].whole and self._same_values(source, target):
                    copies[target] = copies.get(source, source)
            elif node.op_type == "BitwiseAnd":
                for codes, mask in (node.input, reversed(node.input)):
                    number = self.graph.array(mask)
                    if number is None or number.size != 1 or codes not in copies:
                        continue
                    value = int(number.item())
                    if value > 0 and value.bit_count() == 1:
                        masked[target] = (copies[codes], value.bit_length() - 1)
        return bits, copies

    def _same_values(self, a: str, b: str) -> bool:
        x, y = self.graph[a], self.graph[b]
        return np.array_equal(x.low, y.low) and np.array_equal(x.high, y.high)

    def _after_sums(self) -> set[str]:
        """Return the tensors that some convolution leads to."""
        reached: set[str] = set()
        for node in self.model.graph.node:
            if node.op_type in ACCUMULATING or any(name in reached for name in node.input):
                reached.update(node.output)
        return reached

    def _is_decoder(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is the expectation of box bins: constant weights 0, 1, 2, ... on a softmax."""
        weight = self.graph.array(node.input[1]) if len(node.input) > 1 else None
        if weight is None or not np.array_equal(weight.ravel(), np.arange(weight.size)):
            return False
        source = self.graph.producer.get(node.input[0])
        while source is not None and source.op_type in MOVING:
            source = self.graph.producer.get(source.input[0])
        return source is not None and source.op_type == "Softmax"

    def _find_attention(self) -> dict[str, str]:
        """Return the products of attention: results of MatMuls around a Softmax, with the noted module's name.

        Their operands are real values: they are excepted only where the exporter has noted them.
        """
        noted = self.notes.attention
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)

        def is_softmax(name: str, step: Any) -> bool:
            node = step(name)
            while node is not None and node.op_type in MOVING:
                node = step(node.output[0] if step is after else node.input[0])
            return node is not None and node.op_type == "Softmax"

        def after(name: str) -> onnx.NodeProto | None:
            found = consumers.get(name, [])
            return found[0] if len(found) == 1 else None

        found = {}
        for node in self.model.graph.node:
            if node.op_type == "MatMul" and (name := scope(node.name)) in noted:
                weights = any(is_softmax(i, self.graph.producer.get) for i in node.input)
                if weights or is_softmax(node.output[0], after):
                    found[node.output[0]] = name
        return found

    def _operands(self) -> Check:
        """Demand that every data operand is 0 or 1; name stem, attention and decoder."""
        after = self._after_sums()
        stems: dict[str, str] = {}
        decoders, problems, total = [], [], 0
        for node in self.model.graph.node:
            if node.op_type not in ACCUMULATING:
                continue
            total += 1
            if node.output[0] in self.attention:
                continue
            operands = [name for name in node.input[:2] if self.graph.array(name) is None]
            found: list[Values] = [self.graph[name] for name in operands]
            name = self.name(node)
            if found and all(v.binary for v in found):
                self.spiking += 1
            elif len(found) == 1 and self._is_decoder(node):
                decoders.append(f"decoder {name}")
            elif len(found) == 1 and operands[0] not in after and len({*stems, node.input[1]}) == 1:
                stems[node.input[1]] = f"stem {name} (takes {found[0]})"
            else:
                problems.append(f"{name}: an operand is {' and '.join(map(str, found))}, not a spike (0 or 1)")
        products = {name: list(self.attention.values()).count(name) for name in self.attention.values()}
        attention = [f"attention {name} ({n} products of real values)" for name, n in products.items()]
        excepted = [*stems.values(), *attention, *decoders]
        if not self.spiking:
            problems.insert(0, "no convolution takes spikes: this is no spike graph")
            if self.notes.graph == "integer":
                problems[0] = "this is the integer graph, its operands are codes; export with graph=spike"
        text = f"{self.spiking} of {total} convolutions take spikes, 0 or 1"
        return Check("operands", f"{text}; excepted: {', '.join(excepted) or 'none'}", problems)

    def _has_constant_weight(self, node: onnx.NodeProto) -> bool:
        """Return whether a node accumulates the constant weights of its second input."""
        known = [self.graph.array(name) is not None for name in node.input[:2]]
        return node.op_type in ACCUMULATING and known == [False, True]

    def _form(self, node: onnx.NodeProto, forms: dict[str, Form]) -> Form | None:
        """Return the result of a node as a sum of plane convolutions, None if it is none."""
        inputs = [forms.get(name) for name in node.input]
        if self._has_constant_weight(node) and self.graph[node.input[0]].binary:
            codes, bit = self._bits.get(node.input[0], (node.input[0], 0))
            attributes = b"".join(sorted(a.SerializeToString() for a in node.attribute)).hex()
            layer = Layer(self._codes.get(codes, codes), node.input[1], node.op_type + attributes)
            self.names.setdefault(layer, self.name(node))
            biases = node.input[2:] if node.op_type in {"Conv", "ConvTranspose", "Gemm"} else []
            return Form({layer: {bit: 1}}, {(bias, self.name(node)): 1 for bias in biases if bias})
        if not any(inputs):
            return None
        if node.op_type == "Identity":
            return inputs[0]
        if node.op_type in {"Add", "Sum", "Sub"}:
            total = Form()
            for i, (name, form) in enumerate(zip(node.input, inputs, strict=True)):
                if form is None:
                    form = Form(biases={(name, self.name(node)): 1}) if self.graph.array(name) is not None else Form()
                total = total.plus(form, -1 if node.op_type == "Sub" and i else 1)
            return total
        if node.op_type == "Mul":
            form = next(filter(None, inputs))
            factors = [self.graph.array(n) for n, f in zip(node.input, inputs, strict=True) if f is None]
            if len(factors) == 1 and factors[0] is not None and factors[0].size == 1:
                return Form().plus(form, float(factors[0].item()))
        return None

    def _sums(self) -> tuple[Check, Check]:
        """Demand that each layer is sum_b 2^b * (W * plane_b) + bias and that float32 holds it in any order."""
        forms: dict[str, Form] = {}
        wrong: dict[Any, str] = {}
        inexact: dict[str, str] = {}
        tightest = 0.0
        for node in self.model.graph.node:
            form = self._form(node, forms)
            if form is None:
                for name in filter(forms.__contains__, node.input):
                    wrong |= self._incomplete(forms[name])
            else:
                forms[node.output[0]] = form
                self._complete(form, node.output[0])
            constant = self._has_constant_weight(node)
            if node.op_type in ACCUMULATING and not constant and node.output[0] not in self.attention:
                wrong[node.output[0]] = f"{self.name(node)}: its weights are computed, so it cannot be followed"
            if (form or constant) and not (constant and self._is_decoder(node)):
                result = self.graph[node.output[0]]
                steps = result.reach / result.step if result.step else math.inf
                tightest = max(tightest, steps / EXACT if steps <= EXACT else 0)
                if steps > EXACT:
                    names = {self.names[layer] for layer in form.layers} if form else set()
                    name = names.pop() if len(names) == 1 else self.name(node)
                    inexact[name] = f"{steps:.3g} grid steps" if result.step else "numbers on no grid"
        for layer in self.layers:
            if any(self.graph[name].step == 0 for name in self.potentials(layer)):
                inexact.setdefault(self.names[layer], "numbers on no grid, as the potentials that its neuron reads")
        for output in self.model.graph.output:
            if output.name in forms:
                wrong |= self._incomplete(forms[output.name])
        text = f"{len(self.layers)} layers, each the sum over b of 2^b times one weight on plane b, its bias once"
        planes = Check("planes", text, list(wrong.values()))
        text = f"every sum is below 2^24 grid steps for any image and in any order (the largest reaches {tightest:.0%})"
        problems = [f"{name}: a sum can take {what}, float32 rounds it" for name, what in inexact.items()]
        return planes, Check("exactness", "some sums depend on their order" if problems else text, problems)

    def potentials(self, layer: Layer) -> list[str]:
        """Return the tensors that the neuron before a layer clips, one for each timestep."""
        found, pending = [], [layer.codes]
        while pending:
            node = self.graph.producer.get(pending.pop())
            if node is not None and node.op_type == "Clip":
                found.append(node.input[0])
            elif node is not None and node.op_type in {"Round", "Mul", "Add", "Concat", "Pad"}:
                pending += node.input
        return found

    def _is_complete(self, layer: Layer, bits: dict[int, float]) -> bool:
        """Return whether planes 0, 1, ... enter with 2^b, as many as the codes can have."""
        needed = int(self.graph[layer.codes].high.max()).bit_length()
        return len(bits) >= needed and bits == {b: 2**b for b in range(len(bits))}

    def _complete(self, form: Form, tensor: str) -> None:
        """Remember where a layer, and nothing else, is complete for the first time."""
        if len(form.layers) == 1 and len(form.biases) <= 1:
            ((layer, bits),) = form.layers.items()
            if layer not in self.layers and self._is_complete(layer, bits):
                self.layers[layer] = (tensor, next(iter(form.biases), ("", ""))[0])

    def _incomplete(self, form: Form) -> dict[Any, str]:
        """Return what is wrong with a finished sum, by layer and by bias."""
        wrong: dict[Any, str] = {}
        for layer, bits in form.layers.items():
            self.planes[layer] = len(bits)
            if not self._is_complete(layer, bits):
                needed = range(max(int(self.graph[layer.codes].high.max()).bit_length(), max(bits) + 1))
                missing = [b for b in needed if b not in bits]
                factors = [f"{b}: {c:g}" for b, c in sorted(bits.items()) if c != 2**b]
                told = [f"planes {missing} of {layer.codes} do not enter with weight {layer.weight}"] * bool(missing)
                told += [f"planes enter with factors {{{', '.join(factors)}}} in place of 2^b"] * bool(factors)
                wrong[layer] = f"{self.names[layer]}: {'; '.join(told)}"
        for (bias, layer), coefficient in form.biases.items():
            if coefficient != 1:
                wrong[bias, layer] = f"{layer}: the bias {bias} is added {coefficient:g} times"
        return wrong

    def _as_exported(self) -> Check:
        """Compare weights and planes with what the exporter noted."""
        problems = []
        if digest(self.weights()) != self.notes.weights_sha256:
            problems.append("weights or biases are not those that were exported (SHA-256 differs)")
        if self.notes.graph == "spike":
            noted = self.notes.planes
            found = {self.names[layer]: planes for layer, planes in self.planes.items()}
            for name in sorted(noted.keys() | found.keys()):
                if noted.get(name) != found.get(name):
                    problems.append(f"{name}: {found.get(name, 0)} planes, exported with {noted.get(name, 0)}")
        return Check("origin", f"weights and planes as exported from {self.notes.source or '?'}", problems)

    def weights(self) -> dict[str, list[Array]]:
        """Return weight and bias of the layers that the exporter noted, by layer."""
        found: dict[str, list[Array]] = {}
        noted = self.notes.grid
        for node in self.model.graph.node:  # of the planes' convolutions the last has the bias
            if node.op_type == "Conv" and self.name(node) in noted:
                arrays = [self.graph.array(name) for name in node.input[1:]]
                found[self.name(node)] = [a for a in arrays if a is not None]
        return found

    def integer_form(self) -> onnx.ModelProto:
        """Return the integer form: every complete layer as one convolution of its codes."""
        integer_form = onnx.ModelProto()
        integer_form.CopyFrom(self.model)
        results = {tensor: (layer, bias) for layer, (tensor, bias) in self.layers.items()}
        sample = {self._layer_of(node): node for node in self.model.graph.node if node.op_type in ACCUMULATING}
        nodes = []
        for node in self.model.graph.node:
            if node.output[0] in results:
                layer, bias = results[node.output[0]]
                new = helper.make_node(sample[layer].op_type, [layer.codes, layer.weight], [node.output[0]], node.name)
                new.input.extend([bias] if bias else [])
                new.attribute.extend(sample[layer].attribute)
                node = new
            nodes.append(node)
        needed = {output.name for output in self.model.graph.output}
        kept = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        integer_form.graph.ClearField("node")
        integer_form.graph.node.extend(reversed(kept))
        return integer_form

    def _layer_of(self, node: onnx.NodeProto) -> Layer | None:
        form = self._form(node, {})
        return next(iter(form.layers)) if form else None
