"""Which of the processes that torchrun started this is; one process alone is the first of one.

In: the environment that torchrun sets. Out: numbers. torch is loaded only to ask the others who failed first.
"""

from __future__ import annotations

import os


def rank_and_size() -> tuple[int, int]:
    """Return this process's number and the number of processes that torchrun started; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return this process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first_to_fail() -> bool:
    """Say whether this process is to report its error: the first one that fails speaks for all.

    The others fail too, of the same error or because it is gone. Where the first to fail held what they share, they
    cannot ask any more, and are silent.
    """
    if rank_and_size()[1] == 1:
        return True
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://"))
        return int(store.add("failed", 1)) == 1
    except RuntimeError:
        return False
