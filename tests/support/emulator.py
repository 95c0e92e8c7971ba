"""Brian2Loihi, an emulator of Loihi that shares no code with Lava nor with us, run in a process of its own.

Source: Michaelis et al., Brian2Loihi: An emulator for the neuromorphic chip Loihi using the spiking neural network
simulator Brian, Frontiers in Neuroinformatics 16, 2022.

Brian takes over the logging, the warnings and the exception hook of the process that imports it. So this file is the
program of that process too: chains of layers in as JSON, what they did out as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layer:
    """A dense layer as the emulator takes it.

    Args:
        mantissa: (out, in), -256..254, even: the signs are mixed. A weight is mantissa * 2**exponent.
        delay: of all synapses, or (out, in).
        refractory: steps in which a neuron that fired does not compute, the one of the spike included.
    """

    mantissa: Any
    exponent: int
    threshold: int
    current_decay: int
    voltage_decay: int
    delay: Any = 0
    refractory: int = 1


@dataclass(frozen=True)
class Chain:
    """Layers that drive each other, the first driven by spikes, 0 or 1 (steps, neurons)."""

    spikes: Any
    layers: Sequence[Layer]


@dataclass(frozen=True)
class Record:
    """What a layer did in each step, (steps, neurons): the voltage is that after the reset."""

    spikes: np.ndarray
    currents: np.ndarray
    voltages: np.ndarray


def emulate(chains: Sequence[Chain], n_steps: int) -> list[list[Record]]:
    """Run chains for `n_steps` and return what each layer did, in the time of the whole chain.

    A layer gets the spikes of the one before it a step later, and those of the input at once.
    """
    job = json.dumps({"n_steps": n_steps, "chains": [asdict(chain) for chain in chains]}, default=np.ndarray.tolist)
    command = [sys.executable, "-W", "ignore", __file__]
    found = subprocess.run(command, input=job, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    return [[Record(*(np.array(values) for values in layer)) for layer in chain] for chain in answer]


def main() -> None:
    """Read a job, run it and write the answer."""
    job = json.load(sys.stdin)
    from brian2 import prefs
    from brian2_loihi import LoihiNetwork

    prefs.codegen.target = "numpy"  # no compiler
    network = LoihiNetwork()
    chains = [Chain(c["spikes"], [Layer(**layer) for layer in c["layers"]]) for c in job["chains"]]
    monitors = [_add(network, chain) for chain in chains]
    network.run(job["n_steps"])
    json.dump([[_record(*three, job["n_steps"]) for three in chain] for chain in monitors], sys.stdout)


def _add(network: Any, chain: Chain) -> list[tuple[Any, Any, Any]]:
    """Add a chain to a network; return the monitors of spikes, current and voltage of every layer."""
    from brian2_loihi import LoihiNeuronGroup, LoihiSpikeGeneratorGroup, LoihiSpikeMonitor, LoihiStateMonitor

    spikes, monitors = np.array(chain.spikes), []
    times, indices = np.nonzero(spikes)
    source = LoihiSpikeGeneratorGroup(spikes.shape[1], indices, times)
    network.add(source)
    for layer in chain.layers:
        target = LoihiNeuronGroup(
            len(layer.mantissa),
            refractory=layer.refractory,
            threshold_v_mant=layer.threshold,
            decay_v=layer.voltage_decay,
            decay_I=layer.current_decay,
        )
        monitors.append((LoihiSpikeMonitor(target), LoihiStateMonitor(target, "I"), LoihiStateMonitor(target, "v")))
        network.add(target, *_synapses(source, target, layer), *monitors[-1])
        source = target
    return monitors


def _synapses(source: Any, target: Any, layer: Layer) -> list[Any]:
    """Connect two groups by one set of synapses for each delay."""
    from brian2_loihi import LoihiSynapses, synapse_sign_mode

    mantissa, parts = np.array(layer.mantissa), []
    delay = np.broadcast_to(np.array(layer.delay), mantissa.shape)
    for value in np.unique(delay):
        out, into = np.nonzero(delay == value)
        part = LoihiSynapses(source, target, delay=int(value), w_exp=layer.exponent, sign_mode=synapse_sign_mode.MIXED)
        part.connect(i=into, j=out)
        part.w = mantissa[out, into]
        parts.append(part)
    return parts


def _record(fired: Any, current: Any, voltage: Any, n_steps: int) -> list[Any]:
    """Return spikes, currents and voltages as lists, (steps, neurons)."""
    spikes = np.zeros((n_steps, len(voltage.v)), int)
    spikes[np.asarray(fired.t, int), np.asarray(fired.i)] = 1
    return [spikes.tolist(), np.asarray(current.I).T.astype(int).tolist(), np.asarray(voltage.v).T.astype(int).tolist()]


if __name__ == "__main__":
    main()
