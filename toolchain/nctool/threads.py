"""Threads: parts of a batch or a tensor side by side, each on one thread, instead of every operation on all.

OpenMP's threads wait for each other after every operation: that costs more than it brings where operations are small,
and most on a busy computer. A part stays on one thread, near the cache of its core.

In: an action and parts. Out: results in the order of the parts.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(action: Callable[[Part], Result], parts: Sequence[Part], n_threads: int) -> list[Result]:
    """Return what an action gives for every part; each runs on one thread, several parts at a time.

    The action sets what torch keeps for each thread itself, such as inference mode.
    """
    if n_threads == 1 or len(parts) == 1 or _openmp() is None:
        return [action(part) for part in parts]
    return list(_pool(n_threads).map(action, parts))


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Let the operations of the calling thread use that thread alone while the block runs, where OpenMP can be told."""
    set_threads, before = _openmp(), torch.get_num_threads()
    if set_threads is None or before == 1:
        yield
        return
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "nctool", _limit)


os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads are not there


def _limit() -> None:
    """Let a new thread use itself alone, once torch has given it as many as the others have."""
    set_threads = _openmp()
    torch.get_num_threads()
    if set_threads is not None:
        set_threads(1)


@cache
def _openmp() -> Callable[[int], object] | None:
    """Return OpenMP's own function that sets the threads of the calling thread; None where there is none.

    Torch's is for the whole process, and takes 12 ms in torch 2.3.
    """
    try:
        set_threads: Callable[[int], object] = ctypes.CDLL(None).omp_set_num_threads
    except (AttributeError, OSError, TypeError):
        return None
    return set_threads
