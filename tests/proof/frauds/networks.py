"""Frauds about whole networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto
from surgery import Surgery, attribute, first, rewire, set_attribute

from frauds.registry import SAME, cast, fraud, register, rename, times


@fraud("networks")
def other_weights_in_all_layers(s: Surgery) -> None:
    """Give weights of another network; those of the reference lie in the file, unused."""
    rng = np.random.default_rng(0)
    for layer in [*s.ops("QLinearConv"), *s.gemms]:
        name = s.kernel(layer)
        honest = s.value(name)
        rename(s, name, f"{name}/other")
        s.change(f"{name}/other", lambda w: rng.permutation(w.ravel()).reshape(w.shape))
        s.constant(honest, name=name)


@fraud("networks")
def other_weights_and_unused_convolutions_with_the_right_ones(s: Surgery) -> None:
    """Let convolutions that nothing needs carry the reference's weights."""
    rng = np.random.default_rng(0)
    for layer in s.ops("QLinearConv"):
        twin = onnx.NodeProto.FromString(layer.SerializeToString())
        twin.output[0] = f"{layer.output[0]}/unused"
        name = s.kernel(layer)
        path = s.producer(layer.input[3])
        array = s.value(name)
        other = rng.permutation(array.ravel()).reshape(array.shape)
        if path is None:
            layer.input[3] = s.constant(other)
        elif path.op_type == "Tile":
            layer.input[3] = s.add("Tile", [s.constant(other), path.input[1]])
        else:
            layer.input[3] = s.constant(np.repeat(other[..., None], 7, -1).reshape(*other.shape[:3], -1))
        layer.name = f"{layer.name}/other"
        s.graph.node.append(twin)


def float_twin(s: Surgery, write: Callable[[str], str]) -> None:
    """Put a small float network in the place of everything, with an output of the same shape."""
    s.graph.ClearField("node")
    s.graph.ClearField("initializer")
    made = write(s.image)
    s.producer_of(made).output[0] = s.output


def small_network(s: Surgery, image: str, activation: str) -> str:
    rng = np.random.default_rng(0)

    def conv(x: str, inputs: int, outputs: int, stride: int) -> str:
        weight = s.constant(rng.normal(size=(outputs, inputs, 3, 3)) / np.sqrt(9 * inputs), np.float32)
        return s.add("Conv", [x, weight], pads=[1, 1, 1, 1], strides=[stride, stride])

    x = s.add(activation, [conv(image, 3, 8, 2)])
    x = s.add(activation, [conv(x, 8, 8, 2)])
    coarse = s.add(activation, [conv(x, 8, 8, 2)])
    maps = [
        s.add("Reshape", [conv(x, 8, 7, 1), s.constant([1, 7, 256])]),
        s.add("Reshape", [conv(coarse, 8, 7, 1), s.constant([1, 7, 64])]),
    ]
    return s.add("Concat", maps, axis=2)


register("networks", "a float network with ReLU", lambda s: float_twin(s, lambda x: small_network(s, x, "Relu")))
register("networks", "a float network with tanh", lambda s: float_twin(s, lambda x: small_network(s, x, "Tanh")))


@fraud("networks")
def a_float_network_beside_the_spiking_one(s: Surgery) -> None:
    """Run the spiking network, times zero."""
    s.at_end(lambda x: s.add("Add", [times(s, x, 0), small_network(s, s.image, "Relu")]))


@fraud("networks")
def a_float_network_that_is_chosen(s: Surgery) -> None:
    s.at_end(lambda x: s.add("Where", [s.constant(True, np.bool_), small_network(s, s.image, "Relu"), x]))


@fraud("networks")
def a_float_network_in_the_place_of_the_middle(s: Surgery) -> None:
    """Put its map where a residual stream was."""
    rng = np.random.default_rng(0)
    weight = s.constant(rng.normal(size=(8, 3, 7, 7)), np.float32)
    made = s.add("Conv", [s.image, weight], pads=[2, 2, 2, 2], strides=[4, 4])
    stream = s.add("Transpose", [s.add("Relu", [made])], perm=[0, 2, 3, 1])
    s.behind(s.additions[1].output[0], lambda _: stream, s.readers(s.additions[1].output[0]))


@fraud("networks")
def codes_never_fire(s: Surgery) -> None:
    """Clip all codes to zero: boxes depend on nothing."""
    for clip in s.clips:
        s.give(clip, 2, 0, np.uint8)


@fraud("networks")
def nothing_reads_the_image(s: Surgery) -> None:
    rewire(s.pixels, s.image, s.constant(np.full((1, 3, 64, 64), 0.5), np.float32))


@fraud("networks")
def the_output_is_constant(s: Surgery) -> None:
    numbers = s.constant(np.random.default_rng(0).uniform(0, 64, (1, 7, 320)), np.float32)
    s.at_end(lambda x: s.add("Add", [times(s, x, 0), numbers]))


