import math
import runpy
from collections import Counter
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeyolo.neurons.coding import entropy, from_planes, from_unary, spike_rates, to_planes, to_unary


def test_states_its_arithmetic():
    codes = torch.tensor([0, 1, 6, 511])  # 6 = 4 + 2
    planes = to_planes(codes, 9)
    assert planes[:, 2].int().tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert planes[:, 3].all()
    assert to_unary(torch.tensor([0, 3]), 4).int().T.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    assert spike_rates(to_planes(torch.tensor([1, 3, 0, 0]), 2)).tolist() == [0.5, 0.25]


@given(st.integers(1, 22), st.integers(0, 2**31))
def test_binary_planes_round_trip(planes, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**planes, (2, 3, 4, 5), generator=generator)
    split = to_planes(codes.float(), planes)
    assert split.dtype == torch.bool
    assert split.shape == (planes, 2, 3, 4, 5)
    assert torch.equal(from_planes(split), codes)
    assert torch.equal(sum(2**b * p.long() for b, p in enumerate(split)), codes)


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_unary_planes_round_trip(D_N, seed):
    codes = torch.randint(0, D_N + 1, (2, 7), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(from_unary(to_unary(codes, D_N)), codes)


@pytest.mark.parametrize("codes", [torch.tensor([8]), torch.tensor([-1]), torch.tensor([0.5])])
def test_refuses_what_is_no_code(codes):
    with pytest.raises(ValueError, match="codes"):
        to_planes(codes, 3)
    with pytest.raises(ValueError, match="codes"):
        to_unary(codes, 7)


def test_entropy_table_is_that_of_a_normal_potential():
    table = runpy.run_path(str(Path(__file__).parents[2] / "tools/studies/entropy_table.py"))
    v = NormalDist().samples(400_000, seed=1)
    for (i, f), printed in table["TABLE_1"].items():
        counts = Counter(min(max(math.floor(2**f * x / 0.6), 0), 2 ** (i + f) - 1) for x in v)
        ours = table["normal_entropy"](i, f)
        assert ours == pytest.approx(entropy(list(counts.values())), abs=5e-3)
        assert (abs(ours - printed) < 1e-3) == ((i, f) == (1, 0))  # as docs/energy.md says


def test_empty_tensors_have_no_spikes():
    assert to_planes(torch.zeros(0, 4), 3).shape == (3, 0, 4)
