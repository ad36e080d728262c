"""What makes PyTorch use a CPU well: all of its cores, and memory that is kept from one step to the next."""

import contextlib
import ctypes
import os


def use_all_cores() -> None:
    """Let torch use all cores of a small machine, unless somebody has set another number than Ultralytics does."""
    import torch
    from ultralytics.utils import NUM_THREADS

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.get_num_threads() == NUM_THREADS < cpus <= 8:
        torch.set_num_threads(cpus)


def keep_memory() -> None:
    """Let malloc keep what a step has freed for the next one, where it is glibc's.

    As it comes, it gives large tensors back, and the system clears each of their pages anew in each step.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no memory apart for large tensors
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing is given back
