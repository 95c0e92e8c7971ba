"""prepare: a network of your own becomes one that trains with noisy quantised activations and converts.

In: a torch module, pretrained or not, and some of its input. Out: an fx.GraphModule with the same parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from nctool.conversion.tracing import trace
from nctool.errors import RangeError, UsageError
from nctool.nq import NoisyQuantReLU, Reset
from nctool.preparation.rewriting import replace_activations, rewrite

PERCENTILE = 99.0
"""Of the positive values before an activation: its first threshold. What lies above is clipped until θ has learned."""

MOST_VALUES = 1_000_000
"""Values of one activation that its percentile is taken of."""


def prepare(
    model: nn.Module,
    images: Tensor,
    *,
    levels: int = 4,
    reset: Reset = "subtract",
    percentile: float = PERCENTILE,
) -> fx.GraphModule:
    """Turn a network of ReLU activations into one that trains and converts; its weights are kept.

    Every ReLU, module or function, becomes a `NoisyQuantReLU` of its own, with a threshold from data; maximum pooling
    becomes average pooling of the same stride; functional pooling, means over the image and views become modules.
    Train the result: the accuracy of a pretrained network is lost until it is fine-tuned.

    Args:
        model: left as it is, but for its parameters, which the result shares.
        images: float (N, channels, height, width), normalised as in training; some dozens, for the first thresholds.
        levels: of the activations, 1..64.
        reset: of the neurons, `subtract` or `zero`.
        percentile: 0..100, of the positive values before an activation: its first threshold.

    Raises:
        UsageError: the images are not float (N, ...), or the percentile is out of range.
        UnsupportedError: something has no integrate-and-fire form; it is named.
        RangeError: an activation is never positive, or a parameter is not finite.
    """
    if not images.is_floating_point() or images.ndim < 2 or len(images) == 0:
        raise UsageError(
            f"images: got {images.dtype} {tuple(images.shape)}, allowed float (N, channels, height, width)"
        )
    if not 0.0 < percentile <= 100.0:
        raise UsageError(f"percentile: {percentile} is out of range, allowed 0 < percentile <= 100")
    prepared, names = rewrite(model)
    thresholds = _thresholds(prepared, names, images, percentile)
    replace_activations(prepared, thresholds, lambda theta: NoisyQuantReLU(levels, theta, reset))
    trace(prepared, tuple(images.shape[1:]))
    return prepared


def _thresholds(model: fx.GraphModule, names: tuple[str, ...], images: Tensor, percentile: float) -> dict[str, float]:
    """Run the model with its ReLUs and return a percentile of what each lets through."""
    found: dict[str, float] = {}

    def note(name: str, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - a hook
        found[name] = _percentile(output, percentile, name)

    hooks = [model.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(images)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"images: {tuple(images.shape)} do not fit the model ({str(error).splitlines()[0]})",
            hint="give images of the size that it is trained on; pooling windows must tile them",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return found


def _percentile(output: Tensor, percentile: float, name: str) -> float:
    positive = output[output > 0].flatten()
    if len(positive) == 0:
        raise RangeError(
            f"activation `{name}`: is 0 on all {len(output)} images, so it has no threshold",
            hint="give more images, normalised as in training",
        )
    stride = -(-len(positive) // MOST_VALUES)
    return float(torch.quantile(positive[::stride].float(), percentile / 100))
