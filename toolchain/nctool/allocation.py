"""Memory that ran out, as torch and Python say it.

In: an error. Out: whether it is one of that kind. Imports only torch.
"""

from __future__ import annotations

import torch

_CPU_FAILURE = "DefaultCPUAllocator: can't allocate memory"
"""How torch begins to say it of the CPU: it has no type of error for that."""


def is_allocation_failure(error: Exception) -> bool:
    """Return True for memory that could not be had, of the machine or of a device."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or _CPU_FAILURE in str(error)
