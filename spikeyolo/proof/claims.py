"""What a program shows of itself, for any image: what takes spikes, which sums are exact, what is real-valued."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from spikeyolo.proof.grammar import Layer, Parser
from spikeyolo.proof.onnx_reader import Refused
from spikeyolo.proof.program import Array, Program, Term, number

EXACT = 2**24  # below it float32 holds every whole number
PAIR = 2**15 - 1  # what processors without VNNI hold of two products
SHOWN, LONGEST = 5, 1000  # problems, characters
ATTENTION = "attention"


@dataclass
class Check:
    """One claim and what speaks against it.

    Args:
        name: The claim in a word.
        text: What was found.
        problems: Where it fails; it holds if there are none.
        claim: What is shown if it holds, in the words of the verdict.
    """

    name: str
    text: str
    problems: list[str] = field(default_factory=list)
    claim: str = ""

    def __str__(self) -> str:
        lines = [f"{'FAIL' if self.problems else 'ok':<4}  {self.name:<9} {printable(self.text)}"]
        lines += [f"      - {printable(problem)}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"      - and {len(self.problems) - SHOWN} more")
        return "\n".join(lines)


def printable(text: str) -> str:
    """Return a line that a terminal shows as it is, whatever names a file has."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    shown = re.sub(r" {2,}", " ", shown)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ..."


def spikes(layers: list[Layer], graph: str) -> Check:
    """Say what products take: binary planes of codes, in an integer graph codes; the stem takes pixels."""
    takes = [layer for layer in layers if layer.total.inputs[0].op != "pixels"]
    stem = [layer.name for layer in layers if layer.total.inputs[0].op == "pixels"]
    binary = [layer for layer in takes if layer.planes == _planes(layer)]
    wrong = [layer.name for layer in takes if layer not in binary] if graph == "spike" else []
    what = "binary planes, 0 or 2^b" if graph == "spike" else "codes, whose planes the spike graph takes"
    text = f"{len(takes)} of {len(layers)} products take {what}; the stem {', '.join(stem)} takes pixels"
    problems = [f"{name}: it takes codes, not their planes" for name in wrong]
    problems += [] if len(stem) == 1 else ["there is not one stem"]
    claim = "spike-driven" if graph == "spike" else "integer form of a spike-driven network"
    return Check("spikes", text, problems, claim=f"{claim} (any image)")


def _planes(layer: Layer) -> int:
    largest = layer.total.inputs[0].largest
    assert largest is not None
    return largest.bit_length()


def exact(parser: Parser, parts: RealParts) -> Check:
    """Bound all sums, in any order, from the numbers in the file."""
    problems: list[str] = []
    largest = 0
    for layer in parser.layers:
        reach = int(worst_sum(layer.total).max(initial=0))
        heaviest = int(np.abs(layer.total.array("weight").astype(int)).max(initial=0))
        largest = max(largest, reach)
        if reach >= EXACT:
            problems.append(f"{layer.name}: a sum can reach {reach:,}, not below 2^24")
        if layer.op != "Conv" and 2 * (2 ** _planes(layer) - 1) * heaviest > PAIR:
            problems.append(f"{layer.name}: two products with weights of {heaviest} can pass 16 bits")
    try:
        for term, (reach, step) in potentials(parser, parts).items():
            if (reach >= step * EXACT).any():
                name = parser.nodes.get(term, term.op)
                problems.append(f"{name}: a potential can reach {reach.max():g} in steps of {step.min():g}")
    except Refused as e:
        problems.append(str(e))
    text = (
        f"every sum is below 2^24 (largest: {largest:,}), no pair of products passes 16 bits, potentials keep to steps"
    )
    real = [f"{name} ({count} times)" for name, count in parts.names.items()]
    text += f"; real-valued, checked on images alone: {', '.join([*real, 'decoder'])}"
    claim = f"exact but for {', '.join(parts.names)} (any image)" if real else "exact (any image)"
    return Check("exact", text, problems, claim=claim)


