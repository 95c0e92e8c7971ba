"""Train a network: the stages of its recipe, one after the other.

In: a model, the data in memory, a recipe, a folder. Out: the folder filled with a checkpoint, and its
numbers. The held-out images choose the epoch; the test images are looked at once, at the end.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nctool.errors import FormatError, UsageError
from nctool.files import make_directory
from nctool.integer_format import IntegerFormat
from nctool.progress import ProgressCallback, no_progress
from nctool.recipe import Recipe
from nctool.training.checkpoint import CHECKPOINT_NAME, save_checkpoint
from nctool.training.chip import Chip
from nctool.training.coding import input_coding
from nctool.training.data import TrainingData
from nctool.training.execution import execution, require_execution
from nctool.training.finetuning import Finetuning
from nctool.training.memory import explained_out_of_memory
from nctool.training.metrics import EpochMetrics, append_metrics, start_metrics
from nctool.training.optimiser import Optimiser
from nctool.training.result import TrainResult, checkpoint_of, sigma_of, tested, theta_of
from nctool.training.stages import Outcome, Stage, Task, first_stage, snapshot
from nctool.training.state import STATE_NAME, TrainingState, load_state, save_state
from nctool.training.tensor_file import first_mismatch


def fit(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    out_dir: Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    trained: bool = False,
    form: IntegerFormat | None = None,
    progress: ProgressCallback = no_progress,
) -> TrainResult:
    """Train a model and write its checkpoint.

    The epoch kept is the one with the highest held-out accuracy of the spiking network after `noise.steps`
    steps, then of the ANN; of equals the last. With noise of a chip that is the integer network; an epoch whose
    numbers do not fit the chip takes its noise from the float one, and is kept only if no other fits. Fine-tuning
    starts from that epoch; then the one kept is that of the highest mean accuracy over `finetune.steps`. One recipe,
    seed and number of threads gives the same bytes on the CPU. An interruption leaves complete files: `resume` goes on
    after the last complete epoch.

    Args:
        model: fresh, from the recipe's seed; left on `device` with the chosen weights, in evaluation mode.
        data: the three splits.
        recipe: `[activation]` and `[model]` are already in the model; the rest is followed here.
        out_dir: gets `checkpoint.safetensors`, `recipe.toml`, `metrics.jsonl`, `last.safetensors`.
        device: `cpu` or `cuda`.
        resume: continue from `last.safetensors`.
        trained: the model has its trained weights; only the recipe's fine-tuning is done.
        form: what the realisation of the recipe's `[chip]` can hold; needed with `noise.source` "chip".
        progress: told of every batch.

    Returns:
        the numbers of the chosen epoch.

    Raises:
        UsageError: no such device, one that cannot do what `training.precision` and `training.deterministic` ask for,
            the folder cannot be written, nothing to resume, another recipe's state, or no `form` for a recipe with a
            chip.
        UnsupportedError: noise is to be that of a chip, and the model cannot be converted.
        FormatError: the state to resume from is bad.
        RangeError: the training diverged, or memory ran out.
    """
    device, chip = _device(device), _chip(recipe, form)
    require_execution(recipe.training, device)
    out_dir = make_directory(out_dir)
    model.to(device)
    state = _nothing_done(model, recipe.training.epochs if trained else 0)
    if resume:
        state = load_state(out_dir, recipe)
        _require_fit(model, state, out_dir)
    coding = input_coding(data.normalisation, recipe)
    task = Task(model, data, data.held_out.to(device), coding, recipe, chip)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    computing = execution(model, data.input_shape[0], recipe.training, device)
    with explained_out_of_memory(device, recipe.training.batch_size), forked, computing:
        state = _train(task, state, out_dir, progress)
    model.load_state_dict(state.best)
    model.eval()
    result = tested(model, data, recipe, state, out_dir / CHECKPOINT_NAME)
    save_checkpoint(out_dir, checkpoint_of(data, recipe, state, result))
    return result


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")  # as the other devices that nothing is trained on
    if found.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device `{device}`, allowed: cpu, cuda")
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device `{device}` is not available here", hint="use --device cpu")
    return found


def _chip(recipe: Recipe, form: IntegerFormat | None) -> Chip | None:
    if recipe.chip is None:
        return None
    if form is None:
        raise UsageError('recipe: `noise.source` is "chip", but no integer format is given', hint="use nctool.train")
    return Chip(recipe.chip, form)


def _train(task: Task, start: TrainingState, out_dir: Path, progress: ProgressCallback) -> TrainingState:
    """Run the epochs that are not done yet, and return the state after the last."""
    state, epochs_before = start, 0
    start_metrics(out_dir, len(state.seconds))
    for stage in _stages(task):
        last = epochs_before + stage.epochs
        if state.epoch < last:
            state = _run(stage, epochs_before, task, state, out_dir, progress)
        epochs_before = last
    return state


def _stages(task: Task) -> tuple[Stage, ...]:
    settings = task.recipe.finetune
    return (first_stage(task),) if settings is None else (first_stage(task), Finetuning(task, settings))


def _run(
    stage: Stage, epochs_before: int, task: Task, state: TrainingState, out_dir: Path, progress: ProgressCallback
) -> TrainingState:
    """Run the rest of a stage: from the best weights of the one before it, or from where it stopped."""
    if state.epoch == epochs_before:
        state = replace(state, model=state.best, momentum={}, best_score=(0.0, 0.0))
    task.model.load_state_dict(state.model)
    train = task.data.train.to(task.held_out.images.device)
    optimiser = Optimiser(task.model, train, stage, epochs_before, task.recipe)
    optimiser.set_momentum(state.momentum)
    for epoch in range(state.epoch + 1, epochs_before + stage.epochs + 1):
        started = time.perf_counter()
        loss = optimiser.run_epoch(epoch, progress)
        trained = time.perf_counter()
        outcome = stage.end_epoch()
        ended = time.perf_counter()
        seconds = ended - started
        line = _metrics(stage, optimiser, epoch, loss, outcome, task.model)
        append_metrics(out_dir, replace(line, seconds=seconds, seconds_noise=ended - trained))
        state = _after_epoch(stage, task.model, optimiser, outcome, seconds, state)
        save_state(out_dir, state, task.recipe)
    return state


def _nothing_done(model: nn.Module, epoch: int) -> TrainingState:
    weights = snapshot(model)
    return TrainingState(epoch, weights, momentum={}, best=weights, best_epoch=epoch, best_score=(0.0, 0.0), seconds=())


def _require_fit(model: nn.Module, state: TrainingState, out_dir: Path) -> None:
    problem = first_mismatch(model.state_dict(), state.model) or first_mismatch(state.model, state.best)
    if problem is not None:
        raise FormatError(f"`{out_dir / STATE_NAME}` does not fit the recipe's model: {problem}")


def _metrics(
    stage: Stage, optimiser: Optimiser, epoch: int, loss: float, outcome: Outcome, model: nn.Module
) -> EpochMetrics:
    """Return the line of an epoch, its times left at 0."""
    return EpochMetrics(
        epoch=epoch,
        stage=stage.name,
        loss=loss,
        validation_accuracy_ann=outcome.accuracy_ann,
        validation_accuracy_snn={str(steps): accuracy for steps, accuracy in outcome.accuracy_snn.items()},
        learning_rate=optimiser.learning_rate(epoch),
        sigma=sigma_of(model),
        theta=theta_of(model),
        seconds=0.0,
        seconds_noise=0.0,
        noise_source=outcome.noise_source,
    )


def _after_epoch(
    stage: Stage, model: nn.Module, optimiser: Optimiser, outcome: Outcome, seconds: float, before: TrainingState
) -> TrainingState:
    """Return the state after one more epoch; that epoch is the best one when none before was better."""
    epoch, best, best_epoch, best_score = before.epoch + 1, before.best, before.best_epoch, before.best_score
    if outcome.score >= best_score:
        best, best_epoch, best_score = stage.weights(), epoch, outcome.score
    seconds_so_far = (*before.seconds, seconds)
    return TrainingState(epoch, snapshot(model), optimiser.momentum(), best, best_epoch, best_score, seconds_so_far)
