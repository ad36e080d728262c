"""``yolo export format=onnx`` of a spiking model: the spike graph, or its fast form, the integer graph.

Both are the deploy form (`spikeyolo.deployment`). Ultralytics' own exporter writes its skeleton, `lower` makes it a
graph of whole numbers: codes or their binary planes, eight-bit weights, sums in int32. Standard ONNX operators only.
"""

import functools
import inspect
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
import ultralytics
from onnx import helper
from ultralytics.utils import LOGGER, colorstr

from spikeyolo.assets import find_weights
from spikeyolo.deployment import PLANES, DeployForm, StepActivation, deploy, form_of
from spikeyolo.files import sha256, whole_file
from spikeyolo.graph.arguments import EXPORT_ARGUMENTS
from spikeyolo.graph.bounds import check, digest_of
from spikeyolo.graph.lowering import lower
from spikeyolo.graph.notes import FORM, Notes, metadata
from spikeyolo.graph.products import WIDE, Map, Product, about
from spikeyolo.network.real_valued import attention_of, real_valued
from spikeyolo.version import __version__

SOFTPLUS = 18  # the last opset in which ONNX Runtime has it in float64


def export_onnx(exporter: Any, stock: Callable[[], str]) -> str:
    """Write the graph that ``exporter.args`` asks for, whole or not at all.

    Args:
        exporter: Ultralytics' exporter, ready to export: its float model, file, arguments and metadata.
        stock: Its own ONNX export, which writes ``exporter.model`` to ``exporter.file``.

    Returns:
        Path of the ONNX file.

    Raises:
        OSError: If the file cannot be written.
        ValueError: For an activation that runtimes lack.
    """
    trained, source = exporter.model, exporter.file
    asked = {key: getattr(exporter.args, key, default) for key, default in EXPORT_ARGUMENTS.items()}
    graph = asked.pop("graph")
    target = source.with_suffix(".onnx")
    with whole_file(target, "copy the checkpoint to a folder that you can write") as part:
        model, form = _skeleton(exporter, stock, part, **asked)
        layers = lower(model, form, graph=graph)
        notes = describe(trained, form, layers, graph=graph, planes=asked["planes"], source=source)
        notes = replace(notes, graph_sha256=digest_of(model))
        check(model, notes)
        helper.set_model_props(model, {**metadata(model), **notes.write()})
        onnx.save(model, part)
        _log(model, form, notes, part)
    exporter.file = source
    return str(target)


def _skeleton(exporter: Any, stock: Callable[[], str], file: Path, **asked: int | None) -> tuple[Any, DeployForm]:
    """Let Ultralytics write a network in deploy form, in which layers are named in place of their arithmetic."""
    from ultralytics.utils.export.engine import best_onnx_opset

    exporter.model = deploy(exporter.model, **asked)  # pyright: ignore[reportArgumentType]
    activations = [m.activation for m in exporter.model.modules() if isinstance(m, StepActivation)]
    if any(isinstance(activation, torch.nn.GELU) for activation in activations):
        raise ValueError(
            "GELU of potentials has no float64 operator in ONNX Runtime; train with SiLU or ReLU, then export"
        )
    opset = exporter.args.opset or best_onnx_opset(onnx)
    if opset > SOFTPLUS and any(isinstance(activation, torch.nn.Mish) for activation in activations):
        raise ValueError(
            f"Mish of potentials has no float64 operator in ONNX Runtime at opset={opset}; use opset={SOFTPLUS}"
        )
    exporter.file = file
    with warnings.catch_warnings():
        # of the exporter about its own form of the border's width; the slimmer behind it folds that
        warnings.filterwarnings("ignore", message="Constant folding - Only steps=1")
        stock()
    return onnx.load(file), form_of(exporter.model)


