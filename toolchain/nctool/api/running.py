"""run_sim: run an exported file on an engine and report accuracy, speed and spikes.

In: a file, an engine, a data set. Out: a RunReport.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.api.engines import Job, require_engine, summaries
from nctool.api.samples import load_samples
from nctool.progress import ProgressCallback, no_progress
from nctool.sim.trace import Summary
from nctool_deploy import engine as lava
from nctool_deploy.netx import read


@dataclass(frozen=True)
class RunReport:
    """What a run showed.

    Args:
        engine: which engine ran.
        dataset: data set and split, `digits/test`.
        samples: number of samples.
        accuracy: fraction of correct answers after 1, 2, 4, ... steps and after the whole window.
        images_per_second: samples by wall time, start of the engine included.
        spikes_per_layer: mean number of spikes of a population in one window.
        overflows: accumulated inputs that left the accumulator; must be 0. None where the engine cannot tell.
    """

    engine: str
    dataset: str
    samples: int
    accuracy: dict[str, float]
    images_per_second: float
    spikes_per_layer: dict[str, float]
    overflows: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)


def run_sim(
    model: Path | str,
    *,
    engine: str = "fast",
    dataset: str | None = None,
    split: str = "test",
    samples: int | None = None,
    data_dir: Path | None = None,
    device: str = "cpu",
    timeout_s: float = lava.DEFAULT_TIMEOUT_S,
    progress: ProgressCallback = no_progress,
) -> RunReport:
    """Run an exported file on a data set.

    Args:
        model: a file that `export` wrote.
        engine: `fast`, `reference` or `lava`.
        dataset: name or .npz path; the one that the network was trained on by default.
        split: `test` or `train`.
        samples: the first so many; all by default.
        data_dir: where data sets lie.
        device: `cpu` or `cuda`, for the fast engine.
        timeout_s: seconds that one run of the Lava subprocess may take.
        progress: called with the samples done and to do.

    Raises:
        UsageError, FormatError, RangeError, EngineError: see `nctool.errors`.
    """
    require_engine(engine, device)
    path = Path(model)
    content = read(path)
    pixels, labels = load_samples(content, dataset, split, samples, data_dir)
    tally = _Tally(labels, content.network.n_steps)
    start = time.perf_counter()
    job = Job(path, content, pixels, device, timeout_s)
    for summary in _reported(summaries(engine, job), len(pixels), progress):
        tally.add(summary)
    provenance = content.metadata.provenance
    return RunReport(
        engine=engine,
        dataset=f"{dataset or (provenance.dataset if provenance else '')}/{split}",
        samples=len(pixels),
        accuracy=tally.accuracy(),
        images_per_second=len(pixels) / (time.perf_counter() - start),
        spikes_per_layer=tally.spikes_per_layer(),
        overflows=tally.overflows,
    )


def reported_steps(n_steps: int) -> list[int]:
    """Return 1, 2, 4, ... up to and including the last step."""
    return sorted({2**k for k in range(n_steps.bit_length()) if 2**k <= n_steps} | {n_steps})


class _Tally:
    """Count correct answers, spikes and overflows over batches, and keep no trace.

    Args:
        labels: int64 (samples,).
        n_steps: length of the window.
    """

    def __init__(self, labels: NDArray[np.int64], n_steps: int) -> None:
        self.labels, self.done = labels, 0
        self.correct = dict.fromkeys(reported_steps(n_steps), 0)
        self.spikes: dict[str, int] = {}
        self.overflows: int | None = 0

    def add(self, summary: Summary) -> None:
        """Count one batch."""
        n_samples = len(summary.logits)
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
