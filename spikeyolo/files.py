"""Files and folders that appear whole or not at all."""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ultralytics.utils import LOGGER

PROJECT = "choose another folder with project="  # the remedy where that argument says where to write


@contextlib.contextmanager
def whole_file(target: Path, remedy: str) -> Iterator[Path]:
    """Give a path to write to; what is there in the end becomes the target in one step, or nothing does.

    Args:
        target: File to write, in an existing folder.
        remedy: What to do if it cannot be written.

    Raises:
        OSError: If the target cannot be written; before anything else is done.
    """
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; {remedy}")
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    except OSError as e:
        raise type(e)(f"cannot write {target}: {e.strerror}; {remedy}") from e
    with folder as name:
        part = Path(name) / target.name
        rename = _Rename(str(part), str(target))
        LOGGER.addFilter(rename)  # Ultralytics tells where it writes: to the user that is the target
        try:
            yield part
            part.replace(target)
        finally:
            LOGGER.removeFilter(rename)


def make_folder(folder: Path, *, shown: Path | None = None, remedy: str = PROJECT, exist_ok: bool = False) -> None:
    """Make a folder and those that it is in.

    Args:
        folder: What to make.
        shown: What a message calls it.
        remedy: What to do if it cannot be made.
        exist_ok: Whether it may be there already.

    Raises:
        OSError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as e:
        raise type(e)(f"cannot write to {shown or folder}: {e.strerror}; {remedy}") from e


@contextlib.contextmanager
def whole_folder(target: Path, remedy: str = PROJECT) -> Iterator[Path]:
    """Give a folder beside the target to write to; it is deleted in the end, unless it was renamed.

    Args:
        target: Folder that it is to become, or stand beside.
        remedy: What to do if nothing can be written there.

    Raises:
        OSError: If nothing can be written there.
    """
    part = target.with_name(f".{target.name}-{os.getpid()}")
    make_folder(part, shown=target.parent, remedy=remedy)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sha256(file: Path) -> str:
    """Return the hash of a file, empty if there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


class _Rename(logging.Filter):
    """Replace a text in log messages."""

    def __init__(self, old: str, new: str):
        super().__init__()
        self.old, self.new = old, new

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = str(record.msg).replace(self.old, self.new)
        return True
