"""run_sim: run a model on an engine and report accuracy, speed and spikes, and on request what a sample costs.

In: a file, an engine, samples. Out: a RunReport, and on request the traces.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import (
    DataDir,
    Dataset,
    Device,
    Foreign,
    Input,
    Model,
    Progress,
    SampleChoice,
    Samples,
    Split,
    Timeout,
    engine_names,
)
from nctool.commands.tables import counted, percent, print_line, print_rows
from nctool.ir.arrays import StructuralEquality
from nctool.progress import ProgressCallback
from nctool.reports import NOT_JSON, Report
from nctool.running.arrays import Source
from nctool.signature import Option
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lava.engine import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from nctool.reference.trace import Summary
    from nctool.running.engines import Job
    from nctool.running.model_file import ModelFile
    from nctool.running.samples import Chosen
    from nctool_deploy.cost.report import CostMeter, CostReport, PopulationCost, SplitEnergy

LARGE = 100
"""Means from here on are shown without decimals."""

SHOWN_ANSWERS = 20
"""Answers to samples of your own that are shown."""


@dataclass(frozen=True, eq=False)
class RunReport(StructuralEquality, Report):
    """Accuracy, speed and spikes of a run; JSON has the answers where there are no labels, and labels and logits not.

    Args:
        engine: name of the engine that ran.
        dataset: data set and split, `digits/test`, or the file of the samples.
        samples: number of samples.
        steps: time steps of one sample.
        accuracy: fraction of correct answers after 1, 2, 4, ... steps and after the whole window; empty without
            labels.
        answers: the class of each sample after the whole window, int64 (samples,); the first of equal logits. Empty
            for a netx file of another tool, whose output need not be classes.
        answer_names: the names of these classes, where the file knows them.
        images_per_second: samples by wall time, start of the engine included.
        steps_per_second: time steps of all samples by the same time.
        spikes_per_layer: mean number of spikes of a population in one window.
        overflows: accumulated inputs that left the accumulator, which must be 0; for a foreign network, how often a
            24-bit state wrapped or saturated. None where the engine cannot tell.
        notes: what was changed in image files, where Lava runs something else than a foreign file says, and why the
            fast engine left out faster kernels.
        cost: what a sample costs on the chip, where it was asked for.
        kernels: by population, what the fast engine computed it with; empty for other engines.
        files: the names of the image files, one a sample, where such were given.
        labels: int64 (samples,), None where there are none.
        logits: of each sample after the whole window, int64 (samples, classes).
    """

    engine: str
    dataset: str
    samples: int
    steps: int
    accuracy: dict[str, float]
    answers: NDArray[np.int64]
    answer_names: tuple[str, ...]
    images_per_second: float
    steps_per_second: float
    spikes_per_layer: dict[str, float]
    overflows: int | None
    notes: tuple[str, ...]
    cost: CostReport | None = None
    kernels: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = field(default=None, metadata=NOT_JSON)
    logits: NDArray[np.int64] | None = field(default=None, metadata=NOT_JSON)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        content = super().to_json()
        return content if self.labels is None else {**content, "answers": [], "answer_names": []}


@public
def run_sim(
    model: Model,
    *,
    engine: Annotated[str, Option("fast, reference or lava.", names=engine_names)] = "fast",
    dataset: Dataset = None,
    split: Split = "test",
    samples: Samples = None,
    data_dir: DataDir = None,
    input: Input = None,  # noqa: A002  # the option's name is a contract
    labels: Annotated[Source | None, Option("Class numbers for --input.", kind=Path, metavar="Y.npy")] = None,
    output: Annotated[
        Path | str | None,
        Option("Write every spike and all logits.", flags=("-o", "--output"), metavar="OUT.npz", is_written=True),
    ] = None,
    options: Foreign = None,
    device: Device = "cpu",
    workers: Annotated[int, Option("Processes that share the samples.", least=1)] = 1,
    cost: Annotated[bool, Option("Count operations, updates and spikes on the chip.")] = False,
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    progress: Progress = True,
) -> RunReport:
    """Run an exported network, or a netx file of another tool, on data.

    Args:
        model: a file that `export` wrote, a netx file of another tool, or `zoo:NAME`, a network that comes with nctool.
        engine: `fast`, `reference` or `lava`.
        dataset: name, .npz path or folder of images; the one that the network was trained on by default.
        split: `test` or `train`.
        samples: how many, from the first on; all by default.
        data_dir: where data sets lie.
        input: samples instead of a data set: an image file or a folder of such, whose colours and size are brought to
            those of the network, which the notes say; or a .npy file or an array: uint8 pixels (samples, channels,
            height, width), the channels also last, or left out where there is one; floats where the network was
            converted on such; or for a foreign file integers (samples, steps, *shape) or (samples, *shape), or real
            numbers for its input block.
        labels: class numbers for `input`, a .npy file or an array.
        output: .npz file that receives every spike and all logits.
        options: how a foreign file is read and reset.
        device: `cpu` or `cuda`, for the fast engine.
        workers: processes that share the samples; the ranks of torchrun share them without it.
        cost: count what a sample costs on the chip (docs/COST.md); the time that takes is part of the speed.
        timeout_s: seconds that one run of the Lava subprocess may take.
        progress: called with the samples done and to do; True is a bar, False nothing.

    Raises:
        UsageError, FormatError, UnsupportedError, RangeError, EngineError: see `nctool.errors`.
    """
    from nctool.running.arrays import require_array_names
    from nctool.running.engines import Job, require_engine
    from nctool.running.model_file import model_path
    from nctool.running.outputs import TRACES, model_files, require_outputs
    from nctool.running.sharding import require_workers

    require_engine(engine, device)
    output = None if output is None else Path(output)
    require_workers(engine, workers, output, cost=cost)
    path, options = model_path(model), options or ForeignOptions()
    wanted = SampleChoice(dataset, split, samples, data_dir, input, labels)
    content = wanted.open_model(path, options)
    require_outputs({**wanted.files(content), **model_files(path)}, {"-o": (TRACES, output)})
    if output is not None:
        require_array_names((population.name for population in content.network.populations), "-o")
    meter = content.cost_meter() if cost else None
    chosen = wanted.load(content)
    options.require_steps(chosen.content.network.n_steps)
    job = Job(path, chosen.content, chosen.samples, device, timeout_s)
    tally = Tally(chosen.labels, job.network.n_steps)
    start = time.perf_counter()
    for summary in _reported(_summaries(engine, job, output, workers, meter), len(job.pixels), progress):
        tally.add(summary)
    return _report(engine, chosen, tally, time.perf_counter() - start, meter, device)


def _report(
    engine: str, chosen: Chosen, tally: Tally, seconds: float, meter: CostMeter | None, device: str
) -> RunReport:
    content, n_steps = chosen.content, chosen.content.network.n_steps
    logits = tally.logits()
    answers = logits.argmax(axis=1) if content.is_classifier else np.zeros(0, np.int64)
    return RunReport(
        engine=engine,
        dataset=chosen.name,
        samples=tally.done,
        steps=n_steps,
        accuracy=tally.accuracy(),
        answers=answers,
        answer_names=_class_names(answers.tolist(), content),
        images_per_second=tally.done / seconds,
        steps_per_second=tally.done * n_steps / seconds,
        spikes_per_layer=tally.spikes_per_layer(),
        overflows=tally.overflows,
        notes=(*chosen.notes, *content.notes, *_notes(tally.kernels, device)),
        cost=None if meter is None else meter.report(),
        kernels=tally.kernels,
        files=chosen.files,
        labels=tally.labels,
        logits=logits,
    )


def _notes(kernels: dict[str, str], device: str) -> tuple[str, ...]:
    """Return why the fast engine left out faster kernels."""
    if not kernels:
        return ()
    from nctool.fast.choice import usable_on
    from nctool.fast.engine import find_device

    return usable_on(find_device(device)).notes


def _class_names(answers: Sequence[int], content: ModelFile) -> tuple[str, ...]:
    provenance = content.provenance
    if provenance is None or len(provenance.classes) != content.network.readout.n_neurons:
        return ()
    return tuple(provenance.classes[answer] for answer in answers)


# --- while it runs ----------------------------------------------------------------------------------------------------


def _summaries(engine: str, job: Job, output: Path | None, workers: int, meter: CostMeter | None) -> Iterator[Summary]:
    from nctool.running.arrays import record
    from nctool.running.engines import traces
    from nctool.running.sharding import shared_summaries

    if output is None and meter is None:
        return shared_summaries(engine, job, workers)
    passing = traces(engine, job)
    if meter is not None:
        passing = meter.watch(passing, job.pixels)
    if output is not None:
        passing = record(passing, output)
    return (trace.summary() for trace in passing)


def reported_steps(n_steps: int) -> list[int]:
    """Return 1, 2, 4, ... up to and including the last step."""
    return sorted({2**k for k in range(n_steps.bit_length()) if 2**k <= n_steps} | {n_steps})


class Tally:
    """Count correct answers, spikes and overflows over batches, and keep the last logits, and no trace.

    Args:
        labels: int64 (samples,), or None.
        n_steps: length of the window.
    """

    def __init__(self, labels: NDArray[np.int64] | None, n_steps: int) -> None:
        self.labels, self.done = labels, 0
        self.correct = dict.fromkeys(reported_steps(n_steps) if labels is not None else (), 0)
        self._logits: list[NDArray[np.int64]] = []
        self.spikes: dict[str, int] = {}
        self.kernels: dict[str, str] = {}
        self.overflows: int | None = 0

    def add(self, summary: Summary) -> None:
        """Count one batch."""
        n_samples = len(summary.logits)
        self._logits.append(summary.logits[:, -1].reshape(n_samples, -1))
        if self.labels is not None:
            labels = self.labels[self.done : self.done + n_samples]
            for step in self.correct:
                self.correct[step] += int((summary.logits[:, step - 1].argmax(axis=1) == labels).sum())
        for name, count in summary.spike_counts.items():
            self.spikes[name] = self.spikes.get(name, 0) + count
        counted = sum(summary.overflows.values()) if summary.overflows else None
        self.overflows = None if counted is None or self.overflows is None else self.overflows + counted
        self.kernels = dict(summary.kernels)
        self.done += n_samples

    def logits(self) -> NDArray[np.int64]:
        """Return the logits of every sample after the whole window, int64 (samples, classes)."""
        return np.concatenate(self._logits)

    def accuracy(self) -> dict[str, float]:
        """Return the fraction of correct answers by step."""
        return {str(step): count / self.done for step, count in self.correct.items()}

    def spikes_per_layer(self) -> dict[str, float]:
        """Return the mean number of spikes per sample by population."""
        return {name: count / self.done for name, count in self.spikes.items()}


def _reported(batches: Iterator[Summary], total: int, progress: ProgressCallback) -> Iterator[Summary]:
    done = 0
    progress(done, total)
    for summary in batches:
        yield summary
        done += len(summary.logits)
        progress(done, total)


# --- for people -------------------------------------------------------------------------------------------------------

COLUMNS = [
    *("layer", "neurons", "spikes", "payload bits", "bias spikes", "synaptic operations", "of graded spikes"),
    *("of autapses", "of biases", "active updates", "idle updates"),
]
OF_GRADED, OF_SPIKING = ("payload bits", "of graded spikes"), ("of autapses",)
"""Columns of networks of graded neurons, and of all others."""


def print_run(report: RunReport) -> None:
    """Show accuracy by time step, speed and spikes, and the cost where it was asked for."""
    sizes = f"{counted(report.samples, 'sample')} of {counted(report.steps, 'time step')}"
    title = f"{report.dataset}, {sizes}, engine {report.engine}"
    rows = [[step, percent(accuracy)] for step, accuracy in report.accuracy.items()]
    if rows:
        print_rows(title, ["time steps", "accuracy"], rows)
    elif len(report.answers) and report.files:
        _print_files(title, report)
    else:
        print_line(title)
    if report.labels is None and len(report.answers) and not report.files:
        more = f", … ({len(report.answers):,} in --json)" if len(report.answers) > SHOWN_ANSWERS else ""
        print_line(f"answers, a class for each sample: {', '.join(_answers(report))}{more}")
    spikes = ", ".join(f"{_named(name)} {count:,.1f}" for name, count in report.spikes_per_layer.items())
    print_line(f"{report.images_per_second:,.1f} images/s; spikes per image: {spikes or 'no spiking layer'}")
    for note in report.notes:
        print_line(f"NOTE: {note}")
    if report.overflows:
        print_line(f"WARNING: {report.overflows} sums left their register: see rules O1 to O3 in docs/SEMANTICS.md")
    if report.cost is not None:
        _print_cost(report.cost)


def _print_files(title: str, report: RunReport) -> None:
    """Show the class of each image beside its file."""
    rows = list(zip(report.files[:SHOWN_ANSWERS], _answers(report), strict=True))
    print_rows(title, ["image", "answer"], rows)
    if len(report.files) > SHOWN_ANSWERS:
        print_line(f"… {len(report.files) - SHOWN_ANSWERS:,} more in --json")


def _answers(report: RunReport) -> list[str]:
    """Return the class of each of the first samples, by number, and by name where that says more."""
    numbers = [str(answer) for answer in report.answers[:SHOWN_ANSWERS]]
    names = report.answer_names[:SHOWN_ANSWERS] or numbers
    return [number if name == number else f"{number} {name}" for number, name in zip(numbers, names, strict=True)]


def _named(layer: str) -> str:
    """Return the name of a layer; one of an unnamed `nn.Sequential` is a number."""
    return f"layer {layer}:" if layer.isdecimal() else layer


def _print_cost(cost: CostReport) -> None:
    rows = [_row(name, population) for name, population in {**cost.populations, "total": cost.total}.items()]
    title = f"cost of a sample for {cost.target}, {cost.backend}: means over {counted(cost.samples, 'sample')}"
    left_out = OF_SPIKING if cost.total.graded_operations else OF_GRADED
    columns = [name for name in COLUMNS if name not in left_out]
    print_rows(title, columns, [[row[name] for name in columns] for row in rows])
    window = counted(cost.window_steps, "window step")
    if cost.flush_steps:
        window = f"{cost.window_steps} window and {cost.flush_steps} flush steps"
    print_line(
        f"{window}, one sample every {cost.period_steps}; "
        f"the answer stands after {counted(cost.latency_steps, 'step')}{_time(cost.latency_ns)}"
    )
    if cost.energy is not None:
        _print_energy(cost.energy)
    elif cost.total.graded_operations:
        print_line(
            f"energy: target {cost.target} has no figure for an operation of a graded spike, and none is published, so "
            "operations only"
        )
    else:
        print_line(f"energy: target {cost.target} has no published figures, so operations only")


def _row(name: str, cost: PopulationCost) -> dict[str, str]:
    counts = (
        cost.spikes,
        cost.payload_bits,
        cost.bias_spikes,
        cost.synaptic_operations,
        cost.graded_operations,
        cost.autapse_operations,
        cost.bias_operations,
        cost.active_updates,
        cost.idle_updates,
    )
    return dict(zip(COLUMNS, [name, f"{cost.neurons:,}", *map(_count, counts)], strict=True))


def _count(mean: float) -> str:
    """Return a mean with a decimal where that is a part of it that counts."""
    return f"{mean:,.1f}" if mean < LARGE else f"{mean:,.0f}"


def _time(latency_ns: tuple[float, float] | None) -> str:
    return "" if latency_ns is None else f", which take at least {latency_ns[0]:,.0f}..{latency_ns[1]:,.0f} ns"


def _print_energy(energy: SplitEnergy) -> None:
    causes = {
        "synaptic operations": energy.synaptic_operations_pj,
        **({"graded operations": energy.graded_operations_pj} if energy.graded_operations_pj else {}),
        "active updates": energy.active_updates_pj,
        "idle updates": energy.idle_updates_pj,
        "spikes": energy.spikes_pj,
    }
    parts = ", ".join(f"{name} {pj / 1000:,.1f}" for name, pj in causes.items())
    print_line(f"energy in nJ: {parts}; together {energy.total_pj / 1000:,.1f}")
    print_line(f"these figures: {energy.basis}")


COMMAND = Command(run_sim, print_run, title="engine {engine}")
