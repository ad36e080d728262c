"""What the studies and the shipped weights share: one training on photo-digits that can be interrupted."""

from __future__ import annotations

from pathlib import Path

import torch
from ultralytics import YOLO

DATA, RECIPE = "photo-digits.yaml", "spikeyolo-photo-digits.yaml"


def trained(weights: str | Path, run: Path, **arguments: object) -> Path:
    """Return the last weights of a training: done if it has not been, gone on with if it was interrupted.

    Nothing is chosen on validation images.

    Args:
        weights: Model YAML, or checkpoint to start from.
        run: Folder of the training.
        arguments: Of ``yolo train``, beside those of the recipe.
    """
    last = run / "weights/last.pt"
    if not last.is_file():
        YOLO(weights).train(
            cfg=RECIPE,
            data=DATA,
            project=str(run.parent.resolve()),
            name=run.name,
            exist_ok=True,
            val=False,
            plots=False,
            **arguments,
        )
    elif torch.load(last, map_location="cpu", weights_only=False)["epoch"] >= 0:  # unfinished
        print(f"\n{run} goes on", flush=True)
        YOLO(last).train(resume=True)
    return last
