"""Read a PyTorch checkpoint without executing anything from it.

A checkpoint is a zip file with a pickle, and a pickle is a program: it calls whatever it names. Here tensors and plain
containers are rebuilt by code of our own, each foreign class becomes an inert `Record`, every other name is refused.
Nothing is imported, and nothing is allocated that the file does not hold. Needs torch alone.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

MAX_PICKLE = 2**26  # bytes; the largest published network has 2 million
FOREIGN = ("ultralytics.", "torch.nn.modules.", "spikeyolo.")  # modules whose classes become records
VALUES = {  # and what else a trainer writes beside tensors: numbers of numpy, paths, devices
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.device",
    "torch.Size",
}
DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Record:
    """Inert stand-in for an object of a class that is not imported: its attributes, and no behaviour.

    Attributes:
        module, name: Where the class was.
        attributes: What the object had.
    """

    module: ClassVar[str] = ""
    name: ClassVar[str] = ""
    attributes: dict[str, Any]

    def __new__(cls, *arguments: object) -> Record:
        """Accept any arguments and drop them."""
        self = super().__new__(cls)
        self.attributes = {}
        return self

    def __init__(self, *arguments: object):
        """Accept any arguments and drop them."""

    def __setstate__(self, state: object) -> None:
        """Take attributes; other states, such as numpy's, are dropped."""
        if isinstance(state, dict):
            self.attributes.update(state)


def read_checkpoint(file: str | Path) -> Any:
    """Return what a PyTorch checkpoint (.pt) holds: plain containers, tensors, and records of everything else.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no checkpoint, is damaged, or names anything that a checkpoint has no need of.
    """
    file = Path(file)
    size = file.stat().st_size
    try:
        # of the bytes, not of the file: tensors are read later
        return _read(zipfile.ZipFile(io.BytesIO(file.read_bytes())), size)
    except zipfile.BadZipFile as e:
        raise ValueError(f"{file} {_what_else(file)}") from e
    except (RuntimeError, ValueError) as e:
        raise ValueError(f"{file} {e}") from e


def state_dict(module: Record) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of a recorded module by name, as ``state_dict()`` would.

    Raises:
        ValueError: If this is no module, or if it is endless.
    """
    tensors = {
        f"{path}.{key}".lstrip("."): value
        for path, part in modules(module).items()
        for kind in ("_parameters", "_buffers")
        for key, value in _mapping(part, kind).items()
        if isinstance(value, StoredTensor) and key not in _transient(part)
    }
    held = {value.storage.file: value.storage.length for value in tensors.values()}
    if sum(math.prod(value.size) for value in tensors.values()) > 2 * sum(held.values()):
        raise ValueError("declares more numbers than it has: refused")
    return {name: value.load() for name, value in tensors.items()}


def modules(module: Record, limit: int = 20_000) -> dict[str, Record]:
    """Return all modules within a recorded one by path, itself as "".

    Raises:
        ValueError: If this is no module, or if there are more than ``limit``: they can hold each other.
    """
    parts: dict[str, Record] = {}
    pending: list[tuple[str, object]] = [("", module)]
    while pending:
        path, part = pending.pop()
        if not isinstance(part, Record):
            raise ValueError(f"holds no module at {path or 'its root'}")
        parts[path] = part
        if len(parts) > limit:
            raise ValueError(f"holds more than {limit} modules")
        pending += [(f"{path}.{key}".lstrip("."), child) for key, child in _mapping(part, "_modules").items() if child]
    return parts


def _mapping(part: Record, name: str) -> dict[str, Any]:
    """Return an attribute that is a dictionary in every module; a record may have anything there."""
    value = part.attributes.get(name)
    return value if isinstance(value, dict) else {}


def _transient(part: Record) -> set[str]:
    """Return the names of the buffers that no state dict holds."""
    names = part.attributes.get("_non_persistent_buffers_set")
    return names if isinstance(names, set) else set()


def _read(archive: zipfile.ZipFile, size: int) -> Any:
    files = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in files if name.rsplit("/", 1)[-1] == "data.pkl"]
    if any("/code/" in name or name.endswith("constants.pkl") for name in files):
        raise ValueError("is a TorchScript program, not a checkpoint: give the .pt that it was exported from")
    if len(roots) != 1:
        raise ValueError("is a zip file, but no PyTorch checkpoint: it has no data.pkl")
    if any(info.compress_type != zipfile.ZIP_STORED for info in files.values()):
        raise ValueError("is compressed, which PyTorch never does: refused, it may be a zip bomb")
    if sum(info.file_size for info in files.values()) > size:
        raise ValueError("declares more content than it has: refused, it may be a zip bomb")
    if files[f"{roots[0]}data.pkl"].file_size > MAX_PICKLE:
        raise ValueError(f"has a pickle of more than {MAX_PICKLE >> 20} MB: refused")
    order = f"{roots[0]}byteorder"
    if order in files and archive.read(order) != b"little":
        raise ValueError("was written on a big-endian machine, which is not supported")
    program = archive.read(f"{roots[0]}data.pkl")
    _scan(program)
    try:
        return _Unpickler(program, archive, roots[0]).load()
    except _Refused:
        raise
    except Exception as e:  # whatever a broken program makes the unpickler raise
        raise ValueError(f"is damaged: its pickle cannot be read ({type(e).__name__}: {e})") from e


class _Refused(ValueError):
    """Something that a checkpoint has no need of."""


def _scan(program: bytes) -> None:
    """Go through a pickle's instructions without following them: refuse names, and sizes that would be allocated."""
    try:
        for instruction, argument, _ in pickletools.genops(program):
            if instruction.name in {"GLOBAL", "INST"}:
                _kind(*str(argument).split(" ", 1))
            elif instruction.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > len(program):
                raise _Refused(f"declares a memo of {argument} entries: refused, so much memory it has no need of")
    except _Refused:
        raise
    except Exception as e:  # whatever it trips over
        raise ValueError(f"is damaged: its pickle cannot be read ({e})") from e


