"""COCO metrics of any detector by pycocotools, on any COCO-format annotation file.

Images, letterbox and non-maximum suppression are those of ``yolo val``: its validator runs, with a data set made of the
annotation file. Boxes are kept as numbers, and classes are evaluated one after the other, so that memory stays bounded.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ultralytics import YOLO
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import YAML
from ultralytics.utils.ops import xyxy2xywh
from ultralytics.utils.tqdm import TQDM

from spikeyolo.assets import find_weights
from spikeyolo.data.annotations import find_images, match_classes, read_annotations
from spikeyolo.files import whole_file
from spikeyolo.graph.onnx_files import load
from spikeyolo.measure.graph_facts import check_graph
from spikeyolo.network.checkpoints import open_detector
from spikeyolo.network.sound import MAX_IMGSZ
from spikeyolo.processor import use_all_cores

METRICS = (  # the twelve numbers of COCO, in its order
    ("AP", "AP at IoU 0.50:0.95"),
    ("AP50", "AP at IoU 0.50"),
    ("AP75", "AP at IoU 0.75"),
    ("AP_small", "AP of small objects, below 32^2 pixels"),
    ("AP_medium", "AP of medium objects"),
    ("AP_large", "AP of large objects, from 96^2 pixels"),
    ("AR_1", "AR with 1 detection per class and image"),
    ("AR_10", "AR with 10"),
    ("AR_100", "AR with 100"),
    ("AR_small", "AR of small objects"),
    ("AR_medium", "AR of medium objects"),
    ("AR_large", "AR of large objects"),
)
LIMITS = {"imgsz": (0, MAX_IMGSZ), "batch": (1, np.inf), "conf": (0, 1), "iou": (0, 1), "max_det": (1, np.inf)}


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of a model.

    Args:
        metrics: The twelve numbers of COCO by the names in `METRICS`, 0 to 1; -1 where there is no object. Empty
            without annotations.
        classes: Name, images, instances (without crowds), AP and AP50 of each category, in the file's order.
        images: Number of evaluated images.
        skipped: Images of the annotation file that could not be read.
        detections: Number of boxes.
    """

    metrics: dict[str, float]
    classes: list[dict[str, Any]]
    images: int
    skipped: list[str]
    detections: int


def evaluate(
    model: str,
    *,
    images: str,
    annotations: str,
    imgsz: int = 0,
    batch: int = 16,
    conf: float = 0.001,
    iou: float = 0.7,
    max_det: int = 300,
    device: str = "",
    save_json: str = "",
    skip_missing: bool = False,
    trust: bool = False,
) -> Evaluation:
    """Evaluate a detector on a COCO-format annotation file.

    Args:
        model: Checkpoint (.pt) or exported graph (.onnx).
        images: Folder of the images that the annotation file names.
        annotations: COCO-format JSON; without annotations (as for a test server) only results are written.
        imgsz: Image size; 0 for the one that the model was trained or exported with.
        batch: Images at once; an exported graph has its own number.
        conf: Least confidence, by default that of Ultralytics' COCO validation, as the next two.
        iou: Overlap above which non-maximum suppression drops a box.
        max_det: Largest number of boxes of an image.
        device: As for ``yolo``.
        save_json: File for the detections, in the format of the COCO evaluation server.
        skip_missing: Evaluate without the images that are missing, in place of an error.
        trust: Whether to load a checkpoint as ``yolo`` does, which runs whatever program it holds.

    Raises:
        OSError: If a file is missing or unreadable, or the results cannot be written.
        ValueError: If the annotation file is not in COCO format, its categories are not the model's classes, or the
            model or an argument is wrong.
    """
    for name, value in {"model": model, "images": images, "annotations": annotations}.items():
        if not value:
            usage = "spikeyolo coco model=best.pt images=val2017 annotations=instances_val2017.json"
            raise ValueError(f"{name}= is missing, e.g. {usage}")
    _check(model, imgsz=imgsz, batch=batch, conf=conf, iou=iou, max_det=max_det)
    dataset = read_annotations(Path(annotations))
    files, skipped = find_images(dataset, Path(images), skip_missing)
    labelled = "annotations" in dataset
    if not labelled and not save_json:
        raise ValueError(f"{annotations} has no annotations to evaluate on; add save_json=results.json for a server")
    remedy = "choose another file with save_json="
    with whole_file(Path(save_json), remedy) if save_json else contextlib.nullcontext() as part:
        arguments = {"batch": batch, "conf": conf, "iou": iou, "max_det": max_det, "device": device or None}
        yolo = open_detector(model, trust=trust) if Path(model).suffix == ".pt" else _graph(model)
        detections = _detect(yolo, dataset, files, arguments | ({"imgsz": imgsz} if imgsz else {}))
        if part:
            detections.write(part)
    ids = sorted({image["id"] for image in files.values()})
    metrics, classes = _metrics(dataset, ids, detections) if labelled else ({}, [])
    return Evaluation(metrics, classes, len(files), skipped, len(detections.scores))


