"""The benchmarks compare like with like, and run."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spikeyolo.neurons import IBRALIF

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.mark.parametrize("T", [1, 3])
def test_the_naive_neuron_is_the_same_neuron(monkeypatch, T):
    monkeypatch.syspath_prepend(TOOLS)
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
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_unknown_arguments_are_named(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    bench = importlib.import_module("bench")
    monkeypatch.setattr(sys, "argv", ["bench_neuron.py", "shapes=1,2", "T=2"])
    with pytest.raises(SystemExit, match="no argument shapes; arguments and defaults are T=1 shape=4,64"):
        bench.options(T="1", shape="4,64")
    monkeypatch.setattr(sys, "argv", ["bench_neuron.py", "T=2"])
    assert bench.options(T="1", shape="4,64") == {"T": "2", "shape": "4,64"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments", "shown"),
    [
        ("bench_neuron", "shape=1,2,4,4 T=1,2 rounds=1 plot=cost.png", "| float32 | 1 |"),
        ("bench_train", "scales=p imgsz=64 batch=2 T=1,2 rounds=1", "| p | ours, checkpoint=True | 2 |"),
        (
            "bench_infer",
            "scales=p imgsz=64 batch=1,2 rounds=1 spike=False",
            "| p | 64 | 2 | ibra ONNX, integer graph |",
        ),
        ("bench_onnx", "scales=p imgsz=64 rounds=1", "| p | 64 |"),
        ("bench_spikes", "scales=p imgsz=64 batch=1 rounds=1", "| p | 64 | 1 |"),
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
