"""photo-digits: a detection data set that makes itself, identical on every machine.

Handwritten digits (scikit-learn's 1,797 scans) in any colour, partly transparent, rotated and sheared, on crops of
photographs that ship inside the ultralytics, scikit-learn and scikit-image packages. Nothing is downloaded. Pixels are
computed with +, -, * and / on float64 from a frozen random stream and stored losslessly, so a seed gives the same
images everywhere.
"""

import hashlib
import importlib.util
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from ultralytics.utils import YAML
from ultralytics.utils.tqdm import TQDM

from spikeyolo.files import whole_folder

VERSION = 1  # of the generator: other pixels, other number
NAMES = [str(i) for i in range(10)]
SPLITS = ("train", "val")
VAL_SHARE = 0.25  # of each photograph, along its longer side
SMALLEST, LARGEST = 16, 96  # longer side of a digit's box, pixels
MOST_DIGITS = 6
MAX_OVERLAP = 0.1  # intersection over the smaller box
MIN_CONTRAST = 60  # ink against the mean background in at least one channel, of 255
MARKER = "photo-digits.json"
Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive


@dataclass(frozen=True)
class Photograph:
    """A photograph inside an installed package."""

    package: str
    file: str
    source: str
    licence: str

    def read(self) -> Image:
        """Return the photograph, (H, W, 3), BGR."""
        spec = importlib.util.find_spec(self.package)
        path = Path(spec.origin).parent / self.file if spec and spec.origin else Path(self.file)
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise FileNotFoundError(f"photo-digits needs {path}; remedy: pip install --force-reinstall {self.package}")
        return image.astype(np.uint8)


PHOTOGRAPHS = (
    Photograph("ultralytics", "assets/bus.jpg", "Ultralytics assets", "AGPL-3.0"),
    Photograph("ultralytics", "assets/zidane.jpg", "Ultralytics assets", "AGPL-3.0"),
    Photograph("sklearn", "datasets/images/china.jpg", "danielbuechele, Flickr", "CC BY 2.0"),
    Photograph("sklearn", "datasets/images/flower.jpg", "vultilion, Flickr", "CC BY 2.0"),
    Photograph("skimage", "data/astronaut.png", "NASA Great Images", "public domain"),
    Photograph("skimage", "data/chelsea.png", "Stefan van der Walt", "CC0"),
    Photograph("skimage", "data/coffee.png", "Rachel Michetti", "CC0"),
    Photograph(
        "skimage", "data/motorcycle_left.png", "Middlebury 2014 stereo benchmark", "none stated by scikit-image"
    ),
    Photograph("skimage", "data/rocket.jpg", "SpaceX", "public domain"),
    Photograph("skimage", "data/grass.png", "linolafett, DeviantArt", "CC0"),
    Photograph("skimage", "data/gravel.png", "CC0Textures Gravel04", "CC0"),
    Photograph("skimage", "data/brick.png", "CC0Textures Bricks25", "CC0"),
)


class FrozenRandom:
    """Uniform draws from NumPy's frozen generator (its stream may never change, unlike that of default_rng)."""

    def __init__(self, *seed: int):
        self._state = np.random.RandomState(list(seed))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._state.random_sample()

    def below(self, n: int) -> int:
        return int(self._state.random_sample() * n)


