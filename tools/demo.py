"""make demo: train the pico model on photo-digits, validate, predict, track, export, verify, count spikes and energy.

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

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
RUNS = DEMO / "runs"
EPOCHS = os.environ.get("DEMO_EPOCHS", "10")  # fewer for a quick look
IMGSZ = "160"


def run(command: str, *words: str) -> None:
    """Run one command, shown as a user would type it."""
    print(f"\n$ {command} {' '.join(words)}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name(command)), *words], cwd=DEMO, check=True)


def yolo(*words: str) -> None:
    """Run one yolo command."""
    run("yolo", *words)


def write_video(images: list[Path], path: Path) -> None:
    """Write a video that pans over the images."""
    strip = np.hstack([image for file in images if (image := cv2.imread(str(file))) is not None])
    side = strip.shape[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 15, (side, side))
    for x in range(0, strip.shape[1] - side + 1, 6):
        writer.write(strip[:, x : x + side])
    writer.release()


def main() -> None:
    """Run the demo."""
    start = time.time()
    os.environ["YOLO_CONFIG_DIR"] = str(DEMO / "settings")
    shutil.rmtree(RUNS, ignore_errors=True)
    DEMO.mkdir(exist_ok=True)
    yolo("settings", f"datasets_dir={DEMO / 'datasets'}", f"runs_dir={RUNS}")
    yolo(
        "train",
        "cfg=spikeyolo-photo-digits.yaml",
        "model=ibra-spikeyolo-p.yaml",
        "data=photo-digits.yaml",
        f"epochs={EPOCHS}",
        f"imgsz={IMGSZ}",
        f"project={RUNS}",
        "name=train",
    )
    best = RUNS / "train/weights/best.pt"
    model = f"model={best}"
    yolo("val", model, "data=photo-digits.yaml", f"imgsz={IMGSZ}", f"project={RUNS}", "name=val", "save_json=True")
    photographs = sorted((DEMO / "datasets/photo-digits/images/val").glob("*.png"))[:16]
    chosen = DEMO / "photographs"
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir()
    for file in photographs:
        shutil.copy(file, chosen)
    yolo("predict", model, f"source={chosen}", f"imgsz={IMGSZ}", f"project={RUNS}", "name=predict")
    video = DEMO / "digits.avi"
    write_video(photographs[:4], video)
    yolo("track", model, f"source={video}", f"imgsz={IMGSZ}", f"project={RUNS}", "name=track")
    yolo("export", model, "format=onnx", f"imgsz={IMGSZ}")
    run("spikeyolo", "verify", f"model={best.with_suffix('.onnx')}", f"source={chosen}")
    run("spikeyolo", "report", model, "data=photo-digits.yaml", "images=100", f"project={RUNS}")

    last = (RUNS / "train/results.csv").read_text().splitlines()
    row = dict(zip((k.strip() for k in last[0].split(",")), last[-1].split(","), strict=True))
    minutes = (time.time() - start) / 60
    summary = {
        "mAP50": round(float(row["metrics/mAP50(B)"]), 3),
        "mAP50-95": round(float(row["metrics/mAP50-95(B)"]), 3),
        "epochs": int(EPOCHS),
        "minutes": round(minutes, 1),
    }
    (DEMO / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\nphoto-digits, {EPOCHS} epochs at {IMGSZ} px: {summary}")
    print("Look at:")
    for name, path in {
        "predictions on photographs": RUNS / "predict",
        "predictions beside labels": RUNS / "val/val_batch0_pred.jpg",
        "tracking on a video": RUNS / "track",
        "training curves": RUNS / "train/results.png",
        "spikes and energy": RUNS / "report/report.html",
        "the spike graph (netron.app)": best.with_suffix(".onnx"),
    }.items():
        print(f"  {name:28} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
