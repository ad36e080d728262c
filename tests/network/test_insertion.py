"""Neurons in the place of an ANN's activations: the structure, and what it computes."""

import copy

import pytest
import torch
from networks import calibrated, write_small, write_stock
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import YAML

from spikeyolo.blocks.conv import NeuronConv, SpikeConv
from spikeyolo.conversion import calibration
from spikeyolo.conversion.calibration import Ranges
from spikeyolo.conversion.spiking_copy import SpikingCopy
from spikeyolo.deployment.form import emitted_codes, form_of
from spikeyolo.deployment.transform import deploy
from spikeyolo.measure.recorder import record_spikes
from spikeyolo.network.insertion import insert_neurons
from spikeyolo.network.real_valued import attention_of, real_valued
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.neurons.twins import ReLU

pytestmark = pytest.mark.usefixtures("_default_activation")
NETWORKS = {
    "relu": ("v8", "nn.ReLU()"),
    "silu": ("v8", "nn.SiLU()"),
    "leaky": ("v8", "nn.LeakyReLU(0.1)"),
    "attention": ("11", "nn.SiLU()"),
    "end2end": ("26", "nn.SiLU()"),
    "relu twin": ("relu", ""),
    "silu twin": ("silu", ""),
}


def write(folder, family, activation):
    if activation:
        return write_stock(folder / "net.yaml", family, activation)
    return write_small(folder / "net.yaml", {"type": family})


FAST = {"silu", "end2end"}
CASES = [pytest.param(case, id=n, marks=() if n in FAST else pytest.mark.slow) for n, case in NETWORKS.items()]


@pytest.fixture(params=CASES)
def ann(request, photos, tmp_path):
    return calibrated(write(tmp_path, *request.param), photos).model


def converted(ann, photos, **ranges):
    twin = SpikingCopy(ann)
    potentials = calibration.observe(twin.network.model, twin.network, [photos], twin.replaced)
    twin.set_ranges(Ranges(**ranges).choose(potentials))
    return twin.network


def raw(preds):
    preds = preds[1]
    return torch.cat([preds.get("one2one", preds)[key] for key in ("boxes", "scores")], 1)


def test_with_many_bits_it_computes_what_the_ann_does(ann, photos):
    before = copy.deepcopy(ann.state_dict())
    spiking = converted(ann, photos, bits=16, percentile=100)
    with torch.no_grad():
        theirs, ours = raw(ann(photos)), raw(spiking(photos))
    assert (ours - theirs).abs().max() < 0.01 * theirs.std()
    with torch.no_grad():
        few = raw(converted(ann, photos, bits=3)(photos))
    assert (few - theirs).abs().max() > 0.01 * theirs.std()  # so this can fail
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    assert not any(isinstance(m, IBRALIF) for m in ann.modules())


def test_every_convolution_but_the_stem_has_a_neuron(ann, photos):
    spiking = converted(ann, photos)
    convs = [name for name, m in spiking.named_modules() if isinstance(m, nn.Conv2d) and ".dfl" not in name]
    with record_spikes(spiking) as spikes, torch.no_grad():
        spiking(photos[:1])
    real = [name for name, layer in spikes.layers.items() if not layer.spiking and "products" not in name]
    assert len(real) == 1
    assert len(spikes.layers) - len(real) - len(attention_of(spiking)) <= len(convs)
    assert not spikes.uncounted


def test_training_builds_the_same_network_of_its_yaml(ann, photos):
    spiking = converted(ann, photos, bits=5)
    again = DetectionModel(spiking.yaml, verbose=False)
    assert again.load_state_dict(spiking.state_dict()).missing_keys == []
    neurons = {n: (m.D, m.N, m.rest) for n, m in spiking.named_modules() if isinstance(m, IBRALIF)}
    assert neurons == {n: (m.D, m.N, m.rest) for n, m in again.named_modules() if isinstance(m, IBRALIF)}
    assert len({N for _, N, _ in neurons.values()}) > 1
    with torch.no_grad():
        assert torch.equal(raw(again.eval()(photos)), raw(spiking(photos)))


def test_gradients_reach_every_weight(ann, photos):
    spiking = converted(ann, photos).train()
    preds = spiking(photos)
    for found in preds.values() if "one2one" in preds else [preds]:
        (found["boxes"].square().mean() + found["scores"].square().mean()).backward()
    weights = {n: p for n, p in spiking.named_parameters() if p.requires_grad and ".dfl" not in n}
    assert [n for n, p in weights.items() if p.grad is None] == []
    assert sum(bool(p.grad.abs().sum()) for p in weights.values()) > 0.9 * len(weights)


def test_deploy_form_is_exact_and_close(ann, photos):
    spiking = converted(ann, photos, bits=6)
    integer, planes = deploy(spiking), deploy(spiking, graph="spike")
    (ours, codes), (theirs, bits) = emitted_codes(integer, photos), emitted_codes(planes, photos)
    assert torch.equal(ours[0], theirs[0])
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(codes, bits, strict=True))
    for name, found in codes:
        assert torch.equal(found, found.round()), name
        assert 0 <= found.min() <= found.max() <= 63
    trained_form = copy.deepcopy(spiking).fuse(verbose=False)  # one head, as in deploy form
    with record_spikes(trained_form) as trained, torch.no_grad():
        expected = raw(trained_form(photos))
    assert (raw(ours) - expected).abs().mean() < 0.05 * expected.std()
    with record_spikes(integer) as deployed:
        integer(photos)
    spikes = trained.total("spikes"), deployed.total("spikes")
    assert spikes[0] == pytest.approx(spikes[1], rel=0.01)  # borders of the rest code included
    codes = trained.total("codes"), deployed.total("codes")
    assert codes[0] == codes[1]
    assert trained.total("synapses") == deployed.total("synapses")


