"""Run what is to be compared and compare it: the file's known answers, and engines chunk by chunk.

In: a file's content, pixels, engines. Out: a Comparison. What a chunk showed is added to what the chunks before it
showed, so that no trace of a whole data set is held, unless asked for.
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
from nctool.verification.counts import PairDifferences, add, differences
from nctool.verification.divergence import Divergence, first_divergence
from nctool.verification.explain import Place, neighbourhood
from nctool_deploy.lava import engine as lava
from nctool_deploy.netx import KnownAnswers

FILE = "file"
REFERENCE = "reference"


@dataclass(frozen=True)
class Pair:
    """Two sides compared.

    Args:
        differences: how many, and how large.
        first: the first divergence of the first chunk that holds one, with its neighbourhood; None when equal.
    """

    differences: PairDifferences
    first: Divergence | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """One side compared with each other one over some samples.

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
        whole = _add(whole, _compare_chunk(part, engines, start, keep))
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
    counted = differences(network, *both, names)
    if counted.equal:
        return Pair(counted, None)
    found = first_divergence(network, *both, names, first_sample)
    return Pair(counted, None if found is None else _explain(network, samples, both, found, first_sample))


def _explain(
    network: IntNetwork, samples: Samples, both: tuple[Trace, Trace], found: Divergence, first_sample: int = 0
) -> Divergence:
    """Return `found` with its neighbourhood; as it is, where the traces have different shapes and so no place."""
    if found.sample is None or found.step is None or found.neuron is None or isinstance(found.expected, str):
        return found
    number = found.sample - first_sample
    sample = samples[number : number + 1]
    names = (found.expected_by, found.actual_by)
    one, other = (_of_sample(network, sample, name, trace, number) for name, trace in zip(names, both, strict=True))
    place = Place(found.layer, "spike" if found.quantity == "spike" else "logit", found.step, found.neuron)
    return replace(found, neighbourhood=neighbourhood(network, sample, place, (one, other), names))


def _of_sample(network: IntNetwork, sample: Samples, name: str, trace: Trace, number: int) -> Trace:
    """Return one sample of a trace; of the reference engine with its potentials, which it can compute again."""
    chosen = slice(number, number + 1)
    return Trace(
        spikes={layer: spikes[chosen] for layer, spikes in trace.spikes.items()},
        logits=trace.logits[chosen],
        overflows={},
        potentials=reference.simulate(network, sample, potentials=True).potentials if name == REFERENCE else {},
    )


def _add(one: Comparison, other: Comparison) -> Comparison:
    """Add a chunk of samples to the ones before it."""
    if not one.samples:
        return other
    return Comparison(
        samples=one.samples + other.samples,
        pairs=tuple(
            Pair(add(a.differences, b.differences), a.first or b.first)
            for a, b in zip(one.pairs, other.pairs, strict=True)
        ),
        overflows={name: count + other.overflows[name] for name, count in one.overflows.items()},
        seconds={name: seconds + other.seconds[name] for name, seconds in one.seconds.items()},
        traces={name: (*chunks, *other.traces[name]) for name, chunks in one.traces.items()},
    )
