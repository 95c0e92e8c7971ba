"""The reference engine: the living definition of docs/SEMANTICS.md, in NumPy int64.

Written to be read. Populations are computed one after the other, each over the whole window: the graph has
no recurrence across populations, so this equals stepping all of them together (rule N2).

In: an IntNetwork and samples. Out: a Trace. Must not import torch, nor any other engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from nctool.errors import RangeError
from nctool.ir.inputs import Samples
from nctool.ir.network import INPUT_NAME, CurrentBased, IntArray, IntNetwork, Population, Readout
from nctool.reference.neurons import Int64, Run, current_based, graded, integrate_and_fire
from nctool.reference.signal import input_signal
from nctool.reference.synapses import graded_input, registered_input, synaptic_input
from nctool.reference.trace import Trace, join

BATCH = 16


def simulate(network: IntNetwork, samples: Samples, *, n_steps: int | None = None, potentials: bool = False) -> Trace:
    """Run `network` on `samples` and return its trace.

    Args:
        samples: at least one; uint8 pixels (samples, *input shape), or integers as `IntegerInput.signal` takes them.
        n_steps: length of the window; the network's own by default.
        potentials: also keep the membrane potentials of every population.

    Raises:
        RangeError: the samples do not fit the input, there is no sample, or there is no such window.
    """
    return join(stream(network, samples, n_steps=n_steps, potentials=potentials))


def stream(
    network: IntNetwork,
    samples: Samples,
    *,
    n_steps: int | None = None,
    potentials: bool = False,
    batch: int = BATCH,
) -> Iterator[Trace]:
    """Yield the traces of consecutive batches, so that memory does not grow with the data set."""
    n_steps = network.window(n_steps)
    if len(samples) == 0:
        raise RangeError("simulation: number of samples is 0, allowed >= 1")
    return (_window(network, samples[i : i + batch], n_steps, potentials) for i in range(0, len(samples), batch))


def _window(network: IntNetwork, samples: Samples, n_steps: int, potentials: bool) -> Trace:
    signals: dict[str, IntArray] = {INPUT_NAME: input_signal(network, samples, n_steps)}
    runs: dict[str, Run] = {}
    for population in network.populations:
        run = run_population(population, signals, network.latency + n_steps, network.latency)
        signals[population.name] = run.spikes.astype(np.int64)
        runs[population.name] = replace(
            run, spikes=run.spikes[:, network.latency :], potentials=run.potentials[:, network.latency :]
        )
    return Trace(
        spikes={p.name: runs[p.name].spikes for p in network.populations if not isinstance(p.neuron, Readout)},
        logits=logits(network.readout, runs[network.readout.name]),
        overflows={name: run.overflows for name, run in runs.items()},
        potentials={name: run.potentials for name, run in runs.items()} if potentials else {},
    )


def run_population(population: Population, signals: Mapping[str, IntArray], n_steps: int, latency: int = 0) -> Run:
    """Step one population through a window.

    Args:
        signals: per source, int64 (samples, n_steps or 1, *source shape).
        n_steps: length of the window and of what comes before it.
        latency: how many of the steps come before time step 1.
    """
    bias = population.per_neuron(population.bias)
    if isinstance(population.neuron, CurrentBased):
        return _run_current_based(population, population.neuron, bias, signals, n_steps, latency)
    if population.neuron.is_graded:
        return _run_graded(population, bias, signals, n_steps)
    drive = bias
    for synapse in population.synapses:
        drive = drive + synaptic_input(synapse, signals[synapse.source], n_steps)
    return integrate_and_fire(population, drive)


def _run_graded(population: Population, bias: Int64, signals: Mapping[str, IntArray], n_steps: int) -> Run:
    """Step a graded population; the arguments are those of `run_population`, with the bias per neuron."""
    drive, beyond = bias, 0
    for synapse in population.synapses:
        arriving, sums_beyond = graded_input(synapse, signals[synapse.source], n_steps)
        drive, beyond = drive + arriving, beyond + sums_beyond
    run = graded(population, drive)
    return replace(run, overflows=run.overflows + beyond)


def _run_current_based(
    population: Population,
    neuron: CurrentBased,
    bias: Int64,
    signals: Mapping[str, IntArray],
    n_steps: int,
    latency: int,
) -> Run:
    """Step a current-based population; the arguments are those of `run_population`, with the bias per neuron."""
    if not population.synapses:
        bias = bias + signals[INPUT_NAME][:, -1]  # I3
    n_samples = len(next(iter(signals.values())))
    weighted, changed = np.zeros((n_samples, n_steps, *population.shape), np.int64), 0
    for synapse in population.feedforward:
        arriving, sums_changed = registered_input(synapse, signals[synapse.source], n_steps)
        weighted, changed = weighted + arriving, changed + sums_changed
    run = current_based(population, neuron, weighted, bias, latency)
    return replace(run, overflows=run.overflows + changed)


def logits(population: Population, run: Run) -> Int64:
    """Return the answer of the last population after each step, int64 (samples, steps, neurons) (rules S4 and C6)."""
    shape = (*run.spikes.shape[:2], -1)
    if population.neuron.answers_by_count:
        return run.spikes.reshape(shape).cumsum(axis=1, dtype=np.int64)
    return np.where(run.spikes, 0, run.potentials).reshape(shape)  # a readout never fires
