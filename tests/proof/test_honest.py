"""Every honest export is proven: with its checkpoint as reference, and without one."""

import itertools
import random
import shutil
from pathlib import Path

import pytest
import torch
from networks import IBRA, calibrated, write_small, write_stock, write_yaml
from ultralytics import YOLO

from spikeyolo.assets import find_weights
from spikeyolo.conversion.calibration import Ranges, observe
from spikeyolo.conversion.spiking_copy import SpikingCopy
from spikeyolo.proof.verify import verify

# of the NMS of Ultralytics 8.4.120
pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")

NEURONS = {
    "ibra": IBRA,
    "i-lif": {"type": "i-lif", "D": 4, "N": 1},
    "lif": {"type": "lif", "D": 1, "N": 1},
    "pot-3": {"type": "pot-lif", "planes": 3},
    "pot-5": {"type": "pot-lif", "planes": 5},
}
NMS = {"nms": True, "conf": 0.1, "iou": 0.45, "max_det": 50}
ENDS = {  # end2end of the head, and how it is exported
    "boxes": (False, {}),
    "nms": (False, {"nms": True}),
    "nms-given": (False, NMS),
    "nms-agnostic": (False, NMS | {"agnostic_nms": True}),
    "nms-low": (False, {"nms": True, "conf": 0.001, "iou": 0.7, "max_det": 7}),
    "both-boxes": (True, {}),
    "both-nms": (True, {"nms": True}),
    "both-chosen": (True, {"nms": False}),
    "both-few": (True, {"nms": False, "max_det": 5}),
    "both-agnostic": (True, {"nms": False, "max_det": 9, "agnostic_nms": True}),
}
OPTIONS = {
    "neuron": [*NEURONS],
    "timesteps": [(1, 0.25), (2, 0.25), (2, 0.3), (4, 0.25), (4, 0.3)],
    "planes": [None, *range(2, 10)],
    "weight_bits": [2, 4, 6, 8],
    "graph": ["spike", "integer"],
    "imgsz": [64, 96, [64, 96], [160, 32]],
    "batch": [1, 2, 3],
    "dynamic": [False, True],
    "end": [*ENDS],
    "simplify": [True, False],
    "opset": [None, 18, 19, 20],
    "reg_max": [1, 16],
    "nc": [1, 2, 3, 64, 80],
    "levels": [2, 3, 4],
}


def pairwise(options, seed=0):
    """Return few cases in which each two values of two options come together at least once."""
    chance = random.Random(seed)
    names = list(options)
    left = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(options[a]))
        for j in range(len(options[b]))
    }
    found = []
    while left:
        best, most = {}, -1
        for _ in range(4):
            first = chance.choice(sorted(left))
            case = dict(first)
            for name in chance.sample(names, len(names)):
                if name not in case:
                    gains = [_gain(case, name, i, left, names) for i in range(len(options[name]))]
                    case[name] = chance.choice([i for i, gain in enumerate(gains) if gain == max(gains)])
            count = sum(_pair(names, case, a, b) in left for a, b in itertools.combinations(names, 2))
            if count > most:
                best, most = case, count
        left -= {_pair(names, best, a, b) for a, b in itertools.combinations(names, 2)}
        found.append({name: options[name][best[name]] for name in names})
    return found


def _gain(case, name, value, left, names):
    tried = case | {name: value}
    return sum(_pair(names, tried, *sorted((name, other), key=names.index)) in left for other in case)


def _pair(names, case, a, b):
    return (a, case[a]), (b, case[b])


def write_levels(path, neuron, levels, **changes):
    """Write a small network with 2 to 4 levels, of strides 4, 8, ..."""
    backbone = [
        [-1, 1, "SpikeEncoder", []],
        [-1, 1, "SpikeDown", [8, 7, 4, 2, True]],
        [-1, 1, "SpikeRepBlock", [2, 7]],
        *[[-1, 1, "SpikeConv", [16, 3, 2]]] * (levels - 1),
    ]
    last = levels + 1
    head = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, last - 1], 1, "Concat", [1]]]
    head.append([-1, 1, "SpikeBlock", [2, 7]])
    head.append([[*range(2, last - 1), last + 3, last], 1, "SpikeDetect", ["nc"]])
    return write_small(path, neuron, backbone=backbone, head=head, **changes)


