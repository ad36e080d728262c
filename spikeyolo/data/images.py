"""Images to run a network on: from any source of ``yolo predict`` or a split of a data set, letterboxed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ultralytics.data.augment import LetterBox
from ultralytics.data.base import BaseDataset
from ultralytics.data.build import load_inference_source
from ultralytics.data.loaders import LoadImagesAndVideos
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import ASSETS

Batch = NDArray[np.float32]


class Images:
    """Images, read one after the other. Those that cannot be read are named by Ultralytics, skipped, and listed here.

    Args:
        reader: Ultralytics' loader, for single images.
        limit: Largest number of images to read.
        about: Where they come from, in words.

    Attributes:
        skipped: Files that could not be read.
        count: Number of images that will be read, as far as known: unreadable ones included, a video's frames not.

    Raises:
        ValueError: If the limit is not positive.
    """

    def __init__(self, reader: Any, limit: int, about: str):
        if limit < 1:
            raise ValueError(f"images must be at least 1, got {limit}")
        self.reader, self.limit, self.about = reader, limit, about
        self.skipped: list[str] = []
        images = isinstance(reader, LoadImagesAndVideos) and not any(reader.video_flag)
        self.count = min(limit, reader.nf) if images else limit

    @classmethod
    def of_source(cls, source: str | Path, limit: int) -> Images:
        """Read the first images of a source; of Ultralytics' own images if it is empty.

        Raises:
            FileNotFoundError: If there is none.
        """
        try:
            return cls(load_inference_source(str(source) or ASSETS), limit, f"{source or ASSETS}")
        except FileNotFoundError as e:
            raise FileNotFoundError(str(e).splitlines()[0]) from e  # the formats that it knows fill the next lines

    @classmethod
    def of_data(cls, data: str, split: str, limit: int, *, classes: int = 0) -> Images:
        """Read images of a data set, spread evenly over a split.

        Args:
            data: Data set (YAML).
            split: Its split.
            limit: Largest number of images.
            classes: Number of classes that it must have; 0 for any.

        Raises:
            FileNotFoundError: If the data set, the split or its images are missing.
            ValueError: If it is no data set, or has another number of classes.
        """
        if not data:
            raise ValueError("data= is missing, e.g. data=photo-digits.yaml")
        try:
            dataset: dict[str, Any] = check_det_dataset(data)
        except SyntaxError as e:  # how Ultralytics names a missing key
            raise ValueError(f"data={data} is no data set: {str(e).splitlines()[0]}") from e
        if classes and dataset["nc"] != classes:
            raise ValueError(f"{data} has {dataset['nc']} classes, the model {classes}; they must be the same")
        if not dataset.get(split):
            known = [key for key in ("train", "val", "test") if dataset.get(key)]
            raise FileNotFoundError(f"{data} has no split {split!r}; splits are {', '.join(known)}")
        try:
            files = BaseDataset.get_img_files(SimpleNamespace(prefix="", fraction=1.0), dataset[split])  # pyright: ignore[reportArgumentType] (all that it reads)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"split {split!r} of {data} has no images in {dataset[split]}") from e
        chosen = np.linspace(0, len(files) - 1, min(max(limit, 1), len(files))).round().astype(int)
        about = f"{len(chosen)} of {len(files)} images of split {split} of {data}, spread evenly"
        return cls(LoadImagesAndVideos([files[i] for i in chosen]), limit, about)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield images (H, W, 3), BGR."""
        seen: set[str] = set()
        left = self.limit
        for paths, frames, _ in self.reader:
            seen.update(paths)
            yield from frames[:left]
            left -= len(frames)
            files = getattr(self.reader, "files", [])
            self.skipped = [f for f in files[: getattr(self.reader, "count", 0)] if f not in seen]
            if left <= 0:
                return
        self.skipped = [f for f in getattr(self.reader, "files", []) if f not in seen]
        if not seen:
            raise FileNotFoundError(f"no image could be read from {self.about}")

    def batches(self, batch: int, height: int, width: int) -> Iterator[Batch]:
        """Yield letterboxed batches (batch, 3, height, width), RGB in [0, 1]; the last may be smaller."""
        fit = LetterBox((height, width), auto=False)
        pending: list[Batch] = []
        for frame in self:
            pending.append(np.asarray(fit(image=frame))[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255)
            if len(pending) == batch:
                yield np.stack(pending)
                pending = []
        if pending:
            yield np.stack(pending)
