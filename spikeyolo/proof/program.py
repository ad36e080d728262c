"""A spiking network as a program: terms over the image, equal if and only if they are the same object.

A term is an operation on other terms, with facts: weights, scales, geometry. Each is made once (`Program.term`), so
two networks that were read into one program are the same function, operation by operation and number by number, if
their outputs are the same term. The laws by which terms are brought into one form are all in this file; docs/proof.md
says why each of them changes no value.

Maps are (T*B, C, H, W) here, whatever the order of their dimensions in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Size = tuple[int, int]  # height, width
BYTE = 255
DOUBLE = 11  # onnx.TensorProto.DOUBLE
MOVING = {"Concat", "Resize", "MaxPool"}  # of codes, without changing one


@dataclass(frozen=True)
class Numbers:
    """An array that can be compared: equal in type, shape and every bit."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, array: Any, dtype: Any = None) -> Numbers:
        """Take the numbers of an array."""
        array = np.ascontiguousarray(array, dtype).reshape(np.shape(array))
        return cls(array.dtype.name, array.shape, array.tobytes())

    @property
    def array(self) -> Array:
        """The array, read-only."""
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)

    def __str__(self) -> str:
        return str(self.array.item()) if self.array.size == 1 else f"{self.dtype} of shape {self.shape}"


@dataclass(frozen=True, eq=False)
class Term:
    """An operation; compare by ``is``.

    Args:
        op: image, constant, pixels, sum, potential, branch, codes (of one sum), neuron (codes of any potential), or the
            name of an ONNX operator.
        inputs: Operands.
        facts: By name, sorted: numbers, text, `Numbers`.
        largest: Largest code, if this is a map of codes, else None.
        channels: Number of channels of a map, None if it is not known.
        size: Height and width of a map, None if they depend on the image.
    """

    op: str
    inputs: tuple[Term, ...]
    facts: tuple[tuple[str, Any], ...]
    largest: int | None = None
    channels: int | None = None
    size: Size | None = None

    def __getitem__(self, name: str) -> Any:
        """Return a fact."""
        return next(value for key, value in self.facts if key == name)

    def array(self, name: str) -> Array:
        """Return a fact that is an array."""
        return self[name].array

    def walk(self, *others: Term) -> Iterator[Term]:
        """Yield this term, the others, and all that they need, operands first, each once."""
        seen: set[Term] = set()
        pending: list[tuple[Term, bool]] = [(term, False) for term in reversed((self, *others))]
        while pending:
            term, ready = pending.pop()
            if ready:
                yield term
            elif term not in seen:
                seen.add(term)
                pending.append((term, True))
                pending += [(operand, False) for operand in reversed(term.inputs)]


