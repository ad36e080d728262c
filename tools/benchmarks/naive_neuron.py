"""The textbook neuron that the benchmarks compare with: a loop over timesteps, and every intermediate a tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeyolo.neurons import DECAY, IBRALIF


class _Quantize(torch.autograd.Function):
    """Clamp and round; the input is saved, and where it lay outside the range the gradient is set to zero."""

    @staticmethod
    def forward(ctx, v: Tensor, N: float, D_N: int) -> Tensor:
        ctx.save_for_backward(v)
        ctx.D = D_N / N
        return torch.round(torch.clamp(v * N, 0, D_N)) / N

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (v,) = ctx.saved_tensors
        grad = grad.clone()
        grad[v < 0] = 0
        grad[v > ctx.D] = 0
        return grad, None, None


class NaiveNeuron(nn.Module):
    """The equations of `IBRALIF` as they stand in a textbook, (T*B, ...) to the same shape."""

    def __init__(self, D: float = 5.11, N: float = 100, *, T: int = 1, decay: float = DECAY):
        super().__init__()
        self.N, self.D_N, self.T, self.decay = N, round(D * N), T, decay

    def forward(self, x: Tensor) -> Tensor:
        """Return the spike values of input currents ``x``."""
        x = x.unflatten(0, (self.T, -1))
        spikes = torch.zeros_like(x)
        residual = torch.zeros_like(x[0])
        for t in range(self.T):
            v = x[t].clone() if t == 0 else residual * self.decay + x[t]
            spike = _Quantize.apply(v, self.N, self.D_N)
            residual = v.clone() - spike.detach()
            spikes[t] = spike.clone()
        return spikes.flatten(0, 1)


def make_naive(network: nn.Module) -> nn.Module:
    """Replace every neuron of a network, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, IBRALIF):
                setattr(module, name, NaiveNeuron(child.D, child.N, T=child.T, decay=child.decay))
    return network
