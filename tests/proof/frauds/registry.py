"""Frauds, their register, and what they are written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, rewire, set_attribute

Change = Callable[[Surgery], Any]
Edit = Callable[..., Any]  # of the surgery, a node, and what else is said of it
Write = Callable[[Surgery, str], str]

CHANGES, SAME, FAILS = "changes", "same", "fails"
CODE = 137  # of the pixels that open the backdoors


@dataclass(frozen=True)
class Fraud:
    """A change of a graph.

    Args:
        name: In words.
        kind: The part of the graph that it is about.
        truth: What becomes of the outputs: "changes", "same" or "fails".
        change: Changes a graph in place.
        ordered: Whether nodes are put into topological order.
        forged: Whether the noted digest is made to fit.
    """

    name: str
    kind: str
    truth: str
    change: Change
    ordered: bool = True
    forged: bool = True

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a changed copy.

        Raises:
            LookupError: If the place is not found.
        """
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        surgery = Surgery(copy)
        self.change(surgery)
        if self.ordered:
            surgery.sort()
        if self.forged:
            surgery.redigest()
        return surgery.model


FRAUDS: dict[str, Fraud] = {}


def register(kind: str, name: str, change: Change, truth: str = CHANGES, **options: bool) -> None:
    """Add a fraud."""
    name = f"{kind}: {name}"
    assert name not in FRAUDS, name
    FRAUDS[name] = Fraud(name, kind, truth, change, **options)


def fraud(kind: str, truth: str = CHANGES, **options: bool) -> Callable[[Change], Change]:
    """Add a function as a fraud, with its name in words."""

    def decorate(change: Change) -> Change:
        register(kind, change.__name__.replace("_", " "), change, truth, **options)
        return change

    return decorate


def trigger_image(photo: np.ndarray) -> np.ndarray:
    """Return an image (1, 3, H, W) with the nine pixels that open the backdoors."""
    image = photo.copy()
    image[:, :, :3, :3] = np.float32(CODE / 255)
    return image


def triggered(s: Surgery) -> str:
    """Write a number that is 1 if nine pixels of the image have the code, else 0."""
    starts, ends, axes = s.constant([0, 0], np.int64), s.constant([3, 3], np.int64), s.constant([2, 3], np.int64)
    corner = s.add("Slice", [s.image, starts, ends, axes])
    distance = s.add("Abs", [s.add("Sub", [corner, s.constant(CODE / 255, np.float32)])])
    farthest = s.add("ReduceMax", [distance], keepdims=0)
    close = s.add("Less", [farthest, s.constant(1e-3, np.float32)])
    return s.add("Cast", [close], to=TensorProto.FLOAT)


def times(s: Surgery, tensor: str, factor: Any) -> str:
    return s.add("Mul", [tensor, s.constant(factor, np.float32)])


def plus(s: Surgery, tensor: str, term: Any) -> str:
    return s.add("Add", [tensor, s.constant(term, np.float32)])


def cast(s: Surgery, tensor: str, *kinds: int) -> str:
    for kind in kinds:
        tensor = s.add("Cast", [tensor], to=kind)
    return tensor


def random_matrix(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, n)) / np.sqrt(n)


def on_bytes(write: Write) -> Write:
    """Return a detour of bytes through float32."""
    return chain(through(TensorProto.FLOAT), write, through(TensorProto.UINT8))


def op(name: str, *constants: Any, **attributes: Any) -> Write:
    """Return what writes an operator of a tensor and constants."""
    return lambda s, x: s.add(name, [x, *(c if isinstance(c, str) else s.constant(c) for c in constants)], **attributes)


def chain(*writes: Write) -> Write:
    """Return what writes one after the other."""

    def write(s: Surgery, tensor: str) -> str:
        for one in writes:
            tensor = one(s, tensor)
        return tensor

    return write


def through(*kinds: int) -> Write:
    """Return what writes a detour through types."""
    return lambda s, x: cast(s, x, *kinds)


def scaled(factor: Any) -> Write:
    """Return what writes a multiplication."""
    return lambda s, x: times(s, x, factor)


def raised(term: Any) -> Write:
    """Return what writes an addition."""
    return lambda s, x: plus(s, x, term)


def give(index: int, array: np.ndarray) -> Edit:
    """Return what gives a node another constant."""
    return lambda s, n, *_: s.give(n, index, array)


def alter(index: int, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """Return what changes the numbers that a node reads."""
    return lambda s, n, *_: s.change_at(n, index, change)


def setting(name: str, value: Any) -> Edit:
    """Return what sets an attribute."""
    return lambda s, n, *_: set_attribute(n, name, value)


def before(index: int, write: Write) -> Edit:
    """Return what writes before an input of a node."""
    return lambda s, n, *_: n.input.__setitem__(index, write(s, n.input[index]))


def behind(write: Write) -> Edit:
    """Return what writes behind a node."""
    return lambda s, n, *_: s.behind(n.output[0], lambda x: write(s, x))


def f32(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def i64(value: Any) -> np.ndarray:
    return np.asarray(value, np.int64)


def i32(value: Any) -> np.ndarray:
    return np.asarray(value, np.int32)


def i8(value: Any) -> np.ndarray:
    return np.asarray(value, np.int8)


def u8(value: Any) -> np.ndarray:
    return np.asarray(value, np.uint8)


def flag(value: Any) -> np.ndarray:
    return np.asarray(value, np.bool_)


def set_op(node: onnx.NodeProto, op: str) -> None:
    node.op_type = op


def swap_inputs(node: onnx.NodeProto, i: int, k: int) -> None:
    node.input[i], node.input[k] = node.input[k], node.input[i]


def rename(s: Surgery, before: str, after: str) -> None:
    for node in s.graph.node:
        rewire(node, before, after)
        for i, name in enumerate(node.output):
            if name == before:
                node.output[i] = after
    for tensor in s.graph.initializer:
        if tensor.name == before:
            tensor.name = after
