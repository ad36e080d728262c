"""The live demo: boxes on a video and, beside them, the spikes that found them.

Every frame is one run of the network, which gives boxes, exact counts and the codes of one layer. What is written is
playable at any time that the program can end: the file is closed also after an error or an interrupt.
"""

import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.engine.results import Results
from ultralytics.utils import RUNS_DIR
from ultralytics.utils.checks import check_imshow
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes
from ultralytics.utils.tqdm import TQDM

from spikeyolo.assets import CLIP
from spikeyolo.data.frames import Frames, Picture
from spikeyolo.measure.counting import CountedModel
from spikeyolo.measure.energy import EnergyModel, estimate, find_models
from spikeyolo.measure.spikes import Recording
from spikeyolo.show.film import Film
from spikeyolo.show.panel import HEIGHT, Panel

WIDEST = 960  # video, pixels


@dataclass
class DemoRun:
    """What a demo has done.

    Args:
        target: File that was written, None if only shown.
        layer: Layer whose planes are shown.
        frames: Number of frames.
        seconds: From the first frame to the last, everything included.
        spikes: Number of spikes in all frames.
        energy_pj: Modelled energy of all frames, on binary spikes ("spikes") and in the relu twin ("ann").
        problem: Why it ended early, if it did.
    """

    target: Path | None = None
    layer: str = ""
    frames: int = 0
    seconds: float = 0.0
    spikes: int = 0
    energy_pj: Counter[str] = field(default_factory=Counter)
    problem: str = ""


def demo(
    source: str = "",
    *,
    model: str = "ibra-spikeyolo-p.pt",
    imgsz: int = 0,
    conf: float = 0.25,
    iou: float = 0.7,
    layer: str = "",
    preset: str = "45nm-float32",
    show: str = "auto",
    save: str = "auto",
    device: str = "",
    project: str = "",
    name: str = "demo",
    trust: bool = False,
) -> DemoRun:
    """Detect on a video and show boxes, spikes and modelled energy.

    Args:
        source: Camera number, video, stream, image or folder; the clip that ships with the package if empty.
        model: Spiking checkpoint (.pt) or exported graph (.onnx).
        imgsz: Image size; 0 for the one that the model was trained or exported with.
        conf: Least confidence of a box.
        iou: Overlap above which non-maximum suppression drops a box.
        layer: Convolution whose incoming planes are shown; the most varied one of the highest resolution if empty.
        preset: Energy model.
        show: Open a window: true, false, or auto (if there is a display).
        save: Write an MP4: true, false, or auto (if no window is shown).
        device: As for ``yolo``.
        project: Folder of results; the ``runs`` folder of Ultralytics by default.
        name: Name of the result; a number is added where it exists.
        trust: Whether to load a checkpoint as ``yolo`` does, which runs whatever program it holds.

    Raises:
        OSError: If the source cannot be opened, gives no frame, or the file cannot be written.
        ValueError: For a wrong argument, or a model without neurons.
    """
    for key, value in {"conf": conf, "iou": iou}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{key} must be between 0 and 1, got {value:g}")
    shown, saved = _outputs(show, save)
    price, *others = find_models(preset)
    if others:
        raise ValueError(f"the demo shows one energy model, got preset={preset}")
    network = CountedModel.open(model, imgsz=imgsz, device=device, fast=True, trust=trust)
    if not network.spiking:
        raise ValueError(
            f"model={model} is an ANN: it has no spikes to show; see boxes with: yolo predict model={model}"
        )
    frames = Frames.open(source or str(CLIP))
    run = DemoRun(layer=layer)
    with contextlib.ExitStack() as stack:
        stack.callback(frames.close)
        bar = TQDM(total=frames.count, desc=f"{frames.name}", unit="frames")
        stack.callback(bar.close)
        if shown:
            stack.callback(cv2.destroyAllWindows)
        screen = _Screen(network, price, conf, iou, run)
        recorder = stack.enter_context(Film(Path(project or RUNS_DIR) / name, frames)) if saved else None
        start = time.perf_counter()
        try:
            for frame in frames:
                picture = screen.draw(frame)
                if recorder:
                    recorder.write(picture)
                    run.target = recorder.target
                bar.update(1)
                if shown and not _shown(picture):
                    break
        except KeyboardInterrupt:
            run.problem = "interrupted"
        run.seconds = time.perf_counter() - start
        run.problem = run.problem or frames.problem
    if not run.frames:
        raise OSError(run.problem or f"source={source} gives no frame")
    return run


