"""The word `convert`: what it writes, what it says, and that the rest of the words take it."""

import json
import shutil

import pytest
import torch
from networks import calibrated, train, write_small, write_stock
from ultralytics import YOLO
from ultralytics.utils import YAML

from spikeyolo.conversion import bits_table
from spikeyolo.conversion.calibration import Ranges
from spikeyolo.conversion.convert import convert
from spikeyolo.neurons.integer import IBRALIF

pytestmark = pytest.mark.usefixtures("_default_activation")


@pytest.fixture(scope="module")
def files(photos, tmp_path_factory):
    """Make networks with random weights and BatchNorms that fit."""
    from ultralytics.nn.modules.conv import Conv

    before, folder = Conv.default_act, tmp_path_factory.mktemp("anns")
    networks = {
        "twin": write_small(folder / "twin.yaml", {"type": "relu"}, nc=10),
        "stock": write_stock(folder / "stock.yaml", "v8", "nn.SiLU()"),
        "attention": write_stock(folder / "attention.yaml", "11", "nn.SiLU()"),
        "ibra": write_small(folder / "ibra.yaml", {"type": "ibra-lif", "D": 5.11, "N": 100}, nc=10),
        "three": write_small(folder / "three.yaml", {"type": "relu"}),
    }
    for name, file in networks.items():
        torch.manual_seed(0)
        model = calibrated(file, photos)
        model.model.names = {i: str(i) for i in range(len(model.model.names))}
        model.save(folder / f"{name}.pt")
    (folder / "broken.pt").write_bytes((folder / "twin.pt").read_bytes()[:5000])
    YOLO("yolo11n-cls.yaml").save(folder / "cls.pt")
    Conv.default_act = before
    return folder


def test_a_conversion_writes_what_it_says(files, digits, tmp_path, spikeyolo, capsys):
    words = [f"model={files / 'twin.pt'}", f"data={digits}", "images=4", "imgsz=64", f"project={tmp_path}"]
    assert spikeyolo("convert", *words, "bits=5") == 0
    told = capsys.readouterr().out
    file = tmp_path / "twin-5bit.pt"
    assert f"Results saved to {file}" in told
    assert "5 bits, a range per layer: least squared error" in told
    assert "4 of 24 images of split train" in told
    network = YOLO(file).model
    neurons = {name: m for name, m in network.model.named_modules() if isinstance(m, IBRALIF)}
    assert {m.D_N for m in neurons.values()} == {31}
    numbers = json.loads(file.with_suffix(".json").read_text())
    assert {n: [m.D, m.N, m.rest] for n, m in neurons.items()} == numbers["neuron"]["ranges"]
    assert numbers["file"] == "twin.pt"
    assert numbers["before"].keys() == numbers["after"].keys() == {"mAP50", "mAP50-95"}
    ann = torch.load(files / "twin.pt", weights_only=False)["model"].state_dict()
    assert all(torch.equal(v, ann[k].float()) for k, v in network.state_dict().items())
    assert {f.name for f in tmp_path.iterdir()} == {"twin-5bit.pt", "twin-5bit.json"}
    assert spikeyolo("convert", *words, "bits=5") == 0
    assert "twin-5bit-2.pt" in capsys.readouterr().out  # nothing is overwritten


def test_the_papers_range_changes_nothing_else(files, digits, tmp_path):
    done = convert(
        files / "twin.pt", data=str(digits), ranges=Ranges(D=5.11, N=100), images=2, imgsz=64, project=tmp_path
    )
    network = YOLO(done.file).model
    assert {(m.D, m.N, m.rest) for m in network.modules() if isinstance(m, IBRALIF)} == {(5.11, 100, 0)}
    assert {k: network.yaml["neuron"][k] for k in ("type", "D", "N")} == {"type": "ibra-lif", "D": 5.11, "N": 100}
    assert "ranges" not in network.yaml["neuron"]


def test_batchnorm_can_be_estimated_again(files, digits, tmp_path):
    settings = {"data": str(digits), "images": 8, "imgsz": 64, "project": tmp_path, "ranges": Ranges(bits=3)}
    plain, again = (convert(files / "twin.pt", batchnorm=b, **settings).file for b in (False, True))
    before, after = (YOLO(f).model.state_dict() for f in (plain, again))
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all("running_" in k or "num_batches" in k for k in changed)
    assert json.loads(again.with_suffix(".json").read_text())["batchnorm"]
    assert not YOLO(again).model.training


def test_the_table_is_measured(files, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(bits_table, "BITS", (3, 9))
    done = convert(
        files / "stock.pt", data=str(digits), table=True, images=4, imgsz=64, project=tmp_path, ranges=Ranges(bits=6)
    )
    assert [(row["ranges"], row["bits"]) for row in done.table] == [("one", 3), ("one", 9), ("layer", 3), ("layer", 9)]
    three, nine = done.table[2:]
    assert nine["spikes_per_code"] > three["spikes_per_code"]
    assert nine["energy_uj"] > three["energy_uj"] > 0
    text = done.file.with_suffix(".md").read_text()
    assert text.count("| a range per layer |") == 2
    assert "modelled, not measured" in text
    assert done.file.with_suffix(".png").stat().st_size > 10_000
    assert json.loads(done.file.with_suffix(".json").read_text())["table"] == done.table
    neurons = [m for m in YOLO(done.file).model.modules() if isinstance(m, IBRALIF)]
    assert {m.D_N for m in neurons} == {63}  # the table's other bits are not in the checkpoint,
    noted = json.loads(done.file.with_suffix(".json").read_text())["neuron"]["ranges"]  # nor in what is noted of it
    assert {round(D * N) for D, N, _ in noted.values()} == {63}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["twin", "stock", "attention"])
