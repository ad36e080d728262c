"""The papers' neurons: equations, kernels, modules, and the ``neuron:`` mapping. Needs torch alone.

This is a door: checkpoints name its classes by this address, so that they can move between the files of this folder.
"""

from spikeyolo.neurons.aligned import PoTLIF
from spikeyolo.neurons.config import NeuronConfig
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.neurons.ranges import LearnedRange, TrackedRange
from spikeyolo.neurons.twins import ReLU, SiLU

__all__ = ["IBRALIF", "LearnedRange", "NeuronConfig", "PoTLIF", "ReLU", "SiLU", "TrackedRange"]

for cls in (IBRALIF, PoTLIF, TrackedRange, LearnedRange, ReLU, SiLU):
    cls.__module__ = __name__
