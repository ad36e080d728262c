"""The detection heads of a network in deploy form, decoded in float64."""

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import Detect

from spikeyolo.blocks import RAW_MAPS, SpikeDetect


class _CodeHead(Detect):
    """A head in deploy form: its last convolutions give potentials v, which are decoded in float64.

    Exponentials differ between runtimes in their last bits; of float64 these are gone when boxes and scores are rounded
    to float32.
    """

    def forward_head(
        self, x: list[Tensor], box_head: nn.Module | None = None, cls_head: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Return raw boxes and scores, in float64."""
        preds = super().forward_head(x, box_head, cls_head)
        # in the head's own order, so that an exported graph is the same in every process
        return {key: value.double() if key in RAW_MAPS else value for key, value in preds.items()}

    def _inference(self, x: dict[str, Tensor]) -> Tensor:
        return super()._inference(x).float()


class CodeDetect(_CodeHead, SpikeDetect):
    """`SpikeDetect` in deploy form."""


class CodeStockDetect(_CodeHead):
    """Ultralytics' `Detect` with neurons, in deploy form."""


HEADS: dict[type[Detect], type[_CodeHead]] = {SpikeDetect: CodeDetect, Detect: CodeStockDetect}


class Expectation(nn.Module):
    """Box distances as the expectation of their bins (`DFL`), in any precision: (B, 4 * bins, A) to (B, 4, A)."""

    values: Tensor

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins
        self.register_buffer("values", torch.arange(bins, dtype=torch.float64).view(1, 1, bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the distances."""
        batch, _, anchors = x.shape
        return (x.view(batch, 4, self.bins, anchors).softmax(2) * self.values).sum(2)
