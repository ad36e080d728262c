"""``spikeyolo verify``: what an ONNX file is, by parsing it, and what runtimes make of it, by running it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import ultralytics

from spikeyolo.deployment import PLANES, WEIGHT_BITS, has_neurons
from spikeyolo.graph.bounds import digest_of
from spikeyolo.graph.export import describe
from spikeyolo.graph.notes import Notes, metadata
from spikeyolo.network.checkpoints import open_detector
from spikeyolo.proof.agreement import disagreements, real_values, stored_notes
from spikeyolo.proof.claims import Check, RealParts, exact, spikes
from spikeyolo.proof.graph_file import Graph, line_of, read_model
from spikeyolo.proof.program import Program, difference
from spikeyolo.proof.reference import Exports, Skeleton
from spikeyolo.proof.runs import images_for, run
from spikeyolo.proof.stock import match_decoder
from spikeyolo.proof.webassembly import check_package


def verify(
    model: str | Path,
    *,
    reference: str | Path = "",
    source: str | Path = "",
    images: int = 8,
    webassembly: str | Path = "",
    trust: bool = False,
) -> Iterator[Check]:
    """Prove what an ONNX file is, and compare runtimes with an evaluator of its program; yields each claim at once.

    Args:
        model: ONNX file, of whatever origin.
        reference: Checkpoint (.pt) that it is to be equal to, for any image.
        source: Images, a folder or a video, as for ``yolo predict``; by default the images that Ultralytics ships.
        images: Largest number of images to run, beside black, white, noise and a checkerboard (of 1: quarters of one).
        webassembly: Folder ``node_modules`` that has onnxruntime-web, to run the graph there as well.
        trust: Whether to load the reference as ``yolo`` does, which runs whatever program it holds.

    Yields:
        Checks; the file is proven if none has problems. Nothing is run if it is not.

    Raises:
        OSError: If a file is missing or unreadable, or there are no images.
        ValueError: If the model is no ONNX file, or the reference no spiking checkpoint.
    """
    path, exports = Path(model), Exports(Program())
    if webassembly:
        check_package(Path(webassembly))
    network = open_reference(reference, trust=trust) if reference else None
    content = read_model(path)
    try:
        graph = Graph.of(path, content, exports.program)
    except ValueError as e:
        yield Check("parsed", f"{path} is no spiking program", [str(e)])
        return
    batches = images_for(graph, source, images)  # whatever is wrong with the arguments is told before any result
    count = len(graph.model.graph.node)
    yield Check("parsed", f"all {count} nodes, constants and notes are parts of a spiking program, each read once")
    checks: list[Check] = []
    for check in claims(graph, exports, network, Path(reference).name):
        checks.append(check)
        yield check
    del exports  # the reference's skeleton and deploy form, whose modules refer to themselves
    gc.collect()
    if not any(check.problems for check in checks):
        yield from run(graph, batches, network, str(webassembly))


def claims(graph: Graph, exports: Exports, network: Any = None, name: str = "") -> Iterator[Check]:
    """Check what holds of a file for any image; nothing is run.

    Args:
        graph: The file.
        exports: Networks to compare it with, in its program.
        network: The reference, if there is one.
        name: What it is called.
    """
    early = [spikes(graph.parser.layers, graph.notes.graph), notes_check(graph)]
    yield from early
    if any(check.problems for check in early):
        return
    shown = _alone(graph, exports) if network is None else _equal(graph, exports, network, name)
    if not shown.problems:
        yield exact(graph.parser, RealParts(graph.parser, shown=network is not None))
    yield shown


def _alone(graph: Graph, exports: Exports) -> Check:
    """Check that a file has nothing but spiking parts, and real-valued ones that are known."""
    check = Check("decoder", "behind the raw maps is the decoder of Ultralytics, exported anew, and nothing else")
    try:
        parts, classes = RealParts(graph.parser), len(stored_notes(graph.stored)["names"])
        stock = match_decoder(graph.parser, parts, exports, classes=classes, arguments=graph.arguments)
        check.problems += _interface(graph, stock)
        check.problems += real_values(parts, graph.parser.layers, graph.notes)
    except Exception as e:  # of Ultralytics and PyTorch, for arguments that give no such graph
        check.problems.append(f"{line_of(e)}{_elsewhere(graph.notes)}; if it is honest, reference=best.pt shows more")
    return check


def static(path: Path) -> Iterator[Check]:
    """Check what a file shows of itself for any image, but its decoder; for those who count what is in it."""
    model = read_model(path)
    try:
        graph = Graph.of(path, model, Program())
    except ValueError as e:
        yield Check("parsed", f"{path} is no spiking program", [str(e)])
        return
    yield spikes(graph.parser.layers, graph.notes.graph)
    yield exact(graph.parser, RealParts(graph.parser, shown=True))
    yield notes_check(graph)


def notes_check(graph: Graph) -> Check:
    """Hold what a file notes against its program."""
    text = f"what the file notes is what it is: {graph.notes.graph} graph, {len(graph.parser.layers)} layers"
    try:
        problems = list(disagreements(graph.parser, graph.notes, graph.stored, end2end=graph.end2end))
    except Exception as e:  # whatever values that are no such notes make Python raise
        problems = [f"a note is damaged ({line_of(e)}); export the file again"]
    if digest_of(graph.model) != graph.notes.graph_sha256:
        problems.append("nodes or numbers are not those that were exported (SHA-256 differs)")
    return Check("notes", text, problems)


def open_reference(reference: str | Path, *, trust: bool = False) -> Any:
    """Open the checkpoint that a user names.

    Raises:
        OSError: If there is none.
        ValueError: If it is no spiking checkpoint, or would have to be trusted.
    """
    try:
        network: Any = open_detector(reference, trust=trust).model
    except (ValueError, FileNotFoundError) as e:
        raise type(e)(str(e).replace("model=", "reference=", 1)) from e
    if not has_neurons(network):
        raise ValueError(f"reference={reference} has no spiking neuron; give the checkpoint that was exported")
    return network


def _equal(graph: Graph, exports: Exports, network: Any, name: str) -> Check:
    """Compare the program of a file with that of a checkpoint's fresh deploy form."""
    parser, notes = graph.parser, graph.notes
    check = Check(
        "equal",
        f"its program is that of {name} in deploy form: every weight, bias, exponent, plane and edge",
        claim=f"equal to {name}{_narrowed(notes)} (any image)",
    )
    asked: dict[str, Any] = {"planes": notes.kept_planes, "weight_bits": notes.weight_bits, **graph.arguments}
    try:
        theirs = exports.of(network, **asked)
    except Exception as e:  # of Ultralytics and PyTorch, for a checkpoint or arguments that give no such graph
        check.problems.append(f"{name} gives no such graph: {line_of(e)}")
        return check
    (mine,), (other,) = parser.outputs, theirs.outputs
    if mine is not other:
        mine, other, how = difference(mine, other)
        where = next((layer.name for layer in parser.layers if layer.total is mine), parser.nodes.get(mine, mine.op))
        named = (layer for layer, total in theirs.sums.items() if total is other)
        there = next(named, theirs.nodes.get(other, other.op))
        check.problems.append(f"{where} is not {there} of {name}: {how}{_elsewhere(notes)}")
        return check
    problems = check.problems
    if {layer.name: layer.total for layer in parser.layers} != theirs.sums:
        problems.append(f"its products have other names than the layers of {name}")
    problems += _interface(graph, theirs, "head", "names")
    fresh = describe(theirs.network, theirs.form, {}, graph=notes.graph, planes=notes.kept_planes, source=Path(name))
    kept = ("layers", "graph_sha256", "source", "source_sha256", "versions")
    for key in Notes.__dataclass_fields__:
        if key not in kept and getattr(fresh, key) != getattr(notes, key):
            problems.append(f"the note {key} is not that of {name}")
    return check


