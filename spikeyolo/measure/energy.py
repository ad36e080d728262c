"""Operation counts to energy, under named and cited prices. Modelled, not measured: no hardware is involved.

Every scheme is a way to run the same layers on the same images; docs/energy.md explains them and their limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spikeyolo.measure.spikes import LayerSpikes, Recording


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Prices of operations.

    Args:
        name: What users call it.
        mac_pj: Multiply-accumulate, pJ.
        ac_pj: Accumulate, pJ.
        operand_bits: Width of the operands that `mac_pj` multiplies; an integer multiplication by B bits costs
            B / operand_bits of it. None: floating point, the price does not depend on the number of levels.
        byte_pj: One byte from or to memory, pJ. Zero: memory is left out.
        weight_bytes: Size of a weight.
        scatter_bytes: Bytes of potential that a synaptic operation moves: 0 if sums stay in a register until an output
            is complete (output-stationary), 8 if each spike reads and writes the 4 bytes of its target (event-driven).
        source: Where the prices come from.
    """

    name: str
    mac_pj: float
    ac_pj: float
    operand_bits: int | None = None
    byte_pj: float = 0.0
    weight_bytes: int = 4
    scatter_bytes: int = 0
    source: str

    def mac_of_bits_pj(self, bits: int) -> float:
        """Return the price of a multiply-accumulate whose operand has that many bits."""
        scale = 1 if self.operand_bits is None else bits / self.operand_bits
        return (self.mac_pj - self.ac_pj) * scale + self.ac_pj


HOROWITZ = "Horowitz, Computing's energy problem, ISSCC 2014, 45 nm, 0.9 V"
SRAM = "10 pJ per 64-bit access of an 8 KB memory = 1.25 pJ per byte"
INT8 = {"mac_pj": 0.23, "ac_pj": 0.03, "operand_bits": 8}  # multiplication 0.2 pJ, addition 0.03 pJ
MODELS = {
    model.name: model
    for model in (
        EnergyModel(
            name="45nm-float32",
            mac_pj=4.6,
            ac_pj=0.9,
            source=f"{HOROWITZ}: float32 multiplication 3.7 pJ, addition 0.9 pJ; memory left out",
        ),
        EnergyModel(
            name="45nm-int8",
            **INT8,
            source=f"{HOROWITZ}: int8 multiplication 0.2 pJ, addition 0.03 pJ; memory left out",
        ),
        EnergyModel(
            name="45nm-int8-sram",
            **INT8,
            byte_pj=1.25,
            weight_bytes=1,
            source=f"{HOROWITZ}: int8 as above; {SRAM}. Sums stay in registers: each operation reads its weight, each "
            "synapse its operand",
        ),
        EnergyModel(
            name="45nm-int8-event",
            **INT8,
            byte_pj=1.25,
            weight_bytes=1,
            scatter_bytes=8,
            source=f"{HOROWITZ}: int8 as above; {SRAM}. Event-driven: each code is read once, each of its synaptic "
            "operations reads its weight, and reads and writes the 4-byte potential of its target. Schemes without "
            "spikes keep their sums in registers as above",
        ),
    )
}


@dataclass(frozen=True)
class Energy:
    """Energy in pJ by what it is spent on.

    Args:
        real: Convolutions that take real values: the stem, or all of an ANN.
        synapses: Synaptic operations (or multiply-accumulates) of the layers behind neurons.
        merge: Additions that put binary planes together.
        neurons: Neuron updates; activations of an ANN cost nothing.
        memory: Weights, operands and potentials moved.
    """

    real: float = 0.0
    synapses: float = 0.0
    merge: float = 0.0
    neurons: float = 0.0
    memory: float = 0.0

    @property
    def total(self) -> float:
        """Everything together."""
        return sum(vars(self).values())

    def __add__(self, other: Energy) -> Energy:
        theirs = vars(other)
        return Energy(**{key: value + theirs[key] for key, value in vars(self).items()})

    def __truediv__(self, n: float) -> Energy:
        return Energy(**{key: value / n for key, value in vars(self).items()})


def spikes_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy of a layer on binary planes: an accumulation per synaptic operation.

    Planes are put together by Horner's rule, y = 2 y + conv: an addition per output for each plane but the first; the
    doubling is a shift.
    """
    merge = layer.outputs * (layer.planes - 1)
    return _accumulate(layer, price, synops=layer.synops, operand_bits=layer.planes, merge=merge)


def unary_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy of a layer if code k were k spikes, as in I-LIF: D_N unary planes, nothing to merge."""
    return _accumulate(layer, price, synops=layer.unary_synops, operand_bits=layer.D_N)


def ann_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy of the same layer in an ANN: every multiply-accumulate, once for all timesteps.

    Re-parameterised layers cost what the chain costs that they were trained as: an ANN need not make them dense.
    """
    return _multiply(layer, price, macs=layer.factored_macs, bits=price.operand_bits or 32)


def ann_sparse_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy of a recorded ANN on hardware that skips multiplications by zero."""
    macs = min(layer.nonzero_synops, layer.factored_macs)
    return _multiply(layer, price, macs=macs, bits=price.operand_bits or 32)


