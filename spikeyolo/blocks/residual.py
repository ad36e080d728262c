"""Residual blocks and pyramid pooling."""

import torch
from torch import Tensor, nn

from spikeyolo.blocks.conv import Neuron, SpikeConv
from spikeyolo.blocks.recompute import recomputed
from spikeyolo.blocks.rep import SpikeRepConv, SpikeSepConv


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
