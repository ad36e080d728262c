"""The papers' neurons: equations, kernels, modules, and the ``neuron:`` mapping. Needs torch alone.

This is a door: checkpoints name its classes by this address, so that they can move between the files of this folder.
"""

from spikeyolo.neurons.aligned import ARLIF
from spikeyolo.neurons.config import SPIKING, NeuronConfig
from spikeyolo.neurons.integer import IBRALIF, neuron_in
from spikeyolo.neurons.ranges import LearnedRange, TrackedRange
from spikeyolo.neurons.twins import TWINS, ReLU, SiLU

__all__ = [
    "ARLIF",
    "IBRALIF",
    "SPIKING",
    "TWINS",
    "LearnedRange",
    "NeuronConfig",
    "ReLU",
    "SiLU",
    "TrackedRange",
    "neuron_in",
]

for cls in (IBRALIF, ARLIF, TrackedRange, LearnedRange, ReLU, SiLU):
    cls.__module__ = __name__
