"""Nothing in a checkpoint is executed, whatever it holds; and what it holds is read right."""

import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import files, storage, tensor, text, whole, write

from spikeyolo.records import Method, Record, StoredTensor, modules, read_checkpoint, shown, state_dict

VECTORS = Path(__file__).parent / "vectors"


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


MARK = "was-run"  # a file that a hostile program makes in the current folder
SHELL = f"touch {MARK}"
TOUCH = f"__import__('pathlib').Path('{MARK}').touch()"


def tensor_program(numbers, size, stride=b"(K\x01t"):
    """Return a pickle of one tensor with arbitrary numbers: that of its storage, its size and stride."""
    return b"\x80\x02" + tensor(storage("0", numbers), size, stride) + b"."


HUGE = whole(10**12)
PROGRAMS = {
    "os.system": (pickle.dumps(Call(os.system, SHELL), 2), r"posix\.system"),
    "protocol 0": (b"cos\nsystem\n(S'" + SHELL.encode() + b"'\ntR.", r"os\.system"),
    "protocol 4": (pickle.dumps(Call(os.system, SHELL), 4), "instruction PROTO in its pickle"),
    "eval": (pickle.dumps(Call(eval, TOUCH), 2), r"builtins\.eval"),
    "exec": (pickle.dumps(Call(exec, TOUCH), 2), r"builtins\.exec"),
    "getattr": (pickle.dumps(Call(getattr, [], "append"), 2), r"builtins\.getattr"),
    "instance": (b"(S'" + SHELL.encode() + b"'\nios\nsystem\n.", "instruction STRING"),
    "instance of what is allowed": (b"(iultralytics.nn.tasks\nattempt_load_weights\n.", "instruction INST"),
    "object": (b"(cos\nsystem\nS'" + SHELL.encode() + b"'\no.", r"os\.system"),
    "object of what is allowed": (b"(cultralytics.nn.tasks\nattempt_load_weights\no.", "instruction OBJ"),
    "name from the stack": (b"\x80\x02" + text("os") + text("system") + b"\x93.", "instruction STACK_GLOBAL"),
    "extension": (b"\x80\x02\x82\x01.", "instruction EXT1"),
    "nested": (pickle.dumps({"model": [Call(set, [Call(os.system, SHELL)])]}, 2), r"posix\.system"),
    "import": (b"\x80\x02cimportlib\nimport_module\n" + text("antigravity") + b"\x85R.", r"importlib\.import_module"),
    "torch.load": (b"\x80\x02ctorch\nload\n" + text("x.pt") + b"\x85R.", r"torch\.load"),
    "subprocess": (b"\x80\x02csubprocess\nPopen\n]" + text(SHELL) + b"a\x85R.", r"subprocess\.Popen"),
    "in a state": (
        b"\x80\x02cultralytics.nn.tasks\nDetectionModel\n)\x81}" + text("_modules") + b"cos\nsystem\n"
        + text(SHELL) + b"\x85Rsb.",
        r"os\.system",
    ),
    "late": (b"\x80\x02}" + text("model") + b"Nscos\nsystem\n" + text(SHELL) + b"\x85R.", r"os\.system"),
    "memo": (b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"0.", "instruction POP"),
    "bytes": (b"\x80\x02\x96" + struct.pack("<Q", 2**40) + b"x.", "damaged"),
    "text": (b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"x.", "damaged"),
    "number": (b"\x80\x02" + whole(2**200) + b".", "whole number of more than 128 bits"),
    "long number": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.", "damaged"),
    "never remembered": (b"\x80\x02h\x01.", "damaged"),
    "method": (b"\x80\x02c__builtin__\ngetattr\nN" + text("forward") + b"\x86R.", r"builtins\.getattr"),
    "two states": (b"\x80\x02cultralytics.nn.tasks\nX\n)\x81}" + text("a") + b"Nsb}b.", "two states"),
    "key": (b"\x80\x02}G" + struct.pack(">d", 0.5) + b"Ns.", r"has the key 0\.5"),
    "member": (b"\x80\x02c__builtin__\nset\n]N\x85a\x85R.", r"has the key \(None,\)"),
    "tensor": (tensor_program(b"K\x01", b"(" + HUGE + b"t", b"(K\x00t"), r"declares a tensor of size \(10000"),
    "negative": (tensor_program(b"K\x01", b"(J\xff\xff\xff\xfft"), "impossible tensor"),
    "set attribute": (b"\x80\x02ccollections\nOrderedDict\nN}" + text("x") + b"K\x01s\x86b.", "damaged"),
    "mapping of pairs": (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", r"collections\.OrderedDict in a way"),
    "stack": (b"\x80\x02s.", "damaged"),
    "nothing": (b"\x80\x02", "damaged"),
    "not a pickle": (b"\xff\xff\xff", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_programs_do_nothing_and_are_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, message = PROGRAMS[name]
    file = write(tmp_path / "evil.pt", program, storages={"0": bytes(4)})
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as e:
        read_checkpoint(file)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert str(file) in str(e.value)
    assert not Path(MARK).exists()


def test_the_hostile_programs_would_have_worked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "protocol 0", "protocol 4", "eval", "exec", "instance", "object", "nested"):
        pickle.loads(PROGRAMS[name][0])
        assert Path(MARK).exists(), name
        Path(MARK).unlink()


def test_bombs_are_refused(tmp_path):
    program = pickle.dumps({})
    with pytest.raises(ValueError, match="is compressed"):
        read_checkpoint(write(tmp_path / "a.pt", program + bytes(10**7), compress=zipfile.ZIP_DEFLATED))
    # a storage that is not there, one that is too short, and files that share their bytes
    program = tensor_program(b"M\xe8\x03", b"(M\xe8\x03t")
    with pytest.raises(ValueError, match="has 100 bytes for 1000 numbers"):
        read_checkpoint(write(tmp_path / "b.pt", program, storages={"0": bytes(100)}))
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(write(tmp_path / "c.pt", program))
    content = bytearray(write(tmp_path / "d.pt", program, storages={"0": bytes(4000)}).read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)  # sizes in the directory
    (tmp_path / "d.pt").write_bytes(content)
    with pytest.raises(ValueError, match="zip bomb"):
        read_checkpoint(tmp_path / "d.pt")


MEASURE = """
import json, resource, sys
from spikeyolo.records import read_checkpoint, state_dict

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

for name, file, size in json.load(sys.stdin):
    resource.setrlimit(resource.RLIMIT_AS, (used() + 2**26 + 12 * size, resource.RLIM_INFINITY))
    try:
        content = read_checkpoint(file)
        if isinstance(content, dict) and "model" in content:
            state_dict(content["model"])
        said = "read"
    except ValueError as e:
        said = str(e)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    content = None
    print(json.dumps([name, said]), flush=True)
"""
SAID = {
    "empty lists": "a pickle of more than 16 MB",
    "empty dictionaries": "instructions, too many for its size",
    "nested lists": "instructions, too many for its size",
    "doubled tuples": "has the key (((",
    "doubled key": "has the key (((",
    "deep key": "instructions, too many for its size",
    "colliding keys": "has the key 11529215046068469755",
    "huge number": "instruction LONG4",
    "many sides": "impossible tensor of size",
    "huge sides": "whole number of more than 128 bits",
    "cyclic module with a long name": "for the name of a module",
    "cyclic module without a name": "has '' for the name of a module",
    "doubled modules": "modules without end",
    "600 tensors on one storage": "read",
    "one state for many": "read",
    "one list for many sets": "instructions, too many for its size",
    "many classes": "read",
    "long name": "calls for os.aaaa",
    "loop of DUP": "instruction DUP",
    "65,000 entries": "has more than 16,384 entries",
    "two entries of one name": "two entries of one name",
    "overlapping entries": "more content than it has",
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what /proc tells")
def test_hostile_files_take_no_more_than_their_size(tmp_path):
    """In a process that has 64 MB and 12 times the file's size; what once hung or took gigabytes ends in seconds."""
    written = files(tmp_path)
    assert written.keys() == SAID.keys()
    about = json.dumps([[name, str(file), file.stat().st_size] for name, file in written.items()])
    command = [sys.executable, "-c", MEASURE]
    try:
        done = subprocess.run(command, input=about, capture_output=True, text=True, timeout=240, check=False)
    finally:
        for file in written.values():
            file.unlink()
    said = dict(map(json.loads, done.stdout.splitlines()))
    assert said.keys() == SAID.keys(), done.stderr[-2000:]
    assert {name: text for name, text in said.items() if SAID[name] not in text} == {}
    assert max(map(len, said.values())) < 500
    assert all(text.isprintable() for text in said.values())


def record(children):
    found = Record()
    found.attributes.update({"_modules": children, "_parameters": {}, "_buffers": {}})
    return found


def test_networks_without_end_are_refused():
    loop = record({})
    loop.attributes["_modules"]["again"] = loop
    with pytest.raises(ValueError, match="without end"):
        modules(loop)
    wide = record({})
    for _ in range(60):  # 2^60 paths, 60 modules
        wide = record({"a": wide, "b": wide})
    with pytest.raises(ValueError, match="without end"):
        modules(wide)
    for name in ("", "a.b", "a\n", "a" * 300, 5):
        with pytest.raises(ValueError, match="for the name of a module"):
            modules(record({name: record({})}))


def test_one_storage_makes_no_more_numbers_than_it_has(tmp_path):
    tensor = read_checkpoint(write(tmp_path / "a.pt", tensor_program(b"K\x01", b"(K\x01t"), storages={"0": bytes(4)}))
    assert isinstance(tensor, StoredTensor)
    network = record({})
    network.attributes["_parameters"] = dict.fromkeys("abc", tensor)
    with pytest.raises(ValueError, match="more numbers than it has"):
        state_dict(network)


def test_what_torch_saves_is_read_back(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    content = {
        "a": base.view(2, 3, 4).transpose(0, 2),
        "b": base[4:],
        "half": base.half(),
        "whole": torch.arange(3),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base.clone()),
        "plain": {"x": [1, -2, 3.5, None, True, "text"], 2: (1, 2), "set": {1, 2}, "big": 10**30},
        "ordered": OrderedDict(a=1),
        "numpy": np.float64(0.5),
        "size": base.shape,
    }
    torch.save(content, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert found.keys() == content.keys()
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[key].load(), value), key
    assert found["plain"] == content["plain"]
    assert found["ordered"] == content["ordered"]
    assert isinstance(found["numpy"], Record)


def test_tensors_of_one_storage_share_it(tmp_path):
    base = torch.arange(1000.0)
    torch.save([base[:10], base[5:]], tmp_path / "x.pt")
    first, second = (stored.load() for stored in read_checkpoint(tmp_path / "x.pt"))
    first[5] = 99
    assert second[0] == 99


def test_a_fused_network_names_its_method(tmp_path):
    from ultralytics.nn.modules import Conv

    layer = Conv(3, 4)
    layer.forward = layer.forward_fuse
    torch.save(layer, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    method = found.attributes["forward"]
    assert isinstance(method, Method)
    assert (method.of, method.name) == (found, "forward_fuse")


def test_what_is_shown_of_values_is_short_and_plain():
    doubled = ()
    for _ in range(100):
        doubled = (doubled, doubled)
    for value in ("a" * 10**6, "a\nb\x1b[31m\u202e", 10**30, doubled, {"a": [doubled] * 100}, Record("m", "n" * 10**6)):
        assert len(shown(value)) < 1000
        assert shown(value).isprintable()


def test_modules_become_records(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    network.register_buffer("passing", torch.zeros(2), persistent=False)
    torch.save({"model": network}, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")["model"]
    assert [(path, part.name) for path, part in sorted(modules(found).items())] == [
        ("", "Sequential"), ("0", "Conv2d"), ("1", "BatchNorm2d"),
    ]  # fmt: skip
    assert modules(found)["0"].attributes["stride"] == (1, 1)
    theirs = network.state_dict()
    ours = state_dict(found)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_official_checkpoint_is_read_as_torch_reads_it():
    """Torch's own unpickler with the same replacements, written the other way round."""
    file = VECTORS / "official_checkpoint.pt"
    ours = state_dict(read_checkpoint(file)["model"])
    reader = torch._C.PyTorchFileReader(str(file))
    keys = {name.rsplit("/", 1)[-1] for name in reader.get_all_records() if name.startswith("data/")}
    program = zipfile.ZipFile(file).read("official_checkpoint/data.pkl")
    used = {op.name for op, _, _ in pickletools.genops(program)}
    assert {"BUILD", "REDUCE", "BINPERSID"} <= used
    total = sum(value.numel() * value.element_size() for value in ours.values())
    stored = sum(len(reader.get_record(f"data/{key}")) for key in keys)
    assert 0.95 * stored <= total <= stored  # the rest are strides and anchors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04abc", "is truncated"),
        (struct.pack("<Q", 20) + b'{"__metadata__":{}}  ', "safetensors"),
        (b"hello", "no PyTorch checkpoint"),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "x.pt")


def test_other_formats_of_torch_are_named(tmp_path):
    network = torch.nn.Conv2d(3, 4, 3)
    torch.jit.trace(network, torch.zeros(1, 3, 8, 8)).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"before version 1\.6"):
        read_checkpoint(tmp_path / "old.pt")
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        read_checkpoint(tmp_path / "x.npz")
    torch.save({"a": torch.zeros(2000)}, tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read_checkpoint(tmp_path / "cut.pt")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pt")
