import os
import sys
import tempfile
from pathlib import Path

# Before ultralytics is imported: no network, settings of our own.
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
if "YOLO_CONFIG_DIR" not in os.environ:
    settings = tempfile.TemporaryDirectory(prefix="spikeyolo-tests-")  # deleted when the tests end
    os.environ["YOLO_CONFIG_DIR"] = settings.name

import pytest
import torch

if not torch.cuda.is_available():  # before triton is imported: its kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

from networks import PICO, train
from ultralytics import YOLO

import spikeyolo  # noqa: F401 (registers the plugin also where the start-up hook is not installed)
from spikeyolo.data import make_photo_digits


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(name="spikeyolo")
def run_spikeyolo(monkeypatch):
    """Run a command line in this process; return the exit code."""
    from spikeyolo import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["spikeyolo", *map(str, words)])
        return cli.main()

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """YAML file of a small photo-digits data set."""
    return make_photo_digits(tmp_path_factory.mktemp("data") / "digits", train=24, val=8, imgsz=128, progress=False)


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory) -> Path:
    """Checkpoint of two short epochs of the pico model."""
    return train(YOLO(PICO), digits, tmp_path_factory.mktemp("runs"), epochs=2)


@pytest.fixture(scope="session")
def photos(digits) -> torch.Tensor:
    """Eight images, (8, 3, 64, 64) in [0, 1]."""
    import cv2

    files = sorted((digits.parent / "images/val").iterdir())
    images = [cv2.resize(cv2.imread(str(file)), (64, 64))[..., ::-1].copy() for file in files]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]).float() / 255


@pytest.fixture
def _default_activation():
    """Undo what `activation:` of a YAML changes for all networks of this process."""
    from ultralytics.nn.modules.conv import Conv

    before = Conv.default_act
    yield
    Conv.default_act = before
