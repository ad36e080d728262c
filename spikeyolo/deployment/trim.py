"""Planes that calibration images never use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spikeyolo.deployment.form import Trim, emitted_codes, form_of


def trim(model: nn.Module, images: Iterable[Tensor]) -> Trim:
    """Leave out the upper planes that calibration images never use; the neurons then clip at the largest code left.

    Of every five batches four calibrate, and the fifth counts the codes that are clipped (all calibrate if there are
    less than five).

    Args:
        model: Network in deploy form, changed in place.
        images: Batches (B, 3, H, W) in [0, 1].

    Returns:
        What was left out, and how many codes that touches.

    Raises:
        ValueError: If there are no images.
    """
    form = form_of(model)
    before, batches, held_out = sum(form.planes.values()), 0, 0
    used = dict.fromkeys(form.neurons, 1)  # planes
    counts = {name: torch.zeros(64, dtype=torch.int64) for name in form.neurons}  # codes by the planes they need
    for batches, image in enumerate(images, start=1):
        counting = batches % 5 == 0
        held_out += counting
        for name, codes in emitted_codes(model, image)[1]:
            needed = torch.frexp(codes).exponent  # bit length of a whole number
            if counting:
                counts[name] += torch.bincount(needed.flatten(), minlength=64).cpu()
            else:
                used[name] = max(used[name], int(needed.max()))
    if not batches:
        raise ValueError("trimming needs at least one image")
    for name, planes in used.items():
        form.neurons[name].ceiling = min(form.neurons[name].ceiling, 2**planes - 1)
        form.convs[name].largest = form.neurons[name].ceiling
    form.trim = Trim(
        planes=before - sum(form.planes.values()),
        calibrated=batches - held_out,
        held_out=held_out,
        clipped=int(sum(counts[name][planes + 1 :].sum() for name, planes in used.items())),
        codes=int(sum(count.sum() for count in counts.values())),
    )
    return form.trim
