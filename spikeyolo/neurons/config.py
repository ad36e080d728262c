"""The ``neuron:`` mapping of a model YAML, and the neurons that it makes. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from spikeyolo.neurons.aligned import ARLIF
from spikeyolo.neurons.equations import DECAY
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.neurons.twins import TWINS, SiLU

SPIKING = {  # the numbers behind the names of the field
    "lif": {"D": 1, "N": 1},
    "i-lif": {"D": 4, "N": 1},
    "ib-lif": {"D": 511, "N": 1},
    "ibra-lif": {"D": 5.11, "N": 100},
    "ar-lif": {"planes": 5, "range": "tracked"},
}


@dataclass(frozen=True, kw_only=True)
class NeuronConfig:
    """The ``neuron:`` mapping of a model YAML; calling it makes one neuron.

    Args:
        type: "lif", "i-lif", "ib-lif", "ibra-lif", "ar-lif", or "relu" and "silu" for the ANN twin.
        D: Largest spike value (spiking types but ar-lif).
        N: Range-alignment factor (spiking types but ar-lif).
        planes: Binary planes of a code (ar-lif; 5 by default).
        range: "tracked" (the default) or "learned" (ar-lif).
        T: Timesteps.
        decay: Membrane decay.
        activation: "silu" for potentials that a neuron reads through this function (a converted silu twin).
        ranges: [D, N, rest] of each neuron by its name within the layers (a converted network), in place of D and N.

    Raises:
        ValueError: For an unknown type or key, missing or contradicting numbers.
    """

    type: str
    D: float | None = None
    N: float | None = None
    planes: int | None = None
    range: str | None = None
    T: int = 1
    decay: float = DECAY
    activation: str | None = None
    ranges: Mapping[str, Sequence[float]] | None = field(default=None, repr=False)

    @classmethod
    def preset(cls, name: str) -> NeuronConfig:
        """Return the named configuration with its usual numbers."""
        return cls(type=name, **SPIKING.get(name, {}))

    @classmethod
    def from_mapping(cls, mapping: object) -> NeuronConfig:
        """Read the ``neuron:`` entry of a model YAML."""
        if not isinstance(mapping, Mapping) or "type" not in mapping:
            raise ValueError(f"neuron: must be a mapping such as {_example('ibra-lif')}, got {mapping!r}")
        known = [f.name for f in fields(cls)]
        if unknown := [str(key) for key in mapping if key not in known]:
            raise ValueError(f"neuron: has no key {', '.join(unknown)}; keys are {', '.join(known)}")
        return cls(**mapping)

    def __post_init__(self):
        if self.type not in (*SPIKING, *TWINS):
            raise ValueError(f"unknown neuron type {self.type!r}; types are {', '.join((*SPIKING, *TWINS))}")
        if self.activation not in (None, "silu"):
            raise ValueError(f"activation must be silu or left away, got {self.activation!r}")
        if self.type in TWINS:
            numbers = (self.D, self.N, self.planes, self.range, self.T, self.activation, self.ranges)
            if numbers != (None, None, None, None, 1, None, None):
                raise ValueError(f"neuron type {self.type} takes no D or N and T = 1, got {self}; drop the numbers")
            return
        if self.type == "ar-lif":
            if (self.D, self.N, self.activation, self.ranges) != (None, None, None, None):
                raise ValueError(f"ar-lif finds its range itself, so it takes no D or N; write {_example('ar-lif')}")
            self()  # the neuron checks its own numbers
            return
        if (self.planes, self.range) != (None, None):
            raise ValueError(f"only ar-lif takes planes and range, {self.type} takes D and N, got {self}")
        if self.ranges is not None:
            if (self.type, self.D, self.N, self.T) != ("ibra-lif", None, None, 1) or not self.ranges:
                raise ValueError(f"neurons with ranges: have type ibra-lif, T = 1 and no D or N, got {self}")
            for name, numbers in self.ranges.items():
                if len(numbers) != 3:
                    raise ValueError(f"the range of {name} must be [D, N, rest], got {numbers}")
            return
        if missing := [name for name in ("D", "N") if getattr(self, name) is None]:
            raise ValueError(
                f"neuron: {{type: {self.type}}} lacks {' and '.join(missing)}; write {_example(self.type)}"
            )
        if self.type == "lif" and (self.D, self.N) != (1, 1):
            raise ValueError(f"a lif neuron has D = 1 and N = 1, got D={self.D}, N={self.N}; i-lif takes any whole D")
        if self.type in {"i-lif", "ib-lif"} and self.N != 1:
            raise ValueError(f"{self.type} has N = 1, got N={self.N}; ibra-lif takes any N")
        self()  # the neuron checks its own numbers

    def to_mapping(self) -> dict[str, Any]:
        """Return the ``neuron:`` entry of a model YAML."""
        if not self.spiking:
            return {"type": self.type}
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        numbers = ["a range per layer"] if self.ranges is not None else []
        numbers += [f"{key} {value}" for key in ("planes", "range") if (value := getattr(self, key)) is not None]
        numbers += [f"{key} {value:g}" for key in ("D", "N") if (value := getattr(self, key)) is not None]
        if self.spiking:
            numbers += [f"T {self.T}", f"decay {self.decay:g}"]
        return f"{self.type} ({', '.join(numbers)})" if numbers else self.type

    @property
    def spiking(self) -> bool:
        """Whether this is a neuron and not the activation of an ANN twin."""
        return self.type in SPIKING

    def __call__(self) -> nn.Module:
        """Make one neuron (or one activation of the twin)."""
        if self.type in TWINS:
            return TWINS[self.type]()
        if self.type == "ar-lif":
            given = {key: value for key in SPIKING["ar-lif"] if (value := getattr(self, key)) is not None}
            return ARLIF(**given, T=self.T, decay=self.decay)
        numbers = {"D": self.D, "N": self.N} if self.ranges is None else SPIKING[self.type]  # until `set_ranges`
        neuron = IBRALIF(**numbers, T=self.T, decay=self.decay)  # pyright: ignore[reportArgumentType] (checked)
        return nn.Sequential(SiLU(), neuron) if self.activation else neuron

    def set_ranges(self, layers: nn.Module) -> None:
        """Give each neuron within layers its own range, if there are any.

        Raises:
            ValueError: If a range is missing, left over or impossible.
        """
        if self.ranges is None:
            return
        neurons = {name: module for name, module in layers.named_modules() if isinstance(module, IBRALIF)}
        if missing := sorted(neurons.keys() ^ self.ranges.keys()):
            what = "has no range" if missing[0] in neurons else "is no neuron of this network"
            raise ValueError(f"{missing[0]} {what}: the ranges are those of a network of another size")
        for name, neuron in neurons.items():
            D, N, rest = self.ranges[name]
            try:
                neuron.__init__(D, N, T=self.T, decay=self.decay, rest=int(rest))
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e


def _example(name: str) -> str:
    numbers = ", ".join(f"{key}: {value}" for key, value in SPIKING[name].items())
    return f"neuron: {{type: {name}, {numbers}, T: 1, decay: {DECAY}}}"
