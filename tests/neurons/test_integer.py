import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikeyolo.neurons.config import TYPES, NeuronConfig
from spikeyolo.neurons.equations import MAX_D_N, Dynamics, fire
from spikeyolo.neurons.integer import IBRALIF


def textbook(x, D, N, T, decay):
    """Run the recurrent equation step by step; autograd does the straight-through gradient."""
    D_N = round(D * N)
    v = o = torch.zeros_like(x[: len(x) // T])
    out = []
    for t in range(T):
        v = decay * (v - o.detach()) + x[t * len(v) : (t + 1) * len(v)]
        o = torch.clamp(v, 0, D)
        o = o + (torch.clamp(torch.round(v * N), 0, D_N) / N - o).detach()
        out.append(o)
    return torch.cat(out)


def test_states_its_arithmetic():
    x = torch.tensor([[1.5], [0.5], [0.5]])  # v = 1.5, 0.25 * (1.5 - 2) + 0.5 = 0.375, 0.25 * 0.375 + 0.5 = 0.59375
    assert IBRALIF(D=4, N=1, T=3, decay=0.25)(x).flatten().tolist() == [2, 0, 1]


def test_rounds_halves_to_even_and_clips():
    v = torch.tensor([-1.0, -0.5, 0.5, 1.5, 2.5, 3.5, 4.49, 4.51, 99.0])
    assert fire(v, Dynamics(1, 4)).tolist() == [0, 0, 0, 2, 2, 4, 4, 4, 4]


def test_lif_fires_above_one_half():
    v = torch.tensor([0.49, 0.51, 7.0])
    assert NeuronConfig.preset("lif")()(v).tolist() == [0, 1, 1]


def test_default_is_ibra_lif_with_nine_planes():
    neuron = IBRALIF()
    assert (neuron.D, neuron.N, neuron.D_N, neuron.planes) == (5.11, 100, 511, 9)
    assert (neuron(torch.tensor([0.237, 9.0])) * 100).round().tolist() == [24, 511]


numbers = st.one_of(
    st.sampled_from([(5.11, 100.0), (4.0, 1.0), (1.0, 1.0), (511.0, 1.0), (0.875, 8.0), (2.5, 2.0)]),
    st.tuples(st.integers(1, 65535), st.integers(1, 512)).map(lambda p: (p[0] / p[1], float(p[1]))),
)


@given(numbers, st.integers(1, 4), st.floats(0, 1), st.integers(0, 2**31))
def test_matches_the_textbook_loop_forward_and_backward(number, T, decay, seed):
    D, N = number
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T * 2, 3, 4, 5, generator=generator, dtype=torch.float64) * D
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, reference = IBRALIF(D, N, T=T, decay=decay)(a), textbook(b, D, N, T, decay)
    (ours * weight).sum().backward()
    (reference * weight).sum().backward()
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(IBRALIF(D, N, T=T, decay=decay)(a), ours)  # the path without gradients


@given(st.integers(1, MAX_D_N), st.sampled_from([1.0, 3.0, 100.0, 1024.0]), st.integers(0, 2**31))
def test_codes_are_exact_in_float32_at_every_code(D_N, N, seed):
    neuron = IBRALIF(D_N / N, N)
    generator = torch.Generator().manual_seed(seed)
    k = torch.randint(0, D_N + 1, (64,), generator=generator).double()
    x = (k / N).float()
    for result in (neuron(x), neuron(x.requires_grad_())):
        assert torch.equal((result.double() * N).round(), k)
    top = torch.tensor([D_N / N * 1.01, 1e30, float("inf")], requires_grad=True)
    assert (neuron(top).double() * N).round().tolist() == [D_N] * 3


def test_gradient_window_includes_both_ends():
    D = 5.11
    edge = torch.tensor(D)  # the float32 that stands for D
    v = torch.tensor([-1e-6, 0.0, 1.0, edge, torch.nextafter(edge, torch.tensor(9.0)), float("nan")])
    v.requires_grad_()
    IBRALIF(D, 100)(v).sum().backward()
    assert v.grad.tolist() == [0, 1, 1, 1, 0, 0]


def test_reset_carries_no_gradient():
    x = torch.tensor([[1.0], [0.25]], requires_grad=True)  # v[1] = 0.5 * (1.0 - 1.0) + 0.25
    IBRALIF(4, 2, T=2, decay=0.5)(x)[1].sum().backward()
    assert x.grad.tolist() == [[0.5], [1.0]]  # decay * dv[1]/dv[0], without the -o[0] term


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("T", [1, 2])
def test_exact_under_autocast(dtype, T):
    neuron = IBRALIF(T=T)
    x = (torch.rand(4, 8, 6, 6) * 6).to(dtype)
    codes = (textbook(x.float(), 5.11, 100, T, 0.25).double() * 100).round()
    for requires_grad in (False, True):
        with torch.autocast("cpu", dtype):
            out = neuron(x.clone().requires_grad_(requires_grad))
        assert out.dtype == (dtype if neuron.fits(dtype) else torch.float32)
        assert torch.equal((out.double() * 100).round(), codes)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 1023), (torch.bfloat16, 127)])