def test_a_layer_with_a_rest_code_is_the_layer_without_it(photos, tmp_path, fine):
    """The border too: each convolution alone, on the codes that it gets."""
    ann = calibrated(write_stock(tmp_path / "net.yaml", "v8", "nn.SiLU()"), photos).model
    spiking = converted(ann, photos, bits=6)
    fused, seen = copy.deepcopy(spiking).fuse(verbose=False), {}
    for name, module in fused.named_modules():
        if isinstance(module, NeuronConv):
            module.conv.register_forward_hook(
                lambda _, i, o, name=name: seen.__setitem__(f"{name}.conv", (i[0], o.clone()))
            )
    with torch.no_grad():
        fused(photos)
    deployed = deploy(spiking)
    form = form_of(deployed)
    bordered = 0
    for name, (spikes, expected) in seen.items():
        neuron, conv = form.neurons[name], form.convs[name]
        codes = (spikes * neuron.N).round() + neuron.rest
        codes = nn.functional.pad(codes, neuron.border, value=neuron.rest)
        bordered += bool(neuron.rest and any(neuron.border))
        with torch.no_grad():
            ours = conv(codes) / conv.unit
        assert torch.allclose(ours, expected, atol=2e-3 * float(expected.abs().max())), name
    assert bordered > 3


def test_what_stays_real_valued_is_named(ann, photos):
    told = "; ".join(real_valued(converted(ann, photos)))
    assert told.startswith("stem model.")
    assert told.endswith("decoder (softmax or distances of boxes, sigmoid of scores)")
    assert ("attention" in told) == bool(attention_of(ann))
    silu = sum(isinstance(getattr(m, "act", None), nn.SiLU) for m in ann.modules())
    assert ("SiLU" in told) == (silu > 0 or "silu" in str(ann.yaml.get("neuron")))


def test_a_stock_yaml_with_neurons_needs_no_conversion(tmp_path):
    network = DetectionModel(
        str(write_stock(tmp_path / "net.yaml", neuron={"type": "ibra-lif", "D": 5.11, "N": 100})), verbose=False
    )
    assert {(m.D, m.N, m.rest) for m in network.modules() if isinstance(m, IBRALIF)} == {(5.11, 100, 0)}
    assert sum(isinstance(m, NeuronConv) for m in network.modules()) > 10
    assert not isinstance(network.model[0], (NeuronConv, SpikeConv))


def test_what_has_no_spiking_form_is_refused(tmp_path, photos):
    with pytest.raises(ValueError, match=r"row 0 \(Focus\) has a Focus, of which no spiking form is known"):
        SpikingCopy(YOLO(stock_rows(tmp_path, 0, ["Focus", [32, 3]])).model)
    with pytest.raises(ValueError, match=r"row 2 \(GhostConv\) has a GhostConv"):
        SpikingCopy(YOLO(stock_rows(tmp_path, 2, ["GhostConv", [32, 1]])).model)
    with pytest.raises(ValueError, match="row 0 is a C2f; the row that reads pixels must be a Conv"):
        SpikingCopy(YOLO(stock_rows(tmp_path, 0, ["C2f", [32]])).model)
    ann = calibrated(write_stock(tmp_path / "net.yaml"), photos).model
    with pytest.raises(ValueError, match="has spiking neurons already"):
        SpikingCopy(converted(ann, photos))
    with pytest.raises(ValueError, match="take a spiking neuron with T = 1"):
        DetectionModel(str(write_stock(tmp_path / "T.yaml", neuron={"type": "lif", "D": 1, "N": 1, "T": 2})))
    with pytest.raises(ValueError, match="take a spiking neuron"):
        DetectionModel(str(write_stock(tmp_path / "R.yaml", neuron={"type": "relu"})))
    spiking = converted(ann, photos, power_of_two=False)  # which gives each neuron another range
    ranges = spiking.yaml["neuron"]["ranges"]
    with pytest.raises(ValueError, match="is no neuron of this network"):
        DetectionModel({**spiking.yaml, "neuron": {"type": "ibra-lif", "ranges": {**ranges, "9.x": [1, 1, 0]}}})
    ranges.pop("1.neuron")
    with pytest.raises(ValueError, match=r"1\.neuron has no range"):
        DetectionModel({**spiking.yaml, "neuron": {"type": "ibra-lif", "ranges": ranges}})


def stock_rows(folder, i, row):
    """Write a stock network with another row i."""
    file = write_stock(folder / f"rows{i}{row[0]}.yaml")
    d = YAML.load(file)
    d["backbone"][i] = [-1, 1, *row]
    YAML.save(file, d)
    return file


def test_inserting_twice_is_refused(tmp_path):
    network = DetectionModel(str(write_stock(tmp_path / "net.yaml")), verbose=False)
    insert_neurons(network.model, IBRALIF)
    with pytest.raises(ValueError, match=r"has a NeuronConv"):
        insert_neurons(network.model, IBRALIF)


def test_a_twin_without_its_activations_is_refused(tmp_path):
    network = YOLO(write_small(tmp_path / "twin.yaml", {"type": "relu"})).model
    for module in network.modules():
        for key, child in list(module.named_children()):
            if isinstance(child, ReLU):
                setattr(module, key, nn.ReLU())
    with pytest.raises(ValueError, match="has no activation that a neuron could replace"):
        SpikingCopy(network)
