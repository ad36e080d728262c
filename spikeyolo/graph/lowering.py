"""The skeleton of a network to its integer or spike graph: standard ONNX operators, channels last.

ONNX convolutions have their channels first; the transpositions around them cancel each other in ONNX Runtime.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from spikeyolo.deployment import BYTE, CodeNeuron, DeployForm, PixelConv
from spikeyolo.graph.builder import Builder
from spikeyolo.graph.onnx_files import constants
from spikeyolo.graph.products import BRANCH, DIRECT, WHOLE, WIDE, Map, Product, Products
from spikeyolo.graph.skeleton import Skeleton, attributes_of, is_layer, layer_of, used

ELEMENTWISE = {"Cast", "Sigmoid", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Erf", "Exp"}
ELEMENTWISE |= {"Neg", "Abs", "Round", "Clip", "Mul", "Div", "Add", "Sub", "Identity", "Min", "Max", "Mish", "Gelu"}


def lower(model: onnx.ModelProto, form: DeployForm, *, graph: str) -> dict[str, tuple[Product, Map]]:
    """Turn a skeleton into a graph of standard operators, in place.

    Args:
        model: What the exporter has written of the deploy form.
        form: The deploy form.
        graph: "spike" or "integer".

    Returns:
        By layer: its product, and the codes that enter it.
    """
    lowering = _Lowering(Skeleton(model, form), spikes=graph == "spike")
    lowering.run()
    return lowering.layers


class _Lowering:
    """One pass over a skeleton.

    Attributes:
        layers: By layer: its product, and the codes that enter it.
    """

    def __init__(self, skeleton: Skeleton, *, spikes: bool):
        self.skeleton, self.form = skeleton, skeleton.form
        self.builder = Builder()
        self.products = Products(self.builder, spikes=spikes)
        self.maps: dict[str, Map] = {}  # tensors of the skeleton that exist with channels last
        self.first: set[str] = set()  # and those that exist as they are
        self.direct: dict[str, Map] = {}  # codes that a convolution gives, by the tensor of the neuron
        self.consumers = skeleton.consumers()
        self.layers: dict[str, tuple[Product, Map]] = {}
        self.known = constants(skeleton.model)
        typed = {v.name: v.type.tensor_type.elem_type for v in skeleton.model.graph.value_info}
        double = {name for name, kind in typed.items() if kind == onnx.TensorProto.DOUBLE}
        self.double = double | {f"{name}/last" for name in double}

    def run(self) -> None:
        """Write all nodes, and put them in place of the skeleton's."""
        graph, b = self.skeleton.model.graph, self.builder
        self.first |= {i.name for i in graph.input} | {t.name for t in graph.initializer} | {""}
        for node in self.skeleton.nodes:
            if is_layer(node, "Conv"):
                self._convolution(node)
            elif is_layer(node, "Neuron"):
                self._neuron(node)
            elif not self._moved(node):
                for name in node.input:
                    self._as_first(name)
                self._keep(node)
                self.first |= set(node.output)
        for output in graph.output:
            self._as_first(output.name)
        # of equal weights the skeleton has copies, where each layer has its own
        written = [node for node in b.nodes if not b.constants.keys() & set(node.output)]
        nodes = used(written, [output.name for output in graph.output])
        made = {name for node in nodes for name in node.output}
        for layer, (product, codes) in self.layers.items():
            if codes.name not in made:  # two transpositions that cancel each other
                self.layers[layer] = product, replace(codes, name=b.first(codes.name), order="NCHW")
        read = {name for node in nodes for name in node.input}
        kept = [t for t in graph.initializer if t.name in read and t.name not in b.constants]
        for part in ("node", "initializer", "value_info"):
            graph.ClearField(part)
        graph.node.extend(nodes)
        graph.initializer.extend([*kept, *b.initializers(nodes)])
        domains = [d for d in self.skeleton.model.opset_import if d.domain in ("", "ai.onnx")]
        self.skeleton.model.ClearField("opset_import")
        self.skeleton.model.opset_import.extend(domains)

    def _as_first(self, name: str) -> str:
        """Let a tensor of the skeleton exist under its own name."""
        if name not in self.first:
            b, made = self.builder, self.maps[name]
            source = b.first(made.name)
            if source != name:
                b.add("Identity", [source], name)
            self.first.add(name)
        return name

    def _convolution(self, node: onnx.NodeProto) -> None:
        conv = self.form.convs[layer_of(node)]
        codes = self._pixels(node.input[0], conv) if isinstance(conv, PixelConv) else self.maps[node.input[0]]
        readers = self.consumers.get(node.output[0], [])
        neurons = [self.skeleton.neuron(r) for r in readers if is_layer(r, "Neuron")]
        alone = len(readers) == len(neurons) == 1 and node.output[0] not in self.skeleton.outputs
        if conv.largest > BYTE:
            product = Product(conv, WIDE)
        elif conv.branch is not None:
            product = Product(conv, BRANCH)
        elif alone and neurons[0].T == 1 and neurons[0].D_N <= BYTE:
            product = Product(conv, DIRECT, neurons[0].scale, neurons[0].D_N, neurons[0].rest)
        else:
            product = Product(conv, WIDE if conv.groups > 1 or codes.size is None else WHOLE)
        self.layers[conv.name] = product, codes
        found = self.products.convolve(product, codes)
        if product.kind == DIRECT:
            self.direct[readers[0].output[0]] = found
        else:
            self.maps[node.output[0]] = found

    def _pixels(self, source: str, stem: PixelConv) -> Map:
        """Return the whole numbers of pixels p / 255."""
        b = self.builder
        self._as_first(source)
        inputs = [source, b.scalar(1 / 255, np.float32), b.scalar(0, np.uint8)]
        pixels = b.add("QuantizeLinear", inputs, f"{source}/pixels")
        return Map(b.last(pixels), stem.in_channels, self.size)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images, None if they may differ."""
        dims = self.skeleton.model.graph.input[0].type.tensor_type.shape.dim
        height, width = (d.dim_value for d in list(dims)[2:])
        return (height, width) if height and width else None

    def _neuron(self, node: onnx.NodeProto) -> None:
        target = node.output[0]
        if target in self.direct:
            self.maps[target] = self.direct[target]
            return
        neuron, u = self.skeleton.neuron(node), self._map(node)
        b = self.builder
        if neuron.T == 1:
            codes = self._emit(neuron, u.name, f"{target}/codes")
        else:
            parts = [f"{target}/t{t}" for t in range(neuron.T)]
            split = helper.make_node("Split", [u.name], parts, f"{target}/split", axis=0, num_outputs=neuron.T)
            b.nodes.append(split)
            potential, *currents = parts
            emitted = [self._emit(neuron, potential, f"{target}/codes0")]
            for t, current in enumerate(currents, 1):
                left = self._leak(neuron, potential, emitted[-1])
                potential = b.add("Add", [current, left], f"{target}/u{t}")
                emitted.append(self._emit(neuron, potential, f"{target}/codes{t}"))
            codes = b.add("Concat", emitted, f"{target}/codes", axis=0)
        self.maps[target] = Map(codes, u.channels, u.size)

    def _map(self, neuron: onnx.NodeProto) -> Map:
        """Return the potentials that a neuron reads, also of operators that keep their channels first (attention)."""
        name = neuron.input[0]
        if name not in self.maps:
            channels = self.form.convs[layer_of(neuron)].in_channels
            value = next((v for v in self.skeleton.model.graph.value_info if v.name == name), None)
            dims = list(value.type.tensor_type.shape.dim)[2:] if value is not None else []
            height, width = (d.dim_value for d in dims) if len(dims) == 2 else (0, 0)
            last = self.builder.last(self._as_first(name))
            self.maps[name] = Map(last, channels, (height, width) if height and width else None)
        return self.maps[name]

    def _emit(self, neuron: CodeNeuron, u: str, target: str) -> str:
        """Write the codes of potentials: k = clip(rest + round(scale * u), 0, D_N)."""
        b = self.builder
        if neuron.scale != 1:
            u = b.add("Mul", [u, b.scalar(neuron.scale, np.float32)], f"{target}/scaled")
        if neuron.D_N > BYTE:
            codes = b.add("Round", [u], f"{target}/whole")
            if neuron.rest:
                codes = b.add("Add", [codes, b.scalar(neuron.rest, np.float32)], f"{target}/raised")
            return b.add("Clip", [codes, b.scalar(0, np.float32), b.scalar(neuron.D_N, np.float32)], target)
        inputs = [u, b.scalar(1, np.float32), b.scalar(neuron.rest, np.uint8)]
        if neuron.D_N == BYTE:
            return b.add("QuantizeLinear", inputs, target)
        whole = b.add("QuantizeLinear", inputs, f"{target}/byte")
        return b.add("Clip", [whole, "", b.scalar(neuron.D_N, np.uint8)], target)

    def _leak(self, neuron: CodeNeuron, u: str, codes: str) -> str:
        """Write what is left of potentials after leak and reset, rounded to the step."""
        b = self.builder
        left = codes if neuron.D_N > BYTE else b.add("Cast", [codes], f"{codes}/emitted", to=1)
        if neuron.scale != 1:
            left = b.add("Div", [left, b.scalar(neuron.scale, np.float32)], f"{codes}/reset")
        left = b.add("Sub", [u, left], f"{codes}/after")
        left = b.add("Mul", [left, b.scalar(neuron.decay, np.float32)], f"{codes}/leaked")
        left = b.add("Mul", [left, b.scalar(2.0**-neuron.exponent, np.float32)], f"{codes}/steps")
        left = b.add("Round", [left], f"{codes}/rounded")
        return b.add("Mul", [left, b.scalar(2.0**neuron.exponent, np.float32)], f"{codes}/left")

    def _moved(self, node: onnx.NodeProto) -> bool:
        """Write a node that moves feature maps or works on each number, channels last; return whether it is one."""
        given = [name for name in node.input if name in self.maps]
        if not given or node.domain not in ("", "ai.onnx"):
            return False
        write = getattr(self, f"_move_{node.op_type.lower()}", None)
        if write is not None:
            return write(node)
        others = [name for name in node.input if name not in self.maps]
        scalar = all(name in self.known and self.known[name].size == 1 for name in others if name)
        if node.op_type not in ELEMENTWISE or not scalar or len({self.maps[n].channels for n in given}) > 1:
            return False
        like = self.maps[given[0]]
        self._copy(node, [self.maps[n].name if n in self.maps else n for n in node.input])
        self.maps[node.output[0]] = Map(f"{node.output[0]}/last", like.channels, like.size)
        return True

    def _keep(self, node: onnx.NodeProto) -> None:
        """Write a node as it is; but some in float64 by operators that are faster there, or that more runtimes have."""
        b, target = self.builder, node.output[0]
        source = next((name for name in node.input if name in self.double), "")
        slope = attributes_of(node).get("alpha", 0.01) if node.op_type == "LeakyRelu" else -1
        if node.op_type == "Sigmoid" and source:
            power = b.add("Exp", [b.add("Neg", [source], f"{target}/negative")], f"{target}/power")
            raised = b.add("Add", [power, b.scalar(1, np.float64)], f"{target}/raised")
            b.add("Reciprocal", [raised], target, node.name)
        elif 0 <= slope <= 1 and source:
            lowered = b.add("Mul", [source, b.scalar(slope, np.float64)], f"{target}/lowered")
            b.add("Max", [source, lowered], target, node.name)
        else:
            b.nodes.append(node)

    def _copy(self, node: onnx.NodeProto, inputs: list[str], **changed: Any) -> None:
        """Write a node on feature maps with channels last."""
        attributes: Any = attributes_of(node) | changed
        outputs = [f"{name}/last" for name in node.output]
        self._keep(helper.make_node(node.op_type, inputs, outputs, node.name or outputs[0], **attributes))

    def _move_concat(self, node: onnx.NodeProto) -> bool:
        if attributes_of(node)["axis"] != 1 or any(name not in self.maps for name in node.input):
            return False
        maps = [self.maps[name] for name in node.input]
        self._copy(node, [m.name for m in maps], axis=3)
        total = sum(m.channels for m in maps)
        self.maps[node.output[0]] = Map(f"{node.output[0]}/last", total, maps[0].size)
        return True

    def _move_split(self, node: onnx.NodeProto) -> bool:
        source = self.maps[node.input[0]]
        sizes = self.known.get(node.input[1]) if len(node.input) > 1 else None
        if attributes_of(node).get("axis") != 1 or sizes is None:
            return False
        self._copy(node, [source.name, node.input[1]], axis=3)
        for name, channels in zip(node.output, sizes.tolist(), strict=True):
            self.maps[name] = Map(f"{name}/last", channels, source.size)
        return True

    def _move_maxpool(self, node: onnx.NodeProto) -> bool:
        source, attributes = self.maps[node.input[0]], attributes_of(node)
        if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or len(node.output) > 1:
            return False
        b, target = self.builder, node.output[0]
        found = b.add("MaxPool", [b.first(source.name)], f"{target}/pooled", node.name, **attributes)
        size = None
        if source.size and not attributes.get("ceil_mode"):
            kernel, pads = attributes["kernel_shape"], attributes.get("pads", [0, 0, 0, 0])
            strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
            sides = zip(source.size, pads[:2], pads[2:], dilations, kernel, strides, strict=True)
            height, width = ((n + p + q - d * (k - 1) - 1) // s + 1 for n, p, q, d, k, s in sides)
            size = height, width
        self.maps[target] = Map(b.last(found), source.channels, size)
        return True

    def _move_resize(self, node: onnx.NodeProto) -> bool:
        source, scales = self.maps[node.input[0]], self.known.get(node.input[2]) if len(node.input) > 2 else None
        if scales is None or scales.size != 4 or attributes_of(node).get("axes"):
            return False
        factors = scales[[0, 2, 3, 1]].tolist()
        name = self.builder.constant(np.array(factors, np.float32), f"scales/{factors[1]:g}x{factors[2]:g}")
        self._copy(node, [source.name, "", name])
        size = source.size and (int(source.size[0] * factors[1]), int(source.size[1] * factors[2]))
        self.maps[node.output[0]] = Map(f"{node.output[0]}/last", source.channels, size)
        return True
