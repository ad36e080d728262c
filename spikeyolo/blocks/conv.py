"""Convolutions with their neurons, and the encoder."""

from collections.abc import Callable

from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv, autopad

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


class NormedConv(Conv):
    """Ultralytics' `Conv` that remembers, when its BatchNorm is folded, how that distributes its output.

    Attributes:
        mean, deviation: Of each channel of the output, (c2,), as the BatchNorm makes them; None before it is folded.
    """

    mean: Tensor | None = None
    deviation: Tensor | None = None

    def __delattr__(self, name: str) -> None:
        """Delete an attribute; `fuse()` deletes ``bn`` when it is in the weights."""
        if name == "bn" and isinstance(norm := self.bn, nn.BatchNorm2d):
            self.mean, self.deviation = norm.bias.detach().clone(), norm.weight.detach().abs()
            if norm.running_var is not None:
                bias = self.get_parameter("conv.bias")
                bias.data += 0 * norm.running_var  # not a number where a division by infinity would hide it
        super().__delattr__(name)


class SpikeConv(NormedConv):
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


class NeuronConv(NormedConv):
    """Ultralytics' `Conv` with a neuron before it: neuron, convolution, BatchNorm, activation of the potential.

    `spikeyolo.network.insertion` makes it out of the `Conv` of a stock network; the names of its parameters stay.
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
