import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from networks import IBRA, calibrated, write_small
from ultralytics import YOLO

from spikeyolo.data.images import Images
from spikeyolo.graph.notes import Notes
from spikeyolo.graph.onnx_files import load, open_session
from spikeyolo.measure import counting
from spikeyolo.measure.counting import CountedModel
from spikeyolo.show import pictures
from spikeyolo.show.report import report

NEURONS = {
    "ibra": IBRA,
    "ibra-T2": IBRA | {"T": 2},
    "i-lif": {"type": "i-lif", "D": 4, "N": 1},
    "lif": {"type": "lif", "D": 1, "N": 1},
}
NUMBERS = ("D_N", "T", "images", "frames", "weights", "outputs", "macs", "factored_macs", "codes", "spikes", "synops")
NUMBERS += ("unary_spikes", "unary_synops", "nonzero_synops", "synapses", "max_code")


@pytest.fixture(scope="module")
def files(tmp_path_factory, photos):
    """Make checkpoints of small networks: one for each neuron, and an ANN."""
    folder = tmp_path_factory.mktemp("models")
    for name, neuron in (NEURONS | {"relu": {"type": "relu"}}).items():
        torch.manual_seed(0)
        model = calibrated(write_small(folder / f"{name}.yaml", neuron), photos)
        model.overrides |= {"imgsz": 64, "task": "detect"}
        model.ckpt = {"train_args": {"imgsz": 64, "task": "detect"}}
        model.save(folder / f"{name}.pt")
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out the pictures where they are not looked at."""
    monkeypatch.setattr(pictures, "draw", lambda *arguments: {})


def source(digits):
    return digits.parent / "images/val"


def count(file, images, imgsz=64, limit=5):
    model = CountedModel.open(str(file), imgsz=imgsz if file.suffix == ".pt" else 0)
    for batch in Images.of_source(images, limit).batches(model.batch, model.height, model.width):
        model.run(batch)
    return model


@pytest.mark.parametrize("name", NEURONS)
def test_onnx_and_pytorch_agree_to_the_last_spike(name, files, digits):
    found = [count(files / f"{name}.pt", source(digits))]
    for graph, arguments in {"spike": {"batch": 2}, "integer": {}}.items():
        file = YOLO(files / f"{name}.pt").export(format="onnx", graph=graph, imgsz=64, simplify=False, **arguments)
        found.append(count(files / f"{name}.onnx", source(digits)))
        if graph == "spike":
            _check_planes(file, found[-1].recording, digits)
    torch_form, spike, integer = (model.recording for model in found)
    assert list(torch_form.layers) == list(spike.layers) == list(integer.layers)
    for a, b, c in zip(torch_form.layers.values(), spike.layers.values(), integer.layers.values(), strict=True):
        assert [getattr(a, key) for key in NUMBERS] == [getattr(b, key) for key in NUMBERS], a.name
        assert [getattr(a, key) for key in NUMBERS] == [getattr(c, key) for key in NUMBERS], a.name
        assert a.counts.keys() == b.counts.keys()
        assert (a.largest == b.largest).all()
        assert a.operand == b.operand == ("real" if a.name == "model.1.conv" else "binary")
        assert c.operand == ("real" if not a.spiking else "code")
    assert torch_form.images == 5
    assert found[0].facts["neuron"]["T"] == found[1].facts["neuron"]["T"] == NEURONS[name].get("T", 1)


def _check_planes(file, recording, digits):
    """Compare with the sums of the planes that the graph's products take, as ONNX Runtime computes them."""
    model = load(Path(file))
    notes = Notes.read(model)
    producer = {n.output[0]: n for n in model.graph.node}
    tensors = {}  # planes (T*B, H, W, planes * C) of each layer, where it has more than one; else its codes
    for node in model.graph.node:
        if node.name in notes.planes and node.op_type in ("QLinearConv", "Gemm", "Conv"):
            operand = node.input[0]
            while operand in producer and producer[operand].op_type in (
                "Transpose",
                "Reshape",
                "Gather",
                "Pad",
                "Cast",
                "DequantizeLinear",
            ):
                operand = producer[operand].input[0]
            tensors[node.name] = operand
    names = list(set(tensors.values()))
    session = open_session(model, names, optimise=False)
    (batch,) = Images.of_source(source(digits), 5).batches(5, 64, 64)
    totals = {}
    for pair, kept in ((batch[:2], 2), (batch[2:4], 2), (batch[[4, 4]], 1)):
        values = dict(zip(names, session.run(names, {"images": pair}), strict=True))
        for name, tensor in tensors.items():
            planes = notes.planes[name]
            found = values[tensor].reshape(-1, 2, *values[tensor].shape[1:])[:, :kept]  # (T, images, H, W, ...)
            found = found.reshape(*found.shape[:-1], planes, -1)
            for b in range(planes):
                assert set(np.unique(found[..., b, :])) <= {0, 1 << b}
                totals[name, b] = totals.get((name, b), 0) + int((found[..., b, :] > 0).sum())
    for layer in recording.spiking:
        assert layer.spikes_per_plane.tolist() == [totals[layer.name, b] for b in range(layer.planes)], layer.name