def make_photo_digits(
    path: str | Path, *, train: int = 2000, val: int = 400, imgsz: int = 192, seed: int = 0, progress: bool = True
) -> Path:
    """Make the data set: images/, labels/ (YOLO), annotations/ (COCO), photo-digits.yaml and photo-digits.json.

    Digits and photograph regions of train and val are disjoint: val takes the last fifth of the scans and
    a quarter of each photograph. Image i depends on the seed and i alone. The folder appears whole or not at all.

    Args:
        path: Folder to make; an existing photo-digits folder is replaced, any other is left alone.
        train: Number of training images.
        val: Number of validation images.
        imgsz: Side of the square images in pixels, at least 128.
        seed: Seed.
        progress: Whether to show a progress bar.

    Returns:
        Path of the data set's YAML file.

    Raises:
        ValueError: For numbers that make no data set.
        FileExistsError: If the folder holds something else.
        OSError: If the folder cannot be written (PermissionError without permission).
    """
    path = Path(path)
    options = {"train": train, "val": val, "imgsz": imgsz, "seed": seed}
    lowest = {"train": 1, "val": 1, "imgsz": 128, "seed": 0}
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or not lowest[name] <= value < 2**31:
            raise ValueError(f"photo-digits: {name} must be a whole number >= {lowest[name]}, got {value!r}")
    regions = {split: [photograph_region(photo.read(), split) for photo in PHOTOGRAPHS] for split in SPLITS}
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose another path for photo-digits")
    if path.is_dir() and any(path.iterdir()) and not (path / MARKER).is_file():
        raise FileExistsError(f"{path} holds something else than photo-digits; remove it or choose another path")
    try:
        with whole_folder(path) as part:
            digest = hashlib.sha256()
            with TQDM(total=train + val, desc="Making photo-digits", unit="images", disable=not progress) as bar:
                for split in SPLITS:
                    _make_split(part, split, regions[split], options, digest, bar)
            content = {**{s: f"images/{s}" for s in SPLITS}, "names": dict(enumerate(NAMES))}
            YAML.save(str(part / "photo-digits.yaml"), content)
            about = {
                "generator": VERSION,
                **options,
                "sha256_of_pixels_and_labels": digest.hexdigest(),
                "digits": "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak), UCI, as in scikit-learn",
                "photographs": [asdict(p) for p in PHOTOGRAPHS],
            }
            (part / MARKER).write_text(json.dumps(about, indent=2) + "\n")
            if path.is_dir():
                shutil.rmtree(path)
            part.replace(path)
    except OSError as e:
        why = "no permission to write" if isinstance(e, PermissionError) else "cannot write"
        raise type(e)(
            f"{why} photo-digits to {path} ({e.__cause__ or e}); choose another place: "
            "yolo settings datasets_dir=FOLDER, or path: in a copy of the YAML"
        ) from e
    return path / "photo-digits.yaml"


def _make_split(root: Path, split: str, regions: list[Image], options: dict[str, int], digest, bar) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    scans, classes = digit_scans(split)
    size = options["imgsz"]
    coco = {
        "info": {"description": f"photo-digits {split}, generator {VERSION}, seed {options['seed']}"},
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
    }

    def make(i: int) -> tuple[bytes, list[tuple[int, Box]]]:  # hash of the pixels, digits
        rng = FrozenRandom(options["seed"], SPLITS.index(split), i)
        image, drawn = draw(rng, regions, scans, classes, size)
        file = images / f"{i:012d}.png"
        if not cv2.imwrite(str(file), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{file} cannot be written")
        return hashlib.sha256(image.tobytes()).digest(), drawn

    # Each image has a random stream of its own: threads change nothing but the time.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, (pixel_hash, drawn) in enumerate(pool.map(make, range(options[split]))):
            coco["images"].append({"id": i, "file_name": f"{i:012d}.png", "width": size, "height": size})
            lines = []
            for digit, (x1, y1, x2, y2) in drawn:
                w, h = x2 - x1, y2 - y1
                xywh = ((x1 + w / 2) / size, (y1 + h / 2) / size, w / size, h / size)
                lines.append(f"{digit} " + " ".join(f"{v:.6f}" for v in xywh))
                annotation = {"image_id": i, "category_id": digit + 1, "bbox": [x1, y1, w, h], "area": w * h}
                coco["annotations"].append({"id": len(coco["annotations"]) + 1, **annotation, "iscrowd": 0})
            text = "\n".join(lines) + "\n"
            (labels / f"{i:012d}.txt").write_text(text)
            digest.update(pixel_hash + text.encode())
            bar.update(1)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))


def photograph_region(photo: Image, split: str) -> Image:
    """Return the part of a photograph that belongs to a split."""
    axis = int(photo.shape[1] > photo.shape[0])
    border = int(photo.shape[axis] * (1 - VAL_SHARE))
    return np.split(photo, [border], axis=axis)[SPLITS.index(split)]


