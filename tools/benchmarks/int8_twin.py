"""Benchmark: the int8 ANN, fair rival of a spiking network, beside its float form: accuracy, file size, time.

python tools/benchmarks/int8_twin.py [models=relu-spikeyolo-p.pt,silu-spikeyolo-p.pt] [forms=fused,chain,stock]
    [imgsz=320,640] [threads=1,2] [rounds=7] [data=photo-digits.yaml] [val=192] [calibration=64] [methods=MinMax]
    [out=int8_twin.json]

methods= are MinMax and Percentile. Entropy is known to ONNX Runtime as well, but `quantize_static` leaves its histogram
at 128 bins for 128 codes, so that one threshold is left to choose, and the file is that of MinMax, byte for byte.

Models are checkpoints of detectors, or architectures (relu-spikeyolo-n.yaml), which get random weights and have no
accuracy. Forms: fused, as stock `yolo export` gives it, each re-parameterised chain one dense 3x3 convolution; chain,
1x1, depthwise 3x3, 1x1, which equals it and needs fewer operations; stock, the fused form as stock
`yolo export format=onnx quantize=8` quantises it. The first two are quantised by ONNX Runtime's own tools: QDQ, weights
int8 per channel, activations uint8, the decoder left in float.

A processor without VNNI adds products in pairs and saturates at 16 bits, so results differ by processor. "int8" is the
file as it is; "int8, 7-bit weights" has reduce_range=True, which cannot saturate; "int8, precise" runs the file of
"int8" with session.x64quantprecision=1, which ONNX Runtime has for this; "int8, simulated" runs it without
optimisation, in float: the accuracy where nothing saturates. The time is that of ONNX Runtime on random images,
interleaved runs, medians; imgsz= (empty) leaves it out, val= (empty) the accuracy. Prints tables and writes JSON.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

import harness
import numpy as np
import onnx
import onnxruntime
import torch
from onnx_graphs import image, new_model
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from ultralytics import YOLO

import spikeyolo  # noqa: F401 (registers the plugin)
from spikeyolo.blocks import SpikeRepConv
from spikeyolo.blocks.rep import affine
from spikeyolo.data.images import Images
from spikeyolo.network.checkpoints import open_detector, validate

Batch = np.ndarray[Any, Any]
Row = dict[str, Any]
FLOAT, INT8, NARROW, PRECISE, SIMULATED = "float", "int8", "int8, 7-bit weights", "int8, precise", "int8, simulated"
FEW = 8  # images that calibrate a graph of which only the time is asked
PAUSE_S = 0.05  # threads that another session has left spinning stop


@torch.no_grad()
def chain_form(layer: SpikeRepConv) -> nn.Sequential:
    """Return activation, 1x1, depthwise 3x3 and 1x1 (where the layer has one), without BatchNorms: what ``layer`` is.

    A chain pads behind its first BatchNorm, with what that makes of zero. So what the BatchNorm adds is the same
    everywhere, border included; after the depthwise convolution it is its product with the kernel's sum, also
    everywhere. It moves into the last bias, and the depthwise convolution pads with zeros: exact. Folded in float64.

    Raises:
        ValueError: If the layer is fused: its chain is lost.
    """
    if not isinstance(layer.conv, layer.chain):
        raise ValueError("this network is fused, its chains are lost; give a checkpoint as training has left it")
    convs: list[nn.Conv2d] = []
    weights: list[Tensor] = []
    scale, bias = torch.ones(()), torch.zeros(())
    for part in [*layer.conv.layers(), layer.bn]:
        if isinstance(part, nn.BatchNorm2d):
            gain, shift = (a.double() for a in affine(part))
            bias = bias * gain + shift
            if weights:
                weights[-1] = weights[-1] * gain.view(-1, 1, 1, 1)
            else:
                scale = gain
        else:
            weight = part.weight.double()
            sums = weight.sum((2, 3))
            bias = bias * sums[:, 0] if part.groups > 1 else sums @ bias.expand(part.in_channels).double()
            weights.append(weight * scale.view(1, -1, 1, 1) if scale.ndim else weight)
            convs.append(part)
            scale = torch.ones(())
    folded: list[nn.Module] = []
    for conv, weight in zip(convs, weights, strict=True):
        last, size = conv is convs[-1], conv.kernel_size[0]
        new = nn.Conv2d(conv.in_channels, conv.out_channels, size, padding=size // 2, groups=conv.groups, bias=last).to(
            conv.weight
        )
        new.weight.copy_(weight)
        if new.bias is not None:
            new.bias.copy_(bias)
        folded.append(new.requires_grad_(False))
    return nn.Sequential(layer.act, *folded)


def unfold(network: nn.Module) -> int:
    """Replace all re-parameterised layers of a network by their `chain_form`; return how many there were."""
    found = [
        (module, name, child)
        for module in network.modules()
        for name, child in module.named_children()
        if isinstance(child, SpikeRepConv)
    ]
    for module, name, child in found:
        new = chain_form(child)
        for key in ("i", "f", "type", "np"):  # of a layer that is a row of the YAML
            if hasattr(child, key):
                setattr(new, key, getattr(child, key))
        setattr(module, name, new)
    return len(found)


def export_float(model: YOLO, file: Path, *, imgsz: int, chain: bool = False, **arguments: Any) -> Path:
    """Export a detector to ONNX by stock ``yolo export``, for one image; the model stays as it is.

    Args:
        model: Model of a checkpoint or architecture.
        file: What to write, ending in .onnx.
        imgsz: Side of the square images.
        chain: Whether re-parameterised layers stay chains; stock ``fuse()`` does not know them in `chain_form`.
        arguments: Further arguments of ``yolo export``.

    Returns:
        The file.

    Raises:
        ValueError: If a chain is asked of a network that has none.
    """
    own = copy.deepcopy(model)
    network: Any = own.model
    if chain and not unfold(network):
        raise ValueError(f"{model.model_name} has no re-parameterised layers, so it has no form of chains")
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        network.pt_path = str(Path(folder) / file.with_suffix(".pt").name)  # names the exported file
        written = Path(own.export(format="onnx", imgsz=imgsz, batch=1, device="cpu", verbose=False, **arguments))
        return written.replace(file)


def weighted(node: onnx.NodeProto) -> bool:
    """Tell a convolution that the network has learned; the one of the decoder only takes a mean over bins."""
    return node.op_type == "Conv" and "/dfl/" not in node.name


def decoder(graph: onnx.GraphProto) -> list[str]:
    """Name the nodes that no convolution follows: those behind the last ones of the head."""
    feeding: set[str] = set()  # tensors that a convolution depends on
    names = []
    for node in reversed(graph.node):  # topological
        if weighted(node) or feeding.intersection(node.output):
            feeding.update(node.input)
        else:
            names.append(node.name)
    return names


class Reader(CalibrationDataReader):
    """Hands images (1, 3, H, W) to ONNX Runtime's calibration."""

    def __init__(self, images: Iterable[Batch]):
        self.images = iter(images)

    def get_next(self) -> dict[str, Batch]:
        """Return the next image, or None."""
        image = next(self.images, None)
        return None if image is None else {"images": image}  # pyright: ignore[reportReturnType] (its own end)


