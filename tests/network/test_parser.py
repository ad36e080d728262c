import copy
from typing import Any

import pytest
import torch
from networks import PICO, write_yaml
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.blocks.conv import SpikeConv
from spikeyolo.blocks.detect import SpikeDetect
from spikeyolo.blocks.rep import SpikeRepConv
from spikeyolo.blocks.residual import SpikeBlock
from spikeyolo.network.names import PREFIXES, load_yaml
from spikeyolo.network.parser import parse_model
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.neurons.twins import ReLU, SiLU

PARAMETERS = {"n": 13_271_632, "s": 23_153_024, "m": 47_841_856, "l": 68_478_400}


def build(name, **options):
    return DetectionModel(name, verbose=False, **options)


@pytest.mark.parametrize("scale", PARAMETERS)
def test_scales_have_the_official_parameter_counts(scale):
    with torch.device("meta"):
        layers, _ = parse_model(load_yaml(f"ibra-spikeyolo-{scale}.yaml"), 3, verbose=False)
    assert sum(p.numel() for p in layers.parameters()) == PARAMETERS[scale]


def test_pico_is_small():
    assert 1.5e6 < sum(p.numel() for p in build(PICO).parameters()) < 2e6
    assert 1.5e6 < sum(p.numel() for p in build(PICO, nc=10).parameters()) < 2e6


@pytest.mark.parametrize(("prefix", "D", "N"), [("ibra", 5.11, 100), ("lif", 1, 1), ("ilif", 4, 1), ("ib", 511, 1)])
def test_names_pick_the_neuron(prefix, D, N, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no file of that name anywhere
    neurons = [m for m in build(f"{prefix}-spikeyolo-p.yaml").modules() if isinstance(m, IBRALIF)]
    assert {(m.D, m.N, m.T) for m in neurons} == {(D, N, 1)}


@pytest.mark.parametrize(("prefix", "kind"), [("relu", ReLU), ("silu", SiLU)])
def test_twins_differ_from_the_spiking_model_in_the_activation_only(prefix, kind):
    spiking, twin = build(PICO), build(f"{prefix}-spikeyolo-p.yaml")
    assert not [m for m in twin.modules() if isinstance(m, IBRALIF)]
    names = {name for name, m in spiking.named_modules() if isinstance(m, IBRALIF)}
    assert names == {name for name, m in twin.named_modules() if isinstance(m, kind)}
    assert spiking.state_dict().keys() == twin.state_dict().keys()


def test_the_name_without_scale_is_n():
    assert load_yaml("ibra-spikeyolo.yaml")["scale"] == "n"
    assert load_yaml("spikeyolo.yaml")["neuron"]["type"] == "ibra-lif"


def test_repeats_and_ratios_follow_the_scale():
    def shape(scale):
        with torch.device("meta"):
            layers: Any = parse_model(load_yaml(f"ibra-spikeyolo-{scale}.yaml"), 3, verbose=False)[0]
        depth = [len(layers[i]) if isinstance(layers[i], nn.Sequential) else 1 for i in (2, 4, 6, 8)]
        last = layers[25].conv1.bn.num_features / layers[25].conv2.bn.num_features
        return depth, last

    assert shape("s") == ([1, 2, 3, 1], 1)
    assert shape("m") == ([2, 3, 4, 2], 2)


@pytest.mark.parametrize("name", [PICO, "silu-spikeyolo-p.yaml"])
def test_every_convolution_but_the_stem_directly_follows_its_neuron(name):
    """Trace the fused model: what enters a convolution is what an activation has just put out."""
    model = build(name, nc=3).eval().fuse(verbose=False)
    emitted, entered = {}, {}
    kinds = (IBRALIF, SiLU)
    for module_name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda m, i, o, name=module_name: emitted.update({id(o): (name, o)}))
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda m, i, name=module_name: entered.update({str(name): i[0]}))
    model(torch.rand(1, 3, 64, 64))
    entered.pop("model.26.dfl.conv")  # decodes, after the network
    assert [name for name, x in entered.items() if id(x) not in emitted] == ["model.1.conv"]
    assert len({emitted[id(x)][0] for name, x in entered.items() if name != "model.1.conv"}) == len(entered) - 1


