"""verify: prove that what runs is what was exported.

Three questions: does the file still hold what was exported (digests, proved bounds)? Does the reference engine still
answer the known inputs as at export? If so, do the engines agree, bit for bit? A netx file of another tool is asked the
last one only.

In: a file and engines. Out: a VerifyReport, and on request the traces and a JUnit file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from nctool.arguments import AtLeast, public, split_names
from nctool.errors import UsageError
from nctool.ir.inputs import Samples
from nctool.progress import ProgressCallback, no_progress
from nctool.running.arrays import Source, load_array, path_of
from nctool.running.checkpoints import ModelPath
from nctool.running.engines import Job, require_engine
from nctool.running.model_file import ModelFile, open_model
from nctool.running.outputs import JUNIT, TRACES, model_files, require_outputs
from nctool.running.samples import choose_samples, dataset_path, trained_on
from nctool.verification import trace_file
from nctool.verification.checks import JUNIT_OPTION, Check, all_checks, write_junit
from nctool.verification.compare import FILE, Comparison, compare_engines, compare_known_answers
from nctool.verification.counts import PairCounts
from nctool.verification.divergence import Divergence
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lava import engine as lava


@dataclass(frozen=True)
class VerifyReport:
    """Whether a file does what was designed.

    Args:
        equal: no divergence, and no overflow of an accumulator.
        engines: those compared, the first against each other one.
        samples: number of samples that every engine ran; 0 when the file is not what was exported.
        compared_spikes: spike values compared, one per neuron, step, sample and pair, the known answers included.
        compared_logits: integer logits compared, likewise.
        known_answers: samples whose answers stand in the file.
        overflows: accumulated inputs that left the accumulator, in the engine that counted most; must be 0. Of a
            foreign network, wraps and saturations of 24-bit states, which are allowed (rule O2).
        first_divergence: None when equal.
        statistics: how many values differ, for the known answers and for each pair of engines.
        checks: everything that was checked, one by one.
    """

    equal: bool
    engines: tuple[str, ...]
    samples: int
    compared_spikes: int
    compared_logits: int
    known_answers: int
    overflows: int
    first_divergence: Divergence | None
    statistics: tuple[PairCounts, ...]
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)


@public
def verify(
    model: ModelPath,
    *,
    engines: Sequence[str] | str = ("reference", "fast", "lava"),
    samples: int | None = None,
    dataset: Path | str | None = None,
    data_dir: Path | str | None = None,
    input: Source | None = None,  # noqa: A002  # the option's name is a contract
    options: ForeignOptions | None = None,
    all_differences: bool = False,
    layers: Path | str | None = None,
    junit: Path | str | None = None,
    timeout_s: Annotated[float, AtLeast(1)] = lava.DEFAULT_TIMEOUT_S,
    progress: ProgressCallback = no_progress,
) -> VerifyReport:
    """Check a file against its digests and known answers, and engines against each other.

    A file that is not what was exported is not run on the engines: `layers` then holds its known answers and what the
    reference engine makes of the same inputs.

    Args:
        model: a file that `export` wrote, or a netx file of another tool.
        engines: at least one, a text with commas between them or a list; the first is the standard that the others are
            compared with.
        samples: number of samples; the known inputs of the file by default. More than those come from the test
            split of the data set.
        dataset: name, .npz path or folder of images; the one that the network was trained on by default.
        data_dir: where data sets lie.
        input: samples instead of a data set, a .npy file or an array, as for `run_sim`; a foreign file needs it.
        options: how a foreign file is read and reset.
        all_differences: compare all samples even after a difference, so that the statistics cover them. By default the
            chunk of at most 500 samples that holds the first difference is the last one.
        layers: .npz file for the traces of every engine; see docs/TRACES.md.
        junit: JUnit XML file for the outcome of every check; see docs/CI.md. Written when engines differ too.
        timeout_s: seconds that one run of the Lava subprocess may take.
        progress: called with the samples done and to do.

    Raises:
        UsageError, FormatError, UnsupportedError, RangeError, EngineError: see `nctool.errors`.
    """
    path, names = Path(model), tuple(dict.fromkeys(split_names(engines)))
    dataset = None if dataset is None else str(dataset)
    if not names:
        raise UsageError("no engine to verify", hint="name them with --engines reference,lava")
    for name in names:
        require_engine(name)
    shape = None if input is None else load_array(input).shape[-3:]
    options = options or ForeignOptions()
    content = open_model(path, options, input_shape=shape, check_digests=False)
    given = {"the samples": path_of(input)}
    if input is None:
        given["the data set"] = dataset_path(dataset or trained_on(content))
    outputs = {trace_file.OPTION: (TRACES, layers), JUNIT_OPTION: (JUNIT, junit)}
    require_outputs({**given, **model_files(path)}, outputs)
    content, pixels = _samples(content, samples, dataset, data_dir, input)
    options.require_steps(content.network.n_steps)
    keep = layers is not None
    if keep:
        trace_file.require_fit(content.network, names, len(pixels))
    answers = content.known_answers
    known = None if answers is None else compare_known_answers(content.network, answers, keep=keep)
    run = None
    if known is None or (known.first is None and not content.changes):
        job = Job(path, content, pixels, timeout_s=timeout_s)
        run = compare_engines(job, names, all_differences=all_differences, keep=keep, progress=progress)
    report = _report(content, names, known, run)
    if layers is not None:
        compared, shown = (run, pixels) if run is not None else _known_traces(content, known)
        trace_file.write_traces(Path(layers), content.network, shown, compared.traces)
    if junit is not None:
        write_junit(Path(junit), str(model), report.checks)
    return report


def _known_traces(content: ModelFile, known: Comparison | None) -> tuple[Comparison, Samples]:
    """Return the comparison of a file that was not run on the engines, and its inputs."""
    if content.known_answers is None or known is None:
        raise UsageError("no traces: the file holds no known answers")
    return known, content.known_answers.pixels


def _samples(
    content: ModelFile, samples: int | None, dataset: str | None, data_dir: Path | str | None, array: Source | None
) -> tuple[ModelFile, Samples]:
    """Return what to run, and the model set up for it: the known inputs where they are enough."""
    if samples is not None and samples < 1:
        raise UsageError(f"samples: {samples} is out of range, allowed >= 1")
    if content.known_answers is not None and dataset is None and array is None:
        known = content.known_answers.pixels
        if samples is None or samples <= len(known):
            return content, known[:samples]
    chosen = choose_samples(content, dataset, "test", samples, data_dir, array, None)
    return chosen.content, chosen.samples


def _report(
    content: ModelFile, engines: tuple[str, ...], known: Comparison | None, run: Comparison | None
) -> VerifyReport:
    parts = [part for part in (known, run) if part is not None]
    statistics = tuple(pair.counts for part in parts for pair in part.pairs)
    overflows = max((count for part in parts for count in part.overflows.values()), default=0)
    first = next((part.first for part in parts if part.first is not None), _changed_content(content))
    return VerifyReport(
        equal=first is None and (overflows == 0 or content.may_overflow),
        engines=engines,
        samples=0 if run is None else run.samples,
        compared_spikes=sum(pair.compared_spikes for pair in statistics),
        compared_logits=sum(pair.logits.compared for pair in statistics),
        known_answers=0 if known is None else known.samples,
        overflows=overflows,
        first_divergence=first,
        statistics=statistics,
        checks=all_checks(content, engines, known, run),
    )


def _changed_content(content: ModelFile) -> Divergence | None:
    if content.first_change is None:
        return None
    return Divergence(*content.first_change, None, None, None, "as exported", "changed", FILE, FILE)