def _interface(graph: Graph, theirs: Skeleton, *more: str) -> list[str]:
    """Compare input, output and what Ultralytics notes with those of a fresh export."""
    ends = [[str(v) for v in (*m.graph.input, *m.graph.output)] for m in (graph.model, theirs.model)]
    fresh = metadata(theirs.model)
    problems = [] if ends[0] == ends[1] else ["its input or output has another name, type or shape than a fresh one's"]
    for key in ("stride", "task", "batch", "imgsz", "channels", "end2end", *more):
        if graph.stored.get(key) != fresh.get(key):
            problems.append(f"the note {key} is {graph.stored.get(key)}, that of a fresh export {fresh.get(key)}")
    return problems


def _narrowed(notes: Notes) -> str:
    """Say with which planes and weights a deploy form was asked for, if not with those of the default."""
    asked = {"planes": (notes.kept_planes, PLANES), "weight_bits": (notes.weight_bits, WEIGHT_BITS)}
    other = [f"{key}={value}" for key, (value, default) in asked.items() if value != default]
    return f" with {' '.join(other)}" if other else ""


def _elsewhere(notes: Notes) -> str:
    """Say what of a file's versions is not installed here: other versions write other decoders, and fold otherwise."""
    packages = {"ultralytics": ultralytics, "torch": torch}
    here = {name: package.__version__ for name, package in packages.items()}
    noted = {name: notes.versions.get(name, here[name]) for name in here}
    other = [f"{name} {noted[name]}, not {here[name]}" for name in here if noted[name] != here[name]]
    return f" (exported with {' and '.join(other)}: verify it there)" if other else ""
