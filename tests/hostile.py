"""Checkpoints that a stranger could write: small files that once took hours or gigabytes to read."""

import struct
import zipfile
from pathlib import Path

PROTO = b"\x80\x02"


def write(path: Path, program: bytes, *, storages=None, compress=zipfile.ZIP_STORED, **more) -> Path:
    """Write a checkpoint of a pickle program and the bytes of its storages by key."""
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("net/data.pkl", program)
        for key, data in (storages or {}).items():
            archive.writestr(f"net/data/{key}", data)
        for name, data in more.items():
            archive.writestr(f"net/{name}", data)
    return path


def text(string: str) -> bytes:
    """Return the instruction that pushes a text."""
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def whole(number: int) -> bytes:
    """Return the instruction that pushes a whole number."""
    if 0 <= number < 2**16:
        return b"M" + struct.pack("<H", number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return (b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data))) + data


def put(n: int) -> bytes:
    """Return the instruction that remembers what is on top of the stack."""
    return b"r" + struct.pack("<I", n)


def get(n: int) -> bytes:
    """Return the instruction that pushes what was remembered."""
    return b"j" + struct.pack("<I", n)


def storage(key: str, count: bytes, kind: str = "FloatStorage") -> bytes:
    """Push a storage."""
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + count + b"tQ"


def tensor(where: bytes, size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    """Push a tensor on a storage."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + offset + size + stride + b"\x89NtR"


def mapping(**entries: bytes) -> bytes:
    """Push a dictionary."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def module(name: str = "torch.nn.modules.container\nSequential", *, remember: int = 0, **state: bytes) -> bytes:
    """Push a recorded module; it is remembered before its state is given, which may then hold it."""
    full = {"_parameters": b"}", "_buffers": b"}", "_modules": b"}"} | state
    return b"c" + name.encode() + b"\n)\x81" + (put(remember) if remember else b"") + mapping(**full) + b"b"


NETWORK = "ultralytics.nn.tasks\nDetectionModel"


def checkpoint(network: bytes) -> bytes:
    """Return the program of a checkpoint of a network."""
    return PROTO + mapping(model=network) + b"."


def _nested_tuples(depth: int) -> bytes:
    """Two of each below it: 2^depth of them for whoever follows all paths; (((1, 1), (1, 1)), ...)."""
    return b"K\x01" + b"".join(put(n) + get(n) + b"\x86" for n in range(1, depth + 1))


def files(folder: Path) -> dict[str, Path]:
    """Write the hostile files; return them by name."""
    loop = module(remember=1, _modules=mapping(**{"a" * 60_000: get(1)}))
    unnamed = module(remember=1, _modules=b"}" + text("") + get(1) + b"s")
    doubled = b"".join(  # 40 modules, each of which holds the one before twice
        module(remember=n, _modules=mapping(a=get(n - 1), b=get(n - 1)) if n > 1 else b"}") for n in range(1, 41)
    )
    collisions = b"}(" + b"".join(whole(i * (2**61 - 1)) + b"N" for i in range(30_000)) + b"u"
    views = b"".join(
        text(f"t{i}") + tensor(get(1) if i else storage("0", whole(10 * 2**20)) + put(1), b"K\x01\x85", b"K\x01\x85")
        for i in range(600)
    )
    large_number = 10 ** (10**6)
    programs = {
        "empty lists": (PROTO + b"](" + b"]" * 30_000_000 + b"e.", {}),
        "empty dictionaries": (PROTO + b"](" + b"}" * 2_000_000 + b"e.", {}),
        "nested lists": (PROTO + b"]" * 1_000_000 + b"a" * 999_999 + b".", {}),
        "doubled tuples": (PROTO + b"}" + _nested_tuples(200) + b"Ns.", {}),
        "doubled key": (PROTO + b"}" + _nested_tuples(35) + b"Ns.", {}),
        "deep key": (PROTO + b"}K\x01" + b"\x85" * 1_000_000 + b"Ns.", {}),
        "colliding keys": (PROTO + collisions + b".", {}),
        "huge number": (PROTO + whole(large_number) + b".", {}),
        "many sides": (
            PROTO
            + tensor(storage("0", b"K\x01"), b"(" + whole(2**120) * 300_000 + b"t", b"(" + b"K\x01" * 300_000 + b"t")
            + b".",
            {"0": bytes(4)},
        ),
        "huge sides": (
            PROTO + tensor(storage("0", b"K\x01"), b"(" + whole(2**900) * 30 + b"t", b"K\x01\x85") + b".",
            {"0": bytes(4)},
        ),
        "cyclic module with a long name": (checkpoint(loop), {}),
        "cyclic module without a name": (checkpoint(unnamed), {}),
        "doubled modules": (PROTO + b"](" + doubled + b"e" + mapping(model=get(40)) + b".", {}),
        "600 tensors on one storage": (
            checkpoint(module(NETWORK, _parameters=b"}(" + views + b"u")), {"0": bytes(40 * 2**20)}
        ),
        "one state for many": (
            PROTO + b"}(" + b"".join(text(f"{i:05}") + b"N" for i in range(50_000)) + b"u" + put(1) + b"]("
            + (b"ctorch.nn.modules.linear\nIdentity\n)\x81" + get(1) + b"b") * 20_000 + b"e.",
            {},
        ),
        "one list for many sets": (
            PROTO + b"](" + b"".join(text(f"{i:05}") for i in range(50_000)) + b"e" + put(1)
            + b"](" + (b"c__builtin__\nset\n" + get(1) + b"\x85R") * 20_000 + b"e.",
            {},
        ),
        "many classes": (PROTO + b"](" + b"ctorch.nn.modules.a\nB\n" * 200_000 + b"e.", {}),
        "long name": (PROTO + b"cos\n" + b"a" * 5_000_000 + b"\n.", {}),
        "loop of DUP": (PROTO + b"]" + b"2a" * 500_000 + b".", {}),
    }  # fmt: skip
    written = {name: write(folder / f"{i}.pt", p, storages=s) for i, (name, (p, s)) in enumerate(programs.items())}
    with zipfile.ZipFile(folder / "entries.pt", "w") as archive:
        archive.writestr("net/data.pkl", PROTO + b"N.")
        for i in range(65_000):
            archive.writestr(f"net/data/{i}", b"")
    written["65,000 entries"] = folder / "entries.pt"
    content = write(folder / "twice.pt", PROTO + b"N.", storages={"a": bytes(8), "b": bytes(8)}).read_bytes()
    written["two entries of one name"] = folder / "twice.pt"
    (folder / "twice.pt").write_bytes(content.replace(b"net/data/b", b"net/data/a"))
    content = write(folder / "overlap.pt", PROTO + b"N.", storages={"a": bytes(2**20), "b": bytes(8)}).read_bytes()
    written["overlapping entries"] = folder / "overlap.pt"
    second = content.rindex(b"PK\x01\x02")
    first = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    entry = bytearray(content[second:])
    entry[16:28], entry[42:46] = content[first + 16 : first + 28], content[first + 42 : first + 46]
    (folder / "overlap.pt").write_bytes(content[:second] + entry)
    return written
