"""Everything that changes Ultralytics, in one place: what is patched, why, and whether it still fits.

`register` is called by the start-up hook behind the import of ``ultralytics.cfg`` and of ``ultralytics.nn.tasks``, and
can be undone by `unregister`. Each patched function passes everything that is not ours to the original.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import _spikeyolo_hook as hook
from _spikeyolo_hook import DISABLE
from spikeyolo.assets import find_cfg, find_weights
from spikeyolo.callbacks import CALLBACKS, is_spiking, timesteps

TESTED = ("8.4.120", "8.4.190")  # first and last release that the test suite has run with
BELOW = "8.5"
ANCHORS = {  # what is patched or relied upon: parameters that must be there, in order
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
    "ultralytics.engine.exporter:Exporter.get_int8_calibration_dataloader": ("self", "prefix"),
}
EXPORT_ARGUMENTS = ("graph", "trim", "planes")  # what yolo export takes in addition
TRAIN_ARGUMENTS = ("checkpoint",)  # and yolo train

_undo: dict[str, list[Callable[[], object]]] = {}  # by patched module


def register(behind: str = "") -> None:
    """Patch the parts of Ultralytics that are imported; safe to call again.

    Args:
        behind: Module that has just been executed, though its import has not returned yet.

    Raises:
        RuntimeError: If the installed Ultralytics is outside the supported range or a patched function has moved;
            nothing is patched then.
    """
    check_version()
    for module, patch in PATCHES.items():
        if module not in _undo and (module == behind or _is_imported(module)):
            _undo[module] = []
            try:
                patch(_undo[module])
            except BaseException:
                unregister()
                raise


def _is_imported(module: str) -> bool:
    """Return whether a module is imported to its end."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def unregister() -> None:
    """Restore Ultralytics as it was."""
    while _undo:
        for step in reversed(_undo.popitem()[1]):
            step()


def registered() -> bool:
    """Return whether models can be built by the plugin in this process."""
    return "ultralytics.nn.tasks" in _undo


def check() -> None:
    """Raise RuntimeError, with the remedy, if the plugin is switched off or does not fit the installed Ultralytics."""
    if hook.disabled():
        raise RuntimeError(f"{DISABLE} is set, so Ultralytics knows no spiking model; remedy: unset {DISABLE}")
    check_version()
    if hook.failure is not None:
        raise RuntimeError(hook.failure)


def check_version() -> str:
    """Return the version of Ultralytics, or raise RuntimeError if it is too old or too new."""
    import ultralytics
    from ultralytics.utils.checks import parse_version

    version = ultralytics.__version__
    if parse_version(version) < parse_version(TESTED[0]):
        problem = "too old"
    elif parse_version(version) >= parse_version(BELOW):
        problem = "too new"
    else:
        return version
    raise RuntimeError(f"ultralytics {version} is {problem}: {_tested()}")


def _tested() -> str:
    return f"tested with {TESTED[0]} to {TESTED[1]}; remedy: pip install 'ultralytics>={TESTED[0]},<{BELOW}'"


def _anchor(name: str) -> tuple[object, str, Any]:
    """Return owner, attribute name and value of an anchor whose signature has been checked."""
    module, path = name.split(":")
    *parents, attribute = path.split(".")
    try:
        owner = functools.reduce(getattr, parents, __import__(module, fromlist=["_"]))
        value = getattr(owner, attribute)
        found = tuple(inspect.signature(value).parameters)
    except (ImportError, AttributeError):
        found = None
    wanted = ANCHORS[name]
    if found is None or found[: len(wanted)] != wanted:
        import ultralytics

        now = "is gone" if found is None else f"takes ({', '.join(found)})"
        raise RuntimeError(f"{name} of ultralytics {ultralytics.__version__} {now}: {_tested()}")
    return owner, attribute, value


