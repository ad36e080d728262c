"""The decoder of a file that is compared with no checkpoint: it must be Ultralytics' own, exported anew."""

from __future__ import annotations

import functools
from typing import Any

from ultralytics.nn.tasks import DetectionModel

from spikeyolo.proof.claims import RealParts
from spikeyolo.proof.grammar import Parser
from spikeyolo.proof.onnx_reader import Refused
from spikeyolo.proof.program import Term
from spikeyolo.proof.reference import Exports, Skeleton

RAW = {"potential", "branch"}
DECODER = "the decoder of Ultralytics, exported anew"
SPIKING = {"image", "pixels", "sum", "potential", "branch", "codes", "neuron"}
MOVING = {"Concat", "Resize", "MaxPool", "Split", "Relu", "Add"}
WIDTH, NARROW = 64, 8  # channels of the network that carries a decoder: of its levels, and before them


def match_decoder(
    parser: Parser, parts: RealParts, exports: Exports, *, classes: int, arguments: dict[str, Any]
) -> Skeleton:
    """Demand that behind its raw maps a file has the decoder of stock Ultralytics, before them spiking parts alone.

    Args:
        parser: The file.
        parts: Its real-valued parts.
        exports: Networks of stock parts, in the file's program.
        classes: Number of classes.
        arguments: Of ``yolo export``, as the file shows them.

    Returns:
        The network that has the same decoder.

    Raises:
        Refused: Names what is neither.
    """
    raw = [t for t in _frontier(parser) if t.op == "potential"]
    levels = list(dict.fromkeys(_stride(t) for t in raw))
    bins = {t.channels or 0 for t in raw if t.channels != classes} or {classes}
    if not raw or len(bins) > 1 or next(iter(bins)) % 4 or len(raw) != 2 * len(levels):
        shown = ", ".join(f"{parser.nodes.get(t)} ({t.channels})" for t in raw[:4])
        raise Refused(f"the graph has no head of {classes} classes: its last potentials are {shown or 'missing'}")
    end2end = arguments.get("nms") is False
    network = _network(tuple(levels), classes, next(iter(bins)) // 4, T=_timesteps(raw[0]), end2end=end2end)
    stock = exports.of(network, **arguments)
    _only_spiking(parser, parts, _bind(parser, stock))
    return stock


def _frontier(parser: Parser) -> list[Term]:
    """Return the spiking terms that the decoder reads, in its order."""
    found: list[Term] = []
    seen: set[Term] = set()
    pending = [*reversed(parser.outputs)]
    while pending:
        term = pending.pop()
        if term in seen or term.op == "Shape":
            continue
        seen.add(term)
        if term.op in SPIKING:
            found.append(term)
        else:
            pending += reversed(term.inputs)
    return found


def _stride(term: Term) -> float:
    """Return how many pixels of the image there are to one of a map."""
    stride = 1.0
    while term.inputs:
        if term.op == "sum":
            stride *= term["stride"][0]
        elif term.op == "Resize" and "scales" in dict(term.facts):
            stride /= term["scales"][0]
        elif term.op == "MaxPool":
            stride *= term["stride"][0]
        term = term.inputs[0]
    return stride


def _timesteps(term: Term) -> int:
    """Return the timesteps of a network."""
    for part in term.walk():
        if part.op == "Tile" and part.inputs[0].op == "image":
            return int(part.inputs[1].array("value")[0])
    return 1


@functools.lru_cache(maxsize=8)
def _network(levels: tuple[float, ...], classes: int, bins: int, *, T: int, end2end: bool) -> Any:
    """Build a network that has nothing but levels of these strides and the head."""
    if tuple(sorted(levels)) != levels or any(s not in {2.0**i for i in range(1, 8)} for s in levels):
        raise Refused(f"the graph has levels of strides {levels}, not of rising powers of two")
    rows: list[Any] = [[-1, 1, "SpikeEncoder", []], [-1, 1, "SpikeDown", [NARROW, 3, 2, 1, True]]]
    places = {2.0: 1}
    while (stride := 2 * max(places)) <= levels[-1]:
        places[stride] = len(rows)
        rows.append([-1, 1, "SpikeConv", [WIDTH if stride in levels else NARROW, 3, 2]])
    head = [[[places[s] for s in levels], 1, "SpikeDetect", ["nc"]]]
    neuron = {"type": "ibra-lif", "D": 5.11, "N": 100, "T": T}
    description: Any = {"nc": classes, "neuron": neuron, "backbone": rows, "head": head, "reg_max": bins}
    description["end2end"] = end2end
    network: Any = DetectionModel(description, verbose=False)
    network.task = "detect"
    return network


def _bind(parser: Parser, stock: Parser) -> list[Term]:
    """Walk both decoders side by side down to their raw maps; return what of the file is below."""
    bound: dict[Term, Term] = {}
    levels: list[Term] = []
    seen: set[tuple[Term, Term]] = set()
    pending = list(zip(parser.outputs, stock.outputs, strict=True))
    while pending:
        ours, theirs = pending.pop()
        if ours is theirs or (ours, theirs) in seen:
            continue
        seen.add((ours, theirs))
        where = parser.nodes.get(ours, ours.op)
        if theirs.op in RAW:
            alike = (ours.op, ours.channels, ours.size) == ("potential", theirs.channels, theirs.size)
            if not alike or bound.setdefault(theirs, ours) is not ours or _stride(ours) != _stride(theirs):
                raise Refused(f"{where} is no raw map of the head that is due there in {DECODER}")
        elif ours.op != theirs.op or ours.facts != theirs.facts or len(ours.inputs) != len(theirs.inputs):
            raise Refused(f"{where} ({ours.op}) is not the {theirs.op} that is due there in {DECODER}")
        elif theirs.op == "Shape" and theirs.inputs[0].op in SPIKING:  # of a level, whose size alone is read
            if _stride(ours.inputs[0]) != _stride(theirs.inputs[0]):
                raise Refused(f"{where} tells the size of another map in {DECODER}")
            levels.append(ours.inputs[0])
        else:
            pending += zip(ours.inputs, theirs.inputs, strict=True)
    return [*bound.values(), *levels]


def _only_spiking(parser: Parser, parts: RealParts, roots: list[Term]) -> None:
    """Demand that nothing but spiking parts, and known real-valued ones, make some maps."""
    seen: set[Term] = set()
    pending = list(roots)
    while pending:
        term = pending.pop()
        if term in seen:
            continue
        seen.add(term)
        if term in parts.rounded:
            pending += parts.rounded[term][0]
        elif term.op in SPIKING | MOVING or parser.is_image(term):
            pending += [x for x in term.inputs if term.op != "Tile"]
        else:
            where = parser.nodes.get(term, term.op)
            raise Refused(f"node {where} ({term.op}) is no part of a spiking network that this file alone could show")
