"""Neurons in the place of an ANN's activations.

An ANN twin of SpikeYOLO has a neuron where it had ReLU or SiLU. A network of stock Ultralytics blocks gets one directly
before each convolution but the first: its residuals, concatenations, poolings and activations then act on potentials,
as in SpikeYOLO, and only spikes reach weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import block, conv, head

from spikeyolo.blocks import NeuronConv
from spikeyolo.neurons import IBRALIF, NeuronConfig, ReLU, SiLU

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


class SpikingTwin:
    """A copy of an ANN with neurons; they have the paper's range until `set_ranges`.

    Args:
        ann: Network of a detector.

    Attributes:
        network: The copy, float32, in eval mode.
        replaced: What the ANN has in the place of a neuron: a function of potentials.

    Raises:
        ValueError: If it is spiking already, or has a block of which no spiking form is known.
    """

    def __init__(self, ann: Any):
        self.network = copy.deepcopy(ann).float().eval()
        mapping = (self.network.yaml or {}).get("neuron")
        was = NeuronConfig.from_mapping(mapping) if mapping is not None else None
        if was is not None and was.spiking:
            raise ValueError("this model has spiking neurons already; give an ANN such as relu-spikeyolo-p.pt")
        self.activation = "silu" if was is not None and was.type == "silu" else None
        self.replaced = torch.relu if was is not None and was.type == "relu" else nn.Identity()
        config = NeuronConfig(type="ibra-lif", D=5.11, N=100, activation=self.activation)
        if was is None:
            insert_neurons(self.network.model, config)
        else:
            for parent in list(self.network.modules()):
                for key, child in list(parent.named_children()):
                    if isinstance(child, (ReLU, SiLU)):
                        setattr(parent, key, config())
        if not any(isinstance(module, IBRALIF) for module in self.network.modules()):
            raise ValueError("this model has no activation that a neuron could replace; train its ANN again")

    def set_ranges(self, ranges: Mapping[str, list[float]]) -> None:
        """Give each neuron its [D, N, rest], and note them in the YAML, of which training builds the network again."""
        NeuronConfig(type="ibra-lif", ranges=ranges).set_ranges(self.network.model)
        (D, N, rest), *others = {tuple(numbers) for numbers in ranges.values()}
        numbers: dict[str, Any] = {"ranges": dict(ranges)} if others or rest else {"D": D, "N": N}
        config = NeuronConfig(type="ibra-lif", activation=self.activation, **numbers)
        self.network.yaml = {**self.network.yaml, "neuron": config.to_mapping()}


def attention_of(network: nn.Module) -> dict[str, list[int]]:
    """Return heads, key and value channels per head of each attention, by the module's name."""
    return {
        name: [module.num_heads, module.key_dim, module.head_dim]
        for name, module in network.named_modules()
        if isinstance(module, block.Attention)
    }


def real_valued(network: Any) -> list[str]:
    """Name what of a spiking network is computed on real values: nothing else multiplies by anything but weights."""
    found = [f"stem {name} (pixels)" for name, m in network.named_modules() if isinstance(m, conv.Conv)][:1]
    found += [f"attention {name} (products of queries, keys and values)" for name in attention_of(network)]
    activations: dict[str, int] = {}
    for module in network.modules():
        act = module.act if isinstance(module, NeuronConv) else module if isinstance(module, SiLU) else None
        if isinstance(act, (*ACTIVATIONS, SiLU)):
            activations[type(act).__name__] = activations.get(type(act).__name__, 0) + 1
    found += [f"{name} of potentials ({count} times)" for name, count in activations.items()]
    return [*found, "decoder (softmax or distances of boxes, sigmoid of scores)"]
