"""verify: prove that what runs is what was exported.

Three questions: does the file still hold what was exported (digests, proved bounds)? Does the reference engine still
answer the known inputs as at export? If so, do the engines agree, bit for bit? A netx file of another tool is asked the
last one only.

In: a file and engines. Out: a VerifyReport, and on request the traces and a JUnit file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nctool.arguments import public, split_names
from nctool.commands.command import Command
from nctool.commands.options import (
    DataDir,
    Dataset,
    Foreign,
    Input,
    Model,
    Progress,
    SampleChoice,
    Timeout,
    engine_names,
)
from nctool.commands.tables import counted, print_line, print_rows
from nctool.errors import UsageError
from nctool.reports import Report
from nctool.signature import Option
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lava.engine import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from nctool.ir.inputs import Samples
    from nctool.running.model_file import ModelFile
    from nctool.verification.checks import Check
    from nctool.verification.compare import Comparison
    from nctool.verification.counts import Histogram, LogitCounts, PairCounts, SpikeCounts
    from nctool.verification.divergence import Divergence
    from nctool.verification.explain import Neighbourhood, Side

EXIT_DIFFERENT = 1


@dataclass(frozen=True)
class VerifyReport(Report):
    """What `verify` compared, and whether it is equal.

    Args:
        equal: no divergence, and no overflow of an accumulator.
        engines: names; each is compared with the first.
        samples: number of samples that every engine ran; 0 when the file is not what was exported.
        compared_spikes: spike values compared, one per neuron, step, sample and pair, the known answers included.
        compared_logits: integer logits compared, likewise.
        known_answers: number of samples whose answers are in the file.
        overflows: accumulated inputs that left the accumulator, in the engine that counted most; must be 0. In a
            foreign network they are wraps and saturations of 24-bit states, which are allowed (rule O2).
        first_divergence: None when equal.
        statistics: how many values differ, for the known answers and for each pair of engines.
        checks: everything that was checked, one by one.
        notes: what was changed in image files.
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
    notes: tuple[str, ...] = ()


@public
def verify(
    model: Model,
    *,
    engines: Annotated[
        Sequence[str] | str,
        Option("Comma-separated; the first is the standard.", names=engine_names, takes_several=True),
    ] = (
        "reference",
        "fast",
        "lava",
    ),
    samples: Annotated[
        int | None,
        Option("The first N samples of the data set.", metavar="N", default="the file's known answers", least=1),
    ] = None,
    dataset: Dataset = None,
    data_dir: DataDir = None,
    input: Input = None,  # noqa: A002  # the option's name is a contract
    options: Foreign = None,
    all_differences: Annotated[bool, Option("Compare all samples even after a difference.")] = False,
    layers: Annotated[
        Path | str | None, Option("Write the traces of every engine.", metavar="TRACES.npz", is_written=True)
    ] = None,
    junit: Annotated[
        Path | str | None, Option("Write every check as JUnit XML.", metavar="REPORT.xml", is_written=True)
    ] = None,
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    progress: Progress = True,
) -> VerifyReport:
    """Prove that engines agree bit for bit; exit 1 when they do not.

    A file is also checked against its digests and known answers.

    If a file is not what was exported, the engines do not run it: `layers` then holds its known answers and the
    trace of the reference engine on the same inputs.

    Args:
        model: a file that `export` wrote, a netx file of another tool, or `zoo:NAME`, a network that comes with nctool.
        engines: at least one, a list or a text with commas; the others are compared with the first.
        samples: number of samples; the known inputs of the file by default. Where that is more than the file has, they
            come from the test split of the data set.
        dataset: name, .npz path or folder of images; the one that the network was trained on by default.
        data_dir: where data sets lie.
        input: samples instead of a data set, a file, a folder or an array, as for `run_sim`; a foreign file needs it.
        options: how a foreign file is read and reset.
        all_differences: compare all samples even after a difference, so that the statistics cover them. By default
            the comparison ends with the chunk of at most 500 samples that holds the first difference.
        layers: .npz file for the traces of every engine; see docs/TRACES.md.
        junit: JUnit XML file for the outcome of every check; see docs/CI.md. Written when engines differ too.
        timeout_s: seconds that one run of the Lava subprocess may take.
        progress: called with the samples done and to do; True is a bar, False nothing.

    Raises:
        UsageError, FormatError, UnsupportedError, RangeError, EngineError: see `nctool.errors`.
    """
    from nctool.running.engines import Job, require_engine
    from nctool.running.model_file import model_path
    from nctool.running.outputs import JUNIT, TRACES, model_files, require_outputs
    from nctool.verification import trace_file
    from nctool.verification.checks import JUNIT_OPTION, write_junit
    from nctool.verification.compare import compare_engines, compare_known_answers

    path, names = model_path(model), tuple(dict.fromkeys(split_names(engines)))
    if not names:
        raise UsageError("no engine to verify", hint="name them with --engines reference,lava")
    for name in names:
        require_engine(name)
    options, wanted = options or ForeignOptions(), SampleChoice(dataset, "test", samples, data_dir, input, None)
    content = wanted.open_model(path, options, check_digests=False)
    outputs = {trace_file.OPTION: (TRACES, layers), JUNIT_OPTION: (JUNIT, junit)}
    require_outputs({**wanted.files(content), **model_files(path)}, outputs)
    content, pixels, notes = _samples(content, wanted)
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
    report = replace(_report(content, names, known, run), notes=notes)
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


