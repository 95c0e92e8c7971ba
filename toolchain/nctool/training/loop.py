"""Train a network with noisy quantised activations.

In: a model, the data in memory, a recipe, a folder. Out: the folder filled with a checkpoint, and its
numbers. The held-out images choose the epoch; the test images are looked at once, at the end.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nctool.errors import FormatError, UsageError
from nctool.files import make_directory
from nctool.integer_format import IntegerFormat
from nctool.nq import activations
from nctool.progress import ProgressCallback, no_progress
from nctool.recipe import Recipe
from nctool.training.checkpoint import CHECKPOINT_NAME, Checkpoint, save_checkpoint
from nctool.training.chip import Chip
from nctool.training.coding import input_coding
from nctool.training.data import TrainingData
from nctool.training.metrics import EpochMetrics, append_metrics, count_epochs, start_metrics
from nctool.training.noise import HeldOutReport, measure_held_out, set_sigma
from nctool.training.optimiser import Optimiser
from nctool.training.spiking import ann_accuracy, snn_accuracy
from nctool.training.state import STATE_NAME, TrainingState, load_state, save_state
from nctool.training.tensor_file import first_mismatch


@dataclass(frozen=True)
class TrainResult:
    """What a training run achieved.

    Attributes:
        path: of `checkpoint.safetensors`.
        accuracy_ann: of the noise-free ANN on the test images, 0..1.
        accuracy_snn: of the float spiking network on the test images, by time steps "1", "2", "4", "8", "16".
        theta: threshold by layer, in units of the pre-activation.
        sigma: noise by layer, same units, measured on the chosen epoch; 0 when the recipe has no noise.
        best_epoch: the epoch chosen on the held-out images, from 1.
        seconds_per_epoch: mean wall time.
        ideal_epochs: with noise of a chip, epochs that took it from the float spiking network, because no integers
            fitted; 0 for other recipes.
    """

    path: Path
    accuracy_ann: float
    accuracy_snn: dict[str, float]
    theta: dict[str, float]
    sigma: dict[str, float]
    best_epoch: int
    seconds_per_epoch: float
    ideal_epochs: int


def fit(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    out_dir: Path,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    form: IntegerFormat | None = None,
    progress: ProgressCallback = no_progress,
) -> TrainResult:
    """Train a model and write its checkpoint.

    The epoch kept is the one with the highest held-out accuracy of the spiking network after `noise.steps`
    steps, then of the ANN; of equals the last. With noise of a chip that is the integer network; an epoch whose
    numbers do not fit the chip takes its noise from the float one, and is kept only if no other fits. One recipe,
    seed and number of threads gives the same bytes on the CPU. An interruption leaves complete files: `resume` goes
    on after the last complete epoch.

    Args:
        model: fresh, from the recipe's seed; left on `device` with the chosen weights, in evaluation mode.
        data: the three splits.
        recipe: `[activation]` and `[model]` are already in the model; the rest is followed here.
        out_dir: gets `checkpoint.safetensors`, `recipe.toml`, `metrics.jsonl`, `last.safetensors`.
        device: `cpu` or `cuda`.
        resume: continue from `last.safetensors`.
        form: what the realisation of the recipe's `[chip]` can hold; needed with `noise.source` "chip".
        progress: told of every batch.

    Returns:
        the numbers of the chosen epoch.

    Raises:
        UsageError: no such device, the folder cannot be written, nothing to resume, another recipe's state, or no
            `form` for a recipe with a chip.
        UnsupportedError: noise is to be that of a chip, and the model cannot be converted.
        FormatError: the state to resume from is bad.
        RangeError: the training diverged.
    """
    device, chip = _device(device), _chip(recipe, form)
    out_dir = make_directory(out_dir)
    model.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = _train(model, data, recipe, chip, out_dir, device, resume, progress)
    model.load_state_dict(state.best)
    model.eval()
    result = _test(model, data, recipe, state, out_dir / CHECKPOINT_NAME)
    save_checkpoint(out_dir, _checkpoint(data, recipe, state, result))
    return result


def theta_of(model: nn.Module) -> dict[str, float]:
    """Return the threshold of every activation by layer name."""
    return {name: float(layer.threshold.detach()) for name, layer in activations(model).items()}


def sigma_of(model: nn.Module) -> dict[str, float]:
    """Return the noise of every activation by layer name."""
    return {name: float(layer.sigma) for name, layer in activations(model).items()}


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device `{device}`, allowed: cpu, cuda") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device `cuda` is not available here", hint="use --device cpu")
    return found


def _chip(recipe: Recipe, form: IntegerFormat | None) -> Chip | None:
    if recipe.chip is None:
        return None
    if form is None:
        raise UsageError('recipe: `noise.source` is "chip", but no integer format is given', hint="use nctool.train")
    return Chip(recipe.chip, form)


def _train(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    chip: Chip | None,
    out_dir: Path,
    device: torch.device,
    resume: bool,
    progress: ProgressCallback,
) -> TrainingState:
    """Run the epochs that are not done yet, and return the state after the last."""
    coding = input_coding(data.normalisation, recipe)
    optimiser = Optimiser(model, data.train.to(device), coding, recipe)
    held_out = data.held_out.to(device)
    state = load_state(out_dir, recipe) if resume else _nothing_done(model)
    _restore(model, optimiser, state, out_dir)
    start_metrics(out_dir, state.epoch)
    for epoch in range(state.epoch + 1, recipe.training.epochs + 1):
        started = time.perf_counter()
        loss = optimiser.run_epoch(epoch, progress)
        network = None if chip is None else chip.network(model, data, recipe)
        report = measure_held_out(model, held_out, coding, recipe.noise.steps, network)
        if recipe.noise.source != "none":
            set_sigma(model, report.sigma)
        source = "ideal" if chip is not None and network is None else recipe.noise.source
        seconds = time.perf_counter() - started
        append_metrics(out_dir, _metrics(model, optimiser, epoch, loss, report, seconds, source))
        score = (report.accuracy_snn if source == recipe.noise.source else 0.0, report.accuracy_ann)
        state = _after_epoch(model, optimiser, score, seconds, state)
        save_state(out_dir, state, recipe)
    return state


def _nothing_done(model: nn.Module) -> TrainingState:
    weights = _snapshot(model)
    return TrainingState(0, weights, momentum={}, best=weights, best_epoch=0, best_score=(0.0, 0.0), seconds=())


def _restore(model: nn.Module, optimiser: Optimiser, state: TrainingState, out_dir: Path) -> None:
    problem = first_mismatch(model.state_dict(), state.model) or first_mismatch(state.model, state.best)
    if problem is not None:
        raise FormatError(f"`{out_dir / STATE_NAME}` does not fit the recipe's model: {problem}")
    model.load_state_dict(state.model)
    optimiser.set_momentum(state.momentum)


def _metrics(
    model: nn.Module,
    optimiser: Optimiser,
    epoch: int,
    loss: float,
    report: HeldOutReport,
    seconds: float,
    noise_source: str,
) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        loss=loss,
        validation_accuracy_ann=report.accuracy_ann,
        validation_accuracy_snn=report.accuracy_snn,
        learning_rate=optimiser.learning_rate(epoch),
        sigma=sigma_of(model),
        theta=theta_of(model),
        seconds=seconds,
        noise_source=noise_source,
    )


def _after_epoch(
    model: nn.Module, optimiser: Optimiser, score: tuple[float, float], seconds: float, before: TrainingState
) -> TrainingState:
    """Return the state after one more epoch; that epoch is the best one when none before was better."""
    weights, epoch = _snapshot(model), before.epoch + 1
    best, best_epoch, best_score = weights, epoch, score
    if best_score < before.best_score:
        best, best_epoch, best_score = dict(before.best), before.best_epoch, before.best_score
    return TrainingState(epoch, weights, optimiser.momentum(), best, best_epoch, best_score, (*before.seconds, seconds))


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _test(model: nn.Module, data: TrainingData, recipe: Recipe, state: TrainingState, path: Path) -> TrainResult:
    """Look at the test images, once."""
    test = data.test.to(next(model.parameters()).device)
    coding = input_coding(data.normalisation, recipe)
    by_steps = snn_accuracy(model, test, coding)
    return TrainResult(
        path=path,
        accuracy_ann=ann_accuracy(model, test, coding),
        accuracy_snn={str(steps): accuracy for steps, accuracy in by_steps.items()},
        theta=theta_of(model),
        sigma=sigma_of(model),
        best_epoch=state.best_epoch,
        seconds_per_epoch=math.fsum(state.seconds) / len(state.seconds),
        ideal_epochs=0 if recipe.chip is None else count_epochs(path.parent, "ideal"),
    )


def _checkpoint(data: TrainingData, recipe: Recipe, state: TrainingState, result: TrainResult) -> Checkpoint:
    """Gather what is saved: nothing in it depends on the clock."""
    calibration = data.calibration(recipe.seed)
    return Checkpoint(
        recipe=recipe,
        state=state.best,
        calibration_images=calibration.images.numpy(),
        calibration_labels=calibration.labels.numpy(),
        dataset_name=data.name,
        input_shape=data.input_shape,
        classes=data.classes,
        mean=data.normalisation.mean,
        std=data.normalisation.std,
        results={
            "accuracy_ann": result.accuracy_ann,
            "accuracy_snn": result.accuracy_snn,
            "theta": result.theta,
            "sigma": result.sigma,
            "best_epoch": result.best_epoch,
        },
    )
