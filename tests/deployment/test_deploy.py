import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import IBRA, PICO, calibrated, write_small
from torch import nn
from ultralytics import YOLO

import spikeyolo
from spikeyolo.deployment import form_of, grids, transform
from spikeyolo.deployment.layers import CodeNeuron, FixedPointConv, PixelConv, PlaneConv
from spikeyolo.deployment.transform import deploy
from spikeyolo.neurons.coding import to_planes
from spikeyolo.neurons.integer import IBRALIF

NEURONS = {
    "ibra": IBRA,
    "ibra-T2": IBRA | {"T": 2},
    "lif": {"type": "lif", "D": 1, "N": 1},
    "i-lif-T4": {"type": "i-lif", "D": 4, "N": 1, "T": 4},
    "ib-lif": {"type": "ib-lif", "D": 511, "N": 1},
}


@pytest.fixture(params=NEURONS.values(), ids=NEURONS)
def model(request, photos, tmp_path):
    return calibrated(write_small(tmp_path / "small.yaml", request.param), photos)


def trained_layers(model, images):
    """Input and output of every convolution of the fused trained network, by name."""
    fused, found = copy.deepcopy(model.model).fuse(verbose=False), {}
    for name, module in fused.named_modules():
        if isinstance(module, nn.Conv2d) and ".dfl" not in name:
            module.register_forward_hook(lambda _, i, o, name=name: found.__setitem__(name, (i[0], o)))
    with torch.no_grad():
        fused(images)
    return found


def assert_same_layers(deployed, trained, unit, N):
    """Each convolution alone: rounding would make whole networks differ in a code here and there."""
    assert trained.keys() == deployed.deployed.convs.keys()
    for name, conv in deployed.deployed.convs.items():
        operand, expected = trained[name]
        stem = isinstance(conv, PixelConv)
        ours = conv(operand) if stem else conv((operand * N(name)).round())
        assert torch.allclose(ours, expected * unit, rtol=1e-4, atol=1e-4 * unit * float(expected.abs().max())), name
        assert stem or operand.max() > 0


def test_on_a_fine_grid_its_layers_are_those_of_the_trained_network(model, photos, monkeypatch):
    monkeypatch.setattr(transform, "FINEST_GRID", 40)
    monkeypatch.setattr(grids, "SIGNIFICANT_BITS", 60)  # no bound: what is left is the rounding of float32
    N = model.model.yaml["neuron"]["N"]
    deployed = deploy(model)
    assert len(deployed.deployed.neurons) == 23
    assert_same_layers(deployed, trained_layers(model, photos), N, lambda _: N)


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # said by the switch of oneDNN itself
def test_the_grid_makes_every_sum_exact(model, photos):
    deployed = deploy(model)
    assert not deployed.deployed.inexact
    for name, conv in deployed.deployed.convs.items():
        steps = conv.weight.double() * 2**conv.grid
        assert torch.equal(steps, steps.round()), name
        assert conv.bounds().max() * 2**conv.grid <= 2**24, name
    # whatever is summed is on the grid: float32 in two orders and float64 agree bit for bit
    with torch.no_grad():
        output = deployed(photos)[0]
        with torch.backends.mkldnn.flags(enabled=False):  # other kernels
            alone = torch.cat([deployed(photo[None])[0] for photo in photos])
        double = copy.deepcopy(deployed).double()(photos.double())[0]
    assert torch.equal(output, alone)
    assert torch.equal(output, double.float())