class Detections:
    """Detected boxes as numbers, 36 bytes each.

    Attributes:
        images, categories: Ids of the annotation file, (n,), int64.
        boxes: Left, top, width, height in pixels of the original image, (n, 4), float32, rounded to 3 decimals.
        scores: Confidences, (n,), float32, rounded to 5 decimals.
    """

    def __init__(self, parts: list[tuple[int, NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]):
        """Join (image id, category ids, boxes, scores) of images."""
        counts = [len(scores) for *_, scores in parts]
        self.images = np.repeat(np.array([image for image, *_ in parts], np.int64), counts)
        self.categories = np.concatenate([np.zeros(0, np.int64), *(p[1] for p in parts)])
        self.boxes = np.concatenate([np.zeros((0, 4), np.float32), *(p[2] for p in parts)])
        self.scores = np.concatenate([np.zeros(0, np.float32), *(p[3] for p in parts)])

    def select(self, chosen: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
        """Yield chosen detections in the format of the evaluation server."""
        for i in np.flatnonzero(chosen):
            yield {
                "image_id": int(self.images[i]),
                "category_id": int(self.categories[i]),
                "bbox": [round(float(v), 3) for v in self.boxes[i]],
                "score": round(float(self.scores[i]), 5),
            }

    def write(self, file: Path) -> None:
        """Write all of them as JSON."""
        with file.open("w") as f:
            everything = self.select(np.ones(len(self.scores), bool))
            f.write("[" + json.dumps(next(everything)) if len(self.scores) else "[")
            for detection in everything:
                f.write(",\n" + json.dumps(detection))
            f.write("]\n")


def _check(model: str, **numbers: float) -> None:
    """Refuse arguments that mean nothing."""
    file = find_weights(model)
    if file.suffix not in (".pt", ".onnx"):
        raise ValueError(f"model={model} is neither a checkpoint (.pt) nor an exported graph (.onnx)")
    if not file.is_file():
        raise FileNotFoundError(f"model={model} does not exist")
    for name, value in numbers.items():
        low, high = LIMITS[name]
        if not low <= value <= high:
            wanted = f"between {low} and {high}" if np.isfinite(high) else f"at least {low}"
            raise ValueError(f"{name} must be {wanted}, got {value:g}")


class _Images(YOLODataset):
    """The images of an annotation file, prepared as those of a validation split; objects stay with pycocotools."""

    def __init__(self, files: dict[str, dict[str, Any]], **arguments: Any):
        self.files = files
        super().__init__(img_path="", **arguments)

    def get_img_files(self, img_path: Any) -> list[str]:
        return list(self.files)

    def get_labels(self) -> list[dict[str, Any]]:
        nothing = {"cls": np.zeros((0, 1), np.float32), "bboxes": np.zeros((0, 4), np.float32), "segments": []}
        about = {"normalized": True, "bbox_format": "xywh"}
        return [{"im_file": f, "shape": i["shape"], **nothing, **about} for f, i in self.files.items()]


class _Validator(DetectionValidator):
    """Ultralytics' validator, keeping the boxes that it scores."""

    def __init__(self, coco: dict[str, Any], files: dict[str, dict[str, Any]], **arguments: Any):
        super().__init__(**arguments)
        self.coco, self.files = coco, files
        self.parts: list[Any] = []
        self.categories: NDArray[np.int64] = np.zeros(0, np.int64)

    def build_dataset(self, img_path: Any, mode: str = "val", batch: int | None = None) -> Any:
        common: dict[str, Any] = {"data": self.data, "imgsz": self.args.imgsz, "hyp": self.args, "augment": False}
        return _Images(
            self.files, rect=self.args.rect, batch_size=batch, stride=int(self.stride or 32), pad=0.5, **common
        )

    def init_metrics(self, model: Any) -> None:
        super().init_metrics(model)
        if str(self.device) == "cpu":
            use_all_cores()  # Ultralytics has just left one idle
        matched = match_classes(model.names, self.coco)
        self.categories = np.zeros(max(matched) + 1, np.int64)
        for index, category in matched.items():
            self.categories[index] = category

    def get_desc(self) -> str:
        return "detecting"

    def update_metrics(self, preds: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        for i, pred in enumerate(preds):
            about = self._prepare_batch(i, batch)
            boxes = xyxy2xywh(self.scale_preds(pred, about)["bboxes"])
            boxes[:, :2] -= boxes[:, 2:] / 2  # as Ultralytics does, to the last digit
            scores, classes = pred["conf"].cpu().numpy(), pred["cls"].cpu().numpy().astype(int)
            self.parts.append(
                (self.files[about["im_file"]]["id"], self.categories[classes], boxes.cpu().numpy(), scores)
            )

    def get_stats(self) -> dict[str, Any]:
        return {}

    def print_results(self) -> None:
        pass


def _graph(model: str) -> YOLO:
    """Open an exported graph."""
    check_graph(load(Path(model)), Path(model))
    return YOLO(model, task="detect")


def _detect(
    yolo: YOLO, dataset: dict[str, Any], files: dict[str, dict[str, Any]], arguments: dict[str, Any]
) -> Detections:
    """Run the model over all images."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data.yaml"  # Ultralytics wants one; its labels are never looked for
        names = {i: category["name"] for i, category in enumerate(dataset["categories"])}
        YAML.save(str(data), {"path": name, "train": ".", "val": ".", "names": names})
        validators = []

        def make(**given: Any) -> _Validator:
            validators.append(_Validator(dataset, files, save_dir=Path(name), **given))
            return validators[0]

        try:
            yolo.val(make, data=str(data), plots=False, verbose=False, **arguments)  # pyright: ignore[reportArgumentType]
        except FileNotFoundError as e:  # a header that could be read, and nothing behind it
            raise FileNotFoundError(f"{e}: truncated or corrupted; copy it again") from e
    return Detections(validators[0].parts)


def _metrics(
    dataset: dict[str, Any], ids: list[int], detections: Detections
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return COCO's twelve numbers, and a row for each category.

    pycocotools keeps a record for each category, size and image: categories one after the other take an 80th of the
    memory, and the same numbers come out, for none of them looks at another category.
    """
    evaluation: Any = COCOeval(iouType="bbox")
    p = evaluation.params
    shape = len(p.iouThrs), len(p.recThrs), len(dataset["categories"]), len(p.areaRng), len(p.maxDets)
    precision, recall = np.full(shape, -1.0), np.full(shape[:1] + shape[2:], -1.0)
    rows, objects = [], _by_category(dataset, set(ids))
    for k, category in enumerate(TQDM(dataset["categories"], desc="evaluating", unit="classes")):
        truth = objects[category["id"]]
        boxes = list(detections.select(detections.categories == category["id"]))
        if truth:
            precision[:, :, k], recall[:, k] = _category(category, truth, boxes)
        real = [a for a in truth if not a["iscrowd"]]
        scores = [_mean(precision[s, :, k, 0, -1]) for s in (slice(None), 0)]
        counts = {"images": len({a["image_id"] for a in real}), "instances": len(real)}
        rows.append({"name": category["name"], **counts, "AP": scores[0], "AP50": scores[1]})
    evaluation.eval = {"params": p, "precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return dict(zip((name for name, _ in METRICS), map(float, evaluation.stats), strict=True)), rows


def _by_category(dataset: dict[str, Any], ids: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the objects in the evaluated images by category."""
    objects: dict[int, list[dict[str, Any]]] = {category["id"]: [] for category in dataset["categories"]}
    for annotation in dataset["annotations"]:
        if annotation["image_id"] in ids:
            objects[annotation["category_id"]].append(annotation)
    return objects


def _category(
    category: dict[str, Any], truth: list[dict[str, Any]], boxes: list[dict[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (IoU, recall, size, detections) and recall (IoU, size, detections) of one category."""
    for i, box in enumerate(boxes):
        box |= {"id": i + 1, "area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0}
    images = sorted({entry["image_id"] for entry in (*truth, *boxes)})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells about each step
        evaluation: Any = COCOeval(*(_index(category, images, entries) for entries in (truth, boxes)), iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def _index(category: dict[str, Any], images: list[int], entries: list[dict[str, Any]]) -> COCO:
    """Return objects of one category as pycocotools holds them."""
    coco: Any = COCO()
    coco.dataset = {"images": [{"id": i} for i in images], "categories": [category], "annotations": entries}
    coco.createIndex()
    return coco


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of what is defined, as COCO does."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def summary(result: Evaluation) -> str:
    """Return an evaluation as text: COCO's twelve numbers and a table of classes."""
    lines = [f"{result.images:,} images, {result.detections:,} detections"]
    lines += [f"  {what:<42}{_score(result.metrics[name])}" for name, what in METRICS if result.metrics]
    if result.classes:
        width = max(5, *(len(row["name"]) for row in result.classes))
        lines += ["", f"  {'class':<{width}}{'images':>8}{'instances':>11}{'AP':>8}{'AP50':>8}"]
        for row in result.classes:
            counts = f"{row['images']:>8,}{row['instances']:>11,}"
            lines.append(f"  {row['name']:<{width}}{counts}{_score(row['AP'])}{_score(row['AP50'])}")
    return "\n".join(lines)


def _score(value: float) -> str:
    return f"{value:8.4f}" if value > -1 else f"{'no object':>8}"
