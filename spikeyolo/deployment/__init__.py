"""Deploy form: a trained spiking network in codes, eight-bit weights and whole sums.

This is a door: saved networks in deploy form name its classes by this address, so that they can move between the files
of this folder.
"""

from spikeyolo.deployment.form import DeployForm, emitted_codes, form_of, has_neurons
from spikeyolo.deployment.heads import Expectation
from spikeyolo.deployment.layers import (
    BYTE,
    DOMAIN,
    PAIR,
    SUM_BITS,
    WEIGHT_BITS,
    CodeNeuron,
    IntegerConv,
    PixelConv,
    StepActivation,
    Widen,
)
from spikeyolo.deployment.transform import GRAPHS, PLANES, check_weight_bits, deploy

__all__ = ["BYTE", "DOMAIN", "GRAPHS", "PAIR", "PLANES", "SUM_BITS", "WEIGHT_BITS", "check_weight_bits"]
__all__ += ["CodeNeuron", "DeployForm", "Expectation", "IntegerConv", "PixelConv", "StepActivation", "Widen"]
__all__ += ["deploy", "emitted_codes", "form_of", "has_neurons"]

GONE = ("FixedPointConv", "PlaneConv", "GridActivation", "CodeDetect", "CodeStockDetect")  # of former deploy forms


def __getattr__(name: str) -> object:
    """Say what is to be done about a network that names a class of an earlier deploy form."""
    if name in GONE:
        raise ImportError(
            "this file holds a network in the deploy form of an earlier version; "
            "load the checkpoint that it was made of, and use spikeyolo.deploy(model) again"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for name in __all__:
    if isinstance(value := globals()[name], type):
        value.__module__ = __name__
