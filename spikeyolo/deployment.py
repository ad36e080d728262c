"""A trained spiking network in deploy form: codes and fixed-point weights, so that every runtime emits the same codes.

BatchNorm is folded, Rep and separable tails are the dense convolutions that they equal, potentials are in units
u = unit * v (unit = N where all neurons share it), pixels enter as whole numbers. A layer is then

    u' = sum_b 2^b * (W * plane_b) + unit * bias,   k = round(clip(u, 0, D_N))

with weights and biases on a grid of 2^-grid. The grid is as fine as float32 allows: in the worst case, whatever the
image, every partial sum is a multiple of 2^-grid below 2^(24 - grid), so float32 holds it exactly in any order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from ultralytics.engine.model import Model
from ultralytics.nn.modules.block import Attention
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils import LOGGER

from spikeyolo.blocks import SpikeConv, SpikeEncoder
from spikeyolo.fixed_point import (
    FINEST_GRID,
    HEADS,
    CodeNeuron,
    Expectation,
    FixedPointConv,
    GridActivation,
    PixelConv,
    PlaneConv,
    Widen,
)
from spikeyolo.insertion import ACTIVATIONS
from spikeyolo.neurons import IBRALIF, SiLU, neuron_in
from spikeyolo.ranges import check_planes, check_tracked

GRAPHS = ("spike", "integer")
COARSEST_GRID = 6  # coarser ones cost accuracy (docs/export.md): the guarantee is given up instead, and that is told
SIGNIFICANT_BITS = 24  # of a float32: whole numbers up to 2^24 are exact


@dataclass(frozen=True)
class Trim:
    """What `trim` left out, in planes, and what it cost.

    Args:
        planes: Planes left out, over all layers.
        calibrated: Batches that calibrated.
        held_out: Batches on which clipped codes were counted.
        clipped: Codes among theirs that are clipped.
        codes: All their codes.
    """

    planes: int
    calibrated: int
    held_out: int
    clipped: int
    codes: int


@dataclass
class DeployForm:
    """What was done to a network in deploy form; its attribute ``deployed``.

    Args:
        unit: Potentials are unit * v.
        neurons: Neuron before each convolution, by the convolution's name.
        convs: All fixed-point convolutions by name, the stem included.
        inexact: Names of the convolutions whose worst case float32 does not hold, with that worst case in grid steps.
        trim: What was trimmed, if anything.
    """

    unit: float
    neurons: dict[str, CodeNeuron]
    convs: dict[str, FixedPointConv]
    inexact: dict[str, float] = field(default_factory=dict)
    trim: Trim | None = None

    @property
    def planes(self) -> dict[str, int]:
        """Number of binary planes by convolution (all but the stem)."""
        return {name: neuron.planes for name, neuron in self.neurons.items()}

    @property
    def grids(self) -> dict[str, int]:
        """Grid exponent by convolution: weights are multiples of 2^-grid."""
        return {name: conv.grid for name, conv in self.convs.items()}


def form_of(model: nn.Module) -> DeployForm:
    """Return what was done to a network; TypeError if it is not in deploy form."""
    form = getattr(model, "deployed", None)
    if not isinstance(form, DeployForm):
        raise TypeError(f"this {type(model).__name__} is not in deploy form; use spikeyolo.deploy(model)")
    return form


def deploy(model: nn.Module, *, graph: str = "integer", planes: int | None = None) -> nn.Module:
    """Return a copy of a trained spiking model in deploy form; the model itself is left as it is.

    Args:
        model: `YOLO` object or its ``model``, of any spiking neuron type.
        graph: "integer" convolves codes, "spike" convolves their binary planes one after the other. Both give the same
            numbers bit for bit; the first is about as many times faster as there are planes.
        planes: Most planes that a code may have; low ones are dropped (`IBRALIF.keep_planes`). All by default.

    Returns:
        Model with the same input (images (B, 3, H, W) in [0, 1], steps of 1/255) and the same output, not trainable.
        Its attribute ``deployed`` is a `DeployForm`. Where float32 cannot hold the worst case of a layer, a warning
        says so, and codes may then differ between runtimes.

    Raises:
        TypeError: If this is no Ultralytics detection model.
        ValueError: If the model is no spiking one, if it is not spike-driven, if its neurons have no ranges yet, for an
            unknown graph or a wrong number of planes.
    """
    if graph not in GRAPHS:
        raise ValueError(f"graph must be {' or '.join(GRAPHS)}, got {graph!r}")
    network = model.model if isinstance(model, Model) else model
    if not isinstance(network, BaseModel):
        raise TypeError(f"deploy takes a YOLO model with a spiking network, got {type(network).__name__}")
    if not any(isinstance(m, (IBRALIF, CodeNeuron)) for m in network.modules()):
        raise ValueError(
            "this model has no spiking neuron, so there is nothing to deploy as spikes; train one with a "
            "neuron such as ibra-lif (model=ibra-spikeyolo-n.yaml), or export the model without graph="
        )
    check_tracked(network)
    network: Any = copy.deepcopy(network)
    if planes is not None:
        _keep_planes(network, planes)
    if not hasattr(network, "deployed"):
        network = network.eval().float().fuse(verbose=False)
        _check_spike_driven(network)
        network.deployed = _replace(network)
        _choose_grids(network)
        network.to(memory_format=torch.channels_last)  # faster on a CPU
    form = form_of(network)
    if blurred := {m.mode for m in network.modules() if isinstance(m, nn.Upsample)} - {"nearest"}:
        LOGGER.warning(
            f"nn.Upsample with mode {', '.join(sorted(blurred))} averages potentials, which leaves the grid. "
            "Lost: the guarantee that every runtime emits the same codes. Remedy: nn.Upsample [None, 2, nearest]."
        )
    for conv in form.convs.values():
        if isinstance(conv, PlaneConv):
            conv.spike_driven = graph == "spike"
    if form.inexact:
        worst = max(form.inexact, key=form.inexact.__getitem__)
        LOGGER.warning(
            f"the sums of {len(form.inexact)} of {len(form.convs)} convolutions can exceed what float32 holds exactly, "
            f"even on the coarsest grid 2^-{COARSEST_GRID} ({worst}: {form.inexact[worst]:.3g} of "
            f"{2**SIGNIFICANT_BITS:,} steps in the worst case). Lost: the guarantee that every runtime emits the same "
            "codes. The accuracy is not touched. Remedy: a model with a smaller D * N."
        )
    return network


def _keep_planes(network: nn.Module, planes: int) -> None:
    """Drop low planes of all neurons, in place."""
    check_planes(planes)
    if hasattr(network, "deployed"):
        raise ValueError(f"planes={planes} comes too late: this network is in deploy form; give the trained one")
    for name, module in network.named_modules():
        if isinstance(module, IBRALIF):
            try:
                module.keep_planes(planes)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e


def trim(model: nn.Module, images: Iterable[Tensor]) -> Trim:
    """Leave out the upper planes that calibration images never use; the neurons then clip at the largest code left.

    Of every five batches four calibrate, and the fifth counts the codes that are clipped (all calibrate if there are
    less than five).

    Args:
        model: Network in deploy form, changed in place.
        images: Batches (B, 3, H, W) in [0, 1].

    Returns:
        What was left out, and how many codes that touches.

    Raises:
        ValueError: If there are no images.
    """
    form = form_of(model)
    before, batches, held_out = sum(form.planes.values()), 0, 0
    used = dict.fromkeys(form.neurons, 1)  # planes
    counts = {name: torch.zeros(64, dtype=torch.int64) for name in form.neurons}  # codes by the planes they need
    for batches, image in enumerate(images, start=1):
        counting = batches % 5 == 0
        held_out += counting
        for name, codes in emitted_codes(model, image)[1]:
            needed = torch.frexp(codes).exponent  # bit length of a whole number
            if counting:
                counts[name] += torch.bincount(needed.flatten(), minlength=64).cpu()
            else:
                used[name] = max(used[name], int(needed.max()))
    if not batches:
        raise ValueError("trimming needs at least one image")
    for name, planes in used.items():
        form.neurons[name].ceiling = min(form.neurons[name].ceiling, 2**planes - 1)
        form.convs[name].largest = form.neurons[name].ceiling
    form.trim = Trim(
        planes=before - sum(form.planes.values()),
        calibrated=batches - held_out,
        held_out=held_out,
        clipped=int(sum(counts[name][planes + 1 :].sum() for name, planes in used.items())),
        codes=int(sum(count.sum() for count in counts.values())),
    )
    return form.trim


def emitted_codes(model: nn.Module, images: Tensor) -> tuple[Any, list[tuple[str, Tensor]]]:
    """Run a network in deploy form; return its output and the codes that enter each convolution, by its name."""
    form = form_of(model)
    found: list[tuple[str, Tensor]] = []

    def remember(name: str):
        def hook(neuron: nn.Module, inputs: Any, codes: Tensor) -> None:
            found.append((name, codes))

        return hook

    hooks = [neuron.register_forward_hook(remember(name)) for name, neuron in form.neurons.items()]
    try:
        with torch.no_grad():
            output = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return output, found


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


def _replace(model: nn.Module) -> DeployForm:
    """Exchange neurons and convolutions for those of the deploy form, in place."""
    found = pairs(model)
    unit = max(neuron.N for *_, neuron in found if neuron is not None)
    form = DeployForm(unit, {}, {})
    parents = {child: (parent, key) for parent in model.modules() for key, child in parent.named_children()}
    for name, holder, attribute, neuron in found:
        conv = getattr(holder, attribute)
        if neuron is None:
            new = PixelConv(conv, scale=unit / 255, unit=unit, largest=255, grid=FINEST_GRID)
        else:
            form.neurons[name] = CodeNeuron(neuron, unit, conv.padding)
            numbers = {"unit": unit, "largest": neuron.D_N, "rest": neuron.rest, "grid": FINEST_GRID}
            new = PlaneConv(conv, scale=unit / neuron.N, **numbers)
            parent, key = parents[neuron]
            setattr(parent, key, form.neurons[name])
        setattr(holder, attribute, new.eval())
        form.convs[name] = new
    modules: list[Any] = list(model.modules())
    for module in modules:
        if isinstance(module, Conv) and isinstance(module.act, ACTIVATIONS):  # one instance may serve many
            setattr(module, "act", GridActivation(module.act, unit))  # noqa: B010 (its declared type is narrower)
        elif isinstance(module, SiLU):
            parent, key = parents[module]
            setattr(parent, key, GridActivation(module, unit))
        elif isinstance(module, Attention):
            _widen(module, unit)
    heads: list[Any] = [m for m in model.modules() if isinstance(m, Detect)]
    for head in heads:
        if type(head) not in HEADS:
            raise ValueError(f"a {type(head).__name__} has no deploy form; heads are SpikeDetect and Detect")
        head.__class__ = HEADS[type(head)]  # the same parts, decoded otherwise
        head.unit = unit
        if head.reg_max > 1:
            head.dfl = Expectation(head.reg_max)
    return form


def _widen(attention: Any, unit: float) -> None:
    """Let attention multiply potentials in float64, and round its result to the grid, in place."""
    attention.qkv.act = Widen()
    attention.scale = attention.scale / unit**2  # queries and keys come as unit * v, both
    for conv in (attention.pe, attention.proj):
        conv.neuron = nn.Sequential(GridActivation(None, unit), conv.neuron)


def _choose_grids(model: nn.Module) -> None:
    """Snap every convolution to the finest grid on which its sums, and those that it is added to, stay exact."""
    form = form_of(model)
    groups: list[set[str]] = [{name} for name in form.convs]
    lowest = min(neuron.scale for neuron in form.neurons.values())
    while True:
        form.inexact = {}
        coarser = False
        found = _potentials(model)
        for names, bound, _ in found.read:
            joined = [g for g in groups if g & names]
            group = set().union(*joined)
            if len(joined) > 1:  # what is added up shares a grid
                groups = [g for g in groups if g not in joined] + [group]
            # a grid is coarse in comparison with the codes of the neurons that read it
            readers = [scale for others, _, scale in found.read if scale and others & group]
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
    for activation, names in found.rounded.items():
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
    found = _Potentials([({n}, float(c.bounds().max()), 0.0) for n, c in form.convs.items()], {})

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
        found.read.append((arriving(potential), float(potential.detach().max()), neuron.scale))
        return torch.zeros_like(potential)

    def pass_on(activation: GridActivation, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        found.rounded[activation] = arriving(inputs[0])
        return inputs[0].float()  # no activation exceeds its input in magnitude

    hooks = [conv.register_forward_hook(give_bounds(name)) for name, conv in form.convs.items()]
    hooks += [neuron.register_forward_pre_hook(read) for neuron in form.neurons.values()]
    hooks += [m.register_forward_hook(pass_on) for m in model.modules() if isinstance(m, GridActivation)]
    try:
        with torch.enable_grad():
            for marker in markers.values():
                marker.requires_grad_(True)
            size = 2 * int(model.stride.max())
            model(torch.zeros(1, model.yaml.get("channels", 3), size, size, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return found
