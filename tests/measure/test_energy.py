import pytest
import torch
from torch import nn

from spikeyolo.measure.energy import MODELS, RIVALS, SCHEMES, estimate, find_models, schemes_of
from spikeyolo.measure.recorder import record_spikes
from spikeyolo.neurons.integer import IBRALIF

FLOAT, INT, SRAM, EVENT = (MODELS[f"45nm-{name}"] for name in ("float32", "int8", "int8-sram", "int8-event"))


def recorded(x, *layers):
    network = nn.Sequential(*layers)
    with record_spikes(network) as spikes, torch.no_grad():
        network(x)
    return spikes


def total(spikes, scheme, price):
    return estimate(spikes, scheme, price).total


@pytest.fixture
def linear():
    """Record codes 0, 1, 4 and 7 (0, 1, 1 and 3 spikes) into 5 outputs: 20 synapses, 25 synaptic operations."""
    return recorded(torch.tensor([[0.0, 1.0, 4.0, 7.0]]), IBRALIF(D=7, N=1), nn.Linear(4, 5))


def test_compute_energy_states_its_arithmetic(linear):
    energy = estimate(linear, "spikes", FLOAT)
    assert energy.synapses == pytest.approx(25 * 0.9)
    assert energy.merge == pytest.approx(5 * 2 * 0.9)  # 5 outputs of 3 planes
    assert energy.neurons == pytest.approx(4 * 0.9)
    assert (energy.real, energy.memory) == (0, 0)
    assert total(linear, "spikes", INT) == pytest.approx((25 + 10 + 4) * 0.03)
    assert total(linear, "unary", FLOAT) == pytest.approx((5 * 12 + 4) * 0.9)  # 0 + 1 + 4 + 7 spikes
    assert total(linear, "ann", FLOAT) == total(linear, "quantised", FLOAT) == pytest.approx(20 * 4.6)
    assert total(linear, "ann", INT) == pytest.approx(20 * 0.23)
    assert total(linear, "quantised", INT) == pytest.approx(20 * (0.2 * 3 / 8 + 0.03))  # 8 levels: 3 bits
    assert total(linear, "quantised-sparse", INT) == pytest.approx(15 * (0.2 * 3 / 8 + 0.03))
    assert total(linear, "published", FLOAT) == pytest.approx(20 * 0.9 * 12 / 4)
    assert total(linear, "published-planes", FLOAT) == pytest.approx(20 * 0.9 * 5 / 4)


def test_memory_energy_states_its_arithmetic(linear):
    compute = total(linear, "spikes", INT)
    # a weight per operation, 3 bits of operand per synapse
    assert total(linear, "spikes", SRAM) == pytest.approx(compute + 1.25 * (25 + 20 * 3 / 8))
    # a weight and 8 bytes of potential per operation, each code once
    assert total(linear, "spikes", EVENT) == pytest.approx(compute + 1.25 * (25 * 9 + 4 * 3 / 8))
    for price in (SRAM, EVENT):
        assert total(linear, "ann", price) == pytest.approx(20 * 0.23 + 1.25 * (20 + 20))
        assert total(linear, "quantised-sparse", price) == pytest.approx(15 * 0.105 + 1.25 * (15 + 20 * 3 / 8))
        assert "published" not in schemes_of(linear, price)


def test_timesteps_run_the_spiking_network_again_but_no_twin():
    x = torch.tensor([[0.0, 1.0, 4.0, 7.0]])
    once = recorded(x, IBRALIF(D=7, N=1), nn.Linear(4, 5))
    twice = recorded(x.repeat(2, 1), IBRALIF(D=7, N=1, T=2, decay=0), nn.Linear(4, 5))
    assert (once.images, twice.images) == (1, 1)
    a, b = (estimate(s, "spikes", FLOAT) for s in (once, twice))
    assert (b.synapses, b.merge) == (pytest.approx(2 * a.synapses), pytest.approx(2 * a.merge))
    assert b.neurons == pytest.approx(2 * a.neurons + 4 * (4.6 + 0.9))  # leak and reset in the second timestep
    assert total(once, "ann", FLOAT) == pytest.approx(total(twice, "ann", FLOAT))
    assert total(twice, "quantised", INT) == pytest.approx(20 * (0.2 * 4 / 8 + 0.03))  # 15 levels: 4 bits, one pass


def test_stem_and_ann_multiply():
    stem = recorded(torch.ones(1, 1, 1, 2), nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1))
    assert list(schemes_of(stem, INT)) == ["ann", "ann-sparse"]
    assert estimate(stem, "ann", FLOAT).real == pytest.approx((6 + 6) * 4.6)
    nonzero = 6 + stem.layers["2"].nonzero_synops
    assert estimate(stem, "ann-sparse", INT).total == pytest.approx(nonzero * 0.23)
    first = recorded(torch.ones(2, 1, 1, 2), nn.Conv2d(1, 3, 1), IBRALIF(T=2), nn.Conv2d(3, 1, 1))
    assert estimate(first, "spikes", FLOAT).real == pytest.approx(2 * 6 * 4.6)  # it runs in both timesteps
    assert estimate(first, "ann", FLOAT).real == pytest.approx(6 * 4.6)


def test_energy_is_per_image():
    layers = IBRALIF(), nn.Conv2d(2, 3, 3, padding=1)
    x = torch.rand(1, 2, 6, 6)
    one, four = recorded(x, *layers), recorded(x.repeat(4, 1, 1, 1), *layers)
    for scheme in SCHEMES:
        assert total(one, scheme, INT) == pytest.approx(total(four, scheme, INT))
    assert set(RIVALS) < set(SCHEMES)


def test_presets():
    assert find_models("") == list(MODELS.values())
    assert [model.name for model in find_models("45nm-int8, 45nm-float32")] == ["45nm-int8", "45nm-float32"]
    assert all("Horowitz" in model.source for model in MODELS.values())
    with pytest.raises(ValueError, match="unknown preset 7nm; presets are 45nm-float32, "):
        find_models("45nm-int8,7nm")
