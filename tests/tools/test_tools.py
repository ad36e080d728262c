"""The benchmarks compare like with like, and run."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spikeyolo.neurons.integer import IBRALIF

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.mark.parametrize("T", [1, 3])
def test_the_naive_neuron_is_the_same_neuron(monkeypatch, T):
    monkeypatch.syspath_prepend(TOOLS / "benchmarks")
    naive = importlib.import_module("naive_neuron").NaiveNeuron(T=T)
    x = torch.randn(2 * T, 3, 5, 5) * 4
    grad = torch.randn_like(x)
    results = []
    for neuron in (IBRALIF(T=T), naive):
        grown = x.clone().requires_grad_()
        out = neuron(grown)
        out.backward(grad)
        results.append((out, grown.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def run(tool, folder, *arguments):
    command = [sys.executable, str(TOOLS / "benchmarks" / f"{tool}.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_unknown_arguments_are_named(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS / "benchmarks")
    harness = importlib.import_module("harness")
    monkeypatch.setattr(sys, "argv", ["neuron.py", "shapes=1,2", "T=2"])
    with pytest.raises(SystemExit, match="no argument shapes; arguments and defaults are T=1 shape=4,64"):
        harness.options(T="1", shape="4,64")
    monkeypatch.setattr(sys, "argv", ["neuron.py", "T=2"])
    assert harness.options(T="1", shape="4,64") == {"T": "2", "shape": "4,64"}


@pytest.fixture
def study(monkeypatch, digits):
    monkeypatch.syspath_prepend(TOOLS / "studies")
    for name in ("training", "neurons"):
        monkeypatch.setattr(importlib.import_module(name), "DATA", str(digits))
    return sys.modules["neurons"]


def test_the_study_makes_the_networks_that_it_names(study):
    def neuron(network):
        return study.NeuronConfig.from_mapping(study.yaml_of(network)["neuron"])()

    assert (neuron("ibra").D_N, neuron("ibra-31").D_N, neuron("ibra-31").N) == (511, 31, 100)
    assert neuron("ibra-inf").D > 40000
    assert [neuron(n).D_N for n in study.ABLATION[:-1]] == [2**bits - 1 for bits in range(4, 14)]
    assert (neuron("potlif-3").planes, neuron("potlif-4-learned").range.learned) == (3, True)
    assert study.yaml_of("ibra-residual1")["residual_gamma"] == 1
    assert study.yaml_of("relu")["neuron"] == {"type": "relu"}
    with pytest.raises(ValueError, match="networks=ibra-fast: 'fast' means nothing behind ibra"):
        study.yaml_of("ibra-fast")


def test_the_study_says_means_and_spreads(study, tmp_path):
    scores = {("relu", 0): 0.5, ("relu", 1): 0.54, ("potlif-5", 0): 0.51, ("ibra-inf", 0): 0.4}
    rows = [
        {"network": n, "seed": seed, "mAP50": 0.7, "mAP50-95": v, "energy_uj": 90} for (n, seed), v in scores.items()
    ]
    for row in rows[2:]:
        row.update(spikes=1000, spikes_per_code=0.5)
    summary = study.summarise(rows)
    shown = study.table(summary)
    assert "| relu twin (ANN) | 2 | 0.5200 (0.5000 to 0.5400) | 0.7000 |  |  | 90 |" in shown
    assert "| PoT-LIF, 5 planes | 1 | 0.5100 | 0.7000 | 0.50 | 1,000 | 90 |" in shown
    assert "| IBRA-LIF, D unbounded | 1 |" in shown
    study.draw(summary, tmp_path / "n.png", {"epochs": "7", "imgsz": "128", "val": "160"})
    assert (tmp_path / "n.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_study_trains_goes_on_and_drops_planes(study, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["neurons.py", *arguments])
        study.main()
        return capsys.readouterr().out

    small = ["networks=relu,potlif-3-learned", "seeds=1", "epochs=1", "imgsz=64", "val=64", "project=runs"]
    assert "| PoT-LIF, 3 planes learned | 1 | 0." in call(*small)
    before = sorted(tmp_path.rglob("last.pt"))
    assert len(before) == 2
    again = call(*small, "plot=n.png")
    assert "trained" not in again
    assert sorted(tmp_path.rglob("last.pt")) == before
    assert (tmp_path / "n.png").exists()
    out = call("weights=" + ",".join(str(file) for file in reversed(before)), "val=64")
    assert [line.split(" | ")[1] for line in out.splitlines() if line.startswith("| last.pt")] == ["", "3", "2"]
    with pytest.raises(SystemExit, match="holds no result"):
        call("train=False", "project=nowhere")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments", "shown"),
    [
        ("neuron", "shape=1,2,4,4 T=1,2 rounds=1 plot=cost.png", "| float32 | 1 |"),
        ("train", "scales=p imgsz=64 batch=2 T=2 rounds=1", "| p | ours, checkpoint=True | 2 |"),
        (
            "infer",
            "scales=p imgsz=64 batch=1,2 rounds=1 spike=False",
            "| p | 64 | 2 | ibra ONNX, integer graph |",
        ),
        ("onnx_graphs", "scales=p imgsz=64 rounds=1 graphs=relu,int8,integer,spike", "| p | 64 |"),
        ("spikes", "scales=p imgsz=64 batch=1 rounds=1", "| p | 64 | 1 |"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux' /proc")
def test_benchmarks_run(tmp_path, tool, arguments, shown):
    done = run(tool, tmp_path, *arguments.split())
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    result = json.loads((tmp_path / f"{tool}.json").read_text())
    assert result["rows"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["machine"]["cores"] >= 1
    assert (tmp_path / "cost.png").exists() == ("plot=" in arguments)
