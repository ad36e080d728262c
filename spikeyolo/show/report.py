"""Spikes and energy of models, side by side: counted on images, priced, written as text, JSON, HTML and pictures."""

import json
import platform
import re
import shutil
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.utils import LOGGER, RUNS_DIR
from ultralytics.utils.files import increment_path
from ultralytics.utils.tqdm import TQDM

import spikeyolo
from spikeyolo.data.images import Batch, Images
from spikeyolo.files import whole_folder
from spikeyolo.measure.counting import CountedModel, describe
from spikeyolo.measure.energy import RIVALS, SCHEMES, EnergyModel, estimate, find_models, schemes_of
from spikeyolo.measure.spikes import LayerSpikes, Recording
from spikeyolo.show import pictures
from spikeyolo.show.render import to_html, to_markdown

DENSE_SUMS = ("macs", "factored_macs", "synapses")  # numbers of a layer that add up, in an ANN too
SPIKE_SUMS = ("codes", "spikes", "unary_spikes", "synops", "unary_synops", "nonzero_synops")
LAYER_NUMBERS = ("operand", "D_N", "N", "T", "planes", "weights", "mean_code", "max_code")  # that do not
LAYER_NUMBERS += ("zero_share", "ceiling_share", "dead_share", "entropy")


def report(
    models: str,
    *,
    data: str = "",
    source: str = "",
    images: int = 200,
    imgsz: int = 0,
    split: str = "val",
    preset: str = "",
    device: str = "",
    project: str = "",
    name: str = "report",
    trust: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Count the spikes of models on images, estimate their energy, and write a report.

    Args:
        models: Checkpoints (.pt) and exported graphs (.onnx), comma-separated; the first spiking one is compared with
            what the others need.
        data: Data set (YAML); its images are counted, and mAP is computed on the whole split.
        source: Images, a folder or a video, as for ``yolo predict``, in place of ``data``.
        images: Largest number of images to count.
        imgsz: Image size of checkpoints; 0 for the one that each was trained with.
        split: Split of the data set.
        preset: Energy models, comma-separated; all by default.
        device: Where checkpoints run.
        project: Folder of reports; the ``runs`` folder of Ultralytics by default.
        name: Name of the report; a number is added where it exists.
        trust: Whether to load checkpoints as ``yolo`` does, which runs whatever programs they hold.

    Returns:
        The folder that was written, and the content of its report.json. It is partial after an interrupt
        (``complete`` is False).

    Raises:
        OSError: If a file is missing, nothing can be read, or the folder cannot be written.
        ValueError: For a wrong argument, or if no model has neurons.
    """
    files = list(dict.fromkeys(part.strip() for part in models.split(",") if part.strip()))
    if not files:
        raise ValueError("model= is missing, e.g. spikeyolo report model=best.pt data=photo-digits.yaml")
    if bool(data) == bool(source):
        given = "both are given" if data else "neither is given"
        raise ValueError(f"data= (a data set) or source= (images, a folder, a video) is needed, {given}")
    prices = find_models(preset)
    opened = [CountedModel.open(file, imgsz=imgsz, device=device, trust=trust) for file in files]
    _check_neurons(opened)
    with whole_folder(Path(project or RUNS_DIR) / name) as folder:
        result: dict[str, Any] = {
            "note": "Energy is modelled, not measured.",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "complete": True,
            "versions": _versions(),
            "presets": {price.name: asdict(price) for price in prices},
            "models": [],
        }
        firsts: list[Batch] = []
        for label, model in zip(_labels(files), opened, strict=True):
            reader = Images.of_data(data, split, images) if data else Images.of_source(source, images)
            complete, first = _count(model, reader, label)
            metrics = _validate(model, data, split, folder) if data and complete else None
            result["complete"] &= complete and metrics != {}
            if first is not None:
                firsts.append(first)
                entry = {"label": label, **describe(model), "imgsz": [model.height, model.width], "complete": complete}
                entry |= {"images": _about(reader, model.recording), "metrics": metrics or None}
                result["models"].append(entry | _numbers(model.recording, prices))
            if not result["complete"]:
                break
        if not firsts:
            raise KeyboardInterrupt
        _write(folder, result, opened[: len(firsts)], firsts)
        target = increment_path(Path(project or RUNS_DIR) / name)
        folder.rename(target)
    return target, result


def _write(folder: Path, result: dict[str, Any], models: list[CountedModel], images: list[Batch]) -> None:
    """Write all files of a report; an interrupt costs the pictures only."""
    try:
        drawn = pictures.draw(folder, result, models, images)
    except KeyboardInterrupt:
        LOGGER.warning("interrupted while drawing: the report has no pictures")
        result["complete"], drawn = False, {}
    (folder / "report.json").write_text(_json(result) + "\n")
    (folder / "report.md").write_text(to_markdown(result, drawn))
    (folder / "report.html").write_text(to_html(result, drawn, folder))


def _json(result: dict[str, Any]) -> str:
    """Return indented JSON with lists of numbers on one line each."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\n\s*", "", m[0]), json.dumps(result, indent=1))


