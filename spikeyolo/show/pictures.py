"""Pictures of a report, drawn from its numbers; file names begin with the number of the model."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from spikeyolo.data.images import Batch
from spikeyolo.measure.counting import CountedModel
from spikeyolo.measure.energy import SCHEMES
from spikeyolo.neurons import to_planes

COLOURS = {"real": "#8a94a3", "synapses": "#2a6fbb", "merge": "#7fb2e5", "neurons": "#e08e2b", "memory": "#b8452f"}
BINS = 64  # of a histogram over the theoretical range
ROW = 0.155  # inches of a layer in a figure

Model = dict[str, Any]


def draw(folder: Path, result: dict[str, Any], models: list[CountedModel], images: list[Batch]) -> dict[str, str]:
    """Draw all pictures of a report.

    Args:
        folder: Where to write PNG files.
        result: Content of report.json.
        models: The models that it is about.
        images: One image (1, 3, H, W) of each model's size.

    Returns:
        Caption of each file.
    """
    drawn: dict[str, str] = {}
    for i, (numbers, model, image) in enumerate(zip(result["models"], models, images, strict=True), start=1):
        if not model.spiking:
            continue
        layers = [layer for layer in numbers["layers"] if layer["operand"] != "real"]
        pictures = {
            "codes": _codes(numbers["label"], layers),
            "planes": _planes(numbers["label"], layers),
            "energy": _energy(numbers),
            "entropy": _entropy(numbers["label"], layers),
            "spikes": _spikes(model, image),
        }
        for name, (figure, caption) in pictures.items():
            drawn[f"{i}-{name}.png"] = caption
            _save(figure, folder / f"{i}-{name}.png")
    if len(result["models"]) > 1:
        for name, (figure, caption) in {"codes": _all_codes(result), "energy": _all_energies(result)}.items():
            drawn[f"models-{name}.png"] = caption
            _save(figure, folder / f"models-{name}.png")
    return drawn


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=110)


def _histogram(layer: Model) -> NDArray[np.int64]:
    """Return how often each code 0 to D_N was emitted in a layer."""
    total = np.zeros(layer["D_N"] + 1, np.int64)
    for row in layer["counts"].values():
        total[: len(row)] += row
    return total


def _unaligned(layer: Model) -> NDArray[np.int64]:
    """Return the codes that the same potentials would give without range alignment, N = 1: round(k / N)."""
    histogram = _histogram(layer)
    codes = np.round(np.arange(len(histogram)) / layer["N"]).astype(int)
    return np.bincount(codes, histogram, minlength=len(histogram)).astype(np.int64)


def _binned(histogram: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return shares over the theoretical range, in `BINS` bins or one bin for each code."""
    edges = np.linspace(0, len(histogram), min(BINS, len(histogram)) + 1).astype(int)[:-1]
    return np.add.reduceat(histogram, edges) / histogram.sum()


def _rows(axes: Any, layers: list[Model], *, named: bool = True) -> None:
    """Make a row for each layer, the first on top."""
    names = [layer["name"].removeprefix("model.").removesuffix(".conv") for layer in layers] if named else []
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelsize=6, length=0)
    axes.set_ylim(len(layers) - 0.5, -0.5)


