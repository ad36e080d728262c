"""Activation checkpointing of blocks whose statistics and ranges move."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from spikeyolo.neurons import ranges_of


def recomputed(x: Tensor, *modules: nn.Module) -> Tensor:
    """Run modules one after the other and keep only ``x`` for backward, which runs them again.

    This is activation checkpointing. The second run leaves the running statistics of BatchNorms and the ranges of
    neurons as the first one has made them, and has the ranges that it had.
    """
    chain = nn.Sequential(*modules)
    reaches = [own_range.reach.clone() for own_range in ranges_of(chain)]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _frozen_statistics(chain, reaches)

    return torch.utils.checkpoint.checkpoint(
        chain, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


@contextmanager
def _frozen_statistics(module: nn.Module, reaches: list[Tensor]) -> Iterator[None]:
    """Let BatchNorms normalise by the batch, but not count it, and neurons have these ranges, which end with it."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    ranges = [(own_range, own_range.reach) for own_range in ranges_of(module)]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    for (own_range, _), reach in zip(ranges, reaches, strict=True):
        own_range.reach = reach
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
        for own_range, reach in ranges:
            own_range.reach = reach
