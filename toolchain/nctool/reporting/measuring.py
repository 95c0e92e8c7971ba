"""Run a network on samples, and keep what a page shows: accuracies, answers, spikes, the cost of a sample.

All samples give logits; some of them give every spike, and a few are shown one by one. How many follows from the size
of the network, so that a page takes seconds to a minute, whatever the network.

In: a Subject with its samples. Out: frozen dataclasses of arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import NctoolError
from nctool.fast.engine import FastEngine
from nctool.ir.inputs import Samples
from nctool.ir.network import IntNetwork
from nctool.reference.trace import Trace
from nctool.running.model_file import ModelFile
from nctool_deploy.cost.report import CostReport

ALL_WORK = 10**12
"""Synaptic operations that the accuracy may take, if every neuron spiked: some ten seconds."""

SPIKE_WORK = 4 * 10**10
"""The same of the samples whose every spike is looked at."""

FEWEST, MOST_SPIKES = 8, 256
"""Samples whose every spike is looked at."""

SPIKE_VALUES = 2**26
"""Spike values that are held at a time."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of a network.

    Args:
        name: of the data set and split, or of the file.
        content: the network, set up for them.
        samples: what it takes.
        labels: int64 (samples,); None where there are none.
        available: how many there are of which these are the first.
        instead_of: why these are not the samples of a data set; empty where they are, or are the user's own.
    """

    name: str
    content: ModelFile
    samples: Samples
    labels: Labels | None
    available: int
    instead_of: str = ""

    @property
    def why_no_labels(self) -> str:
        """Return why nothing is known of right answers."""
        return f"the samples have no labels{f' ({self.instead_of})' if self.instead_of else ''}"

    @property
    def network(self) -> IntNetwork:
        """Return the network."""
        return self.content.network


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answers.

    Args:
        accuracy: of the answers after each step, 0..1, float64 (steps,); None without labels.
        logits: after the whole window, int64 (samples, classes).
    """

    accuracy: NDArray[np.float64] | None
    logits: NDArray[np.int64]

    @property
    def answers(self) -> Labels:
        """Return the class of the largest logit, the first of equal ones, int64 (samples,)."""
        found: Labels = self.logits.argmax(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class Activity:
    """How often neurons fire.

    Args:
        samples: that were looked at.
        spikes: by population, of each neuron over all of them, int64 (neurons,).
        cost: what a sample costs on the chip; None for a file of another tool.
        no_cost: why there is none.
    """

    samples: int
    spikes: Mapping[str, NDArray[np.int64]]
    cost: CostReport | None
    no_cost: str


def connections(network: IntNetwork) -> int:
    """Return the synaptic operations of a sample if every neuron spiked at every step."""
    return max(1, network.n_steps * sum(network.synapse_count(population) for population in network.populations))


def n_within(work: int, network: IntNetwork, least: int, most: int) -> int:
    """Return how many samples take at most so many operations, `least`..`most`."""
    return max(least, min(most, work // connections(network)))


def answer_all(data: Data, device: str, told: Callable[[int, int], None]) -> Answers:
    """Run all samples on the fast engine.

    Args:
        told: called with the samples done and to do.
    """
    n_samples, n_steps, done = len(data.samples), data.network.n_steps, 0
    right, last = np.zeros(n_steps), []
    for summary in FastEngine(data.network, device=device).summaries(data.samples):
        size = len(summary.logits)
        if data.labels is not None:
            right += (summary.logits.argmax(axis=2) == data.labels[done : done + size, np.newaxis]).sum(axis=0)
        last.append(summary.logits[:, -1].reshape(size, -1))
        done += size
        told(done, n_samples)
    return Answers(None if data.labels is None else right / n_samples, np.concatenate(last))


def watch_spikes(data: Data, device: str, told: Callable[[int, int], None]) -> Activity:
    """Count the spikes of each neuron, and what they cost, on the first samples."""
    network = data.network
    samples = data.samples[: min(len(data.samples), n_within(SPIKE_WORK, network, FEWEST, MOST_SPIKES))]
    meter, no_cost = None, ""
    try:
        meter = data.content.cost_meter()
    except NctoolError as error:
        no_cost = error.message
    passing = _traces(network, samples, device)
    spikes: dict[str, NDArray[np.int64]] = {}
    done = 0
    for trace in passing if meter is None else meter.watch(passing, samples):
        for name, fired in trace.spikes.items():
            counts = np.count_nonzero(fired.reshape(len(fired) * fired.shape[1], -1), axis=0)
            spikes[name] = spikes.get(name, 0) + counts
        done += trace.n_samples
        told(done, len(samples))
    return Activity(len(samples), spikes, None if meter is None else meter.report(), no_cost)


def trace_of(data: Data, numbers: Sequence[int], device: str) -> Iterator[Trace]:
    """Yield the trace of each sample, by its number."""
    for number in numbers:
        yield from FastEngine(data.network, device=device).traces(data.samples[number : number + 1])


def _traces(network: IntNetwork, samples: Samples, device: str) -> Iterator[Trace]:
    """Yield traces of so few samples at a time that their spikes fit into memory."""
    values = network.n_steps * sum(population.n_neurons for population in network.populations)
    size, engine = max(1, SPIKE_VALUES // values), FastEngine(network, device=device)
    for start in range(0, len(samples), size):
        yield from engine.traces(samples[start : start + size])


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
