"""Codes to binary or unary planes and back. Needs torch and numpy alone."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def to_planes(codes: Tensor, planes: int) -> Tensor:
    """Split integer codes into binary planes, least significant first.

    plane_b = (k >> b) & 1

    Args:
        codes: Whole numbers in {0, ..., 2^planes - 1}, any shape, integer or float.
        planes: Number of planes B.

    Returns:
        Spikes, shape (B, *codes.shape), bool.

    Raises:
        ValueError: If a code is not whole, negative, or needs more planes.

    >>> to_planes(torch.tensor([6, 1]), planes=3).int()  # 6 = 0 * 1 + 1 * 2 + 1 * 4
    tensor([[0, 1],
            [1, 0],
            [1, 0]], dtype=torch.int32)
    """
    whole = _whole(codes)
    _check_range(whole, 2**planes - 1, f"{planes} binary planes hold codes up to {2**planes - 1}")
    shifts = torch.arange(planes, device=codes.device).view(-1, *[1] * codes.ndim)
    return ((whole >> shifts) & 1).bool()


def from_planes(planes: Tensor) -> Tensor:
    """Join binary planes of shape (B, ...) into codes: k = sum_b 2^b * plane_b, int64.

    >>> from_planes(to_planes(torch.tensor([6, 1]), planes=3))
    tensor([6, 1])
    """
    shifts = torch.arange(planes.shape[0], device=planes.device).view(-1, *[1] * (planes.ndim - 1))
    return (planes.long() << shifts).sum(0)


def to_unary(codes: Tensor, D_N: int) -> Tensor:
    """Split codes into D_N unary planes (I-LIF's virtual timesteps): code k is a spike in the first k planes.

    Args:
        codes: Whole numbers in {0, ..., D_N}, any shape.
        D_N: Largest code.

    Returns:
        Spikes, shape (D_N, *codes.shape), bool.

    Raises:
        ValueError: If a code is not whole or outside {0, ..., D_N}.

    >>> to_unary(torch.tensor([3, 1]), D_N=4).int().T  # 3 spikes and 1 in 4 planes
    tensor([[1, 1, 1, 0],
            [1, 0, 0, 0]], dtype=torch.int32)
    """
    whole = _whole(codes)
    _check_range(whole, D_N, f"{D_N} unary planes hold codes up to {D_N}")
    return whole > torch.arange(D_N, device=codes.device).view(-1, *[1] * codes.ndim)


def from_unary(planes: Tensor) -> Tensor:
    """Join unary planes of shape (D_N, ...) into codes: the number of spikes, int64."""
    return planes.sum(0, dtype=torch.int64)


def spike_rates(planes: Tensor) -> Tensor:
    """Return the share of ones in each plane: shape (B, ...) to (B,), float64, 0 to 1.

    >>> spike_rates(to_planes(torch.tensor([3, 1, 0, 0]), planes=2)).tolist()
    [0.5, 0.25]
    """
    return planes.flatten(1).double().mean(1)


def entropy(counts: ArrayLike) -> float:
    """Return the Shannon entropy, in bits, of symbols that occurred ``counts`` times.

    >>> entropy([2, 1, 1, 0])  # 1/2 * 1 + 1/4 * 2 + 1/4 * 2
    1.5
    """
    p = np.asarray(counts, np.float64)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # no -0.0


def _whole(codes: Tensor) -> Tensor:
    whole = codes.long()
    if codes.is_floating_point() and not torch.equal(whole.to(codes.dtype), codes):
        raise ValueError("codes must be whole numbers; multiply spike values by N and round")
    return whole


def _check_range(codes: Tensor, largest: int, limit: str) -> None:
    if codes.numel() and (codes.min() < 0 or codes.max() > largest):
        raise ValueError(f"codes reach from {codes.min()} to {codes.max()}; {limit}")
