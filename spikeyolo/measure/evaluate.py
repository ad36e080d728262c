"""Accuracy, spikes and energy of one model file."""

from pathlib import Path
from typing import Any

from spikeyolo.data.images import Images
from spikeyolo.measure.counting import CountedModel
from spikeyolo.measure.energy import MODELS, estimate

COUNTED = 64  # images whose spikes are counted
PRICE = MODELS["45nm-float32"]
Row = dict[str, Any]


def measure(file: Path, validation: dict[str, Any], *, planes: int | None = None) -> Row:
    """Evaluate a checkpoint in deploy form (or an ANN) and count.

    Args:
        file: Checkpoint.
        validation: Arguments of ``yolo val``.
        planes: Most planes of the codes of a spiking network, as for `deploy`.

    Returns:
        mAP50, mAP50-95; per image of the validation split ``energy_uj`` and, of a spiking network, ``spikes`` and
        ``spikes_per_code``.
    """
    data, imgsz, device = validation["data"], validation["imgsz"], validation["device"]
    model = CountedModel.open(str(file), imgsz=imgsz, device=device, planes=planes)
    for batch in Images.of_data(data, "val", COUNTED).batches(model.batch, model.height, model.width):
        model.run(batch)
    recording = model.recording
    counted = {"energy_uj": estimate(recording, "spikes" if model.spiking else "ann", PRICE).total / 1e6}
    if model.spiking:
        spikes = recording.total("spikes")
        counted |= {"spikes": spikes / recording.images, "spikes_per_code": spikes / recording.total("codes")}
    return model.val(file.parent, data=data, batch=validation["batch"]) | counted