@pytest.mark.parametrize("N", [1, 100, 64])
def test_fits_says_whether_a_dtype_tells_the_codes_apart(dtype, most, N):
    k = torch.arange(most + 1).double()
    assert torch.equal(((k / N).to(dtype).double() * N).round(), k)
    assert IBRALIF(most / N, N).fits(dtype)
    assert not IBRALIF((most + 1) / N, N).fits(dtype)
    assert not IBRALIF(1 / 2**20, 2**20).fits(torch.float16)  # below its normal numbers
    assert not IBRALIF(70000, 1 / 70000).fits(torch.float16)  # above its largest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_dtype_of_a_converted_model(dtype):
    x = torch.rand(2, 3, 4, 4, dtype=dtype) * 6
    assert IBRALIF()(x).dtype == dtype
    grown = x.clone().requires_grad_()
    IBRALIF()(grown).sum().backward()
    assert grown.grad.dtype == dtype


@pytest.mark.parametrize("T", [1, 2])
def test_keeps_channels_last(T):
    x = torch.randn(4, 8, 6, 6)
    last = x.to(memory_format=torch.channels_last)
    for requires_grad in (False, True):
        out = IBRALIF(T=T)(last.clone().requires_grad_(requires_grad))
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(out, IBRALIF(T=T)(x))


def test_saves_one_byte_per_element_for_backward():
    saved = []
    x = torch.randn(4, 8, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        IBRALIF(T=2)(x)
    assert sum(t.numel() * t.element_size() for t in saved) == x.numel()


def test_keeps_no_state():
    neuron = IBRALIF(T=2)
    x = torch.randn(4, 3, requires_grad=True)
    first = neuron(x)
    for twin in (neuron, copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(twin(x), first)
    assert not neuron.state_dict()


def test_compiles():
    neuron = IBRALIF(T=2)
    x = torch.randn(4, 3, 8, 8)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    compiled = torch.compile(neuron, backend="aot_eager", fullgraph=True)
    compiled(a).square().sum().backward()
    neuron(b).square().sum().backward()
    assert torch.equal(a.grad, b.grad)


def test_refuses_a_batch_that_T_does_not_divide():
    with pytest.raises(ValueError, match="batch of 3 is not a multiple of T=2"):
        IBRALIF(T=2)(torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"D": 5.1, "N": 99}, r"D \* N must be whole.*5\.1 \* 99.*try D=5\.1010"),
        ({"D": 0.001, "N": 100}, r"whole and >= 1.*try D=0\.01"),
        ({"D": -1, "N": 1}, "positive"),
        ({"D": 1, "N": 0}, "positive"),
        ({"D": 2.0**23, "N": 1}, "at most"),
        ({"D": float("nan"), "N": 1}, "D must be a number, got nan"),
        ({"D": "4", "N": 1}, "D must be a number, got '4'"),
        ({"T": 0}, "T must be a whole number of timesteps >= 1, got 0"),
        ({"T": 1.5}, "got 1.5"),
        ({"T": True}, "T must be a number"),
        ({"decay": 2}, "decay must lie between 0 and 1, got 2"),
        ({"decay": -0.1}, "between 0 and 1"),
    ],
)
def test_bad_numbers_fail_at_construction(numbers, message):
    with pytest.raises(ValueError, match=message):
        IBRALIF(**numbers)


@pytest.mark.parametrize("name", TYPES)
def test_presets_make_neurons(name):
    config = NeuronConfig.preset(name)
    assert isinstance(config(), IBRALIF) == config.spiking == (name not in ("relu", "silu"))
    assert NeuronConfig.from_mapping(config.to_mapping()) == config


