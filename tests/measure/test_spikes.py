import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import IBRA, calibrated, write_small
from torch import nn
from torch.overrides import TorchFunctionMode
from ultralytics import YOLO
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.modules.block import Attention

import spikeyolo
from spikeyolo.blocks.residual import SpikeRepBlock
from spikeyolo.measure.recorder import record_spikes
from spikeyolo.measure.spikes import LayerSpikes, fan_out
from spikeyolo.neurons.coding import entropy, to_planes, to_unary
from spikeyolo.neurons.config import NeuronConfig
from spikeyolo.neurons.integer import IBRALIF

SUMS = ("codes", "spikes", "synops", "unary_spikes", "unary_synops", "nonzero_synops", "synapses", "macs", "outputs")


@st.composite
def convolutions(draw):
    """Draw a neuron and a small convolution."""
    D_N = draw(st.sampled_from([1, 4, 5, 7, 511]))
    T = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2]))
    sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(sizes), draw(sizes), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    conv = nn.Conv2d(
        2 * groups, draw(st.integers(1, 2)) * groups, kernel, stride, padding, dilation, groups=groups, bias=False
    )
    height, width = draw(st.integers(5, 7)), draw(st.integers(5, 7))
    return IBRALIF(D_N / 2, 2, T=T), conv, torch.randn(T * 2, 2 * groups, height, width) * D_N / 3


def brute_force(spikes, conv):
    """Count, one by one, the pairs of a spike and a weight that a convolution adds up; spikes (T*B, C, H, W)."""
    count = 0
    (sy, sx), (py, px), (dy, dx) = conv.stride, conv.padding, conv.dilation
    _, _, height, width = spikes.shape
    rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(
        (height, width), conv.padding, conv.dilation, conv.kernel_size, conv.stride, strict=True))  # fmt: skip
    per_group = conv.in_channels // conv.groups
    for out in range(conv.out_channels):
        first = out // (conv.out_channels // conv.groups) * per_group
        for channel in range(first, first + per_group):
            for ky in range(conv.kernel_size[0]):
                for kx in range(conv.kernel_size[1]):
                    for row in range(rows):
                        for column in range(columns):
                            y, x = row * sy - py + ky * dy, column * sx - px + kx * dx
                            if 0 <= y < height and 0 <= x < width:
                                count += int(spikes[:, channel, y, x].sum())
    return count


@settings(max_examples=settings.default.max_examples // 4)  # a slow loop
@given(convolutions())
def test_counts_equal_a_loop_over_every_spike_and_weight(case):
    neuron, conv, x = case
    network = nn.Sequential(neuron, conv)
    with record_spikes(network) as spikes, torch.no_grad():
        out = network(x)
    (layer,) = spikes.layers.values()
    codes = (neuron(x) * neuron.N).round()
    binary, unary = to_planes(codes, neuron.planes), to_unary(codes, neuron.D_N)
    assert layer.synops == sum(brute_force(plane, conv) for plane in binary)
    assert layer.nonzero_synops == brute_force(codes > 0, conv)
    assert layer.synapses == brute_force(torch.ones_like(codes), conv)
    assert layer.unary_synops == brute_force(codes, conv)
    assert layer.unary_synops == sum(brute_force(plane, conv) for plane in unary[:8]) or neuron.D_N > 8
    assert layer.spikes_per_plane.tolist() == binary.flatten(1).sum(1).tolist()
    assert (layer.spikes, layer.unary_spikes, layer.codes) == (int(binary.sum()), int(unary.sum()), codes.numel())
    assert layer.macs == out.numel() * conv.weight[0].numel()
    assert (layer.images, layer.frames, layer.T) == (2, 2 * neuron.T, neuron.T)
    assert layer.max_code == codes.max()
    assert layer.ceiling_share == pytest.approx(float((codes == neuron.D_N).double().mean()))
    assert layer.dead_share == pytest.approx(float((codes.amax((0, 2, 3)) == 0).double().mean()))
    assert layer.operand == ("binary" if neuron.D_N == 1 else "code")


@pytest.mark.parametrize("largest", [1, 127, 255, 511, 2**15])
def test_counts_do_not_depend_on_type_and_order_in_memory(largest):
    codes = torch.randint(0, largest + 1, (2, 3, 5, 6))
    codes[0, 0, 0, 0] = largest
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    last = codes.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as a graph has them
    wide = torch.cat([codes, codes], 3)[..., :6]  # a part of a larger map
    every_other = codes.repeat_interleave(2, 2)[:, :, ::2]
    layouts = [codes, codes.float(), codes.int(), last, last.double(), wide, every_other]
    layouts += [codes.byte(), last.byte()] if largest < 256 else []
    first, *others = (LayerSpikes.of(("x", "code", largest, 1.0, 1), found, conv, 240) for found in layouts)
    assert first.synops == brute_force(to_planes(codes, largest.bit_length()).sum(0), conv)
    for other in others:
        assert {k: v.tolist() for k, v in other.counts.items()} == {k: v.tolist() for k, v in first.counts.items()}
        assert other.largest.tolist() == first.largest.tolist()


def test_fan_out_states_its_arithmetic():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)  # 3 outputs a channel; positions 0 1 2 3 4 are used by
    assert fan_out(conv, 1, 5).tolist() == [[3, 6, 3, 6, 3]]  # 1 2 1 2 1 taps along the row, 1 along the column
    assert fan_out(nn.Linear(7, 5), 1, 1).tolist() == [[5]]
    mirrored = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), padding_mode="reflect")
    assert fan_out(mirrored, 1, 3).tolist() == [[2, 5, 2]]  # the middle pixel is also the border's