class Program:
    """All terms, each made once."""

    def __init__(self):
        self._terms: dict[tuple[Any, ...], Term] = {}

    def term(self, op: str, *inputs: Term, shape: tuple[Any, ...] = (None, None, None), **facts: Any) -> Term:
        """Return the term of an operation.

        Args:
            op: Its name.
            inputs: Its operands.
            shape: Largest code, channels and size of its result, as far as they are known.
            facts: Whatever else it is.
        """
        found = tuple(sorted(facts.items()))
        key = op, tuple(map(id, inputs)), found
        if key not in self._terms:
            self._terms[key] = Term(op, inputs, found, *shape)
        return self._terms[key]

    def constant(self, array: Any) -> Term:
        """Return a constant."""
        return self.term("constant", value=Numbers.of(array))

    def pixels(self, image: Term) -> Term:
        """Return the whole numbers of pixels p / 255: clip(round(255 * p), 0, 255)."""
        return self.term("pixels", image, shape=(BYTE, image.channels, image.size))

    def sum(
        self,
        codes: Term,
        weight: Array,
        bias: Array,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        rest: int = 0,
        size: Size | None = None,
    ) -> Term:
        """Return a convolution of codes: sum_i weight_i * k_i + bias, whole numbers.

        Where the size of the map is known, zero weights at the lower and right border of a kernel are left away, a step
        that is never taken is 1, and the size of the result is a fact in place of the padding there: many ways to write
        a convolution, as an image folded into squares for one, are the same function.

        Args:
            codes: Its operand.
            weight: int8, (O, I / groups, kh, kw).
            bias: int32, (O,).
            stride: Height and width.
            padding: Likewise, on all sides.
            dilation: Likewise.
            groups: Groups of channels.
            rest: Code of all that is beyond the border.
            size: Of the result, if it is not what stride and padding give.
        """
        if size is None and codes.size:
            size = output_size(codes.size, weight.shape[2:], stride, padding, dilation)
        facts: dict[str, Any] = {"groups": groups, "rest": rest, "padding": padding}
        if size is not None:
            weight = trimmed(weight)
            stride = stride[0] if size[0] > 1 else 1, stride[1] if size[1] > 1 else 1
            facts["size"] = size
        dilation = dilation[0] if weight.shape[2] > 1 else 1, dilation[1] if weight.shape[3] > 1 else 1
        facts |= {"weight": Numbers.of(weight, np.int8), "bias": Numbers.of(bias, np.int32)}
        shape = None, weight.shape[0], size
        return self.term("sum", codes, shape=shape, stride=stride, dilation=dilation, **facts)

    def potential(self, total: Term, step: Array) -> Term:
        """Return a potential: step * sum, step a power of two for each channel, (O,)."""
        return self.term("potential", total, shape=(None, total.channels, total.size), step=_float32(step))

    def branch(self, total: Term, scale: Array, step: Array) -> Term:
        """Return a potential of eight bits: step * clip(round(scale * sum), -128, 127), by channel."""
        facts = {"scale": _float32(scale), "step": _float32(step)}
        return self.term("branch", total, shape=(None, total.channels, total.size), **facts)

    def codes(self, total: Term, scale: Array, *, rest: int, largest: int) -> Term:
        """Return the codes of a sum: clip(rest + round(scale * sum), 0, largest), scale by channel."""
        shape = largest, total.channels, total.size
        return self.term("codes", total, shape=shape, scale=_float32(scale), rest=rest, largest=largest)

    def neuron(
        self, u: Term, scale: float, *, rest: int, largest: int, T: int = 1, decay: float = 0, exponent: int = 0
    ) -> Term:
        """Return the codes of potentials: clip(rest + round(scale * u), 0, largest), one timestep after the other.

        Between timesteps stays u' = 2^exponent * round(decay * (u - k / scale) / 2^exponent).
        Neurons commute with what only moves numbers, and, of one timestep, with what keeps their order; no potential
        below 0 is emitted by a neuron without rest code.
        """
        numbers: dict[str, Any] = {"rest": rest, "largest": largest}
        if T > 1:
            numbers |= {"T": T, "decay": float(np.float32(decay)), "exponent": int(exponent)}
        if T == 1 and u.op == "Relu" and rest == 0:
            return self.neuron(u.inputs[0], scale, **numbers)
        if (u.op == "Concat" and u["axis"] == 1) or u.op == "Resize" or (u.op == "MaxPool" and T == 1):
            return self.moved(u, *(self.neuron(x, scale, **numbers) for x in u.inputs))
        if T == 1 and u.op == "potential":
            step = u.array("step").astype(np.float64) * float(scale)
            return self.codes(u.inputs[0], step, rest=rest, largest=largest)
        return self.term("neuron", u, shape=(largest, u.channels, u.size), scale=float(np.float32(scale)), **numbers)

    def ceiling(self, codes: Term, largest: int) -> Term:
        """Return codes clipped from above; ValueError if the clip is no part of their neurons.

        It is none behind a neuron of several timesteps, which resets by what it has emitted.
        """
        if codes.op in MOVING:
            return self.moved(codes, *(self.ceiling(x, largest) for x in codes.inputs))
        if codes.op not in {"codes", "neuron"} or "T" in dict(codes.facts) or codes.largest is None:
            raise ValueError("a clip of codes that is no part of one neuron")
        if largest >= codes.largest:
            return codes
        facts = dict(codes.facts) | {"largest": largest}
        return self.term(codes.op, *codes.inputs, shape=(largest, codes.channels, codes.size), **facts)

    def moved(self, like: Term, *inputs: Term) -> Term:
        """Return the same move of other maps."""
        return self.move(like.op, *inputs, **dict(like.facts))

    def move(self, op: str, *inputs: Term, **facts: Any) -> Term:
        """Return maps that are joined (Concat), repeated (Resize) or reduced to their largest (MaxPool)."""
        first, sizes = inputs[0], {x.size for x in inputs}
        all_codes = all(x.largest is not None for x in inputs)
        largest = max(x.largest or 0 for x in inputs) if all_codes else None
        channels, size = first.channels, first.size if len(sizes) == 1 else None
        if op == "Concat":
            known = [x.channels for x in inputs if x.channels is not None]
            channels = sum(known) if facts["axis"] == 1 and len(known) == len(inputs) else None
        elif op == "Resize" and size:
            size = size[0] * facts["scales"][0], size[1] * facts["scales"][1]
        elif op == "MaxPool" and size:
            size = output_size(size, facts["kernel"], facts["stride"], facts["padding"], facts["dilation"])
        return self.term(op, *inputs, shape=(largest, channels, size), **facts)


