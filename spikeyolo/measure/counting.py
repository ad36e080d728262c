"""Model files that count: a checkpoint in deploy form, an exported graph, or an ANN to compare with."""

from __future__ import annotations

import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.utils import LOGGER
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.torch_utils import select_device

from spikeyolo.assets import find_weights
from spikeyolo.data.images import Batch
from spikeyolo.deployment import PLANES, deploy, emitted_codes, form_of
from spikeyolo.files import sha256
from spikeyolo.graph.notes import Notes
from spikeyolo.graph.onnx_files import input_size, load, open_session
from spikeyolo.measure.graph_facts import check_graph
from spikeyolo.measure.recorder import bordered, record_spikes
from spikeyolo.measure.spikes import LayerSpikes, Recording
from spikeyolo.network.checkpoints import open_detector, validate
from spikeyolo.network.real_valued import real_valued
from spikeyolo.network.sound import check_image_size
from spikeyolo.neurons import neurons_of
from spikeyolo.processor import use_all_cores
from spikeyolo.proof.verify import static

BATCH = 4  # images at once in PyTorch


@dataclass(frozen=True)
class Observation:
    """One run of a network.

    Args:
        outputs: Boxes (center, size; in pixels of the input) and scores, (B, 4 + classes, anchors).
        layers: What entered every convolution.
        codes: Codes (T*B, C, H, W) that entered the convolution asked for.
    """

    outputs: Tensor
    layers: dict[str, LayerSpikes]
    codes: Tensor | None

    def varied_channel(self) -> tuple[Tensor, int]:
        """Return the codes of the first image, (C, H, W), and which of its channels varies most."""
        assert self.codes is not None
        codes = self.codes[0]
        return codes, int(codes.flatten(1).std(1).argmax())


class CountedModel(ABC):
    """A model file and what has been counted while it ran.

    Attributes:
        file: Its path.
        recording: What has been counted.
        facts: What it is: form, neuron, parameters and so on, for the head of a report.
        spiking: Whether it has neurons.
        names: Classes.
        batch, height, width: Size of its input.
    """

    facts: dict[str, Any]
    spiking: bool
    names: dict[int, str]
    batch: int
    height: int
    width: int

    def __init__(self, file: Path):
        self.file = file
        self.recording = Recording()

    @staticmethod
    def open(
        file: str,
        *,
        imgsz: int = 0,
        device: str = "",
        planes: int | None = None,
        fast: bool = False,
        trust: bool = False,
    ) -> CountedModel:
        """Open a checkpoint (.pt) or an exported graph (.onnx).

        Args:
            file: Path.
            imgsz: Image size; 0 for the one that the model was trained or exported with.
            device: As for ``yolo``; an ONNX graph runs on the CPU.
            planes: Most planes of the codes of a checkpoint, as for `deploy`.
            fast: Whether to run a spiking checkpoint, on a CPU, as the integer graph that it exports: the same codes,
                image by image, behind an export of some seconds.
            trust: Whether to load a checkpoint as ``yolo`` does, which runs whatever program it holds.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is no model, or none that detects, or for an impossible image size.
        """
        if imgsz < 0:
            raise ValueError(f"imgsz must be at least 1 (or 0: as trained), got {imgsz}")
        check_image_size(imgsz or 640, "imgsz")
        path = Path(file)
        if path.suffix == ".onnx":
            return _Graph(path, imgsz)
        if path.suffix != ".pt":
            raise ValueError(f"model={file} is neither a checkpoint (.pt) nor an exported graph (.onnx)")
        checkpoint = _Checkpoint(path, imgsz, device, planes, trust)
        on_cpu = checkpoint.device.type == "cpu"
        return _exported(checkpoint, planes) if fast and checkpoint.spiking and on_cpu else checkpoint

    @abstractmethod
    def observe(self, images: Batch, layer: str = "") -> Observation:
        """Run on images (batch, 3, height, width) in [0, 1]; keep the codes that enter one convolution, if named."""

    def run(self, images: Batch) -> None:
        """Count what enters every convolution on images."""
        self.recording.add(self.observe(images).layers)

    @abstractmethod
    def val(self, folder: Path, **arguments: Any) -> dict[str, float]:
        """Validate as ``yolo val`` does (see `validate`); return mAP50 and mAP50-95."""


