"""COCO metrics: a case worked out by hand, plain pycocotools, the boxes of yolo val, and wrong inputs."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ultralytics import YOLO

from spikeyolo.data.annotations import match_classes, read_annotations
from spikeyolo.measure import coco as module
from spikeyolo.measure.coco import Detections, evaluate, summary

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
SHIPPED = "ibra-spikeyolo-p.pt"


def write(path: Path, **changes) -> Path:
    """Write a small annotation file."""
    content = {
        "images": [{"id": 5, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": CATEGORIES,
        "annotations": [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 10, 10]}],
    }
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not None}))
    return path


def detections(*boxes: tuple[int, int, list[float], float]) -> Detections:
    """Return detections of (image id, category id, box, score)."""
    return Detections(
        [(i, np.array([c]), np.array([b], np.float32), np.array([s], np.float32)) for i, c, b, s in boxes]
    )


def test_a_case_worked_out_by_hand(tmp_path):
    # cat: three objects, found at 0.9 (exactly), nowhere at 0.8, and at 0.7 with an IoU of 0.8.
    # Precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; its envelope is 1 up to 1/3 and 2/3 up to 2/3, then 0.
    # Of the 101 recall levels 0 to 0.33 see 1 (34 of them) and 0.34 to 0.66 see 2/3 (33).
    # dog: a crowd only, so it counts nowhere.
    objects = [(5, 3, [0, 0, 10, 10]), (5, 3, [50, 50, 40, 40]), (9, 3, [20, 20, 10, 10])]
    annotations = [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in objects]
    annotations += [{"image_id": 9, "category_id": 7, "bbox": [0, 0, 90, 90], "iscrowd": 1}]
    dataset = read_annotations(write(tmp_path / "a.json", annotations=annotations))
    found = detections(
        (5, 3, [0, 0, 10, 10], 0.9),
        (9, 3, [60, 60, 10, 10], 0.8),
        (5, 3, [50, 50, 40, 32], 0.7),
        (9, 7, [0, 0, 9, 9], 1),
    )
    metrics, classes = module._metrics(dataset, [5, 9], found)
    assert metrics["AP50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    # The second is found up to an IoU of 0.80: at 0.50, 0.55, ..., 0.80 (7 of 10); above, precision is 1 up to 1/3.
    assert metrics["AP"] == pytest.approx((7 * (34 + 33 * 2 / 3) + 3 * 34) / 10 / 101)
    assert metrics["AR_100"] == pytest.approx((7 * 2 / 3 + 3 * 1 / 3) / 10)
    assert classes[0] == {"name": "cat", "images": 2, "instances": 3, "AP": metrics["AP"], "AP50": metrics["AP50"]}
    assert classes[1] == {"name": "dog", "images": 0, "instances": 0, "AP": -1, "AP50": -1}


def test_numbers_are_those_of_plain_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(40)]
    categories = [{"id": i, "name": str(i)} for i in (1, 4, 6)]
    truth, parts = [], []
    for image in range(40):
        boxes = rng.uniform(0, 100, (rng.integers(0, 5), 4)) + np.array([0, 0, 5, 5])
        classes = rng.choice([1, 4, 6], len(boxes), p=[0.6, 0.4, 0])  # nothing of 6
        crowd = rng.random(len(boxes)) < 0.1
        for box, category, many in zip(boxes.tolist(), classes.tolist(), crowd.tolist(), strict=True):
            truth.append({"image_id": image, "category_id": category, "bbox": box, "iscrowd": int(many)})
        moved = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), rng.uniform(1, 100, (2, 4))])
        guessed = np.concatenate([classes, rng.choice([1, 4, 6], 2)])
        parts.append((image, guessed, moved.astype(np.float32), rng.random(len(moved)).astype(np.float32)))
    file = write(tmp_path / "a.json", images=images, categories=categories, annotations=truth)
    found = Detections(parts)
    found.write(tmp_path / "r.json")
    metrics, _ = module._metrics(read_annotations(file), list(range(40)), found)

    whole = {"images": images, "categories": categories, "annotations": truth}
    for i, annotation in enumerate(truth, start=1):
        annotation |= {"id": i, "area": annotation["bbox"][2] * annotation["bbox"][3]}
    file.write_text(json.dumps(whole))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        plain = COCOeval(coco, coco.loadRes(str(tmp_path / "r.json")), "bbox")
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
    assert list(metrics.values()) == pytest.approx(plain.stats.tolist(), abs=1e-12)
    assert 0.1 < metrics["AP50"] < 0.9


def test_boxes_are_those_of_yolo_val(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "use_all_cores", lambda: None
    )  # as many threads as yolo val: the same to the last digit
    folder = digits.parent
    result = evaluate(
        SHIPPED,
        images=str(folder / "images/val"),
        annotations=str(folder / "annotations/instances_val.json"),
        imgsz=128,
        batch=3,
        save_json=str(tmp_path / "r.json"),
    )
    metrics = YOLO(SHIPPED).val(
        data=str(digits),
        imgsz=128,
        batch=3,
        save_json=True,
        plots=False,
        verbose=False,
        project=str(tmp_path),
        name="v",
    )
    stock = json.loads((tmp_path / "v/predictions.json").read_text())
    ours = json.loads((tmp_path / "r.json").read_text())
    assert ours == [{k: box[k] for k in ("image_id", "category_id", "bbox", "score")} for box in stock]
    assert len(ours) == result.detections > 100
    assert abs(result.metrics["AP"] - metrics.box.map) < 0.03  # 30 objects: single ones weigh; the slow test is exact
    assert result.metrics["AP50"] > 0.6
    text = summary(result)
    assert "8 images" in text
    assert all(f"\n  {digit} " in text for digit in range(10))
    assert not [f for f in folder.rglob("*") if f.suffix == ".cache" and f.parent.name != "labels"]


@pytest.mark.slow
def test_an_exported_graph_is_evaluated_like_its_checkpoint(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    YOLO(SHIPPED).export(format="onnx", imgsz=128, graph="integer")
    folder = digits.parent
    where = {"images": str(folder / "images/val"), "annotations": str(folder / "annotations/instances_val.json")}
    graph, checkpoint = evaluate("ibra-spikeyolo-p.onnx", **where), evaluate(SHIPPED, imgsz=128, **where)
    assert abs(graph.metrics["AP50"] - checkpoint.metrics["AP50"]) < 0.1  # letterboxed without the margin of yolo val
    with pytest.raises(ValueError, match="the model has 10 classes, the annotation file 2"):
        evaluate("ibra-spikeyolo-p.onnx", images=str(tmp_path), annotations=str(small(tmp_path)))


def small(folder: Path, **changes) -> Path:
    """Write an annotation file with its images."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((64, 96, 3), 90, np.uint8))
    return write(folder / "a.json", **changes)


