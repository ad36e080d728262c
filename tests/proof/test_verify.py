"""The verifier on graphs of earlier versions and of other programs: every broken one is caught where it is broken."""

import shutil

import numpy as np
import onnx
import pytest
from networks import write_images
from onnx import TensorProto, helper, numpy_helper
from ultralytics import YOLO

from spikeyolo.proof.spike_graph import SpikeGraph

LAYER = "model.2.conv1.conv"


@pytest.fixture(scope="module")
def folder(photos, earlier_graph, tmp_path_factory):
    """Make a folder with a spike graph of an earlier version, and images."""
    folder = tmp_path_factory.mktemp("verify")
    shutil.copy(earlier_graph, folder / "spike.onnx")
    write_images(folder / "images", photos[:2])
    return folder


def node(model, name):
    return next(n for n in model.graph.node if n.name == name or name in n.output)


def edit(model, name, change):
    """Change a constant tensor in place."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def insert(model, before, *nodes):
    """Insert nodes before the node that makes a tensor or has a name."""
    at = list(model.graph.node).index(node(model, before))
    for new in reversed(nodes):
        model.graph.node.insert(at, new)


def test_a_graph_of_an_earlier_version_is_told_apart_and_proven(folder, spikeyolo):
    code, out, error = spikeyolo(model=folder / "spike.onnx", source=folder / "images")
    assert (code, error) == (0, "")
    assert (
        "207 of 208 convolutions take spikes, 0 or 1; excepted: stem model.1.conv (takes whole numbers in [0, 255])"
        in out
    )
    assert "23 layers, each the sum over b of 2^b times one weight on plane b, its bias once" in out
    assert "spike.onnx was exported by an earlier version; it is compared with itself alone" in out
    assert out.count("ok    codes     0 of ") == 2
    assert "FAIL" not in out
    assert "spike.onnx is proven: spike-driven" in out


def plane_missing(model):
    node(model, f"{LAYER}/sum2").input[1] = f"{LAYER}/conv3"  # plane 3 again in place of plane 2
    return "planes", [LAYER, "planes [2] of", "do not enter"]


def plane_skipped(model):
    for other in model.graph.node:  # Horner's rule without its step 4
        for i, name in enumerate(other.input):
            if name == f"{LAYER}/sum4":
                other.input[i] = f"{LAYER}/sum5"
    return "planes", [LAYER, "planes enter with factors {5: 16, 6: 32, 7: 64, 8: 128}"]


def top_plane_missing(model):
    for other in model.graph.node:
        for i, name in enumerate(other.input):
            if name == f"{LAYER}/conv8":
                other.input[i] = f"{LAYER}/nothing"
    zero = helper.make_node("Sub", [f"{LAYER}/conv7", f"{LAYER}/conv7"], [f"{LAYER}/nothing"])
    at = list(model.graph.node).index(node(model, f"{LAYER}/conv7")) + 1
    twice = node(model, f"{LAYER}/twice7")
    model.graph.node.remove(twice)
    model.graph.node.insert(at, zero)
    model.graph.node.insert(at + 1, twice)
    return "planes", [LAYER, "planes [8] of"]


def bias_per_plane(model):
    for b in range(1, 9):
        node(model, f"{LAYER}/conv{b}").input.append(node(model, f"{LAYER}/conv0").input[2])
    return "planes", [LAYER, "is added 511 times"]


def bias_twice(model):
    bias = node(model, f"{LAYER}/conv0").input[2]
    node(model, f"{LAYER}/conv8").input.append(bias)
    return "planes", [LAYER, "is added 257 times"]


def weight_of_one_plane(model):
    tensor = next(t for t in model.graph.initializer if t.name == f"{LAYER}.weight")
    other = onnx.TensorProto()
    other.CopyFrom(tensor)
    other.name = "other"
    model.graph.initializer.append(other)
    edit(model, "other", lambda w: w.__setitem__((0, 0, 0, 0), w[0, 0, 0, 0] + 1))
    node(model, f"{LAYER}/conv5").input[1] = "other"
    return "planes", [LAYER, "planes [5] of", "do not enter with weight"]


def weight_of_all_planes(model):
    edit(model, f"{LAYER}.weight", lambda w: w.__setitem__((0, 0, 0, 0), w[0, 0, 0, 0] + 1))
    return "origin", ["weights or biases are not those that were exported"]


def bias_altered(model):
    edit(model, f"{LAYER}.bias", lambda b: b.__setitem__(0, b[0] + 0.5))
    return "origin", ["weights or biases are not those that were exported"]


def weight_off_the_grid(model):
    edit(model, f"{LAYER}.weight", lambda w: w.__setitem__((0, 0, 0, 0), w[0, 0, 0, 0] + 1e-6))
    return "exactness", [LAYER]


def codes_as_operand(model):
    node(model, f"{LAYER}/conv3").input[0] = node(model, f"{LAYER}/whole").input[0]
    return "operands", [LAYER, "whole numbers in [0, 511]"]


def mask_as_operand(model):
    insert(model, f"{LAYER}/conv3", helper.make_node("Cast", [f"{LAYER}/and3"], ["leak"], to=TensorProto.FLOAT))
    node(model, f"{LAYER}/conv3").input[0] = "leak"
    return "operands", [LAYER, "multiples of 8 in [0, 8]"]


def potential_as_operand_of_the_last_layer(model):
    codes = node(model, "model.7.cv2.0.3/whole").input[0]
    node(model, "model.7.cv2.0.3/conv0").input[0] = node(model, codes).input[0]
    return "operands", ["model.7.cv2.0.3: an operand is multiples of", "not a spike"]


def two_bits_as_one(model):
    mask = numpy_helper.from_array(np.array(12, np.uint16), "two")
    model.graph.initializer.append(mask)
    node(model, f"{LAYER}/and3").input[1] = "two"
    return "planes", [LAYER, "planes [3] of"]


def wrong_factor(model):
    node(model, f"{LAYER}/twice0").input[1] = f"{LAYER}/conv1"
    return "planes", [LAYER, "enter with factors"]


def float_leak_into_potentials(model):
    constant = numpy_helper.from_array(np.float32(1e-3), "small")
    model.graph.initializer.append(constant)
    last = node(model, f"{LAYER}/twice0")
    insert(model, f"{LAYER}/twice0", helper.make_node("Mul", [last.input[1], "small"], ["leak"]))
    last.input[1] = "leak"
    return "exactness", [LAYER, "float32 rounds it"]


def float_leak_past_the_neuron(model):
    codes = node(model, f"{LAYER}/whole").input[0]
    potential = node(model, node(model, codes).input[0]).input[0]
    constant = numpy_helper.from_array(np.float32(0.3), "small")
    model.graph.initializer.append(constant)
    insert(
        model,
        f"{LAYER}/conv3",
        helper.make_node("Mul", [potential, "small"], ["leak"]),
        helper.make_node("Add", [f"{LAYER}/plane3", "leak"], ["leaking"]),
    )
    node(model, f"{LAYER}/conv3").input[0] = "leaking"
    return "operands", [LAYER, "not a spike"]


def no_rounding(model):
    codes = node(model, f"{LAYER}/whole").input[0]
    node(model, f"{LAYER}/whole").input[0] = node(model, codes).input[0]  # the cast truncates
    return "planes", [LAYER]


def second_stem(model):
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "extra.weight")
    model.graph.initializer.append(weight)
    pixels = node(model, "model.1.conv").input[0]
    insert(model, f"{LAYER}/whole", helper.make_node("Conv", [pixels, "extra.weight"], ["extra"], "extra"))
    return "operands", ["extra", "whole numbers in [0, 255]"]


def computed_weights(model):
    conv = node(model, f"{LAYER}/conv3")
    insert(model, conv.name, helper.make_node("Neg", [conv.input[1]], ["negative"]))
    conv.input[1] = "negative"
    return "planes", [f"{LAYER}: its weights are computed", "planes [3] of"]


def custom_operator(model):
    node(model, f"{LAYER}/sum3").domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return "operators", ["a custom operator (com.example)"]


def control_flow(model):
    branch = helper.make_graph(
        [helper.make_node("Identity", [f"{LAYER}/twice0"], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    last = node(model, f"{LAYER}/twice0")
    at = list(model.graph.node).index(last) + 1
    new = helper.make_node("If", ["yes"], ["chosen"], "choice", then_branch=branch, else_branch=branch)
    model.graph.node.insert(at, new)
    model.graph.node[at + 1].input[0] = "chosen"
    return "operators", ["If choice: control flow"]


BREAKS = [
    plane_missing,
    plane_skipped,
    top_plane_missing,
    bias_per_plane,
    bias_twice,
    weight_of_one_plane,
    weight_of_all_planes,
    bias_altered,
    weight_off_the_grid,
    codes_as_operand,
    mask_as_operand,
    potential_as_operand_of_the_last_layer,
    two_bits_as_one,
    wrong_factor,
    float_leak_into_potentials,
    float_leak_past_the_neuron,
    no_rounding,
    second_stem,
    computed_weights,
    custom_operator,
    control_flow,
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_a_broken_graph_is_caught(break_it, folder):
    model = onnx.load(folder / "spike.onnx")
    check, words = break_it(model)
    problems = SpikeGraph(model).checks
    found = "\n".join(next(c for c in problems if c.name == check).problems)
    assert all(word in found for word in words), [str(c) for c in problems]


def test_any_onnx_file_is_examined(tmp_path, monkeypatch, spikeyolo):
    monkeypatch.chdir(tmp_path)
    YOLO("yolo11n.yaml").export(format="onnx", imgsz=64)
    code, out, error = spikeyolo(model="yolo11n.onnx")
    assert code == 1
    assert "excepted: stem /model.0/conv/Conv (takes any number in [-inf, inf]), decoder /model.23/dfl" in out
    assert "no convolution takes spikes: this is no spike graph" in out
    assert "any number in [-inf, inf], not a spike" in out
    assert "yolo11n.onnx is not proven" in error


def image_model(shape, path):
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_file_without_images_is_examined_all_the_same(tmp_path, spikeyolo):
    code, out, _ = spikeyolo(model=image_model([1, 10], tmp_path / "flat.onnx"))
    assert code == 1
    assert "ok    operators" in out
    assert "0 of 0 convolutions take spikes, 0 or 1; excepted: none" in out


def test_bad_input_is_one_line(folder, tmp_path, spikeyolo):
    good = folder / "spike.onnx"
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(good.read_bytes()[:50_000])
    text = tmp_path / "text.onnx"
    text.write_text("this is no model")
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK")
    gray = image_model([1, 1, 28, 28], tmp_path / "gray.onnx")
    flat = image_model([1, 10], tmp_path / "flat.onnx")
    cases = [
        ({}, "model= is missing, e.g. spikeyolo verify model=best.onnx"),
        ({"model": tmp_path / "none.onnx"}, "none.onnx does not exist; export one with: yolo export"),
        ({"model": truncated}, "truncated.onnx is no complete ONNX file"),
        ({"model": text}, "text.onnx is no complete ONNX file"),
        (
            {"model": gray, "source": folder / "images"},
            "gray.onnx does not take images: its input is x [1, 1, 28, 28], not (batch, 3, height, width)",
        ),
        ({"model": flat, "source": folder / "images"}, "flat.onnx does not take images: its input is x [1, 10]"),
        ({"model": good, "source": empty}, "No images or videos found in"),
        ({"model": good, "source": tmp_path / "gone"}, "gone does not exist"),
        ({"model": good, "source": folder / "images", "images": 0}, "images must be at least 1, got 0"),
        (
            {"model": good, "reference": broken},
            "was exported by an earlier version, with float weights, which no deploy",
        ),
    ]
    for arguments, message in cases:
        code, out, error = spikeyolo(**arguments)
        assert code == 1, arguments
        assert message in error, (message, error)
        assert len(error.strip().splitlines()) == 1, error
        assert out == "", arguments
