"""The first stage of a training run: noisy quantised activations, or ordinary ones whose thresholds are balanced.

In: a network and its data. Out: its first thresholds, the loss of a batch, and after each epoch what the held-out
images say. A stage is what `loop` runs for some epochs with one cosine of the learning rate; the other stage is
`finetuning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from nctool.activation.noisy_quant import activations, in_mode
from nctool.activation.thresholds import FIRST_PERCENTILE, PERCENTILE, balanced_thresholds
from nctool.errors import RangeError
from nctool.progress import ProgressCallback, no_progress
from nctool.recipe.schema import Recipe
from nctool.training.accuracy import MEASURED_AT_ONCE, REPORTED_STEPS, ann_accuracy, snn_accuracy
from nctool.training.chip import Chip
from nctool.training.images.data import LabelledImages, TrainingData
from nctool.training.images.encoding import ImageEncoding
from nctool.training.noise import affordable_images, measure_held_out, set_sigma
from nctool.training.processes import ALONE, Processes


@dataclass(frozen=True)
class Task:
    """What all stages of a run share.

    Attributes:
        model: on the device where it is trained.
        data: the three splits.
        held_out: the held-out split, on that device.
        encoding: from pixels to the network's input.
        recipe: of the run.
        chip: what noise is measured on where the recipe asks for it.
        processes: those that train together.
    """

    model: nn.Module
    data: TrainingData
    held_out: LabelledImages
    encoding: ImageEncoding
    recipe: Recipe
    chip: Chip | None
    processes: Processes = ALONE

    @property
    def measured_at_once(self) -> int:
        """Images of a batch that is measured: no more than are trained at once, so that memory suffices."""
        return min(self.recipe.training.batch_size, MEASURED_AT_ONCE)

    def accuracy_ann(self, split: LabelledImages) -> float:
        """Measure the noise-free ANN; see `ann_accuracy`."""
        return ann_accuracy(self.model, split, self.encoding, self.processes, batch_size=self.measured_at_once)

    def accuracy_snn(
        self,
        split: LabelledImages,
        steps: Sequence[int] = REPORTED_STEPS,
        progress: ProgressCallback = no_progress,
        *,
        replicas: int = 1,
    ) -> dict[int, float]:
        """Measure the spiking network after several windows; see `snn_accuracy`."""
        return snn_accuracy(
            self.model,
            split,
            self.encoding,
            steps,
            self.processes,
            progress,
            batch_size=self.measured_at_once,
            replicas=replicas,
        )


@dataclass(frozen=True)
class Outcome:
    """What the held-out images say after an epoch.

    Attributes:
        accuracy_ann: of the noise-free ANN, 0..1.
        accuracy_snn: of the spiking network by time steps, 0..1.
        noise_source: what σ was measured on: "ideal", "chip" or "none".
        gap: standard deviation of the gap to the spiking network by layer; empty where it is not measured.
        score: the higher, the better the epoch; compared from the first number on.
    """

    accuracy_ann: float
    accuracy_snn: dict[int, float]
    noise_source: str
    gap: dict[str, float]
    score: tuple[float, float]


class Stage(Protocol):
    """Some epochs of training with one objective.

    Attributes:
        name: "train" or "finetune".
        epochs: how many.
        learning_rate: of its first batch.
        remedy: what to do where it diverges.
        may_keep_start: the network that it starts with is one of those to choose from.
        starts_converted: that is what conversion of a trained network chose, on images that may have been trained on.
    """

    name: str
    epochs: int
    learning_rate: float
    remedy: str
    may_keep_start: bool
    starts_converted: bool

    def begin_epoch(self) -> None:
        """Get the model ready for training."""

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of a batch in nats, and its logits (N, classes).

        Args:
            images: uint8 (N, C, H, W).
            labels: int64 (N,).
        """

    def end_epoch(self) -> Outcome:
        """Measure the model on the held-out images, and set what is re-estimated after each epoch."""

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict of the network that was measured, copied to the CPU."""


class _Training:
    """What both kinds of a first stage share: epochs and learning rate of `[training]`, the weights as they are."""

    name = "train"
    may_keep_start = starts_converted = False

    def __init__(self, task: Task) -> None:
        self._task = task
        self.epochs = task.recipe.training.epochs
        self.learning_rate = task.recipe.training.learning_rate
        self.remedy = "lower training.learning_rate"

    def begin_epoch(self) -> None:
        """Turn noise and dropout on, and let batch normalisation learn."""
        self._task.model.train()

    def weights(self) -> dict[str, Tensor]:
        """Return the model's state."""
        return snapshot(self._task.model)

    def _held_out(self) -> LabelledImages:
        """Return as many held-out images as may be measured after each epoch."""
        return self._task.held_out.first(affordable_images(len(self._task.data.train), self._task.recipe.noise.steps))