def worst_sum(total: Term) -> Array:
    """Return the largest magnitude of any partial sum, (O,), for operands up to 2^planes - 1."""
    operand = total.inputs[0].largest
    assert operand is not None
    weight = total.array("weight").astype(np.int64).reshape(total.channels or 1, -1)
    reach = np.maximum(weight.clip(min=0).sum(1), -weight.clip(max=0).sum(1))
    return reach * (2 ** operand.bit_length() - 1) + np.abs(total.array("bias").astype(np.int64))


Reach = dict[Term, tuple[Array, Array]]


def potentials(parser: Parser, parts: RealParts) -> Reach:
    """Return for every potential the largest magnitude and the step of which it is a multiple, by channel.

    Raises:
        Refused: If something else than a spiking part makes potentials.
    """
    found: Reach = {}
    for term in parser.outputs[0].walk(*parser.outputs[1:]):
        inputs = [found[x] for x in term.inputs if x in found]
        if term.op == "potential":
            step = term.array("step").astype(float)
            found[term] = worst_sum(term.inputs[0]) * step, step
        elif term.op == "branch":
            step = term.array("step").astype(float)
            most = np.rint(worst_sum(term.inputs[0]) * term.array("scale").astype(float))
            found[term] = most.clip(max=128) * step, step
        elif term in parts.rounded:
            sources, step = parts.rounded[term]
            taken = {x: found[x][0] for x in sources if x in found}
            if not sources or len(taken) < len(set(sources)):
                raise Refused(f"{parser.nodes.get(term, term.op)}: it takes what is no potential")
            if (chosen := parts.values.get(term)) is not None and (source := chosen[0]) in taken:
                taken[source] = np.broadcast_to(taken[source], source.channels or 1)[chosen[1]]
            widths = {x.size for x in taken.values()} - {1}
            reaches = taken.values() if len(widths) < 2 else [x.max() for x in taken.values()]
            reach = sum(reaches)  # no activation or average is beyond what it takes
            found[term] = np.atleast_1d(reach + step), np.array([step])
        elif not inputs or len(inputs) < len(term.inputs):
            continue
        elif term.op == "Add":
            if len({x.channels for x in term.inputs}) > 1:
                raise Refused(f"{parser.nodes.get(term, term.op)}: it adds maps of different channels")
            found[term] = inputs[0][0] + inputs[1][0], np.minimum(inputs[0][1], inputs[1][1])
        elif term.op == "Concat" and term["axis"] == 1:
            full = [
                [np.broadcast_to(n, x.channels or n.size) for n in f] for x, f in zip(term.inputs, inputs, strict=True)
            ]
            found[term] = np.concatenate([f[0] for f in full]), np.concatenate([f[1] for f in full])
        elif term.op == "Split" and "sizes" in dict(term.facts):
            start = sum(term["sizes"][: term["index"]])
            part = slice(start, start + term["sizes"][term["index"]])
            found[term] = (
                inputs[0][0][part] if inputs[0][0].size > 1 else inputs[0][0],
                inputs[0][1][part] if inputs[0][1].size > 1 else inputs[0][1],
            )
        elif term.op in {"Resize", "MaxPool", "Relu"} or (term.op == "Split" and "parts" in dict(term.facts)):
            found[term] = inputs[0]
        elif term.op == "neuron":
            reach, step = inputs[0]
            facts = dict(term.facts)
            if facts.get("T", 1) > 1:
                gain = sum(abs(facts["decay"]) ** t for t in range(facts["T"]))
                found[term] = reach * gain, np.minimum(step, 2.0 ** facts["exponent"])
    for term in parser.outputs[0].walk(*parser.outputs[1:]):
        if term.op == "neuron" and term.inputs[0] not in found:
            name = parser.nodes.get(term, term.op)
            raise Refused(f"{name}: its neuron reads what is no potential ({term.inputs[0].op})")
    return found