def quantise(
    file: Path, images: Iterable[Batch], target: Path, *, method: str = "MinMax", reduce_range: bool = False
) -> Path:
    """Quantise a float graph of `export_float` by ONNX Runtime's tools: QDQ, uint8 activations, int8 weights.

    Args:
        file: Float graph.
        images: Calibration images, (1, 3, H, W) float32 in [0, 1].
        target: What to write.
        method: How ranges follow from the images: MinMax or Percentile.
        reduce_range: Whether weights have 7 bits, so that no pair of products exceeds 16 bits.

    Returns:
        ``target``.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(file, prepared)
        quantize_static(
            prepared,
            target,
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=decoder(onnx.load(prepared).graph),
            calibrate_method=CalibrationMethod[method],
        )
    return target


def quantise_stock(model: YOLO, file: Path, *, imgsz: int, data: str, images: int) -> Path:
    """Export by stock ``yolo export format=onnx quantize=8``, calibrated on the first training images of a data set."""
    from ultralytics.data.utils import check_det_dataset

    there = len(list(Path(check_det_dataset(data)["train"]).iterdir()))
    return export_float(model, file, imgsz=imgsz, quantize=8, data=data, split="train", fraction=images / there)


def multiplications(file: Path) -> int:
    """Return the multiplications of a graph's convolutions."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(file)).graph
    weights = {t.name: t.dims for t in graph.initializer}
    maps = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    return sum(
        math.prod(weights[node.input[1]]) * math.prod(maps[node.output[0]][2:]) for node in graph.node if weighted(node)
    )


