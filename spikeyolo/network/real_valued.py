"""What of a spiking network is computed on real values."""

from typing import Any

from torch import nn
from ultralytics.nn.modules import block, conv

from spikeyolo.network.insertion import ACTIVATIONS
from spikeyolo.neurons import SiLU


def attention_of(network: nn.Module) -> dict[str, list[int]]:
    """Return heads, key and value channels per head of each attention, by the module's name."""
    return {
        name: [module.num_heads, module.key_dim, module.head_dim]
        for name, module in network.named_modules()
        if isinstance(module, block.Attention)
    }


def real_valued(network: Any) -> list[str]:
    """Name what of a spiking network is computed on real values: nothing else multiplies by anything but weights."""
    parts = [f"stem {name} (pixels)" for name, m in network.named_modules() if isinstance(m, conv.Conv)][:1]
    parts += [f"attention {name} (products of queries, keys and values)" for name in attention_of(network)]
    activations: dict[str, int] = {}
    for module in network.modules():
        act = module.act if isinstance(module, conv.Conv) else module if isinstance(module, SiLU) else None
        if isinstance(act, (*ACTIVATIONS, SiLU)):
            activations[type(act).__name__] = activations.get(type(act).__name__, 0) + 1
    parts += [f"{name} of potentials ({count} times)" for name, count in activations.items()]
    return [*parts, "decoder (softmax or distances of boxes, sigmoid of scores)"]
