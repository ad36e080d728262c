"""The equations of the integer leaky integrate-and-fire neuron, as functions. Needs torch alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_D_N = 2**22 - 1  # up to here N * v rounds to the right code in float32
DECAY = 0.25  # SpikeYOLO's membrane decay


@dataclass(frozen=True)
class Dynamics:
    """The numbers in a neuron's equations; how it rounds and resets belongs here too, once a neuron does it otherwise.

    Args:
        N: Range-alignment factor, codes per unit of potential; a float32 tensor, (), where it is to be read on a GPU.
        D_N: Largest code.
        T: Timesteps.
        decay: Share of the residual potential that survives a timestep, 0 to 1.
    """

    N: float | Tensor
    D_N: int
    T: int = 1
    decay: float = DECAY

    @property
    def D(self) -> float | Tensor:
        """Largest spike value."""
        return self.D_N / self.N


def fire(v: Tensor, dynamics: Dynamics) -> Tensor:
    """Emit integer codes from membrane potentials.

    k = clip(round(N * v), 0, D_N), halves rounded to even.

    Args:
        v: Membrane potential, any shape, float32 or float64 (lower precisions cannot hold the codes).
        dynamics: N and D_N.

    Returns:
        Codes in {0, ..., D_N}, shape and dtype of ``v``.

    >>> fire(torch.tensor([-1.0, 0.5, 1.5, 9.0]), Dynamics(N=1, D_N=4))
    tensor([0., 0., 2., 4.])

    References:
        Integer Binary-Range Alignment Neuron, arXiv 2506.05679, Eq. 10.
    """
    return (v * dynamics.N).round_().clamp_(0, dynamics.D_N)


def simulate(x: Tensor, emit: Callable[[Tensor], Tensor], dynamics: Dynamics) -> Tensor:
    """Run a neuron over T timesteps.

    v[t] = decay * (v[t-1] - o[t-1]) + x[t],   o[t] = emit(v[t])

    Args:
        x: Input current, shape (T*B, ...), time-major: row ``t * B + b`` is image b at timestep t.
        emit: Maps potentials v[t] of shape (B, ...) to the spike values o[t] of the same shape.
        dynamics: T and decay.

    Returns:
        Spike values of all timesteps, shape of ``x``; float32 for float16 and bfloat16 inputs, else the dtype of ``x``.

    Raises:
        ValueError: If the first dimension is not a multiple of T.

    >>> two_steps = Dynamics(N=1, D_N=4, T=2, decay=0.25)
    >>> simulate(torch.tensor([1.4, 0.5]), lambda v: fire(v, two_steps), two_steps)  # v[1] = (1.4 - 1) / 4 + 0.5 = 0.6
    tensor([1., 1.])
    """
    if x.dtype in {torch.float16, torch.bfloat16}:
        x = x.float()  # 511 codes do not fit into the 8 significant bits of bfloat16
    if dynamics.T == 1:
        return emit(x)
    check_batch(x, dynamics.T)
    v, *currents = x.chunk(dynamics.T)  # not unflatten: its ONNX form freezes the batch and image size
    spikes = [emit(v)]
    for current in currents:
        v = (v - spikes[-1]) * dynamics.decay + current  # operation by operation: a fused one would round otherwise
        spikes.append(emit(v))
    return torch.cat(spikes)


def check_batch(x: Tensor, T: int) -> None:
    """Raise ValueError if a batch does not hold T timesteps of its images."""
    if x.shape[0] % T:
        raise ValueError(f"batch of {x.shape[0]} is not a multiple of T={T}; repeat the images T times (SpikeEncoder)")


class StraightThrough(torch.autograd.Function):
    """The neuron with its straight-through gradient, for compilers, which fuse it; `kernels` has it for eager mode.

    do[t]/dv[t] = 1 where 0 <= v[t] <= D, else 0 (Eq. 16); the reset term o[t-1] carries no gradient. One byte per
    element is kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> Tensor:
        windows: list[Tensor] = []

        def emit(v: Tensor) -> Tensor:
            # Clipping first gives the same codes as `fire` and, by one comparison, the gradient window.
            clipped = v.clamp(min=0).clamp(max=dynamics.D)  # which may be a tensor
            windows.append((clipped == v).to(v.dtype).to(torch.int8))  # compilers vectorise this, but no bool
            return (clipped * dynamics.N).round().div(dynamics.N)

        spikes = simulate(x, emit, dynamics).to(dtype)
        ctx.save_for_backward(*windows)
        ctx.decay, ctx.dtype, ctx.computed = dynamics.decay, x.dtype, torch.promote_types(x.dtype, torch.float32)
        return spikes

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        windows = ctx.saved_tensors
        steps = [g * w.to(ctx.computed) for w, g in zip(windows, grad.chunk(len(windows)), strict=True)]
        for t in reversed(range(len(steps) - 1)):
            steps[t] = steps[t] + ctx.decay * steps[t + 1]
        return torch.cat(steps).to(ctx.dtype), None, None
