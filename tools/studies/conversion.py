"""Stock Ultralytics detectors as spiking networks: trained as ANNs, converted, fine-tuned; interruptible, it goes on.

python tools/studies/conversion.py [networks=v8-relu,v8-silu,11-relu,11-silu,26-silu] [bits=8,6,4] [finetune=8,4]
    [project=runs/conversion] [epochs=12] [imgsz=160] [val=192]

Each family is trained on photo-digits at a pico scale (depth 0.33, width 0.125 of its own YAML). Prints a table and
writes conversion.json into the project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import harness
import ultralytics
from ultralytics import YOLO
from ultralytics.utils import YAML

from spikeyolo.assets import CFG_DIR
from spikeyolo.conversion.calibration import Ranges
from spikeyolo.conversion.convert import convert
from spikeyolo.network.checkpoints import validate

DATA = "photo-digits.yaml"
SCALES = {"p": [0.33, 0.125, 1024]}
FAMILIES = {"v8": "v8/yolov8", "11": "11/yolo11", "26": "26/yolo26"}
RECIPES = CFG_DIR / "recipes"


def trained(name: str, project: Path, options: dict[str, str]) -> Path:
    """Return the checkpoint of an ANN, trained if it is not there."""
    best = project / name / "weights/best.pt"
    if not best.is_file():
        family, activation = name.split("-")
        d = YAML.load(str(Path(ultralytics.__file__).parent / f"cfg/models/{FAMILIES[family]}.yaml"))
        file = project / f"{name}.yaml"
        YAML.save(str(file), d | {"scales": SCALES} | ({"activation": "nn.ReLU()"} if activation == "relu" else {}))
        arguments = {"epochs": int(options["epochs"]), "imgsz": int(options["imgsz"])}
        _train(YOLO(file), "spikeyolo-photo-digits.yaml", project, name, **arguments)
    return best


def finetuned(file: Path, project: Path, name: str, options: dict[str, str]) -> Path:
    """Return the checkpoint of a converted network after a short training, done if it is not there."""
    best = project / name / "weights/best.pt"
    if not best.is_file():
        _train(YOLO(file), "spikeyolo-finetune.yaml", project, name, imgsz=int(options["imgsz"]))
    return best


def _train(model: YOLO, recipe: str, project: Path, name: str, **arguments: Any) -> None:
    arguments |= {"project": str(project.absolute()), "name": name, "exist_ok": True, "plots": False}
    model.train(cfg=str(RECIPES / recipe), data=DATA, **arguments)


def main() -> None:
    """Run the study."""
    options = harness.options(
        networks="v8-relu,v8-silu,11-relu,11-silu,26-silu", bits="8,6,4", finetune="8,4", project="runs/conversion",
        epochs="12", imgsz="160", val="192",
    )  # fmt: skip
    project = Path(options["project"])
    project.mkdir(parents=True, exist_ok=True)
    size, results = int(options["val"]), project / "conversion.json"
    rows: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}

    def keep(name: str, key: str, score: float) -> None:
        rows.setdefault(name, {})[key] = score
        results.write_text(json.dumps(rows, indent=1) + "\n")

    for name in options["networks"].split(","):
        best = trained(name, project, options)
        for bits in options["bits"].split(","):
            file = project / f"{name}-{bits}bit.pt"
            if bits not in rows.get(name, {}) or not file.is_file():
                done = convert(best, data=DATA, ranges=Ranges(bits=int(bits)), imgsz=size, project=project,
                               name=f"{name}-{bits}bit")  # fmt: skip
                keep(name, "ann", done.before["mAP50-95"])
                keep(name, bits, done.after["mAP50-95"])
        for bits in filter(None, options["finetune"].split(",")):
            if f"{bits}+" not in rows[name]:
                file = finetuned(project / f"{name}-{bits}bit.pt", project, f"{name}-{bits}bit-finetuned", options)
                scores = validate(YOLO(file), project, data=DATA, imgsz=size, batch=16)
                keep(name, f"{bits}+", scores["mAP50-95"])
    print(table(rows, options))


def table(rows: dict[str, Any], options: dict[str, str]) -> str:
    """Return the results as Markdown: mAP50-95."""
    keys = ["ann", *options["bits"].split(","), *(f"{b}+" for b in options["finetune"].split(",") if b)]
    titles = {"ann": "ANN"} | {k: f"{k.rstrip('+')} bits" + ", 3 epochs" * k.endswith("+") for k in keys[1:]}
    lines = ["| network | " + " | ".join(titles[k] for k in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row['ann']:.4f}"] if "ann" in row else [""]
        cells += [f"{row[k]:.4f} ({100 * (row[k] - row['ann']):+.1f})" if k in row else "" for k in keys[1:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
