"""What tests of the verifier share."""

import shutil
import sys

import pytest
import torch
from networks import IBRA, calibrated, write_images, write_small
from ultralytics import YOLO

from spikeyolo import cli


@pytest.fixture
def spikeyolo(monkeypatch, capsys):
    """Run ``spikeyolo verify``; return exit code, output, errors."""

    def run(**arguments):
        monkeypatch.setattr(sys, "argv", ["spikeyolo", "verify", *(f"{k}={v}" for k, v in arguments.items())])
        code = cli.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def folder(photos, tmp_path_factory):
    """Checkpoint of a small SpikeYOLO, its two graphs, another checkpoint, images."""
    folder = tmp_path_factory.mktemp("proof")
    for seed, name in enumerate(("small", "other")):
        torch.manual_seed(seed)
        calibrated(write_small(folder / f"{name}.yaml", IBRA), photos).save(folder / f"{name}.pt")
    for graph in ("integer", "spike"):
        file = YOLO(folder / "small.pt").export(format="onnx", imgsz=64, graph=graph)
        shutil.move(file, folder / f"{graph}.onnx")
    write_images(folder / "images", photos[:2])
    return folder