def digit_scans(split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the digit scans of a split, (n, 8, 8) in 0..1, and their classes."""
    pixels, classes = load_digits(return_X_y=True)
    border = len(classes) * 4 // 5
    part = slice(0, border) if split == "train" else slice(border, None)
    return pixels[part].reshape(-1, 8, 8) / 16.0, classes[part]


def draw(
    rng: FrozenRandom, regions: list[Image], scans: NDArray[np.float64], classes: NDArray[np.int64], size: int
) -> tuple[Image, list[tuple[int, Box]]]:
    """Draw one image, (size, size, 3), and its digits with their boxes."""
    canvas = _background(rng, regions[rng.below(len(regions))], size)
    digits: list[tuple[int, Box]] = []
    wanted = 1 + rng.below(MOST_DIGITS)
    for _ in range(50):
        if len(digits) == wanted:
            break
        k = rng.below(len(scans))
        alpha = draw_ink(rng, scans[k])
        h, w = alpha.shape
        if not SMALLEST <= max(h, w) <= LARGEST:
            continue
        x, y = rng.below(size - w + 1), rng.below(size - h + 1)
        box = (x, y, x + w, y + h)
        if any(_overlap(box, other) > MAX_OVERLAP for _, other in digits):
            continue
        patch = canvas[y : y + h, x : x + w]
        mean = patch.mean((0, 1))
        colour = mean
        while np.abs(colour - mean).max() < MIN_CONTRAST:
            colour = np.array([rng.between(0, 255) for _ in range(3)])
        alpha = alpha[..., None] * rng.between(0.6, 1.0)
        patch[:] = patch * (1 - alpha) + colour * alpha
        digits.append((int(classes[k]), box))
    return np.floor(canvas + 0.5).astype(np.uint8), digits


def _background(rng: FrozenRandom, region: Image, size: int) -> NDArray[np.float64]:
    """Return a random crop of a region, (size, size, 3), flipped or not, a little brighter or darker."""
    longest = min(region.shape[:2])
    side = min(longest, int(rng.between(0.5 * size, 2.5 * size)))
    y, x = rng.below(region.shape[0] - side + 1), rng.below(region.shape[1] - side + 1)
    crop = region[y : y + side, x : x + side].astype(np.float64)
    if rng.below(2):
        crop = crop[:, ::-1]
    while crop.shape[0] >= 2 * size:  # average before sampling
        even = crop.shape[0] // 2 * 2
        crop = crop[:even, :even]
        crop = (crop[::2, ::2] + crop[1::2, ::2] + crop[::2, 1::2] + crop[1::2, 1::2]) / 4
    at = np.clip((np.arange(size) + 0.5) * (crop.shape[0] / size) - 0.5, 0, crop.shape[0] - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, crop.shape[0] - 1)
    part = at - low
    crop = crop[low] * (1 - part)[:, None, None] + crop[high] * part[:, None, None]
    crop = crop[:, low] * (1 - part)[:, None] + crop[:, high] * part[:, None]
    return np.clip(crop * rng.between(0.7, 1.2), 0, 255)


def draw_ink(rng: FrozenRandom, scan: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.float64]:
    """Return a scan scaled, rotated and sheared: opacity 0..1, cut to the ink, (h, w)."""
    u = rng.between(SMALLEST / LARGEST, 1)
    zoom = u * u * LARGEST / 8 * scale  # pixels per scan pixel; small digits are more frequent
    half = rng.between(-0.2, 0.2)  # tangent of half the angle, +-23 degrees; no libm, so the same everywhere
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    shear = rng.between(-0.3, 0.3)
    n = int(16 * zoom)
    at = (np.arange(n) + 0.5 - n / 2) / zoom
    y, x = np.meshgrid(at, at, indexing="ij")
    x, y = cos * x + sin * y, cos * y - sin * x
    x = x + shear * y
    inside = (np.abs(y) < 4.5) & (np.abs(x) < 4.5)
    opacity = _bilinear(np.pad(scan, 1), y + 4.5, x + 4.5) * inside
    opacity = np.clip((opacity - 0.2) * 2, 0, 1)
    rows, columns = np.flatnonzero(opacity.max(1) > 0.1), np.flatnonzero(opacity.max(0) > 0.1)
    if not len(rows):
        return np.zeros((0, 0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _bilinear(image: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample (H, W) at real coordinates, edges repeated: the shape of ``y`` and ``x``."""
    y, x = np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    y1, x1 = np.minimum(y0 + 1, image.shape[0] - 1), np.minimum(x0 + 1, image.shape[1] - 1)
    fy, fx = y - y0, x - x0
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection of two boxes over the area of the smaller one."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(w, 0) * max(h, 0) / smaller
