"""Activations of the ANN twins. Needs torch alone."""

import torch
from torch import Tensor, nn


class ReLU(nn.Module):
    """max(x, 0) of the ANN twin, never in place: a residual branch must not change the potentials that it is added to.

    Ultralytics makes every activation of a loaded checkpoint in place that has an attribute for it, so this has none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0), shape of ``x``."""
        return torch.relu(x)


class SiLU(nn.Module):
    """x * sigmoid(x) of the ANN twin, never in place, see `ReLU`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(x), shape of ``x``."""
        return nn.functional.silu(x)
