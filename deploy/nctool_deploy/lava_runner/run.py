"""Stream many samples through a Network in one run of the Lava CPU simulator.

The Lava engine starts this module in a process of its own:
`python -m nctool_deploy.lava_runner.run MODEL JOB RESULT ...`.

In: an exported file and encoded samples. Out: spikes and the readout's potentials. Must not import torch itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import Read
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source
from numpy.typing import NDArray

from nctool.network import IntArray
from nctool_deploy.lava_runner.network import STATE_SHIFT, Network, Schedule, to_lava


def run(model: Path, samples: NDArray[np.int8], n_steps: int) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.int64]]:
    """Stream encoded samples through the Lava fixed-point models in one run.

    Args:
        samples: int8 (samples, *input shape), as `InputEncoding.encode` returns.

    Returns:
        spikes per spiking population, bool (samples, steps, *shape), and the readout's potential after each
        step, int64 (samples, steps, classes).
    """
    network = Network(model, n_samples=len(samples), n_steps=n_steps)
    schedule = network.schedule
    source = Source(data=stimulus(samples, schedule))
    source.s_out.connect(network.inp)
    sinks = [Sink(shape=block.shape, buffer=schedule.n_total) for block in network.layers[:-1]]
    for block, sink in zip(network.layers, sinks, strict=False):
        block.out.connect(sink.a_in)
    logits = Read(buffer=schedule.n_total)
    logits.connect_var(network.out_layer.neuron.u)
    try:
        network.run(condition=RunSteps(num_steps=schedule.n_total), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        recorded = [sink.data.get() for sink in sinks]
        potentials = logits.data.get()
    finally:
        network.stop()
    spikes = {
        population.name: gather(data, schedule.window(layer)).astype(np.bool_)
        for layer, (population, data) in enumerate(
            zip(network.lowered.network.populations[:-1], recorded, strict=True), start=1
        )
    }
    return spikes, gather(potentials, schedule.window(schedule.n_layers)).astype(np.int64) >> STATE_SHIFT


def stimulus(samples: NDArray[np.int8], schedule: Schedule) -> NDArray[np.int32]:
    """Lay the samples out in time, int32 (width, height, channel, n_total), silent in flush steps."""
    data = np.zeros((*to_lava(samples.shape[1:]), schedule.n_total), np.int32)
    for sample, steps in zip(samples, schedule.window(0), strict=True):
        data[..., steps] = sample.T[..., np.newaxis]
    return data


def gather(data: NDArray[Any], steps: IntArray) -> NDArray[Any]:
    """Pick steps of a (*Lava shape, n_total) recording as (samples, steps, *shape)."""
    return np.moveaxis(data[..., steps].T, 0, 1)


def main(arguments: Sequence[str]) -> None:
    """Run each (model, job, result) of `arguments`, all paths: the body of the engine's subprocess."""
    paths = [Path(argument) for argument in arguments]
    for model, job, result in zip(paths[::3], paths[1::3], paths[2::3], strict=True):
        with np.load(job) as content:
            spikes, logits = run(model, content["samples"], int(content["n_steps"]))
        np.savez(result, logits=logits, **{f"spikes/{name}": data for name, data in spikes.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