def test_the_other_words_take_a_converted_network(kind, files, digits, tmp_path, spikeyolo, capsys):
    settings = {"data": str(digits), "images": 4, "imgsz": 64, "project": tmp_path}
    file = convert(files / f"{kind}.pt", ranges=Ranges(bits=6, power_of_two=kind == "stock"), **settings).file
    photo = next((digits.parent / "images/val").iterdir())
    assert len(YOLO(file).predict(photo, imgsz=64, verbose=False)) == 1
    graph = YOLO(file).export(format="onnx", imgsz=64)
    capsys.readouterr()
    assert spikeyolo("verify", f"model={graph}", f"source={photo}") == 0
    told = capsys.readouterr().out
    assert "is proven: spike-driven (any image); exact" in told
    assert ("attention (1 times)" in told) == (kind == "attention")
    words = [f"model={file},{graph}", f"source={photo}", "imgsz=64", f"project={tmp_path}"]
    assert spikeyolo("report", *words) == 0
    result = json.loads((tmp_path / "report/report.json").read_text())
    checkpoint, exported = result["models"]
    assert checkpoint["totals"]["spikes"] == exported["totals"]["spikes"] > 0
    for preset, schemes in checkpoint["energy_pj"].items():
        for scheme, energy in schemes.items():
            assert energy == pytest.approx(exported["energy_pj"][preset][scheme]), scheme
    assert checkpoint["real_valued"] == exported["real_valued"]
    assert {layer["name"] for layer in checkpoint["layers"]} == {layer["name"] for layer in exported["layers"]}
    assert ("model.5.m.0.attn (products)" in {layer["name"] for layer in exported["layers"]}) == (kind == "attention")
    assert "a range per layer" in (tmp_path / "report/report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["twin", "stock"])
def test_training_goes_on_with_the_ranges(kind, files, digits, tmp_path):
    settings = {"data": str(digits), "images": 4, "imgsz": 64, "project": tmp_path}
    file = convert(files / f"{kind}.pt", ranges=Ranges(bits=4), **settings).file
    best = train(YOLO(file), digits, tmp_path)
    before, after = YOLO(file).model, YOLO(best).model
    assert after.yaml["neuron"]["ranges"] == before.yaml["neuron"]["ranges"]
    neurons = {n: (m.D, m.N, m.rest) for n, m in after.named_modules() if isinstance(m, IBRALIF)}
    assert neurons == {n: (m.D, m.N, m.rest) for n, m in before.named_modules() if isinstance(m, IBRALIF)}
    weights = before.state_dict()
    assert any(not torch.equal(v, weights[k]) for k, v in after.state_dict().items() if k.endswith("conv.weight"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=D"], "model= is missing"),
        (["model=twin.pt"], "data= is missing"),
        (["model=none.pt", "data=D"], "model=none.pt does not exist"),
        (["model=none.onnx", "data=D"], "model=none.onnx is no checkpoint (.pt)"),
        (["model=broken.pt", "data=D"], "broken.pt"),
        (["model=cls.pt", "data=D"], "does not detect objects (it holds a 'ClassificationModel')"),
        (["model=ibra.pt", "data=D"], "has spiking neurons already"),
        (["model=three.pt", "data=D"], "has 10 classes, the model 3; they must be the same"),
        (["model=twin.pt", "data=none.yaml"], "none.yaml"),
        (["model=twin.pt", "data=EMPTY"], "has no images"),
        (["model=twin.pt", "data=NOTRAIN"], "is no data set"),
        (["model=twin.pt", "data=D", "bits=0.5"], "bits must be of type int"),
        (["model=twin.pt", "data=D", "bits=17"], "bits must be a whole number from 1 to 16, got bits=17"),
        (["model=twin.pt", "data=D", "D=5.11", "N=99"], "D * N must be whole"),
        (["model=twin.pt", "data=D", "images=0"], "images and batch must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(words, message, files, digits, tmp_path, monkeypatch, spikeyolo, capsys):
    monkeypatch.chdir(files)
    names = {"D": str(digits), "EMPTY": str(tmp_path / "empty.yaml"), "NOTRAIN": str(tmp_path / "notrain.yaml")}
    d = YAML.load(digits)
    shutil.copytree(digits.parent / "images/val", tmp_path / "images/val")
    (tmp_path / "images/train").mkdir(parents=True)
    YAML.save(tmp_path / "empty.yaml", {**d, "path": str(tmp_path)})
    YAML.save(tmp_path / "notrain.yaml", {k: v for k, v in d.items() if k != "train"})
    words = [f"{k}={names.get(v, v)}" for k, v in (word.split("=", 1) for word in words)]
    assert spikeyolo("convert", *words, f"project={tmp_path / 'out'}") == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]
    assert told[-1].startswith("spikeyolo convert: ")
    assert "Traceback" not in "".join(told)
    assert not list((tmp_path / "out").glob("*"))


def test_an_interrupt_leaves_nothing(files, digits, tmp_path, monkeypatch, spikeyolo):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("spikeyolo.conversion.convert.validate", interrupt)
    words = [f"model={files / 'twin.pt'}", f"data={digits}", "images=2", "imgsz=64", f"project={tmp_path}"]
    assert spikeyolo("convert", *words) == 130
    assert not list(tmp_path.glob("*"))
    assert not list(tmp_path.glob(".*"))
