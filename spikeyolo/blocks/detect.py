"""The spiking detection head."""

import copy

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import Detect

from spikeyolo.blocks.conv import Neuron, SpikeConv

RAW_MAPS = ("boxes", "scores")  # among the predictions of a head


class SpikeDetect(Detect):
    """Detection head whose every convolution takes spikes; its raw maps are averaged over T.

    Per level a box and a class branch: `SpikeConv` 3x3, `SpikeConv` 3x3, neuron and 1x1 convolution with bias.

    Args:
        nc: Number of classes.
        reg_max: Bins of the box distribution.
        end2end: Whether to add the one-to-one branches of NMS-free detection.
        ch: Channels of the levels.
        T: Timesteps that the batch of the inputs holds.
        neuron: Makes the neurons.

    Shape:
        Inputs (T*B, ch[i], h_i, w_i); outputs as `Detect` for a batch of B.
    """

    def __init__(
        self,
        nc: int = 80,
        reg_max: int = 16,
        end2end: bool = False,
        ch: list[int] | tuple[int, ...] = (),
        *,
        T: int = 1,
        neuron: Neuron,
    ):
        super().__init__(nc=nc, reg_max=reg_max, end2end=False, ch=ch)
        self.T = T
        c2, c3 = max(16, ch[0] // 4, reg_max * 4), max(ch[0], min(nc, 100))

        def branch(c1: int, hidden: int, out: int) -> nn.Sequential:
            return nn.Sequential(
                SpikeConv(c1, hidden, 3, neuron=neuron),
                SpikeConv(hidden, hidden, 3, neuron=neuron),
                neuron(),
                nn.Conv2d(hidden, out, 1),
            )

        self.cv2 = nn.ModuleList(branch(c, c2, 4 * reg_max) for c in ch)
        self.cv3 = nn.ModuleList(branch(c, c3, nc) for c in ch)
        if end2end:
            self.one2one_cv2 = copy.deepcopy(self.cv2)
            self.one2one_cv3 = copy.deepcopy(self.cv3)

    def forward_head(
        self, x: list[Tensor], box_head: nn.Module | None = None, cls_head: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Return raw boxes (B, 4*reg_max, A) and scores (B, nc, A), averaged over T, and the levels' features."""
        preds = super().forward_head(x, box_head, cls_head)
        if self.T > 1:
            for key in [key for key in preds if key in RAW_MAPS]:
                preds[key] = torch.stack(preds[key].chunk(self.T)).mean(0)
        return preds
