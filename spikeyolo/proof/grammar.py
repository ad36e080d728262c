"""An ONNX file, parsed back into a program: patterns of the exporter, each closed, and nothing else.

Every node is read once, in order; each must be one of the patterns below, with exactly these attributes, types and
constants, or an operator of a real-valued part, which becomes a term of its own. What nobody reads (a node, an
initializer, a function, an unknown field) is refused. docs/proof.md has the grammar, docs/export.md its reasons.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from spikeyolo.proof.layout import (
    Constant,
    Cut,
    Firing,
    Flat,
    Map,
    Operation,
    Quantised,
    Scaled,
    Sides,
    Steps,
    Totals,
    Value,
    Values,
    Windows,
    reshaped,
    step_of,
)
from spikeyolo.proof.onnx_reader import (
    GRAPH,
    MODEL,
    NODE,
    Refused,
    check_fields,
    dimensions,
    read_array,
    read_attribute,
    shown,
)
from spikeyolo.proof.program import BYTE, Array, Numbers, Program, Term, number, real, timesteps

OPSETS = range(18, 27)  # in which the operators of the patterns mean the same
FORMATS = range(7, 13)  # of files
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
PRODUCTS = {"QLinearConv", "Gemm", "Conv"}
VIEWS = {"Reshape", "Transpose", "Cast", "DequantizeLinear"}  # of codes, one for each layer that reads them
FIRING = {"Mul", "Round", "Add", "QuantizeLinear", "Split"}  # of potentials, for each neuron that reads them
MOST = 2**27  # numbers of a map
CHANNELS, TIMESTEPS = 2**16, 64  # of a map; of the image
BUDGET = 2**30  # bytes of constants that nodes make of others, in all
STEPS = 2.0**-126, 2.0**64  # between which no float32 potential overflows, whatever it is scaled by
LARGEST_KERNEL = 64
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Exp", "Erf", "Reciprocal", "Round", "Min", "Max", "Clip"}
ELEMENTWISE |= {"Cast", "Relu", "Sigmoid", "Tanh", "Softplus", "LeakyRelu", "HardSigmoid", "HardSwish", "Mish", "Gelu"}


HANDLERS = {  # by operator: method, fewest and most inputs; with others it is real-valued, if anything
    "QuantizeLinear": ("_quantizelinear", 3, 3),
    "Clip": ("_clip", 3, 3),
    "Sub": ("_sub", 2, 2),
    "Mul": ("_mul", 2, 2),
    "Div": ("_div", 2, 2),
    "Add": ("_add", 2, 2),
    "Cast": ("_cast", 1, 1),
    "Concat": ("_concat", 1, 2**10),
    "Split": ("_split", 1, 2),
    "Resize": ("_resize", 3, 3),
    "MaxPool": ("_maxpool", 1, 1),
    "Identity": ("_identity", 1, 1),
    "Constant": ("_constant", 0, 0),
    "ConstantOfShape": ("_constantofshape", 1, 1),
    "Transpose": ("_transpose", 1, 1),
    "Pad": ("_pad", 3, 3),
    "Reshape": ("_reshape", 2, 2),
    "Tile": ("_tile", 2, 2),
    "Expand": ("_expand", 2, 2),
    "Gather": ("_gather", 2, 2),
    "DequantizeLinear": ("_dequantizelinear", 2, 3),
    "QLinearConv": ("_qlinearconv", 9, 9),
    "Conv": ("_conv", 3, 3),
    "Gemm": ("_gemm", 3, 3),
}


@dataclass(frozen=True)
class Layer:
    """A product of a file.

    Args:
        name: Its node.
        total: Its sum.
        planes: Number of binary planes that its operand holds, 1 for codes.
        op: Its operator.
    """

    name: str
    total: Term
    planes: int
    op: str


class Parser:
    """Reads a model into a program.

    Args:
        model: Any ONNX model.
        program: Where its terms go; those of two models in one program can be compared.

    Raises:
        Refused: Names what is no part of a spiking network.

    Attributes:
        image: The input.
        outputs: What the file computes.
        layers: Its products.
        codes: By name of a tensor that holds codes as they are: its term, and whether its channels are last.
        nodes: By term: the node that made it first.
        opset: Version of the operators.
    """

    domains: tuple[str, ...] = ("",)

    def __init__(self, model: onnx.ModelProto, program: Program):
        self.model, self.program = model, program
        self.layers: list[Layer] = []
        self.codes: dict[str, tuple[Term, bool]] = {}
        self.nodes: dict[Term, str] = {}
        self.values: dict[str, Value] = {"": None}
        self.read: set[str] = set()
        self.sides: dict[Term, Sides] = {}  # of shapes that are computed
        self.made = 0  # numbers of constants
        self.seen: dict[Any, str] = {}
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.opset = self._opset()
        self.image = self._image()
        for tensor in model.graph.initializer:
            self._define(tensor.name, Constant(read_array(tensor)), f"initializer {tensor.name}")
        for node in model.graph.node:
            self._node(node)
        if len(model.graph.output) != 1:
            raise Refused(f"the graph has {len(model.graph.output)} outputs, not one")
        self.outputs = tuple(self._output(output.name) for output in model.graph.output)
        made = [(node.output, f"node {node.name} ({node.op_type})") for node in model.graph.node]
        made += [([tensor.name], f"initializer {tensor.name}") for tensor in model.graph.initializer]
        for names, what in [*made, ([model.graph.input[0].name], "the input")]:
            if not self.read & set(names):
                raise Refused(f"{what} is no part of a spiking network: nothing reads it")

    def _opset(self) -> int:
        check_fields(self.model, MODEL, "the file")
        check_fields(self.model.graph, GRAPH, "the graph")
        versions = {o.domain: o.version for o in self.model.opset_import}
        if set(versions) != set(self.domains) or len(versions) != len(self.model.opset_import):
            raise Refused(
                f"the file imports operators of {sorted(map(repr, versions))}, a spike graph only those of ''"
            )
        if self.model.ir_version not in FORMATS:
            raise Refused(f"the file has format {self.model.ir_version} of ONNX; export it again")
        if versions[""] not in OPSETS:
            raise Refused(
                f"the file has opset {versions['']}, not one from {OPSETS[0]} to {OPSETS[-1]}; export it again"
            )
        return versions[""]

    def _image(self) -> Term:
        if len(self.model.graph.input) != 1:
            raise Refused(f"the graph has {len(self.model.graph.input)} inputs, not one image")
        (given,) = self.model.graph.input
        kind, shape = given.type.tensor_type.elem_type, dimensions(given)
        for value in (given, *self.model.graph.output):
            check_fields(value, {"name", "type"}, value.name)
            check_fields(value.type, {"tensor_type"}, value.name)
            for side in value.type.tensor_type.shape.dim:
                check_fields(side, {"dim_value", "dim_param"}, value.name)
        if kind != onnx.TensorProto.FLOAT or len(shape) != 4 or shape[1] != 3:
            raise Refused(f"input {given.name} {shape} takes no images (batch, 3, height, width) of float32")
        self.batch = shape[0] if isinstance(shape[0], int) else 1
        known = isinstance(shape[2], int) and isinstance(shape[3], int)
        if any(isinstance(n, int) and n < 1 for n in shape):
            raise Refused(f"input {given.name} has the shape {shape}")
        image = self.program.term("image", shape=(None, 3, tuple(shape[2:]) if known else None))
        self._define(given.name, Map(image), f"input {given.name}")
        return image

    def _define(self, name: str, value: Value, where: str) -> None:
        if not name or name in self.values:
            raise Refused(f"{where}: a second tensor of the name {name!r}, which is in use")
        if isinstance(value, Map) and (value.term.channels or 1) > CHANNELS:
            raise Refused(f"{where}: makes a map of {value.term.channels} channels: too large")
        if isinstance(value, Map) and self.batch * math.prod(value.term.size or ()) * (value.term.channels or 1) > MOST:
            raise Refused(
                f"{where}: makes a map of {value.term.channels} x {value.term.size} numbers, which is too large"
            )
        self.values[name] = value

    def _make(self, count: int, like: Array) -> None:
        """Count the bytes of a constant before they are made."""
        self.made += count * like.itemsize
        if count < 0 or self.made > BUDGET:
            raise Refused(f"makes {count:,} numbers of a constant, which is too many")

    def _output(self, name: str) -> Term:
        if name not in self.values:
            raise Refused(f"output {name} is made by no node")
        self.read.add(name)
        value = self.values[name]
        if not isinstance(value, Map) or not value.plain or value.last:
            raise Refused(f"output {name} is an inner number of a layer")
        return value.term

    def _node(self, node: onnx.NodeProto) -> None:
        where = f"node {node.name or node.output[0] if node.output else node.name} ({node.op_type})"
        check_fields(node, NODE, where)
        if node.domain not in self.domains:
            raise Refused(f"{where}: an operator of {node.domain!r}, not a standard one")
        if unknown := [name for name in node.input if name not in self.values]:
            raise Refused(f"{where}: reads {unknown[0]}, which nothing before it has made")
        try:
            given = {a.name: read_attribute(a) for a in node.attribute}
            if len(given) < len(node.attribute):
                raise Refused("has an attribute twice")
            operation = Operation(node, [self.values[name] for name in node.input], given)
            found: Values = getattr(self, self._handler(node))(operation)
        except Exception as e:  # whatever operands that do not fit make numpy raise
            reason = str(e) if isinstance(e, Refused) else f"has operands that do not fit ({e})"
            raise Refused(f"{where} is no part of a spiking network: it {reason}") from e
        values = found if isinstance(found, tuple) else (found,)
        if len(values) != len(node.output):
            raise Refused(f"{where}: has {len(node.output)} outputs, not {len(values)}")
        self._once(node, given, values)
        self.read.update(node.input)
        for name in node.input:
            self.readers[name] -= 1
            if not self.readers[name] and isinstance(self.values[name], Constant):
                self.values[name] = None  # which nothing will read any more
        for name, value in zip(node.output, values, strict=True):
            self._define(name, value, where)
            if isinstance(value, Map):
                self.nodes.setdefault(value.term, node.name or name)
                if value.plain and value.term.largest is not None:
                    self.codes[name] = value.term, value.last

    def _handler(self, node: onnx.NodeProto) -> str:
        """Return the name of the method that reads a node."""
        if not onnx.defs.has(node.op_type):
            raise Refused("is no operator of ONNX")
        name, fewest, most = HANDLERS.get(node.op_type, ("_real", 0, 0))
        return name if fewest <= len(node.input) <= most else "_real"

    def _product(self, op: Operation, total: Term, planes: int) -> None:
        """Note a product; its name is shown, and is that of its layer in the notes."""
        if not re.fullmatch(r"[\w.]{1,200}", op.node.name):
            raise Refused(f"is a product of the name {op.node.name!r}")
        self.layers.append(Layer(op.node.name, total, planes, op.node.op_type))

    def _once(self, node: onnx.NodeProto, given: dict[str, Any], values: tuple[Value, ...]) -> None:
        """Refuse a part of a layer that is there twice; shapes may be asked for as often as PyTorch's exporter does."""
        outside = all(isinstance(x, Constant) or (isinstance(x, Map) and not x.last) for x in values)
        fires = node.op_type in FIRING and all(isinstance(x, Map) for x in values)
        fires = fires and (node.op_type != "Add" or isinstance(self.values[node.input[1]], Constant))  # a rest code
        key = node.op_type, tuple(node.input), tuple(sorted(given.items()))
        if key in self.seen and node.op_type not in VIEWS and not fires and (node.op_type in PRODUCTS or not outside):
            raise Refused(f"node {node.name} ({node.op_type}) repeats {self.seen[key]}, which no spike graph does")
        self.seen[key] = node.name

    # Neurons

    def _quantizelinear(self, op: Operation) -> Values:
        op.attributes()
        x, scale, zero = op.values[0], op.scalar(1, np.float32), op.scalar(2, np.uint8)
        if isinstance(x, Scaled) and (scale, zero) == (1, 128):
            return Map(self.program.codes(x.total, x.scale, rest=128, largest=BYTE), last=True)
        if not isinstance(x, Map) or not x.plain or x.term.largest is not None:
            raise Refused("quantises what is no potential")
        if self.is_image(x.term) and not x.last:
            if scale != np.float32(1 / 255) or zero != 0:
                raise Refused(f"quantises pixels by {scale} and {zero}, not by 1/255 and 0")
            return Map(self.program.pixels(x.term))
        if scale != 1:
            raise Refused(f"has the scale {scale}, not 1")
        u, factor = self._unscaled(x.term)
        return Map(self.program.neuron(u, factor, rest=int(zero), largest=BYTE), x.last)

    def is_image(self, term: Term) -> bool:
        """Return whether this is the image, or the image for each timestep."""
        if term.op == "Tile" and term.inputs[0] is self.image:
            times, *rest = self.known_sides(term.inputs[1]) or (None,)
            return rest == [1, 1, 1] and times is not None and 1 <= times <= TIMESTEPS
        return term is self.image

    def _unscaled(self, u: Term) -> tuple[Term, float]:
        """Take a neuron's scale from the potential that it was multiplied by."""
        if u.op == "Mul" and (factor := number(u.inputs[1])) is not None and factor.dtype == np.float32:
            if not 1 / STEPS[1] <= float(factor) <= STEPS[1]:
                raise Refused(f"has the scale {factor}")
            return u.inputs[0], float(factor)
        return u, 1.0

    def _clip(self, op: Operation) -> Values:
        op.attributes()
        x, low, high = (*op.values, None, None)[:3]
        if isinstance(x, Firing) or (isinstance(x, Map) and x.term.largest is not None and low is not None):
            return self._reached(op)
        if isinstance(x, Map) and x.term.largest is not None and not x.wide and x.plain:
            return replace(x, term=self.program.ceiling(x.term, op.scalar(2, np.uint8)))
        if isinstance(x, Map) and isinstance(low, Constant) and isinstance(high, Constant):
            raised, rest = x.term, 0
            if raised.op == "Add" and (added := number(raised.inputs[1])) is not None and added.dtype == np.float32:
                raised, rest = raised.inputs[0], int(added)
                if rest != added:
                    raise Refused(f"has the rest code {added}")
            if raised.op == "Round" and low.array.dtype == np.float32:
                lowest, largest = op.scalar(1, np.float32), op.scalar(2, np.float32)
                if lowest != 0 or largest != int(largest) or not 0 < largest < 2**24 or not x.plain:
                    raise Refused(f"clips codes to {lowest} and {largest}")
                u, factor = self._unscaled(raised.inputs[0])
                codes = self.program.neuron(u, factor, rest=rest, largest=int(largest))
                return Map(codes, x.last, wide=True)
        return self._real(op)

    def _timesteps(self, codes: list[Map]) -> Term | None:
        """Return the neuron of T timesteps of which these are the codes, None if they are of none."""
        p, first = self.program, codes[0].term
        if first.op != "neuron" or first.inputs[0].op != "Split" or len(codes) < 2:
            return None
        u, numbers = first.inputs[0].inputs[0], {name: first[name] for name in ("rest", "largest")}
        left, found = codes[1].term, []  # Add, Mul by 2^e, Round, Mul by 2^-e, Mul by the decay, Sub
        for op, place in (("neuron", 0), ("Add", 1), ("Mul", 0), ("Round", 0), ("Mul", 0), ("Mul", 0)):
            if left.op != op or len(left.inputs) <= place:
                return None
            found += [number(left.inputs[1])] if op == "Mul" else []
            left = left.inputs[place]
        step, _, decay = found
        if decay is None or not 0 <= decay <= 1:
            raise Refused(f"leaks by {decay}, not by a decay from 0 to 1")
        exponent = 0 if step is None or not step > 0 else math.frexp(float(step))[1] - 1
        facts: dict[str, Any] = {"decay": 0.0 if decay is None else float(decay), "exponent": exponent}
        expected = timesteps(p, u, first["scale"], T=len(codes), **numbers, **facts)
        if [c.term for c in codes] != expected:
            return None
        return p.neuron(u, first["scale"], T=len(codes), **numbers, **facts)

    # Planes

    def _reached(self, op: Operation) -> Values:
        x = op.values[0]
        codes = x.codes if isinstance(x, Firing) else x
        if not isinstance(codes, Map) or codes.term.largest is None or codes.planes > 1 or codes.last is False:
            raise Refused("fires planes of what are no codes")
        kind = np.float32 if codes.wide else np.uint8
        low, high = op.scalar(1, kind), op.scalar(2, kind)
        b = int(high).bit_length() - 1
        highest = codes.term.largest.bit_length() - 1
        expected = x.b - 1 if isinstance(x, Firing) else highest
        if (low, high) != (2**b - 1, 2**b) or b != expected or b < 1 or (isinstance(x, Firing) and x.stage != "left"):
            raise Refused(f"fires a plane between {low} and {high}, where plane {expected} is due")
        return Firing(codes, "reached", b)

    def _sub(self, op: Operation) -> Values:
        op.attributes()
        a, b = op.values
        if isinstance(a, Firing) and a.stage == "reached" and isinstance(b, Constant):
            if op.scalar(1, np.float32 if a.codes.wide else np.uint8) != 2**a.b - 1:
                raise Refused(f"subtracts {b.array}, not 2^{a.b} - 1")
            return replace(a, stage="fired")
        if isinstance(b, Firing) and b.stage == "spikes":
            before = Firing(b.codes, "left", b.b + 1)
            if a == before or (a == b.codes and b.codes.term.largest.bit_length() == b.b + 1):  # pyright: ignore[reportOptionalMemberAccess]
                return replace(b, stage="left")
            raise Refused("takes spikes from what did not fire them")
        return self._elementwise(op)

    def _mul(self, op: Operation) -> Values:
        op.attributes()
        a, b = op.values
        if isinstance(a, Firing) and a.stage == "fired" and isinstance(b, Constant):
            if op.scalar(1, np.float32 if a.codes.wide else np.uint8) != 2**a.b:
                raise Refused(f"multiplies by {b.array}, not by 2^{a.b}")
            return replace(a, stage="spikes")
        if isinstance(a, Steps) and isinstance(b, Constant):
            step, size = b.array, a.total.size
            if step.dtype != np.float32 or step.shape[-1:] != (a.total.channels,) or step.ndim > 2:
                raise Refused(f"multiplies a sum by {shown(step)}, not by a step for each channel")
            if step.ndim == 2 and (size is None or len(step) not in (1, size[1]) or (step != step[0]).any()):
                raise Refused("multiplies the columns of a sum by different steps")
            return Map(
                self.program.branch(a.total, a.scale, power_of_two(step.reshape(-1, step.shape[-1])[0])), last=True
            )
        return self._elementwise(op)

    def _concat(self, op: Operation) -> Values:
        axis = int(op.attributes("axis")["axis"])
        if any(isinstance(x, Firing) for x in op.values):
            return self._planes(op.values, axis)
        maps = [self._as_map(x) for x in op.values]
        if not maps or any(not m.plain or m.last != maps[0].last or m.wide != maps[0].wide for m in maps):
            raise Refused("joins maps that are laid out in different ways")
        if axis == 0 and (found := self._timesteps(maps)) is not None:
            return replace(maps[0], term=found)
        if maps[0].last and axis not in (0, 3):
            raise Refused(f"joins maps along axis {axis}")
        axis = {3: 1}.get(axis, axis) if maps[0].last else axis
        found = self.program.move("Concat", *(m.term for m in maps), axis=axis)
        self.sides.setdefault(found, self._shape_of(found))
        return replace(maps[0], term=found)

    def _planes(self, values: list[Value], axis: int) -> Value:
        first = values[0]
        if not isinstance(first, Firing):
            raise Refused("joins planes that are not all of one neuron's codes")
        codes, count = first.codes, len(values)
        wanted = [Firing(codes, "left", 1), *(Firing(codes, "spikes", b) for b in range(1, count))]
        if values != wanted or codes.term.largest is None or codes.term.largest.bit_length() != count:
            raise Refused("joins planes that are not all of one neuron's codes, each once, lowest first")
        if axis != (4 if codes.view == "groups" else 3):
            raise Refused(f"joins planes along axis {axis}")
        return replace(codes, planes=count)

    # Layout

    def _identity(self, op: Operation) -> Values:
        op.attributes()
        (value,) = op.values
        return value

    def _constant(self, op: Operation) -> Values:
        tensor = op.attributes("value")["value"]
        if op.values or not isinstance(tensor, Numbers):
            raise Refused("is no constant tensor")
        return Constant(tensor.array)

    def _transpose(self, op: Operation) -> Values:
        (x,) = op.values
        perm = tuple(op.attributes("perm")["perm"])
        if isinstance(x, Cut) and not x.moved and perm == (0, 1, 3, 2, 4):
            return replace(x, moved=True)
        if isinstance(x, Map) and x.view != "groups" and perm == (TO_FIRST if x.last else TO_LAST):
            return replace(x, last=not x.last)
        return self._real(op)

    def _pad(self, op: Operation) -> Values:
        x = op.values[0]
        if isinstance(x, Map) and x.last and x.term.largest is not None:
            op.attributes()
            widths, fill = op.constant(1), op.scalar(2, np.float32 if x.wide else np.uint8)
            sides = [int(n) for n in widths] if widths.dtype == np.int64 and widths.shape == (8,) else [-1]
            if min(sides) < 0 or any(sides[i] for i in (0, 3, 4, 7)) or any(x.border) or x.view or x.fold > 1:
                raise Refused(f"has the border {sides}")
            if int(fill) != fill or (x.planes > 1 and fill != 0) or fill > x.term.largest:
                raise Refused(f"fills a border with {fill}")
            return replace(x, border=(sides[1], sides[2], sides[5], sides[6]), fill=int(fill))
        return self._real(op)

    def _reshape(self, op: Operation) -> Values:
        x = op.values[0]
        if isinstance(x, Map) and not x.last:
            return self._real(op)
        if op.attributes(allowzero=0)["allowzero"] != 0:
            raise Refused("has allowzero")
        target = [int(n) for n in op.constant(1)]
        if isinstance(x, Constant):
            shape = [x.array.shape[i] if n == 0 else n for i, n in enumerate(target)]
            return Constant(x.array.reshape(shape), x.array if target == [-1] else None)
        found = reshaped(x, target)
        if found is None:
            raise Refused(f"reshapes to {target}")
        return found

    def _tile(self, op: Operation) -> Values:
        if not isinstance(op.values[0], Constant):
            return self._real(op)
        op.attributes()
        array, repeats = op.constant(0), op.constant(1)
        self._make(array.size * math.prod(int(n) for n in repeats), array)
        return Constant(np.tile(array, [int(n) for n in repeats]))

    def _constantofshape(self, op: Operation) -> Values:
        (shape,) = op.values
        value = op.given.get("value")
        if not isinstance(shape, Constant) or not isinstance(value, Numbers) or value.shape != (1,):
            return self._real(op)
        op.attributes("value")
        sides = [int(n) for n in shape.array]
        self._make(math.prod(sides), value.array)
        return Constant(np.full(sides, value.array))

    def _expand(self, op: Operation) -> Values:
        x, shape = op.values
        image = isinstance(x, Map) and x.plain and x.term is self.image
        if image and isinstance(shape, Constant) and shape.array.size < 5 and (shape.array == 1).all():
            op.attributes()  # as torch.repeat begins where nothing folds its constants
            return x
        if not all(isinstance(x, Constant) for x in op.values):
            return self._real(op)
        op.attributes()
        array, shape = op.constant(0), [int(n) for n in op.constant(1)]
        shape = np.broadcast_shapes(array.shape, shape)
        self._make(math.prod(shape), array)
        return Constant(np.ascontiguousarray(np.broadcast_to(array, shape)))

    def _gather(self, op: Operation) -> Values:
        x = op.values[0]
        if not isinstance(x, Flat):
            return self._real(op)
        index = op.values[1]
        found = index.grid if isinstance(index, Constant) else None
        if op.attributes("axis")["axis"] != 1 or found is None or found.ndim != 4:
            raise Refused("gathers no windows")
        grid = found.astype(np.int64)
        height, width = x.operand.size
        oh, ow, kh, kw = grid.shape
        (sh, dh), (sw, dw) = step_of(grid[:, 0, :, 0] // width), step_of(grid[0, :, 0, :])
        rows = np.arange(oh)[:, None, None, None] * sh + np.arange(kh)[:, None] * dh
        columns = np.arange(ow)[:, None, None] * sw + np.arange(kw) * dw
        if min(sh, dh, sw, dw) < 1 or rows.max() >= height or columns.max() >= width:
            raise Refused("gathers windows beyond the map")
        if not np.array_equal(grid, rows * width + columns):
            raise Refused("gathers what are no windows of a convolution")
        return Windows(x.operand, (oh, ow), (kh, kw), (sh, sw), (dh, dw))

    # Products

    def _qlinearconv(self, op: Operation) -> Values:
        weight, bias, scale, zeros = (op.constant(i) for i in (3, 8, 4, 5))
        fixed = op.scalar(1, np.float32), op.scalar(2, np.uint8), op.scalar(6, np.float32)
        if fixed != (1, 0, 1) or zeros.any() or zeros.dtype != np.int8:
            raise Refused("has scales or zero points other than 1 and 0")
        operand = op.values[0]
        if not isinstance(operand, Map) or operand.wide:
            raise Refused("takes no codes")
        total = self._convolution(op, operand, weight, bias)
        if scale.shape != bias.shape or scale.dtype != np.float32 or zeros.shape != bias.shape:
            raise Refused(f"has {shown(scale)} as scales of {len(bias)} channels")
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise Refused("has scales that are not positive numbers")
        return Map(self.program.codes(total, scale, rest=int(op.scalar(7, np.uint8)), largest=BYTE))

    def _conv(self, op: Operation) -> Values:
        operand, weight, bias = op.values
        if not isinstance(operand, Map) or not operand.wide or not isinstance(weight, Quantised) or weight.axis != 0:
            raise Refused("is a product of other than codes and whole weights")
        step, biases = self._whole(weight, bias)
        total = self._convolution(op, operand, weight.array, biases)
        return Map(self.program.potential(total, step))

    def _gemm(self, op: Operation) -> Values:
        op.attributes()
        windows, matrix, bias = op.values
        if (
            not isinstance(windows, Windows)
            or not isinstance(matrix, Quantised)
            or (windows.whole, matrix.axis) != (True, 1)
        ):
            raise Refused("is a product of other than codes and whole weights")
        step, biases = self._whole(matrix, bias)
        (kh, kw), operand = windows.kernel, windows.operand
        fold, planes, outputs = operand.fold, operand.planes, matrix.array.shape[1]
        if operand.groups > 1 or operand.view or len(matrix.array) != kh * kw * operand.channels:
            raise Refused(f"multiplies {kh * kw * operand.channels} numbers by {len(matrix.array)} weights")
        taps = matrix.array.reshape(kh, kw, planes, fold, fold, -1, outputs)
        same = self._same(taps, axis=2)  # (kh, kw, fold, fold, channels, O)
        weight = same.transpose(5, 4, 0, 2, 1, 3).reshape(outputs, -1, kh * fold, kw * fold)
        stride = windows.stride[0] * fold, windows.stride[1] * fold
        total = self.program.sum(
            operand.term,
            weight,
            biases,
            stride=stride,
            padding=(operand.border[0], operand.border[1]),
            dilation=windows.dilation,
            groups=1,
            rest=operand.fill if any(operand.border) else 0,
            size=windows.size,
        )
        if fold > 1 and (windows.dilation != (1, 1) or windows.stride != (1, 1) or operand.fill):
            raise Refused("has steps between squares of pixels")
        self._product(op, total, planes)
        return Totals(self.program.potential(total, step))

    def _whole(self, weight: Quantised, bias: Value) -> tuple[Array, Array]:
        """Return steps and biases of a product of all the sum."""
        if not isinstance(bias, Quantised) or bias.array.dtype != np.int32 or bias.axis != 0 or bias.array.ndim != 1:
            raise Refused("has no whole biases")
        if weight.array.dtype != np.int8 or not np.array_equal(weight.scale, bias.scale):
            raise Refused("has steps of weights that are not those of its biases")
        return power_of_two(weight.scale), bias.array

    def _convolution(self, op: Operation, operand: Map, weight: Array, bias: Array) -> Term:
        """Return the sum of a convolution operator; its planes are beside its channels, or beside its columns."""
        a = op.attributes("kernel_shape", "strides", "pads", "dilations", "group")
        kernel, (sh, sw), (top, left, bottom, right) = list(a["kernel_shape"]), a["strides"], a["pads"]
        (dh, dw), groups, planes, channels = a["dilations"], a["group"], operand.planes, operand.term.channels
        if operand.last or operand.view == "groups" or operand.fold > 1 or operand.term.largest is None:
            raise Refused("takes no codes")
        if weight.dtype != np.int8 or bias.dtype != np.int32 or weight.ndim != 4 or bias.shape != weight.shape[:1]:
            raise Refused(f"has weights of {shown(weight)} and biases of {shown(bias)}")
        if kernel != list(weight.shape[2:]) or (top, left) != (bottom, right) or groups < 1 or weight.shape[0] % groups:
            raise Refused(f"has the kernel {kernel}, pads {top, left, bottom, right}, groups {groups}")
        if planes > 1 and operand.view == "columns":
            if sw % planes or left % planes or kernel[1] % planes or (dh, dw) != (1, 1):
                raise Refused("has other columns than those of its planes")
            weight = self._same(weight.reshape(*weight.shape[:3], -1, planes), axis=4)
            sw, left = sw // planes, left // planes
        elif planes > 1:
            if operand.groups != groups:
                raise Refused(f"has {groups} groups, its planes {operand.groups}")
            weight = self._same(weight.reshape(len(weight), planes, -1, *weight.shape[2:]), axis=1)
        if channels is not None and weight.shape[1] * groups != channels:
            raise Refused(f"has weights for {weight.shape[1] * groups} channels, not {channels}")
        padding, border = (top, left), operand.border
        if any(border) and (any(padding) or border[:2] != border[2:]):
            raise Refused(f"has the borders {border} and {padding}")
        rest = operand.fill if any(border) else 0
        padding = border[:2] if any(border) else padding
        stride: Any = (sh, sw)
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": (dh, dw), "groups": groups}
        total = self.program.sum(operand.term, weight, bias, rest=rest, **geometry)
        if total.size is not None and min(total.size) < 1:
            raise Refused("has a kernel that is larger than its map")
        self._product(op, total, planes)
        return total

    def _same(self, weight: Array, axis: int) -> Array:
        """Return the weights of one plane, which those of all planes must be."""
        first = weight.take(0, axis)
        if (weight != np.expand_dims(first, axis)).any():
            raise Refused("has planes with different weights")
        return first

    def _dequantizelinear(self, op: Operation) -> Values:
        x = op.values[0]
        if isinstance(x, Constant):
            axis = op.attributes(axis=1)["axis"]
            scale = op.constant(1)
            if not -x.array.ndim <= axis < x.array.ndim:
                raise Refused(f"scales constants along axis {axis} of {x.array.ndim}")
            axis %= x.array.ndim
            if scale.dtype != np.float32 or scale.ndim != 1 or len(scale) != x.array.shape[axis]:
                raise Refused(f"scales constants by {shown(scale)}")
            if len(op.values) > 2 and op.constant(2).any():
                raise Refused("has a zero point")
            return Quantised(x.array, scale, axis)
        op.attributes()
        one, zero = op.scalar(1, np.float32), op.scalar(2, np.uint8)
        if isinstance(x, Windows) and x.rows and not x.whole and not x.operand.wide and (one, zero) == (1, 0):
            return replace(x, whole=True)
        eight_bits = isinstance(x, Map) and x.plain and x.last and x.term.op == "codes" and x.term["rest"] == 128
        if isinstance(x, Map) and eight_bits and x.term.largest == BYTE and (one, zero) == (1, 128):
            return Steps(x.term.inputs[0], x.term.array("scale"))
        raise Refused(f"scales what are no codes, or by {one} and {zero}")

    def _div(self, op: Operation) -> Values:
        op.attributes()
        a, b = op.values
        if isinstance(a, Map) and a.plain and a.last and isinstance(b, Constant) and b.array.ndim == 1:
            if a.term.op != "potential" or b.array.dtype != np.float32 or b.array.shape != (a.term.channels,):
                raise Refused(f"divides by {shown(b.array)}")
            scale = a.term.array("step").astype(np.float64) / power_of_two(b.array)
            if scale.max() > STEPS[1]:
                raise Refused(f"scales a sum by {scale.max():g}")
            return Scaled(a.term.inputs[0], scale)
        return self._elementwise(op)

    # What moves maps

    def _cast(self, op: Operation) -> Values:
        to = op.attributes("to")["to"]
        x = op.values[0]
        if isinstance(x, Map) and x.term.largest is not None and not x.wide and to == onnx.TensorProto.FLOAT:
            return replace(x, wide=True)
        return self._elementwise(op)

    def _split(self, op: Operation) -> Values:
        x, count = op.values[0], len(op.node.output)
        a = op.attributes(axis=0, num_outputs=0)
        axis = a["axis"]
        if (
            not isinstance(x, Map)
            or not x.plain
            or (x.last and axis not in (0, 3))
            or (not x.last and axis not in (0, 1))
        ):
            return self._real(op)
        if axis == 0 and a["num_outputs"] == count and len(op.values) == 1:
            shape = x.term.largest, x.term.channels, x.term.size
            return tuple(
                replace(x, term=self.program.term("Split", x.term, shape=shape, axis=0, parts=count, index=i))
                for i in range(count)
            )
        if axis == 0 or len(op.values) != 2 or a["num_outputs"]:
            return self._real(op)
        sizes = tuple(int(n) for n in op.constant(1))
        if len(sizes) != count or min(sizes) < 1 or x.term.channels not in (None, sum(sizes)):
            raise Refused(f"splits {x.term.channels} channels into {sizes}")
        return tuple(
            replace(
                x,
                term=self.program.term(
                    "Split", x.term, shape=(x.term.largest, n, x.term.size), axis=1, sizes=sizes, index=i
                ),
            )
            for i, n in enumerate(sizes)
        )

    def _resize(self, op: Operation) -> Values:
        names = ("coordinate_transformation_mode", "mode", "nearest_mode")
        a = op.attributes(*names, cubic_coeff_a=-0.75)
        if op.values[1] is not None:
            return self._real(op)
        x, scales = op.values[0], op.constant(2)
        if (*(a[name] for name in names), a["cubic_coeff_a"]) != (b"asymmetric", b"nearest", b"floor", -0.75):
            return self._real(op)
        if not isinstance(x, Map) or not x.plain or scales.dtype != np.float32 or scales.shape != (4,):
            raise Refused(f"resizes by {scales}")
        n, *sides = scales.tolist()
        channels, sides = (sides[2], sides[:2]) if x.last else (sides[0], sides[1:])
        if (n, channels) != (1, 1) or any(s < 1 or s != int(s) for s in sides):
            raise Refused(f"resizes by {scales}")
        return replace(x, term=self.program.move("Resize", x.term, scales=tuple(int(s) for s in sides)))

    def _maxpool(self, op: Operation) -> Values:
        a = op.attributes("kernel_shape", strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), ceil_mode=0)
        (x,), pads = op.values, tuple(a["pads"])
        kernel = tuple(a["kernel_shape"])
        square = (
            len(kernel) == 2
            and max(kernel) <= LARGEST_KERNEL
            and pads[:2] == pads[2:]
            and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
        )
        if not isinstance(x, Map) or not x.plain or x.last or a["ceil_mode"] or not square:
            raise Refused("pools in a way of its own")
        geometry: dict[str, Any] = {"kernel": kernel, "stride": tuple(a["strides"]), "padding": pads[:2]}
        return replace(x, term=self.program.move("MaxPool", x.term, dilation=tuple(a["dilations"]), **geometry))

    # Everything else: real-valued

    def _add(self, op: Operation) -> Values:
        op.attributes()
        a, b = op.values
        if isinstance(a, Constant) and isinstance(b, Constant) and a.array.ndim == b.array.ndim == 4:
            if a.array.dtype != np.int32 or b.array.dtype != np.int32:
                raise Refused("adds constants that are no places")
            self._make(math.prod(np.broadcast_shapes(a.array.shape, b.array.shape)), a.array)
            found = a.array.astype(np.int64) + b.array
            if found.min(initial=0) < 0 or found.max(initial=0) > 2**31 - 1:
                raise Refused("adds places beyond a map")
            return Constant(found.astype(np.int32))
        return self._elementwise(op)

    def _elementwise(self, op: Operation) -> Values:
        """Return an operator on each number, whatever the order of the dimensions."""
        maps = [x for x in op.values if isinstance(x, Map)]
        others = [x for x in op.values if not isinstance(x, Map)]
        scalar = all(x is None or (isinstance(x, Constant) and x.array.size == 1 and x.array.ndim < 2) for x in others)
        if not any(m.last for m in maps):
            return self._real(op)
        if not scalar or any(not m.plain or not m.last or m.bytes for m in maps):
            raise Refused("works on maps that are laid out in different ways, or on bytes")
        return replace(maps[0], term=self._term(op), wide=False)

    def _real(self, op: Operation) -> Values:
        """Return an operator as a term of its own."""
        if op.node.op_type in ELEMENTWISE and any(isinstance(x, Map) and x.last for x in op.values):
            return self._elementwise(op)
        maps = [x for x in op.values if isinstance(x, Map)]
        if any(not m.plain or m.last or m.bytes for m in maps):
            raise Refused("reads codes, planes, a border, or channels that come last")
        count = len(op.node.output)
        if count == 1:
            return Map(self._term(op))
        return tuple(Map(self._term(op, index=i)) for i in range(count))

    def _as_map(self, value: Value) -> Map:
        if isinstance(value, Constant):
            return Map(self.program.constant(value.array))
        if value is None:
            return Map(self.program.term("absent"))
        if not isinstance(value, Map):
            raise Refused("reads an inner number of a layer")
        return value

    def _term(self, op: Operation, **facts: Any) -> Term:
        terms = [self._as_map(x).term for x in op.values]
        shape = (None, None, None)
        if op.node.op_type in ELEMENTWISE:
            like = next((t for t in terms if t.op != "constant"), None)
            shape = (None, like.channels, like.size) if like is not None else shape
        if op.node.op_type == "Reshape" and len(target := self.known_sides(terms[1])) == 4:
            channels, height, width = (n if n and n > 0 else None for n in target[1:])
            shape = (None, channels, (height, width) if height and width else None)
        if self.is_image(terms[0]):
            shape = (None, 3, self.image.size)
        found = real(
            self.program, op.node.op_type, *terms, shape=shape, attributes=tuple(sorted(op.given.items())), **facts
        )
        self.sides.setdefault(found, self._shape_of(found))
        return found

    def known_sides(self, term: Term) -> Sides:
        """Return the numbers of a shape."""
        return (
            tuple(int(n) for n in term.array("value").ravel()[:9])
            if term.op == "constant"
            else self.sides.get(term, ())
        )

    def _shape_of(self, term: Term) -> Sides:
        """Return the numbers of a shape that is computed, as far as they are known; empty if it is none."""
        parts = [self.known_sides(x) for x in term.inputs]
        if term.op == "Shape" and term.inputs[0].channels:
            return None, term.inputs[0].channels, *(term.inputs[0].size or (None, None))
        if term.op in {"Unsqueeze", "Squeeze", "Cast"}:
            return parts[0]
        if term.op == "Concat" and all(parts):
            return tuple(n for part in parts for n in part)[:9]
        if term.op == "Gather" and len(parts) == 2 and len(parts[1]) == 1 and isinstance(i := parts[1][0], int):
            return (parts[0][i],) if -len(parts[0]) <= i < len(parts[0]) else ()
        if term.op == "Mul" and all(len(part) == 1 for part in parts):
            factors = [n for part in parts for n in part if n is not None]
            return (math.prod(factors) if len(factors) == len(parts) else None,)
        return (None,) if term.op in {"Mul", "Add", "Div"} and all(map(len, parts)) else ()


def power_of_two(step: Array) -> Array:
    """Return steps, which must be powers of two."""
    if not np.isfinite(step).all() or (np.frexp(step)[0] != 0.5).any():
        raise Refused("has a step that is no power of two")
    if step.size and not STEPS[0] <= step.min() <= step.max() <= STEPS[1]:
        raise Refused(f"has steps from {step.min():g} to {step.max():g}")
    return step
