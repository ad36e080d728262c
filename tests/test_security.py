"""No word of `spikeyolo` runs what is in a model file, whatever it is; with trust=True it runs as in `yolo`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from networks import IBRA, calibrated, write_small
from ultralytics import YOLO

from spikeyolo import cli
from spikeyolo.data.clip import make_clip
from spikeyolo.measure.counting import CountedModel
from spikeyolo.show import pictures

MARK = "was-run"
WORDS = {  # each word that opens a model
    "report": ["source=images", "imgsz=64", "images=1"],
    "demo": ["source=clip.mp4", "imgsz=64"],
    "convert": ["data=DATA", "imgsz=64", "images=2"],
    "coco": ["images=IMAGES", "annotations=ANNOTATIONS", "imgsz=64"],
    "verify": ["source=images", "images=1"],
    "import": [],
}
TRUSTING = [word for word in WORDS if word != "import"]


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="module")
def files(tmp_path_factory, photos):
    """Networks that work, with a call beside them; files that are nothing but a call."""
    folder = tmp_path_factory.mktemp("strangers")
    call = Call(os.system, f"touch {MARK}")
    for name, neuron in {"spiking": IBRA, "ann": {"type": "relu"}}.items():
        torch.manual_seed(0)
        network = calibrated(write_small(folder / f"{name}.yaml", neuron, nc=10), photos).model
        network.names = {i: str(i) for i in range(10)}
        torch.save({"model": network, "train_args": {"imgsz": 64}, "about": call}, folder / f"{name}.pt")
        torch.save({"model": network, "train_args": {"imgsz": 64}}, folder / f"good-{name}.pt")
    torch.save(call, folder / "call.pt")
    torch.save({"model": call}, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Identity()).save(folder / "script.pt")
    images = folder / "images"
    images.mkdir()
    cv2.imwrite(str(images / "0.png"), np.full((64, 64, 3), 128, np.uint8))
    make_clip(folder / "clip.mp4", size=64, frames=2)
    return folder


def arguments(word, model, digits, files, out):
    """Return the command line of a word."""
    root = digits.parent
    known = {"DATA": digits, "IMAGES": root / "images/val", "ANNOTATIONS": root / "annotations/instances_val.json"}
    known |= {name: files / name for name in ("images", "clip.mp4")}
    words = [f"{key}={known.get(value, value)}" for key, value in (w.split("=") for w in WORDS[word])]
    if word == "verify":
        return [word, f"model={files / 'good-spiking.onnx'}", f"reference={files / model}", *words]
    return [word, f"model={files / model}", *words, *([] if word == "coco" else [f"project={out}"])]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ["spiking.pt", "ann.pt", "call.pt", "old.pt", "script.pt"])
def test_no_word_runs_what_is_in_a_checkpoint(word, name, files, digits, tmp_path, monkeypatch, spikeyolo, capsys):
    monkeypatch.chdir(tmp_path)
    assert spikeyolo(*arguments(word, name, digits, files, tmp_path / "out")) == 1
    assert not Path(MARK).exists()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(files / name) in told
    if name in ("spiking.pt", "ann.pt", "call.pt"):
        assert "it calls for posix.system" in told
        assert ("trust=True" in told) == (word != "import")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_words_are_all_of_those_that_open_a_model():
    opening = {name for name, word in cli.WORDS.items() if "model" in word.arguments}
    assert opening == set(WORDS)
    assert {name for name, word in cli.WORDS.items() if "trust" in word.arguments} == set(TRUSTING)
    assert all(cli.WORDS[name].arguments["trust"] is False for name in TRUSTING)


def test_trust_runs_it(files, digits, tmp_path, monkeypatch):
    """In a process of its own: each word does its work, and what is in the file is run."""
    program = "import json, os, sys\nfrom spikeyolo import cli\nfrom spikeyolo.show import pictures\n"
    program += "pictures.draw = lambda *a: {}\n"
    program += "for words in json.loads(sys.argv[1]):\n    sys.argv = ['spikeyolo', *words]\n    code = cli.main()\n"
    program += f"    print('DID', words[0], code, os.path.exists('{MARK}'))\n    os.remove('{MARK}')\n"
    models = dict.fromkeys(TRUSTING, "spiking.pt") | {"convert": "ann.pt"}
    graph(files, tmp_path / "made.onnx")
    lines = [[*arguments(w, m, digits, files, tmp_path / "out"), "trust=True"] for w, m in models.items()]
    command = [sys.executable, "-c", program, json.dumps(lines)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    did = [line for line in done.stdout.splitlines() if line.startswith("DID")]
    assert did == [f"DID {word} 0 True" for word in models], done.stderr[-2000:]


@pytest.mark.parametrize("suffix", ["torchscript", "engine", "pb", "tflite", "mlpackage", "py", "yaml"])
def test_other_formats_are_not_opened(suffix, files, digits, tmp_path, monkeypatch, spikeyolo, capsys):
    """They hold code, or are run by libraries that load it; trust=True changes nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"model.{suffix}").write_bytes(b"anything")
    for word in TRUSTING:
        line = arguments(word, tmp_path / f"model.{suffix}", digits, files, tmp_path / "out")
        for trust in ("trust=False", "trust=True"):
            assert spikeyolo(*line, trust) == 1
            told = capsys.readouterr().err
            assert f"model.{suffix} is n" in told  # neither a checkpoint nor a graph; no checkpoint
            assert told.count("\n") == 1


