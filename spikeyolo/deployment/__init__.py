"""Deploy form: a trained spiking network in codes and fixed-point weights.

This is a door: saved networks in deploy form name its classes by this address, so that they can move between the files
of this folder.
"""

from spikeyolo.deployment.form import DeployForm, emitted_codes, form_of, has_neurons
from spikeyolo.deployment.layers import (
    CodeDetect,
    CodeNeuron,
    CodeStockDetect,
    Expectation,
    FixedPointConv,
    GridActivation,
    PixelConv,
    PlaneConv,
    Widen,
)
from spikeyolo.deployment.transform import GRAPHS, deploy

__all__ = ["GRAPHS", "CodeDetect", "CodeNeuron", "CodeStockDetect", "DeployForm", "Expectation", "FixedPointConv"]
__all__ += ["GridActivation", "PixelConv", "PlaneConv", "Widen", "deploy", "emitted_codes", "form_of", "has_neurons"]

for name in __all__:
    if isinstance(value := globals()[name], type):
        value.__module__ = __name__
