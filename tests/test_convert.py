"""The network computes what the official SpikeYOLO computes: `tests/vectors`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spikeyolo.convert import from_official_state_dict, official_name

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="module", params=[1, 2])
def reference(request):
    with np.load(VECTORS / f"official_t{request.param}.npz") as data:
        return request.param, {k: torch.from_numpy(v) for k, v in data.items()}


def state(vectors):
    return {k.removeprefix("state/"): v for k, v in vectors.items() if k.startswith("state/")}


def agreement(ours, theirs, scale=1.0):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs() <= 1e-4 * scale).double().mean().item()


def raw_maps(preds):
    """Split the flat predictions into the official three maps (B, 64 + nc, h, w)."""
    flat = torch.cat((preds["boxes"], preds["scores"]), 1)
    sizes = [f.shape[2:] for f in preds["feats"]]
    return [p.unflatten(2, s) for p, s in zip(flat.split([s.numel() for s in sizes], 2), sizes, strict=True)]


def test_eval_meets_the_vectors(reference):
    T, vectors = reference
    model = from_official_state_dict(state(vectors), T=T)
    layers = {}
    for i, layer in enumerate(model.model):
        layer.register_forward_hook(lambda m, x, out, i=i: layers.update({f"eval/layer{i}": out}))
    with torch.no_grad():
        decoded, preds = model(vectors["input"])
    found = {"eval/decoded": decoded, **{f"eval/raw{i}": m for i, m in enumerate(raw_maps(preds))}}
    found |= {k: v.unflatten(0, (T, -1)) for k, v in layers.items() if k in vectors}
    assert found.keys() == {k for k in vectors if k.startswith("eval/")}
    assert {k: a for k, v in found.items() if (a := agreement(v, vectors[k])) < 0.99} == {}


def test_training_meets_the_vectors(reference):
    T, vectors = reference
    model = from_official_state_dict(state(vectors), T=T).train()
    maps = raw_maps(model(vectors["input"]))
    assert all(agreement(m, vectors[f"train/raw{i}"]) >= 0.99 for i, m in enumerate(maps))
    loss = sum(m.square().mean() for m in maps)
    torch.testing.assert_close(loss, vectors["train/loss"], rtol=1e-5, atol=0)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    prefix = "train/grad/"
    wanted = {official_name(k.removeprefix(prefix)): v for k, v in vectors.items() if k.startswith(prefix)}
    assert len(wanted) > 100
    # Gradients reach 400, where float32 resolves 3e-5, and the bias in front of a BatchNorm has none but rounding
    # noise: the bound grows with the largest gradient of the layer.
    largest = {}
    for n, v in wanted.items():
        layer = n.split(".")[1]
        largest[layer] = max(largest.get(layer, 1.0), v.abs().max().item())
    shares = {n: agreement(gradients[n], v, scale=largest[n.split(".")[1]]) for n, v in wanted.items()}
    assert {n: s for n, s in shares.items() if s < 0.99} == {}


def test_sizes_are_read_off_the_tensors(reference):
    T, vectors = reference
    model = from_official_state_dict(state(vectors), T=T)
    assert model.yaml["nc"] == 3
    assert model.model[1].conv.out_channels == 8
    assert [len(model.model[i]) for i in (4, 6)] == [2, 3]
    assert not model.training
    assert model.yaml["neuron"] == {"type": "i-lif", "D": 4, "N": 1, "T": T, "decay": 0.25}


def test_every_official_name_has_its_own_place(reference):
    names = [official_name(k) for k in state(reference[1])]
    assert len(set(names)) == len(names)


def test_foreign_state_dicts_are_named(reference):
    tensors = state(reference[1])
    with pytest.raises(ValueError, match=r"lacks model\.1\.conv\.weight"):
        from_official_state_dict({"model.0.conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="lacks 1 tensors such as"):
        from_official_state_dict({k: v for k, v in tensors.items() if k != "model.10.bn.bias"})
    with pytest.raises(ValueError, match=r"unknown ones such as model\.99"):
        from_official_state_dict({**tensors, "model.99.bn.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"model\.10\.bn\.bias is \(5,\), \(32,\) would fit"):
        from_official_state_dict({**tensors, "model.10.bn.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match="T must be"):
        from_official_state_dict(tensors, T=0)
