"""Building blocks of SpikeYOLO: every convolution that takes spikes is directly preceded by its own neuron.

All tensors are membrane potentials of shape (T*B, C, H, W), time-major; residuals and concatenations join potentials.
Each block takes ``neuron``, a callable that makes one neuron (:class:`spikeyolo.neurons.NeuronConfig`).
Class paths are the checkpoint format: do not move them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv, Conv2, autopad

from spikeyolo.ranges import ranges_of

Neuron = Callable[[], nn.Module]


class SpikeEncoder(nn.Module):
    """Direct encoding: repeat the image T times, (B, C, H, W) to (T*B, C, H, W), time-major."""

    def __init__(self, T: int = 1):
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        """Repeat the images ``x`` for each timestep."""
        return x if self.T == 1 else x.repeat(self.T, 1, 1, 1)

    def extra_repr(self) -> str:
        """Return the number of timesteps."""
        return f"T={self.T}"


class SpikeConv(Conv):
    """Neuron, convolution, BatchNorm: (T*B, c1, H, W) to (T*B, c2, H', W').

    The activation of Ultralytics' `Conv` comes first here; ``fuse()`` folds the BatchNorm as usual.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size.
        s: Stride.
        p: Padding, by default k // 2.
        g: Groups.
        bias: Whether the convolution has a bias of its own.
        neuron: Makes the neuron; None for a convolution that takes real-valued input (the stem).
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        *,
        bias: bool = False,
        neuron: Neuron | None,
    ):
        super().__init__(c1, c2, k, s, p, g, act=False)
        if neuron is not None:
            self.act = neuron()
        if bias:
            self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p), groups=g)

    def forward(self, x: Tensor) -> Tensor:
        """Fire, convolve, normalise."""
        return self.bn(self.conv(self.act(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Fire and convolve; the BatchNorm is in the weights."""
        return self.conv(self.act(x))


class NeuronConv(Conv):
    """Ultralytics' `Conv` with a neuron before it: neuron, convolution, BatchNorm, activation of the potential.

    `spikeyolo.insertion` makes it out of the `Conv` of a stock network; the names of its parameters stay.
    """

    neuron: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Fire, convolve, normalise, activate."""
        return self.act(self.bn(self.conv(self.neuron(x))))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Fire, convolve and activate; the BatchNorm is in the weights."""
        return self.act(self.conv(self.neuron(x)))


class SpikeDown(SpikeConv):
    """Downsampling convolution with a bias; as the first layer of the network it takes pixels and has no neuron.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel size.
        s: Stride.
        p: Padding.
        first: Whether this is the stem.
        neuron: Makes the neuron.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 2, p: int | None = None, first: bool = False, *, neuron: Neuron
    ):
        super().__init__(c1, c2, k, s, p, bias=True, neuron=None if first else neuron)


class BorderNorm(nn.Module):
    """BatchNorm, then a border of one pixel that holds what the BatchNorm makes of zero (running statistics).

    So a following 3x3 convolution sees the same border as if zeros had been padded before the BatchNorm, and the pair
    folds into one convolution exactly. Shape (B, C, H, W) to (B, C, H+2, W+2).
    """

    def __init__(self, c: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and pad."""
        x = self.bn(x)  # first: in training this updates the statistics that the border is made of
        return pad_border(x, self.border())

    def border(self) -> Tensor:
        """Return the border's values, (C,), without gradient as in the official network."""
        return affine(self.bn)[1].detach()


def pad_border(x: Tensor, value: Tensor) -> Tensor:
    """Pad (B, C, H, W) by one pixel that holds ``value``, (C,)."""
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    mask = padded.new_ones(1, 1, *padded.shape[2:])
    mask[:, :, 1:-1, 1:-1] = 0
    return padded.add_(value.to(x.dtype).view(1, -1, 1, 1) * mask)


def affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (C,), that a BatchNorm applies by its running statistics."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


class RepChain(nn.Module):
    """1x1, BatchNorm with border, depthwise 3x3, 1x1, BatchNorm: (B, c1, H, W) to (B, c2, H, W)."""

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.mix = nn.Conv2d(c1, c1, 1, bias=False)
        self.norm = BorderNorm(c1)
        self.depthwise = nn.Conv2d(c1, c1, 3, groups=c1, bias=False)
        self.pointwise = nn.Conv2d(c1, c2, 1, bias=False)
        self.bn = nn.BatchNorm2d(c2)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        return self.bn(self.pointwise(self.depthwise(self.norm(self.mix(x)))))

    def layers(self) -> list[nn.Conv2d | nn.BatchNorm2d]:
        """Return the layers in order."""
        return [self.mix, self.norm.bn, self.depthwise, self.pointwise, self.bn]


class SepChain(nn.Module):
    """BatchNorm with border, 1x1, depthwise 3x3: (B, c1, H, W) to (B, c2, H, W)."""

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.norm = BorderNorm(c1)
        self.pointwise = nn.Conv2d(c1, c2, 1, bias=False)
        self.depthwise = nn.Conv2d(c2, c2, 3, groups=c2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers, the 1x1 before the padding, with which it commutes."""
        x = self.pointwise(self.norm.bn(x))  # first: in training this updates the statistics that the border is made of
        border = (self.pointwise.weight.flatten(1) * self.norm.border()).sum(1)
        return self.depthwise(pad_border(x, border))

    def layers(self) -> list[nn.Conv2d | nn.BatchNorm2d]:
        """Return the layers in order."""
        return [self.norm.bn, self.pointwise, self.depthwise]


class SpikeRepConv(SpikeConv, Conv2):
    """Neuron, re-parameterised 3x3 convolution, BatchNorm: (T*B, c1, H, W) to (T*B, c2, H, W).

    In training the convolution is a chain of linear layers; `fuse_convs`, which the stock ``fuse()`` calls on every
    `Conv2`, makes it the one dense 3x3 convolution that it equals, exact at the border.

    Args:
        c1: Input channels.
        c2: Output channels.
        neuron: Makes the neuron.
    """

    chain: type[RepChain | SepChain] = RepChain

    def __init__(self, c1: int, c2: int, *, neuron: Neuron):
        nn.Module.__init__(self)
        self.conv = self.chain(c1, c2)
        self.bn = nn.BatchNorm2d(c2)
        self.act = neuron()

    def fuse_convs(self) -> None:
        """Replace the chain by the dense 3x3 convolution that it equals."""
        if isinstance(self.conv, self.chain):
            self.conv = collapse(self.conv.layers())


class SpikeSepConv(SpikeRepConv):
    """The tail of the separable part, see `SepChain`; fuses like `SpikeRepConv`."""

    chain = SepChain


@torch.no_grad()
def collapse(layers: list[nn.Conv2d | nn.BatchNorm2d]) -> nn.Conv2d:
    """Compose 1x1, depthwise 3x3 and BatchNorm layers into one dense 3x3 convolution with padding 1.

    Exact everywhere, borders included, because `BorderNorm` pads with what it makes of zero. Composed in float64.

    Args:
        layers: Linear layers in order, one of them a depthwise 3x3 convolution without padding.

    Returns:
        Convolution of weight (c2, c1, 3, 3) and bias (c2,), in the dtype and on the device of the layers.
    """
    first, like = layers[0], layers[0].weight
    c1 = first.in_channels if isinstance(first, nn.Conv2d) else first.num_features
    # the map so far: out[o] = sum_i weight[o, i] * in[i] + bias[o], with weight (c_out, c1, k, k)
    weight = torch.eye(c1, dtype=torch.float64, device=like.device)[..., None, None]
    bias = torch.zeros(c1, dtype=torch.float64, device=like.device)
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            scale, shift = (a.double() for a in affine(layer))
            weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale + shift
        elif layer.groups == 1:  # 1x1
            mix = layer.weight.double().flatten(1)
            weight, bias = torch.tensordot(mix, weight, 1), mix @ bias
        else:  # depthwise 3x3 on a 1x1 map so far
            kernel = layer.weight.double()
            weight, bias = weight * kernel, bias * kernel.sum((1, 2, 3))
    conv = nn.Conv2d(c1, weight.shape[0], 3, padding=1, device=like.device, dtype=like.dtype)
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return factored(conv.requires_grad_(False), layers)


def factored(conv: Any, layers: list[nn.Conv2d | nn.BatchNorm2d]) -> nn.Conv2d:
    """Note on a dense convolution how many weights the chain has that it equals, for counts of operations."""
    conv.factored_weights = sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))
    return conv


class SpikeSeparable(nn.Module):
    """Separable convolution with a neuron before each of its three parts: 1x1 expansion, depthwise, projection.

    Args:
        c: Channels.
        k: Kernel size of the depthwise convolution.
        expansion: Widening inside.
        neuron: Makes the neurons.
    """

    def __init__(self, c: int, k: int = 7, expansion: int = 2, *, neuron: Neuron):
        super().__init__()
        wide = c * expansion
        self.expand = SpikeConv(c, wide, neuron=neuron)
        self.depthwise = SpikeConv(wide, wide, k, g=wide, neuron=neuron)
        self.project = SpikeSepConv(wide, c, neuron=neuron)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch without its residual, shape of ``x``."""
        return self.project(self.depthwise(self.expand(x)))


class SpikeBlock(nn.Module):
    """Residual block of full 3x3 convolutions (MS_AllConvBlock): (T*B, c, H, W) to the same shape.

    x + separable(x), then x + conv2(conv1(x)) with conv1 c to c * ratio. While its attribute ``checkpoint`` is true,
    both branches keep nothing for backward but their input, see `recomputed`.

    Args:
        c: Channels.
        ratio: Widening of the second branch.
        k: Kernel size of the depthwise convolution.
        residual_gamma: Start value of the last BatchNorm weight of both branches. 0 makes a new block the identity;
            1 is the official initialisation.
        neuron: Makes the neurons.
    """

    checkpoint = False

    def __init__(self, c: int, ratio: float = 4, k: int = 7, *, residual_gamma: float = 0.0, neuron: Neuron):
        super().__init__()
        wide = int(c * ratio)
        self.separable = SpikeSeparable(c, k, neuron=neuron)
        self.conv1 = self.convolution(c, wide, neuron)
        self.conv2 = self.convolution(wide, c, neuron)
        for last in (self.separable.project.bn, self.conv2.bn):
            nn.init.constant_(last.weight, residual_gamma)

    @staticmethod
    def convolution(c1: int, c2: int, neuron: Neuron) -> SpikeConv:
        """Make a 3x3 convolution of the second branch."""
        return SpikeConv(c1, c2, 3, neuron=neuron)

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches to ``x``."""
        if self.checkpoint and self.training and torch.is_grad_enabled():
            x = x + recomputed(x, self.separable)
            return x + recomputed(x, self.conv1, self.conv2)
        x = x + self.separable(x)
        return x + self.conv2(self.conv1(x))


def recomputed(x: Tensor, *modules: nn.Module) -> Tensor:
    """Run modules one after the other and keep only ``x`` for backward, which runs them again.

    This is activation checkpointing. The second run leaves the running statistics of BatchNorms and the ranges of
    neurons as the first one has made them, and has the ranges that it had.
    """
    chain = nn.Sequential(*modules)
    reaches = [found.reach.clone() for found in ranges_of(chain)]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _frozen_statistics(chain, reaches)

    return torch.utils.checkpoint.checkpoint(
        chain, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


@contextmanager
def _frozen_statistics(module: nn.Module, reaches: list[Tensor]) -> Iterator[None]:
    """Let BatchNorms normalise by the batch, but not count it, and neurons have these ranges, which end with it."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    ranges = [(found, found.reach) for found in ranges_of(module)]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    for (found, _), reach in zip(ranges, reaches, strict=True):
        found.reach = reach
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
        for found, reach in ranges:
            found.reach = reach


class SpikeRepBlock(SpikeBlock):
    """Residual block of re-parameterised 3x3 convolutions (MS_ConvBlock), see `SpikeBlock`."""

    @staticmethod
    def convolution(c1: int, c2: int, neuron: Neuron) -> SpikeConv:
        """Make a re-parameterised 3x3 convolution of the second branch."""
        return SpikeRepConv(c1, c2, neuron=neuron)


class SpikeSPPF(nn.Module):
    """Spatial pyramid pooling on potentials: 1x1, three chained k x k max-pools, concatenation, 1x1.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Pooling window.
        neuron: Makes the neurons.
    """

    def __init__(self, c1: int, c2: int, k: int = 5, *, neuron: Neuron):
        super().__init__()
        self.cv1 = SpikeConv(c1, c1 // 2, neuron=neuron)
        self.cv2 = SpikeConv(c1 // 2 * 4, c2, neuron=neuron)
        self.pool = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (T*B, c1, H, W) to (T*B, c2, H, W)."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.cv2(torch.cat(maps, 1))
