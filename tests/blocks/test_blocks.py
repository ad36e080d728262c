import copy
from functools import partial

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.tasks import BaseModel

from spikeyolo.blocks.conv import SpikeConv, SpikeDown, SpikeEncoder
from spikeyolo.blocks.rep import BorderNorm, SpikeRepConv, SpikeSepConv
from spikeyolo.blocks.residual import SpikeBlock, SpikeRepBlock, SpikeSPPF
from spikeyolo.neurons.aligned import PoTLIF
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.neurons.ranges import ranges_of


def randomise(module):
    """Give every BatchNorm statistics and weights that matter."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low in ((m.running_mean, -1), (m.running_var, 0.5), (m.weight, -1), (m.bias, -1)):
                tensor.data.uniform_(low, 2)
    return module


class Network(BaseModel):
    """The least that the stock fuse() needs."""

    def __init__(self, *layers):
        super().__init__()
        self.model = nn.Sequential(*layers)


def fuse(module):
    others = [SpikeConv(1, 1, neuron=IBRALIF) for _ in range(10)]  # older releases take a few BatchNorms as fused
    Network(module, *others).fuse(verbose=False)
    return module


def test_encoder_is_time_major():
    x = torch.arange(2.0).view(2, 1, 1, 1)
    assert SpikeEncoder(3)(x).flatten().tolist() == [0, 1, 0, 1, 0, 1]


def test_spike_conv_fires_before_it_convolves():
    block = SpikeConv(3, 5, 3, neuron=IBRALIF).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = block.bn(nn.functional.conv2d(IBRALIF()(x), block.conv.weight, padding=1))
    assert torch.equal(block(x), expected)
    assert isinstance(block, Conv)


def test_down_has_a_bias_and_the_stem_no_neuron():
    assert SpikeDown(3, 8, neuron=IBRALIF).conv.bias is not None
    stem = SpikeDown(3, 8, 7, 4, 2, True, neuron=IBRALIF)
    assert isinstance(stem.act, nn.Identity)
    assert stem(torch.rand(1, 3, 64, 64)).shape == (1, 8, 16, 16)


def test_border_holds_what_the_norm_makes_of_zero():
    norm = randomise(BorderNorm(4)).eval()
    x = torch.randn(2, 4, 5, 6)
    assert torch.allclose(norm(x), norm.bn(nn.functional.pad(x, (1, 1, 1, 1))), atol=1e-6)
    norm.train()
    out = norm(x)  # batch statistics inside, running statistics at the border
    inside = nn.functional.batch_norm(x, None, None, norm.bn.weight, norm.bn.bias, training=True, eps=norm.bn.eps)
    assert torch.allclose(out[:, :, 1:-1, 1:-1], inside, atol=1e-6)
    norm.eval()
    assert torch.allclose(out[:, :, 0], norm.bn(torch.zeros_like(out))[:, :, 0], atol=1e-6)


@pytest.mark.parametrize("kind", [SpikeRepConv, SpikeSepConv])
def test_rep_convolution_fuses_into_one_3x3_exact_at_borders(kind):
    block = randomise(kind(6, 4, neuron=IBRALIF)).eval()
    x = torch.randn(2, 6, 7, 5) + 1
    with torch.no_grad():
        expected = block.double()(x.double())
        fused = fuse(block)
        assert isinstance(fused.conv, nn.Conv2d)
        assert fused.conv.weight.shape == (4, 6, 3, 3)
        assert fused.conv.padding == (1, 1)
        assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
        # every pixel, the outermost ring included
        torch.testing.assert_close(fused(x.double()), expected, rtol=1e-12, atol=1e-12)


def test_fuse_changes_nothing_that_is_seen():
    block = randomise(SpikeRepBlock(8, 3, neuron=IBRALIF)).eval()
    x = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        expected = block.double()(x.double())
        fuse(block)
        assert torch.allclose(block(x.double()), expected, atol=1e-9)
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    neurons = [m for m in block.modules() if isinstance(m, IBRALIF)]
    assert len(convolutions) == len(neurons) == 5


@pytest.mark.parametrize("kind", [SpikeBlock, SpikeRepBlock])
def test_residual_branches_start_at_zero_but_learn(kind):
    block = kind(4, neuron=IBRALIF)
    x = torch.rand(2, 4, 6, 6, requires_grad=True)
    out = block(x)
    assert torch.equal(out, x)
    (out * torch.randn(out.shape)).sum().backward()
    assert block.conv2.bn.weight.grad.abs().sum() > 0
    assert block.separable.project.bn.weight.grad.abs().sum() > 0
    official = kind(4, residual_gamma=1.0, neuron=IBRALIF)
    assert not torch.equal(official(x), x)


def test_sppf_pools_potentials():
    block = randomise(SpikeSPPF(8, 6, 5, neuron=IBRALIF)).eval()
    x = torch.randn(1, 8, 12, 12)
    y = block.cv1(x)
    pools = [nn.functional.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)]  # chained 5s see 5, 9 and 13 pixels
    assert torch.equal(block(x), block.cv2(torch.cat([y, *pools], 1)))


def test_channels_last_survives_the_block():
    block = SpikeRepBlock(8, 2, neuron=IBRALIF).to(memory_format=torch.channels_last)
    out = block(torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("block", [SpikeBlock, SpikeRepBlock])
@pytest.mark.parametrize("neuron", [IBRALIF, partial(IBRALIF, T=2), PoTLIF, partial(PoTLIF, range="learned", T=2)])
def test_checkpoint_changes_nothing_but_memory(block, neuron):

    plain = randomise(block(8, neuron=neuron)).train()
    twin = copy.deepcopy(plain)
    twin.checkpoint = True
    results, kept = [], []
    for model in (plain, twin):
        saved: dict[int, int] = {}

        def pack(t, saved=saved):
            saved[t.data_ptr()] = t.nbytes
            return t

        x = torch.linspace(-2, 4, 4 * 8 * 12 * 12).view(4, 8, 12, 12).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(x)
        kept.append(sum(saved.values()))
        y.square().mean().backward()
        assert all(found.tracking for found in ranges_of(model))
        results.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)
    assert kept[1] < kept[0] / 5
    assert all(m.momentum == 0.1 for m in twin.modules() if isinstance(m, nn.BatchNorm2d))
    assert torch.equal(twin.eval()(x), plain.eval()(x))
