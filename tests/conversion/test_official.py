"""The network computes what the official SpikeYOLO computes: `tests/vectors`."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from networks import train
from ultralytics import YOLO
from ultralytics.nn.tasks import ClassificationModel, DetectionModel

from spikeyolo.conversion.official import from_official_state_dict, import_checkpoint, official_name
from spikeyolo.neurons.integer import IBRALIF

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="module", params=[1, 2])
def reference(request):
    with np.load(VECTORS / f"official_t{request.param}.npz") as data:
        return request.param, {k: torch.from_numpy(v) for k, v in data.items()}


def state(vectors):
    return {k.removeprefix("state/"): v for k, v in vectors.items() if k.startswith("state/")}


def agreement(ours, theirs, scale=1.0):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs() <= 1e-4 * scale).double().mean().item()


def raw_maps(preds):
    """Split the flat predictions into the official three maps (B, 64 + nc, h, w)."""
    flat = torch.cat((preds["boxes"], preds["scores"]), 1)
    sizes = [f.shape[2:] for f in preds["feats"]]
    return [p.unflatten(2, s) for p, s in zip(flat.split([s.numel() for s in sizes], 2), sizes, strict=True)]


def test_eval_meets_the_vectors(reference):
    T, vectors = reference
    model = from_official_state_dict(state(vectors), T=T)
    layers = {}
    for i, layer in enumerate(model.model):
        layer.register_forward_hook(lambda m, x, out, i=i: layers.update({f"eval/layer{i}": out}))
    with torch.no_grad():
        decoded, preds = model(vectors["input"])
    found = {"eval/decoded": decoded, **{f"eval/raw{i}": m for i, m in enumerate(raw_maps(preds))}}
    found |= {k: v.unflatten(0, (T, -1)) for k, v in layers.items() if k in vectors}
    assert found.keys() == {k for k in vectors if k.startswith("eval/")}
    assert {k: a for k, v in found.items() if (a := agreement(v, vectors[k])) < 0.99} == {}


def test_training_meets_the_vectors(reference):
    T, vectors = reference
    model = from_official_state_dict(state(vectors), T=T).train()
    maps = raw_maps(model(vectors["input"]))
    assert all(agreement(m, vectors[f"train/raw{i}"]) >= 0.99 for i, m in enumerate(maps))
    loss = sum(m.square().mean() for m in maps)
    torch.testing.assert_close(loss, vectors["train/loss"], rtol=1e-5, atol=0)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    prefix = "train/grad/"
    wanted = {official_name(k.removeprefix(prefix)): v for k, v in vectors.items() if k.startswith(prefix)}
    assert len(wanted) > 100
    # Gradients reach 400, where float32 resolves 3e-5, and the bias in front of a BatchNorm has none but rounding
    # noise: the bound grows with the largest gradient of the layer.
    largest = {}
    for n, v in wanted.items():
        layer = n.split(".")[1]
        largest[layer] = max(largest.get(layer, 1.0), v.abs().max().item())
    shares = {n: agreement(gradients[n], v, scale=largest[n.split(".")[1]]) for n, v in wanted.items()}
    assert {n: s for n, s in shares.items() if s < 0.99} == {}


def test_sizes_are_read_off_the_tensors(reference):
    T, vectors = reference
    model = from_official_state_dict(state(vectors), T=T)
    assert model.yaml["nc"] == 3
    assert model.model[1].conv.out_channels == 8
    assert [len(model.model[i]) for i in (4, 6)] == [2, 3]
    assert not model.training
    assert model.yaml["neuron"] == {"type": "i-lif", "D": 4, "N": 1, "T": T, "decay": 0.25}


def test_every_official_name_has_its_own_place(reference):
    names = [official_name(k) for k in state(reference[1])]
    assert len(set(names)) == len(names)


def test_foreign_state_dicts_are_named(reference):
    tensors = state(reference[1])
    with pytest.raises(ValueError, match=r"lacks model\.1\.conv\.weight"):
        from_official_state_dict({"model.0.conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="lacks 1 tensors such as"):
        from_official_state_dict({k: v for k, v in tensors.items() if k != "model.10.bn.bias"})
    with pytest.raises(ValueError, match=r"unknown ones such as model\.99"):
        from_official_state_dict({**tensors, "model.99.bn.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"model\.10\.bn\.bias is \(5,\), \(32,\) would fit"):
        from_official_state_dict({**tensors, "model.10.bn.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match="T must be"):
        from_official_state_dict(tensors, T=0)


BLOCKS = "MS_GetT MS_DownSampling MS_AllConvBlock MS_ConvBlock MS_StandardConv SepConv SepRepConv RepConv BNAndPadLayer"
BLOCKS += " mem_update MultiSpike4 SpikeSPPF SpikeConv SpikeConvWithoutBN SpikeDetect SpikeDFL MultiSpike2"


@pytest.fixture
def official(monkeypatch, tmp_path):
    """Return a function that changes the official checkpoint and writes it as the official trainer would."""
    module = ModuleType("ultralytics.nn.modules.yolo_spikformer")
    for name in BLOCKS.split():
        setattr(module, name, type(name, (torch.nn.Module,), {"__module__": module.__name__}))

    def write(change, name="official.pt"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            content = torch.load(CHECKPOINT, weights_only=False)
            torch.save(change(content, module) or content, tmp_path / name)
        return tmp_path / name

    return write


CHECKPOINT = VECTORS / "official_checkpoint.pt"


def test_the_official_checkpoint_computes_what_it_did(tmp_path, spikeyolo, capsys):
    assert spikeyolo("import", f"model={CHECKPOINT}", f"project={tmp_path}") == 0
    told = capsys.readouterr().out
    assert "trained with i-lif (D 4, N 1, T 1, decay 0.25)" in told
    assert "OTHER neurons" not in told
    network = YOLO(tmp_path / "official_checkpoint.pt").model
    with np.load(VECTORS / "official_checkpoint_expected.npz") as expected, torch.no_grad():
        decoded, preds = network(torch.from_numpy(expected["input"]))
        for i, ours in enumerate(raw_maps(preds)):
            assert agreement(ours, torch.from_numpy(expected[f"raw{i}"])) >= 0.99
        torch.testing.assert_close(decoded, torch.from_numpy(expected["decoded"]), rtol=1e-4, atol=1e-3)
    assert network.names == {0: "cat", 1: "dog", 2: "bird"}
    assert network.args["imgsz"] == 640


def test_other_neurons_take_the_same_weights(tmp_path, spikeyolo, capsys):
    assert spikeyolo("import", f"model={CHECKPOINT}", "neuron=ibra", f"project={tmp_path}", "name=x") == 0
    assert "the same weights, but OTHER neurons: ibra-lif (D 5.11, N 100, T 1, decay 0.25)" in capsys.readouterr().out
    ours = YOLO(tmp_path / "x.pt").model
    assert {(m.D, m.N) for m in ours.modules() if isinstance(m, IBRALIF)} == {(5.11, 100.0)}
    again = import_checkpoint(CHECKPOINT, project=tmp_path, name="x")
    assert again.file != tmp_path / "x.pt"  # which is not overwritten
    theirs = YOLO(again.file).model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.state_dict().items())


def test_timesteps_levels_and_ema_are_found(official, tmp_path, reference):
    def change(content, module):
        content["ema"], content["model"] = content["model"], None
        content["best_fitness"] = np.float64(0.5)
        for part in content["ema"].modules():
            if isinstance(part, module.MS_GetT):
                part.T = 2
            if isinstance(part, module.MultiSpike4):
                part.__class__ = module.MultiSpike2

    found = import_checkpoint(official(change), project=tmp_path)
    assert (found.trained.T, found.trained.numbers["D"]) == (2, 2)
    network = YOLO(found.file).model
    assert {(m.T, m.D) for m in network.modules() if isinstance(m, IBRALIF)} == {(2, 2.0)}
    assert network(torch.zeros(1, 3, 64, 64))[0].shape[0] == 1


def _nc(content, module):
    content["model"].names[3] = "fish"


def _yaml(content, module):
    content["model"].yaml["nc"] = 80


def _stride(content, module):
    content["model"].model[20].conv.stride = (1, 1)


def _eps(content, module):
    content["model"].model[10].bn.eps = 1e-5


def _steps(content, module):
    del content["model"].model[0].T


def _endless(content, module):
    content["model"].model[0].T = 10**9


def _wide(content, module):
    content["model"].model[3].encode_conv.weight = torch.nn.Parameter(torch.zeros(10**6, 1, 1, 1))


def _empty(content, module):
    content["model"].model[3].encode_conv.weight = torch.nn.Parameter(torch.zeros(10**9, 0, 3, 3))


def _many(content, module):
    content["model"].model[4]._modules["1000000000"] = content["model"].model[4]._modules.pop("1")


def _layer(content, module):
    del content["model"].model[26]


def _classifier(content, module):
    content["model"] = ClassificationModel("yolo11n-cls.yaml", verbose=False)


def _stock(content, module):
    content["model"] = DetectionModel("yolov8n.yaml", verbose=False)


def _ours(content, module):
    content["model"] = DetectionModel("ibra-spikeyolo-p.yaml", verbose=False)


def _weights(content, module):
    return {"model": content["model"].state_dict()}


def _list(content, module):
    return [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nc, "contradicts itself: the head has 3 classes, the YAML 3, and there are 4 names"),
        (_yaml, "contradicts itself: the head has 3 classes, the YAML 80, and there are 3 names"),
        (_stride, "model.20.conv has stride (1, 1), a SpikeYOLO has (2, 2) there"),
        (_eps, "model.10.bn has eps 1e-05, a SpikeYOLO has 0.001 there"),
        (_steps, "has no common number of timesteps and levels"),
        (_endless, "has T=1000000000 timesteps, more than 64 are refused"),
        (_wide, "not the state dict of a SpikeYOLO"),
        (_empty, "not the state dict of a SpikeYOLO"),
        (_many, "not the state dict of a SpikeYOLO"),
        (_layer, "lacks model.26"),
        (_classifier, "holds a ClassificationModel, which is no detector"),
        (_stock, "holds no block of SpikeYOLO; an Ultralytics model needs no import"),
        (_ours, "was written by spikeyolo and needs no import"),
        (_weights, "holds no network"),
        (_list, "holds no network"),
    ],
)
def test_what_is_no_official_network_is_named(change, message, official, tmp_path, spikeyolo, capsys):
    file = official(change)
    assert spikeyolo("import", f"model={file}", f"project={tmp_path / 'out'}") == 1
    told = capsys.readouterr().err
    assert message in told
    assert str(file) in told
    assert len(told.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_the_other_words_tell_to_import(spikeyolo, capsys, digits, tmp_path):
    with pytest.raises(TypeError, match="make a checkpoint of ours out of it first: spikeyolo import model="):
        YOLO(CHECKPOINT)
    assert spikeyolo("convert", f"model={CHECKPOINT}", f"data={digits}", f"project={tmp_path}") == 1
    assert "was written by the official SpikeYOLO" in capsys.readouterr().err


def test_wrong_arguments_of_import_are_named(tmp_path, spikeyolo, capsys):
    assert spikeyolo("import", "model=none.pt") == 1
    assert "model=none.pt does not exist" in capsys.readouterr().err
    assert spikeyolo("import") == 1
    assert "does not exist" in capsys.readouterr().err
    assert spikeyolo("import", f"model={CHECKPOINT}", "neuron=gelu") == 1
    assert "unknown neuron 'gelu'" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert spikeyolo("import", f"model={CHECKPOINT}", f"project={tmp_path / 'file'}") == 1
    assert "choose another folder with project=" in capsys.readouterr().err


@pytest.mark.slow
def test_an_imported_network_trains_exports_and_is_proven(digits, tmp_path, spikeyolo):
    file = import_checkpoint(CHECKPOINT, project=tmp_path).file
    photo = next((digits.parent / "images/val").iterdir())
    assert len(YOLO(file).predict(photo, imgsz=64, verbose=False)) == 1
    graph = YOLO(file).export(format="onnx", imgsz=64)
    assert spikeyolo("verify", f"model={graph}", f"source={photo}") == 0
    best = YOLO(train(YOLO(file), digits, tmp_path)).model
    assert best.yaml["nc"] == 10
    assert {(m.D, m.N) for m in best.modules() if isinstance(m, IBRALIF)} == {(4, 1)}
