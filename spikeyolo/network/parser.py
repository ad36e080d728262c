"""Model dictionaries to modules: channel arithmetic, and one clear error for each mistake."""

from collections.abc import Callable
from typing import Any

from torch import nn
from ultralytics.utils import LOGGER
from ultralytics.utils.ops import make_divisible

from spikeyolo.blocks import SpikeDetect, SpikeEncoder
from spikeyolo.network.insertion import insert_neurons
from spikeyolo.network.names import has_our_rows, scale_of
from spikeyolo.network.rows import KEEPING, WIDENING, bind, read_row, resolve_argument
from spikeyolo.neurons import NeuronConfig, name_ranges


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
    if stock is not None and not has_our_rows(d):
        return parse_stock_model(d, ch, verbose, stock)
    config = NeuronConfig.from_mapping(d.get("neuron"))
    nc = d.get("nc")
    if not isinstance(nc, int) or nc < 1:
        raise ValueError(f"nc must be a number of classes >= 1, got {nc!r}")
    gamma = d.get("residual_gamma", 0.0)
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
        raise ValueError(f"residual_gamma must be a number, got {gamma!r}; 0 starts residual branches as identity")
    scale, (depth, width, max_channels) = scale_of(d)
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
        source, repeats, block, args = read_row(i, row, where)
        args = [resolve_argument(a, where, nc=nc, scale=scale) for a in args]
        sources = source if isinstance(source, list) else [source]
        c1 = [channels[f] if channels else ch for f in sources]
        c2 = c1[0]
        if block is SpikeEncoder:
            make = bind(where, block, args, (), {"T": config.T})
        elif block in WIDENING:
            if not args or isinstance(args[0], bool) or not isinstance(args[0], int) or args[0] < 1:
                raise ValueError(f"{where}: the first argument of {block.__name__} is its number of output channels")
            c2 = make_divisible(min(args[0], max_channels) * width, 8)
            make = bind(where, block, args[1:], (c1[0], c2), {"neuron": config})
        elif block in KEEPING:
            make = bind(where, block, args, (c1[0],), {"neuron": config, "residual_gamma": float(gamma)})
        elif block is SpikeDetect:
            if args != [nc]:
                raise ValueError(f"{where}: SpikeDetect takes [nc]")
            head = {"reg_max": d.get("reg_max", 16), "end2end": bool(d.get("end2end")), "ch": c1, "T": config.T}
            make = bind(where, block, args, (), {"neuron": config, **head})
        else:
            c2 = sum(c1)
            make = bind(where, block, args, (), {})

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
