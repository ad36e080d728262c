"""What a file notes about itself, held against its program: nothing is believed that the program can show."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from spikeyolo.graph.notes import FORM, Notes
from spikeyolo.proof.claims import ATTENTION, RealParts
from spikeyolo.proof.grammar import Layer, Parser
from spikeyolo.proof.onnx_reader import dimensions
from spikeyolo.proof.program import Term

STOCK = {"description", "author", "date", "version", "license", "docs", "stride", "task", "head", "batch", "imgsz"}
STOCK |= {"names", "args", "channels", "end2end"}  # what Ultralytics notes
KINDS = {"Conv": "wide", "Gemm": "whole"}  # of sums, by the operator of their product
NOTED = {"codes", "order", "size", "kind", "channels", "kernel", "stride", "padding", "dilation", "groups"}  # of layers
LARGEST_SIDE, LARGEST_BATCH = 4096, 64  # pixels; of a file that takes any image, less
LARGEST_ANY = 1280
LONGEST = 2**20  # characters of a note


def stored_notes(stored: Mapping[str, str]) -> dict[str, Any]:
    """Return what Ultralytics notes, as values.

    Raises:
        ValueError: Names a note that is damaged, or none of a spike graph.
    """
    known = STOCK | set(Notes.__dataclass_fields__)
    if missing := sorted(known - stored.keys()):
        raise ValueError(f"the file lacks the note {missing[0]!r}; export the file again")
    if unknown := sorted(stored.keys() - known):
        raise ValueError(f"the file has the note {unknown[0]!r}, which no spike graph has; export the file again")
    if large := [name for name, text in stored.items() if len(text) > LONGEST and name != "layers"]:
        raise ValueError(f"the note {large[0]!r} has {len(stored[large[0]]):,} characters; export the file again")
    values: dict[str, Any] = {}
    for name in ("imgsz", "batch", "names", "stride", "channels", "end2end"):
        try:
            values[name] = ast.literal_eval(stored[name])
        except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError) as e:
            raise ValueError(f"the note {name!r} is missing or damaged; export the file again") from e
    imgsz, batch = values["imgsz"], values["batch"]
    sides = imgsz if isinstance(imgsz, list) and len(imgsz) == 2 else [0]
    if not all(type(n) is int and 1 <= n <= LARGEST_SIDE for n in sides) or type(batch) is not int or batch < 1:
        raise ValueError(f"the notes imgsz and batch are {imgsz} and {batch}; export the file again")
    if not isinstance(values["names"], dict):
        raise ValueError("the note 'names' is no dictionary; export the file again")
    return values


def disagreements(parser: Parser, notes: Notes, stored: Mapping[str, str], *, end2end: bool) -> Iterator[str]:
    """Yield what a file notes that its program does not show.

    Args:
        parser: The file.
        notes: What it notes.
        stored: All its metadata.
        end2end: Whether its head chooses boxes without NMS.
    """
    model, values = parser.model, stored_notes(stored)
    batch, _, height, width = dimensions(model.graph.input[0])
    imgsz, names = values["imgsz"], values["names"]
    if not isinstance(names, dict) or not all(isinstance(n, str) and n.isprintable() for n in names.values()):
        yield "names: they are no texts that can be printed"
    if list(names) != list(range(len(names))):
        yield f"names: their numbers are not 0 to {len(names) - 1}"
    if not isinstance(imgsz, list) or len(imgsz) != 2 or (isinstance(height, int) and imgsz != [height, width]):
        yield f"imgsz is noted as {imgsz}, the image has {height} x {width}"
    if isinstance(batch, int) and values["batch"] != batch:
        yield f"batch is noted as {values['batch']}, the image has {batch}"
    if (values["channels"], stored.get("task")) != (3, "detect") or values["end2end"] is not end2end:
        yield f"channels, task and end2end are noted as {values['channels']}, {stored.get('task')}, {values['end2end']}"
    if not re.fullmatch(r"[^/\\]*", notes.source) or not notes.source.isprintable() or not notes.neuron.isprintable():
        yield f"source and neuron are noted as {notes.source!r} and {notes.neuron!r}"
    if not re.fullmatch(r"([0-9a-f]{64})?", notes.source_sha256):
        yield f"source_sha256 is noted as {notes.source_sha256!r}"
    kinds = {"spike" if layer.planes > 1 else "integer" for layer in parser.layers if _many(layer)} or {notes.graph}
    if {notes.graph} != kinds or notes.graph not in {"spike", "integer"}:
        yield f"it is noted as graph={notes.graph}, its products are those of graph={' and '.join(sorted(kinds))}"
    if notes.factored_weights.keys() - notes.layers.keys() or min(notes.factored_weights.values(), default=1) < 1:
        yield "factored_weights are noted of other layers, or are no counts"
    if notes.form != FORM or notes.exact != "worst case":
        yield f"form and exact are noted as {notes.form} and {notes.exact!r}"
    layers = {layer.name: layer for layer in parser.layers}
    if notes.layers.keys() != layers.keys() or len(layers) != len(parser.layers):
        yield f"{len(notes.layers)} layers are noted, the graph has {len(parser.layers)} products, or others"
        return
    codes = {name for name, layer in layers.items() if layer.total.inputs[0].op != "pixels"}
    if notes.planes.keys() != codes or notes.ranges.keys() != codes:
        yield "planes or ranges are noted of other layers than those that take codes"
        return
    branches = {t.inputs[0] for t in parser.outputs[0].walk(*parser.outputs[1:]) if t.op == "branch"}
    for name, layer in layers.items():
        kind = KINDS.get(layer.op) or ("branch" if layer.total in branches else "direct")
        yield from (f"{name}: {what}" for what in _of_layer(parser, layer.total, kind, notes.layers[name]))
        if name in codes:
            yield from (f"{name}: {what}" for what in _of_codes(layer.total.inputs[0], name, notes))
    planes = max(notes.planes.values(), default=0)
    if notes.kept_planes is None or not planes <= notes.kept_planes <= 16:
        yield f"kept_planes is noted as {notes.kept_planes}, codes have up to {planes} planes"
    heaviest = max((int(np.abs(x.total.array("weight").astype(int)).max(initial=0)) for x in parser.layers), default=0)
    if not 2 <= notes.weight_bits <= 8 or heaviest >= 2 ** (notes.weight_bits - 1):
        yield f"weight_bits is noted as {notes.weight_bits}, weights reach {heaviest}"
    yield from _of_neurons(parser, notes)


def _many(layer: Layer) -> bool:
    """Return whether a product takes codes of several planes."""
    return layer.total.inputs[0].op != "pixels" and (layer.total.inputs[0].largest or 0) > 1


def real_values(parts: RealParts, layers: list[Layer], notes: Notes) -> list[str]:
    """Return what is noted of real-valued parts, and is not so."""
    found = [f"{name} ({count} times)" for name, count in parts.names.items() if name != ATTENTION]
    noted = [text for text in notes.real_valued[1:-1] if not text.startswith(ATTENTION)]
    stems = [layer.name for layer in layers if layer.total.inputs[0].op == "pixels"]
    ends = [f"stem {name.removesuffix('.conv')} (pixels)" for name in stems]
    whole = notes.real_valued[:1] == ends and notes.real_valued[-1].startswith("decoder (")
    whole = whole and sorted(found) == sorted(noted)
    problems = [] if whole else [f"{notes.real_valued} are noted as real-valued, the graph has {ends} and {found}"]
    if sorted(map(tuple, notes.attention.values())) != sorted(parts.attention):
        problems.append(f"attention is noted as {notes.attention}, the graph has {parts.attention}")
    return problems


def _of_layer(parser: Parser, total: Term, kind: str, noted: Mapping[str, Any]) -> Iterator[str]:
    """Compare what is noted of a product: its codes, and its geometry."""
    operand, weight = total.inputs[0], total.array("weight")
    if noted.keys() != NOTED:
        yield f"{sorted(noted.keys() ^ NOTED)} are noted, or not noted"
        return
    if operand.op != "pixels" and parser.codes.get(noted["codes"]) != (operand, noted["order"] == "NHWC"):
        yield f"its codes are not in {noted['codes']!r} ({noted['order']})"
    if operand.size and noted["size"] not in (None, list(operand.size)):
        yield f"its codes have the size {operand.size}, not {noted['size']}"
    kernel, geometry = noted["kernel"], {"stride": total["stride"], "dilation": total["dilation"]}
    if any(n < k for n, k in zip(kernel, weight.shape[2:], strict=True)) or tuple(noted["padding"]) != total["padding"]:
        yield f"its kernel and padding are noted as {kernel} and {noted['padding']}"
    for key, found in geometry.items():
        single = [n == 1 for n in (total.size or (0, 0))] if key == "stride" else [k == 1 for k in weight.shape[2:]]
        if any(a != b and not one for a, b, one in zip(noted[key], found, single, strict=True)):
            yield f"its {key} is noted as {noted[key]}, the graph has {found}"
    inputs, outputs = noted["channels"]
    if (inputs, outputs) != (weight.shape[1] * total["groups"], len(weight)) or noted["groups"] != total["groups"]:
        yield f"its channels and groups are noted as {noted['channels']} and {noted['groups']}"
    if noted["kind"] != kind:
        yield f"its sum is noted as {noted['kind']}, it is {kind}"


def _of_codes(operand: Term, name: str, notes: Notes) -> Iterator[str]:
    """Compare what is noted of the codes that a layer takes."""
    D, N, _ = notes.ranges[name]
    if not (0 < D < math.inf and 0 < N < math.inf) or round(D * N) != operand.largest:
        yield f"its codes reach {operand.largest}, not D * N = {D} * {N}"
    if notes.planes[name] != (operand.largest or 0).bit_length():
        yield f"its codes have {(operand.largest or 0).bit_length()} planes, not {notes.planes[name]}"


def _of_neurons(parser: Parser, notes: Notes) -> Iterator[str]:
    """Compare T, decay, unit, N and rest codes with the neurons that read potentials."""
    numbers = {"D": {D for D, _, _ in notes.ranges.values()}, "N": {N for _, N, _ in notes.ranges.values()}}
    for key, found in numbers.items():
        if getattr(notes, key) != (next(iter(found)) if len(found) == 1 else None):
            yield f"{key} is noted as {getattr(notes, key)}, its layers have {sorted(found)}"
    if notes.unit != max(numbers["N"], default=1):
        yield f"unit is noted as {notes.unit}, the largest N as {max(numbers['N'], default=1)}"
        return
    readers = {name: layer.total.inputs[0] for layer in parser.layers if (name := layer.name) in notes.ranges}
    for name, codes in readers.items():
        _, N, rest = notes.ranges[name]
        for neuron in _neurons(codes):
            facts = dict(neuron.facts)
            if facts["rest"] != rest:
                yield f"{name}: its rest code is noted as {rest}, its neuron has {facts['rest']}"
            if neuron.op == "neuron" and facts["scale"] != float(np.float32(N / notes.unit)):
                yield f"{name}: its neuron has the scale {facts['scale']:g}, not N / unit = {N} / {notes.unit}"
            timesteps = facts.get("T", 1), facts.get("decay")
            if neuron.op == "neuron" and timesteps[0] > 1 and (timesteps[1] != float(np.float32(notes.decay or 0))):
                yield f"{name}: its decay is noted as {notes.decay}, its neuron has {timesteps[1]}"
            if neuron.op == "neuron" and timesteps[0] != notes.T:
                yield f"{name}: T is noted as {notes.T}, its neuron has {timesteps[0]}"


def _neurons(codes: Term) -> Iterator[Term]:
    """Yield the neurons that emit a map of codes."""
    seen: set[Term] = set()
    pending = [codes]
    while pending:
        term = pending.pop()
        if term in seen:
            continue
        seen.add(term)
        if term.op in {"codes", "neuron"}:
            yield term
        else:
            pending += term.inputs