def quantised_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy of the same layer in a quantised network of equal bits, once for all timesteps.

    Codes 0 to D_N in T timesteps have T * D_N + 1 levels: as many bits, one pass (arXiv 2409.08290).
    """
    return _multiply(layer, price, macs=layer.macs, bits=_equal_bits(layer, price))


def quantised_sparse_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy of the quantised network of equal bits on hardware that skips multiplications by zero."""
    return _multiply(layer, price, macs=layer.nonzero_synops, bits=_equal_bits(layer, price))


def published_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy by the rule of SpikeYOLO's paper: dense operations x AC x mean code; nothing else."""
    if not layer.spiking:
        return Energy(real=layer.macs * price.mac_pj)
    return Energy(synapses=layer.macs * price.ac_pj * layer.mean_code)


def published_planes_pj(layer: LayerSpikes, price: EnergyModel) -> Energy:
    """Return the energy by the same rule on binary planes: dense operations x AC x mean spikes per code."""
    if not layer.spiking:
        return Energy(real=layer.macs * price.mac_pj)
    return Energy(synapses=layer.macs * price.ac_pj * layer.spikes / layer.codes)


Scheme = Callable[[LayerSpikes, EnergyModel], Energy]
SCHEMES: dict[str, tuple[Scheme, str]] = {  # ways to run the same layers on the same images, and what they are called
    "spikes": (spikes_pj, "binary spikes (this model)"),
    "unary": (unary_pj, "unary spikes, as I-LIF codes them"),
    "ann": (ann_pj, "relu twin, dense"),
    "quantised": (quantised_pj, "quantised network of equal bits, dense"),
    "quantised-sparse": (quantised_sparse_pj, "quantised network of equal bits, zeros skipped"),
    "published": (published_pj, "SpikeYOLO's rule: MACs x AC x mean code"),
    "published-planes": (published_planes_pj, "the same rule: MACs x AC x mean spikes"),
}
RIVALS = ("unary", "ann", "quantised", "quantised-sparse")  # other schemes; the published rules only count otherwise
ANN_SCHEMES: dict[str, tuple[Scheme, str]] = {  # ways to run an ANN that was recorded itself
    "ann": (ann_pj, "ANN (this model), dense"),
    "ann-sparse": (ann_sparse_pj, "ANN (this model), zeros skipped"),
}


def estimate(recording: Recording, scheme: str, price: EnergyModel) -> Energy:
    """Return the energy per image of a recorded network, in pJ.

    Args:
        recording: What was counted.
        scheme: Key of `schemes_of`.
        price: Prices of operations.
    """
    run = schemes_of(recording, price)[scheme][0]
    layers = (run(layer, price) for layer in recording.layers.values())
    return sum(layers, start=Energy()) / recording.images


def schemes_of(recording: Recording, price: EnergyModel) -> dict[str, tuple[Scheme, str]]:
    """Return the ways to run a recorded network that prices can be given for; the published rules know no memory."""
    if not recording.spiking:
        return ANN_SCHEMES
    return {key: scheme for key, scheme in SCHEMES.items() if not (price.byte_pj and key.startswith("published"))}


def find_models(names: str) -> list[EnergyModel]:
    """Return the energy models of comma-separated names, all for none.

    Raises:
        ValueError: For an unknown name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in MODELS]:
        raise ValueError(f"unknown preset {', '.join(unknown)}; presets are {', '.join(MODELS)}")
    return [MODELS[name] for name in wanted or MODELS]


def _accumulate(layer: LayerSpikes, price: EnergyModel, *, synops: int, operand_bits: int, merge: int = 0) -> Energy:
    if not layer.spiking:
        return _multiply(layer, price, macs=layer.macs, bits=price.operand_bits or 32, passes=layer.T)
    later = layer.codes * (layer.T - 1) / layer.T  # leak and reset of the timesteps after the first
    reads = layer.codes if price.scatter_bytes else layer.synapses
    moved = synops * (price.weight_bytes + price.scatter_bytes) + reads * operand_bits / 8
    return Energy(
        synapses=synops * price.ac_pj,
        merge=merge * price.ac_pj,
        neurons=layer.codes * price.ac_pj + later * (price.mac_pj + price.ac_pj),
        memory=moved * price.byte_pj,
    )


def _multiply(layer: LayerSpikes, price: EnergyModel, *, macs: int, bits: int, passes: int = 1) -> Energy:
    """Return the energy of a layer that multiplies; its counts are those of T passes."""
    share = passes / layer.T
    compute = macs * share * price.mac_of_bits_pj(bits)
    moved = macs * share * price.weight_bytes + layer.synapses * share * bits / 8
    memory = moved * price.byte_pj
    return Energy(synapses=compute, memory=memory) if layer.spiking else Energy(real=compute, memory=memory)


def _equal_bits(layer: LayerSpikes, price: EnergyModel) -> int:
    """Return the bits of as many levels as a neuron's codes have over all timesteps; those of pixels stay."""
    return (layer.T * layer.D_N).bit_length() if layer.spiking else price.operand_bits or 32