def test_twins_are_activations():
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(NeuronConfig(type="relu")()(x), nn.ReLU()(x))
    assert torch.equal(NeuronConfig(type="silu")()(x), nn.SiLU()(x))
    assert not NeuronConfig(type="relu").spiking


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (None, "neuron: must be a mapping such as neuron: {type: ibra-lif, D: 5.11, N: 100"),
        ({"D": 4}, "must be a mapping"),
        ({"type": "plif"}, f"unknown neuron type 'plif'; types are {', '.join(TYPES)}"),
        ({"type": "ibra-lif", "D": 5.11, "N": 100, "tau": 2}, "has no key tau; its keys are type, D, N, T, decay"),
        ({"type": "ibra-lif"}, "lacks D and N; write neuron: {type: ibra-lif, D: 5.11, N: 100"),
        ({"type": "i-lif", "N": 1}, "lacks D"),
        ({"type": "ibra-lif", "D": None, "N": 100}, "lacks D"),
        ({"type": "lif", "D": 2, "N": 1}, "neuron type lif has D = 1, got D=2"),
        ({"type": "i-lif", "D": 4, "N": 2}, "neuron type i-lif has N = 1, got N=2"),
        ({"type": "relu", "D": 4}, "neuron type relu has no key D; its keys are type"),
        ({"type": "silu", "T": 2}, "an ANN twin has T = 1, .* got silu with T=2"),
        ({"type": "ibra-lif", "D": 5.1, "N": 99}, "whole"),
        ({"type": ["lif"]}, "unknown neuron type"),
    ],
)
def test_bad_mappings_are_named(mapping, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        NeuronConfig.from_mapping(mapping)


@pytest.mark.parametrize("rest", [1, 4, 8])
def test_a_neuron_that_rests_above_zero_reads_both_sides(rest):
    neuron = IBRALIF(D=1.5, N=10, rest=rest)
    v = torch.linspace(-3, 3, 607).view(1, -1) + 0.0013  # no ties
    codes = ((v * 10).round() + rest).clamp(0, 15)
    expected = (codes - rest) / 10
    assert torch.allclose(neuron(v), expected, atol=1e-6)
    x = v.clone().requires_grad_()
    out = neuron(x)
    assert torch.allclose(out, expected, atol=1e-6)
    out.sum().backward()
    inside = (v > -rest / 10 + 1e-6) & (v < (15 - rest) / 10 - 1e-6)
    outside = (v < -rest / 10 - 1e-6) | (v > (15 - rest) / 10 + 1e-6)
    assert (x.grad[inside] == 1).all()
    assert (x.grad[outside] == 0).all()
    assert neuron(torch.zeros(1, 1)).item() == 0  # exactly: padding with zeros stays padding with zeros
    assert f"rest={rest}" in repr(neuron)


def test_wrong_rests_are_named():
    with pytest.raises(ValueError, match=r"rest must be a whole code from 0 to D \* N - 1 = 14, got 15"):
        IBRALIF(D=1.5, N=10, rest=15)
    with pytest.raises(ValueError, match=r"got 0\.5; try rest=0"):
        IBRALIF(D=1.5, N=10, rest=0.5)
    with pytest.raises(ValueError, match="has one timestep, got T=2"):
        IBRALIF(D=1.5, N=10, rest=1, T=2)


def test_neurons_pickled_before_rest_existed_still_work():
    neuron = IBRALIF()
    del neuron.rest
    assert neuron(torch.ones(1, 1)).item() == 1


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"type": "i-lif", "ranges": {"a": [1, 1, 0]}}, "neurons with ranges: have type ibra-lif"),
        ({"type": "ibra-lif", "ranges": {"a": [1, 1]}}, r"the range of a must be \[D, N, rest\], got \[1, 1\]"),
        ({"type": "ibra-lif", "ranges": {}}, "neurons with ranges:"),
        ({"type": "ibra-lif", "D": 1, "N": 1, "activation": "gelu"}, "activation must be silu"),
        ({"type": "relu", "ranges": {"a": [1, 1, 0]}}, "an ANN twin has T = 1, no activation and no ranges"),
    ],
)
def test_wrong_ranges_are_named(mapping, message):
    with pytest.raises(ValueError, match=message):
        NeuronConfig.from_mapping(mapping)


def test_a_config_says_what_it_is():
    assert str(NeuronConfig.preset("ibra-lif")) == "ibra-lif (D 5.11, N 100, T 1, decay 0.25)"
    assert str(NeuronConfig(type="ibra-lif", ranges={"a": [1, 1, 0]})) == (
        "ibra-lif (a range per layer, T 1, decay 0.25)"
    )
    assert str(NeuronConfig.preset("relu")) == "relu"
    config = NeuronConfig.preset("ibra-lif")
    assert NeuronConfig.from_mapping(config.to_mapping()) == config
