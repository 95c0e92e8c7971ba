"""The Lava engine: run an exported file in a subprocess that can time out and leaves nothing behind.

Lava runs one operating-system process per Lava process, and an exception in one of them can hang the others:
so each run gets a session of its own, is watched, and is killed as a whole.

In: an exported file and pixels. Out: a Trace. Must not import Lava or torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import EngineError, RangeError
from nctool.network import CurrentBased, IntArray, IntNetwork
from nctool.sim.signal import own_signal
from nctool.sim.trace import Trace
from nctool_deploy.lava_compat import require_lava
from nctool_deploy.netx import ForeignFile

DEFAULT_TIMEOUT_S = 1800.0
BUFFER_BYTES = 256 * 2**20
"""Memory for the recorded spikes of one run; longer jobs are split into several runs."""

MAX_SAMPLES_PER_RUN = 500
WORKER = "nctool_deploy.lava_runner.run"
TRACEBACK = "Traceback (most recent call last):"
POLL_S = 0.1
GRACE_S = 5.0
"""How long a run may go on after one of its processes printed a traceback."""


def stream(
    model: Path,
    network: IntNetwork,
    pixels: NDArray[np.uint8],
    *,
    n_steps: int | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[Trace]:
    """Yield the traces of consecutive runs of `model` on the Lava simulator.

    Args:
        model: an exported file; `network` is what it holds.
        pixels: uint8 (samples, *input shape), at least one sample.
        n_steps: length of the window; the network's own by default.
        timeout_s: seconds that one run may take.

    Returns:
        Traces without overflow counts and potentials: Lava keeps neither.

    Raises:
        EngineError: Lava is missing, failed or ran out of time.
        RangeError: the pixels do not fit the input, there is no sample, or n_steps < 1.
    """
    require_lava()
    n_steps = network.n_steps if n_steps is None else n_steps
    if n_steps < 1 or len(pixels) == 0:
        raise RangeError(f"simulation: {len(pixels)} samples and {n_steps} steps, allowed >= 1 of both")
    samples = network.pixel_input.signal(pixels, n_steps)
    chunk = samples_per_run(network, n_steps)
    parts = (samples[i : i + chunk] for i in range(0, len(samples), chunk))
    return (run_jobs([LavaJob(model, part, n_steps)], timeout_s)[0] for part in parts)


def stream_foreign(
    model: Path,
    content: ForeignFile,
    samples: NDArray[np.integer[Any]],
    *,
    n_steps: int | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[Trace]:
    """Yield the traces of consecutive runs of a netx file of another tool in the stock Network of lava-dl.

    Args:
        model: the file; `content` is what it holds.
        samples: as `IntegerInput.signal` takes them.
        n_steps, timeout_s: as for `stream`.

    Raises:
        EngineError: Lava is missing, failed or ran out of time.
        RangeError: the samples do not fit the input.
    """
    require_lava()
    network = content.network
    n_steps = network.n_steps if n_steps is None else n_steps
    signal = own_signal(network, samples, n_steps)  # type: ignore[arg-type]  # a foreign network takes integers
    neuron = network.readout.neuron
    interval = neuron.reset_interval if isinstance(neuron, CurrentBased) else None
    layers = (content.n_layers, content.skip_layers, interval or 0)
    chunk = samples_per_run(network, n_steps)
    parts = (signal[i : i + chunk] for i in range(0, len(signal), chunk))
    return (run_jobs([LavaJob(model, part, n_steps, layers)], timeout_s)[0] for part in parts)


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
        layers: of a foreign file, the layers to read and to skip and the reset interval, 0 for none.
    """

    model: Path
    samples: IntArray
    n_steps: int
    layers: tuple[int, int, int] | None = None


def run_jobs(jobs: Sequence[LavaJob], timeout_s: float = DEFAULT_TIMEOUT_S) -> list[Trace]:
    """Run several jobs one after the other in one subprocess, which loads Lava once.

    Raises:
        EngineError: Lava is missing, failed or ran out of time.
    """
    require_lava()
    with tempfile.TemporaryDirectory(prefix="nctool-lava-") as name:
        folder = Path(name)
        arguments, results, log = [], [folder / f"result{number}.npz" for number in range(len(jobs))], folder / "log"
        for job, result in zip(jobs, results, strict=True):
            input_file = result.with_name(result.name.replace("result", "job"))
            layers = {} if job.layers is None else {"layers": np.array(job.layers)}
            np.savez(input_file, samples=job.samples, n_steps=job.n_steps, **layers)
            arguments += [str(job.model), str(input_file), str(result)]
        with log.open("wb") as output:
            code = _watch([sys.executable, "-m", WORKER, *arguments], output.fileno(), log, timeout_s)
        if code is None:
            n_samples = sum(len(job.samples) for job in jobs)
            raise EngineError(
                f"engine `lava`: no answer for {n_samples} samples after {timeout_s:g} s",
                hint="give more with --timeout, or fewer --samples",
            )
        if code != 0 or not all(result.is_file() for result in results):
            raise EngineError(f"engine `lava`: {_reason(log)}", hint="`--engine reference` runs the same file")
        return [_load(result) for result in results]


def _watch(command: list[str], output: int, log: Path, timeout_s: float) -> int | None:
    """Run `command` in its own session; return its exit code, or None when the time is over."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + timeout_s
    try:
        while (code := process.poll()) is None:
            if time.monotonic() > deadline:
                return None
            if TRACEBACK.encode() in log.read_bytes():
                deadline = min(deadline, time.monotonic() + GRACE_S)
            time.sleep(POLL_S)
        return code
    finally:
        _kill_session(process)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(log: Path) -> str:
    """Return the exception of the last traceback, or the last line; what Python says while it ends does not count."""
    text = log.read_text(errors="replace").partition("Exception ignored in")[0]
    lines = [line for line in text.rpartition(TRACEBACK)[2].splitlines() if line and not line[0].isspace()]
    if TRACEBACK in text and lines:
        return lines[0]
    return lines[-1] if lines else "the process ended without a word"


def _load(result: Path) -> Trace:
    with np.load(result) as content:
        prefix = "spikes/"
        spikes = {key.removeprefix(prefix): content[key] for key in content.files if key.startswith(prefix)}
        return Trace(spikes, content["logits"], {}, {})
