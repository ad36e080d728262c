"""Proof that an ONNX graph is spike-driven, and that it emits the codes of its integer form and of PyTorch.

Static, for any image (`spikeyolo.proof.spike_graph`), then dynamic, on images: the same codes in every layer.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spikeyolo.assets import WEIGHTS_DIR, find_weights
from spikeyolo.data.images import Images
from spikeyolo.files import sha256
from spikeyolo.graph.notes import Notes
from spikeyolo.graph.onnx_files import input_size, load, open_session
from spikeyolo.proof.intervals import Array
from spikeyolo.proof.spike_graph import Check, SpikeGraph

TOLERANCE = 1e-5  # of boxes and scores, relative to their size where it is above 1


def verify(
    model: str | Path, *, reference: str | Path = "", source: str | Path = "", images: int = 8
) -> Iterator[Check]:
    """Prove that an ONNX graph is spike-driven and equals its integer form and PyTorch; yields each claim when checked.

    Args:
        model: ONNX file, of whatever origin.
        reference: Checkpoint (.pt) that was exported; by default the one beside the file (or ours) with the noted hash.
        source: Images, a folder or a video, as for ``yolo predict``; by default the images that Ultralytics ships.
        images: Largest number of images to run.

    Yields:
        Checks; the graph is proven if none has problems.

    Raises:
        OSError: If a file is missing or unreadable, or there are no images.
        ValueError: If the model is no ONNX file, the images do not fit its input, or the reference is another network.
    """
    path = Path(model)
    graph = SpikeGraph(load(path))
    runnable = bool(graph.layers) and not graph.checks[0].problems
    checks, batches, torch_form = [*graph.checks], [], None
    if runnable or source:  # whatever is wrong with the arguments is told before any result
        batch, height, width = input_size(graph.model, path)
        batches = list(Images.of_source(source, images).batches(batch, height, width))
        missing = batch - len(batches[-1])
        batches[-1] = np.concatenate([batches[-1], *[batches[-1][-1:]] * missing])  # fill the last batch
    if checkpoint := _checkpoint(reference, path, graph.notes):
        torch_form = _deployed(checkpoint, graph.notes.kept_planes)
        checks.append(_same_weights(graph, torch_form, checkpoint))
    yield from checks
    if runnable:
        yield from _compare(graph, batches, torch_form)


def _checkpoint(reference: str | Path, model: Path, notes: Notes) -> Path | None:
    """Return the checkpoint to compare with, if there is one."""
    if reference:
        if not find_weights(reference).is_file():
            raise FileNotFoundError(f"reference={reference} does not exist")
        return Path(reference)
    source = notes.source or "none"
    candidates = model.with_name(source), find_weights(source)  # beside it, or shipped
    return next((file for file in candidates if notes.source_sha256 in _hashes(file)), None)


def _hashes(checkpoint: Path) -> set[str]:
    """Return the hash of a checkpoint, and that of shipped weights before they were saved again; none if it is gone."""
    hashes = {sha256(checkpoint)}
    if checkpoint.parent == WEIGHTS_DIR and checkpoint.is_file():
        hashes.add(json.loads(checkpoint.with_suffix(".json").read_text()).get("sha256_before_its_classes_moved", ""))
    return hashes - {""}


def _deployed(checkpoint: Path, planes: int | None) -> Any:
    """Load a checkpoint in deploy form, with the planes that the graph has kept."""
    from ultralytics import YOLO

    from spikeyolo.deployment import deploy

    try:
        return deploy(YOLO(checkpoint), planes=planes)
    except TypeError as e:  # how Ultralytics names an unreadable checkpoint
        raise ValueError(f"reference={checkpoint}: {e}") from e


def _same_weights(graph: SpikeGraph, torch_form: Any, checkpoint: Path | None) -> Check:
    """Compare the weights in the graph with those of the reference."""
    form = torch_form.deployed
    ours, problems = graph.weights(), []
    if ours.keys() != form.convs.keys():
        raise ValueError(
            f"{checkpoint} is another network than the graph: {len(form.convs)} layers, of which "
            f"{len(ours.keys() & form.convs.keys())} are among the graph's {len(ours)}; give the exported checkpoint"
        )
    for name, conv in form.convs.items():
        theirs = [conv.weight.numpy(), conv.bias.numpy()]
        if [a.shape for a in theirs] != [a.shape for a in ours[name]]:
            raise ValueError(f"{checkpoint} is another network than the graph: {name} has {theirs[0].shape} weights")
        changed = sum(int((a != b).sum()) for a, b in zip(ours[name], theirs, strict=True))
        if changed:
            problems.append(f"{name}: {changed} weights or biases differ")
    return Check("weights", f"{len(form.convs)} layers have the weights of {checkpoint}, bit for bit", problems)


def _compare(graph: SpikeGraph, batches: list[Array], torch_form: Any) -> Iterator[Check]:
    """Run the spike graph, its integer form and PyTorch; compare the codes of every layer and the outputs."""
    codes = list(dict.fromkeys(layer.codes for layer in graph.layers))
    wanted = [output.name for output in graph.model.graph.output]
    integer_form = graph.integer_form()
    sessions = {
        "its integer form": open_session(integer_form, codes, optimise=True),
        "itself run without optimisation": open_session(graph.model, codes, optimise=False),
    }
    spike = open_session(graph.model, codes, optimise=True)
    feed = spike.get_inputs()[0].name
    differing: dict[str, dict[str, int]] = {name: {} for name in [*sessions, *["PyTorch"] * (torch_form is not None)]}
    outputs = dict.fromkeys(differing, 0.0)
    count = spikes = 0
    for batch in batches:
        names = list(dict.fromkeys([*wanted, *codes]))
        ours = dict(zip(names, spike.run(names, {feed: batch}), strict=True))
        count += sum(ours[name].size for name in codes)
        spikes += sum(int(np.bitwise_count(ours[name].astype(np.uint32)).sum()) for name in codes)
        for who, session in sessions.items():
            names = [*wanted, *codes]
            theirs = dict(zip(names, session.run(names, {feed: batch}), strict=True))
            _differences(graph, ours, theirs, differing[who])
            outputs[who] = max(outputs[who], *(_distance(ours[name], theirs[name]) for name in wanted))
        if torch_form is not None:
            theirs, decoded = _run_torch(graph, torch_form, batch)
            _differences(graph, ours, theirs, differing["PyTorch"])
            if decoded.shape == ours[wanted[0]].shape:  # else the graph ends in NMS
                outputs["PyTorch"] = max(outputs["PyTorch"], _distance(ours[wanted[0]], decoded))
    pictures = f"on {sum(map(len, batches))} images"
    for who, layers in differing.items():
        total = sum(layers.values())
        problems = [f"{name}: {n} codes differ" for name, n in layers.items() if n]
        yield Check("codes", f"{total} of {count:,} codes differ between the graph and {who} {pictures}", problems)
    far = [f"{who}: {distance:.1e}" for who, distance in outputs.items() if distance > TOLERANCE]
    largest = max(outputs.values())
    yield Check("outputs", f"boxes and scores agree within {largest:.1e} (tolerance {TOLERANCE:g})", far)
    yield Check("spikes", f"{spikes / count:.3f} per code and timestep {pictures} ({spikes:,} in all)")


def _differences(graph: SpikeGraph, ours: dict[str, Array], theirs: dict[str, Array], total: dict[str, int]) -> None:
    for codes in {layer.codes for layer in graph.layers}:
        if codes in theirs:
            total[codes] = total.get(codes, 0) + int((ours[codes] != theirs[codes]).sum())


def _distance(a: Array, b: Array) -> float:
    """Return the largest difference, relative where numbers are above 1."""
    if a.shape != b.shape:
        return math.inf
    return float((np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0))


def _run_torch(graph: SpikeGraph, model: Any, batch: Array) -> tuple[dict[str, Array], Array]:
    """Run the deploy form in PyTorch; return its codes by the graph's names, and the decoded output."""
    import torch

    from spikeyolo.deployment import emitted_codes

    names = {graph.names[layer]: layer.codes for layer in graph.layers}
    output, found = emitted_codes(model, torch.from_numpy(batch))
    decoded = output[0] if isinstance(output, tuple) else output
    return {names[name]: codes.numpy() for name, codes in found if name in names}, decoded.numpy()
