"""Aligned neurons: where their range comes from, and that all else is the neuron as ever."""

import copy
import math
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import calibrated, train, write_small
from ultralytics import YOLO
from ultralytics.utils.torch_utils import ModelEMA

import spikeyolo
from spikeyolo.neurons import ranges
from spikeyolo.neurons.aligned import PoTLIF
from spikeyolo.neurons.config import NeuronConfig
from spikeyolo.neurons.equations import Dynamics
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.neurons.kernels import straight_through
from spikeyolo.neurons.ranges import MOMENTUM, SAMPLES, START, LearnedRange, TrackedRange, ranges_of, strided_sample

AR = {"type": "pot-lif", "planes": 5}


def made(reach, planes=5, kind="tracked", **numbers):
    """Make a neuron with a range."""
    neuron = PoTLIF(planes, range=kind, **numbers).eval()
    neuron.range.reach.fill_(reach)
    return neuron


def test_states_its_arithmetic():
    found = TrackedRange(5)
    found.observe(torch.arange(1, 2001) / 1000)  # two of 2,000 are above the 99.9th percentile: 1.999, 2.000
    assert float(found.reach) == pytest.approx(1.999)
    assert found.N == 16  # 2^5 codes for 0 to 2, the next power of two
    found.observe(torch.arange(1, 2001) / 500)  # 3.998
    assert float(found.reach) == pytest.approx(1.999 + MOMENTUM * 1.999)  # 2.09895
    assert found.N == 8
    neuron = made(1.999)
    assert (neuron.D, neuron.N, neuron.D_N, neuron.planes) == (31 / 16, 16, 31, 5)
    assert neuron(torch.tensor([-1.0, 0.03125, 0.09375, 1.0, 1.95, 9.0])).tolist() == [0, 0, 0.125, 1, 1.9375, 1.9375]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reach", [ranges.SMALLEST, 3.7, ranges.LARGEST])
