"""The metadata of an exported graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch

import spikeyolo
from spikeyolo.assets import find_weights
from spikeyolo.deployment.form import DeployForm
from spikeyolo.files import sha256


def describe(form: DeployForm, *, graph: str, source: Path) -> dict[str, str]:
    """Return what the metadata of an exported graph says about it, all values as JSON or plain text."""
    import ultralytics

    neurons = form.neurons.values()
    weights = {name: [p.numpy(force=True) for p in conv.parameters()] for name, conv in form.convs.items()}
    versions = {"spikeyolo": spikeyolo.__version__, "ultralytics": ultralytics.__version__}

    def common(values: set[float] | set[int]) -> str:
        return json.dumps(values.pop() if len(values) == 1 else None)

    return {
        "graph": graph,
        "D": common({n.D for n in neurons}),
        "N": common({n.N for n in neurons}),
        "T": common({n.T for n in neurons}),
        "decay": common({n.decay for n in neurons}),
        "ranges": json.dumps({name: [n.D, n.N, n.rest] for name, n in form.neurons.items()}),
        "unit": json.dumps(form.unit),
        "planes": json.dumps(form.planes),
        "trimmed": json.dumps({name: n.ceiling for name, n in form.neurons.items() if n.ceiling < n.D_N}),
        "grid": json.dumps(form.grids),
        "factored_weights": json.dumps(
            {name: c.factored_weights for name, c in form.convs.items() if c.factored_weights}
        ),
        "exact": json.dumps(sorted(form.inexact) or "worst case"),
        "weights_sha256": digest(weights),
        "source": source.name,
        "source_sha256": sha256(find_weights(source)),
        "versions": json.dumps(versions | {"torch": torch.__version__, "onnx": onnx.__version__}),
    }


def digest(arrays: Mapping[str, list[Any]]) -> str:
    """Return one hash of named lists of float32 arrays, whatever their order."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        for array in arrays[name]:
            total.update(array.tobytes())
    return total.hexdigest()
