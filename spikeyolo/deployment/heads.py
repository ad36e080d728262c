"""The decoder of a detection head in deploy form."""

import torch
from torch import Tensor, nn


class Expectation(nn.Module):
    """Box distances as the expectation of their bins, (B, 4 * bins, A) to (B, 4, A); `DFL` without its convolution."""

    values: Tensor

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins
        self.register_buffer("values", torch.arange(bins, dtype=torch.float32).view(1, 1, bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the distances."""
        batch, _, anchors = x.shape
        return (x.view(batch, 4, self.bins, anchors).softmax(2) * self.values).sum(2)
