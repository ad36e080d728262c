"""SpikeYOLO with integer binary-range alignment neurons, as a plugin for stock Ultralytics."""

import importlib

import _spikeyolo_hook

__version__ = "0.1.0"
_MODULES = (
    "blocks",
    "coding",
    "convert",
    "data",
    "deployment",
    "export",
    "fixed_point",
    "heads",
    "intervals",
    "neurons",
    "parser",
    "plugin",
    "spike_graph",
    "verify",
)


def __getattr__(name: str):
    """Import a public module or function on first access: ``import spikeyolo`` alone stays cheap."""
    if name == "deploy":
        from spikeyolo.deployment import deploy

        return deploy
    if name in _MODULES:
        return importlib.import_module(f"spikeyolo.{name}")
    raise AttributeError(f"module 'spikeyolo' has no attribute {name!r}")


_spikeyolo_hook.arm()
