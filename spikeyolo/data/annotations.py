"""COCO-format annotation files: read and checked, matched with a model's classes and with images on disk."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ultralytics.data.utils import exif_size
from ultralytics.utils import LOGGER

from spikeyolo.records import shown

NAMELESS = re.compile(r"(class)?\d+")  # what models call classes that nobody has named
MAX_NAME = 200  # characters of a category's name
SHOWN = 5  # files or classes that an error lists


def read_annotations(file: Path) -> dict[str, Any]:
    """Read a COCO-format annotation file; outlines of objects are dropped.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is truncated or not in COCO format.
    """
    if not file.is_file():
        raise FileNotFoundError(f"annotations={file} does not exist; give a COCO-format JSON file")
    try:
        dataset = json.loads(file.read_bytes(), object_hook=_without_outline)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"annotations={file} is no complete JSON file ({e}); copy it again") from e

    def demand(holds: bool, problem: str) -> None:
        if not holds:
            raise ValueError(f"annotations={file} is not in COCO format: {problem}")

    demand(isinstance(dataset, dict), f"it holds a {type(dataset).__name__}, not images, categories and annotations")
    needed = {"images": {"id": int, "file_name": str}, "categories": {"id": int, "name": str}}
    needed |= {"annotations": {"image_id": int, "category_id": int, "bbox": list}} if "annotations" in dataset else {}
    for key, fields in needed.items():
        demand(isinstance(dataset.get(key), list), f"it has no list of {key}")
        for i, entry in enumerate(dataset[key]):
            for name, kind in fields.items():
                fits = isinstance(entry, dict) and isinstance(entry.get(name), kind)
                demand(fits, f"{key}[{i}] has no {name} of type {kind.__name__}")
    for key in ("images", "categories"):
        demand(bool(dataset[key]), f"its list of {key} is empty")
        twice = [i for i, n in Counter(entry["id"] for entry in dataset[key]).items() if n > 1]
        demand(not twice, f"id {twice[:1]} of {key} is not unique")
    for i, category in enumerate(dataset["categories"]):
        shows = len(category["name"]) <= MAX_NAME and category["name"].isprintable()
        demand(shows, f"categories[{i}] has the name {shown(category['name'])}, too long or with control characters")
    known = {key: {entry["id"] for entry in dataset[key]} for key in ("images", "categories")}
    for i, a in enumerate(dataset.get("annotations", [])):
        demand(a["image_id"] in known["images"], f"annotations[{i}] names an unknown image_id {a['image_id']}")
        demand(
            a["category_id"] in known["categories"], f"annotations[{i}] names an unknown category_id {a['category_id']}"
        )
        numbers = len(a["bbox"]) == 4 and all(isinstance(v, (int, float)) and np.isfinite(v) for v in a["bbox"])
        demand(numbers, f"annotations[{i}] has the bbox {a['bbox']}, not [left, top, width, height]")
        a.setdefault("area", a["bbox"][2] * a["bbox"][3])
        a.setdefault("iscrowd", 0)
        a["id"] = i + 1  # for pycocotools, to which 0 means no match
    return dataset


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # most of COCO's memory, and nothing to boxes
    return entry


def match_classes(names: dict[int, str], dataset: dict[str, Any]) -> dict[int, int]:
    """Return the category id of each class of a model: by name or, if nobody has named its classes, by ascending id.

    Categories without annotations may be unknown to the model.

    Raises:
        ValueError: If a class has no category, or an annotated category no class.
    """
    ids = {_plain(category["name"]): category["id"] for category in dataset["categories"]}
    used = {a["category_id"] for a in dataset.get("annotations", [])}
    own = {index: _plain(name) for index, name in names.items()}
    unknown = [name for name in own.values() if name not in ids]
    unused = [c["name"] for c in dataset["categories"] if c["id"] in used and _plain(c["name"]) not in own.values()]
    if not unknown and not unused:
        return {index: ids[name] for index, name in own.items()}
    if len(unknown) == len(own) == len(dataset["categories"]) and all(map(NAMELESS.fullmatch, own.values())):
        return dict(zip(sorted(names), sorted(category["id"] for category in dataset["categories"]), strict=True))
    problem = f"class {_listed(unknown)} of the model is no category" if unknown else ""
    problem += " and " if unknown and unused else ""
    problem += f"category {_listed(unused)} is no class of the model" if unused else ""
    raise ValueError(
        f"the model has {len(names)} classes, the annotation file {len(dataset['categories'])} categories: {problem}; "
        "evaluate a model that was trained on these categories, with the same names"
    )


def _plain(name: object) -> str:
    return str(name).strip().lower()


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def find_images(dataset: dict[str, Any], folder: Path, skip: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Look for the images that an annotation file names.

    Args:
        dataset: Content of the annotation file.
        folder: Where the images are.
        skip: Whether to go on without those that are missing.

    Returns:
        Id and shape (height, width) of each image by path, and the names of the files that cannot be read.

    Raises:
        FileNotFoundError: If there is no such folder, or images are missing and not to be skipped, or all are.
        ValueError: If two images are one file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"images={folder} is not a folder; give the folder of the images")
    present, missing = {}, []
    for image in dataset["images"]:
        listed = folder / image["file_name"]
        file = listed if listed.is_file() else folder / listed.name  # some files name val2017/0001.jpg
        try:
            with Image.open(file) as header:
                width, height = exif_size(header)
        except (OSError, ImportError):  # missing, or no image: Ultralytics then looks for a HEIF reader
            missing.append(image["file_name"])
        else:
            present[str(file)] = {"id": image["id"], "shape": (height, width)}
    if len(present) + len(missing) < len(dataset["images"]):
        raise ValueError("several images of the annotation file are one and the same file")
    if missing:
        text = f"{len(missing)} of {len(dataset['images'])} images are missing from {folder} or unreadable"
        if not skip or not present:
            raise FileNotFoundError(
                f"{text}: {_listed(missing)}; add them, or evaluate the rest with skip_missing=True"
            )
        LOGGER.warning(f"{text} and are left out: {', '.join(missing)}")
    return present, missing
