"""Thresholds from data: what an activation seldom exceeds, or that of least squared error.

Batch normalisation that has seen no data yet takes the statistics of the images: with its own, mean 0 and variance 1,
what it hands on would have the scale of the weights.

In: a network, images. Out: a threshold for each activation.

Source: Rueckauer et al., Conversion of continuous-valued deep networks to efficient event-driven networks for image
classification, Frontiers in Neuroscience 11 (2017), section 2.2.2: the 99.9th percentile in place of the maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.staircase import activate
from nctool.activation.surrogate import Reset
from nctool.errors import RangeError, UsageError, first_line, is_out_of_memory

PERCENTILE = 99.9
"""The threshold is this percentile of the positive values of an activation; what lies above is clipped."""

FIRST_PERCENTILE = 99.0
"""The same before thresholds are trained: what lies above is clipped until they have learned."""

MOST_VALUES = 1_000_000
"""Values of one activation that its threshold is taken of."""

PARTS = torch.logspace(-5.0, 0.0, 31, base=2.0)
"""Thresholds of least squared error are looked for among these parts of the largest value: 1/32 to all of it."""

PARTS_BESIDE = torch.linspace(0.9, 1.1, 9)
"""The same beside the best of them."""


def balanced_thresholds(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, percentile: float
) -> dict[str, float]:
    """Run a model with its ReLUs and return a percentile of what each lets through; the model stays as it is.

    Args:
        model: in evaluation mode.
        layers: its activations by name; they behave as ReLUs. Of one whose channels have thresholds of their own, it is
            θ.
        images: float, as the model takes them.
        percentile: above 0, up to 100.

    Raises:
        UsageError: the images do not fit the model.
        RangeError: an activation is never positive.
    """
    thresholds: dict[str, float] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - a hook
        if isinstance(module, NoisyQuantReLU):
            output = module.in_units_of_theta(output)
        values = _some(output[_require_positive(output, name)])
        thresholds[name] = float(torch.quantile(values, percentile / 100))

    _run(model, layers, images, note)
    return thresholds


def first_thresholds(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, levels: int, reset: Reset
) -> dict[str, float]:
    """Return thresholds with which a model of quantised activations answers most like it does with its ReLUs.

    Those of a percentile, and those with which each activation is nearest to its ReLU, are compared by the logits.

    Args:
        model, layers, images: as for `balanced_thresholds`.
        levels, reset: of the activations.

    Raises:
        UsageError, RangeError: as `balanced_thresholds`.
    """
    nearest: dict[str, float] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - a hook
        nearest[name] = _nearest(_some(output[_require_positive(output, name)]), levels, reset)

    logits = _run(model, layers, images, note)

    def gap(thresholds: Mapping[str, float]) -> float:
        def quantise(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            return activate(inputs[0], output.new_tensor(thresholds[name]), levels, reset, None)

        return float((_run(model, layers, images, quantise) - logits).square().mean())

    return min((balanced_thresholds(model, layers, images, FIRST_PERCENTILE), nearest), key=gap)


def _nearest(wanted: Tensor, levels: int, reset: Reset) -> float:
    """Return the threshold of least squared error: of a grid, then of finer values beside the best of it."""
    largest = best = wanted.max()
    for parts in (PARTS, PARTS_BESIDE):
        tried = (best * parts.to(best)).clamp(max=largest)
        errors = [(activate(wanted, theta, levels, reset, None) - wanted).square().mean() for theta in tried]
        best = tried[int(torch.stack(errors).argmin())]
    return float(best)


def _run(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, hook: Callable[..., Any]) -> Tensor:
    """Return the logits of a model that runs with a hook behind each layer, which gets its name first."""
    hooks = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), images_fit(images), _measured_on_images(fresh_norms(model)):
            logits: Tensor = model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return logits


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
"""Batch normalisation as it converts."""


def fresh_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch norms, by name, that have seen no data: no batch is counted, and their statistics say nothing.

    Of weights from an old file no batch is counted either, but the statistics are those of data.
    """
    norms = ((name, module) for name, module in model.named_modules() if isinstance(module, BatchNorm))
    return {name: norm for name, norm in norms if _is_fresh(norm)}


def _is_fresh(norm: BatchNorm) -> bool:
    mean, variance, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None or batches is None:
        return False  # it takes the statistics of every batch anyway, and does not convert
    return int(batches) == 0 and not bool(mean.any()) and bool((variance == 1.0).all())


@contextmanager
def _measured_on_images(norms: Mapping[str, BatchNorm]) -> Iterator[None]:
    """Let norms take the statistics of what they see, and keep their own."""
    before = [(buffer, buffer.clone()) for norm in norms.values() for buffer in norm.buffers()]
    try:
        for norm in norms.values():
            norm.train()
        yield
    finally:
        for norm in norms.values():
            norm.eval()
        for buffer, values in before:
            buffer.copy_(values)


@contextmanager
def images_fit(images: Tensor, called: str = "images") -> Iterator[None]:
    """Raise what torch says about a model that cannot run on `images` as a UsageError, but not that memory ran out.

    Args:
        called: what the message calls them.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise unfit_images(images, error, called=called) from error


def unfit_images(images: Tensor, reason: Exception, channels: int | None = None, called: str = "images") -> UsageError:
    """Describe images on which a model cannot run.

    Args:
        reason: what torch says.
        channels: that the model takes, where they are known.
        called: what the message calls them.
    """
    hint = "it takes more than one image, of the size that it is trained on; pooling windows must tile them"
    if images.ndim == 4 and images.shape[1] != channels == images.shape[3]:
        hint = (
            f"the channels stand behind the images' axis: give {called}.permute(0, 3, 1, 2), of an array "
            f"{called}.transpose(0, 3, 1, 2)"
        )
    elif images.ndim == 3 and channels == 1:
        hint = f"the axis of the channels is missing: give {called}[:, None]"
    elif images.ndim == 3 and images.shape[0] == channels:
        hint = f"a single image needs an axis in front: give {called}[None]"
    return UsageError(f"{called}: {tuple(images.shape)} do not fit the model ({first_line(reason)})", hint)


def _require_positive(output: Tensor, name: str) -> Tensor:
    """Return where an activation is positive, bool; somewhere it must be."""
    positive = output > 0
    if not bool(positive.any()):
        raise RangeError(
            f"activation `{name}`: is 0 on all {len(output)} images, so it has no threshold",
            hint="give more images, normalised as in training",
        )
    return positive


def _some(values: Tensor) -> Tensor:
    """Return up to `MOST_VALUES` of some values, float32, the same places each time."""
    return values[:: -(-len(values) // MOST_VALUES)].float()