def test_what_is_added_up_shares_a_grid(photos, tmp_path):
    neuron = {"type": "ibra-lif", "D": 40.95, "N": 100}
    grids = deploy(calibrated(write_small(tmp_path / "small.yaml", neuron), photos)).deployed.grids
    assert len({grids[f"model.{n}.conv"] for n in ("1", "2.separable.project", "2.conv2")}) == 1
    # row 5 joins rows 4 (upsampled 3) and 2, and the block of row 6 adds to both
    assert len({grids[f"model.{n}.conv"] for n in ("2.conv2", "3", "6.separable.project", "6.conv2")}) == 1
    assert len(set(grids.values())) > 1


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 4)]),
    st.sampled_from([1, 3, 4, 15, 511, 40_000]),
)
def test_planes_give_the_convolution_of_the_codes(seed, shape, largest):
    generator = torch.Generator().manual_seed(seed)
    k, stride, groups = shape
    conv = nn.Conv2d(4, 8, k, stride, k // 2, groups=groups)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) / 64)
    plane_conv = PlaneConv(conv, scale=1, unit=1, largest=largest)
    plane_conv.snap(6)
    assert plane_conv.bounds().max() * 2**6 <= 2**24
    codes = torch.randint(0, largest + 1, (2, 4, 9, 7), generator=generator).float()
    together = plane_conv(codes)
    plane_conv.spike_driven = True
    assert torch.equal(plane_conv(codes), together)
    # by the definition, in float64: sum_b 2^b * (W * plane_b) + bias
    w, b = plane_conv.weight.double(), plane_conv.bias.double()
    planes = to_planes(codes, plane_conv.planes).double()
    sums = [2**i * nn.functional.conv2d(p, w, None, stride, k // 2, 1, groups) for i, p in enumerate(planes)]
    assert torch.equal(together.double(), sum(sums) + b.view(1, -1, 1, 1))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 600))
def test_bounds_hold_for_every_order_and_operand(seed, groups, largest):
    generator = np.random.default_rng(seed)
    conv = nn.Conv2d(2 * groups, 3 * groups, 3, groups=groups)
    nn.init.normal_(conv.weight)
    ours = FixedPointConv(conv, scale=1, unit=1, largest=largest)
    terms = ours.weight.double().flatten(1).numpy() * generator.choice([0, largest], (1, 18))
    terms = np.c_[terms, ours.bias.double().numpy()]
    terms = terms[:, generator.permutation(19)]
    partial = np.abs(terms.cumsum(1)).max(1)
    assert (partial <= ours.bounds().numpy() + 1e-9).all()
    # and it is reached, up to the bias: all weights of one sign at the largest operand
    positive = ours.weight.double().flatten(1).clamp(min=0).sum(1) * largest
    assert (ours.bounds() >= positive + ours.bias.double().clamp(min=0)).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 8, 64]), st.integers(1, 600), st.integers(1, 4), st.booleans())
def test_a_code_neuron_is_the_trained_neuron(seed, N, D_N, T, same_unit):
    neuron = IBRALIF(D_N / N, N, T=T, decay=0.25)
    unit = N if same_unit else 4 * N
    v = torch.randint(-100, 800, (2 * T, 3), generator=torch.Generator().manual_seed(seed)) / 8 / N
    assert torch.equal(CodeNeuron(neuron, unit)(v * unit), neuron(v) * N)


def test_a_step_of_the_arithmetic_by_hand():
    neuron = CodeNeuron(IBRALIF(4, 1, T=3, decay=0.25), unit=2)  # u = 2 v
    u = torch.tensor([[3.0], [1.0], [1.0]])  # v = 1.5, 0.5 + (1.5 - 2) / 4 = 0.375, 0.5 + 0.375 / 4 = 0.59375
    assert neuron(u).flatten().tolist() == [2, 0, 1]
    stem = nn.Conv2d(1, 1, 1)
    nn.init.constant_(stem.weight, 0.5)
    nn.init.constant_(stem.bias, 0.25)
    pixels = torch.tensor([0, 3, 255, 300]).view(1, 1, 1, 4) / 255  # the last one is out of range
    # u = 100 * (0.5 * p / 255 + 0.25), weight 50 / 255 on the grid 2^-12: 803 / 4096
    ours = PixelConv(stem, scale=100 / 255, unit=100, largest=255)(pixels).flatten()
    assert ours.tolist() == [25, 25 + 3 * 803 / 4096, 25 + 255 * 803 / 4096, 25 + 255 * 803 / 4096]


def test_rounding_errors_of_a_filter_add_up_to_less_than_a_step():
    conv = nn.Conv2d(64, 8, 3)
    ours = FixedPointConv(conv, scale=1, unit=1, largest=1)
    ours.snap(6)
    error = (ours.weight - conv.weight).double().flatten(1)
    assert error.sum(1).abs().max() <= 2**-7 + 1e-6
    assert error.abs().max() <= 2**-6


def test_neurons_may_have_ranges_of_their_own(photos, tmp_path, monkeypatch):
    model = calibrated(write_small(tmp_path / "small.yaml", {"type": "ibra-lif", "D": 4, "N": 64}), photos)
    for i, neuron in enumerate(m for m in model.model.modules() if isinstance(m, IBRALIF)):
        neuron.N, neuron.D = (64.0, 4.0) if i % 2 else (32.0, 2.0)
    monkeypatch.setattr(transform, "FINEST_GRID", 40)
    monkeypatch.setattr(grids, "SIGNIFICANT_BITS", 60)
    own = {}
    for name, _, _, neuron in transform.pairs(copy.deepcopy(model.model).fuse(verbose=False)):
        own[name] = neuron.N if neuron else None
    deployed = deploy(model)
    assert deployed.deployed.unit == 64
    assert set(deployed.deployed.planes.values()) == {7, 9}
    assert_same_layers(deployed, trained_layers(model, photos), 64, own.__getitem__)


