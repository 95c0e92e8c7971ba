"""Run the epochs of one stage: train, measure, keep the best, write the state.

In: a stage and the state before it. Out: the state after it, or `Interrupted`. Whatever ends the run,
`last.safetensors` holds the last complete epoch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from nctool.errors import Interrupted
from nctool.files import cannot_write
from nctool.progress import ProgressCallback
from nctool.recipe.schema import Recipe
from nctool.training.checkpoints.names import CHECKPOINT_NAME, RECIPE_NAME, STATE_NAME
from nctool.training.checkpoints.state import TrainingState, save_state
from nctool.training.interruption import Interruption
from nctool.training.metrics import EpochCallback, EpochMetrics, add_metrics
from nctool.training.optimiser import EpochLoss, Optimiser
from nctool.training.result import sigma_of, theta_of
from nctool.training.stages import Outcome, Stage, Task, snapshot


@dataclass(frozen=True)
class Run:
    """Where a run writes, whom it reports to, and what may end it.

    Attributes:
        directory: where its files go.
        progress: called after every batch.
        on_epoch: called after every epoch.
        interruption: what may end it.
    """

    directory: Path
    progress: ProgressCallback
    on_epoch: EpochCallback
    interruption: Interruption


def run_stage(stage: Stage, epochs_before: int, task: Task, state: TrainingState, run: Run) -> TrainingState:
    """Run the rest of a stage: from the best weights of the one before it, or from where it stopped.

    Where the stage may keep its start, that is the best of its networks until an epoch is as good; one that conversion
    chose, until an epoch is better by more than chance.

    Raises:
        UsageError: a file cannot be written.
        RangeError: the training diverged.
        Interrupted: a signal came.
    """
    state = _begun(stage, task.model, state) if state.epoch == epochs_before else state
    task.model.load_state_dict(state.model)
    train = task.data.train.to(task.held_out.images.device)
    optimiser = Optimiser(task, train, stage, epochs_before)
    optimiser.set_momentum(state.momentum)
    progress = run.progress
    for epoch in range(state.epoch + 1, epochs_before + stage.epochs + 1):
        started = time.perf_counter()
        loss = optimiser.run_epoch(epoch, progress, run.interruption)
        if loss is None:
            raise _interrupted(state, task.recipe, run)
        trained = time.perf_counter()
        outcome = stage.end_epoch(epoch)
        ended = time.perf_counter()
        seconds = ended - started
        line = _metrics(stage, optimiser, epoch, loss, outcome, task.model)
        metrics = replace(line, seconds=seconds, seconds_noise=ended - trained)
        is_best = outcome.score >= state.best_score
        if stage.starts_converted and state.best_epoch == epochs_before:
            is_best = _is_surely_better(outcome.score[0], state.best_score[0], len(task.held_out))
        before, state = state, _after_epoch(stage, task.model, optimiser, outcome.score, is_best, seconds, state)
        task.processes.from_first(partial(_write, run.directory, metrics, before, state, task.recipe))
        run.on_epoch(metrics, task.recipe.n_epochs)
        progress = _with_held_out(run.progress, metrics)
        if task.processes.any(run.interruption.noted is not None):
            raise _interrupted(state, task.recipe, run)
    return state


def _begun(stage: Stage, model: nn.Module, before: TrainingState) -> TrainingState:
    """Return the state in which a stage begins: with the best network of the one before, which may be its own best.

    That is measured as those of the stage are, and stays as it is.
    """
    state = replace(before, model=before.best, momentum={}, best_score=(0.0, 0.0))
    if not stage.may_keep_start:
        return state
    model.load_state_dict(state.model)
    stage.begin_epoch()
    return replace(state, best_epoch=state.epoch, best_score=stage.end_epoch(state.epoch).score)


def _write(directory: Path, metrics: EpochMetrics, before: TrainingState, after: TrainingState, recipe: Recipe) -> None:
    """Write the line and the state of an epoch; the first epoch replaces an old run.

    The line comes first: if its state is missing, it is dropped on resuming.
    """
    if not before.seconds:
        for name in (CHECKPOINT_NAME, RECIPE_NAME):
            _remove(directory / name)
    add_metrics(directory, metrics, len(before.seconds))
    save_state(directory, after, recipe)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _with_held_out(progress: ProgressCallback, metrics: EpochMetrics) -> ProgressCallback:
    """Return a callback that adds the last epoch's accuracies to the messages of `progress`."""

    def report(done: int, total: int, message: str = "") -> None:
        progress(done, total, f"{message}; held out {metrics.held_out()}")

    return report


def _interrupted(state: TrainingState, recipe: Recipe, run: Run) -> Interrupted:
    epochs_here = state.epoch if state.seconds else 0  # of a network that was trained before, none yet
    return run.interruption.error(epochs_here, recipe.n_epochs, run.directory / STATE_NAME)


def _metrics(
    stage: Stage, optimiser: Optimiser, epoch: int, loss: EpochLoss, outcome: Outcome, model: nn.Module
) -> EpochMetrics:
    """Return the line of an epoch, its times left at 0."""
    return EpochMetrics(
        epoch=epoch,
        stage=stage.name,
        loss=loss.loss,
        training_accuracy=loss.accuracy,
        validation_accuracy_ann=outcome.accuracy_ann,
        validation_accuracy_snn={str(steps): accuracy for steps, accuracy in outcome.accuracy_snn.items()},
        learning_rate=optimiser.learning_rate(epoch),
        sigma=sigma_of(model),
        gap=outcome.gap,
        theta=theta_of(model),
        seconds=0.0,
        seconds_noise=0.0,
        noise_source=outcome.noise_source,
    )


def _is_surely_better(accuracy: float, at_start: float, n_images: int) -> bool:
    """Return whether an epoch has fewer errors than the start of its stage, by more than one standard deviation.

    The difference of two numbers of errors has about the variance of their sum. Where few images are held out, the best
    of some epochs is easily better by an image or two, and no better on others.
    """
    errors, errors_before = (round(n_images * (1.0 - share), 6) for share in (accuracy, at_start))
    return errors_before - errors > math.sqrt(errors_before + errors)


def _after_epoch(
    stage: Stage,
    model: nn.Module,
    optimiser: Optimiser,
    score: tuple[float, float],
    is_best: bool,
    seconds: float,
    before: TrainingState,
) -> TrainingState:
    """Return the state after one more epoch."""
    epoch, best, best_epoch, best_score = before.epoch + 1, before.best, before.best_epoch, before.best_score
    if is_best:
        best, best_epoch, best_score = stage.weights(), epoch, score
    seconds_so_far = (*before.seconds, seconds)
    return TrainingState(epoch, snapshot(model), optimiser.momentum(), best, best_epoch, best_score, seconds_so_far)
