"""Compare a module with the network that was read from it: both run on images.

The reader goes by the class of each module and by the forward method; the module may compute something else. The error
names the first place where the two differ.

In: a module, what was read from it, images. Out: nothing, or an UnsupportedError where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.rectifier import Rectifier
from nctool.activation.thresholds import images_fit
from nctool.conversion.float_network import (
    Enlargement,
    FloatNetwork,
    FloatPopulation,
    FloatSynapse,
    Norm,
    Resized,
    Scaled,
)
from nctool.conversion.input_encoding import normalised_pixels
from nctool.conversion.maximum_values import maximum_values
from nctool.conversion.trace.forward_graph import require_type, unwrapped
from nctool.conversion.trace.restoring import evaluation
from nctool.conversion.trace.shapes import SEQUENCES
from nctool.errors import UnsupportedError
from nctool.fast.engine import exact_arithmetic
from nctool.fast.kernel import apart
from nctool.ir.inputs import require_pixels
from nctool.ir.network import INPUT_NAME, Shape

N_IMAGES = 2
"""Images to compare on: few suffice, for every number of every layer is compared."""

SAME_CALLS = 2**6
"""Roundings by which the same calls of torch may differ: none, but for kernels that are chosen by memory layout."""

OF_ALL_TERMS = 2**5
"""Roundings of all its terms together by which it may differ where they cancel: random networks make up to 7."""

REDUCED = (torch.bfloat16, torch.float16)
"""Types whose roundings hide a difference: networks in them are refused, and so is an autocast that makes them."""

SEQUENCE_AXES = 3
"""Axes of a batch of sequences: samples, channels, length."""

OTHER_ORDER = 2**10
"""Roundings by which the drive of a population may differ from the same in float64: 0.01 % in float32. Sums of some
thousand products and batch normalisation in another order make up to 30; what is meant to differ makes far more."""


def require_same_calls(model: nn.Module, graph: fx.Graph, images: Tensor) -> None:
    """Compare the input and output of each module that `graph` calls with those when `model` runs.

    The graph runs after the model, so that nothing which the forward method sets while it runs is there.

    Raises:
        UsageError: the images do not fit the model.
        UnsupportedError: they differ, or the forward method changes weights or draws random numbers.
    """
    images = images[:N_IMAGES]
    with evaluation(model), exact_arithmetic(), images_fit(images):
        ran = _run(model, graph, images)
    with evaluation(model), exact_arithmetic():
        _require_same_run(model, ran, _Replay(fx.GraphModule(model, graph)), images)


def require_same_answers(model: nn.Module, rewritten: nn.Module, images: Tensor) -> None:
    """Compare the answers of `model` with those of `rewritten`, which shares its modules.

    Raises:
        UnsupportedError: they differ.
    """
    images = images[:N_IMAGES]
    with evaluation(model), evaluation(rewritten), exact_arithmetic():
        _require_equal(model, model(images.clone()), rewritten(images.clone()), "what it gives behind its rewriting")


@dataclass(frozen=True)
class _Run:
    """What a model did.

    Args:
        calls: of modules, in order: the module, what it got and what it gave.
        output, again: what the model gave the first and the second time.
    """

    calls: list[tuple[nn.Module, tuple[Any, ...], Any]]
    output: Any
    again: Any


def _run(model: nn.Module, graph: fx.Graph, images: Tensor) -> _Run:
    """Run a model twice; the first time, record the calls of the modules that `graph` calls."""
    calls: list[tuple[nn.Module, tuple[Any, ...], Any]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        calls.append((module, tuple(map(_kept, arguments)), _kept(output)))

    names = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    hooks = [module.register_forward_hook(note) for module in {model.get_submodule(name) for name in names}]
    try:
        output = _kept(model(images.clone()))
    finally:
        for hook in hooks:
            hook.remove()
    return _Run(calls, output, model(images.clone()))


def _kept(value: Any) -> Any:
    """Return a copy of a tensor: what follows may change it in place."""
    return value.clone() if isinstance(value, Tensor) else value


def _require_same_run(model: nn.Module, ran: _Run, replay: _Replay, images: Tensor) -> None:
    calls = iter(ran.calls)
    for name, its_module, its_arguments, its_output in replay.calls(images.clone()):
        module, arguments, output = next(calls, (None, (), None))
        if module is not its_module:
            where = f"module `{name}` is not called" if module is None else f"it does not call `{name}` next"
            raise _computes_something_else(model, where)
        for argument, its_argument in zip(arguments, its_arguments, strict=False):
            _require_equal(model, argument, its_argument, f"what module `{name}` gets")
        _require_equal(model, output, its_output, f"what module `{name}` gives")
    if next(calls, None) is not None:
        raise _computes_something_else(model, "one call too many")
    _require_equal(model, ran.output, replay.last, "what it gives")
    _require_equal(model, ran.again, ran.output, "what it gives the second time")


def _require_equal(model: nn.Module, actual: Any, wanted: Any, what: str) -> None:
    if isinstance(actual, Tensor) and isinstance(wanted, Tensor) and _differs(actual, wanted, SAME_CALLS):
        raise _computes_something_else(model, what)


class _Replay(fx.Interpreter):
    """Run a graph step by step; what a module computes, its class says."""

    last: Any = None

    def calls(self, images: Tensor) -> Iterator[tuple[str, nn.Module, tuple[Any, ...], Any]]:
        """Yield the name of each module that is called, the module, what it gets and what it gives."""
        self.args_iter = iter((images,))
        for node in self.module.graph.nodes:
            self.last = self.env[node] = self.run_node(node)
            if node.op == "call_module":
                arguments = fx.node.map_arg(node.args, self.env.__getitem__)
                yield str(node.target), self.fetch_attr(node.target), arguments, self.last
            for unread in self.user_to_last_uses.get(node, ()):
                del self.env[unread]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the class of a module compute: no hook, no method of the object."""
        module = self.fetch_attr(target)
        return type(module).forward(module, *args, **kwargs)