@pytest.mark.parametrize("planes", [5, 7, 8, 10, 11, 16])
def test_under_autocast_every_code_is_told_apart(dtype, reach, planes):
    neuron = made(reach, planes).train()
    N, D_N = neuron.N, neuron.D_N
    x = (torch.arange(1, D_N + 1, max(1, D_N // 999)) / N).requires_grad_()
    with torch.autocast("cpu", dtype):
        out = neuron(x.to(dtype) if neuron.fits(dtype) else x)
        assert out.dtype == (dtype if neuron.fits(dtype) else torch.float32)
    assert torch.equal((out.double() * N).round(), (x.double() * N).round())
    assert neuron.fits(dtype) == (planes <= {torch.float16: 10, torch.bfloat16: 7}[dtype])


def test_a_neuron_that_has_read_nothing_has_a_range_to_begin_with():
    neuron = PoTLIF()
    assert not neuron.range.tracked
    assert START < neuron.D < 2 * START
    assert "start" in repr(neuron)


@given(st.floats(2**-4, 2**14, width=32), st.integers(1, 16))
def test_N_is_the_power_of_two_whose_range_holds_the_percentile(reach, planes):
    found = made(reach, planes).range
    width = 2.0**planes / found.N
    assert width / 2 <= reach < width
    assert math.frexp(found.N)[0] == 0.5
    assert float(found.N_tensor()) == found.N  # the spelling for GPUs


@pytest.mark.parametrize("kind", ["tracked", "learned"])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_else_is_the_neuron_with_these_numbers(kind, T, dtype):
    aligned, fixed = made(3.7, kind=kind, T=T, decay=0.3), IBRALIF(31 / 8, 8, T=T, decay=0.3)
    x = torch.randn(2 * T, 3, 9, 7, dtype=dtype) * 3
    grad = torch.randn_like(x)
    for training in (False, True):
        results = []
        for neuron in (aligned.train(training), fixed):
            y = x.clone().requires_grad_()
            out = neuron(y)
            out.backward(grad)
            results.append((out, y.grad))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_running_percentile_is_that_of_the_potentials():
    neuron, expected = PoTLIF(T=2, decay=0.5).train(), None
    for seed in range(5):
        x = torch.randn(4, 2, 5, 3, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
        N, first, second = neuron.N, *x.chunk(2)
        neuron(x)
        spikes = (first * N).round().clamp(0, 31) / N
        v = torch.cat([first, 0.5 * (first - spikes) + second])
        found = float(np.sort(v.numpy().ravel())[-1])  # of 120 potentials one stands for a thousandth
        expected = found if expected is None else 0.95 * expected + 0.05 * found
        assert float(neuron.range.reach) == pytest.approx(expected, rel=1e-6)


def test_what_a_forward_finds_counts_from_the_next_one_on():
    neuron = PoTLIF().train()
    x = torch.linspace(0, 100, 500)
    assert neuron(x).max() == 4 - 1 / 8
    assert neuron(x).max() == 100  # D is 124 now


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(8, 24, 40, 40), (2, 96, 20, 20), (6, 7, 5, 3), (4, 3, 64, 64)])
@pytest.mark.parametrize("T", [1, 2])
def test_the_sample_meets_every_channel_of_every_timestep(layout, shape, T):
    channels = torch.arange(shape[1]).view(1, -1, 1, 1).expand(shape)
    steps = torch.arange(shape[0]).view(-1, 1, 1, 1).expand(shape) // (shape[0] // T)
    x = (channels + 1000 * steps).float().contiguous(memory_format=layout)
    sample = strided_sample(x, T)
    assert sample.shape[0] == T
    assert sample.shape[1] <= min(2 * SAMPLES, x.numel() // T)
    for t in range(T):
        assert sample[t].unique().tolist() == [c + 1000 * t for c in range(shape[1])]
    assert sample.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()  # nothing is copied


def test_the_sample_is_good_enough():
    x = torch.randn(4, 16, 40, 40)
    neuron = PoTLIF().train()
    for _ in range(2):
        neuron(x)
    assert float(neuron.range.reach) == pytest.approx(float(np.percentile(x.numpy(), 99.9)), rel=0.1)


def test_only_training_moves_a_range_and_not_where_it_is_frozen():
    neuron, x = made(3.7), torch.randn(2, 3, 8, 8) * 20
    neuron(x)
    neuron.train().range.tracking = False
    neuron(x)
    assert float(neuron.range.reach) == pytest.approx(3.7)
    neuron.range.tracking = True
    with torch.no_grad():  # as in torch.optim.swa_utils.update_bn
        neuron(x)
    assert float(neuron.range.reach) > 3.8


@pytest.mark.parametrize("kind", ["tracked", "learned"])
@pytest.mark.parametrize("convert", ["half", "bfloat16", "float", "double"])
def test_a_range_keeps_its_precision(kind, convert):
    neuron = made(3.9999, kind=kind)  # would be 4 in half precision, and N another one
    converted = getattr(copy.deepcopy(neuron), convert)()
    assert {t.dtype for t in converted.state_dict().values()} == {torch.float32}
    assert converted.N == neuron.N == 8
    assert converted.to_empty(device="meta").range.reach.is_meta


def test_the_average_of_a_training_has_its_own_range():
    neuron = made(3.0)
    ema = ModelEMA(neuron, decay=0.5, tau=1e-9)
    neuron.range.reach.fill_(6.0)
    ema.update(neuron)
    assert float(ema.ema.range.reach) == 4.5
    assert ema.ema.N == 4


def lsq(x, gain, reach, planes):
    """Learned step sizes as autograd does them, the rounding to a power of two straight-through."""
    exponent = math.log2(reach) + gain
    exponent = exponent + (exponent.detach().floor() + 1 - exponent).detach()
    step = 2**exponent / 2**planes
    k = (x / step).clamp(0, 2**planes - 1)
    return (k + (k.round() - k).detach()) * step


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_learned_range_has_the_gradient_of_learned_step_sizes(layout):
    neuron = made(1.7, planes=3, kind="learned").train()
    neuron.range.tracking = False
    with torch.no_grad():
        neuron.range.gain.fill_(0.3)
    x = (torch.randn(2, 5, 6, 7, dtype=torch.float64) * 2).to(memory_format=layout)
    weight = torch.randn(2, 5, 6, 7, dtype=torch.float64)  # contiguous
    gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected = lsq(x, gain, float(neuron.range.reach), 3)
    out = neuron(x.requires_grad_())
    torch.testing.assert_close(out, expected.detach())
    (expected * weight).sum().backward()
    (out * weight).sum().backward()
    torch.testing.assert_close(neuron.range.gain.grad.double(), gain.grad / math.sqrt(x.numel() * 7), rtol=1e-5, atol=0)


def test_the_learned_range_estimates_its_gradient_on_a_sample(monkeypatch):
    x, grads = torch.randn(4, 16, 32, 32) * 2, []
    weight = torch.rand_like(x)
    for samples in (10**9, 4096):
        monkeypatch.setattr(ranges, "SAMPLES", samples)
        neuron = made(1.7, planes=3, kind="learned").train()
        (neuron(x.clone().requires_grad_()) * weight).sum().backward()
        grads.append(float(neuron.range.gain.grad))
    assert grads[1] == pytest.approx(grads[0], rel=0.1)


def test_the_learned_range_descends():
    neuron = made(60.0, kind="learned").train()
    neuron.range.tracking = False  # its gain learns on
    optimizer = torch.optim.Adam(neuron.parameters(), lr=0.3)
    x = torch.rand(8, 4, 8, 8) * 2
    errors = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (neuron(x.requires_grad_()) - x.detach()).square().mean() * x.numel()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert neuron.N in (8, 16)  # between them: 31 codes for 0 to 2 clip what is above 1.94
    assert errors[-1] < errors[0] / 100


def test_triton_reads_N_where_it_is(request):
    pytest.importorskip("triton")
    from spikeyolo.neurons import triton_kernels

    x = torch.randn(2, 3, 7, 5) * 3
    with_number = triton_kernels.emit(x, Dynamics(8.0, 31, 2, 0.3), torch.float32)
    with_tensor = triton_kernels.emit(x, Dynamics(torch.tensor(8.0), 31, 2, 0.3), torch.float32)
    assert torch.equal(with_number[0], IBRALIF(31 / 8, 8, T=2, decay=0.3)(x))
    for a, b in zip(with_number, with_tensor, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(straight_through(x, Dynamics(torch.tensor(8.0), 31, 2, 0.3), torch.float32), with_number[0])


@pytest.mark.parametrize("T", [1, 2])
def test_compiles(T):
    x = torch.randn(2 * T, 3, 8, 8) * 2
    plain = PoTLIF(T=T).train()
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        for neuron, y in ((plain, a), (compiled, b)):
            neuron(y).square().sum().backward()
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(plain.range.reach, twin.range.reach)


DDP = """
import sys, torch, torch.distributed as dist
from spikeyolo.neurons import PoTLIF
rank, port = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), PoTLIF())
model = torch.nn.parallel.DistributedDataParallel(model)
seen = []
for step in range(6):
    torch.manual_seed(10 * step + rank)
    x = torch.randn(4, 3, 8, 8) * 3**step * (1 + rank)
    emitted = []
    hook = model.module[1].register_forward_pre_hook(lambda m, a: emitted.append(m.N))
    model(x).sum().backward()
    hook.remove()
    seen += emitted
print(seen)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_all_ranks_emit_alike_under_ddp():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    started = [
        subprocess.Popen([sys.executable, "-c", DDP, str(rank), port], stdout=-1, stderr=-1, text=True)
        for rank in range(2)
    ]
    seen = []
    for process in started:
        out, problem = process.communicate(timeout=120)
        assert process.returncode == 0, problem
        seen.append(eval(out.splitlines()[-1]))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 2  # they did move


# --- planes as a dial, after training ---


@given(st.integers(1, 4), st.sampled_from([(511, 100.0), (4, 1.0), (31, 8.0), (300, 7.0)]), st.integers(0, 2**31))
def test_dropping_planes_rounds_potentials_once(planes, numbers, seed):
    D_N, N = numbers
    neuron = IBRALIF(D_N / N, N)
    dropped = max(0, neuron.planes - planes)
    v = torch.randn(400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * D_N / N
    neuron.keep_planes(planes)
    assert neuron.planes == min(planes, D_N.bit_length())
    exact = (v * N / 2**dropped).clamp(min=0)
    codes = (neuron(v) * neuron.N).round()
    inside = exact <= D_N // 2**dropped
    assert (codes - exact)[inside].abs().max() <= 0.5  # to the nearest: cutting bits off would be up to 1 below
    assert (codes[~inside] == D_N // 2**dropped).all()


def test_dropping_planes_of_an_aligned_neuron_keeps_its_range():
    neuron = made(3.7, planes=6)
    neuron.keep_planes(4)
    assert (neuron.N, neuron.D_N, float(neuron.range.reach)) == (4, 15, pytest.approx(3.7))
    neuron.keep_planes(9)  # there are none to drop
    assert neuron.planes == 4


@pytest.mark.parametrize(("rest", "planes", "left"), [(64, 4, 4), (64, 2, 1), (2, 3, 1)])
def test_dropping_planes_keeps_a_code_for_potentials_below_zero(rest, planes, left):
    neuron = IBRALIF(255 / 32, 32, rest=rest)
    neuron.keep_planes(planes)
    assert (neuron.rest, neuron.planes) == (left, planes)
    v = torch.tensor([0.0, 1 / neuron.N, -1 / neuron.N])
    assert torch.equal(neuron(v), v)
    with pytest.raises(ValueError, match="both sides of zero needs planes=2"):
        neuron.keep_planes(1)


# --- in a network ---


@pytest.fixture(scope="module")
def network(photos, tmp_path_factory):
    torch.manual_seed(0)
    return calibrated(write_small(tmp_path_factory.mktemp("ar") / "small.yaml", AR), photos)


def test_the_deploy_form_has_an_N_for_each_neuron(network, photos):
    form = spikeyolo.deploy(network).deployed
    trained = {r.layer: r.N for r in ranges_of(network.model)}
    assert len(set(trained.values())) > 1
    assert [n.N for n in form.neurons.values()] == [trained[name] for name in trained]
    assert form.unit == max(trained.values())
    assert set(form.planes.values()) == {5}
    expected, found = network.model(photos)[0], spikeyolo.deploy(network)(photos)[0]
    assert (expected - found).abs().mean() < 0.05 * expected.abs().mean()


def test_fewer_planes_in_deploy_form(network, photos):
    form = spikeyolo.deploy(network, planes=3).deployed
    assert set(form.planes.values()) == {3}
    before = {r.layer: r.N for r in ranges_of(network.model)}
    assert [n.N for n in form.neurons.values()] == [N / 4 for N in before.values()]
    assert {r.planes for r in ranges_of(network.model)} == {5}  # the model is left as it is
    with pytest.raises(ValueError, match="in deploy form; give the trained one"):
        spikeyolo.deploy(spikeyolo.deploy(network), planes=3)
    for wrong in (0, 17, 2.5, True, "4"):
        with pytest.raises(ValueError, match="planes must be a whole number from 1 to 16"):
            spikeyolo.deploy(network, planes=wrong)


def test_training_tracks_and_then_freezes_and_resumes(digits, tmp_path):
    model, seen = YOLO(write_small(tmp_path / "small.yaml", AR, nc=10)), []

    def look(trainer):
        found = ranges_of(trainer.model)[3]
        seen.append((trainer.epoch, found.tracking, float(found.reach)))

    def stop(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    model.add_callback("on_train_epoch_end", look)
    model.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        train(model, digits, tmp_path, epochs=4, batch=4)
    assert [tracking for _, tracking, _ in seen] == [True, True, True]
    assert len({reach for *_, reach in seen}) == 3
    last = tmp_path / "train/weights/last.pt"
    resumed = YOLO(last)
    saved = [float(r.reach) for r in ranges_of(resumed.model)]
    resumed.add_callback("on_train_epoch_end", look)
    resumed.train(resume=True)
    assert seen[-1] == (3, False, pytest.approx(saved[3], abs=0))
    assert [float(r.reach) for r in ranges_of(YOLO(last).model)] == pytest.approx(saved, rel=1e-5)


# --- wrong input ---


@pytest.mark.parametrize("planes", [0, 17, -1, 2.5, "5", True])
def test_wrong_planes_are_named(planes):
    with pytest.raises(ValueError, match=rf"planes must be a whole number from 1 to 16, got planes={planes!r}"):
        NeuronConfig.from_mapping({"type": "pot-lif", "planes": planes})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"type": "pot-lif", "range": "fixed"}, "range must be tracked or learned, got 'fixed'"),
        ({"type": "pot-lif", "D": 5.11}, "neuron type pot-lif has no key D; its keys are type, planes, range, T"),
        ({"type": "pot-lif", "T": 0}, "T must be a whole number"),
        ({"type": "pot-lif", "decay": 2}, "decay must lie between 0 and 1"),
        (
            {"type": "ibra-lif", "D": 5.11, "N": 100, "planes": 5},
            "ibra-lif has no key planes; its keys are type, D, N, T",
        ),
        ({"type": "relu", "planes": 5}, "neuron type relu has no key planes"),
    ],
)
def test_wrong_mappings_are_named(mapping, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        NeuronConfig.from_mapping(mapping)


def test_planes_and_range_may_be_left_out():
    neuron = NeuronConfig.from_mapping({"type": "pot-lif"})()
    assert neuron.planes == 5
    assert type(neuron.range) is TrackedRange
    learned = NeuronConfig.from_mapping({"type": "pot-lif", "planes": 3, "range": "learned", "T": 2})
    assert type(learned().range) is LearnedRange
    assert str(learned) == "pot-lif (planes 3, range learned, T 2, decay 0.25)"
    assert NeuronConfig.from_mapping(learned.to_mapping()) == learned


def test_potentials_that_are_no_numbers_are_named_by_layer(network, photos):
    model = copy.deepcopy(network.model).train()
    model.get_submodule("model.2.conv1.conv.mix").weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^model\.2\.conv2\.act reads potentials that are no numbers \(NaN\).*lr0"):
        model(photos)
    neuron = made(float("nan"))
    with pytest.raises(ValueError, match="no numbers"):
        _ = neuron.N


def test_empty_and_constant_feature_maps(network):
    neuron = made(3.7).train()
    neuron.range.layer = "model.3.act"
    with pytest.raises(ValueError, match=r"model\.3\.act got an empty feature map"):
        neuron(torch.zeros(0, 3, 4, 4))
    assert neuron.eval()(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    with pytest.warns(UserWarning, match=r"model\.3\.act reads the same potential -2 everywhere.*are the images empty"):
        neuron.train()(torch.full((1, 3, 4, 4), -2.0))
    assert float(neuron.range.reach) == pytest.approx(3.7)  # it says nothing about the range
    fresh = PoTLIF().train()
    fresh(-torch.rand(1, 3, 4, 4))
    assert fresh.range.tracked
    assert float(fresh.range.reach) == START


def test_an_untrained_model_is_not_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = YOLO(write_small(tmp_path / "small.yaml", AR))
    message = r"model\.2\.separable\.expand\.act has no range yet \(23 neurons\).*train the model first"
    for arguments in ({"format": "onnx"}, {"format": "torchscript"}):
        with pytest.raises(ValueError, match=message):
            model.export(imgsz=64, **arguments)
    with pytest.raises(ValueError, match=message):
        spikeyolo.deploy(model)
    assert [file.name for file in tmp_path.iterdir()] == ["small.yaml"]
    model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)  # which is possible as ever


def test_a_checkpoint_without_ranges_is_not_resumed(digits, tmp_path):
    model = YOLO(write_small(tmp_path / "small.yaml", AR, nc=10))

    def stop(trainer):
        raise KeyboardInterrupt

    model.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        train(model, digits, tmp_path, epochs=4)
    last = tmp_path / "train/weights/last.pt"
    good = torch.load(last, weights_only=False)
    for spoil, message in (
        (lambda r: r.reach.zero_(), r"model\.2\.separable\.expand\.act has no range yet"),
        (lambda r: r._buffers.clear(), r"last\.pt has pot-lif neurons but no ranges"),
    ):
        bad = copy.deepcopy(good)
        for found in ranges_of(bad["ema"]):
            spoil(found)
        torch.save(bad, last)
        with pytest.raises(ValueError, match=message):
            YOLO(last).train(resume=True)