def test_classes_are_matched_by_name_or_by_id():
    dataset = {"categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "Cat "}], "annotations": []}
    assert match_classes({0: "cat", 1: "dog"}, dataset) == {0: 2, 1: 9}
    assert match_classes({0: "dog"}, dataset) == {0: 9}  # no cat in the images: nothing is lost
    assert match_classes({0: "0", 1: "1"}, dataset) == {0: 2, 1: 9}  # nobody has named them
    assert match_classes({0: "class0", 1: "class1"}, dataset) == {0: 2, 1: 9}
    dataset["annotations"] = [{"category_id": 2}]
    with pytest.raises(ValueError, match="category 'Cat ' is no class of the model"):
        match_classes({0: "dog"}, dataset)
    with pytest.raises(ValueError, match="class 'bird' of the model is no category and category 'Cat ' is no class"):
        match_classes({0: "dog", 1: "bird"}, dataset)
    with pytest.raises(ValueError, match="has 3 classes, the annotation file 2 categories: class '0', '1', '2'"):
        match_classes({0: "0", 1: "1", 2: "2"}, dataset)


OBJECT = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 10, 10]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "no list of images"),
        ({"categories": []}, "list of categories is empty"),
        ({"annotations": {}}, "no list of annotations"),
        ({"images": [{"id": "5", "file_name": "a.png"}]}, r"images\[0\] has no id of type int"),
        ({"images": [{"id": 5, "file_name": "a.png"}] * 2}, "id .5. of images is not unique"),
        ({"annotations": [OBJECT | {"image_id": 1}]}, "unknown image_id 1"),
        ({"annotations": [OBJECT, OBJECT | {"category_id": 1}]}, r"annotations\[1\] names an unknown category_id 1"),
        ({"annotations": [OBJECT | {"bbox": [1, 2, 3]}]}, r"the bbox \[1, 2, 3\]"),
        ({"annotations": [OBJECT | {"bbox": [1, 2, 3, float("nan")]}]}, "the bbox"),
    ],
)
def test_what_is_not_coco_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"a\.json is not in COCO format: .*{message}"):
        read_annotations(write(tmp_path / "a.json", **changes))