def _check_neurons(models: list[CountedModel]) -> None:
    if not any(model.spiking for model in models):
        names = ", ".join(str(model.file) for model in models)
        raise ValueError(
            f"{names}: an ANN (no neurons), so there are no spikes to count; train a spiking model "
            "(yolo train model=ibra-spikeyolo-p.yaml), or name one beside it: model=spiking.pt,ann.pt"
        )


def _labels(files: list[str]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [Path(file).absolute().parts for file in files]
    labels: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(p[-length:]) for p in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def _versions() -> dict[str, str]:
    import onnxruntime

    packages = {"spikeyolo": spikeyolo, "ultralytics": ultralytics, "torch": torch, "onnxruntime": onnxruntime}
    return {name: package.__version__ for name, package in packages.items()} | {"python": platform.python_version()}


def _count(model: CountedModel, images: Images, label: str) -> tuple[bool, Batch | None]:
    """Count all images; return False if interrupted, and the first image if it was counted."""
    progress = TQDM(total=images.count, desc=f"counting {label}", unit="img")
    first, complete = None, True
    try:
        for batch in images.batches(model.batch, model.height, model.width):
            model.run(batch)
            first = batch[:1] if first is None else first
            progress.update(len(batch))
    except KeyboardInterrupt:
        complete = False
        LOGGER.warning(f"interrupted after {model.recording.images} of {images.count} images; writing what was counted")
    finally:
        progress.close()
    if model.recording.uncounted:
        LOGGER.warning(f"spikes into {', '.join(sorted(model.recording.uncounted))} are not counted")
    return complete, first


def _validate(model: CountedModel, data: str, split: str, folder: Path) -> dict[str, Any] | None:
    """Return mAP on the whole split; nothing if interrupted. A failure costs the mAP, not the counts."""
    try:
        return model.val(folder, data=data, split=split)
    except KeyboardInterrupt:
        LOGGER.warning("interrupted in validation; writing what was counted, without mAP")
        return {}
    except Exception as e:  # of data sets and runtimes
        LOGGER.warning(f"no mAP: {e}")
        return {"problem": str(e)}
    finally:
        shutil.rmtree(folder / "val", ignore_errors=True)  # Ultralytics makes it, empty


def _about(images: Images, recording: Recording) -> dict[str, Any]:
    return {"source": images.about, "counted": recording.images, "skipped": images.skipped}


def _numbers(recording: Recording, prices: list[EnergyModel]) -> dict[str, Any]:
    """Return everything that was counted, and its energy, as plain data."""
    n = recording.images
    spiking = bool(recording.spiking)
    energies = {p.name: {s: estimate(recording, s, p) for s in schemes_of(recording, p)} for p in prices}
    energy = {p: {s: asdict(e) | {"total": e.total} for s, e in schemes.items()} for p, schemes in energies.items()}
    totals = {key: sum(getattr(layer, key) for layer in recording.layers.values()) / n for key in DENSE_SUMS}
    totals |= {key: recording.total(key) / n for key in SPIKE_SUMS}
    totals |= {"weights": sum(layer.weights for layer in recording.layers.values())}
    if spiking:
        codes = recording.total("codes")
        totals |= {
            "mean_code": recording.total("unary_spikes") / codes,
            "spikes_per_code": recording.total("spikes") / codes,
        }
    return {
        "totals": totals,
        "energy_pj": energy,
        "verdicts": [_verdict(price, energy[price]) for price in energy] if spiking else [],
        "uncounted": sorted(recording.uncounted),
        "layers": [_layer(layer, prices, 1 if spiking else 4) for layer in recording.layers.values()],
    }


def _layer(layer: LayerSpikes, prices: list[EnergyModel], weight_bytes: int) -> dict[str, Any]:
    """Return a layer's numbers; sums are per image, ``counts`` (codes by fan-out) are those of all images."""
    run = SCHEMES["spikes"][0]
    numbers: dict[str, Any] = {"name": layer.name} | {key: getattr(layer, key) for key in LAYER_NUMBERS}
    numbers |= {key: getattr(layer, key) / layer.images for key in (*DENSE_SUMS, *SPIKE_SUMS, "outputs")}
    return numbers | {
        "plane_rates": layer.plane_rates.tolist(),
        "channels": len(layer.largest),
        "weight_bytes": weight_bytes * layer.weights,
        "potential_bytes": 4 * layer.codes // layer.frames,
        "energy_pj": {p.name: asdict(run(layer, p) / layer.images) for p in prices},
        "counts": {str(key): row.tolist() for key, row in layer.counts.items()},
    }


def _verdict(name: str, energy: dict[str, dict[str, float]]) -> str:
    """Say plainly where the spiking model wins and where not."""
    own_pj = energy["spikes"]["total"]
    told = {s: f"{SCHEMES[s][1]} ({energy[s]['total'] / own_pj:.2f} x)" for s in RIVALS}
    beaten = [text for s, text in told.items() if energy[s]["total"] > own_pj]
    better = [text for s, text in told.items() if energy[s]["total"] < own_pj]  # equal: LIF is its own unary coding
    text = f"{name}: {own_pj / 1e6:,.4g} µJ per image on binary spikes."
    if beaten:
        text += f" Less than: {'; '.join(beaten)}."
    return text + (f" It does NOT win against: {'; '.join(better)}." if better else " No other scheme needs less.")
