"""The house: imports go downwards only, and the ground floor needs no more than it says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spikeyolo

PACKAGE = Path(spikeyolo.__file__).parent
FLOORS = (  # from the ground up; a room imports from the floors below its own
    "neurons records files assets version processor",
    "blocks data",
    "network",
    "deployment",
    "graph",
    "proof plugin",
    "measure",
    "conversion show",
    "checks official",
    "cli",
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}


def imports(source):
    """Yield line and module of each import in a source, those within functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "spikeyolo.relative"  # a room that no floor has: addresses are written out
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "spikeyolo"
            yield from ((node.lineno, f"spikeyolo.{a.name}") for a in node.names if whole)
            if not whole:
                yield node.lineno, node.module


def broken_arrows(files):
    """Return the imports that go up, sideways, or to a room that nobody knows."""
    broken = []
    for name, source in files.items():
        room = name.split("/")[0].removesuffix(".py")
        for line, module in imports(source):
            if module == "_spikeyolo_hook" and room not in ("__init__", "checks"):
                broken.append(f"{name}:{line}: {module}: only the package and checks know the hook")
            if not module.startswith("spikeyolo."):
                continue
            other = module.split(".")[1]
            if other == room or (other in FLOOR and room == "__init__"):
                continue
            if other not in FLOOR or room not in FLOOR:
                broken.append(f"{name}:{line}: {module}: a room that no floor of tests/test_house.py has")
            elif FLOOR[other] >= FLOOR[room]:
                broken.append(f"{name}:{line}: {room} imports {module}, which is not below it")
    return broken


def test_imports_go_downwards_only():
    files = {str(f.relative_to(PACKAGE)): f.read_text() for f in PACKAGE.rglob("*.py")}
    assert len(files) > 50
    assert broken_arrows(files) == []


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("neurons/integer.py", "from spikeyolo.blocks.conv import SpikeConv", "neurons imports spikeyolo.blocks.conv"),
        ("proof/rules.py", "def f():\n    import spikeyolo.plugin.models", "proof/rules.py:2: proof imports"),
        ("graph/export.py", "from spikeyolo import show", "graph imports spikeyolo.show, which is not below it"),
        ("plugin/models.py", "import _spikeyolo_hook", "only the package and checks know the hook"),
        ("attic/box.py", "from spikeyolo.neurons import IBRALIF", "a room that no floor"),
        ("show/report.py", "from spikeyolo.utils import anything", "a room that no floor"),
        (
            "graph/notes.py",
            "def f():\n    from .. import cli",
            "notes.py:2: spikeyolo.relative: a room",
        ),
    ],
)
def test_a_broken_arrow_is_named(name, source, said):
    (broken,) = broken_arrows({name: source})
    assert said in broken


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("spikeyolo.neurons", "ultralytics onnx cv2"),
        ("spikeyolo.records", "ultralytics onnx cv2"),
        ("spikeyolo.proof.agreement", "torch ultralytics"),
        ("spikeyolo.proof.evaluator", "torch ultralytics"),
        ("spikeyolo.graph.notes", "torch ultralytics"),
        ("spikeyolo.measure", "torch ultralytics"),
        ("spikeyolo.plugin", "torch ultralytics onnx"),
        ("spikeyolo.data", "torch ultralytics sklearn"),
        ("spikeyolo", "torch ultralytics"),
    ],
)
def test_needs_no_more_than_it_says(module, absent):
    code = f"import sys, {module}; print([name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"
