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
from spikeyolo.deployment import form_of, transform
from spikeyolo.deployment.layers import CodeNeuron, IntegerConv, PixelConv
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


def assert_same_layers(deployed, trained, N):
    """Each convolution alone: rounding would make whole networks differ in a code here and there."""
    assert trained.keys() == deployed.deployed.convs.keys()
    for name, conv in deployed.deployed.convs.items():
        operand, expected = trained[name]
        stem = isinstance(conv, PixelConv)
        ours = conv(operand) if stem else conv((operand * N(name)).round())
        assert torch.allclose(
            ours, expected * conv.unit, rtol=1e-4, atol=1e-4 * conv.unit * float(expected.abs().max())
        ), name
        assert stem or operand.max() > 0


def test_with_fine_steps_its_layers_are_those_of_the_trained_network(model, photos, fine):
    N = model.model.yaml["neuron"]["N"]
    deployed = deploy(model, planes=16)
    assert len(deployed.deployed.neurons) == 23
    assert_same_layers(deployed, trained_layers(model, photos), lambda _: N)


@pytest.mark.parametrize("planes", [7, 9])
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # said by the switch of oneDNN itself
def test_every_sum_is_exact_in_any_order(model, photos, planes):
    deployed = deploy(model, planes=planes)
    for name, conv in deployed.deployed.convs.items():
        assert torch.equal(conv.weight, conv.weight.round()), name
        assert torch.equal(conv.bias, conv.bias.round()), name
        assert torch.equal(conv.exponent, conv.exponent.round()), name
        assert conv.weight.abs().max() <= 127
        assert conv.sums().max() < 2**24, name
        if conv.largest <= 255:  # two products fit 16 bits
            assert 2 * conv.largest * int(conv.weight.abs().max()) < 2**15, name
    # what enters the decoder: float32 in two orders and float64 agree bit for bit
    with torch.no_grad():
        maps = deployed(photos)[1]
        with torch.backends.mkldnn.flags(enabled=False):  # other kernels
            alone = [deployed(photo[None])[1] for photo in photos]
        double = copy.deepcopy(deployed).double()(photos.double())[1]
    for key in ("boxes", "scores"):
        assert torch.equal(maps[key], torch.cat([one[key] for one in alone]))
        assert torch.equal(maps[key].double(), double[key])


def test_potentials_are_multiples_of_steps_below_2_to_the_24th(model, photos):
    deployed, read = deploy(model), {}
    for name, neuron in deployed.deployed.neurons.items():
        neuron.register_forward_pre_hook(lambda n, i, name=name: read.__setitem__(name, (i[0], n.exponent)))
    with torch.no_grad():
        deployed(photos)
    for name, (u, exponent) in read.items():
        steps = u.double() / 2.0**exponent
        assert torch.equal(steps, steps.round()), name
        assert 0 < steps.abs().max() < 2**24, name


def test_what_is_added_to_a_stream_has_eight_bits(photos, tmp_path):
    deployed, found = deploy(calibrated(write_small(tmp_path / "small.yaml", IBRA), photos)), {}
    convs = deployed.deployed.convs
    branches = {name for name, conv in convs.items() if conv.branch is not None}
    tails = {f"model.{n}.{tail}" for n in (2, 6) for tail in ("separable.project.conv", "conv2.conv")}
    assert branches == tails | {"model.1.conv"}  # the stem starts a stream; so would a downsampling convolution
    for name in branches:
        convs[name].register_forward_hook(lambda _, __, u, name=name: found.__setitem__(name, u))
    with torch.no_grad():
        deployed(photos)
    for name, u in found.items():
        codes = u / 2 ** convs[name].branch.view(1, -1, 1, 1)
        assert torch.equal(codes, codes.round())
        assert -128 <= codes.min() < -16
        assert 16 < codes.max() <= 127
        clipped = ((codes == 127) | (codes == -128)).double().mean()
        assert clipped < 0.001


