"""Compare engines while a page is made, and say what was compared, and what was not.

In: a network with samples, names of engines. Out: a Judgement. Nothing is called equal that was not compared here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nctool.ir.inputs import Samples
from nctool.ir.network import IntNetwork
from nctool.reference.trace import Trace
from nctool.reporting.elements import Verdict
from nctool.reporting.measuring import n_within
from nctool.running.engines import Job
from nctool.running.model_file import ModelFile
from nctool.verification.compare import Comparison, compare_engines, compare_known_answers
from nctool_deploy.netx import KnownAnswers

REFERENCE_WORK = 2 * 10**10
"""Synaptic operations that the reference engine may take, if every neuron spiked: some ten seconds."""

MOST_COMPARED = 16
"""Samples that are compared unasked."""

OPTION = "--verify"


@dataclass(frozen=True)
class Judgement:
    """What the comparison found.

    Args:
        is_equal: None where nothing was compared.
        engines: that ran, the standard first; none where the file is not what was exported.
        samples, spikes, logits: that every engine gave, and the values that were compared.
        known_answers: of the file that were compared with the reference engine.
        verdict: of the page.
    """

    is_equal: bool | None
    engines: tuple[str, ...]
    samples: int
    spikes: int
    logits: int
    known_answers: int
    verdict: Verdict

    @property
    def may_run(self) -> bool:
        """Return whether figures of a run would be those of the network that was exported."""
        return self.is_equal is not False


def default_samples(network: IntNetwork) -> int:
    """Return how many samples are compared where nobody says how many."""
    return n_within(REFERENCE_WORK, network, 1, MOST_COMPARED)


def judge(
    path: Path,
    content: ModelFile,
    samples: Samples | None,
    named: str,
    engines: Sequence[str],
    n_samples: int,
    timeout_s: float,
    told: Callable[[int, int], None],
) -> Judgement:
    """Check a file against its digests and known answers, and run the engines on samples.

    Args:
        samples: to run; None for none at all.
        named: what they are called; why there are none where there are none.
        engines: the first one is the standard.
        n_samples: how many are compared, 0 for none.
        timeout_s: seconds that one run of the Lava subprocess may take.
        told: called with the samples done and to do.
    """
    if content.changes:
        return _different(content.changes.values(), None)
    if n_samples == 0:
        return _open(f"nothing was compared: {OPTION} is 0; `nctool verify {path}` does it")
    known = None if content.known_answers is None else _known(content.network, content.known_answers, n_samples)
    if known is not None and known.first is not None:
        return _different([f"known answers of the file: {known.first}"], known)
    run = None
    if samples is not None and len(engines) > 1:
        job = Job(path, content, samples[:n_samples], timeout_s=timeout_s)
        run = compare_engines(
            job, engines, all_differences=False, keep=False, progress=lambda done, total, _="": told(done, total)
        )
    return _judged(content, known, run, named, tuple(engines))


def _known(network: IntNetwork, answers: KnownAnswers, n_samples: int) -> Comparison:
    """Compare the first of the known answers with what the reference engine says."""
    trace = answers.trace
    first = Trace(
        spikes={name: spikes[:n_samples] for name, spikes in trace.spikes.items()},
        logits=trace.logits[:n_samples],
        overflows=trace.overflows,
        potentials={},
    )
    return compare_known_answers(network, replace(answers, pixels=answers.pixels[:n_samples], trace=first))


def _judged(
    content: ModelFile, known: Comparison | None, run: Comparison | None, named: str, engines: tuple[str, ...]
) -> Judgement:
    if run is not None and run.first is not None:
        return _different([f"first divergence: {run.first}"], run, engines)
    overflows = max((n for part in (known, run) if part for n in part.overflows.values()), default=0)
    if overflows and not content.may_overflow:
        return _different([f"{overflows} accumulated inputs left the accumulator, allowed 0 (rule O1)"], run, engines)
    texts = [*_compared(run, named, engines), *_checked(content, known)]
    if run is None:
        why = f"only one engine was named: {engines[0]}" if len(engines) == 1 else named
        return _open(f"no engine was compared with another on this page: {why}", *texts)
    spikes, logits = _values(run)
    word = f"bit-exact: {' = '.join(engines)}"
    known_answers = 0 if known is None else known.samples
    return Judgement(True, engines, run.samples, spikes, logits, known_answers, Verdict("equal", word, texts))


def _compared(run: Comparison | None, named: str, engines: Sequence[str]) -> list[str]:
    if run is None:
        return []
    spikes, logits = _values(run)
    n = f"{run.samples} sample{'s' * (run.samples != 1)}"
    missing = [name for name in ("reference", "fast", "lava") if name not in engines]
    texts = [f"compared while this page was made, on {n} of {named}: {spikes:,} spike values and {logits:,} logits"]
    return texts + [
        f"not run here: {', '.join(missing)}; `--engines reference,fast,lava` runs all" for _ in missing[:1]
    ]


def _values(run: Comparison) -> tuple[int, int]:
    pairs = [pair.counts for pair in run.pairs]
    return sum(pair.compared_spikes for pair in pairs), sum(pair.logits.compared for pair in pairs)


def _checked(content: ModelFile, known: Comparison | None) -> list[str]:
    texts = []
    if known is not None:
        texts.append(f"{known.samples} known answers of the file: the reference engine gives the same")
    checked = len(content.checked_parts) - len(content.unchecked_parts)
    if checked:
        texts.append(f"{checked} parts of the file are as they were exported, by their digests and proved bounds")
    texts += [f"not checked: {part}: {why}" for part, why in content.unchecked_parts.items()]
    return texts


def _open(*texts: str) -> Judgement:
    return Judgement(None, (), 0, 0, 0, 0, Verdict("open", "not compared", texts))


def _different(texts: Iterable[str], run: Comparison | None, engines: tuple[str, ...] = ()) -> Judgement:
    spikes, logits = (0, 0) if run is None else _values(run)
    samples = 0 if run is None else run.samples
    verdict = Verdict("different", "DIFFERENT", tuple(texts))
    return Judgement(False, engines, samples, spikes, logits, 0, verdict)
