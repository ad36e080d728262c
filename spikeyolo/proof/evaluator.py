"""An independent evaluator of programs, in NumPy: slow, plain, written from docs/export.md.

Sums are products of whole numbers, in float32 where they stay below 2^24 in any order, else in float64, exact below
2^53. Real-valued operators are those of onnx's own reference implementation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from spikeyolo.proof.claims import EXACT, worst_sum
from spikeyolo.proof.program import Array, Numbers, Term, output_size

CHUNK = 2**22  # numbers of windows that are held at once


def evaluate(outputs: Iterable[Term], image: Array, opset: int) -> Iterator[tuple[Term, Array]]:
    """Yield the value of every term that some outputs need, operands first; none is held longer than it is needed.

    Args:
        outputs: Terms of a program.
        image: (B, 3, H, W), float32, in [0, 1].
        opset: Version of the operators.

    Raises:
        ValueError: If an operator does not take its operands.
    """
    first, *others = outputs
    terms = list(first.walk(*others))
    readers = Counter(operand for term in terms for operand in term.inputs)
    values: dict[Term, Array] = {}
    for term in terms:
        operands = [values[x] for x in term.inputs]
        found = image if term.op == "image" else _value(term, operands, opset)
        yield term, found
        values[term] = found
        for operand in term.inputs:
            readers[operand] -= 1
            if not readers[operand]:
                values.pop(operand, None)


def _value(term: Term, operands: list[Array], opset: int) -> Array:
    if term.op == "constant":
        return term.array("value")
    if term.op == "absent":
        return np.empty(0)
    x = operands[0]
    if term.op == "pixels":
        return np.rint(x / np.float32(1 / 255)).clip(0, 255)
    if term.op == "sum":
        return convolve(term, x)
    if term.op == "potential":
        return (x * _by_channel(term, "step")).astype(np.float32)
    if term.op == "branch":
        steps = np.rint(x.astype(np.float32) * _by_channel(term, "scale")).clip(-128, 127)
        return (steps * _by_channel(term, "step")).astype(np.float32)
    if term.op == "codes":
        scaled = np.rint(x.astype(np.float32) * _by_channel(term, "scale"))
        return (term["rest"] + scaled).clip(0, term["largest"])
    if term.op == "neuron":
        return fire(term, x)
    if term.op == "Concat":
        return np.concatenate(operands, term["axis"])
    if term.op == "Resize" and "scales" in dict(term.facts):
        height, width = term["scales"]
        return x.repeat(height, 2).repeat(width, 3)
    if term.op == "MaxPool" and "kernel" in dict(term.facts):
        return pool(term, x)
    if term.op == "Split" and "attributes" not in dict(term.facts):
        if term["axis"] == 0:
            return np.split(x, term["parts"])[term["index"]]
        ends = np.cumsum(term["sizes"])
        return np.split(x, ends[:-1], 1)[term["index"]]
    return _reference(term, operands, opset)


def _by_channel(term: Term, name: str) -> Array:
    return term.array(name)[:, None, None]


def convolve(term: Term, codes: Array) -> Array:
    """Return the sums of a convolution, (B, O, H', W'), whole."""
    kind = np.float32 if worst_sum(term).max(initial=0) < EXACT else np.float64
    weight, bias = term.array("weight").astype(kind), term.array("bias").astype(kind)
    (top, left), (sh, sw), (dh, dw) = term["padding"], term["stride"], term["dilation"]
    (kh, kw), groups = weight.shape[2:], term["groups"]
    batch, channels, *size = codes.shape
    height, width = term.size or output_size(size, (kh, kw), (sh, sw), (top, left), (dh, dw))
    needed = (height - 1) * sh + dh * (kh - 1) + 1, (width - 1) * sw + dw * (kw - 1) + 1
    below, beside = (max(0, n - side - edge) for n, side, edge in zip(needed, size, (top, left), strict=True))
    padded = np.pad(codes, [(0, 0), (0, 0), (top, below), (left, beside)], constant_values=term["rest"])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), (2, 3))
    windows = windows[:, :, ::sh, ::sw, ::dh, ::dw][:, :, :height, :width]
    windows = windows.reshape(batch, groups, channels // groups, height, width, kh, kw)
    weight = weight.reshape(groups, -1, channels // groups * kh * kw)
    found = np.empty((batch, groups, weight.shape[1], height, width), kind)
    rows = max(1, CHUNK // (width * channels * kh * kw))
    for i in range(0, height, rows):
        part = windows[:, :, :, i : i + rows].transpose(0, 1, 2, 5, 6, 3, 4)
        flat = part.reshape(batch, groups, weight.shape[2], -1).astype(kind, copy=False)
        found[..., i : i + rows, :] = (weight @ flat).reshape(batch, groups, -1, part.shape[5], width)
    found = found.reshape(batch, -1, height, width)
    found += bias[:, None, None]
    return found


def fire(term: Term, u: Array) -> Array:
    """Return the codes of a neuron, one timestep after the other."""
    facts = dict(term.facts)
    scale, rest, largest = np.float32(facts["scale"]), facts["rest"], facts["largest"]
    step, decay = np.float32(2.0 ** facts.get("exponent", 0)), np.float32(facts.get("decay", 0))
    emitted: list[Array] = []
    left = np.float32(0)
    for current in np.split(u, facts.get("T", 1)):
        potential = (current + left).astype(np.float32)
        emitted.append((rest + np.rint(potential * scale)).clip(0, largest))
        reset = emitted[-1].astype(np.float32) / scale
        left = np.rint((potential - reset) * decay / step) * step
    return np.concatenate(emitted)


def pool(term: Term, x: Array) -> Array:
    """Return the largest number of each window."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (term[key] for key in ("kernel", "stride", "padding", "dilation"))
    padded = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), (2, 3))
    return windows[:, :, ::sh, ::sw, ::dh, ::dw].max((4, 5))


def _reference(term: Term, operands: list[Array], opset: int) -> Array:
    """Return what onnx's reference implementation makes of an operator."""
    facts = dict(term.facts)
    index = facts.pop("index", 0)
    given = {key: _attribute(value) for key, value in facts.pop("attributes", ())}
    names = [f"x{i}" if x.op != "absent" else "" for i, x in enumerate(term.inputs)]
    outputs = [f"y{i}" for i in range(index + 1)]
    if term.op == "Split" and "num_outputs" not in given:
        outputs = [f"y{i}" for i in range(len(operands[1]))]
    node = helper.make_node(term.op, names, outputs, **given)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), None)
        for n, x in zip(names, operands, strict=True)
        if n
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs]
    graph = helper.make_graph([node], term.op, inputs, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {name: x for name, x in zip(names, operands, strict=True) if name}
    try:
        return np.asarray(ReferenceEvaluator(model).run(None, feeds)[index])
    except Exception as e:  # of whatever operator
        raise ValueError(f"{term.op} does not take its operands ({str(e).splitlines()[0]})") from e


def _attribute(value: Any) -> Any:
    return numpy_helper.from_array(value.array) if isinstance(value, Numbers) else value
