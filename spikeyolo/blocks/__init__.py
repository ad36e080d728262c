"""Building blocks of SpikeYOLO: every convolution that takes spikes is directly preceded by its own neuron.

All tensors are membrane potentials of shape (T*B, C, H, W), time-major; residuals and concatenations join potentials.
Each block takes ``neuron``, a callable that makes one neuron (:class:`spikeyolo.neurons.NeuronConfig`).

This is a door: checkpoints name its classes by this address, so that they can move between the files of this folder.
"""

from spikeyolo.blocks.conv import NeuronConv, NormedConv, SpikeConv, SpikeDown, SpikeEncoder
from spikeyolo.blocks.detect import SpikeDetect
from spikeyolo.blocks.rep import BorderNorm, RepChain, SepChain, SpikeRepConv, SpikeSepConv, factored
from spikeyolo.blocks.residual import SpikeBlock, SpikeRepBlock, SpikeSeparable, SpikeSPPF

__all__ = [
    "BorderNorm",
    "NeuronConv",
    "NormedConv",
    "RepChain",
    "SepChain",
    "SpikeBlock",
    "SpikeConv",
    "SpikeDetect",
    "SpikeDown",
]
__all__ += ["SpikeEncoder", "SpikeRepBlock", "SpikeRepConv", "SpikeSPPF", "SpikeSepConv", "SpikeSeparable", "factored"]

for name in __all__:
    if isinstance(value := globals()[name], type):
        value.__module__ = __name__
