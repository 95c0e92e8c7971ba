"""Stream many samples through a Network in one run of the Lava CPU simulator.

The Lava engine starts this module in a process of its own (`nctool.children`).

In: jobs. Out: traces. Must not import torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lava.proc.io.extractor import Extractor, VarWire
from lava.proc.io.source import RingBuffer as Source
from numpy.typing import NDArray

from nctool.children import requests
from nctool.errors import EngineError, NctoolError, UnsupportedError, first_line
from nctool.ir.network import IntArray, IntNetwork
from nctool.reference.trace import Spikes, Trace
from nctool_deploy.backends.autapse import Autapse
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.backends.graded import Graded
from nctool_deploy.backends.stock import StockPopulation, StockZeroReset
from nctool_deploy.lava.compatibility import WITHOUT_LAVA
from nctool_deploy.lava.engine import LavaJob
from nctool_deploy.lava.runner.blocks import STATE_SHIFT
from nctool_deploy.lava.runner.branch import to_lava
from nctool_deploy.lava.runner.network import Network
from nctool_deploy.lava.runner.record import BUFFERED_STEPS, run_and_record, share_without_names, tap
from nctool_deploy.lava.runner.stock import exported_network, read_layers, run_foreign
from nctool_deploy.netx import read
from nctool_deploy.pipeline import Schedule, depths


class Running(NamedTuple):
    """The Lava process that runs a file.

    Attributes:
        process: a netx Network.
        answer: what records its logits.
        shift: by how many bits they are shifted up in the recording.
    """

    process: Any
    answer: Extractor | VarWire
    shift: int


def _autapse(model: Path, _network: IntNetwork, n_samples: int, n_steps: int) -> Running:
    process = Network(model, n_samples=n_samples, n_steps=n_steps)
    return Running(process, _state(process.out_layer.neuron.u), STATE_SHIFT)  # the membrane is the current (R1)


def _graded(model: Path, _network: IntNetwork, n_samples: int, n_steps: int) -> Running:
    process = Network(model, n_samples=n_samples, n_steps=n_steps)
    return Running(process, tap(process.out_layer), 0)  # the readout sends its drive (G8)


def _population(model: Path, network: IntNetwork, _n_samples: int, _n_steps: int) -> Running:
    process, voltage = exported_network(model, network, reset_interval=None)  # without memory: never cleared
    return Running(process, _state(voltage), STATE_SHIFT)


def _zero_reset(model: Path, network: IntNetwork, _n_samples: int, n_steps: int) -> Running:
    process, voltage = exported_network(model, network, reset_interval=n_steps)  # cleared before every window (P3)
    return Running(process, _state(voltage), STATE_SHIFT)


def _state(variable: Any) -> VarWire:
    wire = VarWire(buffer_size=BUFFERED_STEPS)
    wire.connect_var(variable)
    return wire


NETWORKS: Mapping[type[Any], Callable[[Path, IntNetwork, int, int], Running]] = {
    Autapse: _autapse,
    StockPopulation: _population,
    StockZeroReset: _zero_reset,
    Graded: _graded,
}
"""By backend: what makes the Lava process that runs a file."""


def run(model: Path, samples: IntArray, n_steps: int) -> tuple[Mapping[str, Spikes], NDArray[np.int64]]:
    """Stream the signal of some samples through the Lava fixed-point models in one run.

    Args:
        samples: integers (samples, n_steps or 1, *input shape).

    Returns:
        spikes per spiking population, bool (samples, steps, *shape), or int32, what graded ones carry; and the
        readout's potential after each step, int64 (samples, steps, classes).

    Raises:
        UnsupportedError: the backend has one window, and it is another than `n_steps`.
    """
    content = read(model)
    populations, depth = content.network.populations, depths(content.network)
    backend = find_backend(content.metadata.backend)
    if backend.steps not in (None, n_steps):
        raise UnsupportedError(f"backend `{backend.name}`: a window of {n_steps} steps, allowed {backend.steps}")
    running = NETWORKS[type(backend)](model, content.network, len(samples), n_steps)
    network = running.process
    schedule = Schedule(n_steps, backend.flush_steps, max(depth.values()), len(samples))
    if len(network.inp.shape) == 1:  # a stock dense layer takes an image in (channel, height, width) order
        samples = samples.reshape(*samples.shape[:2], -1)
    source = Source(data=stimulus(samples, schedule))
    source.s_out.connect(network.inp)
    taps = [tap(block) for block in network.layers[:-1]]
    recorded = run_and_record(network, [*taps, running.answer], schedule.n_total)
    own = {p.name: gather(data, schedule.window(depth[p.name])) for p, data in zip(populations, recorded, strict=True)}
    logits = own.pop(populations[-1].name).astype(np.int64) >> running.shift
    if content.network.is_graded:
        return dict(own), logits
    return {name: data.astype(np.bool_) for name, data in own.items()}, logits


def stimulus(samples: IntArray, schedule: Schedule) -> NDArray[np.int32]:
    """Lay the signals out in time, int32 (width, height, channel, n_total), silent in flush steps."""
    data = np.zeros((*to_lava(samples.shape[2:]), schedule.n_total), np.int32)
    for sample, steps in zip(samples, schedule.window(0), strict=True):
        data[..., steps] = sample.T  # the last axis is time, of length 1 where the signal is constant
    return data


def gather(data: NDArray[Any], steps: IntArray) -> NDArray[Any]:
    """Pick steps of a (n_total, *Lava shape) recording as (samples, steps, *shape)."""
    picked = data[steps]
    return picked.transpose(0, 1, *reversed(range(2, picked.ndim)))


def main(link: Connection[Any, Any]) -> None:
    """Run each job that comes: the body of the engine's subprocess.

    It sends None when it begins, then a trace or an error for each job, and waits for the next.
    """
    share_without_names()
    link.send(None)
    for job in requests(link):
        link.send(_outcome(job))


def _outcome(job: LavaJob) -> Trace | NctoolError:
    try:
        return answer(job)
    except NctoolError as error:
        return error
    except Exception as error:  # noqa: BLE001 - of whatever kind: the process that started this one is to say it
        return EngineError(f"engine `lava`: {type(error).__name__}: {first_line(error)}", hint=WITHOUT_LAVA)


def answer(job: LavaJob) -> Trace:
    """Run a job; an error says first that the file was replaced, if it was."""
    spikes: Mapping[str, Spikes]
    try:
        if job.foreign_options is None:
            spikes, logits = run(job.model, job.samples, job.n_steps)
        else:
            spikes, logits = run_foreign(job.model, job.samples, job.n_steps, job.foreign_options)
    finally:
        _require_unchanged(job)
    return Trace(spikes, logits, {}, {})


def _require_unchanged(job: LavaJob) -> None:
    """Refuse a file that does not hold the network of the job; the input of a foreign one depends on its samples."""
    if job.network is None:
        return
    if job.foreign_options is None:
        network = read(job.model).network
        same_input = network.input == job.network.input
    else:
        network, same_input = read_layers(job.model, job.samples, job.foreign_options).network, True
    if not same_input or network.populations != job.network.populations:
        raise EngineError(f"`{job.model}` was replaced while Lava ran it", hint="run again, and let the file be")