def test_a_fused_network_deploys_as_the_trained_one(photos, tmp_path):
    """`yolo export` fuses before it exports; what BatchNorm tells about branches must not be lost."""
    model = calibrated(write_small(tmp_path / "small.yaml", IBRA), photos)
    expected = deploy(model)(photos)[0]
    assert torch.equal(deploy(copy.deepcopy(model.model).fuse(verbose=False))(photos)[0], expected)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_weights_have_the_width_that_is_asked_for(bits, photos, tmp_path):
    model = calibrated(write_small(tmp_path / "small.yaml", IBRA), photos)
    form = form_of(deploy(model, weight_bits=bits))
    largest = max(int(conv.weight.abs().max()) for name, conv in form.convs.items() if name != "model.1.conv")
    assert largest == 2 ** (bits - 1) - 1
    assert form.clipped > 0
    assert deploy(model, planes=8).deployed.convs["model.3.conv"].limit == 64
    some = calibrated(write_small(tmp_path / "some.yaml", {"type": "ibra-lif", "D": 2, "N": 100}), photos)
    assert deploy(some, planes=8).deployed.convs["model.3.conv"].limit == 64  # its 8 planes can hold 255, not only 200


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans())
def test_exponents_have_the_least_squared_error(seed, bits, heavy):
    """Against all exponents, by brute force in float64."""
    generator = np.random.default_rng(seed)
    conv = nn.Conv2d(6, 4, 3)
    weight = generator.standard_normal(conv.weight.shape) ** (5 if heavy else 1)
    conv.weight.data.copy_(torch.from_numpy(weight))
    ours = IntegerConv(conv, scale=1, unit=1, largest=127, weight_bits=bits)
    exact = conv.weight.detach().double().flatten(1).numpy()
    limit = 2 ** (bits - 1) - 1

    def error(exponent):
        steps = np.clip(np.rint(exact / 2.0**exponent), -limit, limit)
        return np.square(steps * 2.0**exponent - exact).sum(1)

    least = np.min([error(e) for e in range(-24, 12)], 0)
    found = ours.weight.double().flatten(1).numpy() * 2.0 ** ours.exponent.double().numpy()[:, None]
    # three neighbours are tried: an outlier that is worth clipping by more than a factor of four is not
    assert (np.square(found - exact).sum(1) <= least * (1.0 if not heavy else 1.25) + 1e-12).all()


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 4)]),
    st.sampled_from([1, 3, 4, 15, 127, 255, 511]),
)
def test_planes_give_the_convolution_of_the_codes(seed, shape, largest):
    generator = torch.Generator().manual_seed(seed)
    k, stride, groups = shape
    conv = nn.Conv2d(4, 8, k, stride, k // 2, groups=groups)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) / 64)
    ours = IntegerConv(conv, scale=1, unit=1, largest=largest)
    codes = torch.randint(0, largest + 1, (2, 4, 9, 7), generator=generator).float()
    together = ours(codes)
    ours.spike_driven = True
    assert torch.equal(ours(codes), together)
    # by the definition, in float64: 2^e * (sum_b w * (2^b * plane_b) + bias)
    w, b, step = ours.weight.double(), ours.bias.double(), 2 ** ours.exponent.double()
    planes = to_planes(codes, ours.planes).double()
    sums = [2**i * nn.functional.conv2d(p, w, None, stride, k // 2, 1, groups) for i, p in enumerate(planes)]
    assert torch.equal(together.double(), (sum(sums) + b.view(1, -1, 1, 1)) * step.view(1, -1, 1, 1))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 600))
def test_bounds_hold_for_every_order_and_operand(seed, groups, largest):
    generator = np.random.default_rng(seed)
    conv = nn.Conv2d(2 * groups, 3 * groups, 3, groups=groups)
    nn.init.normal_(conv.weight)
    ours = IntegerConv(conv, scale=1, unit=1, largest=largest)
    terms = ours.weight.double().flatten(1).numpy() * generator.choice([0, largest], (1, 18))
    terms = np.c_[terms, ours.bias.double().numpy()]
    terms = terms[:, generator.permutation(19)]
    partial = np.abs(terms.cumsum(1)).max(1)
    assert (partial <= ours.sums().numpy()).all()
    # and it is reached, up to the bias: all weights of one sign at the largest operand
    positive = ours.weight.double().flatten(1).clamp(min=0).sum(1) * largest
    assert (ours.sums() >= positive + ours.bias.double().clamp(min=0)).all()


def test_sums_that_would_pass_2_to_the_24th_take_coarser_weights():
    conv = nn.Conv2d(4096, 2, 3)
    nn.init.constant_(conv.weight[0], 0.9)
    nn.init.constant_(conv.weight[1], 1e-9)  # a dead channel
    nn.init.constant_(conv.bias, 50.0)
    ours = IntegerConv(conv, scale=1, unit=1, largest=127)
    assert ours.sums().max() < 2**24
    assert ours.weight[0].unique().tolist() == [2.0]  # 0.9 in steps of 1/2; 4096 * 9 * 127 * 4 are more than 2^24
    assert ours.exponent[0] == -1
    assert ours.bias[1] * 2 ** ours.exponent[1] == 50  # and the bias has room
    with pytest.raises(ValueError, match=r"deep: its sums of 36864 products with codes up to 65,535 cannot be kept"):
        IntegerConv(conv, scale=1, unit=1, largest=2**16 - 1, name="deep")


def test_weights_that_are_no_numbers_are_named(photos, tmp_path):
    model = calibrated(write_small(tmp_path / "small.yaml", IBRA), photos)
    model.model.model[3].conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"model\.3\.conv has weights that are not finite"):
        deploy(model)