def _samples(content: ModelFile, wanted: SampleChoice) -> tuple[ModelFile, Samples, tuple[str, ...]]:
    """Return the model set up for what to run, which are the known inputs where they are enough, and notes on them."""
    if content.known_answers is not None and wanted.dataset is None and wanted.input is None:
        known = content.known_answers.pixels
        if wanted.samples is None or wanted.samples <= len(known):
            return content, known[: wanted.samples], ()
    chosen = wanted.load(content)
    return chosen.content, chosen.samples, chosen.notes


def _report(
    content: ModelFile, engines: tuple[str, ...], known: Comparison | None, run: Comparison | None
) -> VerifyReport:
    from nctool.verification.checks import all_checks

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
    from nctool.verification.compare import FILE
    from nctool.verification.divergence import Divergence

    if content.first_change is None:
        return None
    return Divergence(*content.first_change, None, None, None, "as exported", "changed", FILE, FILE)


# --- for people -------------------------------------------------------------------------------------------------------

NOT_KEPT = "not kept"


def print_verify(report: VerifyReport) -> None:
    """Show the verdict, what was compared, and what differs."""
    print_line(_verdict(report))
    print_line(
        f"{counted(report.samples, 'sample')}, {report.compared_spikes:,} spike values and "
        f"{report.compared_logits:,} logits compared; {counted(report.known_answers, 'known answer')}"
    )
    for note in report.notes:
        print_line(f"NOTE: {note}")
    for check in report.checks:
        if check.outcome == "failed" and check.group in ("file", "overflow"):
            print_line(check.text)
    not_run = dict.fromkeys(f"{check.group}: {check.text}" for check in report.checks if check.outcome == "not run")
    for line in not_run:
        print_line(f"not run: {line}")
    if report.first_divergence is not None and report.first_divergence.sample is not None:
        _print_divergence(report.first_divergence)
    for pair in report.statistics:
        if not pair.equal:
            _print_differences(pair)


def _verdict(report: VerifyReport) -> str:
    if report.equal:
        file = ["file"] if report.known_answers else []
        return f"EQUAL, bit for bit: {' = '.join([*file, *report.engines])}"
    pairs = [f"{pair.expected_by} ≠ {pair.actual_by}" for pair in report.statistics if not pair.equal]
    reason = "overflow" if report.first_divergence is None else "the file is not what was exported"
    return f"DIFFERENT: {', '.join(pairs) or reason}"