def test_report_of_one_model(files, digits, tmp_path, spikeyolo, capsys):
    words = ["report", f"model={files / 'ibra.pt'}", f"data={digits}", "images=6", f"project={tmp_path}"]
    assert spikeyolo(*words) == 0
    out = capsys.readouterr().out
    assert "ibra-lif (D 5.08, N 25, T 1)" in out
    assert "does NOT win against" in out
    assert "modelled, not measured" in out
    folder = tmp_path / "report"
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        [
            "report.json",
            "report.md",
            "report.html",
            *(f"1-{n}.png" for n in ("codes", "planes", "energy", "entropy", "spikes")),
        ]
    )
    result = json.loads((folder / "report.json").read_text())
    assert result["complete"]
    (model,) = result["models"]
    assert model["images"] == {
        "source": f"6 of 8 images of split val of {digits}, spread evenly", "counted": 6, "skipped": []
    }  # fmt: skip
    assert model["imgsz"] == [64, 64]
    assert len(model["sha256"]) == 64
    assert 0 <= model["metrics"]["mAP50-95"] <= model["metrics"]["mAP50"] <= 1
    _check_audit(model)
    for image in folder.glob("*.png"):
        assert cv2.imread(str(image)).std() > 5  # something is drawn
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?://|<script", page)
    text = (folder / "report.md").read_text()
    assert "weights 8 bits, codes 7 bits, sums 32 bits" in text
    assert all((folder / link).is_file() for link in re.findall(r"!\[.*?\]\((.+?)\)", text))
    assert all(layer["name"] in text and layer["name"] in page for layer in model["layers"])
    assert f"| {model['label']}" not in text  # no comparison of one


def _check_audit(model):
    """Compute totals and energy again from the histograms in the report."""
    synops = spikes = 0
    for layer in model["layers"]:
        if layer["operand"] == "real":
            continue
        for fan_out, row in layer["counts"].items():
            popcount = [k.bit_count() for k in range(len(row))]
            spikes += int(np.dot(row, popcount))
            synops += int(fan_out) * int(np.dot(row, popcount))
    n = model["images"]["counted"]
    assert model["totals"]["synops"] == pytest.approx(synops / n)
    assert model["totals"]["spikes"] == pytest.approx(spikes / n)
    energy = model["energy_pj"]["45nm-float32"]["spikes"]
    assert energy["synapses"] == pytest.approx(0.9 * synops / n)
    assert energy["real"] == pytest.approx(4.6 * model["layers"][0]["macs"])
    by_layer = sum(sum(layer["energy_pj"]["45nm-float32"].values()) for layer in model["layers"])
    assert energy["total"] == pytest.approx(by_layer)


