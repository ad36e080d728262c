"""Names of models: to a dictionary with neuron and scale filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER, YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.network.rows import BLOCKS
from spikeyolo.neurons import FORMER_TYPES, TYPES, NeuronConfig

PREFIXES = {kind.prefix: name for name, kind in TYPES.items()}  # first part of a model's name: the neuron
FORMER_PREFIXES = {"arlif": "potlif"}


def load_yaml(path: str | Path) -> dict[str, Any] | None:
    """Load a spiking model's YAML by name or path, with its scale filled in.

    Args:
        path: ``[NEURON-]spikeyolo[-SCALE].yaml``, which needs no file of that name, or a file with ``neuron:``. As in
            Ultralytics a file ``net.yaml`` with scales s and m also answers to ``net-s.yaml`` and ``net-m.yaml``.

    Returns:
        Model dictionary, or None if this is not one of ours.

    Raises:
        ValueError: If the name asks for a neuron or scale that does not exist.
    """
    path = Path(path)
    name = re.fullmatch(r"(?:(?P<neuron>\w+)-)?spikeyolo(?:-(?P<scale>\w+))?", path.stem)
    if path.is_file():
        d, wanted = YAML.load(str(path)), ""
    elif name and path.suffix in {".yaml", ".yml"} and path.name == str(path):
        d, wanted = YAML.load(str(ARCHITECTURE)), name["scale"] or ""
        if name["neuron"]:
            d["neuron"] = neuron_named(name["neuron"], where=str(path)).to_mapping()
    elif (base := re.fullmatch(r"(.+)-(\w+)", path.stem)) and path.with_name(base[1] + path.suffix).is_file():
        d, wanted = YAML.load(str(path.with_name(base[1] + path.suffix))), base[2]
    else:
        return None
    if not is_our_yaml(d):
        return None
    use_present_names(d)
    d["yaml_file"] = str(path)
    tail = path.stem.rsplit("-", 1)[-1]
    d["scale"] = wanted or d.get("scale") or (tail if tail in (d.get("scales") or {}) else "")
    d["scale"] = scale_of(d)[0]
    return d


def neuron_named(prefix: str, *, where: str) -> NeuronConfig:
    """Return the usual neuron of models whose name begins so.

    Args:
        prefix: First part of a model's name.
        where: What says it, for the error.

    Raises:
        ValueError: If there is none.
    """
    if present := FORMER_PREFIXES.get(prefix):
        LOGGER.info(f"{where}: {prefix} is called {present} now (docs/neuron.md)")
        prefix = present
    if prefix not in PREFIXES:
        raise ValueError(f"{where}: unknown neuron {prefix!r}; it is one of {', '.join(PREFIXES)}")
    return NeuronConfig.preset(PREFIXES[prefix])


def use_present_names(d: Mapping[str, Any]) -> None:
    """Let a model dictionary that calls its neuron by a former name use the present one, in place, and say so."""
    neuron = d.get("neuron")
    former = str(neuron.get("type")) if isinstance(neuron, dict) else ""
    if isinstance(neuron, dict) and former in FORMER_TYPES:
        LOGGER.info(f"neuron type {former} is called {FORMER_TYPES[former]} now (docs/neuron.md)")
        neuron["type"] = FORMER_TYPES[former]


def is_our_yaml(d: object) -> bool:
    """Return whether a model dictionary is ours: it has ``neuron:`` or names one of our blocks."""
    return isinstance(d, Mapping) and ("neuron" in d or has_our_rows(d))


def has_our_rows(d: Mapping[str, Any]) -> bool:
    rows = [row for part in ("backbone", "head") for row in d.get(part) or []]
    return any(isinstance(row, list) and len(row) > 2 and row[2] in BLOCKS for row in rows)


def scale_of(d: Mapping[str, Any]) -> tuple[str, tuple[float, float, float]]:
    """Return the scale's name ("" without scales; else n or the first by default), depth, width, largest channels."""
    scales, scale = d.get("scales") or {}, d.get("scale") or ""
    numbers = (d.get("depth_multiple", 1.0), d.get("width_multiple", 1.0), float("inf"))
    if scales or scale:
        scale = scale or ("n" if "n" in scales else next(iter(scales)))
        if scale not in scales:
            known = f"scales are {', '.join(scales)}" if scales else "the model has no scales:"
            raise ValueError(f"{d.get('yaml_file', 'model')}: scale {scale!r} does not exist; {known}")
        numbers = scales[scale]
    try:
        depth, width, largest = (float(x) for x in numbers)
    except (TypeError, ValueError):
        raise ValueError(f"scale {scale!r} must be [depth, width, max_channels], got {numbers!r}") from None
    return scale, (depth, width, largest)
