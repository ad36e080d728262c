"""The report as Markdown and HTML: the same tables of the same numbers."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from spikeyolo.measure.energy import ANN_SCHEMES, SCHEMES

Result = dict[str, Any]
Drawn = dict[str, str]  # picture file: what it shows
TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Section:
    """A heading with text, a table and pictures; each may be missing."""

    title: str
    level: int = 2
    text: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()


def to_markdown(result: Result, drawn: Drawn) -> str:
    """Return the report as Markdown; pictures are linked."""
    lines: list[str] = []
    for section in sections(result, drawn):
        lines += [f"{'#' * section.level} {section.title}", ""]
        for text in section.text:
            lines += [text, ""]
        if section.rows:
            body = [section.head, tuple("---" for _ in section.head), *section.rows]
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in body] + [""]
        for file, caption in section.pictures:
            lines += [f"![{caption}]({file})", "", f"*{caption}*", ""]
    return "\n".join(lines).replace("<", "&lt;")  # Markdown may hold HTML, and texts come from model files


def to_html(result: Result, drawn: Drawn, folder: Path) -> str:
    """Return the report as one HTML page that holds its pictures."""
    encoded = {file: base64.b64encode((folder / file).read_bytes()).decode() for file in drawn}
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
    return template.render(sections=list(sections(result, drawn)), encoded=encoded)


def sections(result: Result, drawn: Drawn) -> Iterator[Section]:
    """Yield the parts of a report."""
    models = result["models"]
    yield _head(result)
    if len(models) > 1:
        shared = tuple((file, caption) for file, caption in drawn.items() if file.startswith("models"))
        rows = _side_by_side(result)
        table = tuple(tuple(row.values()) for row in rows)
        yield Section("Side by side", head=tuple(rows[0]), rows=table, pictures=shared)
    for i, model in enumerate(models, start=1):
        yield _facts(model)
        if model["verdicts"]:
            yield Section("Who wins", 3, text=tuple(model["verdicts"]))
        yield _energy(model)
        own = [(file, caption) for file, caption in drawn.items() if file.startswith(f"{i}-")]
        if own:
            yield Section("Pictures", 3, pictures=tuple(own))
        yield _layers(model, next(iter(result["presets"])))
    yield _assumptions(result)


def _side_by_side(result: Result) -> list[dict[str, str]]:
    """Return the comparison: a row for each model, by column."""
    rows = []
    for model in result["models"]:
        totals, metrics = model["totals"], model["metrics"] or {}
        spiking = "mean_code" in totals
        own = "spikes" if spiking else "ann"
        row = {
            "model": model["label"],
            "neuron": _neuron(model["neuron"]),
            "mAP50": f"{metrics['mAP50']:.4f}" if "mAP50" in metrics else "",
            "mAP50-95": f"{metrics['mAP50-95']:.4f}" if "mAP50-95" in metrics else "",
            "mean code": f"{totals['mean_code']:.3f}" if spiking else "",
            "spikes per code": f"{totals['spikes_per_code']:.3f}" if spiking else "",
            "spikes, M": _mega(totals["spikes"]) if spiking else "",
            "MACs, M": _mega(totals["macs"] if spiking else totals["factored_macs"]),
            "synops, M": _mega(totals["synops"]) if spiking else "",
        }
        rows.append(row | {f"{p}, µJ": _micro(model["energy_pj"][p][own]["total"]) for p in result["presets"]})
    return rows


def summary(result: Result) -> str:
    """Return comparison and verdicts as plain text for a terminal."""
    rows = [{k: v for k, v in row.items() if not k.endswith(", M")} for row in _side_by_side(result)]
    lines = []
    if len(rows) > 1:
        table = [tuple(rows[0]), *(tuple(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    for row, model in zip(rows, result["models"], strict=True):
        scores = model["metrics"] or {}
        mean = f"{model['totals']['spikes_per_code']:.3f} spikes per code, " if model["verdicts"] else ""
        metrics = ", ".join(f"{key} {row[key]}" for key in ("mAP50", "mAP50-95") if key in scores)
        head = f"{model['label']}: {row['neuron']}, {mean}{model['images']['counted']} images {metrics}"
        lines += ["", head.rstrip(), *(f"  {verdict}" for verdict in model["verdicts"])]
    return "\n".join(lines)


def _head(result: Result) -> Section:
    text = [f"{result['note']} Numbers are per image unless said otherwise. docs/energy.md of spikeyolo explains them."]
    if not result["complete"]:
        text.insert(0, "PARTIAL: this report was interrupted; it holds what had been counted by then.")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return Section("Spikes and energy", 1, text=(*text, f"{result['date']}; {versions}"))


def _neuron(neuron: dict[str, Any]) -> str:
    if not neuron:
        return "none (ANN)"
    numbers = ", ".join(f"{key} {neuron[key]:g}" for key in ("D", "N", "T") if neuron.get(key) is not None)
    if "N" in neuron and neuron["N"] is None:
        planes = f"{neuron['planes']} planes, " if neuron.get("planes") else ""
        return f"{neuron['type']} ({planes}a range per layer)"
    return f"{neuron['type']} ({numbers})" if numbers else f"{neuron['type']} (ANN)"


def _facts(model: dict[str, Any]) -> Section:
    images, totals, metrics = model["images"], model["totals"], model["metrics"] or {}
    skipped = (
        f"; {len(images['skipped'])} unreadable, skipped: {', '.join(images['skipped'])}" if images["skipped"] else ""
    )
    rows = {
        "file": model["file"],
        "SHA-256": model["sha256"],
        "form": model["form"],
        "neuron": _neuron(model["neuron"]),
        "planes": ", ".join(map(str, sorted({layer["planes"] for layer in model["layers"] if layer["planes"]})))
        or "none",
        "parameters": f"{model['parameters']:,}" if "parameters" in model else "",
        "weights in this form": f"{totals['weights']:,}",
        "widths": ", ".join(f"{what} {bits} bits" for what, bits in model.get("widths", {}).items()),
        "image size": " x ".join(map(str, model["imgsz"])),
        "images counted": f"{images['counted']:,}{'' if model['complete'] else ' (PARTIAL: interrupted)'}",
        "images": f"{images['source']}{skipped}",
        "mAP50, mAP50-95": ", ".join(f"{metrics[key]:.4f}" for key in ("mAP50", "mAP50-95") if key in metrics),
        "no mAP because": metrics.get("problem", ""),
        "real-valued": "; ".join(model.get("real_valued", ())),
        "not counted": ", ".join(model["uncounted"]),
        "MACs, dense": f"{totals['macs']:,.0f}",
        "MACs of an ANN of the same layers": f"{totals['factored_macs']:,.0f}",
    }
    if "mean_code" in totals:
        rows |= {
            "neuron updates": f"{totals['codes']:,.0f}",
            "mean code": f"{totals['mean_code']:.4f}",
            "spikes (binary planes)": f"{totals['spikes']:,.1f} ({totals['spikes_per_code']:.4f} per code)",
            "synaptic operations (binary planes)": f"{totals['synops']:,.1f}",
            "spikes, unary coding": f"{totals['unary_spikes']:,.1f}",
            "synaptic operations, unary coding": f"{totals['unary_synops']:,.1f}",
            "multiplications with a code that is not zero": f"{totals['nonzero_synops']:,.1f}",
        }
    shown = tuple((key, value) for key, value in rows.items() if value)
    return Section(model["label"], head=("", ""), rows=shown)


def _energy(model: dict[str, Any]) -> Section:
    """Return energies by scheme and preset, with their ratio to the first scheme."""
    energy = model["energy_pj"]
    schemes = max((list(by_scheme) for by_scheme in energy.values()), key=len)
    names = {key: text for key, (_, text) in (SCHEMES if "spikes" in schemes else ANN_SCHEMES).items()}
    rows = []
    for scheme in schemes:
        cells = [names[scheme]]
        for preset in energy:
            if scheme not in energy[preset]:
                cells.append("")
                continue
            total, base = energy[preset][scheme]["total"], energy[preset][schemes[0]]["total"]
            cells.append(f"{_micro(total)} ({total / base:.2f} x)")
        rows.append(tuple(cells))
    parts = []
    for preset in energy:
        share = {k: v for k, v in energy[preset][schemes[0]].items() if k != "total" and v}
        total = energy[preset][schemes[0]]["total"]
        parts.append(f"{preset}: " + ", ".join(f"{k} {v / total:.1%}" for k, v in share.items()))
    text = ("Modelled, not measured; µJ per image, and relative to the first row.",)
    spent = f"Spent by {names[schemes[0]]}: {'; '.join(parts)}."
    return Section("Energy", 3, text=(*text, spent), head=("scheme", *energy), rows=tuple(rows))


def _layers(model: dict[str, Any], preset: str) -> Section:
    head = (
        "layer", "takes", "MACs, M", "synops, M", "mean code", "max", "at ceiling", "dead channels", "spikes/code",
        "rate per plane, 0 first", "entropy, bit", "updates, k", "weights, kB", "potentials, kB", f"{preset}, µJ",
    )  # fmt: skip
    rows = []
    for layer in model["layers"]:
        takes = layer["operand"] if layer["operand"] != "binary" else f"binary, {layer['planes']}"
        spiking = layer["operand"] != "real"
        codes = [
            f"{layer['mean_code']:.2f}", str(layer["max_code"]),
            f"{layer['ceiling_share']:.3%}", f"{layer['dead_share']:.1%}",
            f"{layer['spikes'] / layer['codes']:.3f}", " ".join(f"{rate:.3f}" for rate in layer["plane_rates"]),
            f"{layer['entropy']:.2f}", f"{layer['codes'] / 1e3:,.1f}",
        ]  # fmt: skip
        sizes = [f"{layer['weight_bytes'] / 1e3:,.1f}", f"{layer['potential_bytes'] / 1e3:,.1f}" if spiking else ""]
        energy = _micro(sum(layer["energy_pj"][preset].values()))
        synops = _mega(layer["synops"]) if spiking else ""
        row = [
            layer["name"],
            takes,
            _mega(layer["macs"]),
            synops,
            *(codes if spiking else [""] * len(codes)),
            *sizes,
            energy,
        ]
        rows.append(tuple(row))
    text = "Weights as they are (int8, in an ANN float32); potentials in float32, of one image and timestep."
    return Section("Layers", 3, text=(text,), head=head, rows=tuple(rows))


def _assumptions(result: Result) -> Section:
    rows = [
        (
            name,
            f"MAC {p['mac_pj']} pJ, AC {p['ac_pj']} pJ" + (f", {p['byte_pj']} pJ per byte" if p["byte_pj"] else ""),
            p["source"],
        )
        for name, p in result["presets"].items()
    ]
    text = (
        "Left out everywhere: residual additions, pooling, upsampling, biases, the decoder, clocks, networks on chip, "
        "leakage, and DRAM. Twins and quantised networks run once where the spiking model takes T timesteps.",
    )
    return Section("Energy models", text=text, head=("preset", "prices", "source and assumptions"), rows=tuple(rows))


def _mega(number: float) -> str:
    return f"{number / 1e6:,.4g}" if number < 1e8 else f"{number / 1e6:,.1f}"


def _micro(pj: float) -> str:
    return f"{pj / 1e6:,.4g}" if pj < 1e9 else f"{pj / 1e6:,.0f}"
