"""The examples are short, and run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(example, folder, *arguments):
    """Run an example in a folder of its own; return what it printed."""
    command = [sys.executable, str(ROOT / "examples" / example), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_short_and_known(file):
    source = file.read_text()
    assert len(source.splitlines()) < 40
    assert f"python examples/{file.name}" in source
    assert f"examples/{file.name}" in (ROOT / "README.md").read_text()


def test_count_spikes(tmp_path):
    printed = run("count_spikes.py", tmp_path, "models=lif-spikeyolo-p.pt,relu-spikeyolo-p.pt", "imgsz=64", "images=2")
    first, _, lif, relu = printed.splitlines()
    assert first == "2 images at 64 px; energy modelled (45nm-float32)"
    name, spikes, per_code, energy = lif.split()
    assert name == "lif-spikeyolo-p.pt"
    assert int(spikes.replace(",", "")) > 0
    assert 0 < float(per_code) < 1  # one plane
    assert len(relu.split()) == 2  # an ANN has no spikes, but needs more energy
    assert int(relu.split()[1].replace(",", "")) > int(energy) > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_convert_an_ann(tmp_path, digits):
    printed = run("convert_an_ann.py", tmp_path, f"data={digits}", "imgsz=96", "images=4", "bits=6")
    assert "relu-spikeyolo-p.pt: 6 bits, a range per layer" in printed
    assert [line.split()[0] for line in printed.splitlines() if " mAP50-95 " in line] == ["ANN", "spiking"]
    assert (tmp_path / "runs/examples/relu-spikeyolo-p-6bit.pt").is_file()


@pytest.mark.slow
def test_train_and_export(tmp_path, digits):
    printed = run("train_and_export.py", tmp_path, f"data={digits}", "epochs=1")
    graph = tmp_path / "runs/examples/train/weights/best.onnx"
    assert graph.is_file()
    assert printed.splitlines()[-1] == f"{graph}: proven"
