"""Model YAML to modules: names, scales, channel arithmetic, and one clear error for each mistake."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn.modules.conv import Concat
from ultralytics.utils import LOGGER, YAML
from ultralytics.utils.ops import make_divisible

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.blocks import SpikeBlock, SpikeConv, SpikeDown, SpikeEncoder, SpikeRepBlock, SpikeSPPF
from spikeyolo.heads import SpikeDetect
from spikeyolo.insertion import insert_neurons
from spikeyolo.neurons import NeuronConfig
from spikeyolo.ranges import name_ranges

PREFIXES = {  # first part of a model's name: the neuron in the one architecture file
    "ibra": "ibra-lif",
    "lif": "lif",
    "ilif": "i-lif",
    "ib": "ib-lif",
    "arlif": "ar-lif",
    "relu": "relu",
    "silu": "silu",
}

WIDENING = (SpikeConv, SpikeDown, SpikeSPPF)  # first argument: output channels
KEEPING = (SpikeBlock, SpikeRepBlock)  # output channels = input channels
PASSIVE = (nn.Upsample, nn.MaxPool2d, nn.Identity)  # no weights: potentials pass through
BLOCKS = {block.__name__: block for block in (SpikeEncoder, *WIDENING, *KEEPING, SpikeDetect)}
MODULES = {**BLOCKS, "Concat": Concat, **{f"nn.{m.__name__}": m for m in PASSIVE}}


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
            if name["neuron"] not in PREFIXES:
                raise ValueError(f"{path}: unknown neuron {name['neuron']!r}; names begin with {', '.join(PREFIXES)}")
            d["neuron"] = NeuronConfig.preset(PREFIXES[name["neuron"]]).to_mapping()
    elif (base := re.fullmatch(r"(.+)-(\w+)", path.stem)) and path.with_name(base[1] + path.suffix).is_file():
        d, wanted = YAML.load(str(path.with_name(base[1] + path.suffix))), base[2]
    else:
        return None
    if not is_spiking_yaml(d):
        return None
    d["yaml_file"] = str(path)
    tail = path.stem.rsplit("-", 1)[-1]
    d["scale"] = wanted or d.get("scale") or (tail if tail in (d.get("scales") or {}) else "")
    d["scale"] = _scale(d)[0]
    return d


def is_spiking_yaml(d: object) -> bool:
    """Return whether a model dictionary is ours: it has ``neuron:`` or names one of our blocks."""
    return isinstance(d, Mapping) and ("neuron" in d or _has_our_rows(d))


def _has_our_rows(d: Mapping[str, Any]) -> bool:
    rows = [row for part in ("backbone", "head") for row in d.get(part) or []]
    return any(isinstance(row, list) and len(row) > 2 and row[2] in BLOCKS for row in rows)


def parse_stock_model(
    d: dict[str, Any], ch: int, verbose: bool, stock: Callable[..., tuple[nn.Sequential, list[int]]]
) -> tuple[nn.Sequential, list[int]]:
    """Build a network of Ultralytics' own blocks, with a neuron before each convolution but the first.

    Args:
        d: Model dictionary: that of a stock detector with ``neuron:``.
        ch: Input channels.
        verbose: Whether to log one line per layer.
        stock: Ultralytics' own function that builds the layers.

    Returns:
        What it returns.

    Raises:
        ValueError: For a neuron that does not fit, or a block of which no spiking form is known.
    """
    config = NeuronConfig.from_mapping(d["neuron"])
    if not config.spiking or config.T > 1 or config.activation:
        raise ValueError(f"stock blocks take a spiking neuron with T = 1 and without activation, got {config}")
    layers, save = stock(d, ch, verbose)
    insert_neurons(layers, config)
    config.set_ranges(layers)
    name_ranges(layers)
    if verbose:
        LOGGER.info(f"neuron before each convolution but the first: {config}")
    return layers, save


def parse_model(
    d: dict[str, Any], ch: int, verbose: bool = True, *, stock: Callable[..., Any] | None = None
) -> tuple[nn.Sequential, list[int]]:
    """Build the layers of a spiking model.

    Args:
        d: Model dictionary: nc, neuron, backbone, head; optional scales and scale, residual_gamma, reg_max, end2end.
        ch: Input channels.
        verbose: Whether to log one line per layer.
        stock: Ultralytics' own function, for a dictionary of its own blocks with ``neuron:``.

    Returns:
        Layers with Ultralytics' attributes i, f, type and np, and the sorted indices whose outputs are needed later.

    Raises:
        ValueError: Names the row or key, the value and the remedy.
    """
    if stock is not None and not _has_our_rows(d):
        return parse_stock_model(d, ch, verbose, stock)
    config = NeuronConfig.from_mapping(d.get("neuron"))
    nc = d.get("nc")
    if not isinstance(nc, int) or nc < 1:
        raise ValueError(f"nc must be a number of classes >= 1, got {nc!r}")
    gamma = d.get("residual_gamma", 0.0)
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
        raise ValueError(f"residual_gamma must be a number, got {gamma!r}; 0 starts residual branches as identity")
    scale, (depth, width, max_channels) = _scale(d)
    rows = [*(d.get("backbone") or []), *(d.get("head") or [])]
    if not rows or not isinstance(rows[-1], list) or len(rows[-1]) < 3 or rows[-1][2] != "SpikeDetect":
        raise ValueError("the last row of head: must be a SpikeDetect, e.g. [[19, 22, 25], 1, SpikeDetect, [nc]]")
    if config.T > 1 and (not isinstance(rows[0], list) or rows[0][2:3] != ["SpikeEncoder"]):
        raise ValueError(f"T={config.T} needs SpikeEncoder as the first row: [-1, 1, SpikeEncoder, []]")
    layers, channels, save = [], [], []
    if verbose:
        LOGGER.info(f"\n{'':>3}{'from':>20}{'n':>3}{'params':>10}  {'module':<45}{'arguments':<30}")

    for i, row in enumerate(rows):
        where = f"row {i} {row}"
        source, repeats, block, args = _read_row(i, row, where)
        args = [_argument(a, where, nc=nc, scale=scale) for a in args]
        sources = source if isinstance(source, list) else [source]
        c1 = [channels[f] if channels else ch for f in sources]
        c2 = c1[0]
        if block is SpikeEncoder:
            make = _bind(where, block, args, (), {"T": config.T})
        elif block in WIDENING:
            if not args or isinstance(args[0], bool) or not isinstance(args[0], int) or args[0] < 1:
                raise ValueError(f"{where}: the first argument of {block.__name__} is its number of output channels")
            c2 = make_divisible(min(args[0], max_channels) * width, 8)
            make = _bind(where, block, args[1:], (c1[0], c2), {"neuron": config})
        elif block in KEEPING:
            make = _bind(where, block, args, (c1[0],), {"neuron": config, "residual_gamma": float(gamma)})
        elif block is SpikeDetect:
            if args != [nc]:
                raise ValueError(f"{where}: SpikeDetect takes [nc]")
            head = {"reg_max": d.get("reg_max", 16), "end2end": bool(d.get("end2end")), "ch": c1, "T": config.T}
            make = _bind(where, block, args, (), {"neuron": config, **head})
        else:
            c2 = sum(c1)
            make = _bind(where, block, args, (), {})

        n = max(round(repeats * depth), 1) if repeats > 1 else 1
        layer = nn.Sequential(*(make() for _ in range(n))) if n > 1 else make()
        kind = f"{block.__module__}.{block.__qualname__}"
        size = sum(p.numel() for p in layer.parameters())
        for key, value in {"i": i, "f": source, "type": kind, "np": size}.items():
            setattr(layer, key, value)
        if verbose:
            LOGGER.info(f"{i:>3}{source!s:>20}{n:>3}{size:10.0f}  {kind:<45}{args!s:<30}")
        save.extend(f % i for f in sources if f != -1)
        layers.append(layer)
        channels.append(c2)
    network = nn.Sequential(*layers)
    config.set_ranges(network)
    name_ranges(network)
    if verbose:
        LOGGER.info(f"neuron: {config}")
    return network, sorted(set(save))


def _read_row(i: int, row: object, where: str) -> tuple[int | list[int], int, type[nn.Module], list[Any]]:
    """Return from, repeats, block and arguments of row i, checked."""
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[3], list):
        raise ValueError(f"{where}: a row is [from, repeats, module, [arguments]]")
    source, repeats, name, args = row
    if not isinstance(name, str) or name not in MODULES:
        raise ValueError(f"{where}: unknown block {name!r}; a spiking model is made of {', '.join(MODULES)}")
    block = MODULES[name]
    if block is SpikeEncoder and i > 0:
        raise ValueError(f"{where}: SpikeEncoder repeats the image T times and can only be the first row")
    for f in source if isinstance(source, list) else [source]:
        if isinstance(f, bool) or not isinstance(f, int) or not (f == -1 or -i <= f < i):
            raise ValueError(f"{where}: from index {f!r} is out of range; it must be -1 or a row before {i}")
    many = block in (Concat, SpikeDetect)
    if many != isinstance(source, list) or source == []:
        raise ValueError(f"{where}: {name} takes {'a list of layers' if many else 'one layer'} as from")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"{where}: repeats must be a whole number >= 1, got {repeats!r}")
    if repeats > 1 and block not in KEEPING:
        raise ValueError(f"{where}: only {' and '.join(b.__name__ for b in KEEPING)} can be repeated")
    return source, repeats, block, args


def _scale(d: Mapping[str, Any]) -> tuple[str, tuple[float, float, float]]:
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


def _argument(value: object, where: str, *, nc: int, scale: str) -> object:
    """Resolve one argument of a row: ``nc``, ``None`` and mappings by scale."""
    if isinstance(value, Mapping):
        if scale not in value:
            raise ValueError(f"{where}: argument {dict(value)} has no value for scale {scale!r}")
        value = value[scale]
    return {"nc": nc, "None": None}.get(value, value) if isinstance(value, str) else value


def _bind(
    where: str, block: type[nn.Module], args: list[Any], first: tuple[Any, ...], keywords: dict[str, Any]
) -> Callable[[], nn.Module]:
    """Return a constructor call whose number of arguments is checked."""
    try:
        inspect.signature(block).bind(*first, *args, **keywords)
    except TypeError as e:
        known = [
            p.name
            for p in list(inspect.signature(block).parameters.values())[len(first) :]
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in keywords
        ]
        raise ValueError(
            f"{where}: wrong arguments for {block.__name__} ({e}); they are [{', '.join(known)}]"
            f"{' after the output channels' if len(first) == 2 else ''}"
        ) from None

    def make() -> nn.Module:
        try:
            return block(*first, *args, **keywords)
        except (TypeError, ValueError, RuntimeError) as e:
            raise ValueError(f"{where}: {block.__name__} cannot be built: {e}") from e

    return make
