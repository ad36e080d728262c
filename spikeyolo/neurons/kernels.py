"""The neuron of training in as few passes over memory as possible, forward and backward.

What :mod:`spikeyolo.neurons.equations` states, computed faster: by one Triton kernel where there is a GPU for it, else
by PyTorch in blocks that stay in the processor's cache from the first operation to the last. Needs torch alone.
"""

import functools
import sys
import warnings
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spikeyolo.neurons.equations import Dynamics

CACHED = 2**18  # elements that a core's cache holds from one operation to the next (1 MB of float32)


def straight_through(x: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> Tensor:
    """Run a neuron over T timesteps with its straight-through gradient.

    The same codes as `spikeyolo.neurons.equations.simulate` with `fire`, bit for bit, and the gradient of Eq. 16. For
    backward a byte per element is kept, on a GPU with Triton a bit.

    Args:
        x: Input current, (T*B, ...), time-major.
        dynamics: Numbers of the neuron; T is a divisor of the first dimension.
        dtype: Of the spike values that are returned; float16 and bfloat16 inputs are computed in float32.

    Returns:
        Spike values, shape and layout of ``x``.
    """
    return _StraightThrough.apply(x, dynamics, dtype)


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the layout in memory that a tensor has, or is to be given: channels_last or contiguous."""
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> Tensor:
        ctx.dynamics, ctx.dtype = dynamics, x.dtype
        ctx.layout = layout_of(x)
        ctx.kernels = _triton(x) or sys.modules[__name__]
        spikes, windows = ctx.kernels.emit(x.contiguous(memory_format=ctx.layout), dynamics, dtype)
        ctx.save_for_backward(windows)
        return spikes

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (windows,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=ctx.layout)
        return ctx.kernels.pull_back(grad, windows, ctx.dynamics, ctx.dtype), None, None


def emit(x: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the spike values of a neuron and the windows of its gradient.

    Args:
        x: Input current, (T*B, ...), dense and with the first dimension outermost in memory.
        dynamics: Numbers of the neuron.
        dtype: Of the spike values.

    Returns:
        Spike values and windows (int8: 1 where 0 <= v <= D, else 0), shape and layout of ``x``.
    """
    N = float(dynamics.N)  # of a tensor this waits for a GPU, but only where there is no Triton
    spikes = torch.empty_like(x, dtype=dtype)
    windows = torch.empty_like(x, dtype=torch.int8)
    computed = torch.promote_types(x.dtype, torch.float32)
    for currents, outputs, inside in _blocks(dynamics.T, x, spikes, windows):
        v = currents[0].to(computed)
        o, equal = torch.empty_like(v), torch.empty_like(v)
        for t in range(dynamics.T):
            if t:
                v = (v - o).mul_(dynamics.decay).add_(currents[t])
            # Clipping first gives the same codes as `fire` and, by one comparison, the window. A comparison that writes
            # floats is vectorised, one that writes bool is not.
            o = torch.clamp(v, 0, dynamics.D_N / N, out=outputs[t] if dtype == computed else o)
            inside[t].copy_(torch.eq(o, v, out=equal))
            o.mul_(N).round_().div_(N)
            if dtype != computed:
                outputs[t].copy_(o)
    return spikes, windows


def pull_back(grad: Tensor, windows: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> Tensor:
    """Return the gradient of the input current, in ``dtype``, from that of the spike values; layouts as in `emit`.

    dL/dx[t] = window[t] * dL/do[t] + decay * dL/dx[t+1]
    """
    out = torch.empty_like(grad, dtype=dtype)
    computed = torch.promote_types(dtype, torch.float32)
    for grads, inside, outputs in _blocks(dynamics.T, grad, windows, out):
        following: Tensor | None = None  # dL/dx[t+1]
        for t in reversed(range(dynamics.T)):
            dx = outputs[t] if dtype == computed else torch.empty_like(outputs[t], dtype=computed)
            dx.copy_(inside[t]).mul_(grads[t])
            if following is not None:
                dx.add_(following, alpha=dynamics.decay)
            if dtype != computed:
                outputs[t].copy_(dx)
            following = dx
    return out


def _blocks(T: int, *tensors: Tensor) -> Iterable[tuple[Sequence[Tensor], ...]]:
    """Cut dense tensors into blocks: T views of each, one per timestep, on what lies side by side in memory."""
    n = tensors[0].numel() // T
    block = CACHED * torch.get_num_threads() if tensors[0].device.type == "cpu" else n
    if T == 1 and n <= block:  # saves small tensors the views
        return [tuple((x,) for x in tensors)]
    return zip(*(torch.split(x.as_strided((T, n), (n, 1)), max(block, 1), dim=1) for x in tensors), strict=True)


def _triton(x: Tensor) -> ModuleType | None:
    """Return the Triton kernels if they can work on ``x``."""
    if x.is_cuda and x.dtype in {torch.float32, torch.float16, torch.bfloat16}:
        return _triton_on(x.device)
    return None


@functools.cache
def _triton_on(device: torch.device) -> ModuleType | None:
    try:
        from spikeyolo.neurons import triton_kernels

        triton_kernels.emit(torch.zeros(8, device=device), Dynamics(1.0, 1), torch.float32)
    except ImportError:  # there is none for every system
        return None
    except Exception as e:
        warnings.warn(
            f"Triton cannot compile for {device} ({type(e).__name__}: {e}); training goes on with PyTorch's kernels, "
            "slower and with more memory. Remedy: install a C compiler, or a triton that fits torch and the driver.",
            stacklevel=2,
        )
        return None
    return triton_kernels
