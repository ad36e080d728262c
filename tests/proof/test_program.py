"""Programs: one term is one function, another function is another term; the evaluator is held against PyTorch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from spikeyolo.proof.claims import worst_sum
from spikeyolo.proof.evaluator import evaluate
from spikeyolo.proof.grammar import HANDLERS, power_of_two
from spikeyolo.proof.layout import Map, reshaped
from spikeyolo.proof.onnx_reader import Refused
from spikeyolo.proof.program import Program, difference

SEEDS = st.integers(0, 2**32 - 1)


def value(term, image):
    """Return what a term is on an image."""
    return next(found for t, found in evaluate([term], image, 18) if t is term)


def image_of(program, rng, size):
    """Return the image's term, and an image."""
    pixels = rng.integers(0, 256, (2, 3, *size)).astype(np.float32) / np.float32(255)
    return program.term("image", shape=(None, 3, size)), pixels


def convolution(program, operand, rng, outputs=4, **changed):
    """Return a random convolution."""
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1} | changed
    weight = rng.integers(-8, 8, (outputs, operand.channels // geometry["groups"], 3, 3))
    return program.sum(operand, weight.astype(np.int8), rng.integers(-99, 99, outputs).astype(np.int32), **geometry)


@given(SEEDS, st.sampled_from([(1, 1), (2, 1), (2, 3)]), st.sampled_from([(0, 0), (1, 2)]), st.sampled_from([1, 2]))
def test_sums_are_those_of_pytorch(seed, stride, padding, dilation):
    rng, p = np.random.default_rng(seed), Program()
    image, pixels = image_of(p, rng, (9, 11))
    weight, bias = rng.integers(-127, 128, (6, 3, 3, 2)), rng.integers(-(2**20), 2**20, 6)
    total = p.sum(
        p.pixels(image),
        weight.astype(np.int8),
        bias.astype(np.int32),
        stride=stride,
        padding=padding,
        dilation=(dilation, 1),
        groups=1,
    )
    operand = torch.from_numpy(np.round(pixels.astype(np.float64) * 255))
    weights = [torch.from_numpy(n).double() for n in (weight, bias)]
    expected = F.conv2d(operand, *weights, stride=stride, padding=padding, dilation=(dilation, 1))
    found = value(total, pixels)
    assert np.array_equal(found, expected.numpy())
    assert total.size == found.shape[2:]
    assert (np.abs(found).max((0, 2, 3)) <= worst_sum(total)).all()


@given(SEEDS, st.sampled_from([0, 3]), st.sampled_from([1, 4]))
def test_a_neuron_commutes_with_what_moves_numbers(seed, rest, T):
    """Codes of a joined, repeated or pooled potential are the joined, repeated or pooled codes, and one term."""
    rng, p = np.random.default_rng(seed), Program()
    image, pixels = image_of(p, rng, (6, 8))
    pixels = np.repeat(pixels, T, 0)
    a, b = (p.branch(convolution(p, p.pixels(image), rng), np.full(4, 2**-8), np.full(4, s)) for s in (0.5, 2.0))
    more = {"T": T, "decay": 0.25, "exponent": -3} if T > 1 else {}
    facts = {"rest": rest, "largest": 31, **more}
    pool = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    cases = [("Concat", (a, b), {"axis": 1}), ("Resize", (a,), {"scales": (2, 3)})]
    cases += [("MaxPool", (a,), pool)] if T == 1 else []
    for op, inputs, how in cases:
        moved = p.move(op, *inputs, **how)
        one = p.neuron(moved, 0.5, **facts)
        other = p.move(op, *(p.neuron(x, 0.5, **facts) for x in inputs), **how)
        assert one is other
        naive = p.term("neuron", moved, shape=(31, None, None), scale=0.5, **facts)  # without the law
        assert np.array_equal(value(one, pixels), value(naive, pixels))
        assert value(one, pixels).max() <= one.largest


def test_a_neuron_of_several_timesteps_is_not_moved_past_a_pooling():
    p = Program()
    image = p.term("image", shape=(None, 3, (8, 8)))
    total = convolution(p, p.pixels(image), np.random.default_rng(0))
    pooled = p.move(
        "MaxPool", p.potential(total, np.ones(4)), kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1)
    )
    assert p.neuron(pooled, 1.0, rest=0, largest=7, T=2, decay=0.25, exponent=0).op == "neuron"
    relu = p.term("Relu", p.potential(total, np.ones(4)), shape=(None, 4, (8, 8)), attributes=())
    assert p.neuron(relu, 1.0, rest=0, largest=7).op == "codes"  # no code is below 0
    assert p.neuron(relu, 1.0, rest=2, largest=7).op == "neuron"  # codes 0 and 1 are


@given(SEEDS, st.sampled_from([0.5, 1.0, 0.3]))
def test_codes_of_a_sum_are_those_of_its_potential(seed, scale):
    rng, p = np.random.default_rng(seed), Program()
    image, pixels = image_of(p, rng, (6, 8))
    total = convolution(p, p.pixels(image), rng)
    step = 2.0 ** rng.integers(-9, 0, 4)
    u = p.potential(total, step)
    found = p.neuron(u, scale, rest=1, largest=63)
    assert found.op == "codes"
    naive = p.term("neuron", u, shape=(63, None, None), scale=float(np.float32(scale)), rest=1, largest=63)
    assert np.array_equal(value(found, pixels), value(naive, pixels))
    assert p.ceiling(p.neuron(u, scale, rest=1, largest=255), 63) is found


@given(SEEDS)
def test_zeros_around_a_kernel_and_steps_not_taken_are_no_facts(seed):
    rng, p = np.random.default_rng(seed), Program()
    image, pixels = image_of(p, rng, (8, 8))
    weight, bias = rng.integers(-8, 8, (4, 3, 3, 3)).astype(np.int8), np.zeros(4, np.int32)
    weight[..., 2, 2] = 1
    geometry = {"stride": (4, 4), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    grown = np.pad(weight, [(0, 0), (0, 0), (0, 1), (0, 1)])
    one = p.sum(p.pixels(image), weight, bias, **geometry)
    assert p.sum(p.pixels(image), grown, bias, size=(2, 2), **geometry) is one
    naive = F.conv2d(*(torch.from_numpy(x).double() for x in (np.round(pixels * 255), weight)), stride=4, padding=1)
    assert np.array_equal(value(one, pixels), naive.numpy())
    whole = p.sum(p.pixels(image), weight, bias, **geometry | {"stride": (9, 9)})
    assert whole is p.sum(p.pixels(image), weight, bias, **geometry | {"stride": (8, 8)})  # one place alone
    assert whole is not one


CHANGES = {
    "weight": lambda w, b, g: (w ^ (np.arange(w.size).reshape(w.shape) == 5).astype(np.int8), b, g),
    "bias": lambda w, b, g: (w, b + 1, g),
    "stride": lambda w, b, g: (w, b, g | {"stride": (2, 1)}),
    "padding": lambda w, b, g: (w, b, g | {"padding": (0, 1)}),
    "dilation": lambda w, b, g: (w, b, g | {"dilation": (1, 2)}),
    "rest": lambda w, b, g: (w, b, g | {"rest": 1}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_differs_is_another_term_and_is_named(what):
    p = Program()
    image = p.term("image", shape=(None, 3, (9, 9)))
    weight, bias = np.ones((4, 3, 3, 3), np.int8), np.zeros(4, np.int32)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    changed_weight, changed_bias, changed = CHANGES[what](weight, bias, geometry)
    terms = [p.sum(p.pixels(image), weight, bias, **geometry)]
    terms.append(p.sum(p.pixels(image), changed_weight, changed_bias, **changed))
    outer = [p.neuron(p.potential(t, np.ones(4)), 1.0, rest=0, largest=127) for t in terms]
    assert outer[0] is not outer[1]
    ours, theirs, how = difference(*outer)
    assert (ours, theirs) == tuple(terms)
    assert what in how


def test_a_shared_part_is_walked_once():
    """Of 60 additions of a term to itself there are 61 terms, not 2^60."""
    p = Program()
    term = p.term("image", shape=(None, 3, (4, 4)))
    for _ in range(60):
        term = p.term("Add", term, term, shape=(None, 3, (4, 4)), attributes=())
    assert len(list(term.walk())) == 61
    assert value(term, np.ones((1, 3, 4, 4), np.float32)).max() == 2.0**60


@given(SEEDS, st.floats(0.05, 0.95))
def test_timesteps_leak_and_reset(seed, decay):
    """The evaluator's neuron against the equations, number by number in Python."""
    rng, p = np.random.default_rng(seed), Program()
    image = p.term("image", shape=(None, 1, (2, 2)))
    decay = float(np.float32(decay))
    neuron = p.neuron(image, 0.5, rest=0, largest=15, T=3, decay=decay, exponent=-4)
    currents = (rng.integers(-64, 256, (3, 1, 2, 2)) / 16).astype(np.float32)
    found = value(neuron, currents)
    for place in np.ndindex(2, 2):
        left = 0.0
        for t in range(3):
            u = float(currents[(t, 0, *place)]) + left
            k = min(max(round(u * 0.5), 0), 15)
            assert found[(t, 0, *place)] == k
            left = round(float(np.float32(np.float32(u - k / 0.5) * np.float32(decay))) * 16) / 16


def test_worst_sums_are_reached():
    p = Program()
    image = p.term("image", shape=(None, 1, (1, 1)))
    codes = p.term("neuron", image, shape=(5, 1, (1, 1)), scale=1.0, rest=0, largest=5)  # three planes: up to 7
    weight = np.array([3, -4, 5, -1]).reshape(4, 1, 1, 1).astype(np.int8)
    total = p.sum(codes, weight, np.full(4, -9, np.int32), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    assert worst_sum(total).tolist() == [3 * 7 + 9, 4 * 7 + 9, 5 * 7 + 9, 1 * 7 + 9]
    assert math.isclose(worst_sum(total)[0], 30)


def test_a_clip_is_part_of_a_neuron_of_one_timestep_alone():
    """One that resets by what it has emitted, or codes that were moved apart, are another function with a clip."""
    p = Program()
    image = p.term("image", shape=(None, 3, (8, 8)))
    u = p.potential(convolution(p, p.pixels(image), np.random.default_rng(0)), np.ones(4))
    two = p.neuron(u, 1.0, rest=0, largest=255, T=2, decay=0.25, exponent=0)
    part = p.term("Split", p.neuron(u, 1.0, rest=0, largest=255), shape=(255, 2, (8, 8)), axis=1, sizes=(2, 2), index=0)
    for codes in (p.pixels(image), two, part, p.move("Concat", two, two, axis=1)):
        with pytest.raises(ValueError, match="no part of one neuron"):
            p.ceiling(codes, 100)


@pytest.mark.parametrize("step", [2.0**65, 2.0**124, np.inf, 0.75, 0.0, -1.0, 2.0**-127])
def test_steps_with_which_float32_overflows_are_refused(step):
    """2^124 * 2^24 is infinite, whatever it is scaled by thereafter."""
    with pytest.raises(Refused, match="step"):
        power_of_two(np.array([1.0, step], np.float64))
    assert power_of_two(np.array([2.0**64, 2.0**-126])).tolist() == [2.0**64, 2.0**-126]


def test_channels_in_groups_come_back_as_planes_alone():
    p = Program()
    codes = Map(p.pixels(p.term("image", shape=(None, 3, (8, 8)))), last=True)
    four = replace(codes, term=p.move("Concat", codes.term, codes.term, axis=1))
    grouped = reshaped(four, [0, 0, 0, 2, 3])
    assert grouped == replace(four, view="groups", groups=2)
    assert reshaped(grouped, [0, 0, 0, -1]) is None
    planes = replace(grouped, planes=8)
    assert reshaped(planes, [0, 0, 0, -1]) == replace(planes, view="")
    assert HANDLERS["Pad"] == ("_pad", 3, 3)  # a fourth input says which sides
