"""SpikeYOLO with integer binary-range alignment neurons, as a plugin for stock Ultralytics."""

import importlib

import _spikeyolo_hook

__version__ = "0.1.0"
_MODULES = (
    "annotations",
    "bits_table",
    "blocks",
    "calibration",
    "callbacks",
    "checkpoints",
    "coding",
    "convert",
    "counting",
    "data",
    "deployment",
    "energy",
    "equations",
    "evaluate",
    "export",
    "files",
    "fixed_point",
    "heads",
    "images",
    "insertion",
    "intervals",
    "kernels",
    "neurons",
    "official",
    "onnx_files",
    "panel",
    "parser",
    "pictures",
    "plugin",
    "processor",
    "ranges",
    "recorder",
    "records",
    "render",
    "report",
    "sources",
    "spike_graph",
    "spikes",
    "verify",
    "video",
)
_FUNCTIONS = {"deploy": "deployment", "record_spikes": "recorder"}


def __getattr__(name: str):
    """Import a public module or function on first access: ``import spikeyolo`` alone stays cheap."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"spikeyolo.{_FUNCTIONS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"spikeyolo.{name}")
    raise AttributeError(f"module 'spikeyolo' has no attribute {name!r}")


_spikeyolo_hook.arm()
