"""Classes by the address that a checkpoint has for them: those that networks are made of, and no others."""

import functools

from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import block, conv, head, transformer

from spikeyolo import blocks, neurons

MOVED = {  # where classes of older checkpoints were, and are: the doors, which never move
    "spikeyolo.heads": "spikeyolo.blocks",
    "spikeyolo.ranges": "spikeyolo.neurons",
    "spikeyolo.fixed_point": "spikeyolo.deployment",
}
RENAMED = {"spikeyolo.neurons": {"ARLIF": "PoTLIF"}}  # classes by their door
FORMER = {  # of Ultralytics, as it renames them itself
    "ultralytics.nn.modules.block.Silence": nn.Identity,
    "ultralytics.nn.tasks.YOLOv10DetectionModel": tasks.DetectionModel,
}
LAYERS = (nn.Sequential, nn.ModuleList, nn.Identity, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding, nn.Dropout)
LAYERS += (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Upsample, nn.ZeroPad2d)
LAYERS += (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MultiheadAttention)
LAYERS += (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.Mish, nn.Hardswish, nn.Hardtanh)
LAYERS += (
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Tanh,
    nn.Softmax,
    nn.Softplus,
    nn.modules.linear.NonDynamicallyQuantizableLinear,
)


@functools.cache
def known_classes() -> dict[str, type[nn.Module]]:
    """Return the classes that a detector can be made of, by address: PyTorch's layers, Ultralytics' and our blocks."""
    found: dict[str, type[nn.Module]] = {_address(cls): cls for cls in (*LAYERS, tasks.DetectionModel)}
    for module in (conv, block, head, transformer):
        found |= {_address(cls): cls for cls in _modules_in(module) if cls.__module__ == module.__name__}
    del found[_address(block.TorchVision)]  # which downloads when it is built
    for door in (blocks, neurons):
        addresses = [door.__name__, *(old for old, new in MOVED.items() if new == door.__name__)]
        names = {cls.__name__: cls for cls in _modules_in(door)}
        names |= {old: names[new] for old, new in RENAMED.get(door.__name__, {}).items()}
        found |= {f"{address}.{name}": cls for address in addresses for name, cls in names.items()}
    return found | FORMER


def _address(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _modules_in(namespace: object) -> list[type[nn.Module]]:
    return [cls for cls in vars(namespace).values() if isinstance(cls, type) and issubclass(cls, nn.Module)]
