"""Compare engines with each other chunk by chunk, and the reference engine with the known answers of a file.

In: a file's content, pixels, engines. Out: a Comparison. The counts of the chunks add up, so no
trace of a whole data set is held unless asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nctool.ir.inputs import Samples
from nctool.ir.network import IntNetwork
from nctool.progress import ProgressCallback
from nctool.reference import simulate as reference
from nctool.reference.trace import Trace, join
from nctool.running.engines import Job, traces
from nctool.verification.counts import PairCounts, compare_traces
from nctool.verification.divergence import Divergence, first_divergence
from nctool.verification.explain import Place, explain
from nctool_deploy.lava import engine as lava
from nctool_deploy.netx import KnownAnswers

FILE = "file"
REFERENCE = "reference"


@dataclass(frozen=True)
class Pair:
    """The comparison of two sides.

    Args:
        counts: how many values differ, and by how much.
        first: the first divergence of the first chunk that holds one, with its neighbourhood; None when equal.
    """

    counts: PairCounts
    first: Divergence | None

    def __add__(self, later: Pair) -> Pair:
        return Pair(self.counts + later.counts, self.first or later.first)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The comparison of a standard with each of the other sides over some samples.

    Args:
        samples: how many.
        pairs: one for each side but the first, which is the standard.
        overflows: by engine, accumulated inputs that left the accumulator (rule O1); engines that cannot tell left out.
        seconds: by engine, the wall time of its run.
        traces: by side, in consecutive chunks; empty unless kept.
    """

    samples: int = 0
    pairs: tuple[Pair, ...] = ()
    overflows: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    traces: Mapping[str, tuple[Trace, ...]] = field(default_factory=dict)

    def __add__(self, later: Comparison) -> Comparison:
        if not self.samples:
            return later
        return Comparison(
            samples=self.samples + later.samples,
            pairs=tuple(mine + its for mine, its in zip(self.pairs, later.pairs, strict=True)),
            overflows={name: count + later.overflows[name] for name, count in self.overflows.items()},
            seconds={name: seconds + later.seconds[name] for name, seconds in self.seconds.items()},
            traces={name: (*chunks, *later.traces[name]) for name, chunks in self.traces.items()},
        )

    @property
    def first(self) -> Divergence | None:
        """Return the first divergence of the first pair that differs."""
        return next((pair.first for pair in self.pairs if pair.first is not None), None)


def compare_known_answers(network: IntNetwork, answers: KnownAnswers, *, keep: bool = False) -> Comparison:
    """Compare what the reference engine says of the known inputs of a file with its answers.

    Args:
        keep: keep the traces of both, with the potentials.
    """
    start = time.perf_counter()
    trace = reference.simulate(network, answers.pixels, potentials=keep)
    seconds = time.perf_counter() - start
    return Comparison(
        samples=len(answers.pixels),
        pairs=(_compare(network, answers.pixels, (answers.trace, trace), (FILE, REFERENCE), 0),),
        overflows=_overflows(REFERENCE, trace),
        seconds={REFERENCE: seconds},
        traces={FILE: (answers.trace,), REFERENCE: (trace,)} if keep else {},
    )


def compare_engines(
    job: Job, engines: Sequence[str], *, all_differences: bool, keep: bool, progress: ProgressCallback
) -> Comparison:
    """Run `job` on every engine and compare each with the first.

    Args:
        all_differences: go on to the last sample; otherwise the first chunk that holds a difference is the last one.
        keep: keep every trace, of the reference engine with the potentials.
        progress: called with the samples done and to do.
    """
    job, n_samples = replace(job, potentials=keep), len(job.pixels)
    chunk = lava.samples_per_run(job.network, job.network.n_steps)
    whole = Comparison()
    progress(0, n_samples)
    for start in range(0, n_samples, chunk):
        part = replace(job, pixels=job.pixels[start : start + chunk])
        whole += _compare_chunk(part, engines, start, keep)
        progress(whole.samples, n_samples)
        if whole.first is not None and not all_differences:
            break
    return whole


def _compare_chunk(job: Job, engines: Sequence[str], first_sample: int, keep: bool) -> Comparison:
    """Run the engines one after the other; beside the first one's trace, one other is held at a time."""
    pairs: list[Pair] = []
    overflows, seconds, kept = {}, {}, {}
    for engine in engines:
        start = time.perf_counter()
        trace = join(traces(engine, job))
        seconds[engine] = time.perf_counter() - start
        overflows.update(_overflows(engine, trace))
        if keep:
            kept[engine] = (trace,)
        if engine == engines[0]:
            expected = trace
        else:
            both, names = (expected, trace), (engines[0], engine)
            pairs.append(_compare(job.network, job.pixels, both, names, first_sample))
    return Comparison(len(job.pixels), tuple(pairs), overflows, seconds, kept)


def _overflows(engine: str, trace: Trace) -> dict[str, int]:
    return {engine: sum(trace.overflows.values())} if trace.overflows else {}


def _compare(
    network: IntNetwork, samples: Samples, both: tuple[Trace, Trace], names: tuple[str, str], first_sample: int
) -> Pair:
    counts = compare_traces(network, *both, names)
    if counts.equal:
        return Pair(counts, None)
    divergence = first_divergence(network, *both, names, first_sample)
    if divergence is not None:
        divergence = _explained(network, samples, both, divergence, first_sample)
    return Pair(counts, divergence)


def _explained(
    network: IntNetwork, samples: Samples, both: tuple[Trace, Trace], divergence: Divergence, first_sample: int
) -> Divergence:
    """Return a divergence with its neighbourhood; traces of different shapes have none."""
    number, step, neuron = divergence.sample, divergence.step, divergence.neuron
    if number is None or step is None or neuron is None or isinstance(divergence.expected, str):
        return divergence
    in_chunk = number - first_sample
    sample, names = samples[in_chunk : in_chunk + 1], (divergence.expected_by, divergence.actual_by)
    expected, actual = (
        _of_sample(network, sample, name, trace, in_chunk) for name, trace in zip(names, both, strict=True)
    )
    place = Place(divergence.layer, "spike" if divergence.quantity == "spike" else "logit", step, neuron)
    return replace(divergence, neighbourhood=explain(network, sample, place, (expected, actual), names))


def _of_sample(network: IntNetwork, sample: Samples, name: str, trace: Trace, number: int) -> Trace:
    """Return one sample of a trace; for the reference engine, its potentials are computed again."""
    chosen = slice(number, number + 1)
    return Trace(
        spikes={layer: spikes[chosen] for layer, spikes in trace.spikes.items()},
        logits=trace.logits[chosen],
        overflows={},
        potentials=reference.simulate(network, sample, potentials=True).potentials if name == REFERENCE else {},
    )
