"""What an ONNX file says about itself, checked before it is run or shown."""

import ast
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from spikeyolo.graph.notes import Notes, metadata
from spikeyolo.network.sound import check_image_size, check_names
from spikeyolo.records import shown

MAX_TEXT = 2**20  # characters of a note that is read as a Python literal
MAX_NOTE = 1000  # and of one that is shown


def check_graph(model: onnx.ModelProto, file: Path) -> dict[int, str]:
    """Return the class names of an ONNX file; empty if it has none.

    Raises:
        ValueError: If they are no names, the noted image size is none, or a note has control characters.
    """
    for text in _texts(asdict(Notes.read(model))):
        if len(text) > MAX_NOTE or not text.isprintable():
            raise ValueError(f"model={file} notes the text {shown(text)}: too long, or with control characters")
    notes = metadata(model)
    found = {key: _literal(notes[key], key, file) for key in ("names", "imgsz") if key in notes}
    try:
        if "imgsz" in found:
            check_image_size(found["imgsz"], "was exported with an image size that")
        if "names" in found:
            check_names(found["names"])
    except ValueError as e:
        raise ValueError(f"model={file} {e}") from e
    return found.get("names", {})


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in what JSON can hold."""
    if isinstance(value, str):
        yield value
    for part in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from _texts(part)


def _literal(text: str, key: str, file: Path) -> Any:
    """Return a noted Python literal."""
    try:
        if len(text) <= MAX_TEXT:
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        pass
    raise ValueError(f"model={file} notes {key} {shown(text)}, which nothing can be made of; export it again")
