import importlib
import inspect
import json
import subprocess
import sys
from dataclasses import fields

import pytest
import ultralytics
from packaging.requirements import Requirement

import _spikeyolo_hook
from spikeyolo import checks, cli
from spikeyolo.conversion.calibration import Ranges


def test_help_names_every_word(capsys, spikeyolo):
    for argv in ([], ["help"], ["--help"]):
        assert spikeyolo(*argv) == 0
        out = capsys.readouterr().out
        assert all(f"spikeyolo {word}" in out for word in cli.WORDS)


def test_checks_lists_versions_and_state(capsys, spikeyolo):
    assert spikeyolo("checks") == 0
    out = capsys.readouterr().out
    for name in ("python", "ultralytics", "torch", "onnxruntime", "plugin", "cuda", "datasets_dir", "no problem found"):
        assert name in out


def test_checks_names_each_problem_with_its_remedy(capsys, monkeypatch, spikeyolo):
    monkeypatch.setattr(ultralytics, "__version__", "8.3.1")
    wanted = [Requirement("torch>=99"), Requirement("no-such-package>=1")]
    monkeypatch.setattr(checks, "requirements", lambda: wanted)
    monkeypatch.setattr(checks.os, "access", lambda *a: False)
    assert spikeyolo("checks") == 1
    out = capsys.readouterr().out
    assert "ultralytics 8.3.1 is too old" in out
    assert "REMEDY  pip install 'ultralytics>=" in out
    assert "no-such-package is not installed" in out
    assert "REMEDY  pip install 'torch>=99'" in out
    assert "REMEDY  yolo settings datasets_dir=FOLDER" in out
    assert "5 problems found" in out


def test_checks_sees_the_switch(capsys, monkeypatch, spikeyolo):
    monkeypatch.setenv(_spikeyolo_hook.DISABLE, "1")
    assert spikeyolo("checks") == 1
    assert "SPIKEYOLO_DISABLE is set" in capsys.readouterr().out


def test_photo_digits_of_ones_own_size(tmp_path, capsys, spikeyolo):
    assert spikeyolo("photo-digits", f"path={tmp_path / 'd'}", "train=2", "val=1", "imgsz=128") == 0
    assert f"yolo train data={tmp_path / 'd' / 'photo-digits.yaml'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "d/photo-digits.json").read_text())["train"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["fly"],
            f"unknown word 'fly'; words are {', '.join(cli.WORDS)}",
        ),
        (["checks", "x=1"], "'x=1' is not an argument of this word; usage: spikeyolo checks"),
        (["photo-digits", "train"], "'train' is not an argument"),
        (["photo-digits", "train=many"], "train must be of type int, got 'many'"),
        (["coco", "skip_missing=maybe"], "skip_missing must be of type bool, got 'maybe'"),
        (["coco", "model=gone.pt", "images=.", "annotations=x.json"], "model=gone.pt does not exist"),
        (["photo-digits", "train=0"], "train must be a whole number >= 1, got 0"),
    ],
)
def test_bad_words_are_one_line(argv, message, capsys, spikeyolo):
    assert spikeyolo(*argv) == 1
    out, error = capsys.readouterr()
    assert message in error
    assert error.count("\n") == 1
    assert out == ""


def test_refuses_to_train_where_the_plugin_is_off(spikeyolo, monkeypatch, capsys):
    monkeypatch.setenv(_spikeyolo_hook.DISABLE, "1")
    assert spikeyolo("train", "model=ibra-spikeyolo-p.yaml") == 1
    assert "SPIKEYOLO_DISABLE is set" in capsys.readouterr().err
    monkeypatch.delenv(_spikeyolo_hook.DISABLE)
    monkeypatch.setattr(ultralytics, "__version__", "8.3.1")
    assert spikeyolo("train", "model=ibra-spikeyolo-p.yaml") == 1
    assert "ultralytics 8.3.1 is too old" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "address", "other"),
    [
        ("photo-digits", "spikeyolo.data.photo_digits:make_photo_digits", {"progress"}),
        ("verify", "spikeyolo.proof.verify:verify", set()),
        ("report", "spikeyolo.show.report:report", set()),
        ("coco", "spikeyolo.measure.coco:evaluate", set()),
        ("import", "spikeyolo.conversion.official:import_checkpoint", set()),
        ("convert", "spikeyolo.conversion.convert:convert", {"ranges"}),
        ("demo", "spikeyolo.show.demo:demo", set()),
    ],
)
def test_defaults_are_those_of_the_functions(word, address, other):
    """Both are stated, so that the command line can be read without importing torch."""
    module, name = address.split(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    stated = dict(cli.WORDS[word].arguments)
    if word == "convert":
        ranges = {key: stated.pop(key) for key in [f.name for f in fields(Ranges)]}
        assert Ranges(**ranges) == Ranges()
    for key in other:
        parameters = {k: v for k, v in parameters.items() if k != key}
    assert stated.keys() == {"model" if key == "models" else key for key in parameters}
    for key, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            assert stated[key] == parameter.default, key


def test_coco_prints_the_numbers_and_writes_results(digits, tmp_path, spikeyolo, capsys):
    folder, target = digits.parent, tmp_path / "r.json"
    where = f"images={folder / 'images/val'}", f"annotations={folder / 'annotations/instances_val.json'}"
    words = "imgsz=64", f"save_json={target}", "skip_missing=True"
    assert spikeyolo("coco", "model=ibra-spikeyolo-p.pt", *where, *words) == 0
    out = capsys.readouterr().out
    assert "AP at IoU 0.50:0.95" in out
    assert f"Results for the evaluation server saved to {target}" in out
    assert {"image_id", "category_id", "bbox", "score"} == json.loads(target.read_text())[0].keys()


def test_words_of_yolo_pass_through(tmp_path, trained):
    model = tmp_path / "a name with spaces.pt"
    model.write_bytes(trained.read_bytes())
    command = [sys.executable, "-m", "spikeyolo.cli", "export", f"model={model}", "format=torchscript", "imgsz=64"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert model.with_suffix(".torchscript").is_file()
