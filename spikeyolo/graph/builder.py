"""An ONNX graph under construction, its feature maps in either order of dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # transpositions: channels last, channels first


class Builder:
    """Nodes and constants of a graph.

    Attributes:
        nodes: In topological order.
        constants: By name.
        made: Names of the outputs of nodes.
    """

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.made: set[str] = set()
        self._transposed: dict[tuple[str, bool], str] = {}

    def add(self, op: str, inputs: Sequence[str], target: str, name: str = "", **attributes: Any) -> str:
        """Add a node; return its output."""
        self.nodes.append(helper.make_node(op, list(inputs), [target], name or target, **attributes))
        self.made.add(target)
        return target

    def constant(self, array: Any, name: str, dtype: Any = None) -> str:
        """Add a constant, once; return its name."""
        self.constants.setdefault(name, np.asarray(array, dtype, order="C"))
        return name

    def scalar(self, value: float, dtype: Any) -> str:
        """Add a number, once; return its name."""
        number = np.array(value, dtype)
        return self.constant(number, f"{number.dtype.name}/{number.item():.17g}")  # no two numbers have one name

    def shape(self, *sides: int) -> str:
        """Add a shape, once; return its name."""
        return self.constant(np.array(sides, np.int64), f"shape/{'x'.join(map(str, sides))}")

    def reshape(self, source: str, target: str, *sides: int) -> str:
        """Add a reshaping."""
        return self.add("Reshape", [source, self.shape(*sides)], target)

    def last(self, first: str) -> str:
        """Return a feature map with its channels last, of one with its channels first."""
        return self._transpose(first, to_last=True)

    def first(self, last: str) -> str:
        """Return a feature map with its channels first, of one with its channels last."""
        return self._transpose(last, to_last=False)

    def _transpose(self, source: str, *, to_last: bool) -> str:
        if (known := self._transposed.get((source, to_last))) is None:
            known = f"{source}/{'last' if to_last else 'first'}"
            self.add("Transpose", [source], known, perm=TO_LAST if to_last else TO_FIRST)
            self._transposed[source, to_last] = known
            self._transposed[known, not to_last] = source
        return known

    def initializers(self, nodes: list[onnx.NodeProto]) -> list[onnx.TensorProto]:
        """Return the constants that nodes read."""
        read = {name for node in nodes for name in node.input}
        return [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in read]
