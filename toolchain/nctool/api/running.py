"""run_sim: run a model on an engine and report accuracy, speed and spikes.

In: a file, an engine, samples. Out: a RunReport.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from nctool.arguments import AtLeast, public
from nctool.progress import ProgressCallback, no_progress
from nctool.reference.trace import Summary
from nctool.running.arrays import Source, load_array, path_of, record, require_array_names
from nctool.running.checkpoints import ModelPath
from nctool.running.engines import Job, require_engine, traces
from nctool.running.model_file import ModelFile, open_model
from nctool.running.outputs import TRACES, model_files, require_outputs
from nctool.running.samples import choose_samples, dataset_path, trained_on
from nctool.running.sharding import require_workers, shared_summaries
from nctool_deploy.cost.report import CostMeter, CostReport
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lava import engine as lava


@dataclass(frozen=True)
class RunReport:
    """What a run showed.

    Args:
        engine: which engine ran.
        dataset: data set and split, `digits/test`, or the file of the samples.
        samples: number of samples.
        steps: time steps of one sample.
        accuracy: fraction of correct answers after 1, 2, 4, ... steps and after the whole window; empty without
            labels.
        answers: without labels, the class of each sample after the whole window; of equals the first. Empty for a netx
            file of another tool, whose output need not be classes.
        answer_names: the names of these classes, where the file knows them.
        images_per_second: samples by wall time, start of the engine included.
        steps_per_second: time steps of all samples by the same time.
        spikes_per_layer: mean number of spikes of a population in one window.
        overflows: accumulated inputs that left the accumulator, which must be 0, or, of a foreign network, how often a
            24-bit state wrapped or saturated. None where the engine cannot tell.
        notes: where Lava runs something else than a foreign file says.
        cost: what a sample costs on the chip, where it was asked for.
    """

    engine: str
    dataset: str
    samples: int
    steps: int
    accuracy: dict[str, float]
    answers: tuple[int, ...]
    answer_names: tuple[str, ...]
    images_per_second: float
    steps_per_second: float
    spikes_per_layer: dict[str, float]
    overflows: int | None
    notes: tuple[str, ...]
    cost: CostReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)


@public
def run_sim(
    model: ModelPath,
    *,
    engine: str = "fast",
    dataset: Path | str | None = None,
    split: str = "test",
    samples: int | None = None,
    data_dir: Path | str | None = None,
    input: Source | None = None,  # noqa: A002  # the option's name is a contract
    labels: Source | None = None,
    output: Path | str | None = None,
    options: ForeignOptions | None = None,
    device: str = "cpu",
    workers: int = 1,
    cost: bool = False,
    timeout_s: Annotated[float, AtLeast(1)] = lava.DEFAULT_TIMEOUT_S,
    progress: ProgressCallback = no_progress,
) -> RunReport:
    """Run a model on a data set or on samples of your own.

    Args:
        model: a file that `export` wrote, or a netx file of another tool.
        engine: `fast`, `reference` or `lava`.
        dataset: name, .npz path or folder of images; the one that the network was trained on by default.
        split: `test` or `train`.
        samples: the first so many; all by default.
        data_dir: where data sets lie.
        input: samples instead of a data set, a .npy file or an array: uint8 pixels (samples, channels, height, width),
            the channels also last, or left out where there is one; or for a foreign file integers
            (samples, steps, *shape) or (samples, *shape), or real numbers for its input block.
        labels: class numbers for `input`, a .npy file or an array.
        output: .npz file that receives every spike and all logits.
        options: how a foreign file is read and reset.
        device: `cpu` or `cuda`, for the fast engine.
        workers: processes that share the samples; the ranks of torchrun share them without it.
        cost: count what a sample costs on the chip (docs/COST.md); the time that takes is part of the speed.
        timeout_s: seconds that one run of the Lava subprocess may take.
        progress: called with the samples done and to do.

    Raises:
        UsageError, FormatError, UnsupportedError, RangeError, EngineError: see `nctool.errors`.
    """
    require_engine(engine, device)
    output, dataset = None if output is None else Path(output), None if dataset is None else str(dataset)
    require_workers(engine, workers, output, cost=cost)
    path, options = Path(model), options or ForeignOptions()
    shape = None if input is None else load_array(input).shape[-3:]
    content = open_model(path, options, input_shape=shape)
    given = {"the samples": path_of(input), "the labels": path_of(labels)}
    if input is None:
        given["the data set"] = dataset_path(dataset or trained_on(content))
    require_outputs({**given, **model_files(path)}, {"-o": (TRACES, output)})
    if output is not None:
        require_array_names((population.name for population in content.network.populations), "-o")
    meter = content.cost_meter() if cost else None
    chosen = choose_samples(content, dataset, split, samples, data_dir, input, labels)
    n_samples, n_steps = len(chosen.samples), chosen.content.network.n_steps
    options.require_steps(n_steps)
    tally = _Tally(chosen.labels, n_steps)
    start = time.perf_counter()
    job = Job(path, chosen.content, chosen.samples, device, timeout_s)
    for summary in _reported(_summaries(engine, job, output, workers, meter), n_samples, progress):
        tally.add(summary)
    seconds = time.perf_counter() - start
    answers = tuple(tally.answers) if chosen.content.is_classifier else ()
    return RunReport(
        engine=engine,
        dataset=chosen.name,
        samples=n_samples,
        steps=n_steps,
        accuracy=tally.accuracy(),
        answers=answers,
        answer_names=_named(answers, chosen.content),
        images_per_second=n_samples / seconds,
        steps_per_second=n_samples * n_steps / seconds,
        spikes_per_layer=tally.spikes_per_layer(),
        overflows=tally.overflows,
        notes=chosen.content.notes,
        cost=None if meter is None else meter.report(),
    )


def _named(answers: tuple[int, ...], content: ModelFile) -> tuple[str, ...]:
    provenance = content.provenance
    if provenance is None or len(provenance.classes) != content.network.readout.n_neurons:
        return ()
    return tuple(provenance.classes[answer] for answer in answers)


def _summaries(engine: str, job: Job, output: Path | None, workers: int, meter: CostMeter | None) -> Iterator[Summary]:
    if output is None and meter is None:
        return shared_summaries(engine, job, workers)
    found = traces(engine, job)
    if meter is not None:
        found = meter.watch(found, job.pixels)
    if output is not None:
        found = record(found, output)
    return (trace.summary() for trace in found)


def reported_steps(n_steps: int) -> list[int]:
    """Return 1, 2, 4, ... up to and including the last step."""
    return sorted({2**k for k in range(n_steps.bit_length()) if 2**k <= n_steps} | {n_steps})


class _Tally:
    """Count correct answers, spikes and overflows over batches, and keep no trace; without labels, keep the answers.

    Args:
        labels: int64 (samples,), or None.
        n_steps: length of the window.
    """

    def __init__(self, labels: NDArray[np.int64] | None, n_steps: int) -> None:
        self.labels, self.done = labels, 0
        self.correct = dict.fromkeys(reported_steps(n_steps) if labels is not None else (), 0)
        self.answers: list[int] = []
        self.spikes: dict[str, int] = {}
        self.overflows: int | None = 0

    def add(self, summary: Summary) -> None:
        """Count one batch."""
        n_samples = len(summary.logits)
        if self.labels is None:
            self.answers += summary.logits[:, -1].reshape(n_samples, -1).argmax(axis=1).tolist()
        else:
            labels = self.labels[self.done : self.done + n_samples]
            for step in self.correct:
                self.correct[step] += int((summary.logits[:, step - 1].argmax(axis=1) == labels).sum())
        for name, count in summary.spike_counts.items():
            self.spikes[name] = self.spikes.get(name, 0) + count
        counted = sum(summary.overflows.values()) if summary.overflows else None
        self.overflows = None if counted is None or self.overflows is None else self.overflows + counted
        self.done += n_samples

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
