"""Draw the pictures of the README from the shipped weights, and the clip that the demo shows.

python tools/draw_demo.py                # docs/demo.webp: the demo on the clip
python tools/draw_demo.py clip=True      # weights/photo-digits.mp4 before
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2
from PIL import Image

from spikeyolo.assets import CLIP
from spikeyolo.data.clip import make_clip
from spikeyolo.files import whole_file
from spikeyolo.show.demo import demo

DOCS = Path(__file__).resolve().parents[1] / "docs"
EVERY, SHARE = 3, 0.75  # which frames are drawn, their size


def main() -> None:
    """Draw."""
    if "clip=True" in sys.argv[1:]:
        with whole_file(CLIP, "make the folder") as part:
            make_clip(part)
    with tempfile.TemporaryDirectory() as folder:
        run = demo(model="ibra-spikeyolo-p.pt", show="false", save="true", project=folder)
        capture, pictures = cv2.VideoCapture(str(run.target)), []
        while (answer := capture.read())[0]:
            small = cv2.resize(answer[1], None, fx=SHARE, fy=SHARE, interpolation=cv2.INTER_AREA)
            pictures.append(Image.fromarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)))
        fps = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
    target = DOCS / "demo.webp"
    with whole_file(target, "make the folder") as part:
        chosen = pictures[::EVERY]
        chosen[0].save(
            part, save_all=True, append_images=chosen[1:], duration=round(1000 * EVERY / fps), loop=0, quality=50
        )
    print(f"wrote {target}, {target.stat().st_size / 1e6:.1f} MB, {len(chosen)} frames; {run.layer}")


if __name__ == "__main__":
    main()
