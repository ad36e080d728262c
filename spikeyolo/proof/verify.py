"""Proof that an ONNX graph is exact, and that it emits the same codes on every runtime and in PyTorch.

Static, for any image (`spikeyolo.proof.whole_numbers`, and of files from before it `spikeyolo.proof.spike_graph`), then
dynamic, on images: the same codes in every layer.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spikeyolo.assets import WEIGHTS_DIR, find_weights
from spikeyolo.data.images import Images
from spikeyolo.deployment import emitted_codes, form_of
from spikeyolo.files import sha256
from spikeyolo.graph.notes import Notes
from spikeyolo.graph.onnx_files import input_size, load, open_session, watched
from spikeyolo.proof.intervals import Array
from spikeyolo.proof.spike_graph import Check, SpikeGraph
from spikeyolo.proof.webassembly import run_webassembly
from spikeyolo.proof.whole_numbers import WholeNumbers

TOLERANCE = 1e-5  # of boxes, relative to the largest coordinate, and of scores
CHOSEN = 6  # numbers of a box that NMS, or a head without NMS, has chosen: corners, score, class


def verify(
    model: str | Path,
    *,
    reference: str | Path = "",
    source: str | Path = "",
    images: int = 8,
    webassembly: str | Path = "",
) -> Iterator[Check]:
    """Prove that an ONNX graph is exact, and the same on every runtime and in PyTorch; yields each claim when checked.

    Args:
        model: ONNX file, of whatever origin.
        reference: Checkpoint (.pt) that was exported; by default the one beside the file (or ours) with the noted hash.
        source: Images, a folder or a video, as for ``yolo predict``; by default the images that Ultralytics ships.
        images: Largest number of images to run.
        webassembly: Folder ``node_modules`` that has onnxruntime-web, to run the graph there as well.

    Yields:
        Checks; the graph is proven if none has problems.

    Raises:
        OSError: If a file is missing or unreadable, or there are no images.
        ValueError: If the model is no ONNX file, the images do not fit its input, the reference is another network, or
            the file is one of an earlier version and is to be compared with a reference.
    """
    path = Path(model)
    loaded = load(path)
    notes = Notes.read(loaded)
    subject = WholeNumbers(loaded, notes) if notes.current else Earlier(loaded)
    checks, batches, torch_form = [*subject.checks], [], None
    runnable = bool(subject.codes) and not subject.checks[0].problems
    if runnable or source:  # whatever is wrong with the arguments is told before any result
        batch, height, width = input_size(loaded, path)
        batches = list(Images.of_source(source, images).batches(batch, height, width))
        missing = batch - len(batches[-1])
        batches[-1] = np.concatenate([batches[-1], *[batches[-1][-1:]] * missing])  # fill the last batch
    if notes.ours and not notes.current:
        if reference:
            raise ValueError(
                f"{path} was exported by an earlier version, with float weights, which no deploy form has any more; "
                "export it again, or leave reference= away"
            )
        checks.append(Check("form", f"{path} was exported by an earlier version; it is compared with itself alone"))
    elif checkpoint := _checkpoint(reference, path, notes):
        torch_form = _deployed(checkpoint, notes)
        checks.append(subject.same_weights(form_of(torch_form), checkpoint))
    yield from checks
    if runnable:
        yield from _compare(subject, batches, torch_form, str(webassembly))


def what(model: str | Path) -> str:
    """Return what an ONNX file is that has been proven."""
    integer = Notes.read(load(Path(model))).graph == "integer"
    return "an integer graph, whose operands are codes" if integer else "spike-driven"


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


def _deployed(checkpoint: Path, notes: Notes) -> Any:
    """Load a checkpoint in deploy form, with the planes and the width of weights that the graph has."""
    from ultralytics import YOLO

    from spikeyolo.deployment import deploy

    try:
        model = YOLO(checkpoint)
        network: Any = model.model
        if hasattr(network, "end2end"):  # a head without NMS has branches for both; a graph has those of one
            network.end2end = any("one2one" in name for name in notes.layers)
        return deploy(model, planes=notes.kept_planes, weight_bits=notes.weight_bits or None)
    except TypeError as e:  # how Ultralytics names an unreadable checkpoint
        raise ValueError(f"reference={checkpoint}: {e}") from e


class Earlier(SpikeGraph):
    """A graph of an earlier version, or of another program."""

    @property
    def codes(self) -> dict[str, str]:
        """By layer: the tensor of its codes."""
        return {self.names[layer]: layer.codes for layer in self.layers}

    def same_weights(self, form: Any, checkpoint: Any) -> Check:
        """Refuse: nothing is known of its layers."""
        raise ValueError(f"{checkpoint} cannot be compared with a graph that spikeyolo has not exported; leave it away")


Run = Callable[[Array], dict[str, Array]]


def _runs(subject: WholeNumbers | Earlier, names: list[str], webassembly: str) -> dict[str, Run]:
    """Return the other ways to run a graph, by what they are called."""
    model = subject.model
    sessions = {"itself run without optimisation": open_session(model, names, optimise=False)}
    if isinstance(subject, Earlier):
        sessions["its integer form"] = open_session(subject.integer_form(), names, optimise=True)
    else:
        sessions["itself on one thread"] = open_session(model, names, optimise=True, threads=1)
    runs: dict[str, Run] = {who: _run(session, names) for who, session in sessions.items()}
    if webassembly:
        full = watched(model, names)
        feed = sessions["itself run without optimisation"].get_inputs()[0].name

        def run(batch: Array) -> dict[str, Array]:
            return dict(run_webassembly(full, [{feed: batch}], names, node_modules=Path(webassembly))[0])

        runs["WebAssembly"] = run
    return runs


def _run(session: Any, names: list[str]) -> Run:
    feed = session.get_inputs()[0].name
    return lambda batch: dict(zip(names, session.run(names, {feed: batch}), strict=True))


def _compare(
    subject: WholeNumbers | Earlier, batches: list[Array], torch_form: Any, webassembly: str
) -> Iterator[Check]:
    """Run a graph in several ways and in PyTorch; compare the codes of every layer and the outputs."""
    codes = list(dict.fromkeys(subject.codes.values()))
    wanted = [output.name for output in subject.model.graph.output]
    names = list(dict.fromkeys([*wanted, *codes]))
    main, runs = _run(open_session(subject.model, names, optimise=True), names), _runs(subject, names, webassembly)
    if torch_form is not None:
        runs["PyTorch"] = lambda batch: _run_torch(subject, torch_form, batch, wanted[0])
    differing: dict[str, dict[str, int]] = {who: {} for who in runs}
    outputs = dict.fromkeys(runs, 0.0)
    count = spikes = 0
    for batch in batches:
        ours = main(batch)
        count += sum(ours[name].size for name in codes)
        spikes += sum(int(np.bitwise_count(ours[name].astype(np.uint32)).sum()) for name in codes)
        for who, run in runs.items():
            theirs = run(batch)
            for name in codes:
                if name in theirs:
                    alike = ours[name].shape == theirs[name].shape
                    found = int((ours[name] != theirs[name]).sum()) if alike else ours[name].size
                    differing[who][name] = differing[who].get(name, 0) + found
            for name in wanted:
                # boxes that are chosen by their scores come in an order that the last bits of float32 decide
                chosen = ours[name].shape[-1] == CHOSEN
                if name in theirs and (who != "PyTorch" or not chosen):
                    outputs[who] = max(outputs[who], _distance(ours[name], theirs[name]))
    pictures = f"on {sum(map(len, batches))} images"
    for who, layers in differing.items():
        total = sum(layers.values())
        problems = [f"{name}: {n} codes differ" for name, n in layers.items() if n]
        yield Check("codes", f"{total} of {count:,} codes differ between the graph and {who} {pictures}", problems)
    far = [f"{who}: {distance:.1e}" for who, distance in outputs.items() if distance > TOLERANCE]
    largest = max(outputs.values())
    yield Check("outputs", f"boxes and scores agree within {largest:.1e} (tolerance {TOLERANCE:g})", far)
    yield Check("spikes", f"{spikes / count:.3f} per code and timestep {pictures} ({spikes:,} in all)")


def _distance(a: Array, b: Array) -> float:
    """Return the largest difference, relative to the largest of its kind (x, y, ..., score) where that is above 1."""
    if a.shape != b.shape:
        return math.inf
    alike = -2 if b.shape[-1] == CHOSEN else -1  # a chosen box in a row, or one coordinate of all boxes
    return float((np.abs(a - b) / np.maximum(1, np.abs(b).max(alike, keepdims=True, initial=0))).max(initial=0))


def _run_torch(subject: WholeNumbers | Earlier, model: Any, batch: Array, output: str) -> dict[str, Array]:
    """Run the deploy form in PyTorch; return its codes and its decoded output by the graph's names."""
    import torch

    result, emitted = emitted_codes(model, torch.from_numpy(batch))
    decoded = result[0] if isinstance(result, tuple) else result
    found = {output: decoded.numpy()}
    for name, codes in emitted:
        neuron = form_of(model).neurons[name]
        left, right, top, bottom = neuron.border  # which the graph adds behind the codes
        inner = codes[..., top : codes.shape[2] - bottom, left : codes.shape[3] - right]
        last = subject.notes.layers[name]["order"] == "NHWC"
        found[subject.codes[name]] = (inner.permute(0, 2, 3, 1) if last else inner).numpy()
    return found