def graph(files, path, **notes):
    """Write the graph of a small network with other notes."""
    file = files / "good-spiking.onnx"
    if not file.exists():
        YOLO(files / "good-spiking.pt").export(format="onnx", imgsz=64, simplify=False)
    model = onnx.load(file)
    for entry in model.metadata_props:
        entry.value = notes.get(entry.key, entry.value)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"names": "__import__('os').system('touch was-run')"}, "notes names"),
        ({"names": "[" * 10_000}, "notes names"),
        ({"names": "{" * 2_000_000}, "notes names"),
        ({"names": "{0: 'a\\x1b[31m'}"}, "for the name of class 0"),
        ({"names": "['a']"}, "not numbered from 0"),
        ({"imgsz": "[1000000000, 64]"}, "was exported with an image size that is [1000000000, 64]"),
        ({"source": "\x1b]0;owned\x07.pt"}, "notes the text"),
        ({"real_valued": '["\\u001b[31m"]'}, "notes the text"),
    ],
)
def test_notes_of_a_graph_are_checked(notes, said, files, digits, tmp_path, monkeypatch, spikeyolo, capsys):
    monkeypatch.chdir(tmp_path)
    file = graph(files, tmp_path / "x.onnx", **notes)
    for word in ("report", "coco", "demo"):
        line = [w for w in arguments(word, file, digits, files, tmp_path / "out") if w != "imgsz=64"]
        assert spikeyolo(*line) == 1
        told = capsys.readouterr().err
        assert said in told
        assert told.strip().isprintable()
        assert len(told) < 600
    assert not Path(MARK).exists()


def test_a_good_graph_is_still_opened(files, tmp_path):
    assert CountedModel.open(str(graph(files, tmp_path / "x.onnx"))).names == {i: str(i) for i in range(10)}


@pytest.mark.parametrize("word", [word for word in TRUSTING if word != "verify"])
def test_absurd_image_sizes_are_named(word, files, digits, tmp_path, monkeypatch, spikeyolo, capsys):
    monkeypatch.chdir(tmp_path)
    model = "good-ann.pt" if word == "convert" else "good-spiking.pt"
    line = [w for w in arguments(word, model, digits, files, tmp_path / "out") if w != "imgsz=64"]
    assert spikeyolo(*line, "imgsz=1000000000") == 1
    told = capsys.readouterr().err
    assert "imgsz" in told
    assert "8192" in told
    content = torch.load(files / model, weights_only=False)
    content["train_args"]["imgsz"] = 10**9
    torch.save(content, tmp_path / "x.pt")
    assert spikeyolo(line[0], f"model={tmp_path / 'x.pt'}", *line[2:]) == 1
    assert "was trained with an image size that is 1000000000" in capsys.readouterr().err


def test_reports_show_texts_as_texts(files, tmp_path, spikeyolo, monkeypatch):
    """A file of one's own with a name that a page could take for a program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "draw", lambda *arguments: {})
    file = tmp_path / "<img src=x onerror=alert(1)>.pt"
    file.write_bytes((files / "good-spiking.pt").read_bytes())
    assert spikeyolo("report", f"model={file}", f"source={files / 'images'}", "images=1", "project=out") == 0
    for page in ("report.html", "report.md"):
        content = (tmp_path / "out/report" / page).read_text()
        assert "<img src=x" not in content
        assert "&lt;img src=x" in content


def test_category_names_are_checked(digits, tmp_path, spikeyolo, capsys):
    content = json.loads((digits.parent / "annotations/instances_val.json").read_text())
    content["categories"][0]["name"] = "a\x1b[31m"
    (tmp_path / "a.json").write_text(json.dumps(content))
    words = [f"images={digits.parent / 'images/val'}", f"annotations={tmp_path / 'a.json'}"]
    assert spikeyolo("coco", "model=ibra-spikeyolo-p.pt", *words) == 1
    assert "categories[0] has the name 'a\\x1b[31m', too long or with control characters" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("[" * 100_000)
    assert spikeyolo("coco", "model=ibra-spikeyolo-p.pt", *words) == 1
    assert "is no complete JSON file" in capsys.readouterr().err


def test_the_restricted_loader_of_old_torch_is_left_alone(monkeypatch):
    """Before 2.6 a class with another address breaks each later restricted load of the process."""
    from spikeyolo.plugin.models import allow_safe_loading

    added = []
    monkeypatch.setattr(torch.serialization, "add_safe_globals", added.append)
    allow_safe_loading()
    assert len(added) == 1
    monkeypatch.delattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
    allow_safe_loading()
    assert len(added) == 1
