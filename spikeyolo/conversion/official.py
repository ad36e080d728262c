"""Checkpoints of the official SpikeYOLO: read without running anything from them, rebuilt with our blocks."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.files import sha256
from spikeyolo.network.checkpoints import free_file, known_arguments, save_checkpoint
from spikeyolo.network.names import neuron_named
from spikeyolo.network.parser import parse_model
from spikeyolo.network.sound import check_names, check_network
from spikeyolo.neurons import NeuronConfig
from spikeyolo.records import Record, modules, read_checkpoint, shown, state_dict

_NAMES = (  # official name, ours; applied in this order
    (r"\.encode_conv\.", r".conv."),
    (r"\.encode_bn\.", r".bn."),
    (r"\.Conv\.pwconv1\.", r".separable.expand.conv."),
    (r"\.Conv\.bn1\.", r".separable.expand.bn."),
    (r"\.Conv\.dwconv2\.", r".separable.depthwise.conv."),
    (r"\.Conv\.bn2\.", r".separable.depthwise.bn."),
    (r"\.Conv\.pwconv3\.body\.0\.", r".separable.project.conv.norm."),
    (r"\.Conv\.pwconv3\.body\.1\.0\.", r".separable.project.conv.pointwise."),
    (r"\.Conv\.pwconv3\.body\.1\.1\.", r".separable.project.conv.depthwise."),
    (r"\.Conv\.bn3\.", r".separable.project.bn."),
    (r"\.(conv[12])\.body\.0\.", r".\1.conv.mix."),
    (r"\.(conv[12])\.body\.1\.", r".\1.conv.norm."),
    (r"\.(conv[12])\.body\.2\.0\.", r".\1.conv.depthwise."),
    (r"\.(conv[12])\.body\.2\.1\.", r".\1.conv.pointwise."),
    (r"\.(conv[12])\.body\.2\.2\.", r".\1.conv.bn."),
    (r"^(model\.\d+(?:\.\d+)?)\.bn([12])\.", r"\1.conv\2.bn."),
    (r"\.(cv[23]\.\d)\.2\.conv\.", r".\1.3."),
)


def official_name(name: str) -> str:
    """Translate a parameter or buffer name of the official SpikeYOLO into ours."""
    for pattern, own in _NAMES:
        name = re.sub(pattern, own, name)
    return name


OFFICIAL = NeuronConfig.preset("i-lif")  # D = 4, decay 0.25
MAX_T = 64  # timesteps; published networks have at most 4


@dataclass(frozen=True)
class Imported:
    """What has been imported.

    Args:
        file: The checkpoint that was written.
        model: The network in it.
        trained: Neuron that it was trained with.
        neuron: Neuron that it has now.
    """

    file: Path
    model: Any
    trained: NeuronConfig
    neuron: NeuronConfig


def import_checkpoint(model: str | Path, *, neuron: str = "", project: str | Path = "", name: str = "") -> Imported:
    """Make a checkpoint of ours out of one that the official SpikeYOLO has written; nothing in it is executed.

    Args:
        model: The official checkpoint (.pt).
        neuron: First part of a model's name (ibra, potlif, ilif, lif, ib, relu, silu): the same weights with other
            neurons, to train on from there. The one that it was trained with by default, which gives the same outputs.
        project: Folder to write to; ``runs/import`` of Ultralytics by default.
        name: Name of the file to write, without suffix; that of the model by default. A number is added if it exists.

    Raises:
        OSError: If the file cannot be read, or nothing can be written.
        ValueError: If it is no checkpoint of a SpikeYOLO; names the file and what is wrong.
    """
    other = neuron_named(neuron, where="neuron=") if neuron else None
    file = Path(model)
    if not str(model) or not file.is_file():
        raise FileNotFoundError(f"model={model} does not exist; give an official SpikeYOLO checkpoint (.pt)")
    checkpoint = read_checkpoint(file)
    try:
        record = _find_network(checkpoint)
        network, trained = _rebuild(record, other)
        check_network(network)
        arguments = known_arguments(checkpoint)
    except (ValueError, TypeError) as e:
        raise ValueError(f"{file}: {e}") from e
    stem = name or f"{file.stem}{f'-{neuron}' if neuron else ''}"
    about = {"imported": {"file": file.name, "sha256": sha256(file), "trained_with": trained.to_mapping()}}
    target = free_file(stem, project=project, folder="import")
    save_checkpoint(network, target, train_args=arguments, about=about)
    return Imported(target, network, trained, NeuronConfig.from_mapping(network.yaml["neuron"]))


def _find_network(checkpoint: object) -> Record:
    """Return the network's record in what a trainer has written."""
    content = checkpoint if isinstance(checkpoint, dict) else {}
    network = next((content[key] for key in ("ema", "model") if isinstance(content.get(key), Record)), None)
    if network is None:
        raise ValueError("holds no network (an Ultralytics checkpoint has one under 'model' or 'ema')")
    if network.name != "DetectionModel":
        raise ValueError(f"holds a {network.name}, which is no detector of SpikeYOLO")
    classes = {(part.module, part.name) for part in modules(network).values()}
    if any(module.startswith("spikeyolo") for module, _ in classes):
        raise ValueError("was written by spikeyolo and needs no import; use it as it is")
    if not any(name == "MS_GetT" for _, name in classes):
        raise ValueError(
            "holds no block of SpikeYOLO; an Ultralytics model needs no import: yolo val model=..., or "
            "spikeyolo convert model=... for a spiking one"
        )
    return network


