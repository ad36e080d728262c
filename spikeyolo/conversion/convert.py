"""ANN to SNN without training: a neuron in place of each activation, with ranges calibrated on images."""

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import update_bn
from ultralytics.utils import LOGGER
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.torch_utils import select_device

from spikeyolo.assets import find_weights
from spikeyolo.conversion import bits_table, calibration
from spikeyolo.conversion.calibration import Ranges
from spikeyolo.conversion.spiking_copy import SpikingCopy
from spikeyolo.data.images import Images
from spikeyolo.files import sha256, whole_folder
from spikeyolo.network.checkpoints import free_file, open_detector, save_checkpoint, validate
from spikeyolo.network.real_valued import real_valued
from spikeyolo.network.sound import check_image_size
from spikeyolo.neurons import neurons_of
from spikeyolo.processor import use_all_cores


@dataclass
class Converted:
    """A converted network.

    Args:
        file: Its checkpoint; a .json of the same name has all numbers, and there is a .md and .png of a table.
        model: The network.
        ranges: How its ranges were chosen.
        images: Where calibration images came from.
        real_valued: What is not computed on spikes.
        before: mAP of the ANN.
        after: mAP of the spiking network.
        table: One entry per number of bits and way of choosing ranges, if asked for.
    """

    file: Path
    model: Any
    ranges: Ranges
    images: str
    real_valued: list[str]
    before: dict[str, float]
    after: dict[str, float]
    table: list[dict[str, Any]] = field(default_factory=list)


def convert(
    model: str | Path,
    *,
    data: str,
    ranges: Ranges | None = None,
    batchnorm: bool = False,
    table: bool = False,
    images: int = 128,
    imgsz: int = 0,
    batch: int = 16,
    device: str = "",
    project: str | Path = "",
    name: str = "",
    trust: bool = False,
) -> Converted:
    """Make a spiking network of a trained ANN, and evaluate both; nothing is trained.

    Args:
        model: Checkpoint (.pt) of an ANN twin of SpikeYOLO, or of a detector of Ultralytics' `Conv` blocks.
        data: Data set (YAML): its training images calibrate, its validation images evaluate.
        ranges: How ranges are chosen.
        batchnorm: Whether to estimate the BatchNorm statistics again, with neurons, on the calibration images.
        table: Whether to evaluate 3 to 9 bits with one range and with a range per layer.
        images: Number of calibration images.
        imgsz: Image size; 0 for the one that it was trained with.
        batch: Images at once.
        device: As for ``yolo``.
        project: Folder to write to; ``runs/convert`` of Ultralytics by default.
        name: Name of the files to write, without suffix; a number is added if they exist.
        trust: Whether to load the checkpoint as ``yolo`` does, which runs whatever program it holds.

    Raises:
        OSError: If a file is missing, or nothing can be written.
        ValueError: For a wrong argument, a network of which no spiking form is known, or another number of classes.
    """
    ranges = ranges or Ranges()
    if not str(model):
        raise ValueError("model= is missing, e.g. spikeyolo convert model=relu-spikeyolo-p.pt data=photo-digits.yaml")
    if min(images, batch) < 1 or imgsz < 0:
        raise ValueError(f"images and batch must be at least 1, got images={images}, batch={batch}, imgsz={imgsz}")
    check_image_size(imgsz or 640, "imgsz")
    yolo = open_detector(model, trust=trust)
    spiking_copy = SpikingCopy(yolo.model)
    network = spiking_copy.network
    size: Any = check_imgsz(imgsz or yolo.overrides.get("imgsz") or 640, stride=int(network.stride.max()))
    calibrating = Images.of_data(data, "train", images, classes=len(network.names))
    validation: dict[str, Any] = {"data": data, "imgsz": size, "batch": batch, "device": device}
    where = select_device(device, verbose=False)
    if where.type == "cpu":
        use_all_cores()
    network.to(where)

    LOGGER.info(f"calibrating on {calibrating.about}")
    batches = [torch.from_numpy(b).to(where) for b in calibrating.batches(batch, size, size)]
    potentials = calibration.observe(network.model, network, batches, spiking_copy.replaced)
    file = Path(model)
    target = free_file(name or f"{file.stem}-{ranges.planes}bit", project=project, folder="convert")
    arguments = {**yolo.overrides, "imgsz": size, "data": data}
    with whole_folder(target) as folder:
        before = validate(yolo, folder, **validation)
        spiking_copy.set_ranges(ranges.choose(potentials))
        if batchnorm:
            update_bn(batches, network)  # pyright: ignore[reportArgumentType] (any iterable)
        about: dict[str, Any] = {
            "file": file.name,
            "sha256": sha256(find_weights(file)),
            "ranges": asdict(ranges) | {"bits": ranges.planes},
            "images": calibrating.about,
            "batchnorm": batchnorm,
        }
        part = folder / target.name
        save_checkpoint(network, part, train_args=arguments, about={"converted": about})
        after = validate(open_detector(part, trust=trust), folder, **validation)
        done = Converted(target, network, ranges, calibrating.about, real_valued(network), before, after)
        if table:
            done.table = bits_table.evaluate(
                copy.deepcopy(spiking_copy), potentials, ranges, folder / "table.pt", validation
            )
        _write(folder, done, about)
        for made in sorted(folder.glob(f"{target.stem}.*"), key=lambda f: f.suffix == ".pt"):  # the checkpoint last
            made.replace(target.with_name(made.name))
    return done


def _write(folder: Path, done: Converted, about: dict[str, Any]) -> None:
    """Write all numbers beside the checkpoint."""
    neuron = done.model.yaml["neuron"]
    numbers = about | {
        "neuron": neuron,
        "real_valued": done.real_valued,
        "before": done.before,
        "after": done.after,
        "table": done.table,
    }
    stem = folder / done.file.stem
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    if done.table:
        stem.with_name(f"{stem.name}.md").write_text(bits_table.to_markdown(done.table, done.before, about))
        bits_table.draw(done.table, done.before, stem.with_name(f"{stem.name}.png"), about)


def summary(done: Converted) -> str:
    """Return what was done, and the mAP before and after."""
    widths = sorted(neuron.D for neuron in neurons_of(done.model).values())
    lines = [
        f"{len(widths)} neurons, {done.ranges}",
        f"ranges from {done.images}: D {widths[0]:.3g} to {widths[-1]:.3g}",
        f"real-valued: {'; '.join(done.real_valued)}",
        "",
        f"{'':<8} {'mAP50':>8} {'mAP50-95':>9}",
        f"{'ANN':<8} {done.before['mAP50']:8.4f} {done.before['mAP50-95']:9.4f}",
        f"{'spiking':<8} {done.after['mAP50']:8.4f} {done.after['mAP50-95']:9.4f}",
        f"{'change':<8} {done.after['mAP50'] - done.before['mAP50']:+8.4f} "
        f"{done.after['mAP50-95'] - done.before['mAP50-95']:+9.4f}",
    ]
    return "\n".join(lines)
