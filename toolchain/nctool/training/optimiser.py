"""Stochastic gradient descent for one epoch of a stage, with the checks that name what went wrong.

In: a stage, its model, training images, the recipe. Out: changed weights and the epoch's mean loss.

Every random stream is started anew for each epoch from the recipe's seed and the epoch's number: a run
that goes on after an interruption draws the same numbers as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nctool.activation.noisy_quant import activations
from nctool.errors import RangeError, UsageError
from nctool.progress import ProgressCallback
from nctool.training.execution import autocast
from nctool.training.images.auto_augment import require_auto_augment
from nctool.training.images.data import LabelledImages
from nctool.training.interruption import Interruption
from nctool.training.schedule import rate
from nctool.training.stages import Stage, Task

_SMALLEST_BATCH = 2
"""Batch normalisation has no variance to work with in a batch of one: such a last batch is left out."""


@dataclass(frozen=True)
class EpochLoss:
    """The loss and accuracy of the batches of an epoch.

    Attributes:
        loss: mean of their cross-entropies, in nats.
        accuracy: of the network in training on their images, 0..1.
    """

    loss: float
    accuracy: float


class Optimiser:
    """SGD with momentum and weight decay on all parameters; the learning rate goes by the stage's schedule.

    Args:
        task: the model, and the recipe with `[training]` and the seed. Its processes share every batch;
            `training.batch_size` is that of all together.
        train: the training images, on the device of the model.
        stage: what is trained for, how long, and at which learning rates.
        epochs_before: of the stages before this one.

    Raises:
        UsageError: fewer than two training images, or ones that `training.auto_augment` cannot change.
    """

    def __init__(self, task: Task, train: LabelledImages, stage: Stage, epochs_before: int) -> None:
        if len(train) < _SMALLEST_BATCH:
            raise UsageError(f"got {len(train)} training image, allowed: {_SMALLEST_BATCH} or more")
        require_auto_augment(task.recipe.training.auto_augment, train.images.shape[1])
        self._task, self._train, self._stage, self._epochs_before = task, train, stage, epochs_before
        self._recipe, self._settings, self._processes = task.recipe, task.recipe.training, task.processes
        self._model, self._layers = task.model, activations(task.model)
        self._sgd = torch.optim.SGD(
            self._model.parameters(),
            lr=stage.learning_rate,
            momentum=self._settings.momentum,
            weight_decay=self._settings.weight_decay,
        )
        full, rest = divmod(len(train), self._settings.batch_size)
        self.batches_per_epoch = full + (rest >= _SMALLEST_BATCH)

    def learning_rate(self, epoch: int, step: int = 0) -> float:
        """Return the learning rate of a batch by the stage's schedule; epoch of the run, step from 0."""
        stage, in_stage = self._stage, epoch - 1 - self._epochs_before
        return stage.learning_rate * rate(stage.schedule, in_stage, stage.epochs, step, self.batches_per_epoch)

    def run_epoch(self, epoch: int, progress: ProgressCallback, interruption: Interruption) -> EpochLoss | None:
        """Show the network every training image once, in random order.

        Args:
            epoch: of the run, from 1.
            progress: called after every batch, with the number of batches of the whole run.
            interruption: looked at after every batch.

        Returns:
            loss and accuracy, or None if a signal came to any process.

        Raises:
            RangeError: the loss, a weight or a running mean is not finite, or a threshold is no longer positive.
        """
        seed = np.random.SeedSequence([self._recipe.seed, epoch]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        self._stage.begin_epoch()
        order = torch.randperm(len(self._train)).split(self._settings.batch_size)[: self.batches_per_epoch]
        n_epochs = self._recipe.n_epochs
        total, done = n_epochs * self.batches_per_epoch, (epoch - 1) * self.batches_per_epoch
        losses, seen, correct = [], 0, 0.0
        batches = self._augmented(order)
        upcoming = next(batches)
        for step, chosen in enumerate(order):
            numbers = self._step(upcoming, epoch, step, interruption)
            upcoming = next(batches, upcoming)  # while the device still computes
            loss, right, stop = self._checked(numbers, epoch, step)
            losses.append(loss)
            seen, correct = seen + len(chosen), correct + right
            message = f"epoch {epoch}/{n_epochs}, loss {loss:.3f}, training accuracy {correct / seen:.1%}"
            progress(done + step + 1, total, message)
            if stop:
                return None
        self._require_finite(epoch)
        return EpochLoss(math.fsum(losses) / len(losses), correct / seen)

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

    def _augmented(self, order: Sequence[Tensor]) -> Iterator[LabelledImages]:
        """Yield batches of changed images, whole ones; on a GPU they are made beside what it computes.

        Args:
            order: numbers of the images, a tensor for each batch.
        """
        device = self._train.images.device
        beside = torch.cuda.Stream(device) if device.type == "cuda" else None
        for chosen in order:
            with torch.cuda.stream(beside):  # of None, nothing
                here = chosen.to(device)
                images, labels = self._task.changed(self._train.images[here]), self._train.labels[here]
            if beside is not None:
                _hand_over(beside, images, labels)
            yield LabelledImages(images, labels)

    def _step(self, batch: LabelledImages, epoch: int, step: int, interruption: Interruption) -> Tensor:
        """Do one step of SGD on one batch, whose images have been changed.

        Returns:
            its loss, how many of its images were classified correctly, and in how many processes a signal came, (3,),
            on the device, which may still compute them.
        """
        for group in self._sgd.param_groups:
            group["lr"] = self.learning_rate(epoch, step)
        images, rows = batch.images, self._processes.rows(len(batch))
        labels = batch.labels[rows]
        self._sgd.zero_grad(set_to_none=True)
        with self._processes.whole_batch(self._model, len(batch)):
            with autocast(self._settings, images.device):
                loss, logits = self._stage.loss(images[rows], labels)
            loss.backward()
        stop = loss.new_tensor(float(interruption.noted is not None))
        correct = (logits.argmax(dim=1) == labels).sum()
        numbers = torch.stack([loss.detach(), correct, stop])
        numbers = self._processes.add_gradients(self._model, numbers)
        self._sgd.step()
        return numbers

    def _checked(self, numbers: Tensor, epoch: int, step: int) -> tuple[float, float, float]:
        """Return the numbers if they and all thresholds are finite; one transfer brings all of them from the device."""
        thresholds = [layer.threshold.detach() for layer in self._layers.values()]
        loss, correct, stop, *values = torch.cat([numbers, torch.stack(thresholds)]).tolist()
        where = f"in epoch {epoch}, batch {step + 1}"
        if not math.isfinite(loss):
            raise RangeError(f"training diverged: loss is {loss} {where}", self._stage.remedy)
        for name, value in zip(self._layers, values, strict=True):
            if not 0.0 < value < math.inf:
                raise RangeError(f"training diverged: threshold of `{name}` is {value:g} {where}", self._stage.remedy)
        return loss, correct, stop

    def _require_finite(self, epoch: int) -> None:
        """Refuse weights that are not finite: the last step may have spoilt them after its loss was known."""
        state = self._model.state_dict()
        finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
        for name, is_finite in zip(state, finite, strict=True):
            if not is_finite:
                raise RangeError(f"training diverged: `{name}` is not finite after epoch {epoch}", self._stage.remedy)


def _hand_over(stream: torch.cuda.Stream, *tensors: Tensor) -> None:
    """Let the GPU's current stream wait for what another one makes, and keep the memory while it reads."""
    current = torch.cuda.current_stream(tensors[0].device)
    current.wait_stream(stream)
    for tensor in tensors:
        tensor.record_stream(current)
