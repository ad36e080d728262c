"""What a row of a model YAML may say."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from ultralytics.nn.modules.conv import Concat

from spikeyolo.blocks import SpikeBlock, SpikeConv, SpikeDetect, SpikeDown, SpikeEncoder, SpikeRepBlock, SpikeSPPF

WIDENING = (SpikeConv, SpikeDown, SpikeSPPF)  # first argument: output channels
KEEPING = (SpikeBlock, SpikeRepBlock)  # output channels = input channels
PASSIVE = (nn.Upsample, nn.MaxPool2d, nn.Identity)  # no weights: potentials pass through
BLOCKS = {block.__name__: block for block in (SpikeEncoder, *WIDENING, *KEEPING, SpikeDetect)}
MODULES = {**BLOCKS, "Concat": Concat, **{f"nn.{m.__name__}": m for m in PASSIVE}}


def read_row(i: int, row: object, where: str) -> tuple[int | list[int], int, type[nn.Module], list[Any]]:
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


def resolve_argument(value: object, where: str, *, nc: int, scale: str) -> object:
    """Resolve one argument of a row: ``nc``, ``None`` and mappings by scale."""
    if isinstance(value, Mapping):
        if scale not in value:
            raise ValueError(f"{where}: argument {dict(value)} has no value for scale {scale!r}")
        value = value[scale]
    return {"nc": nc, "None": None}.get(value, value) if isinstance(value, str) else value


def bind(
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
