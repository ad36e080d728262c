"""Neurons x planes x seeds at equal budget on photo-digits; interruptible, it goes on. A day's work on a small CPU.

python tools/study_neurons.py [networks=relu,silu,lif,ilif,ibra,arlif-3,...] [seeds=0,1,2] [epochs=7] [imgsz=128]
    [val=160] [project=runs/neurons] [train=False] [plot=docs]

Networks: the ANN twins relu and silu; lif; ilif; ibra; ibra-DN with another D * N at the paper's N = 100 (ibra-4095:
D = 40.95; ibra-inf: unbounded); arlif-P with P planes; arlif-P-learned. `residual1` behind any name: the official
initialisation. All have the same seed, data, budget and recipe (spikeyolo-photo-digits.yaml). Each trained network is
evaluated in deploy form; spikes and energy are counted. Several processes may share a project if their networks or
seeds differ; train=False only gathers what is there. Prints tables, writes neurons.json and, with plot=FOLDER,
neurons.png.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")

import bench
from training import DATA, trained
from ultralytics.utils import YAML

from spikeyolo.assets import ARCHITECTURE
from spikeyolo.bits_table import measure
from spikeyolo.neurons import MAX_D_N, NeuronConfig
from spikeyolo.parser import PREFIXES

Row = dict[str, Any]
PAPER = [f"ibra-{2**bits - 1}" for bits in range(4, 14)] + ["ibra-inf"]  # arXiv 2506.05679, Tab. 1
NETWORKS = ["relu", "silu", "lif", "ilif", "ibra", *(f"arlif-{planes}" for planes in range(3, 10)), "arlif-5-learned"]
TITLES = {"relu": "relu twin (ANN)", "silu": "silu twin (ANN)", "lif": "LIF", "ilif": "I-LIF", "ibra": "IBRA-LIF"}


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
        elif word.isdecimal() and kind == "arlif":
            neuron["planes"] = int(word)
        elif word != "residual1":
            raise ValueError(f"networks={network}: {word!r} means nothing behind {kind}")
    return YAML.load(str(ARCHITECTURE)) | {"neuron": neuron, "scale": "p", "residual_gamma": gamma}


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
        last = trained(model, folder / "train", epochs=int(options["epochs"]), imgsz=int(options["imgsz"]), seed=seed)
        validation = {"data": DATA, "imgsz": int(options["val"]), "batch": 16, "device": "cpu"}
        measured.write_text(json.dumps(measure(last, validation), indent=1) + "\n")
    return {"network": network, "seed": seed, **json.loads(measured.read_text())}


def main() -> None:
    """Run the study."""
    options = bench.options(
        networks=",".join(NETWORKS), seeds="0,1,2", epochs="7", imgsz="128", val="160", project="runs/neurons",
        train="True", plot="",
    )  # fmt: skip
    rows = [
        row
        for seed in options["seeds"].split(",")
        for network in options["networks"].split(",")
        if (row := result(network, int(seed), options))
    ]
    print(len(rows), statistics.mean(row["mAP50-95"] for row in rows))


if __name__ == "__main__":
    main()
