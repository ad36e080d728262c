import json

import pytest
import ultralytics

import _spikeyolo_hook
from spikeyolo import checks, cli


def test_help_names_every_word(capsys):
    for argv in ([], ["help"], ["--help"]):
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        assert all(f"spikeyolo {word}" in out for word in cli.WORDS)


def test_checks_lists_versions_and_state(capsys):
    assert cli.main(["checks"]) == 0
    out = capsys.readouterr().out
    for name in ("python", "ultralytics", "torch", "onnxruntime", "plugin", "cuda", "datasets_dir", "no problem found"):
        assert name in out


def test_checks_names_each_problem_with_its_remedy(capsys, monkeypatch):
    monkeypatch.setattr(ultralytics, "__version__", "8.3.1")
    monkeypatch.setattr(checks, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(checks.os, "access", lambda *a: False)
    assert cli.main(["checks"]) == 1
    out = capsys.readouterr().out
    assert "ultralytics 8.3.1 is too old" in out
    assert "REMEDY  pip install 'ultralytics>=" in out
    assert "no-such-package is not installed" in out
    assert "REMEDY  yolo settings datasets_dir=FOLDER" in out
    assert "4 problems found" in out


def test_checks_sees_the_switch(capsys, monkeypatch):
    monkeypatch.setenv(_spikeyolo_hook.DISABLE, "1")
    assert cli.main(["checks"]) == 1
    assert "SPIKEYOLO_DISABLE is set" in capsys.readouterr().out


def test_photo_digits_of_ones_own_size(tmp_path, capsys):
    assert cli.main(["photo-digits", f"path={tmp_path / 'd'}", "train=2", "val=1", "imgsz=128"]) == 0
    assert f"yolo train data={tmp_path / 'd' / 'photo-digits.yaml'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "d/photo-digits.json").read_text())["train"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fly"], "unknown word 'fly'; words are checks, photo-digits, help, benchmark"),
        (["checks", "x=1"], "'x=1' is not an argument of this word; usage: spikeyolo checks"),
        (["photo-digits", "train"], "'train' is not an argument"),
        (["photo-digits", "train=many"], "train must be of type int, got 'many'"),
        (["photo-digits", "train=0"], "train must be a whole number >= 1, got 0"),
    ],
)
def test_bad_words_are_one_line(argv, message, capsys):
    assert cli.main(argv) == 1
    out, error = capsys.readouterr()
    assert message in error
    assert error.count("\n") == 1
    assert out == ""


def test_words_of_yolo_pass_through(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", f"model={trained}", "format=torchscript", "imgsz=64"]) == 0
    assert trained.with_suffix(".torchscript").is_file()
