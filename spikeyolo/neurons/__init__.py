"""The papers' neurons: equations, kernels, modules, and the ``neuron:`` mapping. Needs torch alone.

This is a door: checkpoints name its classes by this address, so that they can move between the files of this folder.
"""

from spikeyolo.neurons.aligned import PoTLIF
from spikeyolo.neurons.coding import entropy, to_planes
from spikeyolo.neurons.config import FORMER_TYPES, TYPES, NeuronConfig
from spikeyolo.neurons.equations import DECAY, MAX_D_N, Dynamics, fire, simulate
from spikeyolo.neurons.integer import IBRALIF, neuron_in, neurons_of
from spikeyolo.neurons.ranges import (
    TRACKED_PART,
    LearnedRange,
    TrackedRange,
    check_planes,
    check_tracked,
    name_ranges,
    ranges_of,
)
from spikeyolo.neurons.twins import ReLU, SiLU

__all__ = ["DECAY", "FORMER_TYPES", "IBRALIF", "MAX_D_N", "TRACKED_PART", "TYPES", "Dynamics", "LearnedRange"]
__all__ += ["NeuronConfig", "PoTLIF", "ReLU", "SiLU", "TrackedRange", "check_planes", "check_tracked", "entropy"]
__all__ += ["fire", "name_ranges", "neuron_in", "neurons_of", "ranges_of", "simulate", "to_planes"]

for name in __all__:
    if isinstance(value := globals()[name], type):
        value.__module__ = __name__
