"""SpikeYOLO with integer binary-range alignment neurons, as a plugin for stock Ultralytics."""

import importlib
from typing import Any

import _spikeyolo_hook

_ADDRESSES = {
    "__version__": "spikeyolo.version",
    "deploy": "spikeyolo.deployment",
    "record_spikes": "spikeyolo.measure.recorder",
}


def __getattr__(name: str) -> Any:
    """Import what is public, or a part of the package, on first access: ``import spikeyolo`` alone stays cheap."""
    if name in _ADDRESSES:
        return getattr(importlib.import_module(_ADDRESSES[name]), name)
    try:
        return importlib.import_module(f"spikeyolo.{name}")
    except ModuleNotFoundError as e:
        if e.name != f"spikeyolo.{name}":  # a package that it needs
            raise
    raise AttributeError(f"module 'spikeyolo' has no attribute {name!r}")


_spikeyolo_hook.arm()
