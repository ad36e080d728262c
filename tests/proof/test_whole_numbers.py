"""The verifier on graphs of whole numbers: good ones are proven, broken ones are caught where they are broken."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from networks import IBRA, calibrated, write_images, write_small
from onnx import helper, numpy_helper
from ultralytics import YOLO

from spikeyolo.graph.bounds import digest_of
from spikeyolo.graph.notes import Notes
from spikeyolo.proof.verify import TOLERANCE, _distance, verify
from spikeyolo.proof.whole_numbers import WholeNumbers

LAYER = "model.2.conv1.conv"


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """Checkpoint, its two graphs, images."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    calibrated(write_small(folder / "small.yaml", IBRA), photos).save(folder / "small.pt")
    for graph in ("integer", "spike"):
        file = YOLO(folder / "small.pt").export(format="onnx", imgsz=64, graph=graph)
        shutil.move(file, folder / f"{graph}.onnx")
    write_images(folder / "images", photos[:2])
    return folder


def checks(model, folder, **arguments):
    """Verify a changed model; return the problems by check."""
    onnx.save(model, folder / "changed.onnx")
    found = {}
    for check in verify(folder / "changed.onnx", source=folder / "images", **arguments):
        found.setdefault(check.name, []).extend(check.problems)
    return found


def node(model, name):
    return next(n for n in model.graph.node if n.name == name or name in n.output)


