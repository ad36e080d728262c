"""``yolo export format=onnx`` of a spiking model: the spike graph, or its fast twin, the integer graph.

Both are the deploy form (`spikeyolo.deployment`). Ultralytics' own exporter writes the integer graph; `to_spike_graph`
turns every convolution of codes into convolutions of binary planes that share its weight. ONNX operators only.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from ultralytics.utils import LOGGER, colorstr

import spikeyolo
from spikeyolo.assets import find_weights
from spikeyolo.deployment import GRAPHS, DeployForm, deploy, form_of, trim
from spikeyolo.files import sha256, whole_file
from spikeyolo.fixed_point import CodeNeuron
from spikeyolo.insertion import attention_of, real_valued
from spikeyolo.neurons import IBRALIF
from spikeyolo.plugin import EXPORT_ARGUMENTS
from spikeyolo.ranges import check_planes, check_tracked

OPSET = 18  # the first with BitwiseAnd


def check_arguments(exporter: Any) -> None:
    """Refuse arguments that make no spike graph; a callback at the start of every export.

    Raises:
        ValueError: Names the argument, its value and the remedy.
    """
    args = exporter.args
    given = [f"{key}={getattr(args, key)}" for key in EXPORT_ARGUMENTS if hasattr(args, key)]
    graph = getattr(args, "graph", "spike")
    if graph not in GRAPHS:
        raise ValueError(f"graph={graph} does not exist; use graph={' or graph='.join(GRAPHS)}")
    if hasattr(args, "planes"):
        check_planes(args.planes)
    if getattr(args, "trim", False) not in (True, False):
        raise ValueError(f"trim must be True or False, got trim={args.trim}")
    if given and args.format != "onnx":
        raise ValueError(f"{' '.join(given)} needs format=onnx, got format={args.format}")
    if given and not _has_neurons(exporter):
        raise ValueError(f"{' '.join(given)} needs a model with spiking neurons, this one has none; leave it away")
    check_tracked(exporter.model)
    if not is_ours(exporter):
        return
    if getattr(args, "quantize", None) not in (None, 32):
        raise ValueError(
            f"quantize={args.quantize} (half, int8) cannot hold the potentials of a spiking model, which need the 24 "
            "bits of float32, so codes would flip; leave it away: the weights are fixed-point numbers already"
        )
    if graph == "spike" and args.opset is not None and args.opset < OPSET:
        raise ValueError(f"opset={args.opset} has no BitwiseAnd; use opset={OPSET} or newer, or graph=integer")
    if getattr(args, "trim", False) and not args.data:
        raise ValueError(
            "trim=True needs images to calibrate on: add data=your-data.yaml (and fraction=0.1 for a part)"
        )


def is_ours(exporter: Any) -> bool:
    """Return whether this export writes a spike or integer graph."""
    return exporter.args.format == "onnx" and _has_neurons(exporter)


def _has_neurons(exporter: Any) -> bool:
    return any(isinstance(m, (IBRALIF, CodeNeuron)) for m in exporter.model.modules())


def export_onnx(exporter: Any, stock: Callable[[], str]) -> str:
    """Write the graph that ``exporter.args`` asks for, whole or not at all.

    Args:
        exporter: Ultralytics' exporter, ready to export: its float model, file, arguments and metadata.
        stock: Its own ONNX export, which writes ``exporter.model`` to ``exporter.file``.

    Returns:
        Path of the ONNX file.

    Raises:
        OSError: If the file cannot be written.
    """
    graph = getattr(exporter.args, "graph", "spike")
    source: Path = exporter.file
    real = real_valued(exporter.model)
    neuron, planes = (exporter.model.yaml or {}).get("neuron") or {}, getattr(exporter.args, "planes", None)
    exporter.model = deploy(exporter.model, planes=planes)
    form = form_of(exporter.model)
    if getattr(exporter.args, "trim", False):
        trim(exporter.model, _images(exporter))
    exporter.metadata |= describe(form, graph=graph, source=source)
    exporter.metadata |= {"real_valued": json.dumps(real), "attention": json.dumps(attention_of(exporter.model))}
    exporter.metadata |= {"neuron": neuron.get("type", "of its own"), "kept_planes": json.dumps(planes)}
    target = source.with_suffix(".onnx")
    with whole_file(target, "copy the checkpoint to a folder that you can write") as part:
        exporter.file = part
        with warnings.catch_warnings():
            # of the exporter about its own form of the border's width; the slimmer behind it folds that
            warnings.filterwarnings("ignore", message="Constant folding - Only steps=1")
            stock()
        model = onnx.load(part)
        name_layers(model, form)
        if graph == "spike":
            to_spike_graph(model, form.planes)
        onnx.save(model, part)
        _log(model, form, graph, part, real)
    exporter.file = source
    return str(target)


def _images(exporter: Any) -> Iterator[torch.Tensor]:
    """Yield batches of calibration images in [0, 1] from ``data=``, as Ultralytics calibrates INT8."""
    for batch in exporter.get_int8_calibration_dataloader("trim:"):
        yield batch["img"].to(exporter.device).float() / 255


def describe(form: DeployForm, *, graph: str, source: Path) -> dict[str, str]:
    """Return what the metadata of an exported graph says about it, all values as JSON or plain text."""
    import ultralytics

    neurons = form.neurons.values()
    weights = {name: [p.numpy(force=True) for p in conv.parameters()] for name, conv in form.convs.items()}
    versions = {"spikeyolo": spikeyolo.__version__, "ultralytics": ultralytics.__version__}

    def common(values: set[float] | set[int]) -> str:
        return json.dumps(values.pop() if len(values) == 1 else None)

    return {
        "graph": graph,
        "D": common({n.D for n in neurons}),
        "N": common({n.N for n in neurons}),
        "T": common({n.T for n in neurons}),
        "decay": common({n.decay for n in neurons}),
        "ranges": json.dumps({name: [n.D, n.N, n.rest] for name, n in form.neurons.items()}),
        "unit": json.dumps(form.unit),
        "planes": json.dumps(form.planes),
        "trimmed": json.dumps({name: n.ceiling for name, n in form.neurons.items() if n.ceiling < n.D_N}),
        "grid": json.dumps(form.grids),
        "factored_weights": json.dumps(
            {name: c.factored_weights for name, c in form.convs.items() if c.factored_weights}
        ),
        "exact": json.dumps(sorted(form.inexact) or "worst case"),
        "weights_sha256": digest(weights),
        "source": source.name,
        "source_sha256": sha256(find_weights(source)),
        "versions": json.dumps(versions | {"torch": torch.__version__, "onnx": onnx.__version__}),
    }


def digest(arrays: Mapping[str, list[Any]]) -> str:
    """Return one hash of named lists of float32 arrays, whatever their order."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        for array in arrays[name]:
            total.update(array.tobytes())
    return total.hexdigest()