class NoisyTraining(_Training):
    """Epochs of the noisy quantised network; σ is measured anew after each (Huang et al., arXiv 2404.17456)."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if task.recipe.activation.threshold_init != "data" and task.recipe.model.architecture != "own":
            self.remedy += ", or set a larger activation.threshold_init"

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the noisy network."""
        logits = self._task.model(self._task.encoding(images))
        return functional.cross_entropy(logits, labels), logits

    def end_epoch(self) -> Outcome:
        """Measure σ; an epoch whose numbers do not fit the chip takes it from the float network, and scores lowest."""
        task, noise = self._task, self._task.recipe.noise
        network = None if task.chip is None else task.chip.network(task.model, task.data, task.recipe)
        report = measure_held_out(
            task.model,
            self._held_out(),
            task.encoding,
            noise.steps,
            network,
            task.processes,
            batch_size=task.measured_at_once,
        )
        if noise.source != "none":
            set_sigma(task.model, report.sigma)
        source = "ideal" if task.chip is not None and network is None else noise.source
        score = (report.accuracy_snn if source == noise.source else 0.0, report.accuracy_ann)
        return Outcome(report.accuracy_ann, {noise.steps: report.accuracy_snn}, source, report.sigma, score)


class RectifiedTraining(_Training):
    """Epochs of an ordinary ReLU network; after each its thresholds are balanced on training images."""

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the ReLU network."""
        with in_mode(self._task.model, "rectified"):
            logits = self._task.model(self._task.encoding(images))
        return functional.cross_entropy(logits, labels), logits

    def end_epoch(self) -> Outcome:
        """Set each threshold to a high percentile of what its activation lets through."""
        task, steps, held_out = self._task, self._task.recipe.noise.steps, self._held_out()
        images = task.data.calibration(task.recipe.seed).to(task.held_out.images.device).images
        with in_mode(task.model.eval(), "rectified"):
            thresholds = balanced_thresholds(task.model, activations(task.model), task.encoding(images), PERCENTILE)
            ann = task.accuracy_ann(held_out)
        for name, layer in activations(task.model).items():
            layer.threshold.data.fill_(thresholds[name])
        snn = task.accuracy_snn(held_out, (steps,))
        return Outcome(ann, snn, "none", {}, (ann, snn[steps]))


def first_stage(task: Task) -> Stage:
    """Return the stage that the recipe's `activation.function` asks for."""
    return RectifiedTraining(task) if task.recipe.activation.function == "relu" else NoisyTraining(task)


def start_thresholds(model: nn.Module, data: TrainingData, encoding: ImageEncoding, recipe: Recipe) -> None:
    """Set every threshold to what one in a hundred positive pre-activations exceeds, if the recipe asks for that.

    A network of your own has thresholds already: `nctool.prepare` measured them, or they were trained. One that is
    trained with ReLUs gets its own after each epoch.

    Raises:
        RangeError: an activation is never positive.
    """
    rectified_first = recipe.activation.function == "relu" and recipe.training.epochs > 0
    if recipe.activation.threshold_init != "data" or recipe.model.architecture == "own" or rectified_first:
        return
    images = encoding(data.calibration(recipe.seed).images.to(next(model.parameters()).device))
    is_training = model.training
    try:
        with in_mode(model.eval(), "rectified"):
            measured = balanced_thresholds(model, activations(model), images, FIRST_PERCENTILE)
    except RangeError as error:
        raise RangeError(error.message, hint="set activation.threshold_init to a number") from error
    finally:
        model.train(is_training)
    with torch.no_grad():
        for name, layer in activations(model).items():
            layer.threshold.fill_(measured[name])


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state dict on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