def edit(model, name, change, dtype=None):
    """Change a constant tensor in place."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy().astype(dtype or numpy_helper.to_array(tensor).dtype)
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


@pytest.mark.parametrize("graph", ["spike", "integer"])
def test_a_good_graph_is_proven(graph, folder, spikeyolo):
    code, out, error = spikeyolo(model=folder / f"{graph}.onnx", source=folder / "images")
    assert (code, error) == (0, "")
    takes = "planes, 0 or 2^b" if graph == "spike" else "codes, whose planes the spike graph takes"
    assert f"23 of 24 layers take {takes}; excepted: stem model.1 (pixels), decoder" in out
    assert "for any image every sum is below 2^24 and no pair of products passes 16 bits" in out
    assert "24 layers have the weights of" in out  # the checkpoint beside it, by its hash
    assert out.count("ok    codes     0 of ") == 3
    assert "between the graph and PyTorch on 2 images" in out
    assert "FAIL" not in out
    kind = "spike-driven" if graph == "spike" else "an integer graph, whose operands are codes"
    assert out.rstrip().endswith(f"{graph}.onnx is proven: {kind}, exact for any image; equal on the images")


def test_webassembly_emits_the_same_codes(folder, node_modules, spikeyolo):
    for graph in ("spike", "integer"):
        arguments = {"model": folder / f"{graph}.onnx", "source": folder / "images", "webassembly": node_modules}
        code, out, error = spikeyolo(**arguments)
        assert (code, error) == (0, "")
        assert "between the graph and WebAssembly on 2 images" in out
        assert out.count("ok    codes     0 of ") == 4


@pytest.mark.parametrize("neuron", [IBRA, {"type": "pot-lif", "planes": 5}], ids=["ibra", "pot-lif"])
def test_dropped_planes_and_narrow_weights_are_proven_against_the_checkpoint(
    neuron, folder, photos, tmp_path, spikeyolo
):
    calibrated(write_small(tmp_path / "small.yaml", neuron), photos).save(tmp_path / "small.pt")
    YOLO(tmp_path / "small.pt").export(format="onnx", imgsz=64, planes=3, weight_bits=5)
    code, out, error = spikeyolo(model=tmp_path / "small.onnx", source=folder / "images")
    assert code == 0, out + error
    assert "24 layers have the weights of" in out
    assert "0 of" in out
    assert "differ between the graph and PyTorch" in out


def weight_altered(model):
    edit(model, f"{LAYER}.weight", lambda w: w.__setitem__((0, 0, 0, 0), w[0, 0, 0, 0] ^ 1))
    return "origin", "some are not those that were exported"


def bias_altered(model):
    edit(model, f"{LAYER}.bias", lambda b: b.__setitem__(0, b[0] + 1))
    return "origin", "some are not those that were exported"


def step_altered(model):
    edit(model, "model.2.conv2.conv.step", lambda s: s.__setitem__(0, s[0] * 2))
    return "origin", "some are not those that were exported"


def scale_is_no_power_of_two(model):
    edit(model, f"{LAYER}.scale", lambda s: s.__setitem__(0, s[0] * 1.5))
    return "bounds", f"{LAYER}: a scale is no power of two"


def sum_too_large(model):
    edit(model, f"{LAYER}.bias", lambda b: b.__setitem__(0, 2**24))
    return "bounds", f"{LAYER}: a sum can reach"


def pair_saturates(model):
    edit(model, f"{LAYER}.weight", lambda w: w.__setitem__((0, 0, 0, 0), -128))
    noted = next(p for p in model.metadata_props if p.key == "planes")
    noted.value = json.dumps(json.loads(noted.value) | {LAYER: 8})
    return "bounds", f"{LAYER}: two products of 255 and 128 saturate 16 bits"


def float_weights(model):
    edit(model, f"{LAYER}.weight", lambda w: None, np.float32)
    return "bounds", f"{LAYER}: its weights are float32"


def weight_missing(model):
    node(model, f"{LAYER}").input[3] = "model.2.conv2.conv.weight"
    return "operands", f"{LAYER}: its weights are not its own"


def codes_of_another_layer(model):
    other = json.loads(next(p.value for p in model.metadata_props if p.key == "layers"))["model.3.conv"]["codes"]
    highest = [n for n in model.graph.node if n.name.endswith(("/reached6", "/left6"))]
    for mine in [n for n in highest if n.input[0] == "model.2.conv1.conv/clipped"]:
        mine.input[0] = other
    return "operands", "model.2.conv2.conv: its operand is not the 7 planes of its codes"


def codes_in_the_place_of_a_plane(model):
    join = next(n for n in model.graph.node if n.name.endswith("/planes"))
    join.input[6] = next(n for n in model.graph.node if n.name.endswith("/reached6")).input[0]
    return "operands", "its operand is not the 7 planes of its codes"


def ones_in_the_place_of_a_plane(model):
    join = next(n for n in model.graph.node if n.name.endswith("/planes"))
    join.input[6] = next(n for n in model.graph.node if join.input[6] in n.output).input[0]
    return "operands", "its operand is not the 7 planes of its codes"


def two_bits_in_one_plane(model):
    edit(model, "uint8/8", lambda m: m.__setitem__((), 12))
    return "operands", "its operand is not the 7 planes of its codes"


def planes_in_another_order(model):
    join = next(n for n in model.graph.node if n.name.endswith("/planes"))
    join.input[2], join.input[3] = join.input[3], join.input[2]
    return "operands", "its operand is not the 7 planes of its codes"


def a_plane_of_other_codes(model):
    reached = [n for n in model.graph.node if n.name.endswith("/reached3")]
    reached[0].input[0] = reached[-1].input[0]
    return "operands", "its operand is not the 7 planes of its codes"


def a_plane_that_is_not_subtracted(model):
    left = next(n for n in model.graph.node if n.name.endswith("/left4"))
    left.input[1] = left.input[1].replace("plane4", "plane5")
    return "operands", "its operand is not the 7 planes of its codes"


def a_threshold_that_is_lower(model):
    edit(model, "uint8/7", lambda below: below.__setitem__((), 6))
    return "operands", "its operand is not the 7 planes of its codes"


def clip_removed(model):
    clip = next(n for n in model.graph.node if n.output[0] == "model.2.conv1.conv/clipped")
    clip.op_type = "Identity"
    del clip.input[1:]
    return "operands", "model.2.conv2.conv: its codes can be above 127"


def planes_noted_wrong(model):
    noted = next(p for p in model.metadata_props if p.key == "planes")
    noted.value = json.dumps(dict.fromkeys(json.loads(noted.value), 1))
    return "operands", f"{LAYER}: its codes can be above 1"


def padding_altered(model):
    for attribute in node(model, LAYER).attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0, 0, 2, 2]
    return "operands", f"{LAYER}: its pads are not those that were exported"


def zero_point_altered(model):
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(3), "three"))
    node(model, LAYER).input[2] = "three"
    return "operands", f"{LAYER}: its zero points or scales are not"


def bias_of_another_layer(model):
    node(model, "model.2.separable.project.conv").input[8] = "model.2.conv2.conv.bias"
    return "operands", "model.2.separable.project.conv: its scale or bias is not its own"


def scaled_gemm(model):
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    gemm.attribute.append(helper.make_attribute("alpha", 2.0))
    return "operands", f"{gemm.name}: its product is scaled"


def another_convolution(model):
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "extra.weight"))
    model.graph.node.insert(0, helper.make_node("Conv", ["images", "extra.weight"], ["extra"], "extra"))
    return "operands", "Conv extra: no layer that was exported"


def border_of_other_codes(model):
    pad = next(n for n in model.graph.node if n.op_type == "Pad")
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(7), "seven"))
    pad.input[2] = "seven"
    return "origin", "some are not those that were exported"


def step_of_another_size(model):
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "three"))
    node(model, "model.2.conv2.conv/whole").input[1] = "three"
    return "origin", "some are not those that were exported"


def addition_of_itself(model):
    add = next(n for n in model.graph.node if n.op_type == "Add")
    add.input[1] = add.input[0]
    return "origin", "some are not those that were exported"


def custom_operator(model):
    node(model, LAYER).domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return "operators", "a custom operator (com.example)"


BREAKS = [
    weight_altered,
    bias_altered,
    step_altered,
    scale_is_no_power_of_two,
    sum_too_large,
    pair_saturates,
    float_weights,
    weight_missing,
    codes_of_another_layer,
    codes_in_the_place_of_a_plane,
    ones_in_the_place_of_a_plane,
    a_plane_that_is_not_subtracted,
    border_of_other_codes,
    step_of_another_size,
    addition_of_itself,
    a_threshold_that_is_lower,
    two_bits_in_one_plane,
    planes_in_another_order,
    clip_removed,
    planes_noted_wrong,
    padding_altered,
    zero_point_altered,
    bias_of_another_layer,
    scaled_gemm,
    a_plane_of_other_codes,
    another_convolution,
    custom_operator,
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_a_broken_graph_is_caught(break_it, folder):
    model = onnx.load(folder / "spike.onnx")
    check, words = break_it(model)
    found = WholeNumbers(model, Notes.read(model)).checks
    problems = "\n".join(next(c for c in found if c.name == check).problems)
    assert words in problems, [str(c) for c in found]


def test_what_no_rule_sees_is_caught_by_the_reference_and_by_running(folder):
    """A weight that is altered, with the digest made to fit."""
    model = onnx.load(folder / "spike.onnx")
    edit(model, f"{LAYER}.weight", lambda w: w.__setitem__((slice(None), 0, 1, 1), w[:, 0, 1, 1] // 2))
    noted = next(p for p in model.metadata_props if p.key == "graph_sha256")
    noted.value = digest_of(model)
    assert not any(check.problems for check in WholeNumbers(model, Notes.read(model)).checks)
    found = checks(model, folder, reference=folder / "small.pt")
    assert f"{LAYER}: " in found["weights"][0]
    assert any("codes differ" in problem for problem in found["codes"])


def test_a_graph_that_lies_about_its_checkpoint_is_caught(folder, photos, tmp_path):
    torch.manual_seed(1)
    calibrated(write_small(tmp_path / "small.yaml", IBRA), photos).save(tmp_path / "other.pt")
    found = checks(onnx.load(folder / "spike.onnx"), folder, reference=tmp_path / "other.pt")
    assert len(found["weights"]) == 24
    assert found["operands"] == []


def test_bad_references_are_one_line(folder, tmp_path, spikeyolo):
    good = folder / "spike.onnx"
    broken = tmp_path / "broken.pt"
    broken.write_bytes((folder / "small.pt").read_bytes()[:5000])
    YOLO("ibra-spikeyolo-p.yaml").save(tmp_path / "pico.pt")
    YOLO("relu-spikeyolo-p.yaml").save(tmp_path / "relu.pt")
    cases = [
        ({"model": good, "reference": tmp_path / "gone.pt"}, "gone.pt does not exist"),
        ({"model": good, "reference": broken}, "broken.pt is not a loadable checkpoint"),
        ({"model": good, "reference": tmp_path / "pico.pt"}, "pico.pt is another network than the graph"),
        ({"model": good, "reference": tmp_path / "relu.pt"}, "no spiking neuron"),
        ({"model": good, "webassembly": tmp_path, "source": folder / "images"}, "has no onnxruntime-web"),
    ]
    for arguments, message in cases:
        code, _, error = spikeyolo(**arguments)
        assert code == 1, arguments
        assert message in error, (message, error)
        assert len(error.strip().splitlines()) == 1, error


@pytest.mark.slow
@pytest.mark.parametrize("nms", [None, False])
def test_both_branches_of_a_head_without_nms_are_compared_with_the_checkpoint(nms, photos, tmp_path, spikeyolo):
    from networks import write_stock

    from spikeyolo.conversion.spiking_copy import SpikingCopy

    torch.manual_seed(0)
    model = calibrated(write_stock(tmp_path / "net.yaml", "26", "nn.ReLU()"), photos)
    model.model = SpikingCopy(model.model).network
    model.save(tmp_path / "net.pt")
    file = YOLO(tmp_path / "net.pt").export(format="onnx", imgsz=64, nms=nms)
    code, out, error = spikeyolo(model=file)
    assert (code, error) == (0, ""), out
    assert "layers have the weights of" in out


def test_distances_are_of_numbers_of_a_kind():
    boxes = np.array([[[600, 500, 640, 600, 0.9, 3]]], np.float32)  # of NMS: corners, score, class
    moved, worse = (boxes + np.float32(d) for d in ([1e-3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 5e-3, 0]))
    assert _distance(boxes, moved) < TOLERANCE < _distance(boxes, worse)
    raw = np.moveaxis(np.repeat(boxes, 50, 1), 1, 2)
    assert _distance(raw, np.moveaxis(np.repeat(worse, 50, 1), 1, 2)) > TOLERANCE
    assert _distance(raw, np.moveaxis(np.repeat(moved, 50, 1), 1, 2)) < TOLERANCE
    assert _distance(boxes, boxes[:, :0]) == np.inf
