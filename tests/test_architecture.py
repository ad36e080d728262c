"""The tree and the floors of docs/architecture.md are those of the files."""

import re
from pathlib import Path

import pytest
from test_house import FLOORS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def named(tree):
    """Return the files and folders of a tree as paths; two spaces are a level, and each file has a description."""
    paths, folders = [], []
    for line in tree.splitlines():
        indent, name, about = re.fullmatch(r"((?:  )*)(\S+)(?: {2,}(\S.*))?", line).groups()
        assert about or name.endswith("/"), f"{line!r} says nothing"
        folders = [*folders[: len(indent) // 2], name]
        paths.append("".join(folders))
    return paths


def problems(paths, root):
    """Return what a tree leaves out of the package, names twice, or names though it does not exist."""
    package = {str(file.relative_to(root)).removesuffix("__init__.py") for file in root.glob("spikeyolo/**/*.py")}
    found = [f"{path} is missing in the tree" for path in sorted(package - set(paths))]
    found += [f"{path} does not exist" for path in paths if not (root / path).exists()]
    return found + [f"{path} is named twice" for path in sorted(set(paths)) if paths.count(path) > 1]


def test_the_tree_is_that_of_the_files():
    tree = PAGE.read_text().split("```")[1].strip("\n")
    paths = named(tree)
    assert "spikeyolo/neurons/coding.py" in paths
    assert problems(paths, ROOT) == []


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("spikeyolo/\n  a/\n    b.py  b", ["spikeyolo/c.py is missing in the tree"]),
        ("spikeyolo/\n  a/\n    b.py  b\n  c.py  c\n  d.py  d", ["spikeyolo/d.py does not exist"]),
        ("spikeyolo/\n  c.py  c\n  c.py  c\n  a/\n    b.py  b", ["spikeyolo/c.py is named twice"]),
        (
            "spikeyolo/\n  a/\n  b.py  b\n  c.py  c",
            ["spikeyolo/a/b.py is missing in the tree", "spikeyolo/b.py does not"],
        ),
    ],
)
def test_a_wrong_tree_is_noticed(tmp_path, tree, said):
    (tmp_path / "spikeyolo/a").mkdir(parents=True)
    for name in ("__init__.py", "a/__init__.py", "a/b.py", "c.py"):
        (tmp_path / "spikeyolo" / name).touch()
    found = problems(named(tree), tmp_path)
    assert [problem[: len(start)] for problem, start in zip(found, said, strict=True)] == said


def test_the_floors_are_those_that_are_held():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(floor) for floor, _ in rows] == list(range(1, len(FLOORS) + 1))
    assert [rooms.replace("`", "") for _, rooms in rows] == list(FLOORS)


def test_the_functions_on_the_way_exist():
    """Each row of the two journeys names functions and the file that has them."""
    cells = [row.split(" | ")[-1] for row in PAGE.read_text().split("## One image")[1].splitlines() if " | " in row]
    checked = 0
    for part in re.split("; | and (?=`[a-z_]+/)", "; ".join(cells)):
        names = [name for name in re.findall(r"`([\w./]+)`", part) if "/" not in name]
        files = [ROOT / "spikeyolo" / name for name in re.findall(r"`(\w+/\w+\.py)`", part)]
        for file in files:
            source = file.read_text()
            for name in names:
                last = name.split(".")[-1]
                assert re.search(rf"^ *(?:def|class) {last}\b", source, re.MULTILINE), f"{file.name} has no {name}"
                checked += 1
    assert checked > 25