def test_both_graphs_and_a_second_deploy_are_the_same_network(model, photos):
    integer = spikeyolo.deploy(model)
    spike = spikeyolo.deploy(integer, graph="spike")
    assert all(c.spike_driven for c in spike.deployed.convs.values() if isinstance(c, PlaneConv))
    assert not any(c.spike_driven for c in integer.deployed.convs.values() if isinstance(c, PlaneConv))
    with torch.no_grad():
        assert torch.equal(integer(photos)[0], spike(photos)[0])


def test_the_model_is_left_as_it_was(photos, tmp_path):
    model = calibrated(write_small(tmp_path / "small.yaml", IBRA), photos).model.train()
    before = copy.deepcopy(model.state_dict())
    deployed = deploy(model)
    assert model.training
    assert not deployed.training
    assert not any(p.requires_grad for p in deployed.parameters() if p.ndim == 4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_every_convolution_of_the_real_architecture_takes_codes():
    form = deploy(YOLO(PICO)).deployed
    assert len(form.convs) == len(form.neurons) + 1 == 79
    assert next(iter(form.convs)) == "model.1.conv"
    assert isinstance(form.convs["model.1.conv"], PixelConv)
    assert set(form.planes.values()) == {9}


def test_it_says_what_is_lost_where_the_bound_cannot_be_met(photos, tmp_path, caplog):
    neuron = {"type": "ib-lif", "D": 2**20, "N": 1}
    form = form_of(deploy(calibrated(write_small(tmp_path / "small.yaml", neuron), photos)))
    assert "model.3.conv" in form.inexact
    assert set(form.grids.values()) == {transform.FINEST_GRID}  # accuracy is not given up as well
    assert "can exceed what float32 holds exactly" in caplog.text
    assert "Lost: the guarantee that every runtime emits the same codes" in caplog.text


def small(tmp_path, backbone):
    head = [[[len(backbone) - 1], 1, "SpikeDetect", ["nc"]]]
    return YOLO(write_small(tmp_path / "small.yaml", IBRA, backbone=backbone, head=head))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [["SpikeDown", [8, 7, 4, 2, True]], ["SpikeDown", [8, 3, 2, 1, True]]],
            "row 1 is a convolution without neuron",
        ),
        ([["SpikeEncoder", []], ["SpikeConv", [8, 3, 2]]], r"row 1 \(SpikeConv\) reads pixels, but is no stem"),
    ],
)
def test_refuses_a_network_that_is_not_spike_driven(rows, message, tmp_path):
    model = small(tmp_path, [[-1, 1, *row] for row in rows])
    with pytest.raises(ValueError, match=message):
        deploy(model)


def test_refuses_what_it_cannot_deploy():
    with pytest.raises(ValueError, match="no spiking neuron"):
        deploy(YOLO("relu-spikeyolo-p.yaml"))
    with pytest.raises(ValueError, match="no spiking neuron"):
        deploy(YOLO("yolo11n.yaml"))
    with pytest.raises(TypeError, match="got Linear"):
        deploy(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="graph must be spike or integer, got 'planes'"):
        deploy(YOLO(PICO), graph="planes")


def test_raw_maps_come_in_the_order_of_the_head(photos, tmp_path):
    """The order of a set depends on the process, and with it the bytes of an exported graph did."""
    model = calibrated(write_small(tmp_path / "small.yaml", IBRA), photos).model.eval()
    features = [torch.rand(1, c, 4, 4) for c in (24, 16)]
    head, deployed = model.model[-1], deploy(model).model[-1]
    maps = [list(h.forward_head(features, h.cv2, h.cv3)) for h in (head, deployed)]
    assert maps[0] == maps[1] == ["boxes", "scores", "feats"]


def test_a_convolution_that_no_neuron_precedes_is_named(photos, tmp_path):
    """A block of a user that holds a bare convolution would be passed over, and the network be another one."""
    model = calibrated(write_small(tmp_path / "small.yaml", IBRA), photos)
    model.model.model[3].extra = torch.nn.Conv2d(16, 16, 1)
    with pytest.raises(
        ValueError, match=r"model\.3\.extra \(Conv2d\) has no deploy form: a block is made of SpikeConv"
    ):
        deploy(model)
