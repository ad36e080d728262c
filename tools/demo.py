"""make demo: the shipped weights on photographs and a video; evaluate, export, prove, report. Nothing is trained.

Runs the ``yolo`` and ``spikeyolo`` commands and nothing else, with settings, data and results below ``demo/``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from spikeyolo.assets import CLIP, WEIGHTS_DIR

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
RUNS = DEMO / "runs"
DATA = DEMO / "datasets/photo-digits"
WEIGHTS = "ibra-spikeyolo-p.pt"


def run(command: str, *words: str) -> None:
    """Run one command, shown as a user would type it."""
    print(f"\n$ {command} {' '.join(words)}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name(command)), *words], cwd=DEMO, check=True)


def main() -> None:
    """Run the demo."""
    start = time.time()
    os.environ["YOLO_CONFIG_DIR"] = str(DEMO / "settings")
    shutil.rmtree(RUNS, ignore_errors=True)
    DEMO.mkdir(exist_ok=True)
    run("yolo", "settings", f"datasets_dir={DEMO / 'datasets'}", f"runs_dir={RUNS}")
    model, graph, project = f"model={WEIGHTS}", f"model={WEIGHTS.replace('.pt', '.onnx')}", f"project={RUNS}"
    run("yolo", "val", model, "data=photo-digits.yaml", project, "name=val")
    photographs = DEMO / "photographs"
    shutil.rmtree(photographs, ignore_errors=True)
    photographs.mkdir()
    for file in sorted((DATA / "images/val").glob("*.png"))[:12]:
        shutil.copy(file, photographs)
    source = f"source={photographs}"
    run("yolo", "predict", model, source, project, "name=predict")
    run("spikeyolo", "demo", model, f"source={CLIP}", project, "show=False", "save=True")
    run("yolo", "export", model, "format=onnx")
    run("spikeyolo", "verify", graph, f"reference={WEIGHTS}", source, "images=1")
    run("spikeyolo", "report", model, source, "images=12", project)

    card = json.loads((WEIGHTS_DIR / WEIGHTS).with_suffix(".json").read_text())["evaluation"]
    print(
        f"\nThe weights' card says mAP50 {card['mAP50']:.3f} and mAP50-95 {card['mAP50-95']:.3f}; see yolo val above."
    )
    print(f"{time.time() - start:.0f} seconds. Look at:")
    for name, path in {
        "boxes and spikes on a video": RUNS / "demo" / CLIP.name,
        "predictions on photographs": RUNS / "predict",
        "predictions beside labels": RUNS / "val/val_batch0_pred.jpg",
        "spikes and energy": RUNS / "report/report.html",
        "the spike graph (netron.app)": DEMO / WEIGHTS.replace(".pt", ".onnx"),
    }.items():
        print(f"  {name:28} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