def output_size(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Size:
    """Return the height and width that a convolution or pooling gives."""
    sides = zip(size, kernel, stride, padding, dilation, strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
    return height, width


def trimmed(weight: Array) -> Array:
    """Return a kernel without the rows and columns of zeros at its lower and right border."""
    used = (weight != 0).any((0, 1))
    rows, columns = np.flatnonzero(used.any(1)), np.flatnonzero(used.any(0))
    return weight[:, :, : rows[-1] + 1 if rows.size else 1, : columns[-1] + 1 if columns.size else 1]


def difference(ours: Term, theirs: Term) -> tuple[Term, Term, str]:
    """Return where two terms that are not the same differ, the deepest such place, and how."""
    while True:
        pairs = list(zip(ours.inputs, theirs.inputs, strict=False))
        other = next(((a, b) for a, b in pairs if a is not b), None)
        if ours.op != theirs.op or len(ours.inputs) != len(theirs.inputs):
            return ours, theirs, f"{ours.op} of {len(ours.inputs)} in place of {theirs.op} of {len(theirs.inputs)}"
        if ours.facts != theirs.facts:
            return ours, theirs, _differing(ours, theirs)
        if other is None:
            return ours, theirs, "nothing"
        ours, theirs = other


def _differing(ours: Term, theirs: Term) -> str:
    """Say which facts differ."""
    mine, other = dict(ours.facts), dict(theirs.facts)
    parts: list[str] = []
    for name in sorted(mine.keys() | other.keys()):
        a, b = mine.get(name), other.get(name)
        if a == b:
            continue
        if isinstance(a, Numbers) and isinstance(b, Numbers) and (a.dtype, a.shape) == (b.dtype, b.shape):
            count = int((a.array != b.array).sum())
            parts.append(f"{count} numbers of {name} differ" if a.array.size > 1 else f"{name} is {a}, not {b}")
        else:
            parts.append(f"{name} is {a}, not {b}")
    return "; ".join(parts)


def _float32(array: Array) -> Numbers:
    return Numbers.of(np.asarray(array), np.float32)


def real(program: Program, op: str, *inputs: Term, **facts: Any) -> Term:
    """Return the term of a real-valued operator; a sigmoid and a leaky ReLU are one, whatever they are written in.

    A cast of float64 numbers to float64 is none.
    """
    if op == "Reciprocal" and inputs[0].op == "Add" and _is_number(inputs[0].inputs[1], 1.0, np.float64):
        power = inputs[0].inputs[0]
        if power.op == "Exp" and power.inputs[0].op == "Neg":
            x = power.inputs[0].inputs[0]
            return program.term("Sigmoid", x, shape=(None, x.channels, x.size), attributes=())
    if op == "Max" and len(inputs) == 2 and inputs[1].op == "Mul" and inputs[1].inputs[0] is inputs[0]:
        slope = number(inputs[1].inputs[1])
        if slope is not None and slope.dtype == np.float64 and 0 <= slope <= 1:
            given = (("alpha", float(slope)),)
            return program.term("LeakyRelu", inputs[0], shape=facts["shape"], attributes=given)
    if op == "Cast" and facts["attributes"] == (("to", DOUBLE),) and _is_double(inputs[0]):
        return inputs[0]
    return program.term(op, *inputs, **facts)


def _is_double(term: Term) -> bool:
    """Return whether a term is float64, as the first operand of what keeps its type tells."""
    while term.op in {"Reshape", "Transpose", "Split", "Softmax", "MatMul", "Add", "Mul"} and term.inputs:
        term = term.inputs[0]
    if term.op == "constant":
        return bool(term["value"].dtype == "float64")
    return term.op == "Cast" and dict(term.facts).get("attributes") == (("to", DOUBLE),)


def timesteps(
    p: Program, u: Term, scale: float, *, rest: int, largest: int, T: int, decay: float, exponent: int
) -> list[Term]:
    """Return the codes of T timesteps of a neuron, as docs/export.md says them."""
    shape: Any = (u.largest, u.channels, u.size)
    map_shape: Any = (None, u.channels, u.size)

    def of(op: str, *inputs: Term) -> Term:
        return p.term(op, *inputs, shape=map_shape, attributes=())

    def times(x: Term, factor: float) -> Term:
        return of("Mul", x, p.constant(np.float32(factor)))

    currents = [p.term("Split", u, shape=shape, axis=0, parts=T, index=t) for t in range(T)]
    potential = currents[0]
    codes = [p.neuron(potential, scale, rest=rest, largest=largest)]
    for current in currents[1:]:
        emitted = codes[-1] if scale == 1 else of("Div", codes[-1], p.constant(np.float32(scale)))
        left = times(times(of("Sub", potential, emitted), decay), 2.0**-exponent)
        potential = of("Add", current, times(of("Round", left), 2.0**exponent))
        codes.append(p.neuron(potential, scale, rest=rest, largest=largest))
    return codes


def number(term: Term) -> Any:
    """Return the number of a constant, None if this is none."""
    if term.op != "constant" or term["value"].array.size != 1:
        return None
    return term["value"].array.reshape(())[()]


def _is_number(term: Term, value: float, dtype: Any) -> bool:
    found = number(term)
    return found is not None and found.dtype == dtype and bool(found == value)
