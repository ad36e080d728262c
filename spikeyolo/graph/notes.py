"""What an exported graph notes about itself: its metadata, written and read here alone. Needs onnx alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

import onnx

FORM = 2


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Metadata of a spike or integer graph; a graph of another program has none of it, so all have defaults.

    Args:
        graph: "spike" or "integer".
        form: Version of the form of the graph: 2 has whole numbers and these notes; 1 had float weights on a grid.
        D, N, T, decay: Numbers of the neurons where all have the same, else None.
        ranges: D, N and rest of the neuron before each layer.
        unit: Potentials are unit * v.
        planes: Number of binary planes of the codes that enter each layer; the stem has none.
        weight_bits: Width of the weights.
        layers: The convolutions in the network's order, each a mapping: ``codes`` (tensor that enters it), its
            ``order`` (NHWC or NCHW; N is T*B, time-major) and ``size`` (H, W; null if it may differ), ``kind`` (of
            `spikeyolo.graph.products.Product`), and its geometry: ``channels`` (in, out), ``kernel``, ``stride``,
            ``padding``, ``dilation``, ``groups``.
        factored_weights: Number of weights of the chain that a dense layer was trained as.
        exact: "worst case": every sum is exact for any image.
        graph_sha256: Digest of all nodes and numbers.
        source: Name of the checkpoint.
        source_sha256: Its hash.
        versions: Of the packages that exported.
        real_valued: What is not computed on spikes.
        attention: Heads, key and value channels per head of each attention.
        neuron: Type of the neurons.
        kept_planes: Most planes that were asked for.
    """

    graph: str = ""
    form: int = 1
    D: float | None = None
    N: float | None = None
    T: int | None = None
    decay: float | None = None
    ranges: dict[str, list[float]] = field(default_factory=dict)
    unit: float = 1.0
    planes: dict[str, int] = field(default_factory=dict)
    weight_bits: int = 0
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    factored_weights: dict[str, int] = field(default_factory=dict)
    exact: str = ""
    graph_sha256: str = ""
    source: str = ""
    source_sha256: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    real_valued: list[str] = field(default_factory=list)
    attention: dict[str, list[int]] = field(default_factory=dict)
    neuron: str = ""
    kept_planes: int | None = None

    @property
    def ours(self) -> bool:
        """Whether spikeyolo has exported the graph, in this version or an earlier one."""
        return bool(self.planes and self.ranges and self.neuron)

    @property
    def current(self) -> bool:
        """Whether the graph has the form of this version."""
        return self.form == FORM and bool(self.layers)

    def write(self) -> dict[str, str]:
        """Return the metadata: plain text as it is, everything else as JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f.name: values[f.name] if f.type == "str" else json.dumps(values[f.name]) for f in fields(self)}

    @classmethod
    def read(cls, model: onnx.ModelProto) -> Notes:
        """Read the metadata of a graph.

        Raises:
            ValueError: If it is damaged.
        """
        stored, types = metadata(model), get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, kind in types.items():
            if name in stored:
                try:
                    values[name] = stored[name] if kind is str else json.loads(stored[name])
                except (ValueError, RecursionError) as e:
                    raise ValueError(f"the graph's metadata {name!r} is damaged ({e}); export it again") from e
                if not _fits(values[name], kind):
                    raise ValueError(f"the graph's metadata {name!r} is damaged (no {kind}); export it again")
        return cls(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value of JSON has a type."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, parts[1]) for v in value.values())
    if origin is list:
        return isinstance(value, list) and all(_fits(v, parts[0]) for v in value)
    if parts:  # one of several
        return any(_fits(value, part) for part in parts)
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e30
    return type(value) is kind


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return all metadata of an ONNX model, Ultralytics' own included."""
    return {p.key: p.value for p in model.metadata_props}
