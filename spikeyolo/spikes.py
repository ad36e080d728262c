"""Count spikes and synaptic operations, exactly, while a network runs.

A synaptic operation is one spike arriving at one output: each spike counts as often as the convolution uses its
position, borders, stride, dilation and groups included. Only histograms of codes are kept, never activations.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from ultralytics.nn.modules.block import DFL

from spikeyolo.blocks import RepChain, SepChain, factored
from spikeyolo.coding import entropy, to_planes
from spikeyolo.fixed_point import CodeNeuron, PlaneConv
from spikeyolo.neurons import IBRALIF

Counts = NDArray[np.int64]
Synapse = nn.Conv2d | nn.Linear  # what accumulates weights


@dataclass(frozen=True)
class LayerSpikes:
    """What entered one convolution; numbers are totals over all recorded images and timesteps.

    Of real operands (pixels, activations of an ANN) only zero (code 0) and not zero (code 1) is told apart.

    Args:
        name: Name of the convolution.
        operand: What enters: "real", "code" or "binary".
        D_N: Largest code that the neuron can emit; 0 for real operands.
        N: Range-alignment factor of the neuron; 0 for real operands.
        T: Timesteps.
        weights: Number of weights.
        outputs: Number of outputs, in potentials.
        macs: Dense multiply-accumulates (with zero padding, as every counter of FLOPs has it).
        factored_macs: Those of the same layer on real values, where it need not be dense: of the chain of linear layers
            that it was trained as, if it was one and that is less.
        frames: Images times timesteps.
        counts: Codes by fan-out: how many codes 0, 1, 2, ... met positions of that many synapses.
        largest: Largest code in each channel.
    """

    name: str
    operand: str
    D_N: int
    N: float
    T: int
    weights: int
    outputs: int
    macs: int
    factored_macs: int
    frames: int
    counts: dict[int, Counts]
    largest: Counts

    @classmethod
    def of(cls, about: tuple[str, str, int, float, int], codes: Tensor, synapse: Synapse, outputs: int) -> LayerSpikes:
        """Count one batch.

        Args:
            about: name, operand, D_N, N and T of the layer.
            codes: Whole numbers, (T*B, C, H, W), or (T*B, ..., C) for a linear layer.
            synapse: Convolution or linear layer that they enter.
            outputs: Number of its outputs.

        Raises:
            ValueError: If a code is not a number.
        """
        if isinstance(synapse, nn.Linear):
            frames, filters, per_output = codes.shape[0], synapse.out_features, synapse.in_features
            codes = codes.reshape(-1, codes.shape[-1], 1, 1)
        else:
            frames, filters, per_output = codes.shape[0], synapse.out_channels, synapse.weight[0].numel()
        largest = codes.amax((2, 3)).amax(0)
        top = float(largest.max())
        if not np.isfinite(top):
            raise ValueError(f"{about[0]} takes {top}: the network has diverged, nothing can be counted")
        factored_weights = getattr(synapse, "factored_weights", None) or synapse.weight.numel()
        bins = int(top) + 1
        fan_outs, place = _classes(synapse, *codes.shape[2:])
        keys = codes.int().add_((place * bins).to(codes.device))
        table = torch.bincount(keys.flatten(), minlength=bins * len(fan_outs)).view(-1, bins).cpu().numpy()
        return cls(
            *about,
            weights=synapse.weight.numel(),
            outputs=outputs,
            macs=outputs * per_output,
            factored_macs=outputs // filters * min(per_output * filters, factored_weights),
            frames=frames,
            counts=dict(zip(fan_outs, table, strict=True)),
            largest=largest.cpu().numpy().astype(np.int64),
        )

    def __add__(self, other: LayerSpikes) -> LayerSpikes:
        """Return the totals of two recordings of the same layer."""
        counts = {key: _sum(self.counts.get(key), other.counts.get(key)) for key in self.counts | other.counts}
        largest = np.maximum(self.largest, other.largest)
        sums = {key: getattr(self, key) + getattr(other, key) for key in ("outputs", "macs", "factored_macs", "frames")}
        return replace(self, counts=counts, largest=largest, **sums)

    @property
    def spiking(self) -> bool:
        """Whether a neuron is before this convolution."""
        return self.operand != "real"

    @property
    def images(self) -> int:
        """Number of recorded images."""
        return self.frames // self.T

    @property
    def planes(self) -> int:
        """Number of binary planes of a code."""
        return self.D_N.bit_length()

    @property
    def histogram(self) -> Counts:
        """How often each code 0, 1, 2, ... was emitted."""
        return functools.reduce(_sum, self.counts.values())

    @property
    def codes(self) -> int:
        """Number of codes: neuron updates."""
        return int(self.histogram.sum())

    @property
    def synapses(self) -> int:
        """Connections that codes met: operations if every position held one spike (padding is none)."""
        return sum(synapses * int(row.sum()) for synapses, row in self.counts.items())

    @property
    def spikes_per_plane(self) -> Counts:
        """Spikes in each binary plane, least significant first."""
        return _bits(len(self.histogram), self.planes) @ self.histogram

    @property
    def spikes(self) -> int:
        """Spikes in all binary planes."""
        return int(self.spikes_per_plane.sum())

    @property
    def unary_spikes(self) -> int:
        """Spikes of the unary coding, in which code k costs k spikes."""
        return int(self.histogram @ np.arange(len(self.histogram)))

    @property
    def synops(self) -> int:
        """Synaptic operations of the binary planes."""
        return sum(s * int((_bits(len(row), self.planes) @ row).sum()) for s, row in self.counts.items())

    @property
    def unary_synops(self) -> int:
        """Synaptic operations of the unary coding."""
        return sum(s * int(row @ np.arange(len(row))) for s, row in self.counts.items())

    @property
    def nonzero_synops(self) -> int:
        """Multiply-accumulates whose operand is not zero."""
        return sum(s * int(row[1:].sum()) for s, row in self.counts.items())

    @property
    def mean_code(self) -> float:
        """Mean code, 0 to D_N."""
        return self.unary_spikes / self.codes

    @property
    def max_code(self) -> int:
        """Largest code seen."""
        return int(self.largest.max())

    @property
    def zero_share(self) -> float:
        """Share of operands that are zero."""
        return float(self.histogram[0] / self.codes)

    @property
    def ceiling_share(self) -> float:
        """Share of codes at the ceiling D_N, where potentials are clipped."""
        histogram = self.histogram
        return float(histogram[self.D_N] / self.codes) if len(histogram) > self.D_N else 0.0

    @property
    def dead_share(self) -> float:
        """Share of channels that never spiked."""
        return float((self.largest == 0).mean())

    @property
    def plane_rates(self) -> NDArray[np.float64]:
        """Spike rate of each binary plane: spikes per code, 0 to 1."""
        return self.spikes_per_plane / self.codes

    @property
    def entropy(self) -> float:
        """Entropy of the codes in bits."""
        return entropy(self.histogram)


@dataclass
class Recording:
    """What entered every convolution while a network ran; layers appear in the order in which they run."""

    layers: dict[str, LayerSpikes] = field(default_factory=dict)
    uncounted: set[str] = field(default_factory=set)

    @property
    def images(self) -> int:
        """Number of recorded images."""
        return max((layer.images for layer in self.layers.values()), default=0)

    @property
    def spiking(self) -> list[LayerSpikes]:
        """Layers that a neuron precedes."""
        return [layer for layer in self.layers.values() if layer.spiking]

    def total(self, what: str) -> int:
        """Return the sum of a number over all layers that a neuron precedes: ``spikes``, ``synops``, ``codes``, ..."""
        return sum(getattr(layer, what) for layer in self.spiking)

    def add(self, layers: dict[str, LayerSpikes]) -> None:
        """Add what one run of the network has counted: all layers or, if interrupted, none."""
        known = self.layers
        self.layers = known | {name: known[name] + layer if name in known else layer for name, layer in layers.items()}

    def __str__(self) -> str:
        if not self.images:
            return "no image recorded"
        spikes, codes, synops = (self.total(what) for what in ("spikes", "codes", "synops"))
        text = f"{self.images} image{'s' * (self.images > 1)}, {len(self.spiking)} spiking layers"
        if not codes:
            return text
        per_image = f"{spikes / self.images:,.0f} spikes and {synops / self.images:,.0f} synaptic operations per image"
        return f"{text}: {per_image}, {spikes / codes:.3f} spikes per code"


@contextlib.contextmanager
def record_spikes(model: Any) -> Iterator[Recording]:
    """Count what enters every convolution of a network, in each of its complete runs within this context.

    The network is not touched: no attribute, no hook of its own. What comes straight from a neuron is counted as codes,
    everything else as real. A re-parameterised convolution counts as the dense 3x3 convolution that it is when
    deployed.

    Args:
        model: Any torch module (each call of it is a run; with T > 1 its input holds the timesteps, unless it begins
            with a `SpikeEncoder`), or a `YOLO` object with a torch network (its predictions and
            validations, without warm-up, and calls of its ``model``).

    Yields:
        Recording, which grows with every run.

    Raises:
        TypeError: If there is no torch network.
    """
    network = model if isinstance(model, nn.Module) else None
    of_yolo = network is None or hasattr(model, "predictor")
    if of_yolo:
        network = getattr(model, "model", None)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"record_spikes takes a torch network or a YOLO object that holds one, got {network or model!r}; "
            "an exported file is counted by: spikeyolo report model=FILE source=IMAGES"
        )
    recorder = _Recorder(network, of_yolo)
    hooks = [
        register_module_forward_pre_hook(recorder.enter),
        register_module_forward_hook(recorder.leave),
    ]
    try:
        yield recorder.recording
    finally:
        for hook in hooks:
            hook.remove()


def fan_out(synapse: Synapse, height: int, width: int) -> Tensor:
    """Return how many outputs each input position reaches, (height, width), int64; the same in every channel."""
    fan_outs, place = _classes(synapse, height, width)
    return torch.tensor(fan_outs)[place]


def _classes(synapse: Synapse, height: int, width: int) -> tuple[list[int], Tensor]:
    """Return the different fan-outs of a layer, and which of them each position has, (height, width), int32."""
    if isinstance(synapse, nn.Linear):
        return [synapse.out_features], torch.zeros(height, width, dtype=torch.int32)
    geometry = synapse.kernel_size, synapse.stride, synapse.padding, synapse.dilation, synapse.padding_mode
    taps, place = _taps(*geometry, height, width)
    return [t * (synapse.out_channels // synapse.groups) for t in taps], place


@functools.lru_cache(maxsize=256)
def _taps(
    kernel_size: Any, stride: Any, padding: Any, dilation: Any, mode: Any, height: int, width: int
) -> tuple[list[int], Tensor]:
    """Return how often a convolution of one channel uses each input position: different numbers, and places.

    It is linear: the gradient of the sum of its outputs, all weights being one, counts.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        probe = nn.Conv2d(1, 1, kernel_size, stride, padding, dilation, bias=False, padding_mode=mode)
        nn.init.ones_(probe.weight)
        x = torch.zeros(1, 1, height, width, requires_grad=True)
        (reached,) = torch.autograd.grad(probe(x).sum(), x)
    taps, place = reached[0, 0].long().unique(return_inverse=True)
    return taps.tolist(), place.int()


