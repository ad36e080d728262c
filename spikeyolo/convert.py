"""Networks from elsewhere: state dicts of the official SpikeYOLO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.neurons import NeuronConfig

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
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name


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
    tensors = {official_name(k): torch.as_tensor(v) for k, v in state_dict.items()}
    model = DetectionModel(cast(str, _model_yaml(tensors, T)), verbose=False)  # a dict or a path
    wanted = model.state_dict()
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
    model.load_state_dict(tensors)
    return model.float().eval()


def _model_yaml(tensors: Mapping[str, Tensor], T: int) -> dict[str, Any]:
    """Return the architecture with the channels, repeats and kernels of the tensors written out."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise ValueError(f"not the state dict of a SpikeYOLO: it lacks {name} (after translation of the names)")
        return tensors[name].shape

    d: dict[str, Any] = YAML.load(str(ARCHITECTURE))
    d.pop("scales")
    d["neuron"] = {**vars(NeuronConfig.preset("i-lif")), "T": T}
    for i, row in enumerate([*d["backbone"], *d["head"]]):
        name, args, layer = row[2], row[3], f"model.{i}"
        if name in {"SpikeDown", "SpikeConv"}:
            c2, _, k, _ = shape(f"{layer}.conv.weight")
            args[:2] = [c2, k]
        elif name == "SpikeSPPF":
            args[0] = shape(f"{layer}.cv2.conv.weight")[0]
        elif name in {"SpikeBlock", "SpikeRepBlock"}:
            numbers = [int(m[1]) for key in tensors if (m := re.match(rf"{re.escape(layer)}\.(\d+)\.separable\.", key))]
            row[1] = max(numbers, default=0) + 1
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