def require_same_network(model: nn.Module, network: FloatNetwork, images: Tensor, called: str = "images") -> None:
    """Compare the drive of each activation, and the logits, with those that the populations of `network` compute.

    Each population gets what the activations of the model give, so that no rounding is carried on.

    Args:
        network: as traced, its populations in the order in which the model calls its activations.
        images: float, of the model's own input.
        called: what messages call them.

    Raises:
        UsageError: the images do not fit the model.
        UnsupportedError: they differ, or the forward method changes weights or draws random numbers.
    """
    model = unwrapped(model)
    require_type(model, (torch.float32, torch.float64))
    images = like(model, images[:N_IMAGES])
    with evaluation(model), exact_arithmetic(), images_fit(images, called):
        drives, signals = _activated(model, _as_taken(model, images))
    layers = [population.name for population in network.populations if not population.maximum]
    if len(drives) != len(layers):
        raise _computes_something_else(model, f"it calls {len(drives) - 1} activations, not {len(layers) - 1}")
    sources = {INPUT_NAME: signals[0]}
    driven = dict(zip(layers, zip(drives, (*signals[1:], None), strict=True), strict=True))
    for population in network.populations:
        if population.maximum:
            sources[population.name] = maximum_values(population, sources[population.synapses[0].source])
            continue
        actual, sent = driven[population.name]
        wanted = _drive(population, sources)
        if _differs(actual, wanted, OTHER_ORDER, _by_channel(wanted)) and _differs(
            actual, wanted, OF_ALL_TERMS, _magnitude(population, sources)
        ):
            raise _computes_something_else(model, f"what drives `{population.name}`")
        if sent is not None:
            sources[population.name] = sent


