"""Make a spiking network of an ANN without training: a neuron in place of each activation, mAP before and after.

python examples/convert_an_ann.py model=relu-spikeyolo-p.pt bits=6 imgsz=128

Without data= a small photo-digits data set is made in FOLDER/digits.
"""

import sys
from pathlib import Path

from spikeyolo.conversion.calibration import Ranges
from spikeyolo.conversion.convert import convert
from spikeyolo.data import make_photo_digits


def main(model="relu-spikeyolo-p.pt", data="", bits="8", imgsz="192", images="32", folder="runs/examples"):
    """Convert, print mAP of both networks and where the new one is."""
    root = Path(folder).resolve()
    data = data or make_photo_digits(root / "digits", train=64, val=32, imgsz=192)
    ranges = Ranges(bits=int(bits))
    done = convert(model, data=str(data), ranges=ranges, images=int(images), imgsz=int(imgsz), project=root)

    print(f"\n{model}: {done.ranges}, calibrated on {done.images}")
    for name, scores in {"ANN": done.before, "spiking": done.after}.items():
        print(f"{name:<8} mAP50 {scores['mAP50']:.4f}  mAP50-95 {scores['mAP50-95']:.4f}")
    print(f"real-valued: {'; '.join(done.real_valued)}")
    print(f"saved to {done.file}; train it on with: yolo train model={done.file} data={data}")


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
