"""Neurons x planes x seeds at equal budget on photo-digits; interruptible, it goes on. A day's work on a small CPU.

python tools/studies/neurons.py [networks=relu,silu,lif,ilif,ibra,potlif-3,...] [seeds=0,1,2] [epochs=7] [imgsz=128]
    [val=160] [project=runs/neurons] [train=False] [plot=docs/neurons.png]
python tools/studies/neurons.py weights=potlif-spikeyolo-p.pt,ibra-spikeyolo-p.pt,relu-spikeyolo-p.pt [val=192]

Networks: the ANN twins relu and silu; lif; ilif; ibra; ibra-DN with another D * N at the paper's N = 100 (ibra-4095:
D = 40.95; ibra-inf: unbounded), networks=ablation for all of these; potlif-P with P planes; potlif-P-learned. Behind
any name: residual1 (ibra-residual1), the official initialisation, and warmup0, no warm-up. All have the same seed,
data, budget and recipe (spikeyolo-photo-digits.yaml). Each trained network is evaluated in deploy form; spikes and
energy are counted. Several processes may share a project if their networks or seeds differ; train=False only gathers
what is there. Prints a table and writes neurons.json into the project. weights= takes trained checkpoints instead,
drops their low planes, one by one, and also times their spike graphs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import harness
from matplotlib.figure import Figure
from onnx_graphs import image, session
from training import DATA, trained
from ultralytics import YOLO
from ultralytics.utils import YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.measure.evaluate import PRICE, measure
from spikeyolo.network.checkpoints import open_detector, save_checkpoint
from spikeyolo.network.names import PREFIXES
from spikeyolo.neurons import MAX_D_N, NeuronConfig, neurons_of

Row = dict[str, Any]
ABLATION = [*(f"ibra-{2**bits - 1}" for bits in range(4, 14)), "ibra-inf"]  # arXiv 2506.05679, Tab. 1
NETWORKS = ["relu", "silu", "lif", "ilif", "ibra", *(f"potlif-{planes}" for planes in range(3, 10)), "potlif-5-learned"]
NAMES = {"relu": "relu twin (ANN)", "silu": "silu twin (ANN)", "lif": "LIF", "ilif": "I-LIF", "ibra": "IBRA-LIF"}
COLOURS = {
    "relu": "#8a94a3",
    "silu": "#56606e",
    "lif": "#b8452f",
    "ilif": "#7a5aa8",
    "ibra": "#e08e2b",
    "potlif": "#2a6fbb",
}

MOST = 16  # planes that a network may have: it is measured with its own


def title(network: str) -> str:
    """Return what a network is called in the field."""
    kind, *more = network.split("-")
    if kind == "potlif":
        return " ".join([f"PoT-LIF, {more[0]} planes", *more[1:]])
    if kind == "ibra":
        number = more.pop(0) if more and (more[0].isdecimal() or more[0] == "inf") else "511"
        return " ".join([f"IBRA-LIF, {'D unbounded' if number == 'inf' else f'D * N = {number}'}", *more])
    return " ".join([NAMES[kind], *more])


def yaml_of(network: str) -> dict[str, Any]:
    """Return the model dictionary of a network by its name here."""
    kind, *more = network.split("-")
    neuron = NeuronConfig.preset(PREFIXES[kind]).to_mapping()
    gamma = 1.0 if "residual1" in more else 0.0
    for word in more:
        if word == "learned":
            neuron["range"] = word
        elif word == "inf":
            neuron["D"] = MAX_D_N / neuron["N"]
        elif word.isdecimal() and kind == "ibra":
            neuron["D"] = int(word) / neuron["N"]
        elif word.isdecimal() and kind == "potlif":
            neuron["planes"] = int(word)
        elif word not in ("residual1", "warmup0"):
            raise ValueError(f"networks={network}: {word!r} means nothing behind {kind}")
    return YAML.load(str(ARCHITECTURE)) | {"neuron": neuron, "scale": "p", "residual_gamma": gamma}


def validation_at(size: str) -> dict[str, Any]:
    """Return the arguments of all validations."""
    return {"data": DATA, "imgsz": int(size), "batch": 16, "device": "cpu"}


def result(network: str, seed: int, options: dict[str, str]) -> Row | None:
    """Return what one network reached, trained and measured if that has not been done."""
    folder = Path(options["project"]) / f"{network}-seed{seed}"
    measured = folder / "measured.json"
    if not measured.is_file():
        if options["train"] != "True":
            return None
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "spikeyolo-p.yaml"
        YAML.save(str(model), yaml_of(network))
        print(f"\n{network}, seed {seed}", flush=True)
        arguments: Row = {key: int(options[key]) for key in ("epochs", "imgsz")} | {"seed": seed}
        if "warmup0" in network:
            arguments["warmup_epochs"] = 0
        last = trained(model, folder / "train", **arguments)
        measured.write_text(json.dumps(measure(last, validation_at(options["val"]), planes=MOST), indent=1) + "\n")
    return {"network": network, "seed": seed, **json.loads(measured.read_text())}


def summarise(rows: list[Row]) -> list[Row]:
    """Return one row per network: means over its seeds, and the lowest and highest mAP50-95."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        means = {key: statistics.mean(row[key] for row in own) for key in own[0] if key not in ("network", "seed")}
        scores = [row["mAP50-95"] for row in own]
        found.append({"network": network, "seeds": len(own), "lowest": min(scores), "highest": max(scores), **means})
    return found