def _print_divergence(divergence: Divergence) -> None:
    print_line(f"first divergence: {divergence}")
    near = divergence.neighbourhood
    if near is None:
        return
    parameters = "".join(f", {name} {value}" for name, value in near.parameters.items())
    print_line(f"the neuron: {near.kind}{parameters}, bias {near.bias}")
    _print_steps(near, divergence.quantity)
    print_line(_by_rules(near))
    _print_inputs(near, divergence.step)


def _print_steps(near: Neighbourhood, quantity: str) -> None:
    """Show the window up to the divergence; the potential by the rules only where no side keeps its own."""
    sides = [near.expected, near.actual]
    if near.rules is not None and all(side.potentials is None for side in sides):
        sides.append(near.rules)
    columns = ["step", "drive", *(column for side in sides for column in _columns(side, quantity))]
    rows = [
        [str(number + 1), str(drive), *(cell for side in sides for cell in _cells(side, number, quantity))]
        for number, drive in enumerate(near.drive)
    ]
    print_rows("its window, potentials before fire:", columns, rows)


def _columns(side: Side, quantity: str) -> list[str]:
    return [quantity + f" {side.name}"] if quantity == "logit" else [f"potential {side.name}", f"spike {side.name}"]


def _cells(side: Side, number: int, quantity: str) -> list[str]:
    value = str(side.values[number])
    if quantity == "logit":
        return [value]
    return [NOT_KEPT if side.potentials is None else str(side.potentials[number]), value]


def _by_rules(near: Neighbourhood) -> str:
    """Say what the neuron should have sent by the rules, and which side agrees."""
    if near.rules is None:
        return f"what the rules make of a neuron `{near.kind}` is not known here"
    value = near.rules.values[-1]
    right = [f"`{side.name}`" for side in (near.expected, near.actual) if side.values[-1] == value]
    return f"by the rules it is {value}, as in {right[0]}" if right else f"by the rules it is {value}, as in neither"


def _print_inputs(near: Neighbourhood, step: int | None) -> None:
    n_inputs = len(near.inputs) + near.more_inputs
    agree = "both sides agree on all of them" if near.inputs_agree else "the sides do not agree on all of them"
    if not n_inputs:
        print_line(f"no input was active at step {step}; {agree}")
        return
    columns = ["source", "neuron", "value", "weight", "adds to the drive", "both sides agree"]
    rows = []
    for source in near.inputs:
        numbers = [str(source.neuron), str(source.value), str(source.weight), f"{source.contribution:+}"]
        rows.append([source.source, *numbers, "yes" if source.agreed else "NO"])
    if near.more_inputs:
        rows.append([f"{near.more_inputs} more", "", "", "", f"{near.more_contribution:+}", ""])
    print_rows(f"{n_inputs} inputs were active at step {step}, largest first; {agree}:", columns, rows, n_keys=2)


def _print_differences(pair: PairCounts) -> None:
    columns = ["layer", "differing", "compared", "samples", "first step", "how far apart"]
    rows = []
    for layer in pair.layers:
        first = "" if layer.first_step is None else str(layer.first_step)
        numbers = [f"{layer.differing:,}", f"{layer.compared:,}", f"{layer.samples:,}", first]
        rows.append([layer.title, *numbers, _apart(layer) if layer.differing else ""])
    print_rows(f"`{pair.expected_by}` ≠ `{pair.actual_by}` on {pair.samples} samples:", columns, rows)


def _apart(layer: SpikeCounts | LogitCounts) -> str:
    from nctool.verification.counts import LogitCounts

    if isinstance(layer, LogitCounts):
        bins = {low if low == "1" else f"{low}..{2 * int(low) - 1}": n for low, n in layer.magnitudes.items()}
        return f"by {_bins(bins)}; {layer.changed_predictions} predictions change"
    return f"{layer.sent} off by {_bins(layer.count_differences)}"


def _bins(histogram: Histogram) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in histogram.items() if count)


def _exit_code(report: VerifyReport) -> int:
    return 0 if report.equal else EXIT_DIFFERENT


COMMAND = Command(verify, print_verify, title="verifying", exit_code=_exit_code)