def write_skeleton(
    network: torch.nn.Module, *, planes: int | None = None, weight_bits: int | None = None, **arguments: Any
) -> tuple[onnx.ModelProto, DeployForm, Any]:
    """Return the skeleton of a trained network, as an export makes it, its deploy form, and what of it was exported.

    Args:
        network: Ultralytics' network; it is left as it is.
        planes: As for ``yolo export``.
        weight_bits: Likewise.
        arguments: Others of ``yolo export``.

    Raises:
        ValueError: As for ``yolo export``.
    """
    from ultralytics.engine.exporter import Exporter

    found: list[tuple[Any, DeployForm, Any]] = []

    class SkeletonExporter(Exporter):
        """Ultralytics' exporter, which stops at the skeleton."""

        def export_onnx(self, *args: Any, **kwargs: Any) -> str:
            """Keep the skeleton, and no file."""
            stock = functools.partial(inspect.unwrap(Exporter.export_onnx), self, *args, **kwargs)
            trained = self.model
            with tempfile.TemporaryDirectory(prefix="spikeyolo-skeleton-") as folder:
                file = Path(folder, "skeleton.onnx")
                found.append((*_skeleton(self, stock, file, planes=planes, weight_bits=weight_bits), trained))
            return ""

    level = LOGGER.level
    LOGGER.setLevel("CRITICAL")  # it tells of an export that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            SkeletonExporter(overrides={"format": "onnx", "mode": "export", **arguments})(model=network)
    finally:
        LOGGER.setLevel(level)
    return found[0]


def describe(
    trained: Any,
    form: DeployForm,
    layers: Mapping[str, tuple[Product, Map]],
    *,
    graph: str,
    planes: int | None,
    source: Path,
) -> Notes:
    """Return what an exported graph notes about itself.

    Args:
        trained: The network that was deployed.
        form: Its deploy form.
        layers: By layer: its product, and the codes that enter it.
        graph: "spike" or "integer".
        planes: Most planes that were asked for.
        source: Its checkpoint.
    """
    packages = {"ultralytics": ultralytics, "torch": torch, "onnx": onnx}
    return Notes(
        graph=graph,
        form=FORM,
        **form.common,
        ranges={name: [n.D, n.N, n.rest] for name, n in form.neurons.items()},
        unit=form.unit,
        planes=form.planes,
        weight_bits=form.weight_bits,
        layers={name: about(*layers[name]) for name in form.convs if name in layers},
        factored_weights={name: c.factored_weights for name, c in form.convs.items() if c.factored_weights},
        exact="worst case",
        source=source.name,
        source_sha256=sha256(find_weights(source)),
        versions={"spikeyolo": __version__, **{name: package.__version__ for name, package in packages.items()}},
        real_valued=real_valued(trained),
        attention=attention_of(trained),
        neuron=((trained.yaml or {}).get("neuron") or {}).get("type", "of its own"),
        kept_planes=PLANES if planes is None else planes,
    )


def _log(model: onnx.ModelProto, form: DeployForm, notes: Notes, file: Path) -> None:
    """Tell what has been written."""
    count, stem = len(form.planes), [name for name in form.convs if name not in form.planes]
    prefix = colorstr("ONNX:")
    takes = f"binary spikes on {sum(form.planes.values())} planes" if notes.graph == "spike" else "codes"
    LOGGER.info(
        f"{prefix} {notes.graph} graph: {count} convolutions take {takes}, the stem {' '.join(stem)} takes pixels "
        f"({file.stat().st_size / 2**20:.1f} MB, {len(model.graph.node)} nodes)"
    )
    if notes.real_valued[1:-1]:  # beside stem and decoder
        LOGGER.info(f"{prefix} real-valued: {'; '.join(notes.real_valued)}")
    sums, clipped = max(float(conv.sums().max()) for conv in form.convs.values()), form.clipped
    total = sum(conv.weight.numel() for conv in form.convs.values())
    LOGGER.info(
        f"{prefix} weights of {form.weight_bits} bits ({clipped:,} of {total:,} clipped), codes of up to "
        f"{max(form.planes.values())} planes; every sum is below 2^24 for any image (largest: {sums:,.0f}), so every "
        "runtime emits the same codes. Check: spikeyolo verify model=..."
    )
    if wide := [name for name, layer in notes.layers.items() if layer["kind"] == WIDE]:
        LOGGER.info(f"{prefix} {len(wide)} layers are exact float convolutions, which are slower: {', '.join(wide)}")
