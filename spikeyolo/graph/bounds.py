"""What makes a graph exact on every runtime and processor, checked on the numbers that are in it."""

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from spikeyolo.deployment import BYTE, PAIR, SUM_BITS
from spikeyolo.graph.builder import Array
from spikeyolo.graph.notes import Notes
from spikeyolo.graph.products import WIDE

PARTS = ("weight", "bias", "scale", "step", "branch")


def numbers_of(model: onnx.ModelProto, notes: Notes) -> dict[str, dict[str, Array]]:
    """Return weights, biases, scales and steps of each layer that a graph notes."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        layer: {p: numpy_helper.to_array(tensors[f"{layer}.{p}"]) for p in PARTS if f"{layer}.{p}" in tensors}
        for layer in notes.layers
    }


def digest_of(model: onnx.ModelProto) -> str:
    """Return one hash of all nodes and numbers."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def check(model: onnx.ModelProto, notes: Notes) -> None:
    """Demand that a graph is exact.

    Raises:
        RuntimeError: Names the layer and what is wrong.
    """
    if found := next(problems(model, notes), None):
        raise RuntimeError(f"{found}; please report this")


def problems(model: onnx.ModelProto, notes: Notes) -> Iterator[str]:
    """Yield what speaks against exact sums, for any image, on any runtime and processor.

    Weights are int8 and biases int32, every partial sum stays below 2^24 in magnitude, the products of two codes and
    two weights, which processors without VNNI add up in 16 bits, do not saturate, steps are powers of two, and so are
    scales where the N of all neurons are powers of two of each other.
    """
    shared = not any(np.log2(N / notes.unit) % 1 for _, N, _ in notes.ranges.values())
    for layer, parts in numbers_of(model, notes).items():
        if "weight" not in parts or "bias" not in parts:
            yield f"{layer}: its weights are missing"
            continue
        weight, bias, about = parts["weight"], parts["bias"], notes.layers[layer]
        if weight.dtype != np.int8 or bias.dtype != np.int32:
            yield f"{layer}: its weights are {weight.dtype} and its biases {bias.dtype}, not int8 and int32"
            continue
        largest = 2 ** notes.planes[layer] - 1 if layer in notes.planes else BYTE
        outputs = about["channels"][1]
        # (taps, inputs, outputs) of a product by a matrix, else (outputs, inputs, height, width)
        filters = weight.reshape(-1, outputs).T if about["kind"] == "whole" else weight.reshape(outputs, -1)
        filters = filters.astype(np.int64)
        reach = np.maximum(filters.clip(min=0).sum(1), -filters.clip(max=0).sum(1)) * largest
        total = int((reach + np.abs(bias.astype(np.int64))).max(initial=0))
        if total >= 2**SUM_BITS:
            yield f"{layer}: a sum can reach {total:,}, not below 2^{SUM_BITS}"
        heaviest = int(np.abs(filters).max(initial=0))
        if about["kind"] != WIDE and 2 * largest * heaviest > PAIR:
            yield f"{layer}: two products of {largest} and {heaviest} saturate 16 bits"
        for part in ("scale", "step", "branch"):
            mantissas = np.frexp(parts.get(part, np.ones(1)))[0]
            if part in parts and (shared or part != "scale") and (mantissas != 0.5).any():
                yield f"{layer}: a {part} is no power of two"
