"""prepare: a network of your own becomes one that trains and converts, from its own thresholds or from a conversion.

In: a torch module, pretrained or not, and some of its input. Out: an fx.GraphModule.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, fx, nn

from nctool.activation.noisy_quant import MAX_LEVELS, NoisyQuantReLU, activations, require_settings
from nctool.activation.surrogate import Reset
from nctool.arguments import public
from nctool.conversion.post_training.settling import settle_norms
from nctool.conversion.post_training.taking_over import Neurons, fixed_modules, take_over
from nctool.conversion.trace.forward_graph import unwrapped
from nctool.conversion.trace.prepare import (
    rectify,
    require_convertible,
    require_images,
    require_torch_module,
    trainable,
    warn,
)
from nctool.conversion.trace.rewritten import Pooling
from nctool.conversion.trace.tracing import trace
from nctool.errors import UsageError, first_line
from nctool.exporting.calibration_images import calibration_images, require_contrast
from nctool.exporting.convert import WEIGHT_BITS, Design, converted
from nctool.exporting.own_network import AT_ONCE, of_rectified
from nctool_deploy.backends.backend import backend_of_reset

LEVELS = 4
"""Of the activations, where neither they nor a window are given."""

MOST_SETTLED = 512
"""Images on which batch norms get their statistics."""


@public
def prepare(
    model: nn.Module,
    images: Tensor,
    *,
    levels: int | None = None,
    reset: Reset = "subtract",
    percentile: float | None = None,
    pooling: Pooling = "maximum",
    steps: int | None = None,
) -> fx.GraphModule:
    """Turn a network of ReLU activations into one that trains and converts.

    Every ReLU, module or function, becomes a `NoisyQuantReLU` of its own, with a threshold from data; functional
    pooling, means over the image and views become modules. Train the result: the accuracy of a pretrained network is
    lost until it is fine-tuned. With `steps`, it is what `nctool.convert` makes of a trained network: thresholds for
    each channel, corrected weights and biases. Fine-tune that from there.

    Args:
        model: left as it is; nn.DataParallel and other wrappers are taken off. The result shares its parameters and
            buffers (the statistics of batch norms): training the result changes them. Give `copy.deepcopy(model)` where
            the original is still needed. With `steps`, the result has its own.
        images: float (N, channels, height, width), of sequences (N, channels, length), normalised as in training;
            some dozens, for the first thresholds; with `steps` some hundreds of all classes, as for `nctool.convert`.
        levels: of the activations, 1..64; by default 4, or `steps`.
        reset: of the neurons, `subtract` or `zero`.
        percentile: 0..100, of the positive values before an activation: its first threshold. By default the 99th, or
            those of least squared error for so many levels: whichever answers more like the network on these images.
        pooling: what becomes of maximum pooling: `maximum` keeps it, which is exact in a window of one time step;
            `average` puts average pooling of the same stride in its place.
        steps: the window, 1..64, for which a trained network is converted; None for thresholds without conversion.

    Raises:
        UsageError: the model is no module, the images are no float tensor (N, ...), hold one number alone or do not fit
            the model, the percentile or the window is out of range, or both are given.
        UnsupportedError: parts have no integrate-and-fire form; all of them are named.
        RangeError: an activation is never positive, or a parameter is not finite.
    """
    require_torch_module(model)
    require_images(images)
    require_contrast(float(images.min()), float(images.max()))
    if steps is None:
        return trainable(model, images, LEVELS if levels is None else levels, reset, percentile, pooling)
    if percentile is not None:
        raise UsageError("percentile: given with steps, for which thresholds are chosen", hint="give one of them")
    if not 1 <= steps <= MAX_LEVELS:
        raise UsageError(f"steps: {steps} is out of range, allowed 1..{MAX_LEVELS}")
    levels = steps if levels is None else levels
    require_settings(levels, reset)
    if activations(model):
        raise UsageError(
            f"model: `{next(iter(activations(model)))}` is a NoisyQuantReLU already, allowed ReLUs with steps",
            hint="give the trained ReLU network, or leave out steps",
        )
    return _converted(unwrapped(model), images, steps, _neurons(levels, reset), reset, pooling)


def _neurons(levels: int, reset: Reset) -> Neurons:
    """Return what makes an activation; neurons that a spike sets to zero all start there."""
    if reset == "zero":
        return lambda theta, ratios, _: NoisyQuantReLU(levels, theta, reset, ratios)
    return lambda theta, ratios, shifts: NoisyQuantReLU(levels, theta, reset, ratios, shifts)


def _converted(
    model: nn.Module, images: Tensor, steps: int, neurons: Neurons, reset: Reset, pooling: Pooling
) -> fx.GraphModule:
    """Return a copy of the network with what conversion for a window chooses."""
    own, some = _copy(model), calibration_images(images, None, None)
    with _modes_kept(own):
        prepared = rectify(own, some.normalised(some.pixels[:AT_ONCE]), pooling, warn)
        read = trace(prepared, tuple(some.pixels.shape[1:]))
        source = replace(of_rectified(prepared, some), fixed=fixed_modules(prepared, read))
        conversion = converted(source, Design(backend_of_reset(reset), steps, 1, WEIGHT_BITS, "graded"))
        for text in (*source.notes, *conversion.notes):
            warn(text)
        take_over(prepared, read, conversion.real, neurons)
        fitted = some.normalised(some.fitted[:MOST_SETTLED])
        settle_norms(prepared.eval(), fitted, steps, max(1, AT_ONCE // steps))
        require_convertible(prepared, fitted)
    modules = set(own.modules())
    for module in prepared.modules():
        if module not in modules:
            module.training = model.training
    return prepared.to(images.device)


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU."""
    try:
        return copy.deepcopy(model).cpu()
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"model `{type(model).__name__}`: cannot be copied ({first_line(error)})",
            hint="build the network anew and load its weights: model.load_state_dict(torch.load(path))",
        ) from error


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module of a network back into its mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
