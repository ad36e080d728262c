"""What must hold of a network before it is run or shown, wherever it comes from; each refusal names the value."""

import contextlib
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

from spikeyolo.network.addresses import known_classes
from spikeyolo.network.rows import MODULES
from spikeyolo.neurons import IBRALIF, NeuronConfig, check_planes, neurons_of, ranges_of
from spikeyolo.neurons.integer import check_time
from spikeyolo.records import shown, told

MAX_IMGSZ = 8192  # pixels
MAX_NAME = 200  # characters of a class name
MAX_STRIDE = 256
MAX_CHANNELS = 16  # of images
PER_PIXEL = 2**14  # numbers that all layers together make of a pixel; yolo11x makes about a thousand
LARGEST = {  # numbers of layers, by attribute: what makes much of little before anything can be counted
    "out_channels": 2**15,
    "num_features": 2**15,
    "embed_dim": 2**15,
    "padding": 64,
    "output_padding": 64,
    "kernel_size": 255,
    "dilation": 64,
    "scale_factor": 16,
    "size": 1024,
    "T": 64,
    "n": 64,
}
NORM = ("weight", "bias", "running_mean", "running_var")
ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\([\w\s.,=+-]*\)")  # a class of torch.nn, called with plain numbers


def check_network(network: Any) -> None:
    """Refuse a network that cannot be run, or whose numbers or names mean nothing.

    Raises:
        ValueError: Names what is wrong, its value and the remedy.
    """
    try:
        check_names(network.names)
        check_yaml(network.yaml)
        _check_stride(network.stride)
        _check_sizes(network)
        _check_numbers(network)
        _check_neurons(network)
        if len(network.names) != (nc := _classes(network)):
            raise ValueError(f"has {len(network.names)} class names, but a head of {nc} classes; train it again")
        _try_out(network)
    except ValueError:
        raise
    except Exception as e:  # whatever attributes that are missing or of another kind make the checks trip over
        raise ValueError(f"is damaged ({type(e).__name__}: {told(e)}); copy or train it again") from e


def check_names(names: object) -> None:
    """Refuse class names that are none: they are shown in terminals, pages and pictures.

    Raises:
        ValueError: If they are no names by number, or one is empty, too long, or has control characters.
    """
    if not isinstance(names, Mapping) or not names or names.keys() != set(range(len(names))):
        raise ValueError(f"has the class names {shown(names)}, which are not numbered from 0; train it again")
    for index, name in names.items():
        if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
            raise ValueError(
                f"has {shown(name)} for the name of class {index}: a name is 1 to {MAX_NAME} characters that can be "
                "printed; name the classes anew in data= and train it again"
            )


def check_image_size(size: object, where: str) -> None:
    """Refuse an image size, or height and width, that no image has.

    Raises:
        ValueError: If it is none.
    """
    sides = size if isinstance(size, (list, tuple)) and len(size) in (1, 2) else [size]
    for side in sides:
        if type(side) is not int or not 1 <= side <= MAX_IMGSZ:
            raise ValueError(f"{where} is {shown(size)}: image sizes are 1 to {MAX_IMGSZ}; try imgsz=640")


def check_yaml(d: object) -> None:
    """Refuse a model dictionary of a checkpoint that names more than blocks: training evaluates it.

    Raises:
        ValueError: If it does.
    """
    if not isinstance(d, dict):
        raise ValueError("has no model dictionary (yaml); train it again")
    act = d.get("activation")
    if act is not None:
        match = ACTIVATION.fullmatch(act) if isinstance(act, str) else None
        cls = getattr(nn, match[1], None) if match else None
        if not isinstance(cls, type) or not issubclass(cls, nn.Module):
            raise ValueError(f"has activation: {shown(act)} in its YAML, which is no activation such as nn.SiLU()")
    if "neuron" in d:
        NeuronConfig.from_mapping(d["neuron"])
    known = {address.rpartition(".")[2] for address, cls in known_classes().items() if cls is not DetectionModel}
    known |= MODULES.keys()
    channels = d.get("channels", 3)
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"has images of {shown(channels)} channels in its YAML: 1 to {MAX_CHANNELS} are possible")
    for part in ("backbone", "head"):
        rows = d.get(part)
        if not isinstance(rows, list):
            raise ValueError(f"has {part}: {shown(rows)} in its YAML, which is no list of rows")
        for row in rows:
            name = row[2] if isinstance(row, list) and len(row) == 4 else None
            if not isinstance(name, str) or not {name, name.removeprefix("nn.")} & known:
                raise ValueError(f"has the row {shown(row)} in its YAML, which names no known block")


