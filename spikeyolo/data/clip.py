"""The clip of the demo: digits of photo-digits that move over its photographs."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from spikeyolo.data.photo_digits import (
    PHOTOGRAPHS,
    SPLITS,
    FrozenRandom,
    Image,
    digit_scans,
    draw_ink,
    photograph_region,
)

CLIP_SCENES = (1, 0, 6)  # photographs of the clip: those with the largest val regions
CLIP_INKS = ((255, 255, 255), (0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (40, 40, 255))


def make_clip(file: Path, *, size: int = 384, frames: int = 120, fps: int = 15, seed: int = 0) -> None:
    """Write a video of moving digits over moving photographs, of the digits and photograph regions of val only.

    Args:
        file: MP4 file to write.
        size: Side in pixels.
        frames: Number of frames.
        fps: Frames per second.
        seed: Seed.

    Raises:
        OSError: If the file cannot be written.
    """
    rng = FrozenRandom(seed, len(SPLITS))
    scans, _ = digit_scans("val")
    regions = [photograph_region(PHOTOGRAPHS[i].read(), "val") for i in CLIP_SCENES]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), fps, (size, size))
    if not writer.isOpened():
        raise OSError(f"cannot write {file}; choose another folder")
    try:
        for scene, region in enumerate(regions):
            length = frames * (scene + 1) // len(regions) - frames * scene // len(regions)
            actors = [_Actor(rng, scans, size, corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))]
            for t in np.linspace(0, 1, max(length, 2))[:length]:
                canvas = _pan(region, float(t), size)
                for actor in actors:
                    actor.draw(canvas)
                writer.write(np.floor(canvas + 0.5).astype(np.uint8))
    finally:
        writer.release()


class _Actor:
    """A digit that starts in one quarter of the picture, moves in a straight line and bounces off the edges."""

    def __init__(self, rng: FrozenRandom, scans: NDArray[np.float64], size: int, corner: tuple[int, int]):
        self.ink = np.zeros((0, 0))
        while not size / 8 <= max(self.ink.shape) <= size / 3:
            self.ink = draw_ink(rng, scans[rng.below(len(scans))], scale=size / 192)[..., None]
        self.room = np.array([size - side for side in self.ink.shape[:2]])
        self.at = np.array([(c + rng.between(0, 1)) / 2 * side for c, side in zip(corner, self.room, strict=True)])
        self.step = np.array([rng.between(-1, 1) for _ in self.room]) * size / 96
        self.colour = np.array(CLIP_INKS[rng.below(len(CLIP_INKS))], np.float64)

    def draw(self, canvas: NDArray[np.float64]) -> None:
        """Draw the digit and move it on."""
        y, x = np.clip(self.at, 0, self.room).astype(int)
        patch = canvas[y : y + self.ink.shape[0], x : x + self.ink.shape[1]]
        patch[:] = patch * (1 - self.ink) + self.colour * self.ink
        outside = (self.at + self.step < 0) | (self.at + self.step > self.room)
        self.step[outside] *= -1
        self.at = self.at + self.step


def _pan(region: Image, t: float, size: int) -> NDArray[np.float64]:
    """Return the square window at t, 0 to 1, along the longer side of a region, resized to (size, size, 3)."""
    height, width = region.shape[:2]
    side = min(height, width)
    y, x = round(t * (height - side)), round(t * (width - side))
    return cv2.resize(region[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_CUBIC).astype(
        np.float64
    )
