"""Programs of what a user trusts: a checkpoint's deploy form, and the real-valued parts of stock Ultralytics.

Both are exported anew as skeletons, in which PyTorch's exporter has written what reads what, and layers are named in
place of their arithmetic; weights come from the deploy form itself. `spikeyolo.graph.lowering`, which writes the files
that are to be proven, has no part in it.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx

from spikeyolo.deployment import DOMAIN, DeployForm, PixelConv
from spikeyolo.graph.export import write_skeleton
from spikeyolo.proof.grammar import Parser
from spikeyolo.proof.layout import Map, Operation, Value
from spikeyolo.proof.onnx_reader import Refused
from spikeyolo.proof.program import Array, Program, Term


class Skeleton(Parser):
    """A skeleton, read into a program.

    Args:
        model: The skeleton.
        form: The deploy form that it was made of.
        program: Where its terms go.

    Attributes:
        sums: By layer: its sum.
        network: What of a network was exported.
    """

    network: Any

    domains = ("", DOMAIN)

    def __init__(self, model: onnx.ModelProto, form: DeployForm, program: Program):
        self.form, self.sums = form, dict[str, Term]()
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        bare.graph.ClearField("value_info")
        bare.ir_version = min(bare.ir_version, 10)
        super().__init__(bare, program)

    def _handler(self, node: onnx.NodeProto) -> str:
        layers = {"Conv": "_layer", "Neuron": "_neuron"}
        return layers[node.op_type] if node.domain == DOMAIN else super()._handler(node)

    def _layer(self, op: Operation) -> Value:
        """Read the product that a node names."""
        conv = self.form.convs[op.given["layer"].decode()]
        codes = op.values[0]
        assert isinstance(codes, Map)
        assert conv.bias is not None
        operand = self.program.pixels(codes.term) if isinstance(conv, PixelConv) else codes.term
        border: Any = conv.border
        padding: Any = conv.padding
        top, left = border if any(border) else padding
        total = self.program.sum(
            operand,
            _whole(conv.weight, np.int8),
            _whole(conv.bias, np.int32),
            stride=(int(conv.stride[0]), int(conv.stride[1])),
            padding=(int(top), int(left)),
            dilation=(int(conv.dilation[0]), int(conv.dilation[1])),
            groups=conv.groups,
            rest=conv.rest if any(border) else 0,
        )
        self.sums[conv.name] = total
        step = 2.0 ** conv.exponent.double().numpy(force=True)
        if conv.branch is None:
            return Map(self.program.potential(total, step))
        output_step = 2.0 ** conv.branch.double().numpy(force=True)
        return Map(self.program.branch(total, step / output_step, output_step))

    def _neuron(self, op: Operation) -> Value:
        """Read the neuron that a node names."""
        neuron = self.form.neurons[op.given["layer"].decode()]
        u = op.values[0]
        assert isinstance(u, Map)
        numbers: dict[str, Any] = {"rest": neuron.rest, "largest": neuron.D_N, "T": neuron.T}
        numbers |= {"decay": neuron.decay, "exponent": int(neuron.exponent)} if neuron.T > 1 else {}
        return Map(self.program.neuron(u.term, neuron.scale, **numbers), wide=True)


def _whole(numbers: Any, dtype: Any) -> Array:
    """Return whole numbers in their type."""
    found = numbers.numpy(force=True)
    whole = found.astype(dtype)
    if (whole != found).any():
        raise Refused("the reference has weights that are no whole numbers of their width")
    return whole


class Exports:
    """Networks as programs, each exported once.

    Args:
        program: Where their terms go.
    """

    def __init__(self, program: Program):
        self.program = program
        self._made: dict[tuple[Any, str], Skeleton] = {}

    def of(self, network: Any, **arguments: Any) -> Skeleton:
        """Return the program of a network's fresh deploy form.

        Args:
            network: Trained network of Ultralytics, which is left as it is.
            arguments: Of ``yolo export``.

        Raises:
            ValueError: If it has no such form.
        """
        key = network, repr(sorted(arguments.items()))
        if key not in self._made:
            copied = copy.deepcopy(network)
            if hasattr(copied, "end2end"):  # older versions of Ultralytics do not take it from nms=
                copied.end2end = arguments.get("nms") is False
            model, form, exported = write_skeleton(copied, **arguments)
            self._made[key] = Skeleton(model, form, self.program)
            self._made[key].network = exported
        return self._made[key]
