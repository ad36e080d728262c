import os
import tempfile
from pathlib import Path

# Before ultralytics is imported: no network, settings of our own.
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="spikeyolo-tests-"))

import pytest
import torch
from ultralytics import YOLO

import spikeyolo  # noqa: F401 (registers the plugin also where the start-up hook is not installed)
from spikeyolo.data import make_photo_digits

PICO = "ibra-spikeyolo-p.yaml"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """YAML file of a small photo-digits data set."""
    return make_photo_digits(tmp_path_factory.mktemp("data") / "digits", train=24, val=8, imgsz=128, progress=False)


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory) -> Path:
    """Checkpoint of two short epochs of the pico model."""
    return train(YOLO(PICO), digits, tmp_path_factory.mktemp("runs"), epochs=2)


def train(model, data, project, **arguments) -> Path:
    """Train in the way of all tests here and return best.pt."""
    defaults = {"imgsz": 64, "batch": 8, "epochs": 1, "optimizer": "AdamW", "lr0": 0.002, "plots": False, "seed": 0}
    model.train(data=str(data), project=str(project), **(defaults | arguments))
    return Path(model.trainer.best)


def write_yaml(path: Path, **changes) -> Path:
    """Write the architecture with changes at top level."""
    from ultralytics.utils import YAML

    from spikeyolo.assets import ARCHITECTURE

    YAML.save(path, YAML.load(ARCHITECTURE) | changes)
    return path