def test_side_by_side_with_an_ann(files, digits, tmp_path, spikeyolo, capsys):
    models = ",".join(str(files / f"{name}.pt") for name in ("ibra", "relu", "ibra-T2"))
    words = [f"model={models}", f"source={source(digits)}", "images=3", "preset=45nm-int8", f"project={tmp_path}"]
    assert spikeyolo("report", *words, "name=three") == 0
    result = json.loads((tmp_path / "three/report.json").read_text())
    assert [model["label"] for model in result["models"]] == ["ibra.pt", "relu.pt", "ibra-T2.pt"]
    ibra, relu, two = result["models"]
    for model in (ibra, two):
        _check_audit_int8(model)
    assert relu["verdicts"] == []
    assert relu["energy_pj"]["45nm-int8"].keys() == {"ann", "ann-sparse"}
    # the twin's own run is what was estimated for it from the spiking model
    estimated = ibra["energy_pj"]["45nm-int8"]["ann"]["total"]
    assert relu["energy_pj"]["45nm-int8"]["ann"]["total"] == pytest.approx(estimated)
    assert two["energy_pj"]["45nm-int8"]["ann"]["total"] == pytest.approx(estimated)
    assert two["totals"]["codes"] == 2 * ibra["totals"]["codes"]
    assert all(model["metrics"] is None for model in result["models"])
    page = (tmp_path / "three/report.html").read_text()
    assert "Side by side" in page
    assert page.count("data:image/png;base64,") == 2 * 5 + 2
    assert "relu (ANN)" in capsys.readouterr().out


def _check_audit_int8(model):
    assert model["energy_pj"].keys() == {"45nm-int8"}
    assert model["energy_pj"]["45nm-int8"]["spikes"]["synapses"] == pytest.approx(0.03 * model["totals"]["synops"])


