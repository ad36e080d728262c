"""What every number in an ONNX graph can be: interval and grid, propagated from the inputs without running it.

Sound for any input: a rule exists for the operators below, every other one gives "anything". Sums are bounded in any
order, so a bound on the result also bounds what a runtime holds on the way.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
SIGNIFICANT = {TensorProto.FLOAT16: 11, TensorProto.BFLOAT16: 8, TensorProto.FLOAT: 24, TensorProto.DOUBLE: 53}


@dataclass(frozen=True)
class Values:
    """A set of numbers that holds all values of a tensor.

    Args:
        low: Smallest value, float64, shape () or, by channel, (1, C, 1, 1) with C > 1.
        high: Largest value, likewise.
        step: Power of two of which all values are multiples; 0 if none is known, infinite if all values are 0.
    """

    low: Array
    high: Array
    step: float

    def __post_init__(self):
        low, high = np.broadcast_arrays(self.low, self.high)
        if low.size == 1:  # one channel may be broadcast to many
            low, high = low.reshape(()), high.reshape(())
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.step >= 1

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return self.whole and bool(self.low.min() >= 0 and self.high.max() <= 1)

    @property
    def reach(self) -> float:
        """Largest magnitude."""
        return float(max(-self.low.min(), self.high.max()))

    def hull(self) -> Values:
        """Return the same set without channels."""
        return Values(self.low.min(), self.high.max(), self.step)

    def __str__(self) -> str:
        step = f"multiples of {self.step:g}" if 0 < self.step < math.inf else "any number"
        kind = "whole numbers" if self.step == 1 else step
        return f"{kind} in [{self.low.min():g}, {self.high.max():g}]"


def values(low: float | Array, high: float | Array, step: float) -> Values:
    """Make a set of numbers."""
    return Values(np.asarray(low, np.float64), np.asarray(high, np.float64), step)


ANYTHING = values(-math.inf, math.inf, 0)
BITS = values(0, 1, 1)
COUNTS = values(0, math.inf, 1)
SHARES = values(0, 1, 0)


def grid(array: Array) -> float:
    """Return the largest power of two of which all numbers of an array are multiples: 0 if it has an infinity."""
    array = np.abs(array[array != 0].astype(np.float64))
    if not array.size:
        return math.inf
    if not np.isfinite(array).all():
        return 0.0
    mantissa, exponent = np.frexp(array)
    whole = (mantissa * 2.0**53).astype(np.int64)
    return float(np.min(np.ldexp((whole & -whole).astype(np.float64), exponent - 53)))


def constant(array: Array) -> Values:
    """Return the values of a constant, by channel if it is shaped so."""
    array = np.asarray(array)
    if not array.size or array.dtype.kind not in "fiub":
        return ANYTHING
    shape = (1,) * (4 - array.ndim) + array.shape
    numbers = array.astype(np.float64)
    if len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1:
        return Values(numbers.reshape(shape), numbers.reshape(shape), grid(array))
    return Values(numbers.min(), numbers.max(), grid(array))


class Operation:
    """A node with what is known about its inputs."""

    def __init__(self, graph: Graph, node: onnx.NodeProto):
        self.graph, self.names, self.outputs = graph, list(node.input), len(node.output)
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    @property
    def x(self) -> Values:
        """The values of the first input."""
        return self.graph[self.names[0]]

    @property
    def inputs(self) -> list[Values]:
        """The values of all inputs."""
        return [self.graph[name] for name in self.names]

    def given(self, i: int) -> bool:
        """Return whether there is an input i."""
        return i < len(self.names) and self.names[i] != ""

    def fixed(self, i: int, default: Any = None) -> Any:
        """Return input i as a constant array, or the default if it is missing or computed."""
        found = self.graph.array(self.names[i]) if self.given(i) else None
        return default if found is None else found


class Graph:
    """An ONNX graph with the values of its tensors.

    Args:
        model: Any ONNX model.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        given = {i.name for i in model.graph.input}  # by the caller, who can replace an initializer of that name
        self.initializers = {t.name: t for t in model.graph.initializer if t.name not in given}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.values: dict[str, Values] = {}
        self._arrays: dict[str, Array] = {}
        for node in model.graph.node:
            self.producer.update(dict.fromkeys(filter(None, node.output), node))
        for node in model.graph.node:
            self._propagate(node)

    def array(self, name: str) -> Array | None:
        """Return a constant tensor, None if it is computed."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        return self._arrays.get(name)

    def __getitem__(self, name: str) -> Values:
        """Return what the values of a tensor can be."""
        if name not in self.values:
            array = self.array(name) if name else None
            self.values[name] = ANYTHING if array is None else constant(array)
        return self.values[name]

    def _propagate(self, node: onnx.NodeProto) -> None:
        op = Operation(self, node)
        standard = node.domain in ("", "ai.onnx")
        if standard and node.op_type == "Constant" and "value" in op.attributes:
            self._arrays[node.output[0]] = numpy_helper.to_array(op.attributes["value"])
            return
        found: Values | tuple[Values, ...] = ANYTHING
        if standard and node.op_type in RULES:
            with np.errstate(invalid="ignore", over="ignore"), contextlib.suppress(Exception):
                found = RULES[node.op_type](op)  # where it cannot say, e.g. of an odd shape, it can be anything
        several = found if isinstance(found, tuple) else (found,)
        for i, name in enumerate(node.output):
            one = several[i] if i < len(several) else ANYTHING
            unknown = np.isnan(one.low).any() or np.isnan(one.high).any()  # infinity times 0
            self.values[name] = ANYTHING if unknown else one


Rule = Callable[[Operation], "Values | tuple[Values, ...]"]


def _blend(op: Operation) -> Values:
    """Averages stay between the extremes, but leave the grid."""
    return Values(op.x.low.min(), op.x.high.max(), 0)


def _join(*sets: Values) -> Values:
    """Return what holds all sets, by channel where the shapes allow it."""
    try:
        low, high = sets[0].low, sets[0].high
        for s in sets[1:]:
            low, high = np.minimum(low, s.low), np.maximum(high, s.high)
    except ValueError:
        return _join(*(s.hull() for s in sets))
    return Values(low, high, min(s.step for s in sets))


def _broadcast(function: Callable[[Values, Values], Values]) -> Rule:
    """Make a rule of two operands, which falls back on hulls where channels do not match."""

    def rule(op: Operation) -> Values:
        return functools.reduce(lambda a, b: _matched(function, a, b), op.inputs)

    return rule


def _matched(function: Callable[[Values, Values], Values], a: Values, b: Values) -> Values:
    try:
        return function(a, b)
    except ValueError:
        return function(a.hull(), b.hull())


def _add(a: Values, b: Values) -> Values:
    return Values(a.low + b.low, a.high + b.high, min(a.step, b.step))


def _subtract(a: Values, b: Values) -> Values:
    return Values(a.low - b.high, a.high - b.low, min(a.step, b.step))


def _multiply(a: Values, b: Values) -> Values:
    corners = np.stack(np.broadcast_arrays(a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high))
    step = a.step * b.step if a.step and b.step else 0.0
    return Values(corners.min(0), corners.max(0), step)


def _divide(op: Operation) -> Values:
    by = op.fixed(1)
    if by is None or not by.size or (by == 0).any():
        return ANYTHING
    inverse = constant(1 / by.astype(np.float64))
    power = bool((np.frexp(np.abs(by.astype(np.float64)))[0] == 0.5).all())  # of two
    return _matched(_multiply, op.x, inverse if power else Values(inverse.low, inverse.high, 0))


def _clip(op: Operation) -> Values:
    x = op.x
    for i, key, limit in ((1, "min", np.maximum), (2, "max", np.minimum)):
        bound = op.fixed(i, op.attributes.get(key))
        if bound is None and op.given(i):
            return Values(x.low.min(), x.high.max(), 0)  # a computed limit
        if bound is not None:
            edge = constant(np.asarray(bound))
            x = Values(limit(x.low, edge.low.min()), limit(x.high, edge.low.min()), min(x.step, edge.step))
    return x


def _round(function: Callable[[Array], Array]) -> Rule:
    def rule(op: Operation) -> Values:
        x = op.x
        return Values(function(x.low), function(x.high), max(x.step, 1))

    return rule


def _cast(op: Operation) -> Values:
    x, to = op.x, op.attributes["to"]
    if to == TensorProto.BOOL:
        return BITS
    if to in SIGNIFICANT:
        exact = x.step > 0 and x.reach <= x.step * 2 ** SIGNIFICANT[to]
        return x if exact else Values(x.low, x.high, 0 if to != TensorProto.FLOAT else x.step)
    kind = helper.tensor_dtype_to_np_dtype(to)
    if kind.kind not in "iu":
        return ANYTHING
    limits = np.iinfo(kind)
    low, high = (x.low, x.high) if x.whole else (np.trunc(x.low), np.trunc(x.high))
    if low.min() < limits.min or high.max() > limits.max:  # wraps around
        return values(float(limits.min), float(limits.max), 1)
    return Values(low, high, max(x.step, 1))


def _bitwise_and(op: Operation) -> Values:
    for mask in (op.fixed(0), op.fixed(1)):
        if mask is not None and mask.size and mask.min() >= 0:
            return values(0, float(mask.max()), grid(mask))
    return values(-math.inf, math.inf, 1)


def _bit_shift(op: Operation) -> Values:
    x, by = op.x, op.fixed(1)
    if by is None or by.size != 1 or not x.whole or x.low.min() < 0:
        return COUNTS
    factor = 2.0 ** int(by.item())
    if op.attributes.get("direction") == b"LEFT":
        return COUNTS  # may overflow
    return Values(np.floor(x.low / factor), np.floor(x.high / factor), 1)


def _mod(op: Operation) -> Values:
    by = op.fixed(1)
    if by is None or by.size != 1 or by.item() < 1 or not op.x.whole or by.item() != int(by.item()):
        return ANYTHING
    if op.x.low.min() < 0 and op.attributes.get("fmod"):
        return values(1 - float(by.item()), float(by.item()) - 1, 1)
    return values(0, float(by.item()) - 1, 1)


def _concat(op: Operation) -> Values:
    channels = all(v.low.ndim == 4 for v in op.inputs)
    if op.attributes["axis"] == 1 and channels:
        step = min(v.step for v in op.inputs)
        return Values(
            np.concatenate([v.low for v in op.inputs], 1), np.concatenate([v.high for v in op.inputs], 1), step
        )
    return _join(*op.inputs) if op.attributes["axis"] == 0 else _join(*(v.hull() for v in op.inputs))


def _split(op: Operation) -> tuple[Values, ...]:
    axis, x, sizes = op.attributes.get("axis", 0), op.x, op.fixed(1)
    if axis == 1 and x.low.ndim == 4 and sizes is not None and sizes.sum() == x.low.shape[1]:  # by channel
        ends = np.cumsum(sizes)
        return tuple(Values(x.low[:, a:b], x.high[:, a:b], x.step) for a, b in zip(ends - sizes, ends, strict=True))
    return (x if axis == 0 else x.hull(),) * op.outputs


def _resize(op: Operation) -> Values:
    if op.attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        return ANYTHING  # extrapolates
    return op.x if op.attributes.get("mode", b"nearest") == b"nearest" else _blend(op)


def _pad(op: Operation) -> Values:
    mode, value = op.attributes.get("mode", b"constant"), np.zeros(1)
    if mode == b"constant" and op.given(2):
        value = op.fixed(2)
        if value is None:
            return ANYTHING
    return _join(op.x.hull(), constant(value).hull())


def _scatter(op: Operation) -> Values:
    if op.attributes.get("reduction", b"none") != b"none":
        return ANYTHING
    return _join(op.x.hull(), op.inputs[2].hull())


def _relu(op: Operation) -> Values:
    x = op.x
    return Values(np.maximum(x.low, 0), np.maximum(x.high, 0), x.step)


def _extreme(function: Any) -> Callable[[Values, Values], Values]:
    return lambda a, b: Values(function(a.low, b.low), function(a.high, b.high), min(a.step, b.step))


def _constant_of_shape(op: Operation) -> Values:
    value = op.attributes.get("value")
    return constant(numpy_helper.to_array(value) if value is not None else np.zeros(1)).hull()


def _convolution(op: Operation) -> Values:
    """Bound a convolution in any order of its sum, borders and absent terms included."""
    weight, bias = op.fixed(1), op.fixed(2)
    if weight is None or (bias is None and op.given(2)):
        return ANYTHING
    return accumulate(op.x, weight, bias, int(op.attributes.get("group", 1)))


def accumulate(x: Values, weight: Array, bias: Array | None, groups: int = 1) -> Values:
    """Return the values of sum_i weight[o, i] * x[i] + bias[o] and of all its partial sums.

    Args:
        x: Operand.
        weight: Weights, shape (O, I / groups, ...).
        bias: Biases, shape (O,), or None.
        groups: Groups of the convolution.

    Returns:
        Values by channel, shape (1, O, 1, 1).
    """
    if not np.isfinite(x.reach):
        return ANYTHING
    outputs, inputs = weight.shape[:2]
    taps = weight.astype(np.float64).reshape(outputs, inputs, -1)
    positive, negative = taps.clip(min=0).sum(2), taps.clip(max=0).sum(2)
    low, high = np.minimum(x.low, 0).ravel(), np.maximum(x.high, 0).ravel()
    if low.size not in (1, inputs * groups) or high.size not in (1, inputs * groups):
        return ANYTHING
    group = np.arange(outputs) // max(outputs // groups, 1)
    channel = group[:, None] * inputs + np.arange(inputs)
    low, high = (np.broadcast_to(b, inputs * groups)[channel] for b in (low, high))
    smallest = (positive * low + negative * high).sum(1)
    largest = (positive * high + negative * low).sum(1)
    step = x.step * grid(weight) if x.step else 0.0
    if bias is not None:
        smallest, largest = smallest + np.minimum(bias, 0), largest + np.maximum(bias, 0)
        step = min(step, grid(bias))
    return Values(smallest.reshape(1, -1, 1, 1), largest.reshape(1, -1, 1, 1), step)


def _matrix(op: Operation) -> Values:
    """MatMul and Gemm by a constant matrix on the right."""
    weight, bias = op.fixed(1), op.fixed(2)
    simple = op.attributes.get("alpha", 1.0) == op.attributes.get("beta", 1.0) == 1.0
    if weight is None or weight.ndim != 2 or not simple or (bias is None and op.given(2)):
        return ANYTHING
    if not op.attributes.get("transB"):
        weight = weight.T
    if bias is not None and bias.shape != weight.shape[:1]:
        return ANYTHING
    return accumulate(op.x.hull(), weight, bias).hull()


def _dequantize(op: Operation) -> Values:
    scale, zero = op.fixed(1), op.fixed(2, np.zeros(1))
    if scale is None or scale.size != 1 or zero.size != 1:
        return ANYTHING
    return _multiply(_subtract(op.x, constant(zero).hull()), constant(scale).hull())


def _quantize(op: Operation) -> Values:
    zero = op.fixed(2)
    limits = np.iinfo(zero.dtype if zero is not None and zero.dtype.kind in "iu" else np.uint8)
    return values(float(limits.min), float(limits.max), 1)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Identity", "Dropout", "MaxPool", "GlobalMaxPool"), lambda op: op.x),
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "GatherElements", "GatherND"),
        lambda op: op.x.hull(),
    ),
    **dict.fromkeys(
        ("Expand", "Tile", "DepthToSpace", "SpaceToDepth", "ReduceMax", "ReduceMin"),
        lambda op: op.x.hull(),
    ),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), _blend),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), lambda _: BITS),
    **dict.fromkeys(("And", "Or", "Xor", "Not", "IsNaN", "IsInf"), lambda _: BITS),
    **dict.fromkeys(("Shape", "Size", "NonZero", "ArgMax", "ArgMin", "NonMaxSuppression"), lambda _: COUNTS),
    **dict.fromkeys(("Sigmoid", "Softmax", "HardSigmoid"), lambda _: SHARES),
    **dict.fromkeys(("Add", "Sum"), _broadcast(_add)),
    "Sub": _broadcast(_subtract),
    "Mul": _broadcast(_multiply),
    "Div": _divide,
    "Max": _broadcast(_extreme(np.maximum)),
    "Min": _broadcast(_extreme(np.minimum)),
    "Neg": lambda op: Values(-op.x.high, -op.x.low, op.x.step),
    "Relu": _relu,
    "Clip": _clip,
    "Round": _round(np.rint),
    "Floor": _round(np.floor),
    "Ceil": _round(np.ceil),
    "Sign": lambda _: values(-1, 1, 1),
    "Tanh": lambda _: values(-1, 1, 0),
    "Exp": lambda _: values(0, math.inf, 0),
    "Where": lambda op: _join(*op.inputs[1:]),
    "Cast": _cast,
    "BitwiseAnd": _bitwise_and,
    "BitShift": _bit_shift,
    "Mod": _mod,
    "Concat": _concat,
    "Split": _split,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "ScatterND": _scatter,
    "ScatterElements": _scatter,
    "ConstantOfShape": _constant_of_shape,
    "TopK": lambda op: (op.x.hull(), COUNTS),
    "Conv": _convolution,
    "MatMul": _matrix,
    "Gemm": _matrix,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
