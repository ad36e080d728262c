"""What runtimes make of a graph on images, held against the evaluator of its program."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikeyolo.data.images import Images
from spikeyolo.deployment import deploy, emitted_codes, form_of
from spikeyolo.graph.onnx_files import open_session, watched
from spikeyolo.proof.agreement import stored_notes
from spikeyolo.proof.claims import Check
from spikeyolo.proof.evaluator import evaluate
from spikeyolo.proof.graph_file import CHOSEN, Graph, line_of
from spikeyolo.proof.onnx_reader import dimensions
from spikeyolo.proof.program import Array, Term
from spikeyolo.proof.webassembly import run_webassembly

ANY = 640  # largest side of images for a file that takes any
TOLERANCE = 1e-5  # of boxes, relative to the largest coordinate, and of scores


def images_for(graph: Graph, source: str | Path, images: int) -> list[Array]:
    """Return images in batches that a file takes: those of a source, black, white, noise, a checkerboard."""
    batch, _, height, width = dimensions(graph.model.graph.input[0])
    imgsz = stored_notes(graph.stored)["imgsz"]
    # of a file that takes any image, what it notes is no reason to run large ones
    height, width = (n if isinstance(n, int) else min(m, ANY) for n, m in zip((height, width), imgsz, strict=True))
    size = batch if isinstance(batch, int) else 1
    found = [image for part in Images.of_source(source, images).batches(1, height, width) for image in part]
    noise = np.random.default_rng(0).random((3, height, width))  # between the steps of bytes as well
    board = np.broadcast_to(np.indices((height, width)).sum(0) % 2, (3, height, width))
    black, white = (np.full((3, height, width), n) for n in (0, 1))
    if images > 1:
        found += [black, white, noise, board]
    else:  # for a quick look, the four are quarters of one
        upper, left = np.arange(height)[:, None] < height // 2, np.arange(width) < width // 2
        found.append(np.where(upper, np.where(left, black, white), np.where(left, noise, board)))
    found += found[-1:] * (-len(found) % size)  # fill the last batch
    return [np.stack(found[i : i + size]).astype(np.float32) for i in range(0, len(found), size)]


@dataclass
class Expected:
    """What the evaluator says of a batch: codes by term, in bytes, and the outputs if it has them."""

    codes: dict[Term, Array] = field(default_factory=dict)
    output: Array | None = None


def _evaluate(graph: Graph, batch: Array) -> Expected:
    """Evaluate the program of a file on a batch."""
    found = Expected()
    wanted = {term for term, _ in graph.codes.values()}
    targets = [*wanted] if graph.chosen else [*wanted, graph.parser.outputs[0]]
    for term, value in evaluate(targets, batch, graph.parser.opset):
        if term in wanted:
            found.codes[term] = value.astype(np.uint8 if (term.largest or 0) < 256 else np.uint16)
        if term is graph.parser.outputs[0] and not graph.chosen:
            found.output = value
    return found


def run(graph: Graph, batches: list[Array], network: Any, webassembly: str) -> Iterator[Check]:
    """Run a graph in several ways; compare the codes of every layer with the evaluator's, and the outputs."""
    try:
        expected = [_evaluate(graph, batch) for batch in batches]
    except ValueError as e:
        yield Check("codes", "the evaluator runs the program", [line_of(e)])
        return
    outputs = [output.name for output in graph.model.graph.output]
    names = [*outputs, *graph.codes]
    pictures = f"{sum(map(len, batches))} images"
    first: list[Array] = []
    agreeing: list[str] = []
    for who, start in _runtimes(graph, names, network, webassembly):
        wrong: dict[str, int] = {}
        total, furthest = 0, 0.0
        try:
            run = start()
            for i, (batch, known) in enumerate(zip(batches, expected, strict=True)):
                found = run(batch)
                for name, (term, last) in graph.codes.items():
                    if name in found:
                        theirs = found[name].transpose(0, 3, 1, 2) if last else found[name]
                        alike = theirs.shape == known.codes[term].shape
                        differing = int((theirs != known.codes[term]).sum()) if alike else theirs.size
                        total += theirs.size
                        wrong |= {name: wrong.get(name, 0) + differing} if differing else {}
                output = found.get(outputs[0])
                if output is not None:
                    first += [output] if len(first) <= i else []
                    furthest = max(furthest, distance(output, known.output if known.output is not None else first[i]))
        except Exception as e:  # of whatever runtime
            run = None
            yield Check("codes", f"{who} runs the graph", [f"it does not: {line_of(e)}"])
            continue
        run = None  # one session at a time
        problems = [f"{name}: {n} codes differ" for name, n in wrong.items()]
        if furthest > TOLERANCE:
            problems.append(f"boxes and scores differ by {furthest:.1e}, more than {TOLERANCE:g}")
        text = f"{who}: {sum(wrong.values())} of {total:,} codes differ from the evaluator's on {pictures}"
        yield Check("codes", f"{text}; boxes and scores within {furthest:.1e}", problems)
        agreeing += [] if problems else [who]
    count = sum(codes.size for known in expected for codes in known.codes.values())
    fired = sum(int(np.bitwise_count(codes).sum()) for known in expected for codes in known.codes.values())
    runtimes = ", ".join(who for who in agreeing if ", " not in who)
    text = f"{fired / count:.3f} per code and timestep on {pictures} ({fired:,} in all)"
    yield Check("spikes", text, claim=f"{runtimes} agree{'s' * (', ' not in runtimes)} on {pictures}")


