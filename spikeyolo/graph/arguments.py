"""Arguments of ``yolo export``: what they may be for a spiking model."""

from typing import Any

from spikeyolo.deployment import GRAPHS, check_weight_bits, has_neurons
from spikeyolo.neurons import check_planes, check_tracked

EXPORT_ARGUMENTS = {"graph": "spike", "planes": None, "weight_bits": None}  # what yolo export takes in addition
OPSET = 18  # the first with Split into a number of parts


def check_arguments(exporter: Any) -> None:
    """Refuse arguments that make no spike graph; a callback at the start of every export.

    Raises:
        ValueError: Names the argument, its value and the remedy.
    """
    args = exporter.args
    added = [f"{key}={getattr(args, key)}" for key in EXPORT_ARGUMENTS if hasattr(args, key)]
    graph = getattr(args, "graph", "spike")
    if graph not in GRAPHS:
        raise ValueError(f"graph={graph} does not exist; use graph={' or graph='.join(GRAPHS)}")
    if hasattr(args, "planes"):
        check_planes(args.planes)
    if hasattr(args, "weight_bits"):
        check_weight_bits(args.weight_bits)
    if added and args.format != "onnx":
        raise ValueError(f"{' '.join(added)} needs format=onnx, got format={args.format}")
    if added and not has_neurons(exporter.model):
        raise ValueError(f"{' '.join(added)} needs a model with spiking neurons, this one has none; leave it away")
    check_tracked(exporter.model)
    if not writes_graph(exporter):
        return
    if args.opset is not None and args.opset < OPSET:
        raise ValueError(f"opset={args.opset} lacks operators of these graphs; use opset={OPSET} or newer")
    if getattr(args, "quantize", None) == 8:  # int8=True: as the graph is anyway, without a calibration
        args.quantize = None
    if getattr(args, "quantize", None) not in (None, 32):
        raise ValueError(
            f"half=True (quantize={args.quantize}) has no use for a spiking model, whose weights have 8 bits and "
            "whose sums have 32; leave it away"
        )


def writes_graph(exporter: Any) -> bool:
    """Return whether this export writes a spike or integer graph."""
    return exporter.args.format == "onnx" and has_neurons(exporter.model)