def _outputs(show: str, save: str) -> tuple[bool, bool]:
    """Return whether to open a window and whether to write a file."""
    words = {"auto": None, "true": True, "1": True, "false": False, "0": False}
    for key, value in {"show": show, "save": save}.items():
        if value.lower() not in words:
            raise ValueError(f"{key} must be True, False or auto, got {value!r}")
    wanted = words[show.lower()]
    shown = check_imshow() if wanted is not False else False
    if wanted and not shown:
        raise ValueError("show=True needs a display and there is none; leave it away to write a video")
    saved = words[save.lower()]
    return shown, (not shown if saved is None else saved)


def _shown(picture: Picture) -> bool:
    """Show a picture; return False once the user has closed the window or pressed q or Esc."""
    title = "spikeyolo"
    cv2.imshow(title, picture)
    key = cv2.waitKey(1) & 0xFF
    return key not in (ord("q"), 27) and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1


class _Screen:
    """Detect on frames, and draw them with the spikes beside."""

    def __init__(self, network: CountedModel, price: EnergyModel, conf: float, iou: float, run: DemoRun):
        self.network, self.price, self.run = network, price, run
        self.conf, self.iou = conf, iou
        self.fit = LetterBox((network.height, network.width), auto=False)
        self.size: tuple[int, int] | None = None  # of the video in the picture, width and height
        self.panel: Panel | None = None
        self.twin_pj = 0.0
        self.times: deque[float] = deque(maxlen=20)

    def draw(self, frame: Picture) -> Picture:
        """Return the picture (HEIGHT, width, 3), BGR, of a frame."""
        self.times.append(time.perf_counter())
        if self.size is None:
            scale = min(HEIGHT / frame.shape[0], WIDEST / frame.shape[1])
            self.size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
        image = np.asarray(self.fit(image=frame))[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
        if not self.run.frames:
            self._choose(image)
        seen = self.network.observe(image, self.run.layer)
        assert seen.codes is not None
        assert self.panel is not None
        now = Recording(seen.layers)
        energies = {"spikes": estimate(now, "spikes", self.price).total, "ann": self.twin_pj}
        video = self._boxes(frame, seen.outputs)
        picture = np.hstack([video, self.panel.draw(seen.codes[0], now, energies, self._speed())])
        self.run.frames += 1
        self.run.spikes += now.total("spikes")
        self.run.energy_pj.update(energies)
        return picture

    def _choose(self, image: NDArray[np.float32]) -> None:
        """Choose the layer to show, if none was asked for, and its most varied channel."""
        recording = Recording(self.network.observe(image).layers)
        layers = {layer.name: layer for layer in recording.spiking}
        if self.run.layer and self.run.layer not in layers:
            raise ValueError(f"layer={self.run.layer} is no spiking layer; layers are {', '.join(layers)}")
        self.run.layer = self.run.layer or recording.most_varied.name
        _, channel = self.network.observe(image, self.run.layer).varied_channel()
        planes = max(layer.planes for layer in recording.spiking)
        self.panel = Panel(layers[self.run.layer], channel, len(layers), planes, self.price.name)
        self.twin_pj = estimate(recording, "ann", self.price).total  # the same for every image

    def _boxes(self, frame: Picture, outputs: Tensor) -> Picture:
        """Return the frame with its boxes, on a canvas of HEIGHT."""
        assert self.size
        kept: Any = non_max_suppression(outputs, self.conf, self.iou)[0]
        scale = min(self.size[0] / frame.shape[1], self.size[1] / frame.shape[0])
        shown = cv2.resize(frame, (round(frame.shape[1] * scale), round(frame.shape[0] * scale)))
        kept[:, :4] = scale_boxes((self.network.height, self.network.width), kept[:, :4], shown.shape)
        drawn = Results(shown, path="", names=self.network.names, boxes=kept[:, :6]).plot(line_width=2)
        canvas = np.zeros((HEIGHT, self.size[0], 3), np.uint8)
        top, left = (HEIGHT - drawn.shape[0]) // 2, (self.size[0] - drawn.shape[1]) // 2
        canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        return canvas

    def _speed(self) -> str:
        """Return the frames per second of the last frames, everything included."""
        if len(self.times) < 2:
            return ""
        return f"{(len(self.times) - 1) / (self.times[-1] - self.times[0]):.1f} frames/s"
