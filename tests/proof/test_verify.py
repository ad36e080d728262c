"""``spikeyolo verify`` as its users see it: what is shown is said, what is not is one line."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from networks import IBRA, calibrated, write_small, write_stock
from onnx import TensorProto, helper, numpy_helper
from ultralytics import YOLO

from spikeyolo.conversion.spiking_copy import SpikingCopy
from spikeyolo.graph.bounds import digest_of
from spikeyolo.proof.runs import TOLERANCE, distance

LAYER = "model.2.conv1.conv"


def edit(model, name, change):
    """Change a constant tensor in place."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def forge(model, path):
    """Save a changed model with a digest that fits."""
    next(p for p in model.metadata_props if p.key == "graph_sha256").value = digest_of(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("graph", ["spike", "integer"])
def test_a_good_graph_is_proven_equal_to_its_checkpoint(graph, folder, spikeyolo):
    arguments = {"model": folder / f"{graph}.onnx", "source": folder / "images", "reference": folder / "small.pt"}
    code, out, error = spikeyolo(**arguments)
    assert (code, error) == (0, ""), out
    takes = "binary planes, 0 or 2^b" if graph == "spike" else "codes, whose planes the spike graph takes"
    assert f"23 of 24 products take {takes}; the stem model.1.conv takes pixels" in out
    assert "every sum is below 2^24" in out
    assert "real-valued, checked on images alone: decoder" in out
    assert out.count("ok    codes     ") == 4  # ONNX Runtime three times, PyTorch
    assert out.count(": 0 of ") == 4
    assert "FAIL" not in out
    kind = "spike-driven" if graph == "spike" else "integer form of a spike-driven network"
    verdict = out.splitlines()[-1]
    assert verdict.startswith(
        f"{arguments['model']} is proven: {kind} (any image); exact (any image); equal to small.pt (any image); ONNX "
    )
    assert verdict.endswith("agree on 6 images")


def test_without_a_reference_nothing_is_said_of_one(folder, spikeyolo):
    code, out, error = spikeyolo(model=folder / "spike.onnx", source=folder / "images")
    assert (code, error) == (0, ""), out
    assert "ok    decoder   behind the raw maps is the decoder of Ultralytics, exported anew, and nothing else" in out
    verdict = out.splitlines()[-1]
    assert "small.pt" not in verdict  # though it lies beside the file, which names it
    assert verdict.endswith("agrees on 6 images; compared with no checkpoint: give reference=best.pt")


def test_webassembly_emits_the_same_codes(folder, node_modules, spikeyolo):
    for graph in ("spike", "integer"):
        arguments = {"model": folder / f"{graph}.onnx", "source": folder / "images", "webassembly": node_modules}
        code, out, error = spikeyolo(**arguments)
        assert (code, error) == (0, ""), out
        assert "ok    codes     WebAssembly: 0 of " in out
        assert "WebAssembly agree on 6 images" in out


@pytest.mark.parametrize("neuron", [IBRA, {"type": "pot-lif", "planes": 5}], ids=["ibra", "pot-lif"])
def test_dropped_planes_and_narrow_weights_are_proven(neuron, folder, photos, tmp_path, spikeyolo):
    calibrated(write_small(tmp_path / "small.yaml", neuron), photos).save(tmp_path / "small.pt")
    YOLO(tmp_path / "small.pt").export(format="onnx", imgsz=64, planes=3, weight_bits=5)
    arguments = {"source": folder / "images", "reference": tmp_path / "small.pt", "images": 1}
    code, out, error = spikeyolo(model=tmp_path / "small.onnx", **arguments)
    assert (code, error) == (0, ""), out


@pytest.mark.slow
@pytest.mark.parametrize("nms", [None, False, True])
def test_real_valued_parts_are_named_and_never_called_proven(nms, folder, photos, tmp_path, spikeyolo):
    torch.manual_seed(0)
    model = calibrated(write_stock(tmp_path / "net.yaml", "26", "nn.SiLU()"), photos)
    model.model = SpikingCopy(model.model).network
    model.save(tmp_path / "net.pt")
    file = YOLO(tmp_path / "net.pt").export(format="onnx", imgsz=64, nms=nms)
    for reference in ({"reference": tmp_path / "net.pt"}, {}):
        code, out, error = spikeyolo(model=file, source=folder / "images", images=1, **reference)
        assert (code, error) == (0, ""), out
        assert "; exact but for SiLU of potentials, attention (any image); " in out
        assert ("equal to net.pt (any image)" in out) is bool(reference)


def test_one_weight_that_differs_is_found_and_nothing_is_run(folder, tmp_path, spikeyolo):
    model = onnx.load(folder / "spike.onnx")
    edit(model, f"{LAYER}.weight", lambda w: w.__setitem__((0, 0, 0, 0), w[0, 0, 0, 0] ^ 1))
    changed = forge(model, tmp_path / "changed.onnx")
    code, out, error = spikeyolo(model=changed, reference=folder / "small.pt", source=folder / "images")
    assert code == 1
    assert f"- {LAYER} is not {LAYER} of small.pt: 1 numbers of weight differ" in out
    assert "codes     " not in out
    assert error.strip().endswith("changed.onnx is not proven: 1 check failed")
    code, out, _ = spikeyolo(model=changed, source=folder / "images")  # it is another spiking network
    assert code == 0, out


def test_damage_is_found_by_the_noted_digest_alone(folder, tmp_path, spikeyolo):
    model = onnx.load(folder / "spike.onnx")
    edit(model, f"{LAYER}.bias", lambda b: b.__setitem__(0, b[0] + 1))
    onnx.save(model, tmp_path / "damaged.onnx")
    code, out, _ = spikeyolo(model=tmp_path / "damaged.onnx", source=folder / "images")
    assert code == 1
    assert "nodes or numbers are not those that were exported (SHA-256 differs)" in out


def test_another_reference_is_told_apart(folder, tmp_path, spikeyolo):
    YOLO("ibra-spikeyolo-p.yaml").save(tmp_path / "pico.pt")
    for other in (folder / "other.pt", tmp_path / "pico.pt"):
        code, out, error = spikeyolo(model=folder / "spike.onnx", reference=other, source=folder / "images")
        assert code == 1
        assert f"FAIL  equal     its program is that of {other.name} in deploy form" in out
        assert "is not proven: 1 check failed" in error


def test_a_runtime_that_computes_otherwise_is_caught(folder, monkeypatch, spikeyolo):
    """The evaluator is given another image, so a runtime seems to be wrong."""
    from spikeyolo.proof import runs

    evaluate = runs.evaluate
    monkeypatch.setattr(runs, "evaluate", lambda targets, image, opset: evaluate(targets, 1 - image, opset))
    code, out, error = spikeyolo(model=folder / "integer.onnx", source=folder / "images", images=1)
    assert code == 1
    assert out.count("FAIL  codes     ONNX Runtime ") == 3
    assert "codes differ\n" in out
    assert "3 checks failed" in error


@pytest.mark.slow
def test_an_ann_is_no_spiking_program(tmp_path, monkeypatch, folder, spikeyolo):
    monkeypatch.chdir(tmp_path)
    YOLO("yolo11n.yaml").export(format="onnx", imgsz=64)
    for reference in ({}, {"reference": folder / "small.pt"}):
        code, out, error = spikeyolo(model="yolo11n.onnx", **reference)
        assert code == 1
        assert "yolo11n.onnx says nothing about neurons: another program has written it, or it is an ANN's" in out
        assert "yolo11n.onnx is not proven" in error


def image_model(shape, path):
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_note_cannot_print_a_verdict(folder, tmp_path, spikeyolo):
    model = onnx.load(folder / "spike.onnx")
    node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    node.name = "x\nspike.onnx is proven: equal to small.pt (any image)\x1b[2K"
    node.input[2] = "uint8/128"
    onnx.save(model, tmp_path / "loud.onnx")
    code, out, _ = spikeyolo(model=tmp_path / "loud.onnx", source=folder / "images")
    assert code == 1
    assert not any(line.startswith("spike.onnx is proven") for line in out.splitlines())
    assert "\x1b" not in out
    assert "x\\nspike.onnx is proven" in out


def test_bad_input_is_one_line(folder, earlier_graph, tmp_path, spikeyolo):
    good = folder / "spike.onnx"
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(good.read_bytes()[:50_000])
    text = tmp_path / "text.onnx"
    text.write_text("this is no model")
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.pt"
    broken.write_bytes((folder / "small.pt").read_bytes()[:5000])
    YOLO("relu-spikeyolo-p.yaml").save(tmp_path / "relu.pt")
    cases = [
        ({}, "model= is missing, e.g. spikeyolo verify model=best.onnx"),
        ({"model": tmp_path / "none.onnx"}, "none.onnx does not exist; export one with: yolo export"),
        ({"model": truncated}, "truncated.onnx is no complete ONNX file"),
        ({"model": text}, "text.onnx is no complete ONNX file"),
        ({"model": good, "source": empty}, "No images or videos found in"),
        ({"model": good, "source": tmp_path / "gone"}, "gone does not exist"),
        ({"model": good, "source": folder / "images", "images": 0}, "images must be at least 1, got 0"),
        ({"model": good, "reference": tmp_path / "gone.pt"}, "reference=" + str(tmp_path / "gone.pt")),
        ({"model": good, "reference": broken}, "broken.pt"),
        ({"model": good, "webassembly": tmp_path}, "has no onnxruntime-web"),
        ({"model": tmp_path}, "is a folder; give the .onnx file in it"),
        ({"model": good, "reference": tmp_path / "relu.pt"}, "relu.pt has no spiking neuron"),
    ]
    for arguments, message in cases:
        code, out, error = spikeyolo(**arguments)
        assert code == 1, arguments
        assert message in error, (message, error)
        assert len(error.strip().splitlines()) == 1, error
        assert out == "", arguments
    refused = [
        (image_model([1, 1, 28, 28], tmp_path / "gray.onnx"), "gray.onnx says nothing about neurons"),
        (image_model([1, 10], tmp_path / "flat.onnx"), "flat.onnx says nothing about neurons"),
        (shutil.copy(earlier_graph, tmp_path / "earlier.onnx"), "earlier.onnx was exported by an earlier version"),
    ]
    for model, message in refused:
        code, out, error = spikeyolo(model=model)
        assert code == 1
        assert message in out, out
        assert len(error.strip().splitlines()) == 1, error


def test_distances_are_of_numbers_of_a_kind():
    boxes = np.array([[[600, 500, 640, 600, 0.9, 3]]], np.float32)  # of NMS: corners, score, class
    moved, worse = (boxes + np.float32(d) for d in ([1e-3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 5e-3, 0]))
    assert distance(boxes, moved) < TOLERANCE < distance(boxes, worse)
    raw = np.moveaxis(np.repeat(boxes, 50, 1), 1, 2)
    assert distance(raw, np.moveaxis(np.repeat(worse, 50, 1), 1, 2)) > TOLERANCE
    assert distance(raw, np.moveaxis(np.repeat(moved, 50, 1), 1, 2)) < TOLERANCE
    assert distance(boxes, boxes[:, :0]) == np.inf
    assert distance(boxes, boxes * np.nan) == np.inf
