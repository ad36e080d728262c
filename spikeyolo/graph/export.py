"""``yolo export format=onnx`` of a spiking model: the spike graph, or its fast form, the integer graph.

Both are the deploy form (`spikeyolo.deployment`). Ultralytics' own exporter writes the integer graph; `to_spike_graph`
turns every convolution of codes into convolutions of binary planes that share its weight. ONNX operators only.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import ultralytics
from ultralytics.utils import LOGGER, colorstr

from spikeyolo.assets import find_weights
from spikeyolo.deployment import DeployForm, deploy, form_of
from spikeyolo.files import sha256, whole_file
from spikeyolo.graph.notes import Notes, digest
from spikeyolo.graph.planes import name_layers, to_spike_graph
from spikeyolo.network.real_valued import attention_of, real_valued
from spikeyolo.version import __version__


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
    trained, source = exporter.model, exporter.file
    graph, planes = getattr(exporter.args, "graph", "spike"), getattr(exporter.args, "planes", None)
    exporter.model = deploy(trained, planes=planes)
    form = form_of(exporter.model)
    notes = describe(trained, form, graph=graph, planes=planes, source=source)
    exporter.metadata |= notes.write()
    target = source.with_suffix(".onnx")
    with whole_file(target, "copy the checkpoint to a folder that you can write") as part:
        exporter.file = part
        with warnings.catch_warnings():
            # of the exporter about its own form of the border's width; the slimmer behind it folds that
            warnings.filterwarnings("ignore", message="Constant folding - Only steps=1")
            stock()
        model = onnx.load(part)
        name_layers(model, form.convs)
        if graph == "spike":
            to_spike_graph(model, form.planes)
        onnx.save(model, part)
        _log(model, form, notes, part)
    exporter.file = source
    return str(target)


def describe(trained: Any, form: DeployForm, *, graph: str, planes: int | None, source: Path) -> Notes:
    """Return what an exported graph notes about itself.

    Args:
        trained: The network that was deployed.
        form: Its deploy form.
        graph: "spike" or "integer".
        planes: Most planes that were asked for.
        source: Its checkpoint.
    """
    packages = {"ultralytics": ultralytics, "torch": torch, "onnx": onnx}
    return Notes(
        graph=graph,
        **form.common,
        ranges={name: [n.D, n.N, n.rest] for name, n in form.neurons.items()},
        unit=form.unit,
        planes=form.planes,
        grid=form.grids,
        factored_weights={name: c.factored_weights for name, c in form.convs.items() if c.factored_weights},
        exact=sorted(form.inexact) or "worst case",
        weights_sha256=digest({k: [p.numpy(force=True) for p in c.parameters()] for k, c in form.convs.items()}),
        source=source.name,
        source_sha256=sha256(find_weights(source)),
        versions={"spikeyolo": __version__, **{name: package.__version__ for name, package in packages.items()}},
        real_valued=real_valued(trained),
        attention=attention_of(trained),
        neuron=((trained.yaml or {}).get("neuron") or {}).get("type", "of its own"),
        kept_planes=planes,
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
    if not form.inexact:
        grids = form.grids.values()
        LOGGER.info(
            f"{prefix} weights are multiples of 2^-{max(grids)} to 2^-{min(grids)}; float32 holds every sum exactly "
            "for any image, so every runtime emits the same codes. Proof: spikeyolo verify model=..."
        )
