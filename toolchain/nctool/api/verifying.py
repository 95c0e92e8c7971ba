"""verify: prove that what runs is what was exported.

Three questions, in this order: does the file still hold what was exported (a digest per layer)? Does the
reference engine still answer the known inputs as at export? Do the engines agree, bit for bit?

In: a file and engines. Out: a VerifyReport.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nctool.api.engines import Job, Pixels, require_engine, traces
from nctool.api.models import Content
from nctool.api.samples import load_samples
from nctool.equivalence import Divergence, compared_spikes, first_divergence
from nctool.errors import UsageError
from nctool.progress import ProgressCallback, no_progress
from nctool.sim import reference
from nctool.sim.trace import Trace, join
from nctool_deploy import engine as lava
from nctool_deploy.netx import NetxFile, read

FILE = "file"


@dataclass(frozen=True)
class VerifyReport:
    """Whether a file does what was designed.

    Args:
        equal: no divergence and no overflow.
        engines: those compared, the first against each other one.
        samples: number of samples that every engine ran.
        compared_spikes: spike values compared, one per neuron, step, sample and pair of engines.
        compared_logits: integer logits compared, likewise.
        known_answers: samples whose answers stand in the file.
        overflows: accumulated inputs that left the accumulator in the reference engine; must be 0.
        first_divergence: None when equal.
    """

    equal: bool
    engines: tuple[str, ...]
    samples: int
    compared_spikes: int
    compared_logits: int
    known_answers: int
    overflows: int
    first_divergence: Divergence | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)


def verify(
    model: Path | str,
    *,
    engines: Sequence[str] = ("reference", "fast", "lava"),
    samples: int | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    timeout_s: float = lava.DEFAULT_TIMEOUT_S,
    progress: ProgressCallback = no_progress,
) -> VerifyReport:
    """Check a file against its digests and known answers, and engines against each other.

    Args:
        model: a file that `export` wrote.
        engines: at least one; the first is the standard that the others are compared with.
        samples: number of samples; the known inputs of the file by default. More than those come from the test
            split of the data set.
        dataset: name or .npz path; the one that the network was trained on by default.
        data_dir: where data sets lie.
        timeout_s: seconds that one run of the Lava subprocess may take.
        progress: called with the samples done and to do.

    Raises:
        UsageError, FormatError, RangeError, EngineError: see `nctool.errors`.
    """
    path, names = Path(model), tuple(dict.fromkeys(engines))
    if not names:
        raise UsageError("no engine to verify", hint="name them with --engines reference,lava")
    for name in names:
        require_engine(name)
    content = read(path, check_digests=False)
    pixels = _pixels(content, samples, dataset, data_dir)
    report = VerifyReport(True, names, len(pixels), 0, 0, len(content.known_answers.pixels), 0, None)
    report = _check_known_answers(content, report)
    if report.first_divergence is None:
        report = _compare_engines(Job(path, content, pixels, timeout_s=timeout_s), report, progress)
    if report.first_divergence is None and content.changed_layers:
        changed = Divergence(
            content.changed_layers[0], "content", None, None, None, "as exported", "changed", FILE, FILE
        )
        report = replace(report, first_divergence=changed)
    return replace(report, equal=report.first_divergence is None and report.overflows == 0)


def _pixels(content: NetxFile, samples: int | None, dataset: str | None, data_dir: Path | None) -> Pixels:
    known = content.known_answers.pixels
    if samples is not None and samples < 1:
        raise UsageError(f"samples: {samples} is out of range, allowed >= 1")
    if dataset is None and (samples is None or samples <= len(known)):
        return known[:samples]
    return load_samples(content, dataset, "test", samples, data_dir)[0]


def _check_known_answers(content: NetxFile, report: VerifyReport) -> VerifyReport:
    answers = content.known_answers
    trace = reference.simulate(content.network, answers.pixels)
    return _compare(content, report, answers.trace, trace, (FILE, "reference"), 0)


def _compare_engines(job: Job, report: VerifyReport, progress: ProgressCallback) -> VerifyReport:
    """Run all engines chunk by chunk, so that no engine's trace of the whole data set is ever held."""
    standard, *others = report.engines
    chunk = lava.samples_per_run(job.network, job.network.n_steps)
    progress(0, len(job.pixels))
    for start in range(0, len(job.pixels), chunk):
        part = replace(job, pixels=job.pixels[start : start + chunk])
        expected = join(traces(standard, part))
        report = _add_overflows(report, expected)
        for other in others:
            actual = join(traces(other, part))
            report = _add_overflows(report, actual)
            report = _compare(job.content, report, expected, actual, (standard, other), start)
            if report.first_divergence is not None:
                return report
        progress(min(start + chunk, len(job.pixels)), len(job.pixels))
    return report


def _compare(
    content: Content, report: VerifyReport, expected: Trace, actual: Trace, names: tuple[str, str], start: int
) -> VerifyReport:
    found = first_divergence(content.network, expected, actual, names, start)
    spikes, logits = compared_spikes([expected]), int(expected.logits.size)
    return replace(
        report,
        first_divergence=found,
        compared_spikes=report.compared_spikes + spikes,
        compared_logits=report.compared_logits + logits,
    )


def _add_overflows(report: VerifyReport, trace: Trace) -> VerifyReport:
    return replace(report, overflows=report.overflows + sum(trace.overflows.values()))