class _Checkpoint(CountedModel):
    """A checkpoint: its deploy form (the integer graph, whose codes are those of the spike graph), or an ANN."""

    def __init__(self, file: Path, imgsz: int, device: str, planes: int | None, trust: bool):
        super().__init__(file)
        self.yolo, self.trust = open_detector(file, trust=trust), trust
        network: Any = self.yolo.model
        self.spiking = bool(neurons_of(network))
        about: Any = network.yaml
        neuron = dict((about or {}).get("neuron") or {})
        neuron.pop("ranges", None)
        parameters = sum(p.numel() for p in network.parameters())
        real = real_valued(network)
        self.device = select_device(device, verbose=False)
        self.network: Any = _deployed(file, network, planes) if self.spiking else network.eval().float()
        self.yolo.model = self.network
        self.names = dict(network.names)
        self.network.to(self.device)
        if self.device.type == "cpu":
            use_all_cores()
        size: Any = imgsz or self.yolo.overrides.get("imgsz") or 640
        stride: Any = network.stride
        shape: Any = check_imgsz(size, stride=int(stride.max()), min_dim=2)
        self.height, self.width = shape
        self.batch = BATCH
        form = "deploy form of the checkpoint: binary planes" if self.spiking else "ANN"
        if self.spiking:
            neuron |= form_of(self.network).common
        self.facts = {"form": form, "neuron": neuron, "parameters": parameters}
        if self.spiking:
            deployed = form_of(self.network)
            self.facts |= {"real_valued": real, "widths": _widths(deployed.weight_bits, deployed.planes)}

    def observe(self, images: Batch, layer: str = "") -> Observation:
        pixels, codes = torch.from_numpy(images).to(self.device), {}
        with record_spikes(self.network) as recording, torch.no_grad():
            if layer:
                outputs, emitted = emitted_codes(self.network, pixels)
                codes = dict(emitted)
            else:
                outputs = self.network(pixels)
        self.recording.uncounted |= recording.uncounted
        # The codes of the integer graph: the planes of the spike graph are their bits.
        layers = {n: replace(a, operand="binary") if a.spiking else a for n, a in recording.layers.items()}
        boxes = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        return Observation(boxes.cpu(), layers, codes[layer].cpu() if layer else None)

    def val(self, folder: Path, **arguments: Any) -> dict[str, float]:
        return validate(self.yolo, folder, imgsz=max(self.height, self.width), device=str(self.device), **arguments)


