"""The ``neuron:`` mapping of a model YAML, and the table of neurons that it chooses from. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from spikeyolo.neurons.aligned import PoTLIF
from spikeyolo.neurons.equations import DECAY
from spikeyolo.neurons.integer import IBRALIF, neurons_of
from spikeyolo.neurons.twins import ReLU, SiLU


@dataclass(frozen=True)
class NeuronType:
    """A row of the table: what a name of the field stands for.

    Args:
        make: Makes a neuron of the numbers below and T and decay, or the activation of an ANN twin of nothing.
        prefix: First part of the names of models that have it.
        numbers: Keys that it takes in the YAML, with the numbers behind the name.
        optional: Whether they may be left out.
        fixed: Keys that have no other number.
    """

    make: Callable[..., nn.Module]
    prefix: str
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    optional: bool = False
    fixed: tuple[str, ...] = ()

    @property
    def spiking(self) -> bool:
        """Whether this is a neuron and not the activation of an ANN twin."""
        return bool(self.numbers)


TYPES = {
    "lif": NeuronType(IBRALIF, "lif", {"D": 1, "N": 1}, fixed=("D", "N")),
    "i-lif": NeuronType(IBRALIF, "ilif", {"D": 4, "N": 1}, fixed=("N",)),
    "ib-lif": NeuronType(IBRALIF, "ib", {"D": 511, "N": 1}, fixed=("N",)),
    "ibra-lif": NeuronType(IBRALIF, "ibra", {"D": 5.11, "N": 100}),
    "pot-lif": NeuronType(PoTLIF, "potlif", {"planes": 5, "range": "tracked"}, optional=True),
    "relu": NeuronType(ReLU, "relu"),
    "silu": NeuronType(SiLU, "silu"),
}
FORMER_TYPES = {"ar-lif": "pot-lif"}  # another neuron is called AR-LIF: adaptive reset, arXiv 2507.20746
COMMON = ("T", "decay", "activation", "ranges")  # keys beside type and numbers


@dataclass(frozen=True, kw_only=True)
class NeuronConfig:
    """The ``neuron:`` mapping of a model YAML; calling it makes one neuron.

    Args:
        type: Name of a row in `TYPES`.
        numbers: Numbers of that type, by the keys of the YAML.
        T: Timesteps.
        decay: Membrane decay.
        activation: "silu" for potentials that a neuron reads through this function (a converted silu twin).
        ranges: [D, N, rest] of each neuron by its name within the layers (a converted network), in place of D and N.

    Raises:
        ValueError: For an unknown type or key, missing or contradicting numbers.

    >>> NeuronConfig(type="ibra-lif", numbers={"D": 5.11, "N": 100})()
    IBRALIF(D=5.11, N=100, T=1, decay=0.25, planes=9)
    """

    type: str
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    T: int = 1
    decay: float = DECAY
    activation: str | None = None
    ranges: Mapping[str, Sequence[float]] | None = field(default=None, repr=False)

    @classmethod
    def preset(cls, name: str) -> NeuronConfig:
        """Return the named configuration with its usual numbers.

        >>> print(NeuronConfig.preset("i-lif"))
        i-lif (D 4, N 1, T 1, decay 0.25)
        """
        return cls(type=name, numbers=TYPES[name].numbers)

    @classmethod
    def from_mapping(cls, mapping: object) -> NeuronConfig:
        """Read the ``neuron:`` entry of a model YAML.

        >>> print(NeuronConfig.from_mapping({"type": "pot-lif", "planes": 4, "T": 2}))
        pot-lif (planes 4, T 2, decay 0.25)
        >>> NeuronConfig.from_mapping({"type": "ibra-lif", "D": 5.11})
        Traceback (most recent call last):
        ValueError: neuron: {type: ibra-lif} lacks N; write neuron: {type: ibra-lif, D: 5.11, N: 100, T: 1, decay: 0.25}
        """
        if not isinstance(mapping, Mapping) or "type" not in mapping:
            raise ValueError(f"neuron: must be a mapping such as {_example('ibra-lif')}, got {mapping!r}")
        entries = cast(Mapping[str, Any], mapping)
        given = {key: value for key, value in entries.items() if value is not None}
        name: Any = given.pop("type", None)
        if isinstance(name, str):
            name = FORMER_TYPES.get(name, name)
        common = {key: given.pop(key) for key in COMMON if key in given}
        return cls(type=name, numbers=given, **common)

    def __post_init__(self):
        # a YAML may hold anything
        if not isinstance(self.type, str) or self.type not in TYPES:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"unknown neuron type {self.type!r}; types are {', '.join(TYPES)}")
        kind = TYPES[self.type]
        if unknown := [str(key) for key in self.numbers if key not in kind.numbers]:
            keys = ["type", *kind.numbers, *(COMMON if kind.spiking else ())]
            raise ValueError(f"neuron type {self.type} has no key {', '.join(unknown)}; its keys are {', '.join(keys)}")
        if self.activation not in (None, "silu"):
            raise ValueError(f"activation must be silu or left away, got {self.activation!r}")
        if not kind.spiking:
            if (self.T, self.activation, self.ranges) != (1, None, None):
                raise ValueError(f"an ANN twin has T = 1, no activation and no ranges, got {self.type} with T={self.T}")
            return
        if self.ranges is not None:
            self._check_ranges(self.ranges)
            return
        if missing := [key for key in kind.numbers if key not in self.numbers and not kind.optional]:
            raise ValueError(
                f"neuron: {{type: {self.type}}} lacks {' and '.join(missing)}; write {_example(self.type)}"
            )
        for key in kind.fixed:
            got, fixed = self.numbers[key], kind.numbers[key]
            if got != fixed:
                raise ValueError(f"neuron type {self.type} has {key} = {fixed}, got {key}={got}; ibra-lif takes any")
        self()  # the neuron checks its own numbers

    def _check_ranges(self, ranges: Mapping[str, Sequence[float]]) -> None:
        if (self.type, self.numbers, self.T) != ("ibra-lif", {}, 1) or not ranges:
            raise ValueError(f"neurons with ranges: have type ibra-lif, T = 1 and no D or N, got {self}")
        for name, numbers in ranges.items():
            if len(numbers) != 3:
                raise ValueError(f"the range of {name} must be [D, N, rest], got {numbers}")

    def to_mapping(self) -> dict[str, Any]:
        """Return the ``neuron:`` entry of a model YAML.

        >>> NeuronConfig.preset("lif").to_mapping()
        {'type': 'lif', 'D': 1, 'N': 1, 'T': 1, 'decay': 0.25}
        """
        if not self.spiking:
            return {"type": self.type}
        common = {key: value for key in COMMON if (value := getattr(self, key)) is not None}
        return {"type": self.type, **self.numbers, **common}

    def __str__(self) -> str:
        numbers = ["a range per layer"] if self.ranges is not None else []
        shown = {**self.numbers, **({"T": self.T, "decay": self.decay} if self.spiking else {})}
        numbers += [f"{key} {value if isinstance(value, str) else f'{value:g}'}" for key, value in shown.items()]
        return f"{self.type} ({', '.join(numbers)})" if numbers else self.type

    @property
    def spiking(self) -> bool:
        """Whether this is a neuron and not the activation of an ANN twin."""
        return TYPES[self.type].spiking

    def __call__(self) -> nn.Module:
        """Make one neuron (or one activation of the twin)."""
        kind = TYPES[self.type]
        if not kind.spiking:
            return kind.make()
        numbers = self.numbers if self.ranges is None else kind.numbers  # until `set_ranges`
        neuron = kind.make(**numbers, T=self.T, decay=self.decay)
        return nn.Sequential(SiLU(), neuron) if self.activation else neuron

    def set_ranges(self, layers: nn.Module) -> None:
        """Give each neuron within layers its own range, if there are any.

        Raises:
            ValueError: If a range is missing, left over or impossible.
        """
        if self.ranges is None:
            return
        neurons = neurons_of(layers)
        if missing := sorted(neurons.keys() ^ self.ranges.keys()):
            what = "has no range" if missing[0] in neurons else "is no neuron of this network"
            raise ValueError(f"{missing[0]} {what}: the ranges are those of a network of another size")
        for name, neuron in neurons.items():
            D, N, rest = self.ranges[name]
            try:
                neuron.set_range(D, N, int(rest))
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e


def _example(name: str) -> str:
    numbers = ", ".join(f"{key}: {value}" for key, value in TYPES[name].numbers.items())
    return f"neuron: {{type: {name}, {numbers}, T: 1, decay: {DECAY}}}"
