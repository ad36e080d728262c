"""Graphs that claim to be an honest export and are not.

Each fraud takes an honest spike graph of a small SpikeYOLO (see `test_whole_numbers.py`) and returns a changed copy. It
finds its places by what they do. The stated truth, found with ONNX Runtime in `test_fraud_truth.py`, is one of

    changes     outputs differ on some image
    same        outputs are equal, but the file holds what is no part of a spiking network, or says what is not so
    fails       ONNX Runtime refuses the file
"""

from frauds import (
    backdoors,
    branches,
    convolutions,
    decoder,
    files,
    interface,
    networks,
    neurons,
    notes,
    pixels,
    planes,
    streams,
    sums,
    versions,
)
from frauds.registry import CHANGES, CODE, FAILS, FRAUDS, SAME, Fraud, trigger_image

KINDS = (
    pixels,
    backdoors,
    planes,
    convolutions,
    neurons,
    branches,
    sums,
    streams,
    decoder,
    interface,
    versions,
    files,
    notes,
    networks,
)
__all__ = ["CHANGES", "CODE", "FAILS", "FRAUDS", "KINDS", "SAME", "Fraud", "trigger_image"]
