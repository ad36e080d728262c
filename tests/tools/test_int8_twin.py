"""The int8 twin is its float network: both forms are equal, and what is quantised is what should be."""

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import calibrated, write_small, write_stock
from onnx import numpy_helper
from torch import nn
from ultralytics import YOLO

from spikeyolo.blocks import SpikeRepConv, SpikeSepConv

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SIZE = 64


@pytest.fixture
def twin(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS / "benchmarks")
    return importlib.import_module("int8_twin")


@pytest.fixture
def model(tmp_path, photos):
    return calibrated(write_small(tmp_path / "small.yaml", {"type": "relu"}), photos)


@pytest.fixture
def images(photos):
    return [photo[None].numpy() for photo in photos]


def run(twin, file, image, variant=""):
    session = twin.onnxruntime.InferenceSession(str(file), twin.session_options(1, variant))
    return session.run(None, {"images": image})[0]


def eager(model, image):
    with torch.no_grad():
        return model.model.eval()(torch.from_numpy(image))[0].numpy()


def random_norms(layer):
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return layer.eval()


@pytest.mark.parametrize(("kind", "kernels"), [(SpikeRepConv, [1, 3, 1]), (SpikeSepConv, [1, 3])])
def test_a_chain_folds_exactly_also_at_the_border(twin, kind, kernels):
    layer = random_norms(kind(4, 6, neuron=nn.ReLU)).double()
    chain = twin.chain_form(layer)
    assert [m.kernel_size[0] for m in chain[1:]] == kernels  # and nothing else behind the activation
    assert [m.bias is not None for m in chain[1:]] == [False] * (len(kernels) - 1) + [True]
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(chain(x), layer(x))
    assert chain[1].weight.dtype == torch.float64


def test_a_fused_layer_has_no_chain(twin):
    layer = SpikeRepConv(4, 6, neuron=nn.ReLU)
    layer.fuse_convs()
    with pytest.raises(ValueError, match="fused, its chains are lost"):
        twin.chain_form(layer)


def test_both_forms_compute_the_network_and_the_chain_with_less(twin, model, images, tmp_path):
    fused = twin.export_float(model, tmp_path / "fused.onnx", imgsz=SIZE)
    chain = twin.export_float(model, tmp_path / "chain.onnx", imgsz=SIZE, chain=True)
    expected = eager(model, images[0])  # the model has stayed as it was
    for file in (fused, chain):
        np.testing.assert_allclose(run(twin, file, images[0]), expected, rtol=1e-3, atol=1e-3)
    # At 16 x 16: SpikeRepBlock of 8 channels, with conv1 8 to 16, conv2 16 to 8 and tail 16 to 8, and the tail of
    # SpikeBlock of 24 channels, 48 to 24. Weights of the dense 3x3 convolutions and of the chains that they equal:
    dense = 9 * (8 * 16 + 16 * 8 + 16 * 8 + 48 * 24)
    chains = (8 * 8 + 9 * 8 + 8 * 16) + (16 * 16 + 9 * 16 + 16 * 8) + (16 * 8 + 9 * 8) + (48 * 24 + 9 * 24)
    assert twin.multiplications(fused) - twin.multiplications(chain) == 16 * 16 * (dense - chains)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["chain.onnx", "fused.onnx", "small.yaml"]


@pytest.mark.usefixtures("_default_activation")
def test_a_stock_network_has_no_chains(twin, tmp_path):
    stock = YOLO(write_stock(tmp_path / "yolov8.yaml"))
    with pytest.raises(ValueError, match="so it has no form of chains"):
        twin.export_float(stock, tmp_path / "chain.onnx", imgsz=SIZE, chain=True)
    assert twin.forms_of(stock, {"forms": "fused,chain,stock", "data": ""}) == ["fused"]