def _replace(undo: list[Callable[[], object]], name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace a function or method, also where other Ultralytics modules have imported it by name."""
    owner, attribute, original = _anchor(name)
    replacement = functools.wraps(original)(wrap(original))
    if isinstance(owner, ModuleType):
        _rebind(original, replacement)
        undo.append(functools.partial(_rebind, replacement, original))
    else:
        static = isinstance(vars(owner).get(attribute), staticmethod)
        setattr(owner, attribute, staticmethod(replacement) if static else replacement)
        undo.append(functools.partial(setattr, owner, attribute, staticmethod(original) if static else original))


def _rebind(old: object, new: object) -> None:
    """Exchange a function wherever a module of Ultralytics holds it."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ultralytics":
            for key in [key for key, value in vars(module).items() if value is old]:
                setattr(module, key, new)


def _patch_files(undo: list[Callable[[], object]]) -> None:
    """Bare names of our YAML files (data sets, training recipes) work as those of Ultralytics do."""

    def wrap(check_file):
        def patched(file, *args, **kwargs):
            name = str(file).strip()
            return check_file(str((not os.path.exists(name) and find_cfg(name)) or file), *args, **kwargs)  # noqa: PTH110 (no error in unreadable folders)

        return patched

    _replace(undo, "ultralytics.utils.checks:check_file", wrap)


def _patch_models(undo: list[Callable[[], object]]) -> None:
    """Build, load and run spiking models."""
    import torch
    from ultralytics.utils.callbacks import base

    # Our own modules are imported when they are called: an import of one of them may be what has brought us here.
    for name in ANCHORS:
        if not name.startswith("ultralytics.engine"):  # imported when it is needed
            _anchor(name)

    def yaml_model_load(original):
        def patched(path):
            from spikeyolo import parser

            return parser.load_yaml(path) or original(path)

        return patched

    def parse_model(original):
        def patched(d, ch, verbose=True):
            from spikeyolo import parser

            if not parser.is_spiking_yaml(d):
                return original(d, ch, verbose)
            return parser.parse_model(d, ch, verbose, stock=original)

        return patched

    def torch_safe_load(original):
        def patched(weight, *args, **kwargs):
            _allow_safe_loading()
            try:
                if (shipped := find_weights(weight)) != Path(weight):
                    return original(shipped, *args, **kwargs)[0], str(weight)  # what is made of it belongs elsewhere
                return original(weight, *args, **kwargs)
            except ModuleNotFoundError as e:
                if "yolo_spikformer" not in str(e):
                    raise
                raise TypeError(
                    f"{weight} was written by the official SpikeYOLO; make a checkpoint of ours out of it first: "
                    f"spikeyolo import model={weight}"
                ) from e
            except (OSError, AttributeError) as e:
                # Of some truncated files torch only says "Invalid argument"; Ultralytics trips over a pickled list.
                if e.filename is not None if isinstance(e, OSError) else e.name != "model":
                    raise
                raise TypeError(
                    f"{weight} is not a loadable checkpoint: truncated, corrupted or of another program ({e}); "
                    "copy or train it again"
                ) from e

        return patched

    def predict_once(original):
        def patched(self, x, profile=False, *args, **kwargs):
            out = original(self, x, profile, *args, **kwargs)
            embed = kwargs.get("embed", args[-1] if args else None)  # the last argument in every release
            if embed and (T := timesteps(self)) > 1:
                # Embeddings leave the network before the head has averaged over T.
                return torch.stack(out).unflatten(0, (T, -1)).mean(0).unbind(0)
            return out

        return patched

    def load(original):
        def patched(self, weights, verbose=True):
            if is_spiking(self):
                _warn_of_foreign_weights(self, weights)
                _check_for_ranges(weights)
            return original(self, weights, verbose)

        return patched

    def get_distill_layers(original):
        def patched(model):
            if (T := timesteps(model)) > 1:
                raise ValueError(f"distillation compares features of single images, this model has T={T}; use T=1")
            return original(model)

        return patched

    tasks = "ultralytics.nn.tasks:"
    _replace(undo, tasks + "yaml_model_load", yaml_model_load)
    _replace(undo, tasks + "parse_model", parse_model)
    _replace(undo, tasks + "torch_safe_load", torch_safe_load)
    _replace(undo, tasks + "BaseModel._predict_once", predict_once)
    _replace(undo, tasks + "BaseModel.load", load)
    _replace(undo, "ultralytics.nn.distill_model:DistillationModel.get_distill_layers", get_distill_layers)

    for event, callback in CALLBACKS.items():
        base.default_callbacks[event].append(callback)
        undo.append(functools.partial(base.default_callbacks[event].remove, callback))


def _patch_arguments(undo: list[Callable[[], object]]) -> None:
    """``yolo export`` and ``yolo train`` take the arguments that we add."""

    def wrap(check_dict_alignment):
        def patched(base, custom, e=None, allowed_custom_keys=None):
            added = {"export": EXPORT_ARGUMENTS, "train": TRAIN_ARGUMENTS}.get(custom.get("mode"), ())
            ours = {key: custom.pop(key) for key in added if key in custom}
            try:
                return check_dict_alignment(base, custom, e, allowed_custom_keys)  # which renames keys in place
            finally:
                custom.update(ours)

        return patched

    _replace(undo, "ultralytics.cfg:check_dict_alignment", wrap)


def _patch_exporter(undo: list[Callable[[], object]]) -> None:
    """Export the spike or integer graph of a spiking model to ONNX."""

    def export_onnx(original):
        def patched(self, *args, **kwargs):
            from spikeyolo import export

            stock = functools.partial(original, self, *args, **kwargs)
            return export.export_onnx(self, stock) if export.is_ours(self) else stock()

        return patched

    _anchor("ultralytics.engine.exporter:Exporter.get_int8_calibration_dataloader")
    _replace(undo, "ultralytics.engine.exporter:Exporter.export_onnx", export_onnx)


PATCHES = {
    "ultralytics.utils.checks": _patch_files,
    "ultralytics.cfg": _patch_arguments,
    "ultralytics.nn.tasks": _patch_models,
    "ultralytics.engine.exporter": _patch_exporter,
}


def _allow_safe_loading() -> None:
    """Name our classes to PyTorch's restricted loader, for ULTRALYTICS_SAFE_LOAD."""
    import torch

    from spikeyolo import blocks, heads, neurons, ranges

    classes: list[Any] = [
        value
        for module in (blocks, heads, neurons, ranges)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == module.__name__
    ]
    torch.serialization.add_safe_globals(classes)


def _warn_of_foreign_weights(model: Any, weights: Any) -> None:
    """Say so when weights of another network match only here and there."""
    from ultralytics.utils import LOGGER
    from ultralytics.utils.torch_utils import intersect_dicts

    source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
    ours = model.state_dict()
    matched = len(intersect_dicts(source.state_dict(), ours))
    if matched < len(ours) / 2:
        name = Path(str(getattr(source, "pt_path", None) or "these weights")).name
        LOGGER.warning(
            f"{name} is another network: only {matched} of {len(ours)} tensors fit by name and shape, "
            "so training starts nearly from scratch. Start from a spiking checkpoint of the same scale instead."
        )


def _check_for_ranges(weights: Any) -> None:
    """Refuse a checkpoint of aligned neurons that has lost their ranges."""
    source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
    theirs = (getattr(source, "yaml", None) or {}).get("neuron") or {}
    if theirs.get("type") == "ar-lif" and not any(key.endswith("range.reach") for key in source.state_dict()):
        name = Path(str(getattr(source, "pt_path", None) or "this checkpoint")).name
        raise ValueError(f"{name} has ar-lif neurons but no ranges, so it cannot be trained on; train it again")
