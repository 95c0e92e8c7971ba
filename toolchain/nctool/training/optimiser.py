"""Stochastic gradient descent for one epoch of a stage, with the checks that name what went wrong.

In: a stage, its model, training images, the recipe. Out: changed weights and the epoch's mean loss.

Every random stream is started anew for each epoch from the recipe's seed and the epoch's number: a run
that goes on after an interruption draws the same numbers as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from nctool.errors import RangeError, UsageError
from nctool.nq import activations
from nctool.progress import ProgressCallback
from nctool.recipe import Recipe
from nctool.training.augment import augment
from nctool.training.auto_augment import require_auto_augment
from nctool.training.data import LabelledImages
from nctool.training.execution import autocast
from nctool.training.stages import Stage

_SMALLEST_BATCH = 2
"""Batch normalisation has no variance to work with in a batch of one: such a last batch is left out."""
_HINT = "lower training.learning_rate or raise activation.threshold_init"


class Optimiser:
    """SGD with momentum and weight decay on all parameters; the learning rate is a cosine over the stage's batches.

    Args:
        model: on the device where it is trained.
        train: the training images, on the same device.
        stage: what is trained for, how long, and the first learning rate.
        epochs_before: of the stages before this one.
        recipe: `[training]` and the seed.

    Raises:
        UsageError: fewer than two training images, or ones that `training.auto_augment` cannot change.
    """

    def __init__(
        self, model: nn.Module, train: LabelledImages, stage: Stage, epochs_before: int, recipe: Recipe
    ) -> None:
        if len(train) < _SMALLEST_BATCH:
            raise UsageError(f"got {len(train)} training image, allowed: {_SMALLEST_BATCH} or more")
        require_auto_augment(recipe.training.auto_augment, train.images.shape[1])
        self._model, self._train, self._stage, self._epochs_before = model, train, stage, epochs_before
        self._recipe, self._settings = recipe, recipe.training
        self._layers = activations(model)
        self._sgd = torch.optim.SGD(
            model.parameters(),
            lr=stage.learning_rate,
            momentum=self._settings.momentum,
            weight_decay=self._settings.weight_decay,
        )
        full, rest = divmod(len(train), self._settings.batch_size)
        self.batches_per_epoch = full + (rest >= _SMALLEST_BATCH)

    def learning_rate(self, epoch: int, step: int = 0) -> float:
        """Return lr/2 · (1 + cos(π · done/total)), counted in the stage's batches; epoch of the run, step from 0."""
        done = (epoch - 1 - self._epochs_before) * self.batches_per_epoch + step
        total = self._stage.epochs * self.batches_per_epoch
        return self._stage.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done / total))

    def run_epoch(self, epoch: int, progress: ProgressCallback) -> float:
        """Show the network every training image once, in random order.

        Args:
            epoch: of the run, from 1.
            progress: told of every batch, counted over the whole run.

        Returns:
            the mean of the batches' cross-entropy, in nats.

        Raises:
            RangeError: the loss is not finite, or a threshold is no longer positive.
        """
        seed = np.random.SeedSequence([self._recipe.seed, epoch]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        self._stage.begin_epoch()
        order = torch.randperm(len(self._train)).split(self._settings.batch_size)[: self.batches_per_epoch]
        n_epochs = self._recipe.n_epochs
        total, done = n_epochs * self.batches_per_epoch, (epoch - 1) * self.batches_per_epoch
        losses = []
        for step, chosen in enumerate(order):
            losses.append(self._step(chosen.to(self._train.images.device), epoch, step))
            message = f"epoch {epoch}/{n_epochs}, loss {losses[-1]:.3f}"
            progress(done + step + 1, total, message)
        return math.fsum(losses) / len(losses)

    def momentum(self) -> dict[str, Tensor]:
        """Return SGD's momentum buffers by parameter name; none when the recipe has no momentum."""
        states = {name: self._sgd.state[value] for name, value in self._model.named_parameters()}
        buffers = {name: state.get("momentum_buffer") for name, state in states.items()}
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def set_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """Put back what `momentum` returned."""
        for name, parameter in self._model.named_parameters():
            if name in buffers:
                self._sgd.state[parameter]["momentum_buffer"] = buffers[name].to(parameter.device).clone()

    def _step(self, chosen: Tensor, epoch: int, step: int) -> float:
        for group in self._sgd.param_groups:
            group["lr"] = self.learning_rate(epoch, step)
        images = augment(self._train.images[chosen], self._settings)
        with autocast(self._settings, images.device.type):
            loss = self._stage.loss(images, self._train.labels[chosen])
        self._sgd.zero_grad(set_to_none=True)
        loss.backward()
        self._sgd.step()
        return self._checked(loss.detach(), epoch, step)

    def _checked(self, loss: Tensor, epoch: int, step: int) -> float:
        """Return the loss as a number; it and all thresholds come from the device in one transfer, the only one."""
        thresholds = [layer.threshold.detach() for layer in self._layers.values()]
        value, *values = torch.stack([loss, *thresholds]).tolist()
        where = f"in epoch {epoch}, batch {step + 1}"
        if not math.isfinite(value):
            raise RangeError(f"training diverged: loss is {value} {where}", _HINT)
        for name, threshold in zip(self._layers, values, strict=True):
            if not 0.0 < threshold < math.inf:
                raise RangeError(f"training diverged: threshold of `{name}` is {threshold:g} {where}", _HINT)
        return float(value)
