"""Training and fine-tuning by `nctool.train` and `nctool.finetune`, for as many epochs as there is time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nctool
from _progress import Record
from nctool.errors import RangeError
from nctool.training import EpochMetrics, TrainReport
from nctool.training.noise import affordable_images

RECIPE, TINY_RECIPE = "cifar10-resnet18", "cifar10-resnet8"
OVERRIDES: dict[str, Any] = {
    "training.learning_rate": 0.1,
    "training.schedule": "one-cycle",
    "activation.threshold_init": "data",
    "training.precision": "auto",
}
"""For tens of epochs instead of 400: a larger rate that is warmed up, and thresholds that need no long way down."""

LOWER_RATE = 0.02
"""Where training diverges."""

TINY_OVERRIDES: dict[str, Any] = {"training.precision": "float32", "training.batch_size": 32}

WINDOWS = {"tuned-124": (1, 2, 4), "tuned-1": (1,), "tuned-2": (2,)}
"""Fine-tunings by the name of their run: the windows that each trains for."""

PARTS = {"tuned-124": 0.55, "tuned-1": 0.15, "tuned-2": 0.3}
"""How they share the time."""

N_TRAIN = 45_000
NOISE_STEPS = 4
"""Training images, and the window that noise is measured in: they say how many images are measured after an epoch."""

FEWEST, MOST = 10, 200
"""Epochs of the training."""

MOST_TUNING = 12
CAREFUL = 0.9
"""Part of the time that is planned with."""

TOO_SLOW = 1.25
"""An epoch that takes so many times what was planned begins the training anew with fewer."""


class TooSlowError(Exception):
    """The epochs take longer than planned."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"an epoch takes {seconds:.1f} s")
        self.seconds = seconds


class EnoughError(Exception):
    """The time of the stage is over."""


@dataclass(frozen=True)
class Planned:
    """Epochs of a run.

    Attributes:
        epochs: how many; 0 where there is no time for any.
        seconds_an_epoch: as measured on a tenth of the images.
    """

    epochs: int
    seconds_an_epoch: float

    @property
    def seconds(self) -> float:
        """Return the time of all of them."""
        return self.epochs * self.seconds_an_epoch


