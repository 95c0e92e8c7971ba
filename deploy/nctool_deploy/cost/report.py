"""What a sample costs on the chip, in the form that reports print (docs/COST.md).

In: traces, while an engine makes them. Out: a CostReport of means over the samples. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nctool.ir.inputs import Samples
from nctool.reference.trace import Trace
from nctool_deploy.cost.operations import OperationCounter, Operations
from nctool_deploy.targets.target import Energy, Target


@dataclass(frozen=True)
class SplitEnergy:
    """Picojoules of one sample, by cause.

    Args:
        synaptic_operations_pj, active_updates_pj, idle_updates_pj, spikes_pj: by cause.
        graded_operations_pj: of the operations of graded spikes, which are not among the synaptic operations here.
        total_pj: their sum. Static power, hops between cores and input and output are not in it.
        basis: what sort of figures they come from.
    """

    synaptic_operations_pj: float
    graded_operations_pj: float
    active_updates_pj: float
    idle_updates_pj: float
    spikes_pj: float
    total_pj: float
    basis: str


@dataclass(frozen=True)
class PopulationCost:
    """Means over the samples of what one population does, of the input, or of all of them.

    Args:
        neurons: 0 for the input.
        spikes: its own; of a graded input, values other than 0 in each step.
        payload_bits: that the numbers which its spikes carry need, one more for each where there is a sign; 0 for
            spikes of one bit.
        bias_spikes: of the always-on sources that drive it (rule R3).
        synaptic_operations: one for each connection that a spike into it uses, those of its autapses and of its
            always-on sources among them.
        graded_operations, autapse_operations, bias_operations: the parts of graded spikes, autapses and sources.
        active_updates: updates of a neuron, one a step, in steps in which it gets a synaptic operation or fires.
        idle_updates: updates in all other steps, the flush step included.
    """

    neurons: int
    spikes: float
    payload_bits: float
    bias_spikes: float
    synaptic_operations: float
    graded_operations: float
    autapse_operations: float
    bias_operations: float
    active_updates: float
    idle_updates: float


@dataclass(frozen=True)
class CostReport:
    """What a sample costs, in the mean over the samples that ran.

    Args:
        target, backend: of the file.
        samples: how many were counted.
        window_steps, flush_steps: time steps of a sample.
        latency_steps: from its first input until its answer stands: the window and one step a layer.
        period_steps: from one sample to the next in a stream.
        populations: the input first.
        total: of all of them.
        energy: None where the target has no figures, or none for an operation of a graded spike where there are some.
        latency_ns: least and largest of what `latency_steps` take at least; None where the target does not say.
    """

    target: str
    backend: str
    samples: int
    window_steps: int
    flush_steps: int
    latency_steps: int
    period_steps: int
    populations: dict[str, PopulationCost]
    total: PopulationCost
    energy: SplitEnergy | None
    latency_ns: tuple[float, float] | None


@dataclass(frozen=True)
class CostMeter:
    """Count operations while traces pass by.

    Args:
        counter: of the network and backend that run.
        target: whose figures the report uses.
        backend: its name, for the report.
    """

    counter: OperationCounter
    target: Target
    backend: str

    def watch(self, traces: Iterable[Trace], samples: Samples) -> Iterator[Trace]:
        """Yield traces as they come and count what they show; `samples` are theirs, in order."""
        start = 0
        for trace in traces:
            self.counter.add(samples[start : start + trace.n_samples], trace)
            start += trace.n_samples
            yield trace

    def report(self) -> CostReport:
        """Return the means of what was counted so far."""
        counter, schedule, step = self.counter, self.counter.schedule, self.target.step_time
        neurons = {population.name: population.n_neurons for population in counter.network.populations}
        n_samples = counter.n_samples
        return CostReport(
            target=self.target.name,
            backend=self.backend,
            samples=n_samples,
            window_steps=schedule.n_steps,
            flush_steps=schedule.flush_steps,
            latency_steps=schedule.latency,
            period_steps=schedule.period,
            populations={
                name: _mean(operations, neurons.get(name, 0), n_samples)
                for name, operations in counter.operations.items()
            },
            total=_mean(counter.total, sum(neurons.values()), n_samples),
            energy=split_energy(counter.total, n_samples, self.target.energy),
            latency_ns=(step.low_ns * schedule.latency, step.high_ns * schedule.latency) if step else None,
        )


def split_energy(operations: Operations, n_samples: int, figures: Energy | None) -> SplitEnergy | None:
    """Return what a sample costs, of `n_samples` that took `operations` together; None where a figure is missing."""
    graded = operations.graded_operations
    if figures is None or (graded and figures.graded_operation is None):
        return None
    synaptic_operations, graded_operations, active_updates, idle_updates, spikes = (
        count * figure.pj / n_samples if figure else 0.0
        for count, figure in (
            (operations.synaptic_operations - graded, figures.synaptic_operation),
            (graded, figures.graded_operation),
            (operations.active_updates, figures.active_update),
            (operations.idle_updates, figures.idle_update),
            (operations.all_spikes, figures.spike),
        )
    )
    return SplitEnergy(
        synaptic_operations_pj=synaptic_operations,
        graded_operations_pj=graded_operations,
        active_updates_pj=active_updates,
        idle_updates_pj=idle_updates,
        spikes_pj=spikes,
        total_pj=synaptic_operations + graded_operations + active_updates + idle_updates + spikes,
        basis=figures.basis,
    )


def _mean(operations: Operations, neurons: int, n_samples: int) -> PopulationCost:
    return PopulationCost(
        neurons=neurons,
        spikes=operations.spikes / n_samples,
        payload_bits=operations.payload_bits / n_samples,
        bias_spikes=operations.bias_spikes / n_samples,
        synaptic_operations=operations.synaptic_operations / n_samples,
        graded_operations=operations.graded_operations / n_samples,
        autapse_operations=operations.autapse_operations / n_samples,
        bias_operations=operations.bias_operations / n_samples,
        active_updates=operations.active_updates / n_samples,
        idle_updates=operations.idle_updates / n_samples,
    )
