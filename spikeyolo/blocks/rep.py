"""Re-parameterised chains of linear layers, and the one convolution that each equals."""

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv2

from spikeyolo.blocks.conv import Neuron, SpikeConv


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
            assert layer.running_var is not None
            hidden = 0 * layer.running_var  # not a number where a division by infinity would hide it
            weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale + shift + hidden
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