@pytest.mark.parametrize("bits", [1, 9, 0, 7.5, "8", True])
def test_weight_bits_out_of_range_are_named(bits):
    with pytest.raises(ValueError, match=r"weight_bits must be a whole number from 2 to 8, got weight_bits="):
        deploy(YOLO(PICO), weight_bits=bits)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 8, 64]), st.integers(1, 600), st.integers(1, 4), st.booleans())
def test_a_code_neuron_is_the_trained_neuron(seed, N, D_N, T, same_unit):
    neuron = IBRALIF(D_N / N, N, T=T, decay=0.25)
    unit = N if same_unit else 4 * N
    v = torch.randint(-100, 800, (2 * T, 3), generator=torch.Generator().manual_seed(seed)) / 8 / N
    ours = CodeNeuron(neuron, unit)
    ours.exponent = -14  # finer than any leak
    assert torch.equal(ours(v * unit), neuron(v) * N)


def test_a_step_of_the_arithmetic_by_hand():
    neuron = CodeNeuron(IBRALIF(4, 1, T=3, decay=0.25), unit=2)  # u = 2 v
    u = torch.tensor([[3.0], [1.0], [1.0]])  # v = 1.5, 0.5 + (1.5 - 2) / 4 = 0.375, 0.5 + 0.375 / 4 = 0.59375
    assert neuron(u).flatten().tolist() == [2, 0, 1]
    neuron.exponent = -1  # in steps of 1/2, u: leak (3 - 4) / 4 = -0.25, to even 0; 1 - 0; leak 1 / 4 = 0.25, to even 0
    assert neuron(u).flatten().tolist() == [2, 0, 0]
    assert neuron(torch.tensor([[3.0], [1.0], [1.5]])).flatten().tolist() == [2, 0, 1]
    stem = nn.Conv2d(1, 1, 1)
    nn.init.constant_(stem.weight, 0.5)
    nn.init.constant_(stem.bias, 0.25)
    pixels = torch.tensor([0, 3, 255, 300]).view(1, 1, 1, 4) / 255  # the last one is out of range
    # u = 100 * (0.5 * p / 255 + 0.25), weight 50 / 255 = 50.2 / 256: 50 steps of 2^-8, as 64 is the limit of a stem
    ours = PixelConv(stem, scale=100 / 255, unit=100, largest=255)(pixels).flatten()
    assert ours.tolist() == [25, 25 + 3 * 50 / 256, 25 + 255 * 50 / 256, 25 + 255 * 50 / 256]


def test_neurons_may_have_ranges_of_their_own(photos, tmp_path, fine):
    model = calibrated(write_small(tmp_path / "small.yaml", {"type": "ibra-lif", "D": 4, "N": 64}), photos)
    for i, neuron in enumerate(m for m in model.model.modules() if isinstance(m, IBRALIF)):
        neuron.N, neuron.D = (64.0, 4.0) if i % 2 else (32.0, 2.0)
    own = {}
    for name, _, _, neuron in transform.pairs(copy.deepcopy(model.model).fuse(verbose=False)):
        own[name] = neuron.N if neuron else None
    deployed = deploy(model, planes=9)
    assert deployed.deployed.unit == 64
    assert set(deployed.deployed.planes.values()) == {7, 9}
    assert_same_layers(deployed, trained_layers(model, photos), own.__getitem__)


def test_both_graphs_and_a_second_deploy_are_the_same_network(model, photos):
    integer = spikeyolo.deploy(model)
    spike = spikeyolo.deploy(integer, graph="spike")
    assert all(c.spike_driven for c in spike.deployed.convs.values() if not isinstance(c, PixelConv))
    assert not any(c.spike_driven for c in integer.deployed.convs.values() if not isinstance(c, PixelConv))
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
    assert set(form.planes.values()) == {7}  # unless more are asked for
    assert set(deploy(YOLO(PICO), planes=9).deployed.planes.values()) == {9}


def test_codes_that_cost_weights_their_bits_are_named(photos, tmp_path, caplog):
    model = calibrated(write_small(tmp_path / "small.yaml", {"type": "ib-lif", "D": 2**20, "N": 1}), photos)
    form = deploy(model, planes=16).deployed
    assert max(float(conv.sums().max()) for conv in form.convs.values()) < 2**24
    assert "channels keep few bits of their weights, so that the sums of codes of up to 16 planes stay" in caplog.text
    assert "Remedy: planes=7" in caplog.text
    caplog.clear()
    assert max(deploy(model).deployed.planes.values()) == 7
    assert "few bits" not in caplog.text


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
