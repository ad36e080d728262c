"""Checkpoints are opened without executing anything, and compute what they do when Ultralytics loads them."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from networks import IBRA, calibrated, write_small, write_stock
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv, block

from spikeyolo.assets import WEIGHTS_DIR
from spikeyolo.conversion.spiking_copy import SpikingCopy
from spikeyolo.deployment import deploy
from spikeyolo.network.addresses import known_classes
from spikeyolo.network.checkpoints import known_arguments, open_detector, save_checkpoint
from spikeyolo.network.sound import MAX_IMGSZ, check_image_size, check_names, check_yaml

pytestmark = pytest.mark.usefixtures("_default_activation")
VECTORS = Path(__file__).parents[1] / "vectors"
POT = {"type": "pot-lif", "planes": 4, "range": "learned"}


def same(file, side=64):
    """Assert that a checkpoint opened is what Ultralytics, which unpickles, makes of it: classes, tensors, outputs."""
    ours, theirs = open_detector(file), YOLO(file)
    mine, expected = ours.model.state_dict(), theirs.model.state_dict()
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[k], expected[k]) and mine[k].dtype == expected[k].dtype for k in mine)
    for (path, a), (other, b) in zip(ours.model.named_modules(), theirs.model.named_modules(), strict=True):
        assert (path, type(a), a.training) == (other, type(b), b.training)
        plain = [{k: v for k, v in vars(m).items() if not isinstance(v, (torch.Tensor, dict))} for m in (a, b)]
        for state in plain:
            state.pop("forward", None)
        assert plain[0] == plain[1], path
        assert ("forward" in vars(a)) == ("forward" in vars(b))
        assert [p.requires_grad for p in a.parameters()] == [p.requires_grad for p in b.parameters()]
    x = torch.rand(1, 3, side, side)
    with torch.no_grad():
        outputs = [y[0] if isinstance(y, (tuple, list)) else y for y in (ours.model(x), theirs.model(x))]
    assert torch.equal(*outputs)
    assert (ours.task, ours.model.names, ours.ckpt_path) == (theirs.task, theirs.model.names, theirs.ckpt_path)
    assert ours.overrides.keys() == theirs.overrides.keys()
    assert ours.overrides | {"data": None} == theirs.overrides | {"data": None}


@pytest.mark.parametrize("file", sorted(WEIGHTS_DIR.glob("*.pt")), ids=lambda file: file.stem)
def test_shipped_weights_are_opened_as_ultralytics_loads_them(file):
    same(file.name)


def test_checkpoints_from_before_are_opened_or_named(tmp_path):
    same(VECTORS / "before_folders_aligned.pt")
    torch.save({"model": deploy(YOLO(write_small(tmp_path / "a.yaml", IBRA)))}, tmp_path / "deployed.pt")
    for file in (VECTORS / "before_folders_deployed.pt", tmp_path / "deployed.pt"):
        with pytest.raises(ValueError, match="holds a network in deploy form: give the checkpoint that it was made of"):
            open_detector(file)


@pytest.mark.parametrize("neuron", [IBRA, IBRA | {"T": 2}, POT, {"type": "silu"}], ids=str)
def test_networks_of_ours_are_opened(neuron, tmp_path):
    YOLO(write_small(tmp_path / "a.yaml", neuron, **({} if neuron is POT else {"end2end": True}))).save(
        tmp_path / "a.pt"
    )
    same(tmp_path / "a.pt")


@pytest.mark.parametrize("family", ["v8", "11", "26"])
def test_stock_networks_and_what_is_made_of_them_are_opened(family, tmp_path, photos):
    ann = calibrated(write_stock(tmp_path / "a.yaml", family, "nn.LeakyReLU(0.1)"), photos)
    ann.save(tmp_path / "a.pt")
    same(tmp_path / "a.pt")
    spiking = SpikingCopy(ann.model)
    save_checkpoint(spiking.network, tmp_path / "b.pt", train_args={"imgsz": 64}, about={"converted": {"bits": 9}})
    same(tmp_path / "b.pt")
    assert open_detector(tmp_path / "b.pt").overrides["imgsz"] == 64
    ann.model.fuse(verbose=False)
    ann.save(tmp_path / "c.pt")
    same(tmp_path / "c.pt")
    for file in "abc":  # and again what has been opened
        open_detector(tmp_path / f"{file}.pt").save(tmp_path / "again.pt")
        same(tmp_path / "again.pt")


def test_an_unfinished_training_is_opened(tmp_path):
    """Its file holds the optimizer, results and arguments beside the network, which is under ema."""
    model = YOLO(write_small(tmp_path / "a.yaml", IBRA)).model
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    content = {"model": None, "ema": model.half(), "optimizer": optimizer.state_dict(), "epoch": 3, "updates": 7}
    content |= {"train_args": {"imgsz": [64, 96], "data": "x.yaml"}, "train_results": {"loss": [0.5, float("nan")]}}
    torch.save(content, tmp_path / "last.pt")
    assert open_detector(tmp_path / "last.pt").overrides["imgsz"] == [64, 96]


def test_allowed_classes_are_modules_alone():
    classes = known_classes()
    assert all(issubclass(cls, nn.Module) for cls in classes.values())
    assert classes["spikeyolo.neurons.ARLIF"] is classes["spikeyolo.neurons.PoTLIF"]
    assert block.TorchVision not in classes.values()
    assert {a.rpartition(".")[0] for a in classes if not a.startswith(("torch.nn.modules", "ultralytics.nn.mod"))} == {
        "ultralytics.nn.tasks", "spikeyolo.blocks", "spikeyolo.heads", "spikeyolo.neurons", "spikeyolo.ranges",
    }  # fmt: skip


HOOK = nn.Identity  # an allowed class, called as a hook
EVAL = "__import__('pathlib').Path('was-run').touch()"


def change(network, name):
    """Change a small network as a stranger could; what is pickled are allowed names alone."""
    first, conv = network.model[1], network.model[1].conv
    d = vars(network)
    attack = {
        "forward hook": lambda: conv.register_forward_hook(HOOK()),
        "forward pre-hook": lambda: conv._forward_pre_hooks.update({1: "x"}),
        "hook of load_state_dict": lambda: conv._load_state_dict_post_hooks.update({1: "x"}),
        "forward": lambda: vars(conv).update(forward="x"),
        "method of another": lambda: vars(conv).update(forward=network.model[2].forward),
        "method as data": lambda: vars(conv).update(other=conv.forward),
        "property": lambda: vars(network.model[-1]).update(end2end=True),
        "method of the network": lambda: d.update(predict="x"),
        "class": lambda: vars(conv).update(__class__="x"),
        "function": lambda: vars(conv).update(other=tasks.guess_model_task),
        "class as data": lambda: vars(conv).update(other=nn.Conv2d),
        "module as data": lambda: vars(conv).update(other=nn.Identity()),
        "module in a list": lambda: vars(conv).update(other=[nn.Identity()]),
        "module for a method": lambda: conv._modules.update(forward=nn.Identity()),
        "tensor for a method": lambda: conv._parameters.update(forward=nn.Parameter(torch.zeros(1))),
        "unknown module": lambda: setattr(first, "other", nn.LSTM(1, 1)),
        "network in the network": lambda: setattr(first, "other", tasks.SegmentationModel),
        "activation": lambda: network.yaml.update(activation=EVAL),
        "activation of the class": lambda: network.yaml.update(activation="nn.Module.__subclasses__()"),
        "activation of a call": lambda: network.yaml.update(activation=f"nn.SiLU({EVAL})"),
        "activation of a function": lambda: network.yaml.update(activation="nn.factory_kwargs(1)"),
        "row": lambda: network.yaml.update(backbone=[[-1, 1, "torch_safe_load", ["x.pt"]]]),
        "row of a network": lambda: network.yaml.update(backbone=[[-1, 1, "DetectionModel", ["x.yaml"]]]),
        "row of a download": lambda: network.yaml.update(backbone=[[-1, 1, "TorchVision", [1, "x"]]]),
        "row of a function": lambda: network.yaml.update(backbone=[[-1, 1, "nn.init.zeros_", []]]),
        "neuron": lambda: network.yaml.update(neuron={"type": "<script>"}),
        "control characters": lambda: vars(conv).update(other="\x1b[31m"),
        "long text": lambda: vars(conv).update(other="a" * 2000),
        "deep data": lambda: vars(conv).update(other=functools.reduce(lambda inner, _: [inner], range(50), 1)),
        "not a number": lambda: nn.init.constant_(conv.weight[0], float("nan")),
        "infinite": lambda: nn.init.constant_(conv.weight[0], float("-inf")),
        "infinite anchor": lambda: setattr(network.model[-1], "strides", torch.tensor([float("inf")])),
        "variance": lambda: nn.init.constant_(first.bn.running_var, -0.5),
        "eps": lambda: setattr(first.bn, "eps", -1.0),
        "no names": lambda: d.update(names={}),
        "numbers of names": lambda: d.update(names={1: "a", 2: "b", 3: "c"}),
        "name that is none": lambda: network.names.update({1: 5}),
        "empty name": lambda: network.names.update({1: ""}),
        "name with an escape": lambda: network.names.update({1: "a\x1b]0;owned\x07"}),
        "name with a line": lambda: network.names.update({1: "a\nb"}),
        "name written backwards": lambda: network.names.update({1: "a\u202eb"}),
        "megabyte of a name": lambda: network.names.update({1: "a" * 2**20}),
        "another number of names": lambda: network.names.update({3: "d"}),
        "stride": lambda: d.update(stride=torch.tensor([8.0, 1e9])),
        "no stride": lambda: d.update(stride=0),
        "padding": lambda: setattr(conv, "padding", (10**6, 10**6)),
        "scale": lambda: setattr(network.model[4], "scale_factor", 10.0**6),
        "size": lambda: setattr(network.model[4], "size", (10**6, 10**6)),
        "timesteps": lambda: setattr(network.model[0], "T", 10**6),
        "many numbers": lambda: network.model.__setitem__(4, nn.Sequential(*[nn.Upsample(scale_factor=8)] * 8)),
        "neuron's number": lambda: setattr(network.model[3].act, "N", 0.3),
        "neuron's decay": lambda: setattr(network.model[3].act, "decay", 5.0),
        "missing attribute": lambda: delattr(conv, "stride"),
        "missing head": lambda: network.model._modules.pop("7"),
        "wrong shape": lambda: setattr(network.model[3].bn, "weight", nn.Parameter(torch.zeros(5))),
        "wrong kind": lambda: setattr(conv, "groups", "x"),
        "wrong source": lambda: setattr(network.model[5], "f", [99, 2]),
        "no yaml": lambda: d.update(yaml=None),
        "rows that are none": lambda: network.yaml.update(backbone=5),
        "channels": lambda: network.yaml.update(channels=(3, 3)),
        "kernel": lambda: setattr(conv, "kernel_size", (5, 7)),
        "no bias": lambda: first.bn._parameters.update(bias=None),
        "no decay": lambda: delattr(network.model[3].act, "decay"),
    }  # fmt: skip
    network.model[4].i, network.model[4].f = 4, -1
    with torch.no_grad():
        made = attack[name]()
    for m in network.model:
        if not hasattr(m, "f"):
            m.f, m.i, m.type, m.np = -1, 4, "x", 0
    return made


REFUSED = {
    "forward hook": "has hooks, which would run by themselves",
    "forward pre-hook": "has hooks",
    "hook of load_state_dict": "has hooks",
    "forward": "model.1.conv: 'forward' would hide Conv2d.forward",
    "method of another": "'forward' is a method, which no attribute needs to be",
    "method as data": "'other' is a method",
    "property": "'end2end' would hide SpikeDetect.end2end",
    "method of the network": "'predict' would hide DetectionModel.predict",
    "class": "'__class__' is no name of an attribute",
    "function": "'other' holds <ultralytics.nn.tasks.guess_model_task>, which is no plain value",
    "class as data": "which is no plain value",
    "module as data": "which is no plain value",
    "module in a list": "which is no plain value",
    "module for a method": "attribute 'forward' already exists",
    "tensor for a method": "attribute 'forward' already exists",
    "unknown module": "has a torch.nn.modules.rnn.LSTM at model.1.other, which is no known part",
    "network in the network": "'other' holds",
    "activation": "in its YAML, which is no activation such as nn.SiLU()",
    "activation of the class": "which is no activation",
    "activation of a call": "which is no activation",
    "activation of a function": "which is no activation",
    "row": "names no known block",
    "row of a network": "names no known block",
    "row of a download": "names no known block",
    "row of a function": "names no known block",
    "neuron": "unknown neuron type '<script>'",
    "control characters": r"'other' holds the text '\\x1b\[31m': too long, or with control characters",
    "long text": "too long, or with control characters",
    "deep data": "holds more than attributes do",
    "not a number": "has nan among the numbers of model.1.conv.weight: its training diverged; train it again",
    "infinite": "has -inf among the numbers of model.1.conv.weight",
    "infinite anchor": "has inf among the numbers of model.7.strides",
    "variance": "has the variance -0.5 in model.1.bn.running_var, below 0; train it again",
    "eps": "has eps -1.0 in model.1.bn",
    "no names": "has the class names {}, which are not numbered from 0",
    "numbers of names": "not numbered from 0",
    "name that is none": "has 5 for the name of class 1",
    "empty name": "has '' for the name of class 1",
    "name with an escape": r"has 'a\\x1b\]0;owned\\x07' for the name of class 1",
    "name with a line": r"has 'a\\nb' for the name",
    "name written backwards": r"has 'a\\u202eb' for the name",
    "megabyte of a name": "characters that can be printed; name the classes anew in data=",
    "another number of names": "has 4 class names, but a head of 3 classes",
    "stride": r"has the strides \[8.0, 1000000000.0\]: strides are 1 to 256",
    "no stride": "has the strides 0",
    "padding": r"has padding \(1000000, 1000000\) in model.1.conv: 0 to 64 is possible",
    "scale": "has scale_factor 1000000.0 in model.4",
    "size": "has size .* in model.4",
    "timesteps": "has T 1000000 in model.0",
    "many numbers": "numbers of each pixel",
    "neuron's number": r"has a neuron model.3.act that is none: D \* N must be whole",
    "neuron's decay": "decay must lie between 0 and 1",
    "missing attribute": "is damaged .AttributeError: 'Conv2d' object has no attribute 'stride'",
    "missing head": "which is no head of a detector",
    "wrong shape": "does not run on an image of",
    "wrong kind": "is damaged .TypeError",
    "wrong source": "does not run on an image of",
    "no yaml": "has no model dictionary",
    "rows that are none": "has backbone: 5 in its YAML, which is no list of rows",
    "channels": r"has images of \(3, 3\) channels in its YAML: 1 to 16 are possible",
    "kernel": r"has weights of \(8, 3, 7, 7\) in model.1.conv, but attributes of others",
    "no bias": "has a BatchNorm model.1.bn that lacks one of weight, bias",
    "no decay": "is damaged .AttributeError: 'IBRALIF' object has no attribute 'decay'.; copy or train it again",
}
UNTRUSTED = [*list(REFUSED)[:17], "control characters", "long text", "deep data"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return YOLO(write_small(tmp_path_factory.mktemp("small") / "small.yaml", IBRA)).model


@pytest.fixture
def network(made):
    return copy.deepcopy(made)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_stranger_could_put_into_a_network_is_refused_by_name(name, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(network, name)
    torch.save({"model": network}, "x.pt")
    with pytest.raises(ValueError, match=REFUSED[name]) as e:
        open_detector("x.pt")
    told = str(e.value)
    assert told.startswith("model=x.pt ")
    assert told.isprintable()
    assert len(told) < 600
    assert ("trust=True" in told) == (name in UNTRUSTED)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("name", ["not a number", "variance", "name with an escape", "stride"])
def test_a_trusted_file_must_be_sound_all_the_same(name, network, tmp_path):
    change(network, name)
    torch.save({"model": network}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=REFUSED[name]):
        open_detector(tmp_path / "x.pt", trust=True)


def test_cyclic_networks_are_refused(network, tmp_path):
    network.model[1]._modules["again"] = network.model
    torch.save({"model": network}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="modules without end"):
        open_detector(tmp_path / "x.pt")


def test_arguments_of_a_stranger_are_not_passed_on(network, tmp_path):
    arguments = {
        "data": "https://x.invalid/evil.yaml",
        "project": "/etc",
        "source": "x",
        "imgsz": 96,
        "task": "segment",
    }
    network.args, network.pt_path, network.task = arguments, "/etc/passwd", "segment"
    torch.save({"model": network, "train_args": arguments}, tmp_path / "x.pt")
    yolo = open_detector(tmp_path / "x.pt")
    known = {"imgsz": 96, "data": None, "single_cls": False, "task": "detect", "model": str(tmp_path / "x.pt")}
    assert yolo.overrides == known
    assert yolo.overrides is yolo.model.args
    assert (yolo.task, yolo.model.task, yolo.model.pt_path) == ("detect", "detect", str(tmp_path / "x.pt"))


@pytest.mark.parametrize("size", [0, -1, MAX_IMGSZ + 1, 10**100, 64.0, True, "64", [], [64, 64, 64], [64, 10**9], {}])
def test_absurd_image_sizes_are_named(size):
    with pytest.raises(ValueError, match=r"was trained with an image size that is .*: image sizes are 1 to 8192"):
        known_arguments({"train_args": {"imgsz": size}})
    with pytest.raises(ValueError, match="imgsz is"):
        check_image_size(size, "imgsz")


def test_good_values_pass():
    for size in (1, 640, MAX_IMGSZ, [64], [64, 96], (64, 96)):
        check_image_size(size, "imgsz")
    check_names({0: "traffic light", 1: "Straße", 2: "猫", 3: "a|b <i>"})
    for act in ("nn.SiLU()", "torch.nn.LeakyReLU(0.1)", "nn.ReLU(inplace=True)"):
        check_yaml({"activation": act, "backbone": [[-1, 1, "Conv", [64, 3, 2]]], "head": [[-1, 1, "nn.Upsample", []]]})


def test_layers_of_a_stranger_have_no_place(network, tmp_path, monkeypatch):
    """A class of another package, which only unpickling would import."""

    class Mine(Conv):
        pass

    Mine.__module__, Mine.__qualname__ = __name__, "Mine"
    monkeypatch.setitem(globals(), "Mine", Mine)
    network.model[3].other = Mine(3, 3)
    torch.save({"model": network}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"calls for .*Mine, which no checkpoint of SpikeYOLO needs.*trust=True"):
        open_detector(tmp_path / "x.pt")
    assert open_detector(tmp_path / "x.pt", trust=True).model.names == {0: "0", 1: "1", 2: "2"}