def given(model: nn.Module, network: FloatNetwork, images: Tensor) -> dict[str, Tensor]:
    """Return what each activation of `model` gives, (samples, *shape) by the name of its population.

    Args:
        network: as traced from the model, which `require_same_network` has compared.
        images: float, of the model's own input.
    """
    model = unwrapped(model)
    images = like(model, images)
    with evaluation(model), exact_arithmetic():
        _, signals = _activated(model, _as_taken(model, images))
    layers = [population.name for population in network.populations if not population.maximum]
    return dict(zip(layers, signals[1:], strict=False))  # the last layer, of the logits, has none


def _as_image(tensor: Tensor) -> Tensor:
    """Return sequences, (N, channels, length), as images of height 1; other tensors as they are."""
    return tensor.unsqueeze(2) if tensor.ndim == SEQUENCE_AXES else tensor


def _as_taken(model: nn.Module, images: Tensor) -> Tensor:
    """Return images of height 1 as the sequences that a model takes, if it takes no images."""
    if images.ndim == SEQUENCE_AXES + 1 and images.shape[2] == 1 and _holds_sequences(model):
        try:
            model(images)
        except (RuntimeError, ValueError):
            return images.squeeze(2)
    return images


def _holds_sequences(model: nn.Module) -> bool:
    return any(isinstance(module, SEQUENCES) for module in model.modules())