def test_broken_annotation_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotations=nowhere.json does not exist"):
        read_annotations(Path("nowhere.json"))
    file = write(tmp_path / "a.json")
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match="no complete JSON file"):
        read_annotations(file)
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match="it holds a list"):
        read_annotations(file)


def test_missing_images_fail_unless_told_to_go_on(digits, tmp_path):
    folder = digits.parent
    annotations = json.loads((folder / "annotations/instances_val.json").read_text())
    annotations["images"].append({"id": 1000, "file_name": "val/gone.png"})
    annotations["images"].append({"id": 1001, "file_name": "text.png"})
    (folder / "images/val/text.png").write_text("no image")
    file, target = tmp_path / "a.json", tmp_path / "r.json"
    file.write_text(json.dumps(annotations))
    where = {"images": str(folder / "images/val"), "annotations": str(file), "save_json": str(target), "imgsz": 64}
    try:
        with pytest.raises(
            FileNotFoundError, match=r"2 of 10 images are missing.*'val/gone.png', 'text.png'; .*skip_mi"
        ):
            evaluate(SHIPPED, **where)
        assert not target.exists()
        result = evaluate(SHIPPED, skip_missing=True, **where)
    finally:
        (folder / "images/val/text.png").unlink()
    assert (result.images, result.skipped) == (8, ["val/gone.png", "text.png"])
    assert json.loads(target.read_text())


def test_results_alone_for_a_test_server(digits, tmp_path):
    folder = digits.parent
    annotations = json.loads((folder / "annotations/instances_val.json").read_text())
    del annotations["annotations"]
    file, target = tmp_path / "a.json", tmp_path / "r.json"
    file.write_text(json.dumps(annotations))
    where = {"images": str(folder / "images/val"), "annotations": str(file), "imgsz": 64}
    with pytest.raises(ValueError, match="no annotations to evaluate on; add save_json="):
        evaluate(SHIPPED, **where)
    result = evaluate(SHIPPED, save_json=str(target), max_det=1, conf=0.0, **where)
    assert (result.metrics, result.classes, result.detections) == ({}, [], 8)
    assert len(json.loads(target.read_text())) == 8


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": ""}, ValueError, "model= is missing"),
        ({"images": ""}, ValueError, "images= is missing"),
        ({"model": "best.engine"}, ValueError, "neither a checkpoint"),
        ({"model": "gone.pt"}, FileNotFoundError, "gone.pt does not exist"),
        ({"images": "nowhere"}, FileNotFoundError, "nowhere is not a folder"),
        ({"conf": 1.5}, ValueError, "conf must be between 0 and 1, got 1.5"),
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"max_det": 0}, ValueError, "max_det must be at least 1"),
    ],
)
def test_wrong_arguments(tmp_path, changes, error, message):
    given = {"model": SHIPPED, "images": str(tmp_path), "annotations": str(small(tmp_path))} | changes
    with pytest.raises(error, match=message):
        evaluate(given.pop("model"), **given)


def test_failures_leave_no_results(tmp_path):
    target = tmp_path / "r.json"
    given = {"images": str(tmp_path), "annotations": str(small(tmp_path)), "save_json": str(target), "imgsz": 64}
    with pytest.raises(ValueError, match="the model has 10 classes, the annotation file 2 categories"):
        evaluate(SHIPPED, **given)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"broken.pt is truncated: copy it again"):
        evaluate(str(broken), **given)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])  # a good header, and nothing behind it
    named = [{"id": i + 1, "name": str(i)} for i in range(10)]
    given["annotations"] = str(write(tmp_path / "b.json", categories=named))
    with pytest.raises(FileNotFoundError, match=r"a.png.*truncated or corrupted"):
        evaluate(SHIPPED, **given)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.json", "a.png", "b.json", "b.png", "broken.pt"]
    with pytest.raises(OSError, match=r"cannot write .*r.json.*; choose another file with save_json="):
        evaluate(SHIPPED, **(given | {"save_json": str(tmp_path / "gone/r.json")}))
