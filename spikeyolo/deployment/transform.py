"""A trained spiking network in deploy form: codes, eight-bit weights and whole sums, the same on every runtime.

BatchNorm is folded, Rep and separable tails are the dense convolutions that they equal, potentials are in units
u = unit * v (unit = N where all neurons share it), pixels enter as whole numbers. A layer is then

    s = sum_b w * (2^b * plane_b) + bias,   u = 2^exponent * s,   k = clip(round(u), 0, D_N)

with weights of at most eight bits, whole biases and an exponent per channel. In the worst case, whatever the image,
every partial sum is below 2^24, so int32 and float32 hold it exactly in any order. What is added to a residual stream
has eight bits as well.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from ultralytics.engine.model import Model
from ultralytics.nn.modules.block import Attention
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils import LOGGER

from spikeyolo.blocks import SpikeConv, SpikeDetect, SpikeEncoder
from spikeyolo.deployment.exponents import choose_exponents, round_branches
from spikeyolo.deployment.form import DeployForm, form_of, has_neurons
from spikeyolo.deployment.heads import Expectation
from spikeyolo.deployment.layers import (
    SUM_BITS,
    WEIGHT_BITS,
    CodeNeuron,
    IntegerConv,
    PixelConv,
    StepActivation,
    Widen,
)
from spikeyolo.network.insertion import ACTIVATIONS
from spikeyolo.neurons import IBRALIF, SiLU, check_planes, check_tracked, neuron_in, neurons_of

GRAPHS = ("spike", "integer")
PLANES = 7  # of codes by default: products of two by eight-bit weights fit int16, and no mAP is lost (docs/export.md)


def deploy(
    model: nn.Module, *, graph: str = "integer", planes: int | None = None, weight_bits: int | None = None
) -> nn.Module:
    """Return a copy of a trained spiking model in deploy form; the model itself is left as it is.

    Args:
        model: `YOLO` object or its ``model``, of any spiking neuron type.
        graph: "integer" convolves codes, "spike" convolves their binary planes one after the other. Both give the same
            numbers bit for bit; the first is about as many times faster as there are planes.
        planes: Most planes that a code may have, 7 by default; low ones are dropped (`IBRALIF.keep_planes`).
        weight_bits: Width of the weights, 2 to 8, 8 by default.

    Returns:
        Model with the same input (images (B, 3, H, W) in [0, 1], steps of 1/255) and the same output, not trainable.
        Its attribute ``deployed`` is a `DeployForm`.

    Raises:
        TypeError: If this is no Ultralytics detection model.
        ValueError: If the model is no spiking one, if it is not spike-driven, if its neurons have no ranges yet, for an
            unknown graph, a wrong number of planes or bits, weights that are not finite, and sums that pass 2^24
            whatever the weights.
    """
    if graph not in GRAPHS:
        raise ValueError(f"graph must be {' or '.join(GRAPHS)}, got {graph!r}")
    network = model.model if isinstance(model, Model) else model
    if not isinstance(network, BaseModel):
        raise TypeError(f"deploy takes a YOLO model with a spiking network, got {type(network).__name__}")
    if not has_neurons(network):
        raise ValueError(
            "this model has no spiking neuron, so there is nothing to deploy as spikes; train one with a "
            "neuron such as ibra-lif (model=ibra-spikeyolo-n.yaml), or export the model without graph="
        )
    if weight_bits is not None:
        check_weight_bits(weight_bits)
    check_tracked(network)
    network: Any = copy.deepcopy(network)
    if not hasattr(network, "deployed"):
        _keep_planes(network, PLANES if planes is None else planes)
        network = network.eval().float().fuse(verbose=False)
        _check_spike_driven(network)
        network.deployed = _replace(network, weight_bits or WEIGHT_BITS)
        round_branches(network)
        choose_exponents(network)
        network.to(memory_format=torch.channels_last)  # faster on a CPU
    elif given := [f"{k}={v}" for k, v in {"planes": planes, "weight_bits": weight_bits}.items() if v is not None]:
        raise ValueError(f"{' '.join(given)} comes too late: this network is in deploy form; give the trained one")
    form = form_of(network)
    if blurred := {m.mode for m in network.modules() if isinstance(m, nn.Upsample)} - {"nearest"}:
        LOGGER.warning(
            f"nn.Upsample with mode {', '.join(sorted(blurred))} averages potentials, which then are no multiples of a "
            "step. Lost: the guarantee that every runtime emits the same codes. Remedy: nn.Upsample [None, 2, nearest]."
        )
    if coarsened := sum(conv.coarsened for conv in form.convs.values()):
        total = sum(conv.out_channels for conv in form.convs.values())
        LOGGER.warning(
            f"{coarsened:,} of {total:,} channels keep few bits of their weights, so that the sums of codes of up to "
            f"{max(form.planes.values())} planes stay below 2^{SUM_BITS}. Accuracy may suffer. Remedy: planes={PLANES}."
        )
    for conv in form.convs.values():
        conv.spike_driven = graph == "spike" and not isinstance(conv, PixelConv)
    return network


def check_weight_bits(weight_bits: object) -> None:
    """Raise ValueError if this is no width of weights."""
    if isinstance(weight_bits, bool) or not isinstance(weight_bits, int) or not 2 <= weight_bits <= WEIGHT_BITS:
        raise ValueError(f"weight_bits must be a whole number from 2 to {WEIGHT_BITS}, got weight_bits={weight_bits!r}")


def _keep_planes(network: nn.Module, planes: int) -> None:
    """Drop low planes of all neurons, in place."""
    check_planes(planes)
    for name, neuron in neurons_of(network).items():
        try:
            neuron.keep_planes(planes)
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from e


def pairs(model: nn.Module) -> list[tuple[str, nn.Module, str, IBRALIF | None]]:
    """Find the convolutions of a fused spiking network, in the order of its modules.

    Returns:
        Name of the convolution, module that holds it, its attribute there, and the neuron before it (None: pixels).
    """
    place = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return sorted(_pairs(model), key=lambda pair: place[pair[0]])


def _pairs(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, IBRALIF | None]]:
    for prefix, module in model.named_modules():
        if isinstance(module, Conv):
            neuron = module.act if isinstance(module, SpikeConv) else getattr(module, "neuron", None)
            yield f"{prefix}.conv", module, "conv", neuron_in(neuron)
        elif isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[-1], nn.Conv2d):  # of a head
            last = str(len(module) - 1)
            yield f"{prefix}.{last}", module, last, neuron_in(module[-2])


def _check_spike_driven(model: nn.Module) -> None:
    """Refuse a network in which a convolution without neuron reads potentials."""
    layers = list(model.get_submodule("model"))  # pyright: ignore[reportArgumentType] (a Sequential)
    without = {holder: name for name, holder, _, neuron in pairs(model) if neuron is None}
    if inner := [name for holder, name in without.items() if holder not in layers]:
        raise ValueError(f"{inner[0]} is a convolution without neuron, so it would take no spikes")
    for i, layer in enumerate(layers):
        source = layers[i - 1] if i else None
        pixels = source is None or isinstance(source, SpikeEncoder)
        bare = layer in without
        if bare and (not pixels or getattr(layer, "f", -1) not in (-1, i - 1)):
            raise ValueError(
                f"row {i} is a convolution without neuron that reads potentials, so it would take no spikes; "
                "only the first convolution may have first=True"
            )
        if pixels and not bare and not isinstance(layer, SpikeEncoder):
            raise ValueError(
                f"row {i} ({type(layer).__name__}) reads pixels, but is no stem; the first convolution must be a "
                "SpikeDown with first=True, e.g. [-1, 1, SpikeDown, [128, 7, 4, 2, True]]"
            )


def _replace(model: nn.Module, weight_bits: int) -> DeployForm:
    """Exchange neurons and convolutions for those of the deploy form, in place."""
    convolutions = pairs(model)
    unit = max(neuron.N for *_, neuron in convolutions if neuron is not None)
    form = DeployForm(unit, {}, {}, weight_bits)
    parents = {child: (parent, key) for parent in model.modules() for key, child in parent.named_children()}
    for name, holder, attribute, neuron in convolutions:
        conv = getattr(holder, attribute)
        own = 1.0 if isinstance(holder, nn.Sequential) else unit  # the last ones of a head, which no neuron reads
        if neuron is None:
            new = PixelConv(conv, scale=unit / 255, unit=unit, largest=255, weight_bits=weight_bits, name=name)
        else:
            form.neurons[name] = CodeNeuron(neuron, unit, conv.padding, name)
            numbers = {"unit": own, "largest": neuron.D_N, "rest": neuron.rest, "weight_bits": weight_bits}
            new = IntegerConv(conv, scale=own / neuron.N, name=name, **numbers)
            parent, key = parents[neuron]
            setattr(parent, key, form.neurons[name])
        setattr(holder, attribute, new.eval())
        form.convs[name] = new
    modules: list[Any] = list(model.modules())
    for module in modules:
        if isinstance(module, Conv) and isinstance(module.act, ACTIVATIONS):  # one instance may serve many
            setattr(module, "act", StepActivation(module.act, unit))  # noqa: B010 (its declared type is narrower)
        elif isinstance(module, SiLU):
            parent, key = parents[module]
            setattr(parent, key, StepActivation(module, unit))
        elif isinstance(module, Attention):
            _widen(module, unit)
    heads: list[Any] = [m for m in model.modules() if isinstance(m, Detect)]
    for head in heads:
        if type(head) not in (SpikeDetect, Detect):
            raise ValueError(f"a {type(head).__name__} has no deploy form; heads are SpikeDetect and Detect")
        if head.reg_max > 1:
            head.dfl = Expectation(head.reg_max)
    for name, module in model.named_modules():
        if isinstance(module, (IBRALIF, nn.Conv2d, nn.Linear)) and not isinstance(module, IntegerConv):
            raise ValueError(
                f"{name} ({type(module).__name__}) has no deploy form: a block is made of SpikeConv and its like, each "
                "with its neuron directly before it"
            )
    return form


def _widen(attention: Any, unit: float) -> None:
    """Let attention multiply potentials in float64, and round its result to a step, in place."""
    attention.qkv.act = Widen()
    attention.scale = attention.scale / unit**2  # queries and keys come as unit * v, both
    for conv in (attention.pe, attention.proj):
        conv.neuron = nn.Sequential(StepActivation(None, unit), conv.neuron)
