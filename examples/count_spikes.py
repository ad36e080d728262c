"""Count the spikes of the shipped weights on the shipped clip, and estimate their energy (modelled, not measured).

python examples/count_spikes.py models=ibra-spikeyolo-p.pt,relu-spikeyolo-p.pt imgsz=192 images=8
"""

import sys
from typing import Any

import torch
from ultralytics import YOLO

import spikeyolo
from spikeyolo.assets import CLIP
from spikeyolo.data.images import Images
from spikeyolo.measure.energy import MODELS, estimate

SHIPPED = "ibra-spikeyolo-p.pt,potlif-spikeyolo-p.pt,ilif-spikeyolo-p.pt,lif-spikeyolo-p.pt,relu-spikeyolo-p.pt"


def main(models=SHIPPED, source=str(CLIP), imgsz="192", images="8", preset="45nm-float32"):
    """Print one line per model."""
    frames = Images.of_source(source, int(images)).batches(1, int(imgsz), int(imgsz))
    batches = [torch.from_numpy(batch) for batch in frames]
    print(f"{len(batches)} images at {imgsz} px; energy modelled ({preset})")
    print(f"{'model':<24}{'spikes per image':>18}{'spikes per code':>18}{'uJ per image':>14}")
    for name in models.split(","):
        network: Any = YOLO(name).model
        network.eval()
        with spikeyolo.record_spikes(network) as recording, torch.no_grad():
            for batch in batches:
                network(batch)
        spikes, codes = recording.total("spikes"), recording.total("codes")
        energy_pj = estimate(recording, "spikes" if codes else "ann", MODELS[preset]).total
        counted = f"{spikes / recording.images:18,.0f}{spikes / codes:18.3f}" if codes else " " * 36
        print(f"{name:<24}{counted}{energy_pj / 1e6:14,.0f}")


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