def _rebuild(network: Record, other: NeuronConfig | None) -> tuple[Any, NeuronConfig]:
    """Build and load our network of a recorded one, with other neurons if asked for.

    Returns:
        The network, and the neuron that it was trained with.
    """
    parts = modules(network)
    trained = _neuron_of(parts)
    config = trained
    if other is not None:
        config = replace(other, T=trained.T, decay=trained.decay) if other.spiking else other
        if not other.spiking and trained.T > 1:
            raise ValueError(f"was trained with T={trained.T} timesteps, an ANN has none; drop neuron={other.type}")
    rebuilt: Any = _from_tensors(state_dict(network), config)
    _compare_layers(parts, rebuilt)
    names, yaml = network.attributes.get("names"), network.attributes.get("yaml")
    names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names
    stated = yaml.get("nc") if isinstance(yaml, dict) else None
    nc = rebuilt.yaml["nc"]
    if not isinstance(names, dict) or len(names) != nc or stated not in (None, nc):
        count = len(names) if isinstance(names, dict) else "no"
        raise ValueError(
            f"contradicts itself: the head has {nc} classes, the YAML {shown(stated)}, and there are {count} names"
        )
    check_names(names)
    rebuilt.names = {i: names[i] for i in range(nc)}
    return rebuilt, trained


def _neuron_of(parts: Mapping[str, Record]) -> NeuronConfig:
    """Return the neuron of a recorded network: T from its encoder, D from the name of its neurons' class."""
    stated = [part.attributes.get("T") for part in parts.values() if part.name == "MS_GetT"]
    T = {steps for steps in stated if type(steps) is int}
    D = {int(match[1]) for part in parts.values() if (match := re.fullmatch(r"MultiSpike(\d{1,4})", part.name))}
    if len(T) != 1 or len(D) != 1 or not all(type(steps) is int for steps in stated):
        raise ValueError(f"has no common number of timesteps and levels: T in {shown(stated)}, D in {shown(D)}")
    steps = T.pop()
    if steps > MAX_T:
        raise ValueError(f"has T={steps} timesteps, more than {MAX_T} are refused")
    return replace(OFFICIAL, T=steps, numbers={**OFFICIAL.numbers, "D": D.pop()})


def _compare_layers(parts: Mapping[str, Record], rebuilt: DetectionModel) -> None:
    """Refuse a network whose layers compute something else, though their tensors fit."""
    keys = {"Conv2d": ("stride", "padding", "dilation", "groups"), "BatchNorm2d": ("eps",)}
    for path, part in parts.items():
        if part.name in keys:
            name = official_name(f"{path}.weight").removesuffix(".weight")
            try:
                layer = rebuilt.get_submodule(name)
            except AttributeError as e:
                raise ValueError(f"has a {part.name} at {path}, a SpikeYOLO has none there") from e
            for key in keys[part.name]:
                theirs, expected = part.attributes.get(key), getattr(layer, key, None)
                if theirs != expected:
                    raise ValueError(f"{path} has {key} {shown(theirs)}, a SpikeYOLO has {expected} there")


