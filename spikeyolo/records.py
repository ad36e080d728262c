"""Read a PyTorch checkpoint without executing anything from it.

A checkpoint is a zip file with a pickle, and a pickle is a program: it calls whatever it names. Here the few
instructions that ``torch.save`` writes are followed by code of our own: tensors and plain containers are rebuilt, each
foreign class becomes an inert `Record`, every other name and instruction is refused. Nothing is imported. Time and
memory are bounded by the size of the file: no instruction copies what another one has made. Needs torch alone.
"""

from __future__ import annotations

import io
import math
import pickletools
import reprlib
import struct
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_FILE = 2**32  # bytes, of which a checkpoint is read at once
MAX_PICKLE = 2**24  # bytes; the largest published network has 2 million
MAX_ENTRIES = 2**14  # files in the archive: one for each tensor, some thousands
INSTRUCTIONS = 2**18  # of a pickle, and one more for each 16 bytes of the file: large networks are mostly weights
MAX_PATHS = 2**22  # characters of all names of modules together: modules can hold each other
MAX_NAME = 200  # characters of a module's or tensor's own name
MAX_DIMS = 16
FOREIGN = ("ultralytics.", "torch.nn.modules.", "spikeyolo.")  # modules whose classes become records
VALUES = {  # and what else a trainer writes beside tensors: numbers of numpy, paths, devices
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.device",
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


def shown(value: object) -> str:
    """Return a value of a stranger's as a short text without control characters."""
    return _SHORT.repr(value)


def told(error: Exception) -> str:
    """Return what an error that a stranger's value has caused says, as a short text without control characters."""
    text = str(error.args[0] if error.args else "")[:MAX_NAME]
    return "".join(c if c.isprintable() else " " for c in text).strip() or type(error).__name__


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


@dataclass(eq=False, repr=False)
class Record:
    """Inert stand-in for an object of a class that is not imported: its attributes, and no behaviour.

    Args:
        module: Where the class was.
        name: Its name.
        attributes: What the object had.
    """

    module: str = ""
    name: str = ""
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return f"<{self.name[:MAX_NAME]}>"


@dataclass(frozen=True, eq=False)
class Method:
    """A method of a recorded object, by name: what a fused network has in the place of ``forward``."""

    of: Record
    name: str


class Untrusted(ValueError):
    """A checkpoint holds what only a program could be meant to do."""


class _Refused(ValueError):
    """A checkpoint holds what none has need of."""


def read_checkpoint(file: str | Path) -> Any:
    """Return what a PyTorch checkpoint (.pt) holds: plain containers, tensors, and records of everything else.

    Raises:
        OSError: If the file cannot be read.
        Untrusted: If it names anything that a checkpoint has no need of.
        ValueError: If it is no checkpoint, is damaged, or would take more time or memory than a checkpoint of its size.
    """
    file = Path(file)
    if file.stat().st_size > MAX_FILE:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes, more than any checkpoint: refused")
    content = file.read_bytes()
    try:
        return _read(content)
    except zipfile.BadZipFile as e:
        raise ValueError(f"{file} {_what_else(content)}") from e
    except Untrusted as e:
        raise Untrusted(f"{file} {e}") from e
    except (RuntimeError, ValueError) as e:
        raise ValueError(f"{file} {e}") from e


def state_dict(module: Record) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of a recorded module by name, as ``state_dict()`` would.

    Raises:
        ValueError: If this is no module, or if it is endless.
    """
    tensors = {
        f"{path}.{name_of(key)}".lstrip("."): value
        for path, part in modules(module).items()
        for kind in ("_parameters", "_buffers")
        for key, value in mapping_of(part, kind).items()
        if isinstance(value, StoredTensor) and key not in transient(part)
    }
    held = {value.storage.file: value.storage.length for value in tensors.values()}
    if sum(math.prod(value.size) for value in tensors.values()) > 2 * sum(held.values()):
        raise ValueError("declares more numbers than it has: refused")
    return {name: value.load() for name, value in tensors.items()}


def modules(module: Record) -> dict[str, Record]:
    """Return all modules within a recorded one by path, itself as "".

    Raises:
        ValueError: If this is no module, or if it is endless: modules can hold each other.
    """
    parts: dict[str, Record] = {}
    pending: list[tuple[str, object]] = [("", module)]
    left = MAX_PATHS
    while pending:
        path, part = pending.pop()
        if not isinstance(part, Record):
            raise ValueError(f"holds no module at {path or 'its root'}")
        parts[path] = part
        for key, child in mapping_of(part, "_modules").items():
            if child is not None:
                pending.append((f"{path}.{name_of(key)}".lstrip("."), child))
                left -= len(pending[-1][0])
        if left < 0:
            raise ValueError("holds modules without end: refused")
    return parts


def name_of(key: object) -> str:
    """Return the name of a module or tensor in another one.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(key, str) or not key or len(key) > MAX_NAME or "." in key or not key.isprintable():
        raise ValueError(f"has {shown(key)} for the name of a module or tensor: refused")
    return key


def mapping_of(part: Record, name: str) -> dict[str, Any]:
    """Return an attribute that is a dictionary in every module; a record may have anything there."""
    value = part.attributes.get(name)
    return value if isinstance(value, dict) else {}


def transient(part: Record) -> set[str]:
    """Return the names of the buffers that no state dict holds."""
    names = part.attributes.get("_non_persistent_buffers_set")
    return names if isinstance(names, set) else set()


def _read(content: bytes) -> Any:
    if content.count(b"PK\x01\x02") > MAX_ENTRIES:  # before a record of each is made
        raise ValueError(f"has more than {MAX_ENTRIES:,} entries: refused")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except struct.error as e:
        raise zipfile.BadZipFile from e
    entries = archive.infolist()
    files = {info.filename: info for info in entries}
    if len(files) < len(entries):
        raise ValueError("has two entries of one name: refused")
    roots = [name.removesuffix("data.pkl") for name in files if name.rsplit("/", 1)[-1] == "data.pkl"]
    if any("/code/" in name or name.endswith("constants.pkl") for name in files):
        raise ValueError("is a TorchScript program, not a checkpoint: give the .pt that it was exported from")
    if len(roots) != 1:
        raise ValueError("is a zip file, but no PyTorch checkpoint: it has no data.pkl")
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries):
        raise ValueError("is compressed, which PyTorch never does: refused, it may be a zip bomb")
    if sum(info.file_size for info in entries) > len(content):
        raise ValueError("declares more content than it has: refused, it may be a zip bomb")
    if files[f"{roots[0]}data.pkl"].file_size > MAX_PICKLE:
        raise ValueError(f"has a pickle of more than {MAX_PICKLE >> 20} MB: refused")
    order = f"{roots[0]}byteorder"
    if order in files and archive.read(order) != b"little":
        raise ValueError("was written on a big-endian machine, which is not supported")
    program = archive.read(f"{roots[0]}data.pkl")
    reader = _Reader(archive, roots[0], INSTRUCTIONS + len(content) // 16)
    try:
        return reader.run(program)
    except (Untrusted, _Refused):
        raise
    except Exception as e:  # whatever a broken program makes the reader trip over
        raise ValueError(f"is damaged: its pickle cannot be read ({type(e).__name__}: {told(e)})") from e


@dataclass(frozen=True, eq=False, repr=False)
class _Name:
    """What a pickle names: an entry of the groups above."""

    kind: str
    module: str
    name: str

    def __repr__(self) -> str:
        return f"<{self.module}.{self.name}>"


def _named(module: str, name: str) -> _Name:
    """Return what a name stands for in a checkpoint: an allowed one, or a refusal by name."""
    full = f"{module.replace('__builtin__', 'builtins')}.{name}"
    if module == "torch" and name in DTYPES:
        return _Name("storage", module, name)
    if full in CALLED:
        return _Name(CALLED[full], module, name)
    if full in VALUES or full.startswith(FOREIGN):
        return _Name("record", module, name)
    hint = " (this looks like a YOLOv5 or YOLOv7 checkpoint)" if module.startswith(("models.", "utils.")) else ""
    text = shown(full)[1:-1]
    raise Untrusted(f"is refused: it calls for {text}, which no checkpoint of SpikeYOLO needs{hint}; nothing was run")


CALLED = {  # functions and types that are called, and what is done in their place
    "collections.OrderedDict": "mapping",
    "builtins.set": "set",
    "builtins.getattr": "method",
    "torch.Size": "size",
    "torch._utils._rebuild_tensor_v2": "tensor",
    "torch._utils._rebuild_parameter": "parameter",
}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Reader:
    """Follows a pickle: one small step for each instruction, none of which copies what another one has made."""

    def __init__(self, archive: zipfile.ZipFile, root: str, instructions: int):
        self.archive, self.root = archive, root
        self.instructions = self.left = instructions
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        self.held = self.declared = 0  # bytes of all storages, of all tensors

    def run(self, program: bytes) -> Any:
        """Return what the program makes."""
        for instruction, argument, _ in pickletools.genops(program):
            self.spend(1)
            if instruction.name == "STOP":
                break
            self.step(instruction.name, argument)
        return self.stack.pop()

    def spend(self, steps: int) -> None:
        """Count steps, and refuse to go on where there are too many."""
        self.left -= steps
        if self.left < 0:
            raise _Refused(
                f"has a pickle of more than {self.instructions:,} instructions, too many for its size: refused"
            )

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if name in LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 128:
                raise _Refused("has a whole number of more than 128 bits: refused")
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in TUPLES:
            items = tuple(stack[-TUPLES[name] :])
            del stack[-TUPLES[name] :]
            stack.append(items)
        elif name == "TUPLE":
            items = tuple(self.take())
            stack.append(items)
        elif name == "APPEND":
            item = stack.pop()
            _checked(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = self.take()
            _checked(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            if name == "SETITEM":
                self.marks.append(len(stack) - 2)
            items = self.take()
            target = _checked(stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = _checked(stack.pop(), tuple)
            called = _checked(stack.pop(), _Name)
            stack.append(self.call(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(self.storage(*_checked(stack.pop(), tuple)))
        elif name != "PROTO" or argument != 2:
            raise _Refused(f"has the instruction {name} in its pickle, which torch.save does not write: refused")

    def take(self) -> list[Any]:
        """Take from the stack what is above the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def call(self, called: _Name, arguments: tuple[Any, ...]) -> Any:
        """Do what stands for the call of a name."""
        if called.kind == "record":
            return Record(called.module, called.name)
        if called.kind == "mapping" and not arguments:
            return {}
        if called.kind == "set":
            (items,) = arguments
            self.spend(len(_checked(items, list)))
            return {_key(item) for item in items}
        if called.kind == "size":
            (sizes,) = arguments
            return _checked(sizes, tuple)
        if called.kind == "method":
            owner, name = arguments
            if isinstance(owner, Record) and name in ("forward", "forward_fuse"):
                return Method(owner, name)
        if called.kind == "parameter":
            source, trained = arguments[:2]
            return replace(_checked(source, StoredTensor), requires_grad=trained is True)
        if called.kind == "tensor":
            return self.tensor(*arguments[:5])
        full = f"{called.module.replace('__builtin__', 'builtins')}.{called.name}"
        raise Untrusted(f"is refused: it calls {full} in a way that no checkpoint of SpikeYOLO needs; nothing was run")

    def storage(self, tag: object, kind: object, key: object, _: object, length: object) -> _Storage:
        """Return a storage by its key."""
        if tag != "storage" or not isinstance(kind, _Name) or kind.kind != "storage" or not isinstance(key, str):
            raise ValueError("unknown storage")
        if type(length) is not int or length < 0:
            raise ValueError(f"a storage of {shown(length)} numbers")
        dtype, file = DTYPES[kind.name], f"{self.root}data/{key}"
        found = self.storages.get(key)
        if found is None:
            size = self.archive.getinfo(file).file_size if length else 0
            if length * dtype.itemsize > size:
                raise _Refused(f"is truncated: {shown(file)} has {size} bytes for {shown(length)} numbers")
            self.held += length * dtype.itemsize
            found = self.storages[key] = _Storage(self.archive, file, dtype, length)
        if (found.dtype, found.length) != (dtype, length):
            raise _Refused(f"takes {shown(file)} for two storages: refused")
        return found

    def tensor(self, storage: object, offset: Any, size: Any, stride: Any, trained: object = False) -> StoredTensor:
        """Note where a tensor is."""
        if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise ValueError("a tensor without storage")
        numbers = (offset, *size[: MAX_DIMS + 1], *stride[: MAX_DIMS + 1])
        if max(len(size), len(stride)) > MAX_DIMS or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise ValueError(f"impossible tensor of size {shown(size)}, stride {shown(stride)}, offset {shown(offset)}")
        count = math.prod(size)
        if count > storage.length:
            raise _Refused(f"declares a tensor of size {size}, but {storage.length} numbers for it: refused")
        self.declared += count * storage.dtype.itemsize
        if self.declared > 2 * self.held:
            raise _Refused("declares more numbers than it has: refused")
        return StoredTensor(storage, offset, size, stride, trained is True)


def _checked(value: Any, kind: type) -> Any:
    """Return a value of a type."""
    if type(value) is not kind:
        raise TypeError(f"{shown(value)} is no {kind.__name__.strip('_')}")
    return value


def _key(key: object) -> str | int:
    """Return a key of a dictionary: of other ones, many can be made that fall on one place in it."""
    if not isinstance(key, str) and not (isinstance(key, int) and -(2**63) <= key < 2**63):
        raise _Refused(
            f"has the key {shown(key)} in a dictionary or set, where a checkpoint has text and numbers: refused"
        )
    return key


def _build(target: object, state: object) -> None:
    """Give a record its attributes; of other states, such as numpy's or the notes of a state dict, nothing is kept."""
    if isinstance(target, Record) and isinstance(state, dict):
        if target.attributes:
            raise ValueError(f"{target} has two states")
        target.attributes = state
    elif not isinstance(target, (Record, dict)):
        raise TypeError(f"{shown(target)} has a state")


@dataclass(eq=False, repr=False)
class _Storage:
    """Where the numbers of tensors are: nothing is read before it is asked for, and once for all of them."""

    archive: zipfile.ZipFile
    file: str
    dtype: torch.dtype
    length: int
    numbers: Tensor | None = None

    def load(self) -> Tensor:
        """Return the numbers, (length,)."""
        if self.numbers is None:
            data = bytearray(self.archive.read(self.file) if self.length else b"")
            empty = torch.empty(0, dtype=self.dtype)
            self.numbers = torch.frombuffer(data, dtype=self.dtype, count=self.length) if self.length else empty
        return self.numbers


@dataclass(frozen=True, eq=False, repr=False)
class StoredTensor:
    """A tensor in the file."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False

    def __repr__(self) -> str:
        return f"<tensor {self.size}>"

    def load(self) -> Tensor:
        """Return the tensor; tensors of one storage share their numbers.

        Raises:
            ValueError: If the file does not have it.
        """
        try:
            return self.storage.load().as_strided(self.size, self.stride, self.offset)
        except (KeyError, RuntimeError, OverflowError, zipfile.BadZipFile) as e:
            raise ValueError(f"is damaged: a tensor of size {self.size} cannot be read ({e})") from e


def _what_else(content: bytes) -> str:
    """Say what a file is that is no zip file."""
    head = content[:4096]
    if not head:
        return "is empty: copy it again"
    if head[:4] == b"PK\x03\x04":
        return "is truncated: copy it again"
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**32:
        return "is a safetensors file, which holds weights, but no network: give the trainer's .pt"
    if head[:2] == b"\x80\x02" and b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in head:
        return "is in PyTorch's format from before version 1.6, which is not supported: save it again with a newer one"
    return "is no PyTorch checkpoint (.pt)"