@dataclass(frozen=True)
class Job:
    """What all runs share.

    Attributes:
        device: where they run.
        tiny: rehearse with a small network, one epoch each.
        runs: folder of the runs.
        data: paths of the data sets, `whole` and `tenth`.
        overrides: of the recipe, by the user.
        record: of the job.
    """

    device: str
    tiny: bool
    runs: Path
    data: Mapping[str, Path]
    overrides: Mapping[str, Any]
    record: Record

    def train(self, name: str, epochs: int, on_epoch: Callable[..., None], data: str = "whole") -> TrainReport:
        """Train the network."""
        overrides = self._overrides(data) | {"training.epochs": epochs}
        recipe = TINY_RECIPE if self.tiny else RECIPE
        return nctool.train(recipe, self.runs / name, overrides=overrides, **self._rest(on_epoch))

    def finetune(
        self, name: str, start: str, epochs: int, on_epoch: Callable[..., None], data: str = "whole"
    ) -> TrainReport:
        """Fine-tune the run `start` for the windows of `name`."""
        windows = WINDOWS[name.removeprefix("trial-")]
        overrides = {"data.name": str(self.data[data]), "finetune.steps": windows, "finetune.epochs": epochs}
        chosen = {key: value for key, value in self.overrides.items() if key.startswith("finetune.")}
        return nctool.finetune(
            self.runs / start, self.runs / name, overrides=overrides | chosen, **self._rest(on_epoch)
        )

    def _overrides(self, data: str) -> dict[str, Any]:
        own = {key: value for key, value in self.overrides.items() if not key.startswith("finetune.")}
        usual = OVERRIDES | (TINY_OVERRIDES if self.tiny else {})
        return {"data.name": str(self.data[data])} | usual | own

    def _rest(self, on_epoch: Callable[..., None]) -> dict[str, Any]:
        return {"device": self.device, "overwrite": True, "progress": False, "on_epoch": on_epoch}


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(job: Job, alone: bool) -> dict[str, Planned]:
    """Measure epochs of a tenth of the images, and return how many of all of them fit, by run; tell it as a table.

    Args:
        job: what is planned.
        alone: no stage ran before; plan as if each had taken its share.
    """
    trained, tuned = Timer(), {name: Timer() for name in WINDOWS}
    job.train("trial", 2, trained, data="tenth")
    for name, timer in tuned.items():
        with suppress(EnoughError):
            job.finetune(f"trial-{name}", "trial", 2, _ending(timer, 2), data="tenth")
    budget = job.record.budget
    least, most, most_tuning = (1, 1, 1) if job.tiny else (FEWEST, MOST, MOST_TUNING)
    more_measured = affordable_images(N_TRAIN, NOISE_STEPS) / affordable_images(N_TRAIN // 10, NOISE_STEPS)
    seconds = trained.of_all(more_measured)
    time_of = CAREFUL * (budget.share("train") if alone else budget.left("train"))
    planned = {"trained": _planned(seconds, time_of, least, most)}
    for name, timer in tuned.items():
        time_of = CAREFUL * PARTS[name] * budget.share("finetune")
        planned[name] = _planned(timer.of_all(10), time_of, int(job.tiny), most_tuning)
    _tell(job, planned, budget.until("plan") if alone else budget.spent)
    return planned


class Timer:
    """Called after each epoch of a tenth of the images, keeps the times of the last one; the first warms up."""

    def __init__(self) -> None:
        self._called = 0.0
        self._training = self._measuring = self._writing = 0.0

    def __call__(self, metrics: EpochMetrics, _: int) -> None:
        now = time.perf_counter()
        self._measuring = metrics.seconds_noise
        self._training = metrics.seconds - metrics.seconds_noise
        self._writing = max(0.0, now - self._called - metrics.seconds) if self._called else 0.0
        self._called = now

    def of_all(self, more_measured: float) -> float:
        """Return the seconds of an epoch of all images, of which so many times as many are measured."""
        return 10 * self._training + more_measured * self._measuring + self._writing


def _ending(callback: Callable[[EpochMetrics, int], None], epochs: int) -> Callable[[EpochMetrics, int], None]:
    """Return a callback that ends the run behind so many epochs: what comes after them is not wanted."""
    seen = []

    def report(metrics: EpochMetrics, n_epochs: int) -> None:
        callback(metrics, n_epochs)
        seen.append(metrics)
        if len(seen) == epochs:
            raise EnoughError

    return report


def _planned(seconds_an_epoch: float, seconds: float, least: int, most: int) -> Planned:
    return Planned(max(least, min(most, int(seconds / seconds_an_epoch))), seconds_an_epoch)


def _tell(job: Job, planned: Mapping[str, Planned], begins: float) -> None:
    rows = {name: asdict(each) | {"seconds": each.seconds} for name, each in planned.items()}
    job.record.note("plan", {"runs": rows, "seconds_of_the_job": job.record.budget.seconds})
    for name, each in planned.items():
        job.record.say(
            f"plan: {name:10} {each.epochs:3} epochs of {each.seconds_an_epoch:6.1f} s: {each.seconds:6.0f} s"
        )
    ends, due = begins + sum(each.seconds for each in planned.values()), job.record.budget.until("finetune")
    late = " TOO LATE: give more --minutes" if ends > due else ""
    job.record.say(f"plan: training begins at {begins:.0f} s and ends at {ends:.0f} s, due at {due:.0f} s{late}")


# --- the runs ---------------------------------------------------------------------------------------------------------


def train(job: Job, planned: Planned) -> None:
    """Train as planned; with fewer epochs where these take longer, and at a lower rate where it diverges."""
    try:
        report = job.train("trained", planned.epochs, _watch(job, "train", planned))
    except RangeError as error:
        epochs = max(1, int(CAREFUL * job.record.budget.left("train") / planned.seconds_an_epoch))
        job.record.say(f"train: {error.message}: begun anew at the rate {LOWER_RATE} with {epochs} epochs")
        job = replace(job, overrides={**job.overrides, "training.learning_rate": LOWER_RATE})
        report = job.train("trained", epochs, _watch(job, "train", replace(planned, epochs=0)))
    except TooSlowError as error:
        epochs = max(1, int(CAREFUL * job.record.budget.left("train") / error.seconds))
        job.record.say(f"train: {error}, not {planned.seconds_an_epoch:.1f}: begun anew with {epochs} epochs")
        report = job.train("trained", epochs, _watch(job, "train", replace(planned, epochs=0)))
    _note(job, "trained", report)


def finetune(job: Job, planned: Mapping[str, Planned]) -> None:
    """Fine-tune for every choice of windows that there is time for."""
    for name in WINDOWS:
        left = job.record.budget.left("finetune")
        each = planned[name]
        epochs = each.epochs if job.tiny else min(each.epochs, int(CAREFUL * left / each.seconds_an_epoch))
        if epochs < 1:
            job.record.say(
                f"finetune: no time for {name}: an epoch takes {each.seconds_an_epoch:.1f} s of {left:.0f} s"
            )
            continue
        report = job.finetune(name, "trained", epochs, _watch(job, "finetune", replace(each, epochs=0)))
        _note(job, name, report)


def _watch(job: Job, stage: str, planned: Planned) -> Callable[[EpochMetrics, int], None]:
    """Return a callback that tells of each epoch, and gives up after the second where there will be no time for all."""
    started, seen = time.perf_counter(), []

    def report(metrics: EpochMetrics, n_epochs: int) -> None:
        seen.append(metrics)
        accuracies = metrics.validation_accuracy_ann, *metrics.validation_accuracy_snn.values()
        held_out = " / ".join(f"{100 * value:.1f}" for value in accuracies)
        text = f"{stage}: epoch {metrics.epoch}/{n_epochs}, loss {metrics.loss:.3f}, held out {held_out}"
        job.record.say(f"{text}, {metrics.seconds:.2f} s ({metrics.seconds_noise:.2f} of it measuring)")
        if len(seen) == 2 < planned.epochs:
            seconds = max(metrics.seconds, (time.perf_counter() - started) / 3)
            if seconds > TOO_SLOW * planned.seconds_an_epoch:
                raise TooSlowError(seconds)

    return report


def _note(job: Job, name: str, report: TrainReport) -> None:
    """Keep what a run achieved on the test images."""
    checkpoint = report.path / "checkpoint.safetensors"
    lines = (report.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    job.record.note(
        name,
        {
            "recipe": report.recipe,
            "seed": report.seed,
            "epochs": len(lines),
            "seconds_per_epoch": report.seconds_per_epoch,
            "best_epoch": report.best_epoch,
            "kept_start": report.kept_start,
            "ann": report.accuracy_ann,
            "snn_float": report.accuracy_snn,
            "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        },
    )
    ann, steps = 100 * report.accuracy_ann, report.accuracy_snn.items()
    shown = ", ".join(f"T={step} {100 * value:.2f}" for step, value in steps)
    job.record.say(f"{name}: test, ANN {ann:.2f}, float {shown}")