def test_several_runs_add_up_and_linear_layers_count():
    network = nn.Sequential(IBRALIF(D=4, N=1), nn.Linear(3, 5))
    with record_spikes(network) as spikes:
        network(torch.tensor([[0.0, 1.0, 3.0]]))  # 1 = 1, 3 = 11: 3 spikes, each to 5 outputs
        network(torch.tensor([[4.0, 0.0, 0.0], [9.0, 0.0, 1.0]]))  # 4 = 100 twice, 1
    (layer,) = spikes.layers.values()
    assert (layer.images, layer.spikes, layer.synops, layer.unary_synops) == (3, 6, 30, 5 * (1 + 3 + 4 + 4 + 1))
    assert layer.histogram.tolist() == [4, 2, 0, 1, 2]
    assert layer.ceiling_share == 2 / 9
    assert layer.entropy == pytest.approx(entropy([4, 2, 1, 2]))
    assert str(spikes) == (
        "3 images, 1 spiking layers: 2 spikes and 10 synaptic operations per image, 0.667 spikes per code"
    )


def test_entropy_of_known_distributions():
    assert entropy([7]) == 0
    assert entropy([1, 1, 0, 1, 1]) == 2
    assert entropy([3, 1]) == pytest.approx(0.8112781)


def test_real_operands_and_operators_that_are_not_counted():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1), IBRALIF(), nn.ConvTranspose2d(1, 1, 2))
    network[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    network[0].bias.data.zero_()
    with record_spikes(network) as spikes:
        network(torch.ones(1, 1, 2, 2))
    first, second = spikes.layers.values()
    assert [layer.operand for layer in (first, second)] == ["real", "real"]
    assert (second.codes, second.nonzero_synops, second.zero_share, second.dead_share) == (8, 4, 0.5, 0.5)
    assert second.planes == second.spikes == 0
    assert spikes.uncounted == {"ConvTranspose2d"}
    assert not spikes.spiking


def test_the_model_is_untouched(tmp_path, photos):
    model = calibrated(write_small(tmp_path / "net.yaml", IBRA), photos).model
    with torch.no_grad():
        before = model(photos)[0]
        state = {name: (set(vars(m)), type(m)) for name, m in model.named_modules()}
        with record_spikes(model) as spikes:
            within = model(photos)[0]
        assert torch.equal(before, within)
        assert torch.equal(before, model(photos)[0])
    counted = str(spikes)
    model(photos)
    assert str(spikes) == counted  # nothing is counted outside
    assert {name: (set(vars(m)), type(m)) for name, m in model.named_modules()} == state
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_no_activation_is_kept():
    kept, alive = [], []

    class Watched(nn.Conv2d):
        def forward(self, input):
            alive.append(sum(ref() is not None for ref in kept))
            kept.append(weakref.ref(input))
            return super().forward(input)

    network = nn.Sequential(*[layer for _ in range(3) for layer in (IBRALIF(), Watched(1, 1, 1))])
    with torch.no_grad(), record_spikes(network) as spikes:
        network(torch.rand(1, 1, 4, 4))
        assert alive == [0, 0, 0]
        assert not any(ref() is not None for ref in kept)
    assert [layer.operand for layer in spikes.layers.values()] == ["code"] * 3


def test_other_networks_do_not_count():
    network, other = (nn.Sequential(IBRALIF(), nn.Conv2d(1, 1, 1)) for _ in range(2))
    with record_spikes(network) as spikes:
        other(torch.ones(2, 1, 2, 2))
        network[1](torch.ones(2, 1, 2, 2))  # a part of it is no run
    assert not spikes.layers


def test_an_interrupted_run_counts_nothing():
    class Stop(nn.Module):
        on = False

        def forward(self, x):
            if self.on:
                raise KeyboardInterrupt
            return x

    network = nn.Sequential(IBRALIF(), nn.Conv2d(1, 1, 1), Stop(), IBRALIF(), nn.Conv2d(1, 1, 1))
    with record_spikes(network) as spikes:
        network(torch.ones(2, 1, 2, 2))
        network[2].on = True
        with pytest.raises(KeyboardInterrupt):
            network(torch.ones(2, 1, 2, 2))
        network[2].on = False
        network(torch.ones(1, 1, 2, 2))
    assert [layer.images for layer in spikes.layers.values()] == [3, 3]
    assert not torch.nn.modules.module._global_forward_hooks


def test_rep_blocks_count_as_the_dense_convolutions_that_they_are(photos):
    block = SpikeRepBlock(4, 2, neuron=NeuronConfig.from_mapping(IBRA)).eval()
    x = torch.randn(2, 4, 6, 6)
    with record_spikes(block) as unfused, torch.no_grad():
        block(x)
    for module in block.modules():
        if hasattr(module, "fuse_convs"):
            module.fuse_convs()
    with record_spikes(block) as fused, torch.no_grad():
        block(x)
    assert list(unfused.layers) == list(fused.layers)
    for a, b in zip(unfused.layers.values(), fused.layers.values(), strict=True):
        assert [getattr(a, key) for key in ("synapses", "macs", "factored_macs", "weights")] == [
            getattr(b, key) for key in ("synapses", "macs", "factored_macs", "weights")
        ]
    layer = fused.layers["conv1.conv"]  # 1x1 of 4 to 4, depthwise 3x3 of 4, 1x1 of 4 to 8, on 36 pixels of 2 images
    assert layer.factored_macs == (16 + 36 + 32) * 36 * 2
    assert layer.macs == 4 * 8 * 9 * 36 * 2
    assert fused.layers["separable.expand.conv"].factored_macs == fused.layers["separable.expand.conv"].macs


@pytest.mark.parametrize(
    "neuron", [IBRA | {"T": 2}, {"type": "i-lif", "D": 4, "N": 1}, {"type": "lif", "D": 1, "N": 1}]
)
def test_yolo_objects(tmp_path, photos, neuron, monkeypatch):
    monkeypatch.setattr(AutoBackend, "warmup", lambda self, *a, **k: self.forward(photos))  # as it is on a GPU
    model = calibrated(write_small(tmp_path / "net.yaml", neuron), photos)
    images = [(image.permute(1, 2, 0) * 255).byte().numpy()[..., ::-1] for image in photos]
    with record_spikes(model) as direct, torch.no_grad():
        model.model(photos)
    with record_spikes(model) as first:
        model(images[:3], imgsz=64, verbose=False)
    with record_spikes(model) as again:  # by the predictor's own copy, which exists by now
        model(images, imgsz=64, verbose=False)
        model.predictor.model.warmup()
    assert (direct.images, first.images, again.images) == (8, 3, 8)
    for key in SUMS:  # the predictor fuses, which can flip single codes
        assert again.total(key) == pytest.approx(direct.total(key), rel=1e-3)


def test_deploy_form_spike_graph_takes_binary_planes(tmp_path, photos):
    model = calibrated(write_small(tmp_path / "net.yaml", IBRA), photos)
    recordings = []
    for graph in ("integer", "spike"):
        network = spikeyolo.deploy(model, graph=graph)
        with spikeyolo.record_spikes(network) as spikes, torch.no_grad():
            network(photos)
        recordings.append(spikes)
    integer, spike = recordings
    assert {layer.operand for layer in integer.spiking} == {"code"}
    assert {layer.operand for layer in spike.spiking} == {"binary"}
    assert [integer.total(key) for key in SUMS] == [spike.total(key) for key in SUMS]
    assert len(integer.spiking) == len(network.deployed.neurons) == len(integer.layers) - 1  # but the stem
    stem = next(iter(integer.layers.values()))
    assert (stem.operand, stem.macs) == ("real", 8 * 16 * 16 * network.deployed.convs["model.1.conv"].weight.numel())


def test_wrong_use():
    with pytest.raises(TypeError, match="takes a torch network or a YOLO object"), record_spikes("best.onnx"):
        pass
    network = nn.Sequential(IBRALIF(), nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="1 takes nan: the network has diverged"), record_spikes(network):
        network(torch.full((1, 1, 2, 2), np.nan))
    with record_spikes(network) as spikes:
        pass
    assert str(spikes) == "no image recorded"


def test_an_exported_file_is_sent_to_the_report(tmp_path):
    (tmp_path / "best.onnx").touch()
    with pytest.raises(TypeError, match="spikeyolo report"), record_spikes(YOLO(tmp_path / "best.onnx", task="detect")):
        pass


def test_the_products_of_attention_are_counted_as_they_are_made():
    attention = Attention(64, num_heads=2, attn_ratio=0.25)
    made = []

    class Count(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            if function in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
                made.append(out.numel() * arguments[0].shape[-1])  # multiplications of a matrix product
            return out

    x = torch.randn(3, 64, 5, 7)
    with record_spikes(attention) as spikes, torch.no_grad(), Count():
        attention.eval()(x)
    layer = next(found for name, found in spikes.layers.items() if name.endswith("(products)"))
    assert len(made) == 2
    assert layer.macs == layer.factored_macs == layer.synapses == sum(made)
    assert (layer.operand, layer.images, layer.spikes, layer.weights) == ("real", 3, 0, 0)
    assert not layer.spiking