def made(case, folder, photos):
    """Save a network, export it, and return the arguments of the export."""
    T, decay = case["timesteps"]
    end2end, ending = ENDS[case["end"]]
    neuron = NEURONS[case["neuron"]] | ({"T": T, "decay": decay} if T > 1 else {})
    changes = {"nc": case["nc"], "reg_max": case["reg_max"]} | ({"end2end": True} if end2end else {})
    calibrated(write_levels(folder / "net.yaml", neuron, case["levels"], **changes), photos).save(folder / "net.pt")
    names = ("planes", "weight_bits", "graph", "imgsz", "batch", "dynamic", "simplify", "opset")
    return {name: case[name] for name in names if case[name] is not None} | ending


def exported(checkpoint, **arguments):
    return Path(YOLO(checkpoint).export(format="onnx", **({"imgsz": 64} | arguments)))


def assert_proven(file, *references, images=1):
    for reference in references:
        static = None if reference == references[0] else 5  # what is run is the same
        checks = list(itertools.islice(verify(file, reference=reference, images=images), static))
        assert len(checks) >= 5, [str(check) for check in checks]
        assert not any(check.problems for check in checks), [str(check) for check in checks if check.problems]


CASES = pairwise(OPTIONS)
PLAIN = {name: values[0] for name, values in OPTIONS.items()} | {"reg_max": 16, "nc": 3}
CHOSEN = {  # what was not proven once
    "timesteps-unfolded": {"timesteps": (4, 0.3), "simplify": False, "end": "nms-agnostic", "neuron": "pot-3"},
    "nms-of-any-size": {"dynamic": True, "end": "nms-low", "simplify": False, "batch": 2, "graph": "integer"},
    "chosen-of-any-size": {"dynamic": True, "end": "both-few", "timesteps": (2, 0.25), "imgsz": [160, 32], "levels": 3},
    "many-planes": {"planes": 9, "nc": 64, "batch": 3, "opset": 20, "end": "both-agnostic", "weight_bits": 2},
}


HEAVY = {"nms-of-any-size", "chosen-of-any-size"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in HEAVY else ()) for n in CHOSEN])
def test_chosen_options(name, photos, tmp_path):
    arguments = made(PLAIN | CHOSEN[name], tmp_path, photos)
    assert_proven(exported(tmp_path / "net.pt", **arguments), tmp_path / "net.pt", "")


@pytest.mark.campaign
@pytest.mark.parametrize("i", range(len(CASES)))
def test_all_pairs_of_options(i, photos, tmp_path):
    arguments = made(CASES[i], tmp_path, photos)
    assert_proven(exported(tmp_path / "net.pt", **arguments), tmp_path / "net.pt", "")


def zero(network):
    """Let all weights be zero: equal ones are stored once by PyTorch's exporter."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.weight)


def silent(network):
    """Let no neuron fire."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.constant_(module.bias, -3)


def prune(network):
    """Let half of the channels be zero."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.out_channels > 2:
            with torch.no_grad():
                module.weight[::2] = 0
        elif isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[1::3] = module.bias[1::3] = 0


def flood(network):
    """Let biases reach far beyond all codes."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.bias, -3e4, 3e4)


def scaled(factor):
    """Scale all potentials, down to numbers that float32 hardly has."""

    def scale(network):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data *= factor

    return scale