def test_a_fused_spiking_model_computes_what_it_computed():
    model = build("ilif-spikeyolo-p.yaml", nc=3).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5)
            m.running_mean.uniform_(-0.2, 0.2)
    model, x = model.double(), torch.rand(2, 3, 96, 64).double()
    fused = copy.deepcopy(model).fuse(verbose=False)
    with torch.no_grad():
        torch.testing.assert_close(fused(x)[0], model(x)[0], rtol=1e-6, atol=1e-6)
    assert fused.is_fused()
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [m for m in fused.modules() if isinstance(m, SpikeRepConv) and not isinstance(m.conv, nn.Conv2d)]


def test_a_yaml_of_ones_own_works_by_path(tmp_path):
    path = write_yaml(tmp_path / "mine.yaml", neuron={"type": "i-lif", "D": 3, "N": 1, "T": 2, "decay": 0.5}, nc=7)
    model = build(str(tmp_path / "mine-s.yaml"))  # as yolo11s.yaml stands for yolo11.yaml
    assert model.yaml["scale"] == "s"
    assert model.yaml["nc"] == 7
    neuron = next(m for m in model.modules() if isinstance(m, IBRALIF))
    assert (neuron.D, neuron.T, neuron.decay) == (3, 2, 0.5)
    assert build(str(path)).yaml["scale"] == "n"
    YAML.save(tmp_path / "flat.yaml", {k: v for k, v in small().items() if k != "scales"})
    assert build(str(tmp_path / "flat.yaml")).yaml["scale"] == ""
    with pytest.raises(ValueError, match=r"scale 's' does not exist; the model has no scales"):
        build(str(tmp_path / "flat-s.yaml"))


def small(**changes):
    """Return a spiking network of five rows."""
    d = {
        "nc": 2,
        "neuron": {"type": "ibra-lif", "D": 5.11, "N": 100},
        "backbone": [
            [-1, 1, "SpikeEncoder", []],
            [-1, 1, "SpikeDown", [16, 7, 4, 2, True]],
            [-1, 2, "SpikeBlock", [2, 7]],
            [-1, 1, "SpikeConv", [32, 3, 2]],
        ],
        "head": [[[2, 3], 1, "SpikeDetect", ["nc"]]],
    }
    return copy.deepcopy(d) | changes


def test_a_network_of_five_rows():
    model = build(small(scales={"t": [0.5, 2.0, 24]}, scale="t"))
    assert model.stride.tolist() == [4, 8]
    assert isinstance(model.model[2], SpikeBlock)  # 2 repeats * 0.5
    assert isinstance(model.model[3], SpikeConv)
    assert model.model[3].conv.out_channels == 48  # min(32, 24) * 2
    assert isinstance(model.model[4], SpikeDetect)


def test_official_initialisation_is_a_number():
    official = build(small(residual_gamma=1.0))
    assert official.model[2][0].conv2.bn.weight.eq(1).all()
    assert build(small()).model[2][0].conv2.bn.weight.eq(0).all()


