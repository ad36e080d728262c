"""What a tensor of an exported graph can be: a term, in one of the ways in which the exporter lays it out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from spikeyolo.proof.onnx_reader import Refused, shown
from spikeyolo.proof.program import Array, Term


@dataclass(frozen=True)
class Map:
    """A tensor that is a term, in one of the ways in which the exporter lays it out.

    Args:
        term: What it is.
        last: Whether its channels come last.
        planes: Number of binary planes that it holds of its codes, 1 for the codes themselves.
        view: "groups" (channels split into groups), "columns" (planes beside the columns).
        groups: Groups within which planes are side by side.
        border: Top, left, bottom, right.
        fill: Code of the border.
        wide: Whether its codes are float32 in place of uint8.
        fold: Side of the squares of pixels that were folded into channels.
    """

    term: Term
    last: bool = False
    planes: int = 1
    view: str = ""
    groups: int = 1
    border: tuple[int, ...] = (0, 0, 0, 0)
    fill: int = 0
    wide: bool = False
    fold: int = 1

    @property
    def plain(self) -> bool:
        """Whether it is its term, and nothing else."""
        return self == Map(self.term, self.last, wide=self.wide)

    @property
    def bytes(self) -> bool:
        """Whether it holds codes in bytes, of which no operator but those below makes numbers that are right."""
        return self.term.largest is not None and not self.wide

    @property
    def size(self) -> tuple[int, int]:
        """Height and width with the border, in squares; Refused if they are not known."""
        if self.term.size is None:
            raise Refused("reads a map whose size is not known")
        (height, width), (top, left, bottom, right) = self.term.size, self.border
        if (height + top + bottom) % self.fold or (width + left + right) % self.fold:
            raise Refused(f"folds {height + top + bottom} x {width + left + right} pixels by {self.fold}")
        return (height + top + bottom) // self.fold, (width + left + right) // self.fold

    @property
    def channels(self) -> int:
        """Channels, planes and folded pixels included; Refused if they are not known."""
        if self.term.channels is None:
            raise Refused("reads a map whose channels are not known")
        return self.term.channels * self.planes * self.fold**2


@dataclass(frozen=True)
class Constant:
    """Numbers of the file, or made of them; ``grid``: as they were before they were flattened."""

    array: Array
    grid: Array | None = None


@dataclass(frozen=True)
class Quantised:
    """Whole numbers of the file with a scale along an axis."""

    array: Array
    scale: Array
    axis: int


@dataclass(frozen=True)
class Firing:
    """Planes of codes being fired: what reached plane b (0 to 1 above its threshold), fired, spikes, is left."""

    codes: Map
    stage: str
    b: int


@dataclass(frozen=True)
class Cut:
    """Pixels cut into squares, before (or behind) the transposition that brings each square together."""

    pixels: Map
    moved: bool = False


@dataclass(frozen=True)
class Flat:
    """A map whose rows are one dimension."""

    operand: Map


@dataclass(frozen=True)
class Windows:
    """What each place of a convolution sees; ``rows``: as a matrix; ``whole``: as float32 numbers."""

    operand: Map
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    rows: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Totals:
    """Potentials as a matrix, a row for each place."""

    potential: Term


@dataclass(frozen=True)
class Steps:
    """A sum in eight bits, -128 to 127, channels last."""

    total: Term
    scale: Array


@dataclass(frozen=True)
class Scaled:
    """A sum in steps of eight bits, before it is rounded."""

    total: Term
    scale: Array


Sides = tuple[int | None, ...]  # of a shape; None for each that depends on the image
Value = Map | Constant | Quantised | Firing | Cut | Flat | Windows | Totals | Steps | Scaled | None


Values = Value | tuple[Value, ...]


@dataclass(frozen=True)
class Operation:
    """A node with the values that it reads and its attributes."""

    node: onnx.NodeProto
    values: list[Value]
    given: dict[str, Any]

    def attributes(self, *names: str, **defaults: Any) -> dict[str, Any]:
        """Return exactly these attributes: the named ones, and those with a default if they are there."""
        unknown = self.given.keys() - set(names) - defaults.keys()
        if unknown or set(names) - self.given.keys():
            raise Refused(f"has the attributes {sorted(self.given)}, not {sorted({*names, *defaults})}")
        return defaults | self.given

    def constant(self, i: int) -> Array:
        """Return input i as a constant array."""
        value = self.values[i] if i < len(self.values) else None
        if not isinstance(value, Constant):
            raise Refused(f"computes its input {i}, which is a constant in a spike graph")
        return value.array

    def scalar(self, i: int, dtype: Any) -> Any:
        """Return input i as one number of a type."""
        array = self.constant(i)
        if array.shape != () or array.dtype != dtype:
            raise Refused(f"has {shown(array)} as input {i}, not one number of {np.dtype(dtype).name}")
        return array.item()


def reshaped(x: Value, target: list[int]) -> Value:
    """Return what a reshaping of an inner value is, None if the exporter writes no such one."""
    if isinstance(x, Map) and x.last:
        codes = x.term.largest is not None
        if codes and x.planes == 1 and not x.view and x.fold == 1 and target[:3] == [0, 0, 0] and len(target) == 5:
            groups = target[3]
            return replace(x, view="groups", groups=groups) if groups * target[4] == x.channels and groups > 1 else None
        if x.view == "groups" and x.planes > 1 and target == [0, 0, 0, -1]:
            return replace(x, view="")
        if x.planes > 1 and not x.view and x.groups == 1 and target == [0, 0, -1, x.channels // x.planes]:
            return replace(x, view="columns")
        if x.view or not codes:
            return None
        (height, width), channels = x.size, x.channels
        if target == [-1, height * width, channels]:
            return Flat(x)
        if target == [-1, channels]:
            return Windows(x, (height, width), rows=True)
        if x.term.op == "pixels" and x.fold == 1 and len(target) == 5:
            side = target[2]
            if side > 1 and target == [-1, height // side, side, width // side, side * channels]:
                return Cut(replace(x, fold=side))
    if isinstance(x, Cut) and x.moved and target == [-1, *x.pixels.size, x.pixels.channels]:
        return x.pixels
    if isinstance(x, Windows) and not x.rows and target == [-1, math.prod(x.kernel) * x.operand.channels]:
        return replace(x, rows=True)
    if isinstance(x, Totals) and target == [-1, *(x.potential.size or (0, 0)), x.potential.channels]:
        return Map(x.potential, last=True)
    return None


def step_of(grid: Array) -> tuple[int, int]:
    """Return stride and dilation of (outputs, taps) places; 1 where there is one place alone."""
    places, taps = grid.shape
    return int(grid[1, 0] - grid[0, 0]) if places > 1 else 1, int(grid[0, 1] - grid[0, 0]) if taps > 1 else 1
