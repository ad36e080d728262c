"""The integer graph to the spike graph."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from spikeyolo.graph.onnx_files import scope


def name_layers(model: onnx.ModelProto, layers: Iterable[str]) -> None:
    """Give each convolution of an exported graph the name of its layer, in place.

    Weights do not tell: the exporter stores equal ones once. Node names do: ``/model.6/model.6.0/conv1/conv/Conv``.

    Raises:
        RuntimeError: If a layer is not found.
    """
    missing = set(layers)
    for node in model.graph.node:
        if node.op_type == "Conv" and (layer := scope(node.name)) in missing:
            node.name = layer
            missing.remove(layer)
    if missing:
        raise RuntimeError(
            f"the exported graph has no convolution for {', '.join(sorted(missing))}; please report this"
        )


def to_spike_graph(model: onnx.ModelProto, planes: Mapping[str, int]) -> None:
    """Expand each convolution of codes of an integer graph into convolutions of binary planes, in place.

    y = sum_b 2^b * (W * plane_b) + bias by Horner's rule; the planes of a code are made once, W is shared, and the bias
    is in the last convolution.

    Args:
        model: Integer graph whose convolutions have the names of their layers.
        planes: Number of planes by layer; layers not named stay as they are, and so do those of one plane.
    """
    nodes: list[onnx.NodeProto] = []
    masks: dict[str, onnx.TensorProto] = {}
    spikes: dict[str, list[str]] = {}  # by codes: the tensors of their planes
    for node in model.graph.node:
        layer = node.name
        if planes.get(layer, 1) == 1:
            nodes.append(node)
            continue
        codes = node.input[0]
        if codes not in spikes:
            spikes[codes] = [f"{layer}/plane{b}" for b in range(planes[layer])]
            nodes += _split(codes, spikes[codes], layer, masks)
        nodes += _accumulate(node, spikes[codes], layer)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(masks.values())


def _split(codes: str, planes: list[str], layer: str, masks: dict[str, onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that make binary planes of codes: plane_b = (codes & 2^b) != 0."""
    dtype = np.dtype("uint16" if len(planes) <= 16 else "uint32")
    yield helper.make_node("Cast", [codes], [f"{layer}/whole"], to=helper.np_dtype_to_tensor_dtype(dtype))
    for b, plane in enumerate(planes):
        mask = f"{dtype}_bit{b}"
        masks.setdefault(mask, numpy_helper.from_array(np.array(1 << b, dtype), mask))
        yield helper.make_node("BitwiseAnd", [f"{layer}/whole", mask], [f"{layer}/and{b}"])
        yield helper.make_node("Cast", [f"{layer}/and{b}"], [f"{layer}/bool{b}"], to=onnx.TensorProto.BOOL)
        yield helper.make_node("Cast", [f"{layer}/bool{b}"], [plane], to=onnx.TensorProto.FLOAT)


def _accumulate(conv: onnx.NodeProto, planes: list[str], layer: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that convolve binary planes by the one weight and bias of ``conv``: Horner's rule."""
    total = ""
    for b in reversed(range(len(planes))):
        last = b == 0
        current = f"{layer}/conv{b}"
        # The bias enters once: B planes would add it B times.
        plane_conv = helper.make_node("Conv", [planes[b], *conv.input[1 : 3 if last else 2]], [current], current)
        plane_conv.attribute.extend(conv.attribute)
        yield plane_conv
        if total:
            result = conv.output[0] if last else f"{layer}/sum{b}"
            yield helper.make_node("Add", [total, total], [f"{layer}/twice{b}"])
            yield helper.make_node("Add", [f"{layer}/twice{b}", current], [result])
            current = result
        total = current
