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
from lava.proc.io.extractor import Extractor, PyLoihiExtractorModel, VarWire
from lava.proc.io.source import RingBuffer as Source
from numpy.typing import NDArray

from nctool.network import IntArray
from nctool_deploy.lava_runner.network import STATE_SHIFT, IFBlock, Network, to_lava
from nctool_deploy.schedule import Schedule

BUFFERED_STEPS = 32
"""Steps that a layer may run ahead of the recording."""


def run(model: Path, samples: NDArray[np.int8], n_steps: int) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.int64]]:
    """Stream encoded samples through the Lava fixed-point models in one run.

    Args:
        samples: int8 (samples, *input shape), as `InputEncoding.encode` returns.

    Returns:
        spikes per spiking population, bool (samples, steps, *shape), and the readout's potential after each
        step, int64 (samples, steps, classes).
    """
    network = Network(model, n_samples=len(samples), n_steps=n_steps)
    schedule, populations = network.schedule, network.lowered.network.populations
    source = Source(data=stimulus(samples, schedule))
    source.s_out.connect(network.inp)
    taps = [_tap(block) for block in network.layers[:-1]]
    membrane = VarWire(buffer_size=BUFFERED_STEPS)
    membrane.connect_var(network.out_layer.neuron.u)
    recorded = _run_and_record(network, [*taps, membrane])
    spikes = {
        population.name: gather(data, schedule.window(layer)).astype(np.bool_)
        for layer, (population, data) in enumerate(zip(populations[:-1], recorded[:-1], strict=True), start=1)
    }
    return spikes, gather(recorded[-1], schedule.window(schedule.n_layers)).astype(np.int64) >> STATE_SHIFT


def _tap(block: IFBlock) -> Extractor:
    """Return an extractor of the spikes of `block`: reading a Var after the run would send one element a message."""
    tap = Extractor(shape=block.shape, buffer_size=BUFFERED_STEPS)
    block.out.connect(tap.in_port)
    return tap


def _run_and_record(network: Network, wires: Sequence[Extractor | VarWire]) -> list[NDArray[np.int32]]:
    """Run the whole schedule; return what each wire carried, (n_total, *Lava shape)."""
    n_total = network.schedule.n_total
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map={Extractor: PyLoihiExtractorModel})
    try:
        network.run(condition=RunSteps(num_steps=n_total, blocking=False), run_cfg=config)
        first = [wire.receive() for wire in wires]
        recorded = [np.empty((n_total, *values.shape), np.int32) for values in first]
        for step in range(n_total):
            for values, wire, store in zip(first, wires, recorded, strict=True):
                store[step] = values if step == 0 else wire.receive()
        network.wait()
    finally:
        network.stop()
    return recorded


def stimulus(samples: NDArray[np.int8], schedule: Schedule) -> NDArray[np.int32]:
    """Lay the samples out in time, int32 (width, height, channel, n_total), silent in flush steps."""
    data = np.zeros((*to_lava(samples.shape[1:]), schedule.n_total), np.int32)
    for sample, steps in zip(samples, schedule.window(0), strict=True):
        data[..., steps] = sample.T[..., np.newaxis]
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
            spikes, logits = run(model, content["samples"], int(content["n_steps"]))
        np.savez(result, logits=logits, **{f"spikes/{name}": data for name, data in spikes.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
