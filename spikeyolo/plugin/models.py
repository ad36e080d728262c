"""How Ultralytics builds, loads and runs spiking models: functions that `spikeyolo.plugin.patches` puts in its place.

Our own modules are imported when a function is called: an import of one of them may be what has brought us here.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spikeyolo.assets import find_weights

Original = Callable[..., Any]


def is_ours(model: object) -> bool:
    """Return whether an Ultralytics model was built from a YAML with ``neuron:``: spiking, or an ANN twin."""
    return "neuron" in (getattr(model, "yaml", None) or {})


def timesteps(model: object) -> int:
    """Return T of an Ultralytics model, 1 if it is not one of ours."""
    neuron = (getattr(model, "yaml", None) or {}).get("neuron")
    return neuron.get("T", 1) if isinstance(neuron, Mapping) else 1


def yaml_model_load(original: Original, path: Any) -> Any:
    """Load the YAML of a model; ours need no file of their name."""
    from spikeyolo.network import names

    return names.load_yaml(path) or original(path)


def parse_model(original: Original, d: Any, ch: Any, verbose: bool = True) -> Any:
    """Build the layers of a model."""
    from spikeyolo.network import names, parser

    if not names.is_our_yaml(d):
        return original(d, ch, verbose)
    return parser.parse_model(d, ch, verbose, stock=original)


def torch_safe_load(original: Original, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Load a checkpoint; shipped weights by name, older ones by their old addresses."""
    from spikeyolo.network.names import use_present_names

    allow_old_addresses()
    allow_safe_loading()
    path = find_weights(weight)
    try:
        content, file = original(path, *args, **kwargs)
        for key in ("model", "ema"):
            use_present_names(getattr(content.get(key), "yaml", None) or {})
        # what is made of shipped weights belongs beside their bare name
        return content, file if path == Path(weight) else str(weight)
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


def predict_once(original: Original, model: Any, x: Any, profile: bool = False, *args: Any, **kwargs: Any) -> Any:
    """Run a network; embeddings leave it before the head has averaged over T, so that is done here."""
    out = original(model, x, profile, *args, **kwargs)
    embed = kwargs.get("embed", args[-1] if args else None)  # the last argument in every release
    if embed and (T := timesteps(model)) > 1:
        import torch

        return torch.stack(out).unflatten(0, (T, -1)).mean(0).unbind(0)
    return out


def load(original: Original, model: Any, weights: Any, verbose: bool = True) -> Any:
    """Load weights into a network."""
    if is_ours(model):
        warn_of_foreign_weights(model, weights)
        check_for_ranges(weights)
    return original(model, weights, verbose)


def get_distill_layers(original: Original, model: Any) -> Any:
    """Refuse to distil from or to several timesteps."""
    if (T := timesteps(model)) > 1:
        raise ValueError(f"distillation compares features of single images, this model has T={T}; use T=1")
    return original(model)


def allow_old_addresses() -> None:
    """Let a pickle find our classes where they were when it was written."""
    from spikeyolo.network.addresses import MOVED, RENAMED

    for old, new in MOVED.items():
        sys.modules.setdefault(old, importlib.import_module(new))
    for door, names in RENAMED.items():
        for old, new in names.items():
            setattr(sys.modules[door], old, getattr(sys.modules[door], new))


def allow_safe_loading() -> None:
    """Name our classes to PyTorch's restricted loader, for ULTRALYTICS_SAFE_LOAD."""
    import torch

    from spikeyolo.network.addresses import known_classes

    # PyTorch before 2.6 takes no class by another address, and trips over it in each later restricted load.
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        own: list[Any] = [
            (cls, address) for address, cls in known_classes().items() if address.startswith("spikeyolo.")
        ]
        torch.serialization.add_safe_globals(own)


def warn_of_foreign_weights(model: Any, weights: Any) -> None:
    """Say so when weights of another network match only here and there."""
    from ultralytics.utils import LOGGER
    from ultralytics.utils.torch_utils import intersect_dicts

    source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
    own = model.state_dict()
    matched = len(intersect_dicts(source.state_dict(), own))
    if matched < len(own) / 2:
        name = Path(str(getattr(source, "pt_path", None) or "these weights")).name
        LOGGER.warning(
            f"{name} is another network: only {matched} of {len(own)} tensors fit by name and shape, "
            "so training starts nearly from scratch. Start from a spiking checkpoint of the same scale instead."
        )


def check_for_ranges(weights: Any) -> None:
    """Refuse a checkpoint of aligned neurons that has lost their ranges."""
    source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
    theirs = (getattr(source, "yaml", None) or {}).get("neuron") or {}
    if theirs.get("type") == "pot-lif" and not any(key.endswith("range.reach") for key in source.state_dict()):
        name = Path(str(getattr(source, "pt_path", None) or "this checkpoint")).name
        raise ValueError(f"{name} has pot-lif neurons but no ranges, so it cannot be trained on; train it again")
