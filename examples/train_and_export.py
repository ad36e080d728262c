"""Train the pico model shortly, export its spike graph, and prove it.

python examples/train_and_export.py epochs=5 imgsz=96

Without data= a small photo-digits data set is made in FOLDER/digits. So short a training makes no detector; the README
has the arguments of a real one. Exit code 1 if the graph is not proven.
"""

import sys
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from spikeyolo.data import make_photo_digits
from spikeyolo.proof.verify import verify


def main(model="ibra-spikeyolo-p.yaml", data="", epochs="2", imgsz="64", folder="runs/examples"):
    """Train, export, verify."""
    root = Path(folder).resolve()
    data = data or make_photo_digits(root / "digits", train=64, val=16, imgsz=128)
    settings = {"imgsz": int(imgsz), "batch": 8, "optimizer": "AdamW", "lr0": 0.002, "plots": False}
    yolo: Any = YOLO(model)
    yolo.train(data=str(data), epochs=int(epochs), project=str(root), name="train", **settings)

    best = Path(yolo.trainer.best)
    graph = YOLO(best).export(format="onnx", imgsz=int(imgsz))
    failed = 0
    for check in verify(graph, reference=best, images=2):  # on the two photographs that Ultralytics ships, and others
        print(check)
        failed += bool(check.problems)
    print(f"{graph}: {f'{failed} checks failed' if failed else 'proven'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(**dict(argument.split("=", 1) for argument in sys.argv[1:])))