def table(summary: list[Row]) -> str:
    """Return means and spreads as Markdown."""
    head = ["network", "seeds", "mAP50-95 (lowest to highest)", "mAP50", "spikes per neuron", "spikes per image"]
    lines = []
    for row in summary:
        spread = f" ({row['lowest']:.4f} to {row['highest']:.4f})" if row["seeds"] > 1 else ""
        spikes = [f"{row['spikes_per_code']:.2f}", f"{row['spikes']:,.0f}"] if "spikes" in row else ["", ""]
        lines.append([title(row["network"]), row["seeds"], f"{row['mAP50-95']:.4f}{spread}", f"{row['mAP50']:.4f}",
                      *spikes, f"{row['energy_uj']:,.0f}"])  # fmt: skip
    return harness.table([*head, "energy, µJ (modelled)"], lines)


def draw(summary: list[Row], file: Path, options: dict[str, str]) -> None:
    """Draw mAP against spikes per neuron and against energy."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.suptitle(
        f"photo-digits, pico models, {options['epochs']} epochs at {options['imgsz']} px, evaluated at "
        f"{options['val']} px"
    )
    for row in summary:
        kind, score = row["network"].split("-")[0], row["mAP50-95"]
        colour, name = COLOURS[kind], row["network"].partition("-")[2] or NAMES.get(kind, kind)
        left_of = "learned" in row["network"] or "spikes" not in row  # beside PoT-LIF's number, at the right edge
        place, align = ((-5, 3), "right") if left_of else ((5, -11), "left")
        for axes, key in ((left, "spikes_per_code"), (right, "energy_uj")):
            if key in row:
                spread = [[score - row["lowest"]], [row["highest"] - score]]
                axes.errorbar(row[key], score, spread, fmt="o", color=colour, capsize=3)
                axes.annotate(
                    name, (row[key], score), place, textcoords="offset points", ha=align, fontsize=8, color=colour
                )
        if "spikes_per_code" not in row:
            left.axhline(score, color=colour, linestyle="--")
            left.annotate(name, (0.02, score), (0, 3), ("axes fraction", "data"), "offset points", fontsize=8)
    aligned = [r for r in summary if r["network"].removeprefix("potlif-").isdecimal()]
    aligned.sort(key=lambda r: r["spikes_per_code"])
    for axes, key in ((left, "spikes_per_code"), (right, "energy_uj")):
        axes.plot([r[key] for r in aligned], [r["mAP50-95"] for r in aligned], color=COLOURS["potlif"], alpha=0.4)
        axes.grid(alpha=0.3)
        axes.margins(x=0.15)
    left.set_xlabel("spikes per neuron; blue: PoT-LIF with its number of planes")
    left.set_ylabel("mAP50-95 (bars: lowest and highest seed)")
    right.set_xlabel(f"energy per image, µJ (modelled, {PRICE.name}; ANNs dense)")
    figure.savefig(file, dpi=110)


def dropped(file: str, size: str) -> list[Row]:
    """Return what a trained checkpoint reaches with fewer and fewer planes, without training; an ANN as it is.

    ``ms`` is the time of its spike graph (an ANN's graph) in ONNX Runtime, one image, all cores.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        network: Any = open_detector(file).model
        neurons = neurons_of(network).values()
        most = max((neuron.planes for neuron in neurons), default=0)
        for planes in range(most, min(most, 2) - 1, -1):
            for neuron in neurons:
                neuron.keep_planes(planes)
            part = Path(folder) / f"{planes}.pt"
            save_checkpoint(network, part, train_args={}, about={})
            kept = {"planes": planes} if planes else {}
            row = {"file": Path(file).name, "planes": planes, **measure(part, validation_at(size), **kept)}
            graph = YOLO(part).export(format="onnx", imgsz=int(size), **kept)
            rows.append(row | {"ms": 1000 * harness.steady(partial(session(graph).run, None, image(int(size))))})
    return rows


def show_dropped(rows: list[Row]) -> str:
    """Return rows of `dropped` as Markdown."""
    head = ["checkpoint", "planes", "mAP50-95", "mAP50", "spikes per neuron", "energy, µJ (modelled)", "graph, ms"]
    lines = []
    for r in rows:
        spikes = f"{r['spikes_per_code']:.2f}" if "spikes_per_code" in r else ""
        lines.append([r["file"], r["planes"] or "", f"{r['mAP50-95']:.4f}", f"{r['mAP50']:.4f}", spikes,
                      f"{r['energy_uj']:,.0f}", f"{r['ms']:.0f}"])  # fmt: skip
    return harness.table(head, lines)


def main() -> None:
    """Run the study."""
    options = harness.options(
        networks=",".join(NETWORKS), seeds="0,1,2", epochs="7", imgsz="128", val="160", project="runs/neurons",
        train="True", plot="", weights="", out="",
    )  # fmt: skip
    if options["weights"]:
        rows = [row for file in options["weights"].split(",") for row in dropped(file, options["val"])]
        print(show_dropped(rows))
        harness.write(options["out"] or "planes.json", rows, options, "ultralytics", "onnxruntime")
        return
    networks = ABLATION if options["networks"] == "ablation" else options["networks"].split(",")
    for network in networks:
        yaml_of(network)  # a wrong name is told before anything is trained
    rows = [
        row
        for seed in options["seeds"].split(",")
        for network in networks
        if (row := result(network, int(seed), options))
    ]
    if not rows:
        raise SystemExit(f"{options['project']} holds no result of these networks and seeds; leave train=False away")
    rows.sort(key=lambda row: networks.index(row["network"]))
    summary = summarise(rows)
    print(table(summary))
    harness.write(options["out"] or str(Path(options["project"]) / "neurons.json"), rows, options, "ultralytics")
    if options["plot"]:
        draw(summary, Path(options["plot"]), options)


if __name__ == "__main__":
    main()
