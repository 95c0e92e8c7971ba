"""Share a big evaluation among processes: workers of this command, or the ranks of torchrun.

In: a job. Out: the summaries of all samples, in order.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.distributed.rendezvous import rendezvous

from nctool.errors import UsageError
from nctool.reference.trace import Summary
from nctool.running.engines import Job, summaries
from nctool.running.workers import summaries_of_workers, use_gpu
from nctool.torchrun import exchange, rank_and_size

CHUNKS_PER_WORKER = 4
"""Parts that each worker gets: enough for progress and for even shares, few enough to prepare the network seldom."""

POLL_S = 0.05
"""How often a rank asks for the others' summaries; torchrun ends all of them when one fails."""


def require_workers(engine: str, workers: int, output: Path | None, *, cost: bool) -> None:
    """Refuse a number of workers that cannot run `engine`, write `output` or count the cost, with a UsageError."""
    n_ranks = rank_and_size()[1]
    if workers < 1:
        raise UsageError(f"workers: {workers} is out of range, allowed >= 1")
    if max(workers, n_ranks) > 1 and engine == "lava":
        raise UsageError("engine `lava` starts processes of its own, allowed one worker", hint="use --engine fast")
    if max(workers, n_ranks) > 1 and output is not None:
        raise UsageError(f"output `{output}` is written by one process, allowed one worker")
    if max(workers, n_ranks) > 1 and cost:
        raise UsageError("cost: counted by one process, allowed one worker", hint="leave --workers out")
    if workers > 1 and n_ranks > 1:
        raise UsageError(f"workers: {workers} beside torchrun, allowed one of both")


def shared_summaries(engine: str, job: Job, workers: int) -> Iterator[Summary]:
    """Yield the summaries of all samples in order, computed by all processes.

    Args:
        workers: processes to start; under torchrun its ranks share the samples instead, and each gets all summaries.

    Raises:
        EngineError: a worker ended before its time.
        NctoolError: whatever the engine raises.
    """
    rank, size = rank_and_size()
    if size > 1:
        return _among_ranks(engine, job, rank, size)
    if workers > 1:
        return summaries_of_workers(engine, _split(job, workers * CHUNKS_PER_WORKER), workers)
    return summaries(engine, job)


def _among_ranks(engine: str, job: Job, rank: int, size: int) -> Iterator[Summary]:
    """Compute this rank's share and exchange summaries through the store of torchrun: no process group is needed."""
    with exchange():
        store, _, _ = next(rendezvous("env://"))
    parts = _split(job, size)
    use_gpu(job.device, rank)
    own = list(summaries(engine, parts[rank])) if rank < len(parts) else []
    with exchange():
        store.set(f"summaries/{rank}", pickle.dumps(own))
    for number in range(size):
        yield from pickle.loads(_received(store, f"summaries/{number}"))
    with exchange():
        store.set(f"done/{rank}", "")
    for number in range(size if rank == 0 else 0):  # the store may live here: it must outlast the last requests
        _received(store, f"done/{number}")


def _received(store: Any, key: str) -> bytes:
    """Wait for what another rank says; torch's own wait has an end, and lets no signal through."""
    with exchange():
        while not store.check([key]):
            time.sleep(POLL_S)
        return bytes(store.get(key))


def _split(job: Job, n_parts: int) -> list[Job]:
    """Return jobs of consecutive samples, none empty."""
    size = -(-len(job.pixels) // n_parts)
    return [replace(job, pixels=job.pixels[start : start + size]) for start in range(0, len(job.pixels), size)]