@fraud("networks")
def a_table_of_answers(s: Surgery) -> None:
    """Add one of seven prepared answers, by a hash of the image."""
    total = s.add("ReduceSum", [s.image], keepdims=0)
    place = s.add("Mod", [cast(s, total, TensorProto.INT64), s.constant(7)])
    table = s.constant(np.random.default_rng(0).uniform(0, 1, (7, 1, 7, 320)), np.float32)
    chosen = s.add("Gather", [table, place], axis=0)
    s.at_end(lambda x: s.add("Add", [x, chosen]))


@fraud("networks", SAME)
def an_integer_graph_sold_as_a_spike_graph(s: Surgery) -> None:
    """Let all layers read codes; the notes say spikes."""
    for join in s.joins:
        codes = s.codes_of(join)
        s.behind(join.output[0], lambda _, codes=codes: codes, s.readers(join.output[0]))
    untile(s)
    s.drop_unused()


def untile(s: Surgery) -> None:
    """Undo the repetition of weights for planes, as the integer graph has them."""
    for layer in s.ops("QLinearConv"):
        layer.input[3] = s.kernel(layer)
        transposed = s.producer(layer.input[0])
        if attribute(layer, "group", 1) > 1 and transposed is not None:
            reshape = s.made(transposed.input[0], "Reshape")
            s.remove(reshape)
            kernel = s.value(layer.input[3]).shape[2:]
            top, left, bottom, right = attribute(layer, "pads")
            set_attribute(layer, "kernel_shape", list(kernel))
            set_attribute(layer, "pads", [top, left // 7, bottom, right // 7])
            set_attribute(layer, "strides", [attribute(layer, "strides")[0], attribute(layer, "strides")[1] // 7])
    for pad in s.ops("Pad"):
        for flat in s.readers(pad.output[0]):
            s.change_at(flat, 1, lambda a: np.array([a[0], a[1], a[2] // 7]))
    for gemm in s.gemms:
        parts = s.gemm_parts(gemm)
        rows = s.made(parts["operands"].input[0], "Reshape")
        s.change_at(rows, 1, lambda a: np.array([a[0], a[1] // 7]))
        kernel = s.kernel(gemm)
        taps, inputs, outputs = s.value(kernel).shape
        shape = s.constant([taps * inputs, outputs], np.int64)
        parts["weights"].input[0] = s.add("Reshape", [kernel, shape])


@fraud("networks", SAME)
def a_spike_graph_with_planes_in_one_layer_alone(s: Surgery) -> None:
    joins = s.joins
    for conv in s.direct[1:]:
        join = s.producer_of(s.made(conv.input[0], "Transpose").input[0])
        if join in joins:
            conv.input[0] = s.add("Transpose", [s.codes_of(join)], perm=[0, 3, 1, 2])
            conv.input[3] = s.kernel(conv)
    s.drop_unused()


@fraud("networks")
def a_layer_left_out(s: Surgery) -> None:
    """Leave a branch out of its stream."""
    add = s.additions[1]
    index = first(i for i in (0, 1) if s.potential(add.input[i]))
    s.remove(add, add.input[1 - index])
    s.drop_unused()


@fraud("networks")
def two_layers_in_the_wrong_order(s: Surgery) -> None:
    """Exchange kernels, scales and biases of two layers of one shape."""
    one = s.direct[-1]
    shape = s.value(s.kernel(one)).shape
    two = first(n for n in s.direct[:-1] if s.value(s.kernel(n)).shape == shape)
    for i in (3, 4, 8):
        one.input[i], two.input[i] = two.input[i], one.input[i]


@fraud("networks")
def a_layer_twice(s: Surgery) -> None:
    """Add the last branch twice."""
    add = s.additions[-1]
    branch = first(i for i in add.input if s.potential(i))
    s.behind(add.output[0], lambda x: s.add("Add", [x, branch]))


@fraud("networks")
def an_ensemble(s: Surgery) -> None:
    """Return the mean for the image and its mirror image, by a copy of all nodes."""
    mirror = s.add("Slice", [s.image, s.constant([-1]), s.constant([-999]), s.constant([3]), s.constant([-1])])
    names = {o for n in s.graph.node for o in n.output}
    for node in [n for n in s.graph.node if n.op_type != "Slice" or n.output[0] != mirror]:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = f"mirror/{node.name}"
        for i, name in enumerate(copy.input):
            copy.input[i] = mirror if name == s.image else f"mirror/{name}" if name in names else name
        for i, name in enumerate(copy.output):
            copy.output[i] = f"mirror/{name}"
        s.graph.node.append(copy)
    other = f"mirror/{s.output}"
    s.at_end(lambda x: times(s, s.add("Add", [x, other]), 0.5))