def from_official_state_dict(state_dict: Mapping[str, Tensor], *, T: int = 1) -> DetectionModel:
    """Build the network that an official SpikeYOLO state dict belongs to, and load it.

    Width, depth, kernel sizes and number of classes are read off the shapes. The neuron is the official one:
    I-LIF with D = 4 and decay 0.25.

    Args:
        state_dict: Tensors by official name (``model.1.encode_conv.weight``, ...).
        T: Timesteps that the network was trained with; no tensor tells.

    Returns:
        Detection model in eval mode, float32, with class names "0", "1", ...

    Raises:
        ValueError: If names or shapes are not those of a SpikeYOLO.
    """
    return _from_tensors(state_dict, replace(OFFICIAL, T=T))


def _from_tensors(state_dict: Mapping[str, Tensor], neuron: NeuronConfig) -> DetectionModel:
    tensors = {official_name(k): torch.as_tensor(v) for k, v in state_dict.items()}
    d = _model_yaml(tensors, neuron)
    try:
        with torch.device("meta"):  # shapes alone: nothing is allocated before they fit
            layers, _ = parse_model(copy.deepcopy(d), 3, verbose=False)
    except ValueError as e:
        raise ValueError(f"not the state dict of a SpikeYOLO: {e}") from e
    wanted = {f"model.{name}": value for name, value in layers.state_dict().items()}
    missing, foreign = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or foreign:
        lacks = f"lacks {len(missing)} tensors such as {missing[0]}" if missing else ""
        has = f"has {len(foreign)} unknown ones such as {foreign[0]}" if foreign else ""
        raise ValueError(f"not the state dict of a SpikeYOLO: it {' and '.join(filter(None, (lacks, has)))}")
    if wrong := [k for k, v in wanted.items() if v.shape != tensors[k].shape]:
        k = wrong[0]
        raise ValueError(
            f"not the state dict of a SpikeYOLO: {k} is {tuple(tensors[k].shape)}, "
            f"{tuple(wanted[k].shape)} would fit the other layers"
        )
    model = DetectionModel(cast(str, d), verbose=False)  # a dict or a path
    model.load_state_dict(tensors)
    return model.float().eval()


def _model_yaml(tensors: Mapping[str, Tensor], neuron: NeuronConfig) -> dict[str, Any]:
    """Return the architecture with the channels, repeats and kernels of the tensors written out."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise ValueError(f"not the state dict of a SpikeYOLO: it lacks {name} (after translation of the names)")
        return tensors[name].shape

    d: dict[str, Any] = YAML.load(str(ARCHITECTURE))
    d.pop("scales")
    d["neuron"] = neuron.to_mapping()
    for i, row in enumerate([*d["backbone"], *d["head"]]):
        name, args, layer = row[2], row[3], f"model.{i}"
        if name in {"SpikeDown", "SpikeConv"}:
            c2, _, k, _ = shape(f"{layer}.conv.weight")
            args[:2] = [c2, k]
        elif name == "SpikeSPPF":
            args[0] = shape(f"{layer}.cv2.conv.weight")[0]
        elif name in {"SpikeBlock", "SpikeRepBlock"}:
            numbers = [int(m[1]) for key in tensors if (m := re.match(rf"{re.escape(layer)}\.(\d+)\.separable\.", key))]
            row[1] = len(set(numbers)) or 1
            first = f"{layer}.0" if numbers else layer
            c = shape(f"{first}.separable.expand.conv.weight")[1]
            wide = shape(f"{first}.conv1.bn.weight")[0]
            if wide % c:
                raise ValueError(f"not the state dict of a SpikeYOLO: {first}.conv1 widens {c} channels to {wide}")
            args[:] = [wide // c, shape(f"{first}.separable.depthwise.conv.weight")[2]]
        elif name == "SpikeDetect":
            d["nc"] = shape(f"{layer}.cv3.0.3.weight")[0]
            d["reg_max"] = shape(f"{layer}.cv2.0.3.weight")[0] // 4
    d["yaml_file"] = "official-spikeyolo.yaml"
    return d