def name_layers(model: onnx.ModelProto, form: DeployForm) -> None:
    """Give each convolution of an exported graph the name of its layer, in place.

    Weights do not tell: the exporter stores equal ones once. Node names do: ``/model.6/model.6.0/conv1/conv/Conv``.

    Raises:
        RuntimeError: If a layer is not found.
    """
    found = set()
    for node in model.graph.node:
        if node.op_type == "Conv":
            layer = scope(node.name)
            if layer in form.convs:
                node.name = layer
                found.add(layer)
    if missing := form.convs.keys() - found:
        raise RuntimeError(
            f"the exported graph has no convolution for {', '.join(sorted(missing))}; please report this"
        )


def scope(node: str) -> str:
    """Return the module that a node's name tells: ``/model.6/model.6.0/conv1/conv/Conv`` is model.6.0.conv1.conv."""
    path: list[str] = []
    for part in node.split("/")[1:-1]:
        if path and part.startswith(f"{path[-1]}."):  # the scope repeats its parent's name
            path.pop()
        path.append(part)
    return ".".join(path)


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


def _log(model: onnx.ModelProto, form: DeployForm, graph: str, file: Path, real: list[str]) -> None:
    """Tell what has been written."""
    count, stem = len(form.planes), [name for name in form.convs if name not in form.planes]
    prefix = colorstr("ONNX:")
    takes = f"binary spikes on {sum(form.planes.values())} planes" if graph == "spike" else "codes"
    LOGGER.info(
        f"{prefix} {graph} graph: {count} convolutions take {takes}, the stem {' '.join(stem)} takes pixels "
        f"({file.stat().st_size / 2**20:.1f} MB, {len(model.graph.node)} nodes)"
    )
    if real[1:-1]:  # beside stem and decoder
        LOGGER.info(f"{prefix} real-valued: {'; '.join(real)}")
    if cut := form.trim:
        LOGGER.info(
            f"{prefix} trimmed {cut.planes} planes that {cut.calibrated} batches never use; on {cut.held_out} others "
            f"the graph clips {cut.clipped:,} of {cut.codes:,} codes"
        )
    if not form.inexact:
        grids = form.grids.values()
        LOGGER.info(
            f"{prefix} weights are multiples of 2^-{max(grids)} to 2^-{min(grids)}; float32 holds every sum exactly "
            "for any image, so every runtime emits the same codes. Proof: spikeyolo verify model=..."
        )
