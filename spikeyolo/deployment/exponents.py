"""The steps of all potentials: so coarse that what is added up stays exact, for any image."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from ultralytics.nn.modules.head import Detect

from spikeyolo.blocks import NormedConv
from spikeyolo.deployment.form import form_of
from spikeyolo.deployment.layers import SUM_BITS, CodeNeuron, IntegerConv, StepActivation

SPREAD = 6  # standard deviations that an output in eight bits holds


def round_branches(model: nn.Module) -> None:
    """Round to eight bits what is added to a residual stream, where a BatchNorm has told how far it spreads.

    Args:
        model: Network in deploy form.
    """
    form = form_of(model)
    norms = {f"{name}.conv": module for name, module in model.named_modules() if isinstance(module, NormedConv)}
    for name in _addends(model):
        norm = norms.get(name)
        if norm is not None and norm.mean is not None and norm.deviation is not None:
            form.convs[name].round_output((norm.mean.abs() + SPREAD * norm.deviation) * form.unit)


def choose_exponents(model: nn.Module) -> None:
    """Make steps coarser until every potential, whatever is added up in it, is below 2^24 of its finest step."""
    form = form_of(model)
    while True:
        potentials = _potentials(model)
        coarser = False
        for names, bound in potentials.read:
            floor = math.ceil(math.log2(bound)) - SUM_BITS if bound else -math.inf
            for conv in (form.convs[name] for name in names):
                if conv.output_exponent.min() < floor:
                    coarser = True
                    if conv.branch is None:
                        conv.quantise(floor)
                    else:
                        conv.branch.clamp_(min=floor)
        if not coarser:
            break
    for module, names in potentials.arriving.items():
        module.exponent = int(min(float(form.convs[name].output_exponent.min()) for name in names))
    for conv in form.convs.values():
        conv.forget()


class _Potentials(NamedTuple):
    """What a run on bounds finds.

    Args:
        read: For every potential that is read: which convolutions add up in it, and its worst-case magnitude.
        arriving: Which convolutions arrive at a neuron or an activation.
    """

    read: list[tuple[set[str], float]]
    arriving: dict[CodeNeuron | StepActivation, set[str]]


def _potentials(model: Any) -> _Potentials:
    """Return what is added up where, and its worst-case magnitude.

    The network runs once on bounds in place of numbers: each convolution gives its bounds (times a marker whose
    gradient tells where it arrives), so additions, concatenations, poolings and attention need no rule of their own.
    """
    form = form_of(model)
    first = next(model.parameters())
    markers = {name: torch.ones((), device=first.device) for name in form.convs}
    potentials = _Potentials([], {})

    def give_bounds(name: str):
        def hook(conv: IntegerConv, _, output: Tensor) -> Tensor:
            bounds = conv.bounds().to(output.dtype) * (1 + 1e-6)  # not below them after rounding and adding up
            bounds = (bounds * markers[name]).view(1, -1, 1, 1)
            return bounds.expand(output.shape).clone()  # activations write in place

        return hook

    def arriving(potential: Tensor) -> set[str]:
        grads = torch.autograd.grad(potential.sum(), list(markers.values()), retain_graph=True, allow_unused=True)
        return {name for name, grad in zip(markers, grads, strict=True) if grad is not None}

    def read(neuron: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (potential,) = inputs
        names = potentials.arriving[neuron] = arriving(potential)
        potentials.read.append((names, float(potential.detach().max()) * neuron.gain))
        return potential.new_zeros(len(potential), *neuron.output_shape(*potential.shape[1:]))

    def pass_on(activation: StepActivation, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        potentials.arriving[activation] = arriving(inputs[0])
        return inputs[0].float()  # no activation exceeds its input in magnitude

    hooks = [conv.register_forward_hook(give_bounds(name)) for name, conv in form.convs.items()]
    hooks += [neuron.register_forward_hook(read) for neuron in form.neurons.values()]
    hooks += [m.register_forward_hook(pass_on) for m in model.modules() if isinstance(m, StepActivation)]
    with _hooked(hooks), torch.enable_grad():
        for marker in markers.values():
            marker.requires_grad_(True)
        _run(model)
    return potentials


class _Additions(TorchFunctionMode):
    """Notes which tensors are added to another one."""

    def __init__(self):
        super().__init__()
        self.added: list[Tensor] = []  # held, so that no other tensor takes their place

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__):
            self.added += [tensor for tensor in args if isinstance(tensor, Tensor)]
        return func(*args, **(kwargs or {}))


def _addends(model: Any) -> list[str]:
    """Return the convolutions whose output itself is added to other potentials."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda _, __, output: outputs.__setitem__(name, output)

    hooks = [conv.register_forward_hook(keep(name)) for name, conv in form_of(model).convs.items()]
    with _hooked(hooks), torch.no_grad(), _Additions() as additions:
        _run(model)
    added = {id(tensor) for tensor in additions.added}
    return [name for name, output in outputs.items() if id(output) in added]


@contextlib.contextmanager
def _hooked(hooks: list[Any]) -> Iterator[None]:
    """Remove hooks at the end."""
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


def _run(model: Any) -> None:
    """Run a network once on black; its heads keep the places that they know, of which PyTorch exports no arithmetic."""
    size = 2 * int(model.stride.max())
    first = next(model.parameters())
    heads = [m for m in model.modules() if isinstance(m, Detect)]
    known = [(head.anchors, head.strides, head.shape) for head in heads]
    model(torch.zeros(1, model.yaml.get("channels", 3), size, size, device=first.device))
    for head, (anchors, strides, shape) in zip(heads, known, strict=True):
        head.anchors, head.strides, head.shape = anchors, strides, shape
