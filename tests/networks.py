"""Networks, data and trainings that tests share."""

from ast import literal_eval
from pathlib import Path

import torch
from ultralytics import YOLO

PICO = "ibra-spikeyolo-p.yaml"


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


IBRA = {"type": "ibra-lif", "D": 5.11, "N": 100}


def write_small(path: Path, neuron: dict, **changes) -> Path:
    """Write a network of five convolving rows, with residual blocks, a concatenation, and two levels."""
    from ultralytics.utils import YAML

    backbone = [
        [-1, 1, "SpikeEncoder", []],
        [-1, 1, "SpikeDown", [8, 7, 4, 2, True]],
        [-1, 1, "SpikeRepBlock", [2, 7]],
        [-1, 1, "SpikeConv", [16, 3, 2]],
    ]
    head = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 2], 1, "Concat", [1]], [-1, 1, "SpikeBlock", [2, 7]]]
    head.append([[6, 3], 1, "SpikeDetect", ["nc"]])
    YAML.save(path, {"nc": 3, "neuron": neuron, "backbone": backbone, "head": head} | changes)
    return path


def calibrated(path: Path, images: torch.Tensor) -> YOLO:
    """Make a network with random weights whose BatchNorms fit the images, so that its codes use their range."""
    model = YOLO(path)
    for module in model.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = None  # running average
    with torch.no_grad():
        for _ in range(3):
            model.model.train()(images)
    model.model.eval()
    return model


def write_images(folder: Path, photos: torch.Tensor) -> Path:
    """Write images (n, 3, H, W) in [0, 1], each with a border of 16 black rows below."""
    import cv2
    import numpy as np

    folder.mkdir()
    for i, photo in enumerate(photos):
        picture = (photo.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), np.pad(picture, ((0, 16), (0, 0), (0, 0))))
    return folder


STOCK = {  # backbones of Ultralytics' own blocks; rows 2 and the last are what the head reads
    "v8": "Conv 32 3 2, Conv 32 3 2, C2f 32 True, Conv 64 3 2, SPPF 64 5",
    "11": "Conv 16 3 2, Conv 32 3 2, C3k2 32 False 0.25, Conv 128 3 2, SPPF 128 5, C2PSA 128",
    "26": "Conv 16 3 2, Conv 32 3 2, C3k2 32 True, Conv 128 3 2, SPPF 128 5 3 True, C3k2 128 True 0.5 True",
}


def write_stock(path: Path, family: str = "v8", activation: str = "nn.ReLU()", **changes) -> Path:
    """Write a small network of stock blocks in the manner of a YOLO family: two levels, one concatenation."""
    from ultralytics.utils import YAML

    rows = [row.split() for row in STOCK[family].split(", ")]
    backbone = [[-1, 1, block, [literal_eval(a) for a in args]] for block, *args in rows]
    last, n = len(backbone) - 1, len(backbone)
    head = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 2], 1, "Concat", [1]]]
    head += [[-1, 1, "C2f" if family == "v8" else "C3k2", [32, False]], [[n + 2, last], 1, "Detect", ["nc"]]]
    d = {"nc": 10, "activation": activation, "backbone": backbone, "head": head}
    d |= {"reg_max": 1, "end2end": True} if family == "26" else {}
    YAML.save(path, d | changes)
    return path
