import json
import os

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import YAML

from spikeyolo.data import photo_digits as data
from spikeyolo.data.photo_digits import LARGEST, PHOTOGRAPHS, SMALLEST, make_photo_digits

DIGEST = "e711e2e7424ccee749c6027ba487dd1b04050aa796ad94ac950ad16ca88d2cb3"  # of the fixture, made on Linux x86-64


def test_is_the_same_on_every_machine(digits):
    about = json.loads((digits.parent / "photo-digits.json").read_text())
    assert about["sha256_of_pixels_and_labels"] == DIGEST


def test_a_seed_is_a_data_set(tmp_path, digits):
    def digest(name, **options):
        options = {"train": 3, "val": 2, "imgsz": 128, "progress": False} | options
        file = make_photo_digits(tmp_path / name, **options)
        return json.loads((file.parent / "photo-digits.json").read_text())["sha256_of_pixels_and_labels"]

    assert digest("a") == digest("b")
    assert digest("a") != digest("c", seed=1)
    first = digits.parent / "images" / "train" / "000000000002.png"  # image i depends on the seed and i alone
    assert np.array_equal(cv2.imread(str(first)), cv2.imread(str(tmp_path / "a/images/train/000000000002.png")))


@pytest.mark.parametrize("split", ["train", "val"])
def test_yolo_labels_and_coco_annotations_agree(digits, split):
    root = digits.parent
    coco = COCO(root / f"annotations/instances_{split}.json")
    files = sorted((root / "images" / split).iterdir())
    assert len(files) == len(coco.imgs) == {"train": 24, "val": 8}[split]
    for file in files:
        height, width = cv2.imread(str(file)).shape[:2]
        annotations = coco.imgToAnns[int(file.stem)]
        rows = [line.split() for line in (root / "labels" / split / f"{file.stem}.txt").read_text().splitlines()]
        assert 1 <= len(rows) == len(annotations) <= 6
        for (c, x, y, w, h), a in zip(rows, annotations, strict=True):
            assert coco.cats[a["category_id"]]["name"] == c
            left, top, wide, high = a["bbox"]
            assert SMALLEST <= max(wide, high) <= LARGEST
            assert left >= 0 <= top
            assert left + wide <= width
            assert top + high <= height
            expected = [(left + wide / 2) / width, (top + high / 2) / height, wide / width, high / height]
            assert np.allclose([float(v) for v in (x, y, w, h)], expected, atol=1e-6)


def test_splits_are_disjoint():
    train, val = data.digit_scans("train")[0], data.digit_scans("val")[0]
    assert len(train) + len(val) == 1797
    for photo in PHOTOGRAPHS:
        image = photo.read()
        parts = [data.photograph_region(image, split) for split in ("train", "val")]
        assert sum(p.shape[0] * p.shape[1] for p in parts) == image.shape[0] * image.shape[1]
        assert min(parts[1].shape[:2]) >= 100


def test_overlap():
    assert data._overlap((0, 0, 10, 10), (5, 5, 25, 25)) == 0.25
    assert data._overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_makes_itself_on_first_use(tmp_path, monkeypatch):
    d = YAML.load(data.Path(data.__file__).parents[2] / "cfg/datasets/photo-digits.yaml")
    file = tmp_path / "mine.yaml"
    YAML.save(file, d | {"path": str(tmp_path / "made"), "make": {"train": 2, "val": 2, "imgsz": 128}})
    found = check_det_dataset(str(file))
    assert len(list((tmp_path / "made/images/val").iterdir())) == 2
    assert found["nc"] == 10


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def broken(*args):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("disk on fire")
        return original(*args)

    original = data.draw
    monkeypatch.setattr(data, "draw", broken)
    with pytest.raises(RuntimeError, match="disk on fire"):
        make_photo_digits(tmp_path / "digits", train=9, val=2, imgsz=128, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_leaves_what_is_not_its_own(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(FileExistsError, match="holds something else than photo-digits; remove it or choose"):
        make_photo_digits(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"dear"
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        make_photo_digits(tmp_path / "file")


def test_no_permission_is_one_clear_error(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    if os.geteuid() == 0:  # root may write everywhere
        monkeypatch.setattr(data.Path, "mkdir", denied)
    else:
        tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=r"no permission to write photo-digits to .*datasets_dir=FOLDER"):
        make_photo_digits(tmp_path / "digits")


@pytest.mark.parametrize("options", [{"train": 0}, {"val": -1}, {"imgsz": 64}, {"seed": -1}, {"train": 2.5}])
def test_bad_numbers_are_named(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a whole number >= "):
        make_photo_digits(tmp_path / "digits", **options)
    assert list(tmp_path.iterdir()) == []