def _codes(label: str, layers: list[Model]) -> tuple[Figure, str]:
    """Draw the codes of each layer against the theoretical range, before and after range alignment."""
    aligned = all(layer["N"] > 1 for layer in layers)
    columns = [("codes as emitted", _histogram)]
    if aligned:
        columns.insert(0, ("same potentials without range alignment (IB-LIF: N = 1)", _unaligned))
    figure = Figure(figsize=(2 + 4.6 * len(columns), 1.2 + ROW * len(layers)), layout="constrained")
    for i, (axes, (title, histogram)) in enumerate(
        zip(np.atleast_1d(figure.subplots(1, len(columns))), columns, strict=True)
    ):
        shares = [_binned(histogram(layer)) for layer in layers]
        used = [np.flatnonzero(histogram(layer)).max(initial=0) / layer["D_N"] for layer in layers]
        table = np.stack([share[np.arange(BINS) * len(share) // BINS] for share in shares])
        extent = (0, 1, len(layers) - 0.5, -0.5)
        drawn = axes.imshow(
            table, extent=extent, aspect="auto", cmap="viridis", norm=LogNorm(1e-6, 1), interpolation="nearest"
        )
        axes.plot(used, range(len(layers)), "r|", markersize=7, markeredgewidth=1.6, label="largest code seen")
        axes.set_xlim(0, 1.01)
        _rows(axes, layers, named=i == 0)
        axes.set_facecolor("#eceff3")
        axes.set_title(f"{title}\nmean use of the range: {np.mean(used):.0%}", fontsize=9)
        axes.set_xlabel("code / D_N, theoretical range 0 to 1", fontsize=8)
        figure.colorbar(drawn, ax=axes, shrink=min(1, 25 / len(layers)), label="share of codes")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower right")
    figure.suptitle(f"{label}: codes against the theoretical range [0, D_N]", fontsize=10)
    caption = "Codes of each layer against the theoretical range; grey: never used."
    if aligned:
        caption += (
            " Left: what a neuron without range alignment (N = 1) would emit on the same potentials, round(k / N)."
        )
    return figure, caption


def _planes(label: str, layers: list[Model]) -> tuple[Figure, str]:
    """Draw the spike rate of each plane in each layer."""
    planes = max(layer["planes"] for layer in layers)
    rates = np.full((len(layers), planes), np.nan)
    for row, layer in zip(rates, layers, strict=True):
        row[: layer["planes"]] = layer["plane_rates"]
    figure = Figure(figsize=(3.4 + 0.45 * planes, 1.2 + ROW * len(layers)), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(rates, aspect="auto", cmap="magma", vmin=0, interpolation="nearest")
    axes.set_xticks(range(planes), [f"{b}\n{1 << b}" for b in range(planes)], fontsize=7)
    axes.set_xlabel("plane b, and what a spike in it stands for", fontsize=8)
    _rows(axes, layers)
    axes.set_title(f"{label}: spike rate per plane", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=min(1, 25 / len(layers)), label="spikes per code")
    return figure, "Spike rate of each binary plane in each layer: the share of codes with that bit set."


def _energy(numbers: Model) -> tuple[Figure, str]:
    """Draw the energy of each layer under each preset."""
    layers, presets = numbers["layers"], list(numbers["energy_pj"])
    figure = Figure(figsize=(3 + 3.2 * len(presets), 1.2 + ROW * len(layers)), layout="constrained")
    for i, (axes, preset) in enumerate(zip(np.atleast_1d(figure.subplots(1, len(presets))), presets, strict=True)):
        left = np.zeros(len(layers))
        for part, colour in COLOURS.items():
            width = np.array([layer["energy_pj"][preset][part] for layer in layers]) / 1e6
            axes.barh(range(len(layers)), width, left=left, color=colour, label=part, height=0.8)
            left += width
        _rows(axes, layers, named=i == 0)
        axes.set_xlim(0, 1.05 * left.max())
        axes.set_xlabel("µJ per image", fontsize=8)
        axes.set_title(f"{preset}\n{left.sum():,.4g} µJ", fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=len(COLOURS)
    )
    figure.suptitle(f"{numbers['label']}: energy by layer on binary spikes (modelled, not measured)", fontsize=10)
    return figure, "Energy by layer and by what it is spent on (modelled, not measured)."


def _entropy(label: str, layers: list[Model]) -> tuple[Figure, str]:
    """Draw the entropy of the codes of each layer."""
    figure = Figure(figsize=(6.5, 1.2 + ROW * len(layers)), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        range(len(layers)),
        [layer["entropy"] for layer in layers],
        color="#2a6fbb",
        height=0.8,
        label="entropy of codes",
    )
    limits = [np.log2(layer["D_N"] + 1) for layer in layers]
    axes.plot(limits, range(len(layers)), "|", color="#b8452f", markersize=6, label="limit log2(D_N + 1)")
    _rows(axes, layers)
    axes.set_xlabel("bit per code", fontsize=8)
    mean = np.average([layer["entropy"] for layer in layers], weights=[layer["codes"] for layer in layers])
    axes.set_title(f"{label}: entropy of codes, mean over all codes {mean:.2f} bit", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower right")
    return figure, "Entropy of the codes of each layer, and the most that its range could hold."


def _spikes(model: CountedModel, image: Batch) -> tuple[Figure, str]:
    """Draw the planes of the most varied layer and channel on one image."""
    layer = model.recording.most_varied
    codes, channel = model.observe(image, layer.name).varied_channel()
    code = codes[channel].numpy()
    planes = to_planes(codes[channel], layer.planes).numpy()
    columns = max(3, -(-(len(planes) + 2) // 2))
    figure = Figure(figsize=(2 * columns, 5), layout="constrained")
    cells = figure.subplots(2, columns).ravel()
    for axes in cells:
        axes.axis("off")
    cells[0].imshow(image[0].transpose(1, 2, 0))
    cells[0].set_title("image", fontsize=9)
    cells[1].imshow(code, cmap="viridis", vmin=0)
    cells[1].set_title(f"codes k, 0 to {int(code.max())}", fontsize=9)
    for axes, b in zip(cells[2:], reversed(range(len(planes))), strict=False):
        axes.imshow(planes[b], cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"plane {b} (x {1 << b}): {planes[b].mean():.1%}", fontsize=9)
    figure.suptitle(f"{layer.name}, channel {channel} of {len(codes)}: codes and their binary planes", fontsize=10)
    return (
        figure,
        f"What enters {layer.name} on one image: each code as binary planes, white is a spike (share of spikes).",
    )


def _all_codes(result: dict[str, Any]) -> tuple[Figure, str]:
    """Draw the codes of all layers together, one panel for each spiking model."""
    spiking = [model for model in result["models"] if "mean_code" in model["totals"]]
    figure = Figure(figsize=(4.2 * len(spiking), 3.2), layout="constrained")
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(spiking))), spiking, strict=True):
        layers = [layer for layer in model["layers"] if layer["operand"] != "real"]
        largest = max(layer["D_N"] for layer in layers)
        total = np.zeros(largest + 1, np.int64)
        for layer in layers:
            total[: layer["D_N"] + 1] += _histogram(layer)
        share = _binned(total)
        axes.bar((np.arange(len(share)) + 0.5) / len(share), share, 0.9 / len(share), color="#2a6fbb")
        axes.set_yscale("log")
        axes.set_xlim(0, 1)
        axes.set_ylim(1e-7, 1)
        zero = total[0] / total.sum()
        axes.set_title(
            f"{model['label']}\nD_N {largest}, zero {zero:.1%}, ceiling {total[-1] / total.sum():.2%}", fontsize=9
        )
        axes.set_xlabel("code / D_N", fontsize=8)
    figure.axes[0].set_ylabel("share of codes")
    return figure, "Codes of all layers against each model's theoretical range [0, D_N]."


def _all_energies(result: dict[str, Any]) -> tuple[Figure, str]:
    """Draw the energy of all models, with the rivals of the spiking ones, under each preset."""
    presets = list(result["presets"])
    names: list[str] = []
    values: list[list[float]] = []
    colours: list[str] = []
    for model in result["models"]:
        spiking = "mean_code" in model["totals"]
        for scheme in ("spikes", "unary", "quantised", "quantised-sparse") if spiking else ("ann", "ann-sparse"):
            names.append(f"{model['label']}: {scheme}")
            values.append([model["energy_pj"][preset][scheme]["total"] / 1e6 for preset in presets])
            colours.append("#2a6fbb" if scheme == "spikes" else "#8a94a3" if scheme.startswith("ann") else "#c9d6e6")
    figure = Figure(figsize=(3 + 3.2 * len(presets), 1 + 0.24 * len(names)), layout="constrained")
    for i, (axes, preset) in enumerate(zip(np.atleast_1d(figure.subplots(1, len(presets))), presets, strict=True)):
        bars = axes.barh(range(len(names)), [row[i] for row in values], color=colours)
        axes.bar_label(bars, fmt=lambda x: f"{x:,.3g}" if x < 1e3 else f"{x:,.0f}", fontsize=6, padding=2)
        axes.set_yticks(range(len(names)), names if i == 0 else [""] * len(names), fontsize=7)
        axes.invert_yaxis()
        axes.set_xscale("log")
        smallest, largest = (f(row[i] for row in values) for f in (min, max))
        axes.set_xlim(10 ** np.floor(np.log10(smallest / 2)), 4 * largest)  # bars begin at a power of ten
        axes.set_title(preset, fontsize=9)
        axes.set_xlabel("µJ per image", fontsize=8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        axes.tick_params(axis="x", labelsize=7)
    text = "; ".join(f"{key}: {SCHEMES[key][1]}" for key in ("spikes", "unary", "quantised", "quantised-sparse"))
    return figure, f"Energy per image, modelled, not measured; logarithmic. {text}."
