"""ONNX files: read, and run with their inner tensors visible."""

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from spikeyolo.graph.notes import metadata


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is truncated or no ONNX file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export one with: yolo export model=best.pt format=onnx")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as e:  # of protobuf, onnx and the file system
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ValueError(f"{path} is no complete ONNX file ({reason}); export it again") from e
    return model


def input_size(model: onnx.ModelProto, path: Path) -> tuple[int, int, int]:
    """Return batch, height and width that images must have."""
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    shape = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (None, 3):
        shown = ", ".join(
            f"{i.name} {[d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim]}" for i in inputs
        )
        raise ValueError(
            f"{path} does not take images: its input is {shown or 'missing'}, not (batch, 3, height, width)"
        )
    imgsz = json.loads(metadata(model).get("imgsz", "[640, 640]"))
    return shape[0] or 1, shape[2] or imgsz[0], shape[3] or imgsz[1]


def watched(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """Return a copy of a model that also gives the named tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in present)
    return copy


def open_session(model: onnx.ModelProto, outputs: list[str], *, optimise: bool, threads: int = 0) -> Any:
    """Make an ONNX Runtime session that also gives the named tensors; 0 threads: as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # which grows by doubling, and keeps what it has
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = watched(model, outputs).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the constant tensors of a graph, by name, as arrays."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def scope(node: str) -> str:
    """Return the module that a node's name tells: ``/model.6/model.6.0/conv1/conv/Conv`` is model.6.0.conv1.conv."""
    path: list[str] = []
    for part in node.split("/")[1:-1]:
        if path and part.startswith(f"{path[-1]}."):  # the scope repeats its parent's name
            path.pop()
        path.append(part)
    return ".".join(path)