def crop(network):
    """Let the lower right border of all kernels be zero: the graph cannot show how large they are."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
            with torch.no_grad():
                module.weight[:, :, -1] = module.weight[:, :, :, -1] = 0


WEIGHTS = {
    "zero": zero,
    "silent": silent,
    "prune": prune,
    "flood": flood,
    "tiny": scaled(1e-6),
    "denormal": scaled(1e-38),
}
WEIGHTS["crop"] = crop


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_odd_weights(name, photos, tmp_path):
    model = calibrated(write_small(tmp_path / "net.yaml", IBRA), photos)
    WEIGHTS[name](model.model)
    model.save(tmp_path / "net.pt")
    assert_proven(exported(tmp_path / "net.pt"), tmp_path / "net.pt")
    assert_proven(exported(tmp_path / "net.pt", graph="integer", simplify=False), tmp_path / "net.pt", "")


@pytest.mark.slow
def test_a_checkpoint_of_half_precision(photos, tmp_path):
    path = tmp_path / "net.pt"
    calibrated(write_small(tmp_path / "net.yaml", NEURONS["pot-5"]), photos).save(path)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["model"] = checkpoint["model"].half()
    torch.save(checkpoint, path)
    assert_proven(exported(path), path, "")


@pytest.mark.slow
def test_a_trained_network(trained, tmp_path):
    shutil.copy(trained, tmp_path / "best.pt")
    assert_proven(exported(tmp_path / "best.pt", graph="integer"), tmp_path / "best.pt", "")


SHIPPED = [  # weights, size
    pytest.param(name, side, marks=pytest.mark.slow if (name, side) == ("ibra", 192) else pytest.mark.campaign)
    for name, side in itertools.product(("ibra", "potlif", "ilif", "lif"), (192, 320))
]


@pytest.mark.parametrize(("name", "side"), SHIPPED)
def test_shipped_weights(name, side, tmp_path):
    shutil.copy(find_weights(Path(f"{name}-spikeyolo-p.pt")), tmp_path / "net.pt")
    assert_proven(exported(tmp_path / "net.pt", imgsz=side), tmp_path / "net.pt", "")


@pytest.mark.campaign
@pytest.mark.parametrize("scale", "pns")
def test_scales(scale, photos, tmp_path):
    calibrated(write_yaml(tmp_path / "net.yaml", scale=scale, neuron=IBRA), photos).save(tmp_path / "net.pt")
    assert_proven(exported(tmp_path / "net.pt"), tmp_path / "net.pt", "")


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0, pytest.param(1e-6, marks=pytest.mark.campaign)])
def test_a_network_that_has_learned_nothing(gamma, tmp_path):
    YOLO(write_yaml(tmp_path / "net.yaml", scale="p", residual_gamma=gamma)).save(tmp_path / "net.pt")
    assert_proven(exported(tmp_path / "net.pt", simplify=bool(gamma)), tmp_path / "net.pt", "")


ACTIVATIONS = ["ReLU", "SiLU", "LeakyReLU", "Hardswish", "Mish", "ReLU6"]
WAYS = [{}, {"graph": "integer", "simplify": False}, {"imgsz": [64, 96], "simplify": False, "nms": True}]
WAYS += [{"planes": 9, "nms": False}, {"graph": "integer", "batch": 2}]


def convert(folder, photos, family, activation, bits):
    """Save a small network of stock blocks with neurons in place of its activations."""
    model = calibrated(write_stock(folder / "net.yaml", family, f"nn.{activation}()"), photos)
    twin = SpikingCopy(model.model)
    potentials = observe(twin.network.model, twin.network, [photos], twin.replaced)
    twin.set_ranges(Ranges(bits=bits).choose(potentials))
    model.model = twin.network
    model.save(folder / "net.pt")
    return folder / "net.pt"


SAMPLE = {("11", "SiLU")}
CONVERTED = [
    pytest.param(*case, i, marks=pytest.mark.slow if case in SAMPLE else pytest.mark.campaign)
    for i, case in enumerate(itertools.product(("v8", "11", "26"), ACTIVATIONS))
]


@pytest.mark.usefixtures("_default_activation")
@pytest.mark.parametrize(("family", "activation", "i"), CONVERTED)
def test_converted_networks(family, activation, i, photos, tmp_path):
    path = convert(tmp_path, photos, family, activation, (8, 4, 9)[i % 3])
    for way in (WAYS[i % 5], WAYS[(i + 1) % 5]):
        assert_proven(exported(path, **way), path, "")


@pytest.mark.campaign
@pytest.mark.usefixtures("_default_activation")
@pytest.mark.parametrize("family", ["v8", "11", "26"])
def test_converted_networks_of_any_size(family, photos, tmp_path):
    path = convert(tmp_path, photos, family, "SiLU", 9)
    for way in ({}, {"simplify": False, "graph": "integer", "nms": True, "batch": 2}):
        assert_proven(
            exported(path, dynamic=True, **way), path, *[""] * (family == "v8")
        )  # attention needs a reference


@pytest.mark.slow
@pytest.mark.usefixtures("_default_activation")
def test_an_opset_that_runtimes_lack_is_named(photos, tmp_path):
    path = convert(tmp_path, photos, "v8", "Mish", 8)
    with pytest.raises(ValueError, match="Mish of potentials has no float64 operator in ONNX Runtime at opset=19"):
        exported(path, opset=19)


@pytest.mark.parametrize("where", ["a convolution", "a chain"])
def test_an_infinite_variance_is_refused(where, photos, tmp_path):
    model = calibrated(write_small(tmp_path / "net.yaml", IBRA), photos)
    norms = {name: m for name, m in model.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    name = next(name for name in norms if name.endswith(".bn" if where == "a convolution" else ".norm.bn"))
    norms[name].running_var[0] = torch.inf
    model.save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"model\.\d.*conv has weights that are not finite"):
        exported(tmp_path / "net.pt")