class RealParts:
    """The real-valued parts of a program that its own operators show.

    Args:
        parser: The file.
        shown: Whether its program is that of a reference: then a part needs no form of its own, since a deploy form has
            no real-valued part but activations and attention.

    Attributes:
        rounded: By term of a potential that a real-valued part gives: what it takes, and its step.
        values: By term of what attention gives: the potentials of Q, K and V, and which channels V are.
        names: What the parts are, and how often.
        attention: Heads, key and value channels per head of each attention.
    """

    def __init__(self, parser: Parser, *, shown: bool = False):
        self.program: Program = parser.program
        self.sides = parser.known_sides
        self.rounded: dict[Term, tuple[tuple[Term, ...], float]] = {}
        self.values: dict[Term, tuple[Term, list[int]]] = {}
        self.names: Counter[str] = Counter()
        self.attention: list[tuple[int, ...]] = []
        for term in parser.outputs[0].walk(*parser.outputs[1:]):
            if (found := self._rounding(term)) is not None:
                x, step = found
                known = (
                    self._activation(x)
                    or self._attention(x)
                    or ((ATTENTION if x.op == "Add" else "", self._below(x)) if shown else None)
                )
                if known is not None:
                    name, source = known
                    self.names.update([name] * bool(name))
                    self.rounded[term] = source, step
                    if (values := self._values(x.inputs[0] if x.op == "Add" else x)) is not None:
                        self.values[term] = values

    def _of(self, op: str, *inputs: Term, **attributes: object) -> Term:
        return self.program.term(op, *inputs, attributes=tuple(sorted(attributes.items())))

    def _rounding(self, term: Term) -> tuple[Term, float] | None:
        """Return what float64 numbers are rounded to which step, as the exporter writes it."""
        chain = [term]
        for op in ("Cast", "Mul", "Round", "Mul"):
            if chain[-1].op != op:
                return None
            chain.append(chain[-1].inputs[0])
        step, inverse = number(chain[1].inputs[1]), number(chain[3].inputs[1])
        if term["attributes"] != (("to", TensorProto.FLOAT),) or step is None or inverse is None:
            return None
        if step.dtype != np.float64 or step <= 0 or math.frexp(step)[0] != 0.5 or step * inverse != 1:
            return None
        return chain[4], float(step)

    def _below(self, x: Term) -> tuple[Term, ...]:
        """Return the potentials that a real-valued part takes."""
        found: list[Term] = []
        seen: set[Term] = set()
        pending = [x]
        while pending:
            term = pending.pop()
            if term in seen or term.op == "Shape":
                continue
            seen.add(term)
            if term in self.rounded or self._widened(term) is not None:
                found += [term] if term in self.rounded else list(term.inputs)
            else:
                pending += term.inputs
        return tuple(found)

    def _widened(self, term: Term) -> Term | None:
        """Return the potential that is taken in float64."""
        return term.inputs[0] if term.op == "Cast" and term["attributes"] == (("to", TensorProto.DOUBLE),) else None

    def _activation(self, x: Term) -> tuple[str, tuple[Term, ...]] | None:
        """Recognise unit * f(u / unit), f one that never exceeds its input in magnitude."""
        if x.op != "Mul" or (unit := number(x.inputs[1])) is None or unit.dtype != np.float64 or not unit > 0:
            return None
        value = x.inputs[0]
        v = value.inputs[0] if value.inputs else value
        if v.op != "Div" or v.inputs[1] is not x.inputs[1] or (source := self._widened(v.inputs[0])) is None:
            return None
        forms = {"SiLU": self._of("Mul", v, self._of("Sigmoid", v)), "Hardswish": self._of("HardSwish", v)}
        forms["Mish"] = self._of("Mul", v, self._of("Tanh", self._of("Softplus", v)))
        limits = [self.program.constant(np.float64(n)) for n in (0, 6)]
        forms["ReLU6"] = self._of("Clip", v, *limits)
        if value.op == "LeakyRelu" and 0 <= dict(value["attributes"]).get("alpha", 0.01) <= 1:
            forms["LeakyReLU"] = value if value.inputs == (v,) else v
        return next(((f"{name} of potentials", (source,)) for name, form in forms.items() if form is value), None)

    def _attention(self, x: Term) -> tuple[str, tuple[Term, ...]] | None:
        """Recognise the values that an attention's positions read, or what its projection reads."""
        if x.op == "Add" and (found := self._average(x.inputs[0])) is not None:
            position = self._widened(x.inputs[1])
            return (ATTENTION, (found, position)) if position is not None else None
        if x.op == "Reshape" and x.channels and (taken := self._taken(x.inputs[0], 2)) is not None:
            return ("", (taken[0],)) if x.size == taken[0].size else None
        return None

    def _average(self, x: Term) -> Term | None:
        """Recognise reshape(V softmax(scale Q^T K)^T), and return the potentials of Q, K and V."""
        if x.op != "Reshape" or x.inputs[0].op != "MatMul":
            return None
        v, weights = x.inputs[0].inputs
        turned = {"perm": (0, 1, 3, 2)}
        if weights.op != "Transpose" or weights.inputs[0].op != "Softmax" or weights.inputs[0].inputs[0].op != "MatMul":
            return None
        query, k = weights.inputs[0].inputs[0].inputs
        scaled = query.inputs[0] if query.op == "Transpose" else query
        if scaled.op != "Mul" or (scale := number(scaled.inputs[1])) is None or scale.dtype != np.float64:
            return None
        taken = [self._taken(t, i) for i, t in enumerate((scaled.inputs[0], k, v))]
        if None in taken or len(set(taken)) > 1 or taken[0] is None:
            return None
        source, sizes = taken[0]
        product = self._of("MatMul", self._of("Transpose", scaled, **turned), k)
        average = self._of("MatMul", v, self._of("Transpose", self._of("Softmax", product, axis=-1), **turned))
        channels = (source.channels or 0) * sizes[2] // sum(sizes)
        if average is not x.inputs[0] or not source.size or (x.channels, x.size) != (channels, source.size):
            return None
        self.attention.append(((source.channels or 0) // sum(sizes), *sizes[1:]))
        return source

    def _values(self, x: Term) -> tuple[Term, list[int]] | None:
        """Return the potentials of Q, K and V that an attention, or its position, takes V of, and V's channels."""
        while x.op in {"Reshape", "MatMul"}:
            x = x.inputs[0]
        if x.op != "Split" or x["index"] != 2 or [t.op for t in x.inputs] != ["Reshape", "constant"]:
            return None
        source, sizes = self._widened(x.inputs[0].inputs[0]), [int(n) for n in x.inputs[1].array("value").ravel()[:4]]
        if source is None or source.channels is None or len(sizes) != 3 or min(sizes) < 1:
            return None
        heads = range(0, source.channels, sum(sizes))
        return source, [head + i for head in heads for i in range(sum(sizes[:2]), sum(sizes))]

    def _taken(self, x: Term, index: int) -> tuple[Term, tuple[int, ...]] | None:
        """Return the potentials of which this is the given part of each head, and the sizes of the parts."""
        if x.op != "Split" or dict(x["attributes"]) != {"axis": 2} or x["index"] != index:
            return None
        heads, sizes = x.inputs[0], tuple(int(n) for n in x.inputs[1].array("value"))
        source = self._widened(heads.inputs[0]) if heads.op == "Reshape" else None
        if source is None or source.size is None or source.channels is None:
            return None
        target = self.sides(heads.inputs[1])
        wanted = sum(sizes), math.prod(source.size)
        return (source, sizes) if target[2:] == wanted and len(target) == 4 else None
