"""Neurons in networks of stock Ultralytics blocks: one directly before each convolution but the first.

Their residuals, concatenations, poolings and activations then act on potentials, as in SpikeYOLO, and only spikes reach
weights.
"""

from collections.abc import Callable

from torch import nn
from ultralytics.nn.modules import block, conv, head

from spikeyolo.blocks import NeuronConv

EXACT_ACTIVATIONS = (nn.ReLU, nn.Identity)  # they keep potentials on their grid
ACTIVATIONS = (nn.SiLU, nn.LeakyReLU, nn.Hardswish, nn.GELU, nn.Mish, nn.ReLU6)  # none exceeds its input in magnitude
BLOCKS = (block.C2f, block.C3, block.C3k, block.C3k2, block.Bottleneck, block.SPPF)
BLOCKS += (block.C2PSA, block.PSABlock, block.Attention, block.DFL)
PARTS = (nn.Conv2d, nn.BatchNorm2d, nn.Sequential, nn.ModuleList, nn.Upsample, nn.MaxPool2d)
KNOWN = {conv.Conv, conv.DWConv, conv.Concat, head.Detect, *BLOCKS, *PARTS, *EXACT_ACTIVATIONS, *ACTIVATIONS}


def insert_neurons(layers: nn.Sequential, neuron: Callable[[], nn.Module]) -> None:
    """Put a neuron before each convolution of a stock network, in place; the first one takes pixels.

    Args:
        layers: Rows of a detector made of Ultralytics' `Conv` blocks (YOLOv8, YOLO11, YOLO26).
        neuron: Makes one neuron.

    Raises:
        ValueError: Names the row and the block for which this is not known to be right.
    """
    for i, row in enumerate(layers):
        if unknown := [type(m).__name__ for m in row.modules() if type(m) not in KNOWN]:
            known = ", ".join(sorted(k.__name__ for k in (conv.Conv, conv.DWConv, conv.Concat, head.Detect, *BLOCKS)))
            raise ValueError(
                f"row {i} ({type(row).__name__}) has a {unknown[0]}, of which no spiking form is known; "
                f"a network can be made of {known} and nn.Upsample"
            )
    if not isinstance(layers[0], conv.Conv):
        raise ValueError(f"row 0 is a {type(layers[0]).__name__}; the row that reads pixels must be a Conv")
    for row in list(layers)[1:]:
        for module in list(row.modules()):
            if isinstance(module, conv.Conv):
                module.__class__ = NeuronConv
                module.neuron = neuron()
                if "forward" in vars(module):  # a fused network
                    module.forward = module.forward_fuse
        if isinstance(row, head.Detect):
            for branches in [b for b in row.children() if isinstance(b, nn.ModuleList)]:
                for i, branch in enumerate(branches):
                    *convs, last = branch.children()
                    branches[i] = nn.Sequential(*convs, neuron(), last)
