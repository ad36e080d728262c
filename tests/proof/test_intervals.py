import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from spikeyolo.proof.intervals import Graph, accumulate, constant, grid, values

LOW, HIGH, STEP = -9.0, 13.0, 0.25  # what the input x can be


def model(nodes, inputs=("x",), constants=None, outputs=("y",), opset=19):
    """Make a graph whose inputs are multiples of STEP in [LOW, HIGH], shape (2, 3, 4, 6)."""
    info = [helper.make_tensor_value_info(f"raw_{n}", TensorProto.FLOAT, [2, 3, 4, 6]) for n in inputs]
    given = {"low": np.float32(LOW / STEP), "high": np.float32(HIGH / STEP), "step": np.float32(STEP)}
    before = []
    for name in inputs:
        before += [helper.make_node("Round", [f"raw_{name}"], [f"{name}/a"])]
        before += [helper.make_node("Clip", [f"{name}/a", "low", "high"], [f"{name}/b"])]
        before += [helper.make_node("Mul", [f"{name}/b", "step"], [name])]
    arrays = [numpy_helper.from_array(np.asarray(v), k) for k, v in (given | (constants or {})).items()]
    out = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([*before, *nodes], "test", info, out, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(kind, *inputs, outputs=("y",), **attributes):
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


f = np.float32
CASES = {
    "Add": ([node("Add", "x", "z")], {}),
    "Split channels": (
        [node("Add", "x", "c", outputs=("s",)), node("Split", "s", "sizes", outputs=("first", "y"), axis=1)],
        {"c": f([[[[1]], [[-2.5]], [[100]]]]), "sizes": np.array([1, 2])},
    ),
    "Add channels": ([node("Add", "x", "c")], {"c": f([[[[1]], [[-2.5]], [[100]]]])}),
    "Sub": ([node("Sub", "x", "z")], {}),
    "Sum": ([node("Sum", "x", "z", "x")], {}),
    "Mul": ([node("Mul", "x", "z")], {}),
    "Mul constant": ([node("Mul", "x", "c")], {"c": f(-0.3)}),
    "Div": ([node("Div", "x", "c")], {"c": f(-4)}),
    "Div by no power": ([node("Div", "x", "c")], {"c": f(3)}),
    "Max": ([node("Max", "x", "z", "c")], {"c": f(2)}),
    "Min": ([node("Min", "x", "z")], {}),
    "Neg": ([node("Neg", "x")], {}),
    "Relu": ([node("Relu", "x")], {}),
    "Clip": ([node("Clip", "x", "a", "b")], {"a": f(-1), "b": f(7.125)}),
    "Clip above": ([node("Clip", "x", "", "b")], {"b": f(7)}),
    "Round": ([node("Round", "x")], {}),
    "Floor": ([node("Floor", "x")], {}),
    "Ceil": ([node("Ceil", "x")], {}),
    "Sign": ([node("Sign", "x")], {}),
    "Tanh": ([node("Tanh", "x")], {}),
    "Sigmoid": ([node("Sigmoid", "x")], {}),
    "Softmax": ([node("Softmax", "x", axis=1)], {}),
    "Exp": ([node("Exp", "x")], {}),
    "Greater": ([node("Greater", "x", "z")], {}),
    "Where": ([node("Greater", "x", "z", outputs=("g",)), node("Where", "g", "x", "c")], {"c": f(50)}),
    "Cast to int8": ([node("Cast", "x", to=TensorProto.INT8)], {}),
    "Cast to bool": ([node("Cast", "x", to=TensorProto.BOOL)], {}),
    "Cast to half": ([node("Cast", "x", to=TensorProto.FLOAT16)], {}),
    "Cast and mask": (
        [
            node("Relu", "x", outputs=("r",)),
            node("Cast", "r", outputs=("u",), to=TensorProto.UINT16),
            node("BitwiseAnd", "u", "m"),
        ],
        {"m": np.uint16(6)},
    ),
    "Shift": (
        [
            node("Relu", "x", outputs=("r",)),
            node("Cast", "r", outputs=("u",), to=TensorProto.UINT16),
            node("BitShift", "u", "m", direction="RIGHT"),
        ],
        {"m": np.uint16(1)},
    ),
    "Mod": (
        [node("Cast", "x", outputs=("i",), to=TensorProto.INT32), node("Mod", "i", "m")],
        {"m": np.int32(5)},
    ),
    "Concat channels": ([node("Neg", "x", outputs=("n",)), node("Concat", "x", "n", axis=1)], {}),
    "Concat rows": ([node("Sigmoid", "x", outputs=("n",)), node("Concat", "x", "n", axis=2)], {}),
    "MaxPool": ([node("MaxPool", "x", kernel_shape=[3, 3], pads=[1] * 4)], {}),
    "AveragePool": ([node("AveragePool", "x", kernel_shape=[3, 3])], {}),
    "Resize": ([node("Resize", "x", "", "s", mode="nearest")], {"s": f([1, 1, 2, 2])}),
    "Resize linear": ([node("Resize", "x", "", "s", mode="linear")], {"s": f([1, 1, 2, 2])}),
    "Pad": ([node("Pad", "x", "p", "v")], {"p": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "v": f(77.5)}),
    "Transpose": ([node("Transpose", "x", perm=[1, 0, 2, 3])], {}),
    "Slice": ([node("Slice", "x", "a", "b")], {"a": np.int64([1]), "b": np.int64([2])}),
    "ReduceMax": ([node("ReduceMax", "x")], {}),
    "ReduceMean": ([node("ReduceMean", "x")], {}),
    "Conv": (
        [node("Conv", "x", "w", "b", pads=[1] * 4)],
        {"w": np.random.default_rng(0).integers(-9, 9, (5, 3, 3, 3)).astype("f") / 8, "b": f([1, -2, 3, 4, 5]) / 4},
    ),
    "Conv in groups": (
        [node("Conv", "x", "w", group=3, strides=[2, 1])],
        {"w": np.random.default_rng(1).integers(-9, 9, (6, 1, 2, 2)).astype("f") / 64},
    ),
    "MatMul": ([node("MatMul", "x", "w")], {"w": np.random.default_rng(2).integers(-9, 9, (6, 2)).astype("f") / 2}),
    "Gemm": (
        [node("Flatten", "x", outputs=("v",)), node("Gemm", "v", "w", "b", transB=1)],
        {"w": np.random.default_rng(3).integers(-3, 4, (2, 72)).astype("f"), "b": f([0.5, 1])},
    ),
    "QuantizeLinear": ([node("QuantizeLinear", "x", "s", "z")], {"s": f(0.5), "z": np.uint8(3)}),
    "DequantizeLinear": (
        [node("QuantizeLinear", "x", "s", "z", outputs=("q",)), node("DequantizeLinear", "q", "s", "z")],
        {"s": f(0.5), "z": np.uint8(3)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_rule_holds_for_what_the_operator_gives(case):
    nodes, constants = CASES[case]
    names = ["x", "z"] if any("z" in n.input for n in nodes) and "z" not in constants else ["x"]
    built = model(nodes, names, constants)
    graph = Graph(built)
    found = graph["y"]
    generator = np.random.default_rng(4)
    evaluator = ReferenceEvaluator(built)
    for scale in (0, 5, 40, 1000):  # the last one reaches both ends everywhere
        feed = {f"raw_{n}": (generator.standard_normal((2, 3, 4, 6)) * scale).astype("f") for n in names}
        y = evaluator.run(None, feed)[0].astype(np.float64)
        assert (y >= found.low - 1e-6 * abs(found.low)).all(), (y.min(), found)
        assert (y <= found.high + 1e-6 * abs(found.high)).all(), (y.max(), found)
        if 0 < found.step < math.inf:
            assert np.array_equal(y / found.step, np.rint(y / found.step)), found
    assert np.isfinite(found.low).all()  # it says something
    assert np.isfinite(found.high).all() or case == "Exp"


def test_parts_of_a_split_keep_their_channels():
    nodes, constants = CASES["Split channels"]
    graph = Graph(model(nodes, ["x"], constants))
    assert graph["y"].low.shape == (1, 2, 1, 1)
    assert graph["first"].high.max() < graph["s"].high.max()


def test_a_neuron_and_a_plane_are_what_they_should_be():
    nodes = [
        node("Round", "x", outputs=("k",)),
        node("Relu", "k", outputs=("r",)),
        node("Cast", "r", outputs=("u",), to=TensorProto.UINT16),
        node("BitwiseAnd", "u", "m", outputs=("a",)),
        node("Cast", "a", outputs=("t",), to=TensorProto.BOOL),
        node("Cast", "t", to=TensorProto.FLOAT),
    ]
    graph = Graph(model(nodes, constants={"m": np.uint16(4)}))
    assert str(graph["x"]) == "multiples of 0.25 in [-9, 13]"
    assert str(graph["r"]) == "whole numbers in [0, 13]"
    assert str(graph["a"]) == "multiples of 4 in [0, 4]"
    assert not graph["a"].binary
    assert graph["y"].binary
    assert str(graph["raw_x"]) == "any number in [-inf, inf]"


def test_what_is_unknown_can_be_anything():
    for nodes in ([node("Erf", "x")], [node("Add", "x", "x", domain="my.domain")], [node("Cast", "x", to=8)]):
        assert not Graph(model(nodes))["y"].whole
    wrapped = Graph(model([node("Cast", "x", to=TensorProto.UINT8)]))["y"]  # -9 wraps around
    assert (wrapped.low, wrapped.high) == (0, 255)
    half = Graph(model([node("Mul", "x", "c", outputs=("m",)), node("Cast", "m", to=10)], constants={"c": f(1000)}))
    assert half["y"].step == 0  # float16 rounds 13,000.5


def test_a_caller_can_replace_an_initializer_that_is_an_input():
    built = model([node("Clip", "x", "a", "b")], constants={"a": f(0), "b": f(1)})
    assert Graph(built)["y"].high == 1
    built.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, []))
    assert Graph(built)["y"].high > 1


def test_grid():
    assert grid(np.array([0.75, -6, 0])) == 0.25
    assert grid(np.array([4.0, 12])) == 4
    assert grid(np.zeros(3)) == math.inf
    assert grid(np.array([np.inf])) == 0
    assert grid(np.array([0.1], np.float32)) == 2.0**-27
    assert constant(np.array([1.5, -2])).reach == 2


@given(st.integers(0, 2**32 - 1))
def test_accumulate_bounds_every_partial_sum(seed):
    generator = np.random.default_rng(seed)
    weight, bias = generator.integers(-8, 9, (2, 2, 2)) / 4, generator.integers(-8, 9, 2) / 4
    x = values(-1, 3, 0.5)
    found = accumulate(x, weight, bias)
    terms = np.concatenate([weight.reshape(2, -1) * generator.choice([-1, 0, 0.5, 3], (1, 4)), bias[:, None]], 1)
    for order in (generator.permutation(5) for _ in range(4)):
        partial = terms[:, order].cumsum(1)
        assert (partial <= found.high.ravel()[:, None]).all()
        assert (partial >= found.low.ravel()[:, None]).all()
    # reached: every weight at its worst operand
    best = np.maximum(weight * 3, weight * -1).sum((1, 2)) + np.maximum(bias, 0)
    assert np.array_equal(found.high.ravel(), best)
    assert np.array_equal(terms / found.step, np.rint(terms / found.step))