def _kind(module: str, name: str) -> str:
    """Return what a name stands for in a checkpoint: an allowed one, or a refusal by name."""
    full = f"{module.replace('__builtin__', 'builtins')}.{name}"
    if module == "torch" and name in DTYPES:
        return "storage"
    if full in {"collections.OrderedDict", "builtins.set"}:
        return "container"
    if full in {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}:
        return "tensor"
    if full in VALUES or full.startswith(FOREIGN):
        return "record"
    hint = " (this looks like a YOLOv5 or YOLOv7 checkpoint)" if module.startswith(("models.", "utils.")) else ""
    raise _Refused(f"is refused: it calls for {full}, which no checkpoint of SpikeYOLO needs{hint}; nothing was run")


class _Unpickler(pickle.Unpickler):
    """Follows a pickle with replacements for everything that it names."""

    def __init__(self, program: bytes, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(program))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name."""
        kind = _kind(module, name)
        if kind == "container":
            return OrderedDict if name == "OrderedDict" else set
        if kind == "tensor":
            return _Rebuild(name)
        if kind == "storage":
            return _Storage(self.archive, "", DTYPES[name], 0)
        return type(name, (Record,), {"module": module, "name": name})

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage by its key."""
        tag, kind, key, _, count = pid
        if tag != "storage" or not isinstance(kind, _Storage):
            raise ValueError(f"unknown storage {tag!r}")
        return kind._replace(file=f"{self.root}data/{key}", length=count)


class _Storage(NamedTuple):
    """Where the numbers of tensors are: nothing is read before it is asked for."""

    archive: zipfile.ZipFile
    file: str
    dtype: torch.dtype
    length: int

    def load(self) -> Tensor:
        """Return the numbers, (count,)."""
        if not self.length:
            return torch.empty(0, dtype=self.dtype)
        data = self.archive.read(self.file)
        if self.length * self.dtype.itemsize > len(data):
            raise ValueError(f"is truncated: {self.file} has {len(data)} bytes for {self.length} numbers")
        return torch.frombuffer(bytearray(data), dtype=self.dtype, count=self.length)


class StoredTensor(NamedTuple):
    """A tensor in the file."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Return the tensor.

        Raises:
            ValueError: If the file does not have it.
        """
        try:
            return self.storage.load().as_strided(self.size, self.stride, self.offset)
        except (KeyError, RuntimeError, OverflowError, zipfile.BadZipFile) as e:
            raise ValueError(f"is damaged: a tensor of size {self.size} cannot be read ({e})") from e


class _Rebuild(NamedTuple):
    """What stands for torch's functions that rebuild tensors and parameters."""

    name: str

    def __call__(self, source: Any, *how: Any) -> StoredTensor:
        """Note where the tensor is."""
        if self.name == "_rebuild_parameter" and isinstance(source, StoredTensor):
            return source
        offset, size, stride = how[:3]
        if not isinstance(source, _Storage) or not isinstance(source.length, int) or source.length < 0:
            raise ValueError("a tensor without storage")
        if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise ValueError(f"impossible tensor of size {size}, stride {stride}, offset {offset}")
        if math.prod(size) > source.length:
            raise _Refused(f"declares a tensor of size {tuple(size)}, but {source.length} numbers for it: refused")
        return StoredTensor(source, offset, tuple(size), tuple(stride))


def _what_else(file: Path) -> str:
    """Say what a file is that is no zip file."""
    with file.open("rb") as f:
        head = f.read(4096)
    if not head:
        return "is empty: copy it again"
    if head[:4] == b"PK\x03\x04":
        return "is truncated: copy it again"
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**32:
        return "is a safetensors file, which holds weights, but no network: give the trainer's .pt"
    if head[:2] == b"\x80\x02" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in head:
        return "is in PyTorch's format from before version 1.6, which is not supported: save it again with a newer one"
    return "is no PyTorch checkpoint (.pt)"
