"""Stream many samples through a Network in one run of the Lava CPU simulator.

The Lava engine starts this module in a process of its own:
`python -m nctool_deploy.lava_runner.run MODEL JOB RESULT ...`.

In: an exported file and signals of its input. Out: spikes and the readout's potentials. Must not import torch itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lava.proc.io.extractor import VarWire
from lava.proc.io.source import RingBuffer as Source
from numpy.typing import NDArray

from nctool.network import IntArray
from nctool_deploy.lava_runner.branch import to_lava
from nctool_deploy.lava_runner.foreign import run_foreign
from nctool_deploy.lava_runner.network import STATE_SHIFT, Network
from nctool_deploy.lava_runner.record import BUFFERED_STEPS, run_and_record, tap
from nctool_deploy.lava_runner.stock import stock_network, stock_schedule
from nctool_deploy.netx import read
from nctool_deploy.pipeline import depths
from nctool_deploy.realisations import find_realisation
from nctool_deploy.schedule import Schedule


def run(model: Path, samples: IntArray, n_steps: int) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.int64]]:
    """Stream the signal of some samples through the Lava fixed-point models in one run.

    Args:
        samples: integers (samples, n_steps or 1, *input shape).

    Returns:
        spikes per spiking population, bool (samples, steps, *shape), and the readout's potential after each
        step, int64 (samples, steps, classes).
    """
    content = read(model)
    populations = content.network.populations
    if find_realisation(content.metadata.realisation).is_stock:
        network, schedule = stock_network(model, content, n_steps), stock_schedule(content, len(samples), n_steps)
        potential = network.out_layer.neuron.v
    else:
        network = Network(model, n_samples=len(samples), n_steps=n_steps)
        schedule, potential = network.schedule, network.out_layer.neuron.u
    if len(network.inp.shape) == 1:  # a stock dense layer takes an image in (channel, height, width) order
        samples = samples.reshape(*samples.shape[:2], -1)
    source = Source(data=stimulus(samples, schedule))
    source.s_out.connect(network.inp)
    taps = [tap(block) for block in network.layers[:-1]]
    membrane = VarWire(buffer_size=BUFFERED_STEPS)
    membrane.connect_var(potential)
    recorded = run_and_record(network, [*taps, membrane], schedule.n_total)
    depth = depths(content.network)
    own = {p.name: gather(data, schedule.window(depth[p.name])) for p, data in zip(populations, recorded, strict=True)}
    logits = own.pop(populations[-1].name).astype(np.int64) >> STATE_SHIFT
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


def main(arguments: Sequence[str]) -> None:
    """Run each (model, job, result) of `arguments`, all paths: the body of the engine's subprocess."""
    paths = [Path(argument) for argument in arguments]
    for model, job, result in zip(paths[::3], paths[1::3], paths[2::3], strict=True):
        with np.load(job) as content:
            samples, n_steps = content["samples"], int(content["n_steps"])
            if "layers" in content:
                spikes, logits = run_foreign(model, samples, n_steps, *content["layers"].tolist())
            else:
                spikes, logits = run(model, samples, n_steps)
        np.savez(result, logits=logits, **{f"spikes/{name}": data for name, data in spikes.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
