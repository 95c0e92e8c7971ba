"""The Lava engine: run an exported file in a subprocess that can time out and leaves nothing behind.

Lava runs one operating-system process per Lava process, and an exception in one of them can hang the others:
so each run gets a session of its own (`nctool.children`), is watched, and is killed as a whole.

In: an exported file and pixels. Out: a Trace. Must not import Lava or torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from nctool.children import Child, ChildError, child
from nctool.errors import EngineError, NctoolError, RangeError
from nctool.ir.inputs import Samples
from nctool.ir.network import IntArray, IntNetwork
from nctool.reference.signal import own_signal
from nctool.reference.trace import Trace
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lava.compatibility import WITHOUT_LAVA, require_lava

DEFAULT_TIMEOUT_S = 1800.0
BUFFER_BYTES = 256 * 2**20
"""Memory for the recorded spikes of one run; longer jobs are split into several runs."""

MAX_SAMPLES_PER_RUN = 500
WORKER = "nctool_deploy.lava.runner.run"
TRACEBACK = "Traceback (most recent call last):"


def stream(
    model: Path,
    network: IntNetwork,
    samples: Samples,
    *,
    foreign_options: ForeignOptions | None = None,
    n_steps: int | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[Trace]:
    """Yield the traces of consecutive runs of `model` on the Lava simulator.

    Args:
        model: an exported file, or one of another tool; `network` is what it holds.
        samples: as the network takes them, at least one.
        foreign_options: how a file of another tool was read; it runs in the stock Network of lava-dl.
        n_steps: length of the window; the network's own by default.
        timeout_s: seconds that one run may take.

    Returns:
        Traces without overflow counts and potentials: Lava keeps neither.

    Raises:
        EngineError: Lava is missing, failed or ran out of time, or `model` was replaced.
        RangeError: the samples do not fit the input, there is none, or n_steps < 1.
    """
    require_lava()
    n_steps = network.n_steps if n_steps is None else n_steps
    if n_steps < 1 or len(samples) == 0:
        raise RangeError(f"simulation: {len(samples)} samples and {n_steps} steps, allowed >= 1 of both")
    signal = own_signal(network, samples, n_steps)
    chunk = samples_per_run(network, n_steps)
    parts = (signal[i : i + chunk] for i in range(0, len(signal), chunk))
    return (run_jobs([LavaJob(model, part, n_steps, foreign_options, network)], timeout_s)[0] for part in parts)


def samples_per_run(network: IntNetwork, n_steps: int) -> int:
    """Return how many samples one run records within BUFFER_BYTES, at 8 bytes a neuron and step."""
    n_neurons = sum(population.n_neurons for population in network.populations)
    return max(1, min(MAX_SAMPLES_PER_RUN, BUFFER_BYTES // (8 * n_neurons * (n_steps + 1))))


@dataclass(frozen=True)
class LavaJob:
    """One run of a file.

    Args:
        model: an exported file, or one of another tool.
        samples: the input's signal, integers (samples, n_steps or 1, *input shape).
        n_steps: length of the window.
        foreign_options: how the file of another tool was read; None for an exported one.
        network: what the file held when it was read; None where that is not known.
    """

    model: Path
    samples: IntArray
    n_steps: int
    foreign_options: ForeignOptions | None = None
    network: IntNetwork | None = None


def run_jobs(jobs: Sequence[LavaJob], timeout_s: float = DEFAULT_TIMEOUT_S) -> list[Trace]:
    """Run several jobs one after the other in one subprocess, which loads Lava once.

    Raises:
        EngineError: Lava is missing, failed or ran out of time, or a file is not what it was.
        NctoolError: a file cannot be read or run.
    """
    require_lava()
    deadline = time.monotonic() + timeout_s
    with _log() as log:
        try:
            with child(WORKER, log.fileno()) as runner:
                return list(_answers(runner, jobs, deadline))
        except ChildError as error:
            raise EngineError(f"engine `lava`: {_reason(log.fileno()) or error}", hint=WITHOUT_LAVA) from error
        except TimeoutError as error:
            n_samples = sum(len(job.samples) for job in jobs)
            raise EngineError(
                f"engine `lava`: no answer for {n_samples} samples after {timeout_s:g} s",
                hint="give more with --timeout, or fewer --samples",
            ) from error


def _log() -> IO[bytes]:
    """Return a file without a name: in memory on Linux, where it needs no room on a disk."""
    return os.fdopen(os.memfd_create("log"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile()


def _answers(runner: Child, jobs: Sequence[LavaJob], deadline: float) -> Iterator[Trace]:
    """Send each job when the subprocess waits for one, and yield its trace."""
    _received(runner, deadline)
    for job in jobs:
        runner.send(job)
        answer = _received(runner, deadline)
        if isinstance(answer, NctoolError):
            raise answer
        yield answer


def _received(runner: Child, deadline: float) -> Any:
    """Return what the subprocess sends; a TimeoutError when its time is over."""
    if not runner.link.poll(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    return runner.receive()


def _reason(log: int) -> str:
    """Return the exception of the last traceback, or the last line, of what Python wrote before it ended."""
    text = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace").partition("Exception ignored in")[0]
    lines = [line for line in text.rpartition(TRACEBACK)[2].splitlines() if line and not line[0].isspace()]
    if TRACEBACK in text and lines:
        return lines[0]
    return lines[-1] if lines else ""
