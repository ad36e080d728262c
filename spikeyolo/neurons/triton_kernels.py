"""The neuron on a GPU: all timesteps in one Triton kernel forward, one backward; one bit per element is kept between.

The arithmetic is that of :mod:`spikeyolo.neurons.equations` operation by operation, in float32 and without fused
multiply-add, so that codes are the same to the last one, ties included. Needs the `triton` package, which PyTorch
brings on Linux.
"""

# pyright: basic
# (Triton's language has no types.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikeyolo.neurons.equations import Dynamics

BLOCK = 1024  # elements of one timestep that a program works on; a multiple of 8
OPTIONS = {"enable_fp_fusion": False}  # no fused multiply-add
HALF_TO_EVEN = tl.constexpr(1.5 * 2**23)  # float32 has no fraction left here: adding it rounds, subtracting restores


@triton.jit
def _emit(
    x_ptr, spikes_ptr, windows_ptr, n, n_bytes, scale, D_N, decay, T: tl.constexpr, BY_ADDRESS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    N = tl.load(scale) if BY_ADDRESS else scale
    D = tl.div_rn(D_N, N)
    n, n_bytes = tl.cast(n, tl.int64), tl.cast(n_bytes, tl.int64)  # all timesteps together may exceed 2^31
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    bytes_at = start // 8 + tl.arange(0, BLOCK // 8)
    bits = tl.arange(0, 8)[None, :]
    residual = tl.zeros((BLOCK,), tl.float32)
    for t in range(T):
        v = tl.load(x_ptr + t * n + at, at < n, other=-1.0).to(tl.float32)
        if t > 0:
            v = residual * decay + v
        window = (v >= 0) & (v <= D)  # false for NaN
        clipped = tl.clamp(v, 0.0, D, propagate_nan=tl.PropagateNan.ALL)
        k = (clipped * N + HALF_TO_EVEN) - HALF_TO_EVEN
        spike = tl.div_rn(k, N)
        tl.store(spikes_ptr + t * n + at, spike.to(spikes_ptr.dtype.element_ty), at < n)
        packed = tl.sum(tl.reshape(window.to(tl.int32), (BLOCK // 8, 8)) << bits, 1)
        tl.store(windows_ptr + t * n_bytes + bytes_at, packed.to(tl.uint8), bytes_at < n_bytes)
        residual = v - spike


@triton.jit
def _pull_back(grad_ptr, windows_ptr, out_ptr, n, n_bytes, decay, T: tl.constexpr, BLOCK: tl.constexpr):
    n, n_bytes = tl.cast(n, tl.int64), tl.cast(n_bytes, tl.int64)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dx = tl.zeros((BLOCK,), tl.float32)
    for i in range(T):
        t = T - 1 - i
        byte = tl.load(windows_ptr + t * n_bytes + at // 8, at < n, other=0).to(tl.int32)
        window = ((byte >> (at % 8).to(tl.int32)) & 1) != 0
        grad = tl.load(grad_ptr + t * n + at, at < n, other=0.0).to(tl.float32)
        dx = tl.where(window, grad, 0.0) + decay * dx
        tl.store(out_ptr + t * n + at, dx.to(out_ptr.dtype.element_ty), at < n)


def emit(x: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the spike values of a neuron and the windows of its gradient.

    As `spikeyolo.neurons.kernels.emit`, for float32, float16 and bfloat16, but with 8 windows per byte:
    (T, ceil(n / 8)) for n elements per timestep. N is a number or, on the same device, a float32 tensor, so that
    nothing waits for it.
    """
    spikes = torch.empty_like(x, dtype=dtype)
    N, T = dynamics.N, dynamics.T
    n = x.numel() // T
    windows = torch.empty(T, triton.cdiv(n, 8), dtype=torch.uint8, device=x.device)
    numbers = N, float(dynamics.D_N), dynamics.decay, T, isinstance(N, Tensor)
    _launch(_emit, n, x, spikes, windows, n, windows.shape[1], *numbers)
    return spikes, windows


def pull_back(grad: Tensor, windows: Tensor, dynamics: Dynamics, dtype: torch.dtype) -> Tensor:
    """Return the gradient of the input current, in ``dtype``, from that of the spike values; layouts as in `emit`."""
    out = torch.empty_like(grad, dtype=dtype)
    n = grad.numel() // dynamics.T
    _launch(_pull_back, n, grad, windows, out, n, windows.shape[1], dynamics.decay, dynamics.T)
    return out


def _launch(kernel, n: int, *arguments) -> None:
    tensor = arguments[0]
    if n:
        with torch.cuda.device_of(tensor):  # Triton launches on the current device; nothing happens on the CPU
            kernel[(triton.cdiv(n, BLOCK),)](*arguments, BLOCK=BLOCK, **OPTIONS)
