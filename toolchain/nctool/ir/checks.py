"""What must hold of one population and of its synapses (rules N1 to N3), each with an error that names it.

In: a population and the shapes of what stands before it. Out: nothing, or a RangeError. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nctool.errors import RangeError
from nctool.ir.geometry import ConvGeometry, Shape
from nctool.ir.population import (
    INPUT_NAME,
    LARGEST_DELAY,
    CurrentBased,
    GradedReLU,
    IntArray,
    IntegrateFire,
    Population,
    Readout,
    Synapse,
)
from nctool.ir.repeat import NO_REPEAT

MOST_PLACES = 2**24
"""Of one channel that is read with zeros between its neurons: an engine lays them out, 64 MiB in float32."""


def validate_population(population: Population, where: str, seen: Mapping[str, Shape]) -> None:
    """Check one population.

    Args:
        where: names it in messages.
        seen: shapes of the input and of the populations before it, by name.

    Raises:
        RangeError: a shape or a number is not allowed.
    """
    require_shape(population.shape, where)
    require_integers(population.bias, (population.shape[0],), where, "bias")
    neuron = population.neuron
    _validate_neuron(neuron, population.shape[0], where)
    if not population.synapses and neuron.takes_sample:
        require(population.shape == seen[INPUT_NAME], where, "shape", population.shape, "the input's, as its bias")
        return
    require(bool(population.synapses), where, "number of synapses", 0, ">= 1")
    if neuron.takes_own_spikes:
        seen = {**seen, population.name: population.shape}
    for synapse in population.synapses:
        _validate_synapse(synapse, population, where, seen)


def _validate_neuron(neuron: IntegrateFire | CurrentBased | GradedReLU | Readout, channels: int, where: str) -> None:
    match neuron:
        case IntegrateFire():
            _validate_integrate_fire(neuron, channels, where)
        case CurrentBased():
            _validate_current_based(neuron, channels, where)
        case Readout():
            require(0 < neuron.scale < np.inf, where, "scale", neuron.scale, "a positive number")


def _validate_integrate_fire(neuron: IntegrateFire, channels: int, where: str) -> None:
    require_integers(neuron.threshold, (channels,), where, "threshold")
    require_integers(neuron.initial, (channels,), where, "initial potential")
    lowest = int(neuron.threshold.min())
    require(lowest > 0, where, "threshold", lowest, ">= 1")
    require(neuron.reset in ("subtract", "zero"), where, "reset", neuron.reset, "subtract, zero")


def _validate_current_based(neuron: CurrentBased, channels: int, where: str) -> None:
    require(0 <= neuron.threshold < 2**24, where, "threshold", neuron.threshold, "0..2**24 - 1")
    for what, decay in (("current decay", neuron.current_decay), ("voltage decay", neuron.voltage_decay)):
        require_integers(decay, (channels,), where, what)
        low, high = int(decay.min()), int(decay.max())
        require(low >= 0 and high <= 2**12, where, what, (low, high), "0..4096")
    interval = neuron.reset_interval
    require(interval is None or interval >= 1, where, "reset interval", interval, ">= 1")
    require(neuron.latency >= 0, where, "latency", neuron.latency, ">= 0")


def _validate_synapse(synapse: Synapse, population: Population, where: str, seen: Mapping[str, Shape]) -> None:
    require(synapse.source in seen, where, "source", synapse.source, "a population that stands before it")
    exponents = population.neuron.exponents
    allowed = f"{exponents[0]}..{exponents[-1]}"
    require(synapse.exponent in exponents, where, "weight exponent", synapse.exponent, allowed)
    source, weight, conv = seen[synapse.source], synapse.weight, synapse.conv
    if synapse.source == population.name:
        kind = "convolution" if conv is not None else "with delays" if synapse.delay is not None else "dense"
        require(kind == "dense", where, "synapse to itself", kind, "dense, without delays")
    fan_in: Shape = (int(np.prod(source)),)
    if conv is None:
        require(weight.ndim == 2, where, "dense weight", weight.shape, "2 axes")
    else:
        fits = weight.ndim == 4 and len(source) == 3 and min(weight.shape) >= 1
        require(fits, where, "conv weight", weight.shape, "4 axes of sizes >= 1 on a 3-axis source")
        _validate_geometry(conv, source, weight, where)
        fan_in = (source[0] // conv.groups, *weight.shape[2:])
    require_integers(weight, (weight.shape[0], *fan_in), where, "weight")
    _validate_delay(synapse, population, where)
    _validate_repeat(synapse, where, source)
    driven = synapse.output_shape(source)
    require(driven == population.shape, where, f"shape driven by `{synapse.source}`", driven, str(population.shape))


def _validate_geometry(conv: ConvGeometry, source: Shape, weight: IntArray, where: str) -> None:
    low = min(*conv.stride, *conv.dilation, conv.groups, 1 + min(conv.padding))
    require(low >= 1, where, "convolution", conv, "stride, dilation, groups >= 1, padding >= 0")
    divides = source[0] % conv.groups == 0 and weight.shape[0] % conv.groups == 0
    require(divides, where, "groups", conv.groups, f"a divisor of {source[0]} and {weight.shape[0]}")
    require(min(conv.input_dilation) >= 1, where, "input dilation", conv.input_dilation, ">= 1")
    if conv.input_dilation != (1, 1):
        high, wide = ((n - 1) * apart + 1 for n, apart in zip(source[1:], conv.input_dilation, strict=True))
        what = "places of neurons and the zeros between them"
        require(high * wide <= MOST_PLACES, where, what, high * wide, f"up to {MOST_PLACES}")


def _validate_delay(synapse: Synapse, population: Population, where: str) -> None:
    delay = synapse.delay
    if delay is None:
        return
    fits = synapse.conv is None and population.neuron.takes_delays
    require(fits, where, "delay", "there", "none but on a dense synapse into a current-based population")
    require_integers(delay, synapse.weight.shape, where, "delay")
    low, high = int(delay.min()), int(delay.max())
    require(low >= 0 and high <= LARGEST_DELAY, where, "delay", (low, high), f"0..{LARGEST_DELAY}")


def _validate_repeat(synapse: Synapse, where: str, source: Shape) -> None:
    repeat = synapse.repeat
    fits = repeat == NO_REPEAT or (synapse.delay is None and repeat.holds(synapse.weight, synapse.conv, source))
    require(fits, where, f"repetition of weights from `{synapse.source}`", repeat, "that of the weights")


def require_shape(shape: Shape, where: str) -> None:
    """Refuse a shape that is neither (channels,) nor (channels, height, width)."""
    fits = len(shape) in (1, 3) and min(shape) >= 1
    require(fits, where, "shape", shape, "(channels,) or (channels, height, width), sizes >= 1")


def largest_sum(synapse: Synapse, limit: int) -> float:
    """Return the largest magnitude that a weighted sum can have, for signals of at most `limit`."""
    weight = synapse.weight.reshape(len(synapse.weight), -1)
    raising, lowering = (bound(weight, 0).sum(axis=1, dtype=np.float64) for bound in (np.maximum, np.minimum))
    return float((raising - lowering).max()) * limit * 2.0**synapse.exponent


def require_integers(values: IntArray, shape: Shape, where: str, what: str) -> None:
    """Refuse values of another type or shape, or beyond 31 bits."""
    require(np.issubdtype(values.dtype, np.signedinteger), where, f"{what} type", values.dtype, "signed integers")
    require(values.shape == shape, where, f"{what} shape", values.shape, str(shape))
    if values.size:
        extreme = max(abs(int(values.min())), abs(int(values.max())))
        require(extreme < 2**31, where, what, extreme, "magnitudes below 2**31")


def require(fits: bool, where: str, what: str, got: object, allowed: str) -> None:
    """Raise a RangeError that says where, what, got and allowed, unless it fits."""
    if not fits:
        raise RangeError(f"{where}: {what} is {got}, allowed {allowed}")