class _Graph(CountedModel):
    """An exported spike or integer graph, as it is."""

    def __init__(self, file: Path, imgsz: int):
        super().__init__(file)
        model = load(file)
        notes = Notes.read(model)
        if not notes.ours:
            raise ValueError(
                f"model={file} says nothing about neurons: it was exported by another program, or from an ANN; "
                "export a spiking checkpoint with: yolo export model=best.pt format=onnx"
            )
        if not notes.current:
            raise ValueError(
                f"model={file} was exported by an earlier version, with float weights; export it again with: "
                f"yolo export model={notes.source or 'best.pt'} format=onnx"
            )
        self.names = check_graph(model, file)
        if wrong := [problem for check in static(file) for problem in check.problems]:
            raise ValueError(
                f"{file} is not the graph that was exported: {wrong[0]}; "
                f"see spikeyolo verify model={file}, and export it again"
            )
        self.spiking = True
        self.batch, self.height, self.width = input_size(model, file)
        self.T = notes.T or 1
        self.N = {name: N for name, (_, N, _) in notes.ranges.items()}
        self.attention = notes.attention
        self.layers = {name: _geometry(layer) for name, layer in notes.layers.items()}
        for name, weights in notes.factored_weights.items():
            self.layers[name].factored_weights = weights  # pyright: ignore[reportArgumentType]
        self.codes = {name: layer["codes"] for name, layer in notes.layers.items()}
        self.last = {name for name, layer in notes.layers.items() if layer["order"] == "NHWC"}
        self.output_sizes: dict[tuple[str, torch.Size], int] = {}  # by layer and shape of its codes
        self.output = model.graph.output[0].name
        self.session = open_session(model, list(dict.fromkeys(self.codes.values())), optimise=True)
        shape = self.session.get_inputs()[0].shape
        if imgsz and all(isinstance(side, str) for side in shape[2:]):  # dynamic
            self.height = self.width = imgsz
        elif imgsz and {self.height, self.width} != {imgsz}:
            raise ValueError(f"imgsz={imgsz}, but {file} takes {self.height} x {self.width} images; leave imgsz away")
        self.ceilings = {name: round(D * N) for name, (D, N, _) in notes.ranges.items()}
        self.rests = {name: int(rest) for name, (_, _, rest) in notes.ranges.items()}
        takes = "binary" if notes.graph == "spike" else "code"
        self.operands = {name: takes if name in notes.planes else "real" for name in self.layers}
        self.facts = {
            "form": f"{notes.graph} graph (ONNX), exported from {notes.source}",
            "neuron": {"type": notes.neuron, **{key: getattr(notes, key) for key in ("D", "N", "T", "decay")}},
            "source_sha256": notes.source_sha256,
            "real_valued": notes.real_valued,
            "widths": _widths(notes.weight_bits, notes.planes),
        }

    def _forward(self, images: Batch, names: list[str]) -> dict[str, Tensor]:
        """Run a batch, filled up to the graph's size; return tensors of the images given."""
        n = len(images)
        full = np.concatenate([images, *[images[-1:]] * max(0, self.batch - n)])
        values = self.session.run(names, {self.session.get_inputs()[0].name: full})
        kept = (torch.from_numpy(v).unflatten(0, (-1, len(full)))[:, :n].flatten(0, 1) for v in values)
        return dict(zip(names, kept, strict=True))

    def observe(self, images: Batch, layer: str = "") -> Observation:
        tensors = self._forward(images, list(dict.fromkeys([self.output, *self.codes.values()])))
        counted = {}
        codes = {  # as they are in memory: whatever is counted is counted without a copy
            name: tensors[tensor].permute(0, 3, 1, 2) if name in self.last else tensors[tensor]
            for name, tensor in self.codes.items()
        }
        for name, conv in self.layers.items():
            operand, x = self.operands[name], codes[name]
            D_N, N = (0, 0.0) if operand == "real" else (self.ceilings[name], self.N[name])
            if rest := self.rests.get(name, 0):
                conv, x = bordered(conv, x, rest)
            if (name, x.shape) not in self.output_sizes:
                self.output_sizes[name, x.shape] = conv(torch.empty(x.shape, device="meta")).numel()
            about = name, operand, D_N, N, self.T
            counted[name] = LayerSpikes.of(about, x if D_N else x != 0, conv, self.output_sizes[name, x.shape])
        for name, dims in self.attention.items():
            shape = codes[f"{name}.qkv.conv"].shape
            products = LayerSpikes.attention(name, self.T, shape, dims)
            counted[products.name] = products
        return Observation(tensors[self.output], counted, codes[layer].float() if layer else None)

    def val(self, folder: Path, **arguments: Any) -> dict[str, float]:
        size = max(self.height, self.width)
        return validate(YOLO(self.file, task="detect"), folder, imgsz=size, batch=self.batch, **arguments)


def _deployed(file: Path, network: Any, planes: int | None) -> nn.Module:
    """Return the deploy form of a network of whatever structure."""
    try:
        return deploy(network, planes=planes)
    except (AttributeError, IndexError, KeyError, TypeError) as e:  # parts in places where no network of ours has them
        raise ValueError(f"model={file} has no deploy form ({type(e).__name__}: {e}); train it again") from e


def _widths(weight_bits: int, planes: Mapping[str, int]) -> dict[str, int]:
    """Return how many bits the numbers of a deploy form have."""
    return {"weights": weight_bits, "codes": max(planes.values()), "sums": 32}


def _exported(checkpoint: _Checkpoint, planes: int | None) -> _Graph:
    """Return the integer graph of a checkpoint, which goes by the checkpoint's name."""
    yolo, level = open_detector(checkpoint.file, trust=checkpoint.trust), LOGGER.level
    with tempfile.TemporaryDirectory() as folder:
        network: Any = yolo.model
        network.pt_path = str(Path(folder) / checkpoint.file.name)  # beside which the exporter writes
        LOGGER.setLevel(logging.WARNING)
        try:
            size = [checkpoint.height, checkpoint.width]
            written = yolo.export(format="onnx", graph="integer", planes=planes or PLANES, imgsz=size, device="cpu")
        finally:
            LOGGER.setLevel(level)
        graph = _Graph(Path(written), 0)
    graph.file, graph.facts = checkpoint.file, checkpoint.facts
    return graph


def describe(model: CountedModel) -> dict[str, Any]:
    """Return file, hash and what the model is."""
    return {"file": str(model.file), "sha256": sha256(find_weights(model.file)), **model.facts}


def _geometry(layer: dict[str, Any]) -> nn.Conv2d:
    """Return the convolution that a graph notes, without weights."""
    keys = ("stride", "padding", "dilation")
    geometry: dict[str, Any] = {key: tuple(layer[key]) for key in keys}
    inputs, outputs = layer["channels"]
    return nn.Conv2d(inputs, outputs, tuple(layer["kernel"]), groups=layer["groups"], device="meta", **geometry)
