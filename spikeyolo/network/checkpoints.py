"""Checkpoints in Ultralytics' format: opened without executing anything, with one clear error; written whole."""

import copy
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO, __version__
from ultralytics.nn.tasks import BaseModel, DetectionModel
from ultralytics.utils import RUNS_DIR
from ultralytics.utils.files import increment_path

from spikeyolo.assets import find_weights
from spikeyolo.files import PROJECT, make_folder, whole_file
from spikeyolo.network.names import use_present_names
from spikeyolo.network.rebuild import rebuild
from spikeyolo.network.sound import check_image_size, check_network
from spikeyolo.records import Record, Untrusted, read_checkpoint, shown

TRUST = "if you trust whoever made it, trust=True loads it as yolo does, and runs whatever is in it (docs/security.md)"
DETECTORS = {"DetectionModel", "YOLOv10DetectionModel"}


def open_detector(file: str | Path, *, trust: bool = False) -> YOLO:
    """Open the checkpoint of a detector; nothing in it is executed, unless it is trusted.

    Args:
        file: Its path, or the bare name of shipped weights.
        trust: Whether to load it as ``yolo`` does, which runs whatever program it holds (docs/security.md).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or none of a detector; if it holds more than a network of known blocks and
            is not trusted; or if its numbers or names mean nothing.
    """
    if Path(file).suffix != ".pt":
        raise ValueError(f"model={file} is no checkpoint (.pt)")
    if not find_weights(file).is_file():
        raise FileNotFoundError(f"model={file} does not exist; train one with: yolo train model=ibra-spikeyolo-p.yaml")
    try:
        return _trusted(file) if trust else _Detector(file)
    except ValueError as e:
        reason = str(e).removeprefix(f"{find_weights(file)} ")
        raise ValueError(f"model={file} {reason}{f'; {TRUST}' if isinstance(e, Untrusted) else ''}") from e


class _Detector(YOLO):
    """A detector whose checkpoint has been read inertly, and rebuilt."""

    def __init__(self, file: str | Path):
        super(YOLO, self).__init__(str(Path(file)), task="detect")  # YOLO's own looks for other kinds of networks

    def _load(self, weights: str, task: str | None = None) -> None:
        """Do what Ultralytics' method does, which unpickles."""
        content = read_checkpoint(find_weights(weights))
        network: Any = _network_in(content)
        use_present_names(network.yaml)
        for module in network.modules():  # as Ultralytics does
            if hasattr(module, "inplace"):
                module.inplace = True
            if isinstance(module, nn.Upsample):
                module.recompute_scale_factor = None
        network.task = self.task = "detect"
        network.pt_path = self.ckpt_path = self.model_name = weights
        arguments = {"imgsz": 640, "data": None, "single_cls": False, "task": "detect"}  # what Ultralytics remembers
        self.overrides = network.args = arguments | known_arguments(content)
        self.overrides["model"] = weights
        self.model, self.ckpt = network, {"epoch": -1, "model": network, "train_args": dict(network.args)}


def _network_in(content: object) -> nn.Module:
    """Return the network that a checkpoint has recorded, rebuilt and sound."""
    stored = content if isinstance(content, dict) else {}
    record = next((stored[key] for key in ("ema", "model") if isinstance(stored.get(key), Record)), None)
    if record is None:
        raise ValueError("holds no network (an Ultralytics checkpoint has one under 'model' or 'ema')")
    if record.module == DetectionModel.__module__ and record.name not in DETECTORS:
        raise ValueError(f"does not detect objects (it holds a {shown(record.name)}); give a detection model")
    network: Any = rebuild(record)
    check_network(network)
    return network


def known_arguments(content: object) -> dict[str, Any]:
    """Return what later commands take from the ``train_args`` of a checkpoint: image size, whether of one class.

    Raises:
        ValueError: If it is none.
    """
    stated = content.get("train_args") if isinstance(content, dict) else None
    stated = stated if isinstance(stated, dict) else {}
    known = {"single_cls": True} if stated.get("single_cls") is True else {}
    if (size := stated.get("imgsz")) is None:
        return known
    check_image_size(size, "was trained with an image size that")
    return known | {"imgsz": size}


def _trusted(file: str | Path) -> YOLO:
    """Load a checkpoint as ``yolo`` does."""
    try:
        yolo = YOLO(file)
    except Exception as e:  # of torch and Ultralytics, for an unreadable checkpoint, or of another program
        if "official SpikeYOLO" in str(e):
            raise ValueError(str(e)) from e
        raise ValueError("is no loadable checkpoint: empty, truncated or of another program; copy it again") from e
    if not isinstance(yolo.model, BaseModel) or yolo.task != "detect":
        raise ValueError(f"does not detect objects (task {yolo.task}); give a detection model")
    check_image_size(yolo.overrides.get("imgsz", 640), "was trained with an image size that")
    check_network(yolo.model)
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