def sequences_as_images(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return sequences, (samples, channels, length), as images of height 1; other samples as they are."""
    return pixels[:, :, np.newaxis] if pixels.ndim == SEQUENCE_AXES else pixels


def first_images(pixels: NDArray[np.uint8], shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return the first samples of `pixels`, uint8 (samples, *shape), normalised: float64 (up to N_IMAGES, *shape).

    Raises:
        RangeError: the pixels have another type or shape, or there is not one mean and deviation for each channel.
    """
    require_pixels(pixels, shape)
    channel = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return torch.from_numpy(normalised_pixels(shape, mean, std)[channel, pixels[:N_IMAGES]])


def _activated(model: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the drive of each call of an activation, then the logits; and the images, then what each call gives."""
    drives, signals = [], [_as_image(images).clone()]

    def note(_: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        (drive,) = (*arguments, *named.values())
        drives.append(_as_image(drive).clone())  # what follows may change them in place
        signals.append(_as_image(output).clone())

    layers = [module for module in model.modules() if isinstance(module, NoisyQuantReLU | Rectifier)]
    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        drives.append(model(images))
    finally:
        for hook in hooks:
            hook.remove()
    return drives, signals


def like(model: nn.Module, images: Tensor) -> Tensor:
    """Return images of the type and on the device of the model's first parameter."""
    first = next(model.parameters(), images)
    return images.to(first.device, first.dtype)


def _drive(population: FloatPopulation, sources: dict[str, Tensor]) -> Tensor:
    """Return the sum of all branches, float64."""
    total = torch.zeros(())
    for synapse in population.synapses:
        total = total + sum(_terms(synapse, sources[synapse.source].cpu().to(torch.float64)))
    return total


def _by_channel(values: Tensor) -> Tensor:
    """Return the largest magnitude in each channel, (1, channels, ...), to broadcast."""
    largest = values.abs().transpose(0, 1).flatten(1).amax(dim=1)
    return largest.reshape(1, -1, *[1] * (values.ndim - 2))


def _magnitude(population: FloatPopulation, sources: dict[str, Tensor]) -> Tensor:
    """Return for each channel how large its terms are together, (1, channels, ...), which says how their sum rounds.

    Terms may cancel: then the sum is far smaller than what it rounds by is a part of.
    """
    total = torch.zeros(())
    for synapse in population.synapses:
        total = total + _of_terms(synapse, sources[synapse.source].cpu().to(torch.float64).abs())
    return total.reshape(1, -1, *[1] * (len(population.shape) - 1))


def _of_terms(layer: FloatSynapse | Scaled, signal: Tensor) -> Tensor:
    """Return the same for one branch, (channels,), with the terms of the layers that it is composed of.

    The model rounds the terms of the first layer, and weighs these roundings with the second.

    Args:
        layer: the branch.
        signal: magnitudes of what it reads.
    """
    weighted, shift = _terms(_positive(layer), signal)
    magnitude: Tensor = (weighted + shift).transpose(0, 1).flatten(1).amax(dim=1)
    if isinstance(layer, Scaled):
        return magnitude
    gain = 1.0 if layer.norm is None else torch.from_numpy(np.abs(layer.norm.gain))
    for part in layer.composed:
        weight, first = torch.from_numpy(part.weight), _of_terms(part.first, signal)
        magnitude = magnitude + gain * (weight @ first if weight.ndim > 1 else weight * first)
    return magnitude


def _positive(layer: FloatSynapse | Scaled) -> FloatSynapse | Scaled:
    """Return a layer with the magnitudes of its numbers."""
    norm = None if layer.norm is None else Norm(np.abs(layer.norm.gain), np.abs(layer.norm.shift))
    if isinstance(layer, Scaled):
        return layer if norm is None else replace(layer, norm=norm)
    return replace(layer, weight=np.abs(layer.weight), bias=np.abs(layer.bias), norm=norm)


def _pooled(signal: Tensor, pools: tuple[Resized, ...]) -> Tensor:
    for pool in pools:
        image = signal.reshape(-1, *pool.source)
        if isinstance(pool, Enlargement):
            signal = _enlarged(image, pool)
            continue
        signal = functional.avg_pool2d(image, pool.kernel, pool.stride, pool.padding, divisor_override=pool.divisor)
    return signal


def _enlarged(image: Tensor, by: Enlargement) -> Tensor:
    if by.shuffles:
        return functional.pixel_shuffle(image, by.factor[0])
    return image.repeat_interleave(by.factor[0], 2).repeat_interleave(by.factor[1], 3)


def _terms(synapse: FloatSynapse | Scaled, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sum with its bias, and what batch normalisation adds to it, if any."""
    signal = _pooled(signal, synapse.pools)
    if isinstance(synapse, Scaled):
        return _normalised(signal if len(synapse.norm.gain) == signal.shape[1] else signal.flatten(1), synapse.norm)
    weight, bias, conv = torch.from_numpy(synapse.weight), torch.from_numpy(synapse.bias), synapse.conv
    if conv is None:
        weighted = functional.linear(signal.flatten(1), weight, bias)
    else:
        signal = apart(signal, conv)
        weighted = functional.conv2d(signal, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if synapse.norm is None:
        return weighted, torch.zeros_like(weighted)
    return _normalised(weighted, synapse.norm)


def _normalised(weighted: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    gain, shift = (torch.from_numpy(values) for values in (norm.gain, norm.shift))
    aligned = (-1, *[1] * (weighted.ndim - 2))
    return weighted * gain.reshape(aligned), shift.reshape(aligned).expand_as(weighted)


def _differs(actual: Tensor, wanted: Tensor, roundings: int, scale: Tensor | None = None) -> bool:
    """Return whether two tensors differ by more than `roundings` of the type of `actual`, or this type rounds more.

    Args:
        scale: what a rounding is a part of; the largest magnitude of `wanted` by default.
    """
    if actual.shape != wanted.shape or actual.dtype in REDUCED:
        return True
    here = actual.to(wanted)
    if torch.equal(here, wanted) or not actual.is_floating_point():
        return not torch.equal(here, wanted)
    if scale is None:
        scale = wanted.abs().nan_to_num(0.0, 0.0, 0.0).max()
    near = (here - wanted).abs() <= roundings * torch.finfo(actual.dtype).eps * scale
    return not bool((near | (here == wanted) | (here.isnan() & wanted.isnan())).all())


def _computes_something_else(model: nn.Module, difference: str) -> UnsupportedError:
    return UnsupportedError(
        f"model `{type(model).__name__}`: computes something else than its modules and forward method say; "
        f"first difference: {difference}",
        hint="move what is computed elsewhere into the forward method or the weights; nctool does not read "
        "global state",
    )
