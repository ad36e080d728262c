"""The ONNX graphs of spiking models, through Ultralytics' own exporter."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import IBRA, PICO, calibrated, write_small
from ultralytics import YOLO

from spikeyolo.deployment.form import emitted_codes
from spikeyolo.deployment.transform import deploy
from spikeyolo.files import sha256
from spikeyolo.graph import export
from spikeyolo.graph.bounds import digest_of
from spikeyolo.plugin.patching import patched

NEURONS = {
    "ibra": IBRA,
    "ibra-T2": IBRA | {"T": 2, "decay": 0.3},
    "lif": {"type": "lif", "D": 1, "N": 1},
    "i-lif-T3": {"type": "i-lif", "D": 4, "N": 1, "T": 3},
    "ib-lif": {"type": "ib-lif", "D": 511, "N": 1},
    "pot-lif": {"type": "pot-lif", "planes": 5},
    "pot-lif-T2": {"type": "pot-lif", "planes": 4, "T": 2, "range": "learned"},
}
LEVELS = onnxruntime.GraphOptimizationLevel
LEVELS = [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL]


SLOW = {"i-lif-T3", "pot-lif-T2"}
CASES = [pytest.param(n, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, n in NEURONS.items()]


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request, photos, tmp_path_factory):
    """Make a checkpoint with random weights and BatchNorms that fit."""
    torch.manual_seed(0)
    return save(photos, tmp_path_factory.mktemp("net"), request.param)


@pytest.fixture(scope="module")
def ibra(photos, tmp_path_factory):
    torch.manual_seed(0)
    return save(photos, tmp_path_factory.mktemp("ibra"), IBRA)


def save(photos, folder, neuron, **changes):
    model = calibrated(write_small(folder / "small.yaml", neuron, **changes), photos)
    model.save(folder / "small.pt")
    return folder / "small.pt"


def export_to(path, name, **arguments):
    """Export beside the checkpoint, and move the file away."""
    file = Path(YOLO(path).export(format="onnx", **({"imgsz": 64} | arguments)))
    assert file == path.with_suffix(".onnx")
    return file.replace(file.with_stem(name))


def metadata(file):
    return {p.key: p.value for p in onnx.load(file).metadata_props}


def codes_and_output(file, images, level=LEVELS[-1], threads=2, wanted=()):
    """Run a graph; return its output and the codes that enter each layer, by name, with channels first."""
    model = onnx.load(file)
    tensors = {layer: noted["codes"] for layer, noted in layers_of(file).items() if layer in wanted}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in set(tensors.values()))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it keeps other workers from their core
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"images": images}), strict=True))
    order = {
        layer: (0, 3, 1, 2) if noted["order"] == "NHWC" else (0, 1, 2, 3) for layer, noted in layers_of(file).items()
    }
    codes = {layer: found[name].transpose(order[layer]) for layer, name in tensors.items()}
    return found["output0"], codes


def layers_of(file):
    return json.loads(metadata(file)["layers"])


def products(model):
    return [n for n in model.graph.node if n.op_type in ("QLinearConv", "Gemm", "Conv")]


def assert_no_flips(checkpoint, files, images, settings):
    """Every graph under every setting emits the codes of the deploy form in PyTorch, and its boxes."""
    expected, codes = emitted_codes(deploy(YOLO(checkpoint)), images)
    codes = {name: found.numpy() for name, found in codes}
    for file, (level, threads) in itertools.product(files, settings):
        output, found = codes_and_output(file, images.numpy(), level, threads, codes)
        assert found.keys() == codes.keys()
        for name in codes:
            assert np.array_equal(found[name], codes[name]), (file.name, level, threads, name)
        assert_near(output, expected[0].numpy())


def assert_near(ours, theirs):
    """Boxes and scores are decoded in float32: equal to a millionth of the largest coordinate, and of 1."""
    scale = np.maximum(1, np.abs(theirs).max(-1, keepdims=True))
    assert (np.abs(ours - theirs) / scale).max() <= 1e-6


def test_no_code_flips(checkpoint, photos):
    files = [export_to(checkpoint, graph, graph=graph, batch=8) for graph in ("spike", "integer")]
    assert_no_flips(checkpoint, files, photos, [(LEVELS[0], 1), (LEVELS[-1], 2)])


@pytest.mark.slow
def test_no_code_flips_under_any_setting(ibra, photos):
    files = [
        export_to(ibra, f"{graph}-{simplify}", graph=graph, simplify=simplify, batch=8)
        for graph, simplify in itertools.product(("spike", "integer"), (True, False))
    ]
    assert_no_flips(ibra, files, photos, list(itertools.product(LEVELS, (1, 2))))


SAMPLE = {("p", 1), ("n", 2)}  # of all scales and timesteps


@pytest.mark.parametrize(
    ("scale", "timesteps"),
    [
        pytest.param(*case, marks=pytest.mark.slow if case in SAMPLE else pytest.mark.campaign)
        for case in itertools.product("pnsml", (1, 2))
    ],
)
def test_no_code_flips_in_whole_networks(scale, timesteps, photos, tmp_path):
    from networks import write_yaml

    yaml = write_yaml(tmp_path / "net.yaml", neuron=IBRA | {"T": timesteps}, scale=scale)
    calibrated(yaml, photos).save(tmp_path / "net.pt")
    files = [export_to(tmp_path / "net.pt", graph, graph=graph) for graph in ("spike", "integer")]
    settings = list(itertools.product(LEVELS, (1, 2))) if scale == "p" else [(LEVELS[0], 1), (LEVELS[-1], 2)]
    assert_no_flips(tmp_path / "net.pt", files, photos[:1], settings)


def test_both_graphs_hold_the_same_whole_numbers(ibra):
    spike = onnx.load(export_to(ibra, "spike"))
    integer = onnx.load(export_to(ibra, "integer", graph="integer"))
    form = deploy(YOLO(ibra)).deployed
    for model in (spike, integer):
        onnx.checker.check_model(model, full_check=True)
        assert {n.domain for n in model.graph.node} == {""}
        assert {o.domain for o in model.opset_import} == {""}
        assert not {n.op_type for n in model.graph.node} & {"If", "Loop", "Scan", "Conv"}  # no float convolution
        assert sorted(n.name for n in products(model)) == sorted(form.convs)
    ours, theirs = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (spike, integer))
    for name, conv in form.convs.items():
        for part, dtype in (("weight", np.int8), ("bias", np.int32)):
            assert ours[f"{name}.{part}"].dtype == dtype
            assert np.array_equal(ours[f"{name}.{part}"], theirs[f"{name}.{part}"])
            found, expected = ours[f"{name}.{part}"], getattr(conv, part).numpy()  # a stem's weights have a border
            assert np.array_equal(np.sort(found[found != 0]), np.sort(expected[expected != 0].ravel()))
    thresholds = {ours[n.input[2]].item() for n in spike.graph.node if "/reached" in n.name}
    assert thresholds == {2, 4, 8, 16, 32, 64}  # what none of them takes is the lowest plane


def test_operands_of_the_spike_graph_are_planes(ibra, photos):
    """0 or 2^b at every product, one value per plane, read off the tensors themselves."""
    model = onnx.load(export_to(ibra, "spike"))
    bytes_of = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type in ("DequantizeLinear", "Transpose")}
    operands = {n.name: n.input[0] for n in products(model) if n.name != "model.1.conv"}
    for name, operand in operands.items():
        while operand in bytes_of:
            operand = bytes_of[operand]
        operands[name] = operand
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in set(operands.values()))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = list(set(operands.values()))
    found = dict(zip(wanted, session.run(wanted, {"images": photos[:1].numpy()}), strict=True))
    assert len(operands) == 23
    for name, operand in operands.items():
        assert set(np.unique(found[operand]).tolist()) <= {0, 1, 2, 4, 8, 16, 32, 64}, name
        assert found[operand].max() >= 32, name


def test_metadata_tell_what_the_graph_is(ibra):
    noted = metadata(export_to(ibra, "spike"))
    assert (noted["graph"], noted["form"], noted["weight_bits"]) == ("spike", "2", "8")
    assert (noted["D"], noted["N"], noted["T"], noted["decay"], noted["unit"]) == ("5.08", "25.0", "1", "0.25", "25.0")
    form = deploy(YOLO(ibra)).deployed
    assert json.loads(noted["planes"]) == form.planes
    layers = json.loads(noted["layers"])
    assert list(layers) == list(form.convs)
    assert {layer["kind"] for layer in layers.values()} == {"direct", "branch", "whole"}
    assert layers["model.3.conv"]["kernel"] == [3, 3]
    assert noted["exact"] == "worst case"
    assert (noted["source"], noted["source_sha256"]) == ("small.pt", sha256(ibra))
    assert json.loads(noted["versions"]).keys() == {"spikeyolo", "ultralytics", "torch", "onnx"}
    assert noted["graph_sha256"] == digest_of(onnx.load(export_to(ibra, "spike")))
    assert (noted["neuron"], noted["kept_planes"]) == ("ibra-lif", "7")
    assert metadata(export_to(ibra, "integer", graph="integer"))["graph"] == "integer"


def test_int8_says_the_same(ibra):
    plain, asked = (export_to(ibra, name, **arguments) for name, arguments in (("plain", {}), ("int8", {"int8": True})))
    models = [onnx.load(file).graph for file in (plain, asked)]
    assert models[0].SerializeToString() == models[1].SerializeToString()


@pytest.mark.parametrize("arguments", [{"weight_bits": 5}, {"planes": 8}, {"planes": 9}], ids=str)
def test_other_widths_flip_no_code(arguments, ibra, photos):
    expected, codes = emitted_codes(deploy(YOLO(ibra), **arguments), photos)
    for graph in ("spike", "integer"):
        file = export_to(ibra, graph, graph=graph, batch=8, **arguments)
        for level in (LEVELS[0], LEVELS[-1]):
            output, found = codes_and_output(file, photos.numpy(), level, wanted=dict(codes))
            assert all(np.array_equal(found[name], ours.numpy()) for name, ours in codes)
            assert_near(output, expected[0].numpy())
    kinds = {layer["kind"] for layer in layers_of(file).values()}
    assert ("wide" in kinds) == (arguments.get("planes") == 9)  # codes of more than a byte


def test_planes_drops_low_planes(ibra, photos):
    file = export_to(ibra, "four", planes=4)
    noted = metadata(file)
    assert set(json.loads(noted["planes"]).values()) == {4}
    assert (noted["kept_planes"], noted["N"], noted["D"]) == ("4", "3.125", "4.8")  # 100 / 32, 15 / 3.125
    for image in photos[:3, None]:
        expected, codes = emitted_codes(deploy(YOLO(ibra), planes=4), image)
        output = codes_and_output(file, image.numpy())[0]
        assert np.abs(output - expected[0].numpy()).max() < 1e-4
        assert max(float(c.max()) for _, c in codes) == 15


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # of Ultralytics 8.4.120's NMS
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"dynamic": True, "nms": True, "batch": 2, "conf": 1e-6}, marks=pytest.mark.slow),
        {"imgsz": [64, 96]},
    ],
    ids=str,
)
def test_variants_agree(arguments, ibra, photos):
    outputs = []
    images = torch.nn.functional.pad(photos[:2], (0, 32)) if "imgsz" in arguments else photos[:2]
    for graph in ("spike", "integer"):
        file = export_to(ibra, graph, graph=graph, **({"batch": 2} | arguments))
        outputs.append(codes_and_output(file, images.numpy())[0])
    assert np.array_equal(*outputs)
    assert np.abs(outputs[0]).max() > 0


@pytest.mark.slow
def test_a_dynamic_graph_takes_any_batch_and_size(photos, tmp_path):
    path = save(photos, tmp_path, NEURONS["ibra-T2"])  # timesteps are split from the batch
    file = export_to(path, "dynamic", dynamic=True)
    wide = torch.cat([photos[:3], photos[3:6]], 3)
    together, _ = codes_and_output(file, wide.numpy())
    alone = [codes_and_output(file, image[None].numpy())[0][0] for image in wide]
    assert np.array_equal(together, np.stack(alone))
    with torch.no_grad():
        assert_near(together, deploy(YOLO(path))(wide)[0].numpy())


def test_the_nms_free_head_exports(photos, tmp_path):
    path = save(photos, tmp_path, IBRA, end2end=True)
    outputs = [
        codes_and_output(export_to(path, graph, graph=graph, nms=False), photos[:1].numpy())[0]
        for graph in ("spike", "integer")
    ]
    assert outputs[0].shape[-1] == 6
    assert np.array_equal(*outputs)


@pytest.mark.slow
def test_stock_ultralytics_predicts_and_validates(trained, digits, tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(trained.read_bytes())
    export_to(path, "integer", graph="integer")
    export_to(path, "spike")
    image = sorted((digits.parent / "images/val").iterdir())[0]
    code = (
        "import sys; from ultralytics import YOLO\n"
        "for file in sys.argv[1:3]:\n"
        "    model = YOLO(file, task='detect')\n"
        "    found = model.predict(sys.argv[3], imgsz=64, conf=0.001, verbose=False)[0].boxes\n"
        "    metrics = model.val(data=sys.argv[4], imgsz=64, plots=False)\n"
        "    print(len(found), found.conf.sum().item(), metrics.box.map)\n"
        "assert not any(name.startswith('spikeyolo') for name in sys.modules)"
    )
    files = [str(tmp_path / f"{name}.onnx") for name in ("spike", "integer")]
    environment = os.environ | {"SPIKEYOLO_DISABLE": "1"}  # the graph needs nothing of ours
    command = [sys.executable, "-c", code, *files, str(image), str(digits)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    results = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert len(results) == 2
    assert results[0] == results[1]


@pytest.mark.slow
def test_the_benchmark_runs(trained, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("best.pt").write_bytes(trained.read_bytes())
    table = YOLO("best.pt").benchmark(data=str(digits), imgsz=64, format="onnx")
    assert "ONNX" in str(table)
    assert metadata("best.onnx")["graph"] == "spike"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": "planes"}, "graph=planes does not exist; use graph=spike or graph=integer"),
        ({"graph": "spike", "format": "torchscript"}, "graph=spike needs format=onnx, got format=torchscript"),
        ({"half": True}, r"half=True \(quantize=16\) has no use for a spiking model, whose weights have 8 bits"),
        ({"opset": 17}, "opset=17 lacks operators of these graphs; use opset=18 or newer"),
        ({"weight_bits": 1}, "weight_bits must be a whole number from 2 to 8, got weight_bits=1"),
        ({"weight_bits": "six"}, "got weight_bits='six'"),
        ({"weight_bits": 6, "format": "torchscript"}, "weight_bits=6 needs format=onnx"),
        ({"planes": 4, "format": "torchscript"}, "planes=4 needs format=onnx"),
        ({"planes": 0}, "planes must be a whole number from 1 to 16, got planes=0"),
        ({"planes": 17}, "got planes=17"),
        ({"planes": "four"}, "got planes='four'"),
    ],
    ids=str,
)
def test_bad_arguments_are_one_error_and_write_nothing(arguments, message, ibra):
    before = sorted(ibra.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        YOLO(ibra).export(**({"format": "onnx", "imgsz": 64} | arguments))
    assert sorted(ibra.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["relu-spikeyolo-p.yaml", "yolo11n.yaml"])
def test_a_graph_needs_neurons(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="graph=integer needs a model with spiking neurons"):
        YOLO(name).export(format="onnx", imgsz=64, graph="integer")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_neurons_exports_as_ever(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = YOLO("yolo11n.yaml").export(format="onnx", imgsz=64)
    assert "graph" not in metadata(file)
    assert not {n.op_type for n in onnx.load(file).graph.node} & {"Round", "QuantizeLinear"}


def test_other_modes_do_not_know_the_argument(ibra, photos):
    with pytest.raises(SyntaxError, match=r"graph.* is not a valid YOLO argument"):
        YOLO(ibra).predict(photos, graph="integer")


@pytest.mark.slow
def test_the_command_line(ibra):
    command = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()"]
    words = ["export", f"model={ibra}", "format=onnx", "imgsz=64"]
    done = subprocess.run([*command, *words, "graph=integer"], capture_output=True, text=True, cwd=ibra.parent)
    assert done.returncode == 0, done.stderr
    assert "integer graph: 23 convolutions take codes, the stem model.1.conv takes pixels" in done.stdout + done.stderr
    file = ibra.with_suffix(".onnx")
    assert f"saved as '{file}'" in done.stdout + done.stderr
    assert metadata(file)["graph"] == "integer"
    before = file.read_bytes()
    bad = subprocess.run([*command, *words, "graph=both"], capture_output=True, text=True, cwd=ibra.parent)
    assert bad.returncode != 0
    assert (
        bad.stderr.strip().splitlines()[-1] == "ValueError: graph=both does not exist; use graph=spike or graph=integer"
    )
    assert file.read_bytes() == before


def test_a_failing_export_leaves_the_old_file_and_nothing_else(ibra, monkeypatch):
    file = ibra.with_suffix(".onnx")
    file.write_bytes(b"old")
    before = sorted(ibra.parent.iterdir())

    def fail(model, form, graph):
        raise RuntimeError("no space left")

    monkeypatch.setattr(export, "lower", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        YOLO(ibra).export(format="onnx", imgsz=64)
    assert file.read_bytes() == b"old"
    assert sorted(ibra.parent.iterdir()) == before
    file.unlink()


def test_no_other_graph_is_written_where_the_exporter_cannot_be_patched(ibra, monkeypatch):
    monkeypatch.delitem(patched, "ultralytics.engine.exporter")
    before = sorted(ibra.parent.iterdir())
    with pytest.raises(RuntimeError, match="exporter of this Ultralytics is not patched"):
        YOLO(ibra).export(format="onnx", imgsz=64)
    assert sorted(ibra.parent.iterdir()) == before


def test_pico_names_all_its_layers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a new network's residual branches are zero: its equal weights are stored once
    file = YOLO(PICO).export(format="onnx", imgsz=64)
    planes = json.loads(metadata(file)["planes"])
    kinds = {name: layer["kind"] for name, layer in layers_of(file).items()}
    assert kinds.keys() == {"model.1.conv", *planes}
    assert len(planes) == 78
    counts = {kind: list(kinds.values()).count(kind) for kind in kinds.values()}
    assert counts == {"direct": 44, "branch": 25, "whole": 10}


CONVERTED = {
    "leaky": ("v8", "nn.LeakyReLU()", 8, {}),  # its slope is float32 in ONNX
    "rest-9": ("v8", "nn.SiLU()", 9, {"planes": 9}),  # codes of more than a byte, with a border of the rest code
    "relu-8": ("11", "nn.ReLU()", 8, {"planes": 8}),
    "attention": ("11", "nn.SiLU()", 8, {}),
}
HEAVY = {"relu-8", "attention"}


@pytest.mark.parametrize("case", [pytest.param(k, marks=pytest.mark.slow if k in HEAVY else ()) for k in CONVERTED])
def test_no_code_flips_in_converted_networks(case, photos, tmp_path):
    from networks import write_stock

    from spikeyolo.conversion.calibration import Ranges, observe
    from spikeyolo.conversion.spiking_copy import SpikingCopy

    family, activation, bits, arguments = CONVERTED[case]
    torch.manual_seed(0)
    model = calibrated(write_stock(tmp_path / "net.yaml", family, activation), photos)
    twin = SpikingCopy(model.model)
    potentials = observe(twin.network.model, twin.network, [photos], twin.replaced)
    twin.set_ranges(Ranges(bits=bits).choose(potentials))
    model.model = twin.network
    model.save(tmp_path / "net.pt")
    expected, codes = emitted_codes(deploy(YOLO(tmp_path / "net.pt"), **arguments), photos[:2])
    form = deploy(YOLO(tmp_path / "net.pt"), **arguments).deployed
    for graph, level in itertools.product(("spike", "integer"), (LEVELS[0], LEVELS[-1])):
        file = export_to(tmp_path / "net.pt", graph, graph=graph, batch=2, **arguments)
        output, found = codes_and_output(file, photos[:2].numpy(), level, wanted=dict(codes))
        for name, ours in codes:
            left, right, top, bottom = form.neurons[name].border
            inner = ours[..., top : ours.shape[2] - bottom, left : ours.shape[3] - right]
            assert np.array_equal(found[name], inner.numpy()), (graph, level, name)
        assert_near(output, expected[0].numpy())


def test_an_activation_that_runtimes_lack_is_named(photos, tmp_path):
    from networks import write_stock

    from spikeyolo.conversion.spiking_copy import SpikingCopy

    model = YOLO(write_stock(tmp_path / "net.yaml", "v8", "nn.GELU()"))
    model.model = SpikingCopy(model.model).network
    model.save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match="GELU of potentials has no float64 operator in ONNX Runtime"):
        YOLO(tmp_path / "net.pt").export(format="onnx", imgsz=64)
    assert not list(tmp_path.glob("*.onnx"))