def _runtimes(graph: Graph, names: list[str], network: Any, webassembly: str) -> Iterator[tuple[str, Any]]:
    """Yield the ways to run a graph, one after the other, by what they are called."""
    import onnxruntime

    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    feed = graph.model.graph.input[0].name
    ways: dict[str, dict[str, Any]] = {"": {"optimise": True}, ", without optimisation": {"optimise": False}}
    ways[", one thread"] = {"optimise": True, "threads": 1}

    def start(options: dict[str, Any]) -> Any:
        session = open_session(graph.model, names, **options)
        return lambda batch: dict(zip(names, session.run(names, {feed: batch}), strict=True))

    for how, options in ways.items():
        yield f"{runtime}{how}", functools.partial(start, options)
    if network is not None:
        yield f"PyTorch {torch.__version__.split('+')[0]}", functools.partial(_torch, graph, network)
    if webassembly:
        full = watched(graph.model, names)

        def run_there(batch: Array) -> Mapping[str, Array]:
            return run_webassembly(full, [{feed: batch}], names, node_modules=Path(webassembly))[0]

        yield "WebAssembly", lambda: run_there


def _torch(graph: Graph, network: Any) -> Any:
    """Return what runs the deploy form in PyTorch, and gives its codes the names that they have in the graph."""
    if hasattr(network, "end2end"):  # a head without NMS has branches for both; a graph has those of one
        network.end2end = graph.end2end
    form = deploy(network, planes=graph.notes.kept_planes, weight_bits=graph.notes.weight_bits)
    totals = {layer.name: layer.total.inputs[0] for layer in graph.parser.layers}
    tensors = {term: (name, last) for name, (term, last) in graph.codes.items()}

    def run(batch: Array) -> dict[str, Array]:
        result, emitted = emitted_codes(form, torch.from_numpy(batch))
        decoded = result[0] if isinstance(result, tuple) else result
        found = {} if graph.chosen else {graph.model.graph.output[0].name: decoded.numpy()}
        for layer, codes in emitted:
            left, right, top, bottom = form_of(form).neurons[layer].border  # which the graph adds behind the codes
            inner = codes[..., top : codes.shape[2] - bottom, left : codes.shape[3] - right].numpy()
            name, last = tensors[totals[layer]]
            found[name] = inner.transpose(0, 2, 3, 1) if last else inner
        return found

    return run


def distance(a: Array, b: Array) -> float:
    """Return the largest difference, relative to the largest of its kind (x, y, ..., score) where that is above 1."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    alike = -2 if b.shape[-1] == CHOSEN else -1  # a chosen box in a row, or one coordinate of all boxes
    return float((np.abs(a - b) / np.maximum(1, np.abs(b).max(alike, keepdims=True, initial=0))).max(initial=0))