def _check_stride(stride: object) -> None:
    """Refuse strides that no pyramid has: image sizes are rounded up to them."""
    values: list[float] = stride.flatten().tolist() if isinstance(stride, Tensor) and stride.numel() <= 16 else []
    if not values or not all(1 <= value <= MAX_STRIDE for value in values):
        raise ValueError(f"has the strides {shown(values or stride)}: strides are 1 to {MAX_STRIDE}; train it again")


def _check_sizes(network: nn.Module) -> None:
    """Refuse numbers of layers with which a small file makes a network that no memory holds."""
    for path, module in network.named_modules():
        for key, largest in LARGEST.items():
            value = vars(module).get(key)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, (int, float)) and not 0 <= number <= largest:
                    raise ValueError(f"has {key} {shown(value)} in {path}: 0 to {largest} is possible; train it again")


def _check_convolution(path: str, conv: nn.Conv2d) -> None:
    """Refuse a convolution whose attributes say something else than its weights."""
    pairs = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    whole = all(isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int for n in pair) for pair in pairs)
    said = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size) if whole else ()
    if said != tuple(conv.weight.shape):
        raise ValueError(
            f"has weights of {tuple(conv.weight.shape)} in {path}, but attributes of others; train it again"
        )


def _check_numbers(network: nn.Module) -> None:
    """Refuse weights that are no numbers, and variances below zero."""
    for path, module in network.named_modules():
        own = {**module._parameters, **module._buffers}
        own |= {key: value for key, value in vars(module).items() if isinstance(value, Tensor)}
        for key, value in own.items():
            name = f"{path}.{key}".lstrip(".")
            if value is None or not value.is_floating_point():
                continue
            if not bool(torch.isfinite(value).all()):
                bad = float(value.detach()[~torch.isfinite(value)][0])
                raise ValueError(f"has {bad} among the numbers of {name}: its training diverged; train it again")
            if key == "running_var" and bool((value < 0).any()):
                raise ValueError(f"has the variance {float(value.min()):g} in {name}, below 0; train it again")
        if isinstance(module, nn.Conv2d):
            _check_convolution(path, module)
        if isinstance(module, nn.BatchNorm2d) and any(own.get(key) is None for key in NORM):
            raise ValueError(f"has a BatchNorm {path} that lacks one of {', '.join(NORM)}; train it again")
        eps = vars(module).get("eps", 0.0)
        if not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
            raise ValueError(f"has eps {shown(eps)} in {path}, which is no small number; train it again")


def _check_neurons(network: nn.Module) -> None:
    """Refuse neurons that no constructor would have made."""
    for path, neuron in neurons_of(network).items():
        try:
            check_time(neuron.T, neuron.decay)
            if "N" in vars(neuron):
                IBRALIF(neuron.D, neuron.N, T=neuron.T, decay=neuron.decay, rest=neuron.rest)
        except ValueError as e:
            raise ValueError(f"has a neuron {path} that is none: {e}") from e
    for found in ranges_of(network):
        check_planes(found.planes)
        if float(found.reach) < 0:
            raise ValueError(f"has the range {float(found.reach):g} of {shown(found.layer)}, below 0; train it again")


def _classes(network: Any) -> int:
    head = network.model[-1]
    if not isinstance(head, Detect):
        raise ValueError(f"ends in a {type(head).__name__}, which is no head of a detector; give a detection model")
    return head.nc


def _try_out(network: Any) -> None:
    """Run a network once on the smallest image, and refuse it if it cannot, or makes too much of it."""
    side = 2 * int(network.stride.max())
    image = torch.zeros(1, network.yaml.get("channels", 3), side, side)
    left = PER_PIXEL * side * side

    def count(module: nn.Module, inputs: object, outputs: object) -> None:
        nonlocal left
        left -= outputs.numel() if isinstance(outputs, Tensor) else 1
        if left < 0:
            raise ValueError(f"layers make more than {PER_PIXEL:,} numbers of each pixel")

    head = vars(network.model[-1])
    before = dict(head)
    with contextlib.ExitStack() as hooks, torch.no_grad():
        hooks.callback(head.update, before)
        hooks.callback(head.clear)  # called first: anchors of this size are forgotten
        for module in network.modules():
            hooks.enter_context(module.register_forward_hook(count))
        try:
            network(image.to(next(network.parameters())))
        except Exception as e:  # whatever layers that do not fit each other make torch raise
            raise ValueError(f"does not run on an image of {side} pixels ({told(e)}); train it again") from e
