"""What a sample costs on the chip, in the form that reports print (docs/COST.md).

In: traces, while an engine makes them. Out: a CostReport of means over the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nctool.errors import UnsupportedError, UsageError
from nctool.ir.inputs import Samples
from nctool.reference.trace import Trace
from nctool.running.models import Content
from nctool.torchrun import rank_and_size
from nctool_deploy.backends.backend import find_realisation
from nctool_deploy.cost.energy import SplitEnergy, split_energy
from nctool_deploy.cost.operations import OperationCounter, Operations
from nctool_deploy.netx import NetxFile
from nctool_deploy.targets.target import Target


@dataclass(frozen=True)
class PopulationCost:
    """Means over the samples of what one population does, of the input, or of all of them.

    Args:
        neurons: 0 for the input.
        spikes: its own; of a graded input, values other than 0 in each step.
        bias_spikes: of the always-on sources that drive it (rule R3).
        synaptic_operations: one for each connection that a spike into it uses, those of its autapses and of its
            always-on sources among them.
        autapse_operations, bias_operations: these two parts.
        active_updates: updates of a neuron, one a step, in steps in which it gets a synaptic operation or fires.
        idle_updates: updates in all other steps, the flush step included.
    """

    neurons: int
    spikes: float
    bias_spikes: float
    synaptic_operations: float
    autapse_operations: float
    bias_operations: float
    active_updates: float
    idle_updates: float


@dataclass(frozen=True)
class CostReport:
    """What a sample costs, in the mean over the samples that ran.

    Args:
        target, realisation: of the file.
        samples: how many were counted.
        window_steps, flush_steps: time steps of a sample.
        latency_steps: from its first input until its answer stands: the window and one step a layer.
        period_steps: from one sample to the next in a stream.
        populations: the input first.
        total: of all of them.
        energy: None where the target has no figures.
        latency_ns: least and largest of what `latency_steps` take at least; None where the target does not say.
    """

    target: str
    realisation: str
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
        counter: of the network and realisation that run.
        target: whose figures the report uses.
        realisation: its name, for the report.
    """

    counter: OperationCounter
    target: Target
    realisation: str

    def watch(self, traces: Iterable[Trace], samples: Samples) -> Iterator[Trace]:
        """Yield traces as they come and count what they show; `samples` are theirs, in order."""
        start = 0
        for trace in traces:
            self.counter.add(samples[start : start + trace.n_samples], trace)
            start += trace.n_samples
            yield trace

    def report(self) -> CostReport:
        """Return the means of what was counted so far."""
        counter, timing, step = self.counter, self.counter.timing, self.target.step_time
        neurons = {population.name: population.n_neurons for population in counter.network.populations}
        figures, n_samples = self.target.energy, counter.n_samples
        return CostReport(
            target=self.target.name,
            realisation=self.realisation,
            samples=n_samples,
            window_steps=timing.window_steps,
            flush_steps=timing.flush_steps,
            latency_steps=timing.latency_steps,
            period_steps=timing.period_steps,
            populations={
                name: _mean(operations, neurons.get(name, 0), n_samples)
                for name, operations in counter.operations.items()
            },
            total=_mean(counter.total, sum(neurons.values()), n_samples),
            energy=split_energy(counter.total, n_samples, figures) if figures else None,
            latency_ns=(step.low_ns * timing.latency_steps, step.high_ns * timing.latency_steps) if step else None,
        )


def meter_for(content: Content, workers: int) -> CostMeter:
    """Return a meter for an exported file.

    Raises:
        UnsupportedError: the file is one of another tool.
        UsageError: more than one process would count.
    """
    if not isinstance(content, NetxFile):
        raise UnsupportedError(
            "cost: the file is netx of another tool, allowed one that nctool exported",
            hint="leave --cost out: spikes per layer are reported all the same",
        )
    if max(workers, rank_and_size()[1]) > 1:
        raise UsageError("cost: counted by one process, allowed one worker", hint="leave --workers out")
    realisation = find_realisation(content.metadata.realisation)
    return CostMeter(OperationCounter(content.network, realisation), content.metadata.chip, realisation.name)


def _mean(operations: Operations, neurons: int, n_samples: int) -> PopulationCost:
    return PopulationCost(
        neurons=neurons,
        spikes=operations.spikes / n_samples,
        bias_spikes=operations.bias_spikes / n_samples,
        synaptic_operations=operations.synaptic_operations / n_samples,
        autapse_operations=operations.autapse_operations / n_samples,
        bias_operations=operations.bias_operations / n_samples,
        active_updates=operations.active_updates / n_samples,
        idle_updates=operations.idle_updates / n_samples,
    )
