"""What was done to a network in deploy form, and the codes that it emits."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeyolo.deployment.layers import CodeNeuron, IntegerConv
from spikeyolo.neurons import IBRALIF


@dataclass
class DeployForm:
    """What was done to a network in deploy form; its attribute ``deployed``.

    Args:
        unit: Potentials are unit * v.
        neurons: Neuron before each convolution, by the convolution's name.
        convs: All convolutions by name, the stem included.
        weight_bits: Width of their weights.
    """

    unit: float
    neurons: dict[str, CodeNeuron]
    convs: dict[str, IntegerConv]
    weight_bits: int

    @property
    def planes(self) -> dict[str, int]:
        """Number of binary planes by convolution (all but the stem)."""
        return {name: neuron.planes for name, neuron in self.neurons.items()}

    @property
    def common(self) -> dict[str, Any]:
        """D, N, T and decay of the neurons: the number that all have, or None."""
        numbers = {key: {getattr(n, key) for n in self.neurons.values()} for key in ("D", "N", "T", "decay")}
        return {key: values.pop() if len(values) == 1 else None for key, values in numbers.items()}

    @property
    def clipped(self) -> int:
        """Number of weights that were clipped to their bits."""
        return sum(conv.clipped for conv in self.convs.values())


def _keep(emitted: list[tuple[str, Tensor]], name: str, neuron: nn.Module, inputs: Any, codes: Tensor) -> None:
    """Remember the codes of a neuron; a forward hook."""
    emitted.append((name, codes))


def has_neurons(network: nn.Module) -> bool:
    """Return whether a network is spiking, trained or in deploy form."""
    return any(isinstance(module, (IBRALIF, CodeNeuron)) for module in network.modules())


def form_of(model: nn.Module) -> DeployForm:
    """Return what was done to a network; TypeError if it is not in deploy form."""
    form = getattr(model, "deployed", None)
    if not isinstance(form, DeployForm):
        raise TypeError(f"this {type(model).__name__} is not in deploy form; use spikeyolo.deploy(model)")
    return form


def emitted_codes(model: nn.Module, images: Tensor) -> tuple[Any, list[tuple[str, Tensor]]]:
    """Run a network in deploy form; return its output and the codes that enter each convolution, by its name."""
    emitted: list[tuple[str, Tensor]] = []
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, neuron in form_of(model).neurons.items():
            hooks.enter_context(neuron.register_forward_hook(functools.partial(_keep, emitted, name)))
        return model(images), emitted