def test_a_partial_report_says_so(files, no_pictures, digits, tmp_path, spikeyolo, monkeypatch):
    run, calls = counting._Checkpoint.run, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        run(self, images)

    monkeypatch.setattr(counting._Checkpoint, "run", interrupted)
    models = f"model={files / 'ibra.pt'},{files / 'relu.pt'}"
    assert spikeyolo("report", models, f"data={digits}", f"project={tmp_path}") == 130
    result = json.loads((tmp_path / "report/report.json").read_text())
    assert not result["complete"]
    assert [model["images"]["counted"] for model in result["models"]] == [4]
    assert "PARTIAL" in (tmp_path / "report/report.md").read_text()
    assert "interrupted" in (tmp_path / "report/report.html").read_text()
    monkeypatch.setattr(counting._Checkpoint, "run", lambda self, images: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        report(str(files / "ibra.pt"), data=str(digits), project=str(tmp_path), name="none")
    assert [folder.name for folder in tmp_path.iterdir()] == ["report"]  # nothing counted, nothing written


def test_unreadable_images_are_named_skipped_and_counted(files, no_pictures, digits, tmp_path, spikeyolo, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for i, file in enumerate(sorted(source(digits).iterdir())[:3]):
        (images / f"{i}.png").write_bytes(file.read_bytes())
    (images / "1-broken.png").write_bytes(b"no image")
    assert spikeyolo("report", f"model={files / 'ibra.pt'}", f"source={images}", f"project={tmp_path}") == 0
    (model,) = json.loads((tmp_path / "report/report.json").read_text())["models"]
    assert model["images"]["counted"] == 3
    assert model["images"]["skipped"] == [str(images / "1-broken.png")]
    assert "1 unreadable, skipped: " in (tmp_path / "report/report.md").read_text()
    for file in images.glob("?.png"):
        file.unlink()
    capsys.readouterr()
    assert spikeyolo("report", f"model={files / 'ibra.pt'}", f"source={images}", f"project={tmp_path}") == 1
    assert "no image could be read" in capsys.readouterr().err
    assert not (tmp_path / "report-2").exists()


def test_a_failing_validation_costs_only_the_map(files, no_pictures, digits, tmp_path, monkeypatch):
    def fail(self, folder, **arguments):
        raise RuntimeError("labels are missing")

    monkeypatch.setattr(counting._Checkpoint, "val", fail)
    (tmp_path / "report-2").mkdir()
    folder, result = report(str(files / "ibra.pt"), data=str(digits), images=2, project=str(tmp_path))
    assert folder == tmp_path / "report"
    assert report(str(files / "ibra.pt"), data=str(digits), images=2, project=str(tmp_path))[0] == tmp_path / "report-3"
    assert result["models"][0]["metrics"] == {"problem": "labels are missing"}
    assert "no mAP because | labels are missing" in (tmp_path / "report/report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=S"], "model= is missing"),
        (["model=ibra.pt"], "data= (a data set) or source= (images, a folder, a video) is needed, neither is given"),
        (["model=ibra.pt", "source=S", "data=D"], "both are given"),
        (["model=relu.pt", "source=S"], "relu.pt: an ANN (no neurons), so there are no spikes to count; train"),
        (["model=none.pt", "source=S"], "none.pt does not exist"),
        (["model=broken.pt", "source=S"], "broken.pt"),
        (["model=broken.onnx", "source=S"], "is no complete ONNX file"),
        (["model=stock.onnx", "source=S"], "says nothing about neurons"),
        (["model=ibra.txt", "source=S"], "is neither a checkpoint (.pt) nor an exported graph (.onnx)"),
        (["model=ibra.pt", "source=S", "preset=7nm"], "unknown preset 7nm; presets are 45nm-float32"),
        (["model=ibra.pt", "source=empty"], "No images or videos found in"),
        (["model=ibra.pt", "source=missing"], "does not exist"),
        (["model=ibra.pt", "data=missing.yaml"], "missing.yaml"),
        (["model=ibra.pt", "data=D", "split=test"], "has no split 'test'; splits are train, val"),
        (["model=ibra.pt", "source=S", "images=0"], "images must be at least 1, got 0"),
        (["model=ibra.pt", "source=S", "images=many"], "images must be of type int, got 'many'"),
        (["model=ibra.pt", "source=S", "project=file/x"], "cannot write to"),
    ],
)
def test_bad_input_is_one_line(words, message, files, digits, tmp_path, spikeyolo, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("broken.pt", "broken.onnx", "ibra.txt"):
        (tmp_path / name).write_bytes(b"PK")
    for name in ("ibra.pt", "relu.pt"):
        (tmp_path / name).symlink_to(files / name)
    if "stock" in words[0]:
        YOLO(files / "relu.pt").export(format="onnx", imgsz=64, simplify=False)
        (files / "relu.onnx").rename(tmp_path / "stock.onnx")
    words = [word.replace("=S", f"={source(digits)}").replace("=D", f"={digits}") for word in words]
    project = [] if any(word.startswith("project") for word in words) else [f"project={tmp_path / 'out'}"]
    assert spikeyolo("report", *words, *project) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not list(tmp_path.glob("out/*"))


def test_a_tampered_graph_is_not_counted(files):
    file = YOLO(files / "ibra.pt").export(format="onnx", imgsz=64, simplify=False)
    model = onnx.load(file)
    join = next(node for node in model.graph.node if node.name.endswith("/planes"))
    join.input[-1] = next(node.input[0] for node in model.graph.node if node.name.endswith("/reached6"))  # codes
    onnx.save(model, file)
    with pytest.raises(
        ValueError, match=r"is not the graph that was exported: node .*/planes .Concat. is no part of a spiking network"
    ):
        CountedModel.open(file)
    with pytest.raises(ValueError, match="imgsz=32, but"):
        CountedModel.open(YOLO(files / "ibra.pt").export(format="onnx", imgsz=64, simplify=False), imgsz=32)


def test_a_graph_of_an_earlier_version_is_named(earlier_graph):
    with pytest.raises(
        ValueError, match=r"was exported by an earlier version, with float weights; export it again with"
    ):
        CountedModel.open(str(earlier_graph))
