"""SpikeYOLO with integer binary-range alignment neurons, as a plugin for stock Ultralytics."""

import importlib
from typing import Any

import _spikeyolo_hook
from spikeyolo.version import __version__

__all__ = ["__version__"]
_FUNCTIONS = {"deploy": "spikeyolo.deployment", "record_spikes": "spikeyolo.measure.recorder"}


def __getattr__(name: str) -> Any:
    """Import a public function or a part of the package on first access: ``import spikeyolo`` alone stays cheap."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    try:
        return importlib.import_module(f"spikeyolo.{name}")
    except ModuleNotFoundError as e:
        if e.name != f"spikeyolo.{name}":  # a package that it needs
            raise
    raise AttributeError(f"module 'spikeyolo' has no attribute {name!r}")


_spikeyolo_hook.arm()
