"""Checkpoints name classes by addresses that never move; those of before still load."""

import importlib
import os
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import load_checkpoint, torch_safe_load
from ultralytics.utils import LOGGER

from spikeyolo.assets import WEIGHTS_DIR, find_weights
from spikeyolo.deployment import deploy, form_of
from spikeyolo.neurons import PoTLIF

DOORS = {"spikeyolo.neurons", "spikeyolo.blocks", "spikeyolo.deployment"}
VECTORS = Path(__file__).parents[1] / "vectors"
ALIGNED, DEPLOYED = VECTORS / "before_folders_aligned.pt", VECTORS / "before_folders_deployed.pt"
EXPECTED = np.load(VECTORS / "before_folders_expected.npz")
X = (torch.arange(2 * 3 * 64 * 64) * 7919 % 256).view(2, 3, 64, 64) / 255


def class_paths(file):
    """Return the addresses of ours in a checkpoint, without following its pickle."""
    with zipfile.ZipFile(file) as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    names = [argument for operation, argument, _ in pickletools.genops(program) if operation.name == "GLOBAL"]
    return {tuple(name.split(" ")) for name in names if name.startswith("spikeyolo")}


@pytest.mark.parametrize("file", sorted(WEIGHTS_DIR.glob("*.pt")), ids=lambda file: file.name)
def test_shipped_weights_name_doors_alone(file):
    paths = class_paths(file)
    assert {module for module, _ in paths} <= DOORS
    assert all(getattr(sys.modules[module], name).__module__ == module for module, name in paths)


@pytest.mark.parametrize("door", sorted(DOORS))
def test_every_module_of_a_room_has_its_address_at_the_door(door):
    package, modules = importlib.import_module(door), []
    for file in Path(package.__file__).parent.glob("*.py"):
        if file.stem not in ("__init__", "triton_kernels"):
            namespace = vars(importlib.import_module(f"{door}.{file.stem}"))
            modules += [v for v in namespace.values() if isinstance(v, type) and issubclass(v, torch.nn.Module)]
    own = [cls for cls in modules if cls.__module__.startswith(door) and not cls.__name__.startswith("_")]
    assert len(own) > 5
    assert {cls.__module__ for cls in own} == {door}
    assert all(getattr(package, cls.__name__) is cls for cls in own)


def test_files_from_before_name_addresses_that_are_gone():
    assert ("spikeyolo.heads", "SpikeDetect") in class_paths(ALIGNED)
    assert {("spikeyolo.ranges", "LearnedRange"), ("spikeyolo.neurons", "ARLIF")} <= class_paths(ALIGNED)
    assert ("spikeyolo.fixed_point", "PlaneConv") in class_paths(DEPLOYED)


@pytest.mark.parametrize("safe", [False, True])
def test_a_checkpoint_from_before_computes_the_same_and_is_saved_with_addresses_that_stay(safe, tmp_path, caplog):
    LOGGER.addHandler(caplog.handler)
    try:
        content, _ = torch_safe_load(ALIGNED, safe_only=safe)
    finally:
        LOGGER.removeHandler(caplog.handler)
    assert "neuron type ar-lif is called pot-lif now" in caplog.text
    network = content["model"].float().eval()
    assert network.yaml["neuron"]["type"] == "pot-lif"
    assert any(type(module) is PoTLIF for module in network.modules())
    with torch.no_grad():
        assert torch.allclose(network(X)[0], torch.from_numpy(EXPECTED["aligned"]), atol=1e-3)
    YOLO(ALIGNED).save(tmp_path / "again.pt")
    assert {module for module, _ in class_paths(tmp_path / "again.pt")} <= DOORS
    assert load_checkpoint(tmp_path / "again.pt")[0].yaml["neuron"]["type"] == "pot-lif"


def test_a_deploy_form_from_before_is_named():
    """Its float weights on a grid are gone; it is made again of its checkpoint."""
    with pytest.raises(ImportError, match="in the deploy form of an earlier version; load the chec"):
        torch_safe_load(DEPLOYED)
    with pytest.raises(AttributeError, match="no attribute 'anything'"):
        importlib.import_module("spikeyolo.deployment").anything  # noqa: B018


def test_a_deploy_form_names_doors_alone(tmp_path):
    network = deploy(YOLO("ibra-spikeyolo-p.yaml"))
    torch.save({"model": network}, tmp_path / "deployed.pt")
    assert {module for module, _ in class_paths(tmp_path / "deployed.pt")} <= DOORS
    again = torch_safe_load(tmp_path / "deployed.pt")[0]["model"]
    assert len(form_of(again).planes) == 78
    with torch.no_grad():
        assert torch.equal(again(X)[0], network(X)[0])


def test_former_names_still_work(caplog):
    assert find_weights("arlif-spikeyolo-p.pt") == WEIGHTS_DIR / "potlif-spikeyolo-p.pt"
    LOGGER.addHandler(caplog.handler)
    try:
        network = YOLO("arlif-spikeyolo-p.yaml").model
    finally:
        LOGGER.removeHandler(caplog.handler)
    assert network.yaml["neuron"]["type"] == "pot-lif"
    assert "arlif is called potlif now" in caplog.text


def test_the_stock_command_loads_safely(tmp_path):
    words = ["predict", f"model={ALIGNED}", "source=image.png", "imgsz=64"]
    torch.manual_seed(0)
    import cv2

    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((64, 64, 3), np.uint8))
    command = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()", *words]
    environment = os.environ | {"ULTRALYTICS_SAFE_LOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
