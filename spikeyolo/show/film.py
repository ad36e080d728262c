"""Write pictures to an MP4 file."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import cv2
from ultralytics.utils.files import increment_path

from spikeyolo.data.frames import Frames, Picture
from spikeyolo.files import make_folder


class Film:
    """Write pictures to an MP4 in a folder that is made with the first of them."""

    def __init__(self, folder: Path, frames: Frames):
        self.folder, self.frames = folder, frames
        self.target: Path | None = None
        self.writer: cv2.VideoWriter | None = None
        self.started, self.written = 0.0, 0

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer:
            self.writer.release()

    def write(self, picture: Picture) -> None:
        """Write a picture; from a live source as often as its time lasts."""
        if self.writer is None:
            self.writer = self._open(picture)
            self.started = time.perf_counter()
        due = 1
        if self.frames.live:
            due = int((time.perf_counter() - self.started) * self.frames.fps) + 1 - self.written
        for _ in range(due):
            self.writer.write(picture)
            self.written += 1

    def _open(self, picture: Picture) -> cv2.VideoWriter:
        folder = increment_path(self.folder)
        make_folder(folder)
        self.target = folder / f"{self.frames.name}.mp4"
        size = picture.shape[1], picture.shape[0]
        writer = cv2.VideoWriter(str(self.target), cv2.VideoWriter.fourcc(*"mp4v"), self.frames.fps, size)
        if not writer.isOpened():
            shutil.rmtree(folder)
            raise OSError(
                f"cannot write {self.target}: OpenCV has no MP4 encoder here; show=True opens a window instead"
            )
        return writer