@pytest.mark.parametrize("chain", [False, True])
def test_all_but_the_decoder_is_quantised(twin, model, images, tmp_path, chain):
    base = twin.export_float(model, tmp_path / "float.onnx", imgsz=SIZE, chain=chain)
    before = onnx.load(base)
    graph = onnx.load(twin.quantise(base, images, tmp_path / "int8.onnx")).graph
    makers = {name: node for node in graph.node for name in node.output}
    stored = {t.name: t for t in graph.initializer}
    learned = [node for node in graph.node if twin.weighted(node)]
    assert len(learned) == sum(map(twin.weighted, before.graph.node)) > 20
    for node in learned:
        x, weight, *bias = (makers[name] for name in node.input)
        assert x.op_type == weight.op_type == "DequantizeLinear"
        assert makers[x.input[0]].op_type == "QuantizeLinear"
        assert stored[x.input[2]].data_type == onnx.TensorProto.UINT8
        assert stored[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert stored[weight.input[1]].dims == stored[weight.input[0]].dims[:1]  # a scale per channel
        assert [stored[made.input[0]].data_type for made in bias] in ([], [onnx.TensorProto.INT32])
    (mean,) = (node for node in graph.node if node.op_type == "Conv" and node not in learned)
    assert "/dfl/" in mean.name  # and it is float, like all of the decoder
    behind = [node for node in graph.node if node.name in twin.decoder(before.graph)]
    assert {"Softmax", "Sigmoid", "Conv"} <= {node.op_type for node in behind}
    read = [makers[name] for node in behind for name in node.input if name in makers]
    codes = [makers[made.input[0]] for made in read if made.op_type == "DequantizeLinear"]
    assert len(codes) == 4  # boxes and scores of two levels, and no other
    assert all(makers[made.input[0]] in learned for made in codes)


def kernels(file):
    """Return the int8 weights of a graph."""
    stored = (t for t in onnx.load(file).graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    return [numpy_helper.to_array(t) for t in stored]


def test_what_is_quantised_is_near_the_float_network(twin, model, images, tmp_path):
    base = twin.export_float(model, tmp_path / "float.onnx", imgsz=SIZE, chain=True)
    file = twin.quantise(base, images, tmp_path / "int8.onnx")
    narrow = twin.quantise(base, images, tmp_path / "narrow.onnx", reduce_range=True)
    expected = np.concatenate([run(twin, base, image) for image in images])
    spread = expected.std((0, 2))  # of each coordinate and class
    for graph, variant, share in ((file, twin.PRECISE, 0.15), (file, twin.SIMULATED, 0.15), (narrow, twin.INT8, 0.2)):
        got = np.concatenate([run(twin, graph, image, variant) for image in images])
        error = np.sqrt(((got - expected) ** 2).mean((0, 2))) / spread
        assert 0 < error.max() < share
    most = [max(abs(w.astype(int)).max() for w in kernels(f)) for f in (file, narrow)]
    assert most == [127, 64]
    assert file.stat().st_size < base.stat().st_size


def test_sessions_of_others_run_the_variant(twin, monkeypatch):
    opened = []
    monkeypatch.setattr(twin.onnxruntime, "InferenceSession", lambda *a, **k: opened.append((a, k)))
    original = twin.onnxruntime.InferenceSession
    with twin.all_sessions(twin.PRECISE):
        twin.onnxruntime.InferenceSession("a.onnx", None, providers=["CPUExecutionProvider"])
    assert twin.onnxruntime.InferenceSession is original
    ((file, options), arguments) = opened[0]
    assert (file, arguments) == ("a.onnx", {"providers": ["CPUExecutionProvider"]})
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.slow
def test_the_benchmark_runs(twin, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["models=relu-spikeyolo-p.pt", "imgsz=64", "threads=1", "rounds=1", f"data={digits}", "val=64"]
    monkeypatch.setattr("sys.argv", ["int8_twin.py", *arguments, "calibration=4"])
    twin.main()
    printed = capsys.readouterr().out
    (written,) = json.loads((tmp_path / "int8_twin.json").read_text())["rows"]
    assert [(r["form"], r["variant"]) for r in written["speed"]] == [
        *((form, variant) for form in ("fused", "chain") for variant in (twin.FLOAT, twin.INT8, twin.PRECISE)),
        ("stock", twin.INT8),
        ("stock", twin.PRECISE),
    ]
    assert len(written["accuracy"]) == 5 + 5 + 3
    assert "| relu-spikeyolo-p.pt | 64 | 1 | chain | int8 |" in printed
    assert "| relu-spikeyolo-p.pt | stock | its own | int8 |" in printed
    assert [f.name for f in tmp_path.iterdir()] == ["int8_twin.json"]
