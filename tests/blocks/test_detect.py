import torch

from spikeyolo.blocks.detect import SpikeDetect
from spikeyolo.neurons.integer import IBRALIF


def make(T=1, **options):
    head = SpikeDetect(3, ch=(16, 32), T=T, neuron=lambda: IBRALIF(T=T), **options)
    head.stride = torch.tensor([8.0, 16.0])
    head.bias_init()
    return head


def features(T=1):
    return [torch.randn(T * 2, 16, 8, 8) * 2, torch.randn(T * 2, 32, 4, 4) * 2]


def test_averages_raw_maps_over_timesteps():
    head = make(T=2).eval()
    x = features(T=2)
    preds = head(x)[1]
    assert preds["boxes"].shape == (2, 64, 80)
    assert preds["scores"].shape == (2, 3, 80)
    level = head.cv3[0](x[0]).flatten(2)  # (T*B, nc, 64), time-major
    assert torch.allclose(preds["scores"][..., :64], (level[:2] + level[2:]) / 2)


def test_every_convolution_is_behind_a_neuron():
    for branch in (*make().cv2, *make().cv3):
        assert isinstance(branch[0].act, IBRALIF)
        assert isinstance(branch[1].act, IBRALIF)
        assert isinstance(branch[2], IBRALIF)
        assert isinstance(branch[3], torch.nn.Conv2d)


def test_end2end_has_branches_of_its_own():
    head = make(T=2, end2end=True).train()
    assert set(head(features(T=2))) == {"one2many", "one2one"}
    head.eval()
    head.end2end = True
    assert head(features(T=2))[0].shape == (2, 80, 6)