def session_options(threads: int, variant: str) -> onnxruntime.SessionOptions:
    """Return the options of a session that runs a variant."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if variant == PRECISE:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if variant == SIMULATED:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@contextlib.contextmanager
def all_sessions(variant: str) -> Iterator[None]:
    """Let sessions that others open run a variant: stock validation takes no options for them."""
    original = onnxruntime.InferenceSession

    def opened(file: str, _: object = None, **arguments: Any) -> onnxruntime.InferenceSession:
        return original(file, session_options(harness.CORES, variant), **arguments)

    onnxruntime.InferenceSession = opened
    try:
        yield
    finally:
        onnxruntime.InferenceSession = original


def open_model(name: str) -> YOLO:
    """Open a checkpoint, or make a model of random weights by an architecture."""
    return new_model(name) if name.endswith((".yaml", ".yml")) else open_detector(name)


def calibration_images(data: str, count: int, imgsz: int) -> list[Batch]:
    """Return training images, spread evenly, or random ones without a data set."""
    if not data:
        return [np.random.default_rng(i).random((1, 3, imgsz, imgsz), dtype=np.float32) for i in range(count)]
    return list(Images.of_data(data, "train", count).batches(1, imgsz, imgsz))


def graphs(model: YOLO, form: str, folder: Path, *, imgsz: int, data: str, count: int, method: str) -> dict[str, Path]:
    """Write the float and int8 graphs of a form; return the files by variant."""
    folder.mkdir(parents=True)
    if form == "stock":
        return {INT8: quantise_stock(model, folder / "int8.onnx", imgsz=imgsz, data=data, images=count)}
    base = export_float(model, folder / "float.onnx", imgsz=imgsz, chain=form == "chain")
    images = calibration_images(data, count, imgsz)
    int8 = quantise(base, images, folder / "int8.onnx", method=method)
    narrow = quantise(base, images, folder / "int8-7bit.onnx", method=method, reduce_range=True)
    return {FLOAT: base, INT8: int8, NARROW: narrow}


def accuracy(name: str, options: dict[str, str], folder: Path) -> list[Row]:
    """Validate all forms and variants of a checkpoint by stock ``YOLO(file).val``."""
    model, imgsz, rows = open_model(name), int(options["val"]), []
    arguments = {"data": options["data"], "imgsz": imgsz, "batch": 1, "rect": False, "device": "cpu"}
    for form in forms_of(model, options):
        for method in ["its own"] if form == "stock" else options["methods"].split(","):
            place = folder / name / f"{form}-{method}"
            files = graphs(
                model,
                form,
                place,
                imgsz=imgsz,
                data=options["data"],
                count=int(options["calibration"]),
                method=method,
            )
            files |= dict.fromkeys((PRECISE, SIMULATED), files[INT8])
            for variant, file in files.items():
                if variant == FLOAT and method != options["methods"].split(",")[0]:
                    continue
                with all_sessions(variant):
                    measured = validate(YOLO(file, task="detect"), place, **arguments)
                row = {"model": name, "form": form, "method": method, "variant": variant, **measured}
                rows.append(row | {"megabytes": file.stat().st_size / 2**20})
    return rows


def forms_of(model: YOLO, options: dict[str, str]) -> list[str]:
    """Return the forms that were asked for and that a model has."""
    assert isinstance(model.model, nn.Module)
    chains = any(isinstance(module, SpikeRepConv) for module in model.model.modules())
    stock = bool(options["data"])  # it calibrates on a data set
    return [f for f in options["forms"].split(",") if (f != "chain" or chains) and (f != "stock" or stock)]


def paused(run: Callable[[], object]) -> float:
    """Return the seconds of a run in its steady state, after a pause."""
    time.sleep(PAUSE_S)
    return harness.steady(run)


def speed(name: str, imgsz: int, options: dict[str, str], folder: Path) -> list[Row]:
    """Time all forms of a model at one image size."""
    model = open_model(name)
    # a network of random weights has 80 classes: no data set fits, and its time does not depend on one
    data = "" if name.endswith((".yaml", ".yml")) else options["data"]
    files = {
        form: graphs(model, form, folder / name / str(imgsz) / form, imgsz=imgsz, data=data, count=FEW, method="MinMax")
        for form in forms_of(model, options | {"data": data})
    }
    base = ("fused", FLOAT) if "fused" in files else (next(iter(files)), next(iter(next(iter(files.values())))))
    counts = {form: multiplications(found[FLOAT]) for form, found in files.items() if FLOAT in found}
    rows = []
    for threads in map(int, options["threads"].split(",")):
        runs: dict[tuple[str, str], Callable[[], float]] = {}
        for form, found in files.items():
            timed = {FLOAT: FLOAT, INT8: INT8, PRECISE: INT8}  # weights of 7 bits change no time
            for variant, source in timed.items():
                if source in found:
                    opened = onnxruntime.InferenceSession(
                        str(found[source]), session_options(threads, variant), providers=["CPUExecutionProvider"]
                    )
                    runs[form, variant] = partial(paused, partial(opened.run, None, image(imgsz)))
        times = harness.interleave(runs, int(options["rounds"]))
        for (form, variant), seconds in times.items():
            row: Row = {"model": name, "imgsz": imgsz, "threads": threads, "form": form, "variant": variant}
            row["multiplications"] = counts.get(form, counts.get("fused"))
            row["ms"] = 1000 * statistics.median(seconds)
            row["to_float"] = harness.ratio(seconds, times.get((form, FLOAT), times[base]))
            row["to_fused_float"] = harness.ratio(seconds, times[base])
            rows.append(row)
    return rows


def accuracy_table(rows: Sequence[Row]) -> str:
    """Return the table of accuracies."""
    header = ["model", "form", "calibration", "variant", "mAP50", "mAP50-95", "file, MB"]
    lines = [
        [
            r["model"],
            r["form"],
            "" if r["variant"] == FLOAT else r["method"],
            r["variant"],
            f"{r['mAP50']:.4f}",
            f"{r['mAP50-95']:.4f}",
            f"{r['megabytes']:.2f}",
        ]
        for r in rows
    ]
    return harness.table(header, lines)


def speed_table(rows: Sequence[Row]) -> str:
    """Return the table of times."""
    header = ["model", "image", "threads", "form", "variant", "GMAC", "ms", "to its float", "to the fused float"]
    lines = [
        [
            r["model"],
            r["imgsz"],
            r["threads"],
            r["form"],
            r["variant"],
            f"{r['multiplications'] / 1e9:.2f}",
            f"{r['ms']:.1f}",
            harness.show_ratio(r["to_float"]),
            harness.show_ratio(r["to_fused_float"]),
        ]
        for r in rows
    ]
    return harness.table(header, lines)


def main() -> None:
    """Run the benchmark."""
    options = harness.options(
        models="relu-spikeyolo-p.pt,silu-spikeyolo-p.pt",
        forms="fused,chain,stock",
        imgsz="320,640",
        threads="1,2",
        rounds="7",
        data="photo-digits.yaml",
        val="192",
        calibration="64",
        methods="MinMax",
        out="int8_twin.json",
    )
    models = options["models"].split(",")
    timed: list[Row] = []
    judged: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            for imgsz in filter(None, options["imgsz"].split(",")):
                found = speed(name, int(imgsz), options, Path(folder) / "speed")
                timed += found
                print(f"\n{speed_table(found)}", flush=True)
            if options["val"] and options["data"] and not name.endswith((".yaml", ".yml")):
                found = accuracy(name, options, Path(folder) / "accuracy")
                judged += found
                print(f"\n{accuracy_table(found)}", flush=True)
    harness.write(options["out"], [{"accuracy": judged, "speed": timed}], options, "ultralytics", "onnx", "onnxruntime")


if __name__ == "__main__":
    main()
