"""Share jobs among processes that this one starts.

In: jobs. Out: the summaries of all, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from signal import SIGKILL
from typing import Any

import torch

from nctool.children import Child, ChildError, child, requests
from nctool.errors import EngineError, NctoolError, first_line
from nctool.fast.engine import find_device
from nctool.reference.trace import Summary
from nctool.running.engines import Job, summaries

Answer = list[Summary] | NctoolError | None
"""What a worker sends: None when it begins, then what came of each job. Whoever sent waits for the next job."""


def summaries_of_workers(engine: str, jobs: Sequence[Job], workers: int) -> Iterator[Summary]:
    """Yield the summaries of all jobs in order.

    Raises:
        EngineError: a worker ended before its time.
        NctoolError: whatever the engine raises.
    """
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
    """Hand out the jobs, each to whoever waits for one, and yield in their order what came of them."""
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
    """Take what a worker sent, and raise it where it is an error."""
    answer: Answer = worker.receive()
    if isinstance(answer, NctoolError):
        raise answer
    return answer


def main(link: Connection[Any, Any]) -> None:
    """Compute jobs as they come: the body of a worker."""
    engine, threads, number = link.recv()
    torch.set_num_threads(threads)
    link.send(None)
    for job in requests(link):
        link.send(_outcome(engine, job, number))


def use_gpu(device: str, number: int) -> None:
    """Let `cuda` mean another GPU in each of several processes, as far as there are as many; `number` is this one's."""
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
