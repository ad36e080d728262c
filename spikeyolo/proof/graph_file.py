"""An ONNX file and its program: read, parsed, and what an export of its kind is asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from spikeyolo.graph.notes import Notes, metadata
from spikeyolo.proof.agreement import LARGEST_ANY, LARGEST_BATCH, stored_notes
from spikeyolo.proof.grammar import Parser
from spikeyolo.proof.onnx_reader import Refused, dimensions
from spikeyolo.proof.program import Program, Term

CHOSEN = 6  # numbers of a box that NMS, or a head without NMS, has chosen: corners, score, class
MOST_BOXES = 30_000  # that NMS leaves
LARGEST_FILE = 2**31  # bytes of a protobuf message


@dataclass
class Graph:
    """A file that was parsed.

    Args:
        path: The file.
        model: Its content.
        notes: What it notes.
        parser: What it is.
        stored: All its metadata.
    """

    path: Path
    model: onnx.ModelProto
    notes: Notes
    parser: Parser
    stored: Mapping[str, str]

    @classmethod
    def of(cls, path: Path, model: onnx.ModelProto, program: Program) -> Graph:
        """Parse a file.

        Raises:
            ValueError: If it is no spiking network, notes nothing, or has damaged notes.
        """
        stored = metadata(model)
        if len(stored) < len(model.metadata_props):
            raise Refused(f"{path} has a note twice; export it again")
        notes = Notes.read(model)
        if not notes.ours:
            raise Refused(f"{path} says nothing about neurons: another program has written it, or it is an ANN's")
        if not notes.current:
            raise Refused(f"{path} was exported by an earlier version, with float weights; export it again")
        known = stored_notes(stored)
        anything = any(isinstance(n, str) for given in model.graph.input for n in dimensions(given))
        if anything and (max(known["imgsz"]) > LARGEST_ANY or known["batch"] > LARGEST_BATCH):
            raise Refused(
                f"{path} takes any image, and notes imgsz={known['imgsz']} batch={known['batch']}; it is verified with "
                f"images of at most {LARGEST_ANY} pixels, {LARGEST_BATCH} at once: export it with these"
            )
        return cls(path, model, notes, Parser(model, program), stored)

    @functools.cached_property
    def codes(self) -> dict[str, tuple[Term, bool]]:
        """The codes that layers take, by the first tensor that holds them: term, whether channels are last."""
        taken = {layer.total.inputs[0] for layer in self.parser.layers}
        first = {term: (name, last) for name, (term, last) in reversed(self.parser.codes.items()) if term in taken}
        return {name: (term, last) for term, (name, last) in reversed(first.items()) if term.op != "pixels"}

    @property
    def end2end(self) -> bool:
        """Whether the head chooses boxes without NMS."""
        return self.has("TopK") and not self.has("NonMaxSuppression")

    @property
    def chosen(self) -> bool:
        """Whether NMS, or a head without NMS, chooses the boxes."""
        return self.has("TopK") or self.has("NonMaxSuppression")

    def has(self, op: str) -> bool:
        """Return whether the file has an operator."""
        return any(node.op_type == op for node in self.model.graph.node)

    @property
    def arguments(self) -> dict[str, Any]:
        """What an export of the same kind is asked for, as the file shows it."""
        batch, *_ = dimensions(self.model.graph.input[0])
        stored = stored_notes(self.stored)
        found: dict[str, Any] = {
            "imgsz": stored["imgsz"],
            "opset": self.parser.opset,
            "dynamic": isinstance(batch, str),
        }
        found["batch"] = batch if isinstance(batch, int) else stored["batch"]
        found["simplify"] = not self.has("Constant")  # the simplifier makes initializers of them
        if self.has("NonMaxSuppression"):
            found |= {"nms": True, **self._nms()}
        elif self.end2end:
            nodes = [node for node in self.model.graph.node if node.op_type == "TopK"]
            found |= {"nms": False, "agnostic_nms": len(nodes) == 1, **self._numbers(max_det=nodes[0].input[1])}
        if found.get("max_det", 0) > MOST_BOXES:
            raise Refused(f"the graph leaves {found['max_det']:,} boxes, more than {MOST_BOXES:,}")
        return found

    def _nms(self) -> dict[str, Any]:
        """Return the limits of NMS, as constants of the file; the program that is compared must have the same."""
        nodes = {node.op_type: node for node in reversed(self.model.graph.node)}
        nms, makers = nodes["NonMaxSuppression"], {y: node for node in self.model.graph.node for y in node.output}
        boxes = makers.get(nms.input[0])
        while boxes is not None and boxes.op_type in {"Unsqueeze", "Cast", "Identity", "Concat"}:
            boxes = makers.get(boxes.input[0])
        behind = {nms.output[0]}
        for node in self.model.graph.node:
            if behind & set(node.input):
                behind.update(node.output)
                if node.op_type == "Slice":  # the first max_det of what NMS leaves
                    break
        else:
            node = nms
        where = {"conf": nodes["Greater"].input[1:2] if "Greater" in nodes else [], "iou": nms.input[3:4]}
        where["max_det"] = node.input[2:3]
        found = self._numbers(**{key: names[0] for key, names in where.items() if names})
        found |= {key: round(n, 6) for key, n in found.items() if np.float32(round(n, 6)) == np.float32(n)}
        return found | {"agnostic_nms": boxes is None or boxes.op_type != "Add"}  # what tells classes apart is added

    def _numbers(self, **names: str) -> dict[str, Any]:
        """Return the constants of these names that are one number."""
        tensors = {t.name: t for t in self.model.graph.initializer}
        tensors |= {node.output[0]: node.attribute[0].t for node in self.model.graph.node if node.op_type == "Constant"}
        arrays = {key: onnx.numpy_helper.to_array(tensors[name]) for key, name in names.items() if name in tensors}
        return {key: array.item() for key, array in arrays.items() if array.size == 1}


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, and no other that it names.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no ONNX file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the .onnx file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export one with: yolo export model=best.pt format=onnx")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than an ONNX file can have")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as e:  # of protobuf
        raise ValueError(f"{path} is no complete ONNX file ({line_of(e)}); export it again") from e
    if not model.graph.node or not model.graph.output:
        raise ValueError(f"{path} is no complete ONNX file (it has no graph); export it again")
    return model


def line_of(e: BaseException) -> str:
    """Return the first line of an exception."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0]