def row(i, *new):
    d = small()
    d["backbone"][i] = list(new)
    return d


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (small(nc=0), "nc must be a number of classes >= 1, got 0"),
        (small(nc="ten"), "got 'ten'"),
        (small(neuron=None), "neuron: must be a mapping"),
        ({k: v for k, v in small().items() if k != "neuron"}, "neuron: must be a mapping such as"),
        (small(neuron={"type": "ibra-lif", "D": 5.1, "N": 99}), "whole"),
        (small(neuron={"type": "ibra-lif", "D": 5.11, "N": 100, "T": 0}), "T must be"),
        (small(neuron={"type": "ibra-lif", "D": 5.11, "N": 100, "decay": 2}), "decay must lie between 0 and 1, got 2"),
        (small(neuron={"type": "if", "D": 1, "N": 1}), "unknown neuron type 'if'"),
        (small(neuron={"type": "lif", "D": 1, "N": 1, "v": 2}), "no key v"),
        (small(scale="x", scales={"n": [1, 1, 64]}), "scale 'x' does not exist; scales are n"),
        (small(scales={"n": [1, 1]}), "must be"),
        (small(residual_gamma="big"), "residual_gamma must be a number"),
        (small(head=[]), "the last row of head: must be a SpikeDetect"),
        (row(2, -1, 1, "C2f", [64]), "row 2 .*unknown block 'C2f'; a spiking model is made of SpikeEncoder"),
        (row(2, -1, 1, "SpikeBlock", [2, 7, 1, 1]), "row 2 .*wrong arguments for SpikeBlock.*ratio, k"),
        (row(3, -1, 1, "SpikeConv", []), "row 3 .*first argument of SpikeConv is its number of output channels"),
        (row(3, -1, 1, "SpikeConv", [32, 3, 2, 1, 1, 1, 1]), "row 3 .*wrong arguments for SpikeConv"),
        (row(3, -1, 1, "SpikeConv", [32, "three"]), "row 3 .*cannot be built"),
        (row(3, 9, 1, "SpikeConv", [32, 3, 2]), "row 3 .*from index 9 is out of range"),
        (row(3, -9, 1, "SpikeConv", [32, 3, 2]), "from index -9 is out of range"),
        (row(3, "last", 1, "SpikeConv", [32, 3, 2]), "from index 'last'"),
        (row(3, [1, 2], 1, "SpikeConv", [32, 3, 2]), "SpikeConv takes one layer as from"),
        (row(3, -1, 1, "Concat", [1]), "Concat takes a list of layers as from"),
        (row(3, -1, 0, "SpikeConv", [32, 3, 2]), "repeats must be a whole number >= 1, got 0"),
        (row(3, -1, 2, "SpikeConv", [32, 3, 2]), "can be repeated"),
        (row(3, -1, 1, "SpikeConv"), "a row is"),
        (row(3, -1, 1, "SpikeEncoder", []), "can only be the first row"),
        (row(3, -1, 1, "SpikeConv", [{"m": 32}, 3, 2]), "no value for scale ''"),
        (small(head=[[[2, 3], 1, "SpikeDetect", [5]]]), r"takes \[nc\]"),
    ],
)
def test_bad_yaml_is_named(d, message):
    with pytest.raises(ValueError, match=message):
        build(d)


def test_timesteps_need_the_encoder():
    d = small(neuron={"type": "ibra-lif", "D": 5.11, "N": 100, "T": 2})
    d["backbone"][0] = [-1, 1, "nn.Identity", []]
    with pytest.raises(ValueError, match="T=2 needs SpikeEncoder as the first row"):
        build(d)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ibra-spikeyolo-x.yaml", "scale 'x' does not exist; scales are p, n, s, m, l"),
        ("plif-spikeyolo-n.yaml", f"unknown neuron 'plif'; it is one of {', '.join(PREFIXES)}"),
    ],
)
def test_bad_names_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        YOLO(name)


def test_flops_count_timesteps(tmp_path):
    neuron = {"type": "ibra-lif", "D": 5.11, "N": 100, "T": 2}
    path = write_yaml(tmp_path / "two-p.yaml", neuron=neuron)
    one, two = YOLO(PICO).info(), YOLO(path).info()
    assert one[1] == two[1]
    assert two[3] == pytest.approx(2 * one[3], rel=0.01)
    # by hand: the stem is 16 filters of 7x7x3 at stride 4, twice per timestep for multiply and add
    stem = 2 * 16 * 7 * 7 * 3 * (640 / 4) ** 2 / 1e9
    assert one[3] > 10 * stem


def test_flops_equal_the_convolutions_counted_by_hooks():
    model = build(PICO)
    counted = 0

    def count(m, _, out):
        nonlocal counted
        counted += 2 * out[0].numel() * m.in_channels // m.groups * m.kernel_size[0] * m.kernel_size[1]

    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, 640, 640))
    assert model.info()[3] == pytest.approx(counted / 1e9, rel=0.03)  # the rest: BatchNorm


def test_one_architecture_file():
    assert [p.name for p in ARCHITECTURE.parent.iterdir()] == ["spikeyolo.yaml"]
