"""Checkpoints in Ultralytics' format: opened with one clear error, written whole."""

import copy
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO, __version__
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils import RUNS_DIR
from ultralytics.utils.files import increment_path

from spikeyolo.assets import find_weights
from spikeyolo.files import PROJECT, make_folder, whole_file


def open_detector(file: str | Path) -> YOLO:
    """Open the checkpoint of a detector.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or none of a detector.
    """
    if Path(file).suffix != ".pt":
        raise ValueError(f"model={file} is no checkpoint (.pt)")
    if not find_weights(file).is_file():
        raise FileNotFoundError(f"model={file} does not exist; train one with: yolo train model=ibra-spikeyolo-p.yaml")
    try:
        yolo = YOLO(file)
    except Exception as e:  # of torch and Ultralytics, for an unreadable checkpoint, or of another program
        if "official SpikeYOLO" in str(e):
            raise ValueError(str(e)) from e
        raise ValueError(
            f"model={file} is no loadable checkpoint: empty, truncated or of another program; copy it again"
        ) from e
    if not isinstance(yolo.model, BaseModel) or yolo.task != "detect":
        raise ValueError(f"model={file} does not detect objects (task {yolo.task}); give a detection model")
    return yolo


def validate(yolo: YOLO, folder: Path, **arguments: Any) -> dict[str, float]:
    """Validate as ``yolo val`` does; return mAP50 and mAP50-95.

    Args:
        yolo: Model of any format.
        folder: Where Ultralytics makes a folder, which stays empty.
        arguments: data, imgsz, batch and so on.
    """
    metrics = yolo.val(plots=False, verbose=False, project=str(folder), name="val", exist_ok=True, **arguments)
    return {"mAP50": float(metrics.box.map50), "mAP50-95": float(metrics.box.map)}


def free_file(stem: str, *, project: str | Path, folder: str) -> Path:
    """Return a checkpoint's file that does not exist yet, in an existing folder; a number is added to find one.

    Args:
        stem: Its name, without suffix.
        project: Folder; this one within the ``runs`` folder of Ultralytics by default:
        folder: Its name.

    Raises:
        OSError: If the folder cannot be made.
    """
    directory = Path(project or RUNS_DIR / folder)
    make_folder(directory, exist_ok=True)
    return increment_path(directory / f"{stem}.pt")


def save_checkpoint(
    model: torch.nn.Module, target: Path, *, train_args: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write a network as the trainer does, in half precision.

    Args:
        model: Ultralytics' network; it is left as it is.
        target: File to write.
        train_args: Arguments that later commands start from, such as imgsz.
        about: More entries of the checkpoint: where it comes from.

    Raises:
        OSError: If it cannot be written.
    """
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": copy.deepcopy(model).half().to(memory_format=torch.contiguous_format),  # pyright: ignore[reportCallIssue]
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {"task": "detect", **train_args},
        "date": datetime.now().astimezone().isoformat(),
        "version": __version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        **about,
    }
    with whole_file(target, PROJECT) as part:
        torch.save(content, part)
