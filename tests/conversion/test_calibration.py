"""Ranges of neurons from data."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikeyolo.conversion.calibration import Potentials, Ranges, choose_range, fit, observe
from spikeyolo.neurons.integer import IBRALIF


@given(
    low=st.one_of(st.just(0.0), st.floats(-100, -1e-3)),
    high=st.one_of(st.just(0.0), st.floats(1e-3, 100)),
    bits=st.integers(2, 16),
    shift=st.booleans(),
)
def test_a_fitted_range_holds_its_ends_in_the_finest_steps(low, high, bits, shift):
    D, N, rest = fit(low, high, bits, shift=shift)
    neuron = IBRALIF(D, N, rest=rest)
    assert 2**bits - 1 == neuron.D_N
    assert (rest == 0) == (low == 0)
    assert rest.bit_count() <= 1  # one spike at rest
    if low or high:
        assert -rest / N <= low * (1 - 1e-9)
        assert (neuron.D_N - rest) / N >= high * (1 - 1e-9)
        finer = 2 * N if shift else 1.001 * N  # no other rest code allows it
        rests = [1 << i for i in range(bits)] if low else [0]
        assert not any(r <= 2**bits - 2 and r >= -low * finer and 2**bits - 1 - r >= high * finer for r in rests)
    if shift and (low or high):
        assert math.log2(N) == int(math.log2(N))


def potentials(x):
    return Potentials(min(0.0, float(x.min())), max(0.0, float(x.max())), x.astype(np.float32))


def test_a_percentile_clips_what_is_beyond_it():
    x = np.arange(1000, dtype=np.float32) / 1000
    D, N, rest = choose_range(potentials(x), 4, percentile=90)
    assert rest == 0
    assert pytest.approx(np.percentile(x, 90)) == D
    assert pytest.approx(15) == D * N
    assert choose_range(potentials(x), 4, percentile=100)[0] == pytest.approx(0.999)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_least_squares_range_is_the_best_of_many(bits):
    rng = np.random.default_rng(0)
    for x in (np.abs(rng.laplace(size=4000)), rng.laplace(size=4000), rng.normal(3, 1, 4000)):
        found = potentials(x)

        def error(numbers, sample=found.sample):
            neuron = IBRALIF(numbers[0], numbers[1], rest=numbers[2])
            spikes = neuron(torch.from_numpy(sample)).numpy()  # the neuron itself, not the formula of calibration
            return float(np.square(spikes - sample, dtype=np.float64).mean())

        best = error(choose_range(found, bits))
        for share in (1, 0.8, 0.5, 0.3, 0.1, 0.05):
            assert best <= error(fit(found.low * share, found.high * share, bits)) * 1.15


def test_neurons_pass_on_what_the_ann_had():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), IBRALIF(), nn.Conv2d(4, 2, 1), IBRALIF(D=1, N=1))
    images = [torch.rand(2, 3, 8, 8) for _ in range(3)]
    with torch.no_grad():
        expected = [layers[2](torch.relu(layers[0](x))) for x in images]
    seen = []
    found = observe(layers, lambda x: seen.append(layers(x)), images, torch.relu)
    assert all(torch.allclose(a, torch.relu(b)) for a, b in zip(seen, expected, strict=True))
    assert list(found) == ["1", "3"]
    assert found["3"].high == pytest.approx(float(torch.cat(expected).max().clamp(min=0)))
    assert found["3"].low == 0  # of what the ANN has there
    assert not layers[1]._forward_hooks
    with pytest.raises(ValueError, match="the neuron 1 reads nan"):
        observe(layers, layers, [torch.full((1, 3, 8, 8), math.nan)], torch.relu)


def test_calibration_is_the_same_each_time():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), IBRALIF())
    images = [torch.rand(2, 3, 40, 40)]
    a, b = (observe(layers, layers, images, nn.Identity()) for _ in range(2))
    assert np.array_equal(a["1"].sample, b["1"].sample)
    assert a["1"].low < 0 < a["1"].high


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"bits": 17}, "bits must be a whole number from 1 to 16, got bits=17"),
        ({"bits": -1}, "bits must be"),
        ({"percentile": 50}, "percentile must be above 50"),
        ({"percentile": 100.1}, "at most 100"),
        ({"percentile": 99, "per_layer": False}, "leave D, N and per_layer=False away"),
        ({"N": 100}, "N needs D"),
        ({"D": -1}, "N needs D"),
        ({"D": 5.11, "N": 99}, r"D \* N must be whole"),
        ({"D": 5.11, "N": 100, "bits": 9}, "leave bits=9 away"),
        ({"D": 5.11, "percentile": 99.0}, "leave D, N and per_layer=False away"),
    ],
)
def test_impossible_ranges_are_named(numbers, message):
    with pytest.raises(ValueError, match=message):
        Ranges(**numbers)


def test_one_range_is_the_papers():
    found = {"a": potentials(np.linspace(0, 9, 100)), "b": potentials(np.linspace(0, 0.1, 100))}
    nine = Ranges(per_layer=False, bits=9).choose(found)
    assert nine["a"] == nine["b"] == pytest.approx([5.11, 100, 0])
    assert Ranges(D=5.11, N=100).choose(found)["a"] == [5.11, 100, 0]
    assert Ranges(D=2, bits=4).choose(found)["b"] == [2, 7.5, 0]
    own = Ranges(bits=4).choose(found)
    assert own["a"][0] > 50 * own["b"][0]
    assert Ranges(D=5.11, N=100).planes == 9
