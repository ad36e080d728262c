"""The price of fewer bits: a converted network with 3 to 9 bits, with one range and with a range per layer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ultralytics.utils.tqdm import TQDM

from spikeyolo.conversion.calibration import Potentials, Ranges
from spikeyolo.conversion.spiking_copy import SpikingCopy
from spikeyolo.measure.evaluate import COUNTED, PRICE, Row, measure
from spikeyolo.network.checkpoints import save_checkpoint

BITS = range(3, 10)
WAYS = {"one": "one range, D = 5.11", "layer": "a range per layer"}


def evaluate(
    spiking_copy: SpikingCopy,
    potentials: Mapping[str, Potentials],
    ranges: Ranges,
    file: Path,
    validation: dict[str, Any],
) -> list[Row]:
    """Evaluate a converted network in deploy form with each number of bits; its ranges are others afterwards.

    Args:
        spiking_copy: The network.
        potentials: What its neurons read.
        ranges: How ranges per layer are chosen.
        file: Where a checkpoint can be written again and again.
        validation: Arguments of ``yolo val``.

    Returns:
        Rows with ``ranges`` ("one" or "layer"), ``bits``, mAP50, mAP50-95, and per image of the validation split
        ``spikes``, ``spikes_per_code`` and ``energy_uj``.
    """
    plain = {"bits": 0, "D": 0.0, "N": 0.0, "per_layer": True}
    ways = {"one": Ranges(per_layer=False), "layer": replace(ranges, **plain)}
    rows: list[Row] = []
    with TQDM(total=len(BITS) * len(ways), desc="bits table") as progress:
        for way, chosen in ways.items():
            for bits in BITS:
                spiking_copy.set_ranges(replace(chosen, bits=bits).choose(potentials))
                save_checkpoint(spiking_copy.network, file, train_args={}, about={})
                rows.append({"ranges": way, "bits": bits, **measure(file, validation, planes=bits)})
                progress.update()
    return rows


def to_markdown(rows: list[Row], before: Mapping[str, float], about: Mapping[str, Any]) -> str:
    """Return the table with what it is about."""
    lines = [
        f"# {about['file']} as a spiking network",
        "",
        f"Converted without training{', BatchNorm estimated again' * about['batchnorm']}. Ranges from "
        f"{about['images']}; mAP on its whole validation split, in deploy form; spikes and energy per image, on "
        f"{COUNTED} of them. Energy is modelled, not measured: {PRICE.name}, {PRICE.source}. "
        f"The ANN: mAP50 {before['mAP50']:.4f}, mAP50-95 {before['mAP50-95']:.4f}.",
        "",
        "| ranges | bits | mAP50 | mAP50-95 | change | spikes | spikes per code | energy, µJ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        change = row["mAP50-95"] - before["mAP50-95"]
        lines.append(
            f"| {WAYS[row['ranges']]} | {row['bits']} | {row['mAP50']:.4f} | {row['mAP50-95']:.4f} | {change:+.4f} "
            f"| {row['spikes']:,.0f} | {row['spikes_per_code']:.2f} | {row['energy_uj']:,.1f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[Row], before: Mapping[str, float], file: Path, about: Mapping[str, Any]) -> None:
    """Draw mAP against bits and against energy."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle(f"{about['file']} as a spiking network, without training")
    for way, colour in {"one": "#e08e2b", "layer": "#2a6fbb"}.items():
        chosen = [row for row in rows if row["ranges"] == way]
        scores = [row["mAP50-95"] for row in chosen]
        left.plot([row["bits"] for row in chosen], scores, "o-", color=colour, label=WAYS[way])
        right.plot([row["energy_uj"] for row in chosen], scores, "o-", color=colour, label=WAYS[way])
        for row in chosen:
            right.annotate(str(row["bits"]), (row["energy_uj"], row["mAP50-95"]), (4, -10), textcoords="offset points")
    for axes in (left, right):
        axes.axhline(before["mAP50-95"], color="#8a94a3", linestyle="--", label="the ANN")
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0.9 * min(row["mAP50-95"] for row in rows))
    left.set_xlabel("bits")
    left.set_ylabel("mAP50-95")
    left.legend(loc="lower right")
    right.set_xlabel(f"energy per image, µJ (modelled, {PRICE.name}); bits at points")
    figure.savefig(file, dpi=120)
