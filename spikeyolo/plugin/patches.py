"""What is exchanged in Ultralytics, by what, and what must still be as it was when this was written.

`register` is called by the start-up hook behind the import of each module below, and can be undone by `unregister`.
Each function passes everything that is not ours to the original.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from spikeyolo.assets import find_cfg
from spikeyolo.plugin.patching import anchor, check_version, is_imported, patched, replace, unregister

ANCHORS = {  # what is exchanged or relied upon: parameters that must be there, in order
    "ultralytics.utils.checks:check_file": ("file", "suffix", "download"),
    "ultralytics.cfg:check_dict_alignment": ("base", "custom", "e", "allowed_custom_keys"),
    "ultralytics.nn.tasks:yaml_model_load": ("path",),
    "ultralytics.nn.tasks:parse_model": ("d", "ch", "verbose"),
    "ultralytics.nn.tasks:torch_safe_load": ("weight",),
    "ultralytics.nn.tasks:BaseModel._predict_once": ("self", "x", "profile"),
    "ultralytics.nn.tasks:BaseModel.load": ("self", "weights", "verbose"),
    "ultralytics.nn.tasks:BaseModel.fuse": ("self",),
    "ultralytics.nn.modules.conv:Conv.forward_fuse": ("self", "x"),
    "ultralytics.nn.modules.conv:Conv2.fuse_convs": ("self",),
    "ultralytics.nn.modules.head:Detect.__init__": ("self", "nc", "reg_max", "end2end", "ch"),
    "ultralytics.nn.modules.head:Detect.forward_head": ("self", "x", "box_head", "cls_head"),
    "ultralytics.nn.distill_model:DistillationModel.get_distill_layers": ("model",),
    "ultralytics.engine.exporter:Exporter.export_onnx": ("args", "kwargs"),
}


def register(behind: str = "") -> None:
    """Patch the parts of Ultralytics that are imported; safe to call again.

    Args:
        behind: Module that has just been executed, though its import has not returned yet.

    Raises:
        RuntimeError: If the installed Ultralytics is outside the supported range or a patched function has moved;
            nothing is patched then.
    """
    check_version()
    for module, exchanged in PATCHES.items():
        if module not in patched and (module == behind or is_imported(module)):
            steps = patched[module] = []
            try:
                if module == "ultralytics.nn.tasks":
                    _check_anchors()
                for name, function in exchanged().items():
                    steps.append(replace(name, ANCHORS[name], function))
                if module == "ultralytics.nn.tasks":
                    steps += _add_callbacks()
            except BaseException:
                unregister()
                raise


def registered() -> bool:
    """Return whether models can be built by the plugin in this process."""
    return "ultralytics.nn.tasks" in patched


def _check_anchors() -> None:
    """Look at all anchors, those that are only relied upon included; at the exporter's when it is patched."""
    for name, parameters in ANCHORS.items():
        if not name.startswith("ultralytics.engine"):
            anchor(name, parameters)


def _add_callbacks() -> list[Callable[[], object]]:
    """Add our callbacks to the default ones; return what removes them."""
    from ultralytics.utils.callbacks import base

    from spikeyolo.plugin.callbacks import CALLBACKS

    for event, callback in CALLBACKS.items():
        base.default_callbacks[event].append(callback)
    return [functools.partial(base.default_callbacks[event].remove, f) for event, f in CALLBACKS.items()]


def check_file(original: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Take bare names of our YAML files (data sets, training recipes) as Ultralytics takes those of its own."""
    name = str(file).strip()
    shipped = None if os.path.exists(name) else find_cfg(name)  # noqa: PTH110 (no error in unreadable folders)
    return original(str(shipped or file), *args, **kwargs)


def check_dict_alignment(
    original: Callable[..., Any], base: Any, custom: Any, e: Any = None, allowed_custom_keys: Any = None
) -> Any:
    """Let ``yolo export`` and ``yolo train`` take the arguments that we add."""
    added: tuple[str, ...] = ()
    if custom.get("mode") == "export":
        from spikeyolo.graph.arguments import EXPORT_ARGUMENTS

        added = tuple(EXPORT_ARGUMENTS)
    elif custom.get("mode") == "train":
        added = ("checkpoint",)
    kept = {key: custom.pop(key) for key in added if key in custom}
    try:
        return original(base, custom, e, allowed_custom_keys)  # which renames keys in place
    finally:
        custom.update(kept)


def export_onnx(original: Callable[..., Any], exporter: Any, *args: Any, **kwargs: Any) -> Any:
    """Export the spike or integer graph of a spiking model."""
    from spikeyolo.graph.arguments import writes_graph
    from spikeyolo.graph.export import export_onnx

    stock = functools.partial(original, exporter, *args, **kwargs)
    return export_onnx(exporter, stock) if writes_graph(exporter) else stock()


def _of_tasks() -> dict[str, Callable[..., Any]]:
    """Import what is exchanged where models are built, when they are, by its anchors."""
    from spikeyolo.plugin import models

    tasks = "ultralytics.nn.tasks:"
    return {
        tasks + "yaml_model_load": models.yaml_model_load,
        tasks + "parse_model": models.parse_model,
        tasks + "torch_safe_load": models.torch_safe_load,
        tasks + "BaseModel._predict_once": models.predict_once,
        tasks + "BaseModel.load": models.load,
        "ultralytics.nn.distill_model:DistillationModel.get_distill_layers": models.get_distill_layers,
    }


PATCHES = {  # by the module that must be imported: what is exchanged, by its anchors
    "ultralytics.utils.checks": lambda: {"ultralytics.utils.checks:check_file": check_file},
    "ultralytics.cfg": lambda: {"ultralytics.cfg:check_dict_alignment": check_dict_alignment},
    "ultralytics.nn.tasks": _of_tasks,
    "ultralytics.engine.exporter": lambda: {"ultralytics.engine.exporter:Exporter.export_onnx": export_onnx},
}
