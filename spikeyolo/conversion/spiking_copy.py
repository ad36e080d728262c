"""The spiking copy of an ANN: neurons in the place of its activations."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spikeyolo.network.insertion import insert_neurons
from spikeyolo.neurons import NeuronConfig, ReLU, SiLU, neurons_of


class SpikingCopy:
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
        config = replace(NeuronConfig.preset("ibra-lif"), activation=self.activation)
        if was is None:
            insert_neurons(self.network.model, config)
        else:
            for parent in list(self.network.modules()):
                for key, child in list(parent.named_children()):
                    if isinstance(child, (ReLU, SiLU)):
                        setattr(parent, key, config())
        if not neurons_of(self.network):
            raise ValueError("this model has no activation that a neuron could replace; train its ANN again")

    def set_ranges(self, ranges: Mapping[str, list[float]]) -> None:
        """Give each neuron its [D, N, rest], and note them in the YAML, of which training builds the network again."""
        ranges = {name: [float(D), float(N), int(rest)] for name, (D, N, rest) in ranges.items()}  # not numpy's
        NeuronConfig(type="ibra-lif", ranges=ranges).set_ranges(self.network.model)
        (D, N, rest), *others = {tuple(numbers) for numbers in ranges.values()}
        own: dict[str, Any] = {"ranges": dict(ranges)} if others or rest else {"numbers": {"D": D, "N": N}}
        config = NeuronConfig(type="ibra-lif", activation=self.activation, **own)
        self.network.yaml = {**self.network.yaml, "neuron": config.to_mapping()}