class _Recorder:
    """The two hooks that see every module of the process run; they count those of one network."""

    def __init__(self, network: nn.Module, of_yolo: bool):
        self.recording = Recording()
        self.network, self.of_yolo = network, of_yolo
        self.root: nn.Module | None = None  # the network, or a predictor's copy of it, while it runs
        self.backend: nn.Module | None = None  # of a predictor or validator, while it runs
        self.names: dict[nn.Module, str | None] = {}  # None: a part of something that is counted
        self.T = 1
        self.emitted: dict[int, tuple[Any, nn.Module]] = {}  # by id: a neuron's output, weakly held, and the neuron
        self.layers: dict[str, LayerSpikes] = {}

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Notice the start of a run."""
        if self.root is not None and module is not self.root:
            return
        if self.of_yolo and type(module).__name__ == "AutoBackend":  # warm-up does not go through its __call__
            self.backend = module
        elif module is self.network or (self.backend is not None and self._is_copy(module)):
            self.root, self.layers, self.emitted = module, {}, {}
            self.names = dict(_synapses_and_neurons(module))
            self.T = max((m.T for m in self.names if isinstance(m, (IBRALIF, CodeNeuron))), default=1)

    def _is_copy(self, module: nn.Module) -> bool:
        """Return whether a module is the copy of the network that Ultralytics predicts with."""
        return type(module) is type(self.network) and getattr(module, "yaml", 0) == getattr(self.network, "yaml", 1)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Count what has entered a convolution; at the end of the run keep its counts."""
        if module is self.backend:
            self.backend = None
        if self.root is None:
            return
        if module not in self.names:
            weight = getattr(module, "weight", None)
            if weight is not None and weight.ndim > 1 and inputs and self._source(inputs) is not None:
                self.recording.uncounted.add(type(module).__name__)
        elif isinstance(module, (IBRALIF, CodeNeuron)):
            self.emitted[id(output)] = weakref.ref(output), module
        elif (name := self.names[module]) is not None:
            self._count(name, module, inputs, output)
        if module is self.root:
            self.recording.add(self.layers)
            self.root, self.layers, self.emitted = None, {}, {}

    def _source(self, inputs: Any) -> nn.Module | None:
        """Return the neuron that has just emitted an input."""
        held, neuron = self.emitted.get(id(inputs[0]), (None, None))
        return neuron if held is not None and held() is inputs[0] else None

    @torch.no_grad()
    def _count(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        neuron, x = self._source(inputs), inputs[0].detach()
        if isinstance(neuron, CodeNeuron):
            D_N, N, codes = neuron.ceiling, neuron.N, x
        elif isinstance(neuron, IBRALIF):
            D_N, N, codes = neuron.D_N, neuron.N, (x * neuron.N).round_()
        else:
            D_N, N, codes = 0, 0.0, x != 0
        binary = D_N == 1 or (isinstance(module, PlaneConv) and module.spike_driven)
        operand = "real" if not D_N else "binary" if binary else "code"
        layer = LayerSpikes.of((name, operand, D_N, N, self.T), codes, _deployed(module), output.numel())
        self.layers[name] = self.layers[name] + layer if name in self.layers else layer


def _synapses_and_neurons(model: nn.Module) -> Iterator[tuple[nn.Module, str | None]]:
    """Walk over what is counted: neurons and convolutions.

    A chain of linear layers is one convolution; the decoder's expectation (DFL) is none, it has no weights to learn.
    """
    whole = None
    for name, module in model.named_modules():
        if whole is not None and name.startswith(f"{whole}."):
            yield module, None
        elif isinstance(module, (RepChain, SepChain, DFL)):
            whole = name
            yield module, None if isinstance(module, DFL) else name
        elif isinstance(module, (nn.Conv2d, nn.Linear, IBRALIF, CodeNeuron)):
            yield module, name


def _deployed(module: nn.Module) -> Synapse:
    """Return the convolution that a module is when deployed."""
    if isinstance(module, (RepChain, SepChain)):
        first, *_, last = (layer for layer in module.layers() if isinstance(layer, nn.Conv2d))
        return factored(nn.Conv2d(first.in_channels, last.out_channels, 3, padding=1, device="meta"), module.layers())
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    return module


def _sum(a: Counts | None, b: Counts | None) -> Counts:
    """Add counts of different length."""
    short, long = sorted((c if c is not None else np.zeros(0, np.int64) for c in (a, b)), key=len)
    total = long.copy()
    total[: len(short)] += short
    return total


def _bits(codes: int, planes: int) -> Counts:
    """Return which planes each of the codes 0, 1, ... has a spike in, (planes, codes)."""
    return to_planes(torch.arange(codes), max(planes, 1)).numpy().astype(np.int64)[:planes]
