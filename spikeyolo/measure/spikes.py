"""Exact counts of spikes and synaptic operations. Needs torch and numpy alone.

A synaptic operation is one spike arriving at one output: each spike counts as often as the convolution uses its
position, borders, stride, dilation and groups included. Only histograms of codes are kept, never activations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeyolo.neurons import entropy, to_planes

Counts = NDArray[np.int64]
Synapse = nn.Conv2d | nn.Linear  # what accumulates weights
KINDS = torch.uint8, torch.int16, torch.int32  # in which codes are counted: the smallest that holds them


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
            codes: Whole numbers of any type, in any order in memory: (T*B, C, H, W), or (T*B, ..., C) for a linear
                layer.
            synapse: Convolution or linear layer that they enter.
            outputs: Number of its outputs.

        Raises:
            ValueError: If a code is not a number.
        """
        frames, weights = codes.shape[0], synapse.weight.numel()
        if isinstance(synapse, nn.Linear):
            codes = codes.reshape(-1, codes.shape[-1], 1, 1)
        largest = codes.amax((0, 2, 3)).cpu().numpy()
        top = float(largest.max())
        if not math.isfinite(top):
            raise ValueError(f"{about[0]} takes {top}: the network has diverged, nothing can be counted")
        bins = int(top) + 1
        fan_outs, places = _classes(synapse, codes.shape[2], codes.shape[3])
        kind = next(kind for kind in KINDS if bins * len(fan_outs) <= torch.iinfo(kind).max)
        keys = codes.to(kind)
        if len(fan_outs) > 1:
            keys = keys + places.to(keys.device, kind) * bins
        in_memory = sorted(range(keys.ndim), key=keys.stride, reverse=True)  # flattened without a copy
        table = torch.bincount(keys.permute(in_memory).flatten(), minlength=bins * len(fan_outs)).view(-1, bins)
        filters = synapse.weight.shape[0]
        return cls(
            *about,
            weights=weights,
            outputs=outputs,
            macs=outputs // filters * weights,
            factored_macs=outputs // filters * min(weights, getattr(synapse, "factored_weights", None) or weights),
            frames=frames,
            counts=dict(zip(fan_outs, table.cpu().numpy(), strict=True)),
            largest=largest.astype(np.int64),
        )

    @classmethod
    def attention(cls, name: str, T: int, shape: tuple[int, ...], dims: Sequence[int]) -> LayerSpikes:
        """Return the products of an attention: queries by keys, and the shares that they make by values.

        Args:
            name: Name of the module.
            T: Timesteps.
            shape: Its input, (T*B, C, H, W).
            dims: Heads, key and value channels per head.
        """
        frames, _, height, width = shape
        heads, keys, values = dims
        places = height * width
        operands = frames * heads * (keys + values) * places  # each meets every place
        return cls(
            *(f"{name} (products)", "real", 0, 0.0, T),
            weights=0,
            outputs=frames * heads * (places + values) * places,
            macs=operands * places,
            factored_macs=operands * places,
            frames=frames,
            counts={places: np.array([0, operands])},
            largest=np.ones(1, np.int64),
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

    @functools.cached_property
    def histogram(self) -> Counts:
        """How often each code 0, 1, 2, ... was emitted; not to be written to."""
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
        return int(self.histogram @ _spikes(len(self.histogram), self.planes))

    @property
    def unary_spikes(self) -> int:
        """Spikes of the unary coding, in which code k costs k spikes."""
        return int(self.histogram @ np.arange(len(self.histogram)))

    @property
    def synops(self) -> int:
        """Synaptic operations of the binary planes."""
        return sum(s * int(row @ _spikes(len(row), self.planes)) for s, row in self.counts.items())

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
        return float(histogram[self.D_N] / self.codes) if self.spiking and len(histogram) > self.D_N else 0.0

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

    @property
    def most_varied(self) -> LayerSpikes:
        """Among the spiking layers of the highest resolution the one whose codes have the highest entropy."""
        return max(self.spiking, key=lambda layer: (layer.codes / len(layer.largest), layer.entropy))

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


def fan_out(synapse: Synapse, height: int, width: int) -> Tensor:
    """Return how many outputs each input position reaches, (height, width), int64; the same in every channel."""
    fan_outs, places = _classes(synapse, height, width)
    return torch.tensor(fan_outs)[places]


def _classes(synapse: Synapse, height: int, width: int) -> tuple[list[int], Tensor]:
    """Return the different fan-outs of a layer, and which of them each position has, (height, width)."""
    if isinstance(synapse, nn.Linear):
        return [synapse.out_features], torch.zeros(height, width, dtype=torch.int64)
    geometry = synapse.kernel_size, synapse.stride, synapse.padding, synapse.dilation, synapse.padding_mode
    taps, places = _taps(*geometry, height, width)
    return [t * (synapse.out_channels // synapse.groups) for t in taps], places


@functools.lru_cache(maxsize=1024)
def _taps(
    kernel_size: Any, stride: Any, padding: Any, dilation: Any, mode: Any, height: int, width: int
) -> tuple[list[int], Tensor]:
    """Return how often a convolution of one channel uses each input position: different numbers, and which of them.

    It is linear: the gradient of the sum of its outputs, all weights being one, counts.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        probe = nn.Conv2d(1, 1, kernel_size, stride, padding, dilation, bias=False, padding_mode=mode)
        nn.init.ones_(probe.weight)
        x = torch.zeros(1, 1, height, width, requires_grad=True)
        (reached,) = torch.autograd.grad(probe(x).sum(), x)
    taps, places = reached[0, 0].long().unique(return_inverse=True)
    return taps.tolist(), places


def _sum(a: Counts | None, b: Counts | None) -> Counts:
    """Add counts of different length."""
    short, long = sorted((c if c is not None else np.zeros(0, np.int64) for c in (a, b)), key=len)
    total = long.copy()
    total[: len(short)] += short
    return total


@functools.lru_cache(maxsize=4096)
def _bits(codes: int, planes: int) -> Counts:
    """Return which planes each of the codes 0, 1, ... has a spike in, (planes, codes); not to be written to."""
    return to_planes(torch.arange(codes), max(planes, 1)).numpy().astype(np.int64)[:planes]


@functools.lru_cache(maxsize=4096)
def _spikes(codes: int, planes: int) -> Counts:
    """Return how many spikes each of the codes 0, 1, ... is, (codes,); not to be written to."""
    return _bits(codes, planes).sum(0)
