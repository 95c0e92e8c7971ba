"""Measure on the test images what a training run achieved, and make its checkpoint.

In: a trained model. Out: a `TrainReport`, a `Checkpoint`. The test images are looked at here, once.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from nctool.activation.noisy_quant import activations, in_mode
from nctool.ir.number_format import parts_of_threshold
from nctool.progress import ProgressCallback
from nctool.recipe.schema import Recipe
from nctool.reports import NOT_JSON, Report
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool.training.checkpoints.state import TrainingState
from nctool.training.execution import computes_in_bfloat16
from nctool.training.images.data import LabelledImages, TrainingData
from nctool.training.metrics import count_epochs
from nctool.training.stages import Task


@dataclass(frozen=True)
class TrainReport(Report):
    """What a training run achieved.

    Attributes:
        path: folder of the run.
        recipe, seed: what was trained.
        accuracy_ann: of the noise-free ANN on the test images, 0..1; of the ReLU network where that was trained.
        accuracy_snn: of the float spiking network on the test images, by time steps "1", "2", "4", "8", "16"; with the
            replicas that it was fine-tuned for.
        theta: threshold by layer, in units of the pre-activation; where channels have thresholds of their own, that of
            the one in the middle.
        sigma: noise by layer, same units, measured on the chosen epoch; 0 when the recipe has no noise.
        best_epoch: the epoch chosen on the held-out images, from 1, among those of the last stage.
        kept_start: no epoch of fine-tuning was as good as its start, or better by more than chance where that is a
            conversion, so that the start was kept as it was; `best_epoch` is then that of the last epoch before, 0
            where there was none.
        seconds_per_epoch: mean wall time.
        precision: of linear layers in training, "float32" or "bfloat16": what `training.precision` asks for, or with
            "auto" what the device has.
        ideal_epochs: with noise of a chip, epochs that took it from the float spiking network, because no integers
            fitted; 0 for other recipes.
        is_own: the network is of the user's code, which functions take as `model=`.
        replicas: neurons for each activation of the spiking network that was measured.
    """

    path: Path
    recipe: str
    seed: int
    accuracy_ann: float
    accuracy_snn: dict[str, float]
    theta: dict[str, float]
    sigma: dict[str, float]
    best_epoch: int
    kept_start: bool
    seconds_per_epoch: float
    precision: str
    ideal_epochs: int
    is_own: bool = field(default=False, metadata=NOT_JSON)
    replicas: int = field(default=1, metadata=NOT_JSON)


def tested(task: Task, state: TrainingState, path: Path, progress: ProgressCallback) -> TrainReport:
    """Measure the trained model on the test images, once; the processes of `task` share them."""
    model, recipe = task.model, task.recipe
    test = task.data.test.to(task.held_out.images.device)
    is_relu = recipe.activation.function == "relu" and recipe.finetune is None
    with in_mode(model, "rectified") if is_relu else nullcontext():
        accuracy_ann = task.accuracy_ann(test)
    by_steps = _by_steps(task, test, progress)
    ideal_epochs = 0 if recipe.chip is None else task.processes.from_first(lambda: count_epochs(path, "ideal"))
    return TrainReport(
        path=path,
        recipe=recipe.name,
        seed=recipe.seed,
        accuracy_ann=accuracy_ann,
        accuracy_snn={str(steps): accuracy for steps, accuracy in by_steps.items()},
        theta=theta_of(model),
        sigma=sigma_of(model),
        best_epoch=state.best_epoch,
        kept_start=recipe.finetune is not None and state.best_epoch <= recipe.training.epochs,
        seconds_per_epoch=math.fsum(state.seconds) / len(state.seconds),
        precision="bfloat16" if computes_in_bfloat16(recipe.training, test.images.device) else "float32",
        ideal_epochs=ideal_epochs,
        is_own=recipe.model.architecture == "own",
        replicas=1 if recipe.finetune is None else recipe.finetune.replicas,
    )


def _by_steps(task: Task, test: LabelledImages, progress: ProgressCallback) -> dict[int, float]:
    """Return the accuracy of the spiking network by time steps: of graded neurons, the one that they have."""
    finetune = task.recipe.finetune
    if finetune is None or finetune.activation_bits is None:
        return task.accuracy_snn(test, progress=progress, replicas=1 if finetune is None else finetune.replicas)
    with in_mode(task.model, "graded", parts_of_threshold(finetune.activation_bits, task.recipe.activation.levels)):
        return {1: task.accuracy_ann(test)}


def checkpoint_of(data: TrainingData, recipe: Recipe, state: TrainingState, report: TrainReport) -> Checkpoint:
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
        data_dir=data.data_dir,
        results={
            "accuracy_ann": report.accuracy_ann,
            "accuracy_snn": report.accuracy_snn,
            "theta": report.theta,
            "sigma": report.sigma,
            "best_epoch": report.best_epoch,
        },
    )


def theta_of(model: nn.Module) -> dict[str, float]:
    """Return the threshold of every activation by layer name."""
    return {name: float(layer.threshold.detach()) for name, layer in activations(model).items()}


def sigma_of(model: nn.Module) -> dict[str, float]:
    """Return the noise of every activation by layer name."""
    return {name: float(layer.sigma) for name, layer in activations(model).items()}
