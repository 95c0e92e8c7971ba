"""The second stage of a training run: train the network as it will be deployed.

That is the spiking network itself, at the windows that it will have, or the network of graded neurons, whose
activations are rounded as their spikes are.

In: a network, trained or fresh. Out: the loss of a batch, through time and through rounded weights.

One pass over the longest window gives the logits of all shorter ones, so that several windows cost no more than the
longest. Source of surrogate gradients: Neftci, Mostafa, Zenke, arXiv 1901.09948.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call  # type: ignore[attr-defined] # torch does not list it
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nctool.activation.noisy_quant import activations, in_mode
from nctool.errors import UsageError
from nctool.ir.number_format import parts_of_threshold
from nctool.recipe.schema import FinetuneSettings
from nctool.training.stages import Outcome, Stage, Task, snapshot
from nctool.training.weight_grid import WeightGrid


class _Finetuning:
    """What both kinds of fine-tuning share: weights on the grid of the chip; its start may be the best of all."""

    name = "finetune"
    schedule = "cosine"
    may_keep_start = True

    def __init__(self, task: Task, settings: FinetuneSettings) -> None:
        self._task, self._settings = task, settings
        self.epochs, self.learning_rate = settings.epochs, settings.learning_rate
        self.remedy = "lower finetune.learning_rate"
        self.starts_converted = any(layer.ratios is not None for layer in activations(task.model).values())
        self._grid = WeightGrid(task.model, task.encoding(task.held_out.images[:1]), settings.weight_bits)

    def begin_epoch(self) -> None:
        """Fit the grids to the weights as they are now."""
        self._task.model.train()
        self._grid.fit()

    def weights(self) -> dict[str, Tensor]:
        """Return the model's state with rounded weights: those of the network that was measured."""
        with self._grid.applied():
            return snapshot(self._task.model)


class SpikingFinetuning(_Finetuning):
    """Epochs of the float spiking network.

    Raises:
        UsageError: several replicas and several time steps, and the network takes maxima.
    """

    def __init__(self, task: Task, settings: FinetuneSettings) -> None:
        super().__init__(task, settings)
        if settings.replicas > 1 and max(settings.steps) > 1:
            _require_no_maxima(task.model, task.encoding(task.held_out.images[:1]), settings.replicas)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the spiking network, averaged over the windows, and the logits of the longest."""
        steps = list(self._task.encoding.steps(images, max(self._settings.steps)))
        logits = window_logits(self._task.model, self._grid.weights(), steps, self._settings.replicas)
        losses = [functional.cross_entropy(logits[step - 1], labels) for step in self._settings.steps]
        return torch.stack(losses).mean(), logits[-1]

    def end_epoch(self, _epoch: int) -> Outcome:
        """Measure the spiking network at every window that it is trained for; the score is their mean."""
        task = self._task
        with self._grid.applied():
            ann = task.accuracy_ann(task.held_out)
            snn = task.accuracy_snn(task.held_out, self._settings.steps, replicas=self._settings.replicas)
        return Outcome(ann, snn, "none", {}, (sum(snn.values()) / len(snn), ann))


class GradedFinetuning(_Finetuning):
    """Epochs of the network as graded neurons compute it: activations in whole parts of their thresholds."""

    def __init__(self, task: Task, settings: FinetuneSettings, activation_bits: int) -> None:
        super().__init__(task, settings)
        self._parts = parts_of_threshold(activation_bits, task.recipe.activation.levels)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the network of graded neurons, and its logits."""
        model = self._task.model
        with in_mode(model, "graded", self._parts):
            logits = functional_call(model, self._grid.weights(), (self._task.encoding(images),)).float()
        return functional.cross_entropy(logits, labels), logits

    def end_epoch(self, _epoch: int) -> Outcome:
        """Measure the network of graded neurons, which answers in one step, and the ANN of the trained levels."""
        task = self._task
        with self._grid.applied():
            ann = task.accuracy_ann(task.held_out)
            with in_mode(task.model, "graded", self._parts):
                graded = task.accuracy_ann(task.held_out)
        return Outcome(ann, {1: graded}, "none", {}, (graded, ann))


def finetuning(task: Task, settings: FinetuneSettings) -> Stage:
    """Return the fine-tuning that a recipe asks for."""
    bits = settings.activation_bits
    return SpikingFinetuning(task, settings) if bits is None else GradedFinetuning(task, settings, bits)


def window_logits(
    model: nn.Module, weights: Mapping[str, Tensor], steps: Sequence[Tensor], replicas: int = 1
) -> Tensor:
    """Run a model as a float spiking network for one window, with gradients.

    Args:
        model: a network with `NoisyQuantReLU` activations; its mode is kept.
        weights: in place of its own parameters, by name.
        steps: what it sees at each step, float (N, C, H, W) each; one tensor T times where that does not change.
        replicas: neurons for each activation.

    Returns:
        the mean of the logits up to each step, float (T, N, classes).
    """
    n_steps, whole = len(steps), torch.cat(list(steps))
    is_constant = all(step is steps[0] for step in steps)
    with in_mode(model, "window", n_steps, replicas), _Once(steps[0], whole, n_steps) if is_constant else nullcontext():
        logits: Tensor = functional_call(model, dict(weights), (whole,))
    sums = accumulate(logits.float().unflatten(0, (n_steps, -1)))  # a GPU's cumsum does not repeat its result
    return torch.stack([total / step for step, total in enumerate(sums, start=1)])


def _require_no_maxima(model: nn.Module, images: Tensor, replicas: int) -> None:
    """Refuse a network that takes maxima of activations with several replicas, in windows of several steps.

    Each replica has a maximum of its own there. That of their mean, which a model computes here, is the mean of those
    in one step only, where the more replicas fire, the larger the drive is.

    Raises:
        UsageError: it takes one.
    """
    with torch.no_grad(), in_mode(model, "spiking"), _Names() as names:
        model(images)
    found = sorted(name for name in names.seen if name in _MAXIMA or "max_pool" in name)
    if found:
        raise UsageError(
            f"the network computes `{found[0]}`, and finetune.replicas is {replicas}: allowed: finetune.steps = [1]",
            hint="set finetune.replicas=1 for longer windows, or pool averages; of a [chip], it is chip.replicas",
        )


class _Names(TorchFunctionMode):
    """Notes the names of the functions that are called while the block runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.seen.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


_MAXIMA = {"amax", "aminmax", "cummax", "fmax", "kthvalue", "max", "maximum", "sort", "topk"}


class _Once(TorchFunctionMode):
    """Weighs an input that is the same at every step once, and repeats the result, while the block runs.

    Args:
        step: the input of a step.
        whole: that of all steps, which the model is given.
        n_steps: how many they are.
    """

    def __init__(self, step: Tensor, whole: Tensor, n_steps: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._step, self._whole, self._n_steps = step, whole, n_steps
        self._version = whole._version

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if not args or args[0] is not self._whole or function not in _ROW_BY_ROW or self._was_changed:
            return function(*args, **options)
        result = function(self._step, *args[1:], **options)
        if function in _LINEAR:
            return torch.cat([result] * self._n_steps)
        self._step, self._whole = result, function(self._whole, *args[1:], **options)
        return self._whole

    @property
    def _was_changed(self) -> bool:
        """Return whether the model has written into its input, by whatever name."""
        return self._whole._version != self._version


_LINEAR = (torch.conv1d, torch.conv2d, functional.linear)
_ROW_BY_ROW = (*_LINEAR, torch.flatten, Tensor.flatten)
"""What may come first in a network and gives each row from that row alone; but the linear ones, without copying."""
