"""The grid of each layer: as fine as float32 allows for any image."""

import contextlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeyolo.deployment.form import form_of
from spikeyolo.deployment.layers import (
    CodeNeuron,
    FixedPointConv,
    GridActivation,
)

COARSEST_GRID = 6  # coarser ones cost accuracy (docs/export.md): the guarantee is given up instead, and that is told
SIGNIFICANT_BITS = 24  # of a float32: whole numbers up to 2^24 are exact


def choose_grids(model: nn.Module) -> None:
    """Snap every convolution to the finest grid on which its sums, and those that it is added to, stay exact."""
    form = form_of(model)
    groups: list[set[str]] = [{name} for name in form.convs]
    lowest = min(neuron.scale for neuron in form.neurons.values())
    while True:
        form.inexact = {}
        coarser = False
        potentials = _potentials(model)
        for names, bound, _ in potentials.read:
            joined = [g for g in groups if g & names]
            group = set().union(*joined)
            if len(joined) > 1:  # what is added up shares a grid
                groups = [g for g in groups if g not in joined] + [group]
            # a grid is coarse in comparison with the codes of the neurons that read it
            readers = [scale for others, _, scale in potentials.read if scale and others & group]
            coarsest = COARSEST_GRID + math.floor(math.log2(max(readers, default=lowest)))
            grid = min(form.convs[name].grid for name in group)
            if bound * 2.0**coarsest > 2**SIGNIFICANT_BITS:
                form.inexact |= dict.fromkeys(names, bound * 2.0**coarsest)
            elif bound * 2.0**grid > 2**SIGNIFICANT_BITS:
                grid = max(min(SIGNIFICANT_BITS - math.ceil(math.log2(bound)), grid - 1), coarsest)
            for name in group:
                if form.convs[name].grid != grid:
                    form.convs[name].snap(grid)
                    coarser = True
        if not coarser:
            break
    for activation, names in potentials.rounded.items():
        activation.grid = min(form.convs[name].grid for name in names)
    for conv in form.convs.values():
        conv.forget()


class _Potentials(NamedTuple):
    """What a run on bounds finds.

    Args:
        read: For every potential that is read: which convolutions add up in it, its worst-case magnitude, and the codes
            per unit of it of the neuron that reads (0 where none does).
        rounded: Which convolutions arrive at an activation.
    """

    read: list[tuple[set[str], float, float]]
    rounded: dict[GridActivation, set[str]]


def _potentials(model: Any) -> _Potentials:
    """Return what is added up where, and its worst-case magnitude.

    The network runs once on bounds in place of numbers: each convolution gives its bounds (times a marker whose
    gradient tells where it arrives), so additions, concatenations, poolings and attention need no rule of their own.
    """
    form = form_of(model)
    first = next(model.parameters())
    markers = {name: torch.ones((), device=first.device) for name in form.convs}
    potentials = _Potentials([({n}, float(c.bounds().max()), 0.0) for n, c in form.convs.items()], {})

    def give_bounds(name: str):
        def hook(conv: FixedPointConv, _, output: Tensor) -> Tensor:
            bounds = conv.bounds().to(output.dtype) * (1 + 1e-6)  # not below them after rounding and adding up
            bounds = (bounds * markers[name]).view(1, -1, 1, 1)
            return bounds.expand(output.shape).clone()  # activations write in place

        return hook

    def arriving(potential: Tensor) -> set[str]:
        grads = torch.autograd.grad(potential.sum(), list(markers.values()), retain_graph=True, allow_unused=True)
        return {name for name, grad in zip(markers, grads, strict=True) if grad is not None}

    def read(neuron: CodeNeuron, inputs: tuple[Tensor]) -> Tensor:
        (potential,) = inputs
        potentials.read.append((arriving(potential), float(potential.detach().max()), neuron.scale))
        return torch.zeros_like(potential)

    def pass_on(activation: GridActivation, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        potentials.rounded[activation] = arriving(inputs[0])
        return inputs[0].float()  # no activation exceeds its input in magnitude

    hooks = [conv.register_forward_hook(give_bounds(name)) for name, conv in form.convs.items()]
    hooks += [neuron.register_forward_pre_hook(read) for neuron in form.neurons.values()]
    hooks += [m.register_forward_hook(pass_on) for m in model.modules() if isinstance(m, GridActivation)]
    with contextlib.ExitStack() as stack, torch.enable_grad():
        for hook in hooks:
            stack.enter_context(hook)  # which removes it
        for marker in markers.values():
            marker.requires_grad_(True)
        size = 2 * int(model.stride.max())
        model(torch.zeros(1, model.yaml.get("channels", 3), size, size, device=first.device))
    return potentials
