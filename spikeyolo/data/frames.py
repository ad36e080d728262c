"""Frames of a camera, stream, video, image or folder, until it ends."""

from __future__ import annotations

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from ultralytics.data.utils import VID_FORMATS

from spikeyolo.data.images import Images

Picture = NDArray[np.uint8]
LIVE_FPS = 10  # frames per second of what is recorded from a live source
PATIENCE = 20.0  # seconds without a frame after which a live source has ended
STREAMS = ("rtsp://", "rtmp://", "tcp://", "udp://", "http://", "https://")


class Frames(ABC):
    """Frames (H, W, 3), BGR, of a source, until it ends.

    Attributes:
        name: What it is called in file names and progress.
        fps: Frames per second to write.
        count: Number of frames, None if unknown.
        live: Whether frames come in their own time; those that come too fast are left out.
        problem: Why the source ended before its end.
    """

    name: str
    fps: float
    count: int | None
    live = False
    problem = ""

    @staticmethod
    def open(source: str) -> Frames:
        """Open a camera (number), stream, video, image or folder.

        Raises:
            OSError: If it cannot be opened.
        """
        if source.isdecimal() or source.lower().startswith(STREAMS):
            return _Capture(source)
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"source={source} does not exist; give a camera number, video, stream or folder")
        if path.is_file() and path.suffix[1:].lower() in VID_FORMATS:
            return _Capture(source)
        return _Pictures(source)

    @abstractmethod
    def __iter__(self) -> Iterator[Picture]: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the source."""


class _Pictures(Frames):
    """Images of a folder, a second each."""

    fps = 1.0

    def __init__(self, source: str):
        self.images = Images.of_source(source, sys.maxsize)
        self.name = Path(source).stem or "images"
        self.count = self.images.count if self.images.count < sys.maxsize else None  # with videos among them

    def __iter__(self) -> Iterator[Picture]:
        yield from self.images
        if skipped := self.images.skipped:
            self.problem = f"{len(skipped)} files could not be read: {', '.join(skipped[:3])}"

    def close(self) -> None:
        """Files are closed already."""


class _Capture(Frames):
    """A camera, a stream or a video file."""

    def __init__(self, source: str):
        self.source = source
        # What OpenCV and FFmpeg print about files that they cannot open is said in one line here.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self.capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        kind = "camera" if source.isdecimal() else "stream" if "://" in source else "video"
        if not self.capture.isOpened():
            remedy = {"camera": "try another number", "stream": "check the address", "video": "copy it again"}[kind]
            raise OSError(f"{kind} {source} cannot be opened; {remedy}")
        count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.live = kind != "video" and count <= 0
        self.count = count if count > 0 and not self.live else None
        fps = self.capture.get(cv2.CAP_PROP_FPS)
        self.fps = LIVE_FPS if self.live or not 1 <= fps <= 240 else fps
        self.name = f"{kind}-{source}" if kind == "camera" else Path(source.split("?")[0]).stem or kind

    def __iter__(self) -> Iterator[Picture]:
        if self.live:
            yield from self._latest()
            return
        read = 0
        while (picture := self._read()) is not None:
            read += 1
            yield picture
        # The number of frames in a header may be off by a few.
        if not read or read < (self.count or 0) * 0.95 - 2:
            self.problem = f"{self.source} is broken after frame {read} of {self.count or 'an unknown number'}"

    def _read(self) -> Picture | None:
        good, picture = self.capture.read()
        return picture.astype(np.uint8, copy=False) if good else None

    def _latest(self) -> Iterator[Picture]:
        """Yield the newest frame each time: a slow network must not fall behind a camera."""
        newest: deque[Picture] = deque(maxlen=1)
        ready, ended = threading.Event(), threading.Event()

        def read() -> None:
            try:
                while not ended.is_set() and (picture := self._read()) is not None:
                    newest.append(picture)
                    ready.set()
            finally:
                ended.set()
                ready.set()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while ready.wait(PATIENCE):
                ready.clear()
                if newest:
                    yield newest.pop()
                elif ended.is_set():
                    return
                if ended.is_set():
                    ready.set()
            self.problem = f"{self.source} gave no frame for {PATIENCE:g} s"
        finally:
            ended.set()
            thread.join(timeout=2)

    def close(self) -> None:
        self.capture.release()
