"""A network of your own becomes one that trains with noisy quantised activations and converts.

In: a torch module, pretrained or not, and some of its input. Out: an fx.GraphModule that shares its parameters
and buffers.
"""

from __future__ import annotations

import inspect
import math
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from nctool.activation.noisy_quant import NoisyQuantReLU, require_settings
from nctool.activation.rectifier import Rectifier
from nctool.activation.surrogate import Reset
from nctool.activation.thresholds import balanced_thresholds, first_thresholds, fresh_norms
from nctool.conversion.float_network import map_synapses
from nctool.conversion.folding import fold_pooling
from nctool.conversion.trace.compare_runs import require_same_network
from nctool.conversion.trace.examining import Examined, examine
from nctool.conversion.trace.forward_graph import require_unwrapped, unwrapped
from nctool.conversion.trace.obstacles import Obstacles
from nctool.conversion.trace.restoring import evaluation
from nctool.conversion.trace.rewritten import Pooling, Rewritten, replace_activations, same_shapes, set_modules
from nctool.conversion.trace.tracing import trace
from nctool.errors import NctoolWarning, UsageError
from nctool.fast.engine import exact_arithmetic


def trainable(
    model: nn.Module, images: Tensor, levels: int, reset: Reset, percentile: float | None, pooling: Pooling
) -> fx.GraphModule:
    """Return a network with a `NoisyQuantReLU` of its own for every use of a ReLU, with a threshold from data.

    Args and errors are those of `nctool.prepare` without `steps`.
    """
    require_torch_module(model)
    model = unwrapped(model)
    require_images(images)
    require_settings(levels, reset)
    if percentile is not None and not 0.0 < percentile <= 100.0:
        raise UsageError(f"percentile: {percentile} is out of range, allowed 0 < percentile <= 100")
    images = images.to(torch.float32)
    examined = _examined(model, images, pooling)
    for text in examined.remarks:
        warn(text)
    rewritten = examined.rewritten
    if percentile is None:
        choose = partial(first_thresholds, levels=levels, reset=reset)
    else:
        choose = partial(balanced_thresholds, percentile=percentile)
    thresholds = _thresholds(model, rewritten, images, choose)
    prepared = rewritten.module
    replace_activations(prepared, thresholds, lambda theta: NoisyQuantReLU(levels, theta, reset).to(images.device))
    _take_mode(prepared, model)
    require_convertible(prepared, images)
    warn_of_fresh_norms(prepared)
    return prepared


def rectify(
    model: nn.Module, images: Tensor, pooling: Pooling = "maximum", note: Callable[[str], None] | None = None
) -> fx.GraphModule:
    """Return a network that computes the same, with a rectifier of its own for every use of a ReLU.

    Args:
        model: left as it is; the result shares its parameters and buffers.
        images: float32 (N, ...) of its input.
        pooling: what becomes of maximum pooling; with `average` it computes something else.
        note: called with what is left out, and what is otherwise in training.

    Raises:
        UsageError: the model is no module, or the images do not fit it.
        UnsupportedError: parts have no integrate-and-fire form; all of them are named.
    """
    require_torch_module(model)
    model = unwrapped(model)
    examined = _examined(model, images, pooling)
    if note is not None:
        for text in examined.remarks:
            note(text)
    rewritten = examined.rewritten
    bounds = {name: rewritten.bounds.get(name, math.inf) for name in rewritten.activations}
    set_modules(rewritten.module, {name: Rectifier(bound) for name, bound in bounds.items()})
    return rewritten.module.eval()


def _examined(model: nn.Module, images: Tensor, pooling: Pooling) -> Examined:
    """Return a network that can be converted, or refuse it with all that keeps it from that."""
    obstacles = Obstacles()
    examined = examine(model, images, obstacles, pooling)
    if examined is None or obstacles:
        raise obstacles.joined()
    return examined


_Choice = Callable[[nn.Module, dict[str, nn.Module], Tensor], dict[str, float]]


def _thresholds(model: nn.Module, rewritten: Rewritten, images: Tensor, choose: _Choice) -> dict[str, float]:
    """Measure the activations of the rewritten network; the modules that it shares with `model` stay as they are."""
    layers = {name: rewritten.module.get_submodule(name) for name in rewritten.activations}
    with evaluation(model), exact_arithmetic(), same_shapes(rewritten.module, rewritten.maxima):
        return choose(rewritten.module.eval(), layers, images)


def _take_mode(prepared: nn.Module, model: nn.Module) -> None:
    """Give every module that is not of `model` its mode; the others keep their own."""
    own = set(model.modules())
    for module in prepared.modules():
        if module not in own:
            module.training = model.training


def require_convertible(prepared: nn.Module, images: Tensor) -> None:
    """Refuse before training what `export` would refuse."""
    traced = trace(prepared, tuple(images.shape[1:]))
    map_synapses(traced, fold_pooling)
    require_same_network(prepared, traced, images)


def require_module(model: nn.Module) -> None:
    """Refuse with a UsageError what is no network, or one in a wrapper: checkpoints hold the names of its tensors."""
    require_torch_module(model)
    require_unwrapped(model)


def require_torch_module(model: object) -> None:
    """Refuse with a UsageError what is no network: a path, a state dict, or compiled code."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model: got {type(model).__name__}, allowed a torch.nn.Module",
            hint="build the network, then load its weights: model.load_state_dict(torch.load(path))",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"model: got {type(model).__name__}, allowed a torch.nn.Module in Python",
            hint="give the module that was scripted or traced: its forward method is read",
        )


def require_images(images: object) -> None:
    """Refuse with a UsageError what are no images: another type, whole numbers, none at all, or numbers not finite."""
    if not isinstance(images, Tensor):
        raise UsageError(
            f"images: got {type(images).__name__}, allowed a float tensor (N, channels, height, width)",
            hint="torch.from_numpy(images).float() makes one of an array; normalise it as in training",
        )
    if not images.is_floating_point() or images.ndim < 2 or len(images) == 0:
        raise UsageError(
            f"images: got {images.dtype} {tuple(images.shape)}, allowed float (N, channels, height, width)",
            hint=None if images.is_floating_point() else "normalise them as in training: (pixels / 255 - mean) / std",
        )
    if not images.isfinite().all():
        bad = float(images[~images.isfinite()][0])
        raise UsageError(f"images: hold {bad}, allowed finite numbers", hint="a standard deviation of 0 divides by 0")


_PACKAGE = str(Path(__file__).parents[2])


def warn_of_fresh_norms(model: nn.Module) -> None:
    """Warn where thresholds were measured on other statistics than those that the norms hold."""
    norms = list(fresh_norms(model))
    if norms:
        more = f" and {len(norms) - 1} more" if norms[1:] else ""
        warn(
            f"batch norm `{norms[0]}`{more}: no data seen, so thresholds were measured with the statistics of the "
            "images; if the network is pretrained, load its weights first"
        )


def warn(text: str) -> None:
    """Warn at the line that called nctool, whatever lies between."""
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_stack(inspect.currentframe()))
    inside = sum(1 for _ in takewhile(lambda file: file.startswith(_PACKAGE), files))
    warnings.warn(text, NctoolWarning, stacklevel=inside + 1)
