"""Share a big evaluation among processes: workers that this one starts, or the ranks of torchrun.

In: a job. Out: the summaries of all samples, in order.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from signal import SIGKILL
from typing import Any

from nctool.children import Child, ChildError, child, requests
from nctool.errors import EngineError, NctoolError, UsageError, first_line
from nctool.reference.trace import Summary
from nctool.running.engines import Job, summaries
from nctool.torchrun import exchange, rank_and_size

CHUNKS_PER_WORKER = 4
"""Parts that each worker gets: enough for progress and for even shares, few enough to prepare the network seldom."""

POLL_S = 0.05
"""How often a rank asks for the others' summaries; torchrun ends all of them when one fails."""

Answer = list[Summary] | NctoolError | None
"""What a worker sends: None when it begins, then summaries or an error for each job. It then waits for the next."""


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
    from torch.distributed.rendezvous import rendezvous

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
    """Wait for the message of another rank; torch's own wait times out, and lets no signal through."""
    with exchange():
        while not store.check([key]):
            time.sleep(POLL_S)
        return bytes(store.get(key))


def _split(job: Job, n_parts: int) -> list[Job]:
    """Return jobs of consecutive samples, none empty."""
    size = -(-len(job.pixels) // n_parts)
    return [replace(job, pixels=job.pixels[start : start + size]) for start in range(0, len(job.pixels), size)]


# --- workers --------------------------------------------------------------


def summaries_of_workers(engine: str, jobs: Sequence[Job], workers: int) -> Iterator[Summary]:
    """Yield the summaries of all jobs in order.

    Raises:
        EngineError: a worker ended before its time.
        NctoolError: whatever the engine raises.
    """
    import torch

    threads = max(1, torch.get_num_threads() // workers)
    try:
        with ExitStack() as stack:
            pool = [stack.enter_context(child(__name__)) for _ in range(min(workers, len(jobs)))]
            for number, worker in enumerate(pool):
                worker.send((engine, threads, number))
            for answer in _in_order(pool, jobs):
                yield from answer
    except ChildError as error:
        short = "use fewer --workers: memory may be short"
        raise EngineError(
            f"engine `{engine}`: a worker ended before its time ({error})",
            hint=short if error.exit_code == -SIGKILL else "run again with --workers 1",
        ) from error


def _in_order(pool: Sequence[Child], jobs: Sequence[Job]) -> Iterator[list[Summary]]:
    """Send each job to a worker that waits for one, and yield the summaries of all jobs in order."""
    rest = iter(range(len(jobs)))
    at_work: dict[Child, int] = {}
    done: dict[int, list[Summary]] = {}
    for number in range(len(jobs)):
        while number not in done:
            ready = wait([worker.link for worker in pool])
            for worker in (worker for worker in pool if worker.link in ready):
                answer = _answer(worker)
                if answer is not None:
                    done[at_work.pop(worker)] = answer
                following = next(rest, None)
                if following is not None:
                    at_work[worker] = following
                    worker.send(jobs[following])
        yield done.pop(number)


def _answer(worker: Child) -> list[Summary] | None:
    """Return the summaries that a worker sent, or raise the error that it sent."""
    answer: Answer = worker.receive()
    if isinstance(answer, NctoolError):
        raise answer
    return answer


def main(link: Connection[Any, Any]) -> None:
    """Run jobs as they come: the body of a worker."""
    import torch

    engine, threads, number = link.recv()
    torch.set_num_threads(threads)
    link.send(None)
    for job in requests(link):
        link.send(_outcome(engine, job, number))


def use_gpu(device: str, number: int) -> None:
    """Make `cuda` mean another GPU in each process, as far as there are enough; `number` is that of this process."""
    import torch

    from nctool.fast.engine import find_device

    if find_device(device).type == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())


def _outcome(engine: str, job: Job, number: int) -> Answer:
    try:
        use_gpu(job.device, number)
        return list(summaries(engine, job))
    except NctoolError as error:
        return error
    except Exception as error:  # noqa: BLE001 - of whatever kind: the process that started this one is to say it
        return EngineError(f"engine `{engine}`, in a worker: {type(error).__name__}: {first_line(error)}")
