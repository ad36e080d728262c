"""``yolo export format=onnx`` of a spiking model: the spike graph, or its fast twin, the integer graph.

Both are the deploy form (`spikeyolo.deployment`). Ultralytics' own exporter writes the integer graph; `to_spike_graph`
turns every convolution of codes into convolutions of binary planes that share its weight. ONNX operators only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from ultralytics.utils import LOGGER, colorstr

from spikeyolo.deployment.form import DeployForm, form_of
from spikeyolo.deployment.transform import deploy
from spikeyolo.deployment.trim import trim
from spikeyolo.files import whole_file
from spikeyolo.graph.notes import describe
from spikeyolo.graph.planes import name_layers, to_spike_graph
from spikeyolo.network.real_valued import attention_of, real_valued


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
