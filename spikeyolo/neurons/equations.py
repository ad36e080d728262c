"""The equations of the integer leaky integrate-and-fire neuron, as functions. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_D_N = 2**22 - 1  # up to here N * v rounds to the right code in float32
DECAY = 0.25  # SpikeYOLO's membrane decay


def fire(v: Tensor, N: float | Tensor, D_N: int) -> Tensor:
    """Emit integer codes from membrane potentials.

    k = clip(round(N * v), 0, D_N), halves rounded to even.

    Args:
        v: Membrane potential, any shape, float32 or float64 (lower precisions cannot hold the codes).
        N: Range-alignment factor, codes per unit of potential; also as a tensor, ().
        D_N: Largest code.

    Returns:
        Codes in {0, ..., D_N}, shape and dtype of ``v``.

    References:
        Integer Binary-Range Alignment Neuron, arXiv 2506.05679, Eq. 10.
    """
    return (v * N).round_().clamp_(0, D_N)


def simulate(x: Tensor, emit: Callable[[Tensor], Tensor], *, T: int = 1, decay: float = DECAY) -> Tensor:
    """Run a neuron over T timesteps.

    v[t] = decay * (v[t-1] - o[t-1]) + x[t],   o[t] = emit(v[t])

    Args:
        x: Input current, shape (T*B, ...), time-major: row ``t * B + b`` is image b at timestep t.
        emit: Maps potentials v[t] of shape (B, ...) to the spike values o[t] of the same shape.
        T: Timesteps.
        decay: Share of the residual potential that survives a timestep, 0 to 1.

    Returns:
        Spike values of all timesteps, shape of ``x``; float32 for float16 and bfloat16 inputs, else the dtype of ``x``.

    Raises:
        ValueError: If the first dimension is not a multiple of T.
    """
    if x.dtype in {torch.float16, torch.bfloat16}:
        x = x.float()  # 511 codes do not fit into the 8 significant bits of bfloat16
    if T == 1:
        return emit(x)
    check_batch(x, T)
    v, *currents = x.chunk(T)  # not unflatten: its ONNX form freezes the batch and image size
    spikes = [emit(v)]
    for current in currents:
        v = (v - spikes[-1]) * decay + current  # operation by operation: a fused one would round otherwise
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
    def forward(ctx, x: Tensor, N: float | Tensor, D_N: int, T: int, decay: float, dtype: torch.dtype) -> Tensor:
        windows = []

        def emit(v: Tensor) -> Tensor:
            # Clipping first gives the same codes as `fire` and, by one comparison, the gradient window.
            clipped = v.clamp(min=0).clamp(max=D_N / N)  # which may be a tensor
            windows.append((clipped == v).to(v.dtype).to(torch.int8))  # compilers vectorise this, but no bool
            return (clipped * N).round().div(N)

        spikes = simulate(x, emit, T=T, decay=decay).to(dtype)
        ctx.save_for_backward(*windows)
        ctx.decay, ctx.dtype, ctx.computed = decay, x.dtype, torch.promote_types(x.dtype, torch.float32)
        return spikes

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        windows = ctx.saved_tensors
        steps = [g * w.to(ctx.computed) for w, g in zip(windows, grad.chunk(len(windows)), strict=True)]
        for t in reversed(range(len(steps) - 1)):
            steps[t] = steps[t] + ctx.decay * steps[t + 1]
        return torch.cat(steps).to(ctx.dtype), None, None, None, None, None
