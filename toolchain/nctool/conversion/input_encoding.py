"""How pixels enter: as graded integers, or as spike trains of one bit for chips whose spikes carry no more.

A rate cannot be negative, but a normalised pixel can: each channel becomes the sum of a positive part, ON, and a
negative part, OFF. An offset in the bias would not do: where a convolution reads padding, both parts are 0, as they
should be. Each part has a scale of its own, so that a black background, the lowest value of OFF, fires at every step
and is exact.

In: the normalisation; a FloatNetwork. Out: an EncodedInput; a FloatNetwork that reads it. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatNetwork, FloatSynapse, map_synapses
from nctool.errors import RangeError
from nctool.ir.inputs import PixelEncoding
from nctool.ir.network import INPUT_NAME, InputEncoding, RateEncoding, Shape

INPUT_MAX = 127
"""Graded inputs stay within -127..127; -128 stays free so that the range is symmetric."""

RATE_THRESHOLD = 2**12
"""The threshold of the encoders: over the longest window of a recipe, 64 steps, a rate is exact to 1/128 of a spike."""


@dataclass(frozen=True, eq=False)
class EncodedInput:
    """The input's signal with its real step per channel.

    Args:
        encoding: what the network stores.
        step: float64 (channels,), what one unit or spike is worth; real input = integer * step, up to rounding, of a
            spike train its mean over the steps.
        real: float64 (channels, 256); the normalised value of each pixel, not rounded. Channels of a spike train that
            look at the same pixels add up to it.
    """

    encoding: PixelEncoding
    step: FloatArray
    real: FloatArray

    @property
    def range(self) -> tuple[FloatArray, FloatArray]:
        """Return the smallest and largest real value of each channel at any step, 0 among them: float64 (channels,)."""
        return np.minimum(self.real.min(axis=1), 0.0), np.maximum(self.real.max(axis=1), 0.0)

    @property
    def name(self) -> str:
        """Return the name that synapses call the input by."""
        return INPUT_NAME


def normalised_pixels(shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> FloatArray:
    """Return (p / 255 - mean) / std for the pixels p = 0..255, float64 (channels, 256).

    Args:
        shape: shape of one sample; its first axis has len(mean) channels, or is flat with one mean.
        mean, std: per channel, in units of pixel / 255.

    Raises:
        RangeError: there is not one mean and one deviation > 0 for each channel.
    """
    channels = shape[0]
    if not {len(mean), len(std)} <= {1, channels} or min(std) <= 0:
        raise RangeError(
            f"input: mean {mean} and deviation {std}, allowed one or {channels} of each, deviations above 0"
        )
    means, stds = (np.broadcast_to(np.asarray(values, np.float64), channels) for values in (mean, std))
    real: FloatArray = (np.arange(256) / 255 - means[:, np.newaxis]) / stds[:, np.newaxis]
    return real


def encode_input(
    shape: Shape, mean: tuple[float, ...], std: tuple[float, ...], largest: int = INPUT_MAX
) -> EncodedInput:
    """Tabulate the normalised pixel (p / 255 - mean) / std as an 8-bit integer times a step per channel.

    Args:
        shape, mean, std: as for `normalised_pixels`.
        largest: magnitude of the largest integer, 1..127.

    Raises:
        RangeError: as `normalised_pixels`.
    """
    real = normalised_pixels(shape, mean, std)
    step = np.abs(real).max(axis=1) / largest
    table = np.rint(real / step[:, np.newaxis]).astype(np.int8)
    return EncodedInput(InputEncoding(shape, table), step, real)


def rate_input(shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> EncodedInput:
    """Return the encoders of rule I4; a spike of OFF is worth a negative step.

    Args:
        shape: shape of one sample; its first axis has len(mean) channels, or is flat with one mean.
        mean, std: per channel, in units of pixel / 255.

    Raises:
        RangeError: there is not one mean and one deviation > 0 for each channel.
    """
    pixels = normalised_pixels(shape, mean, std)
    signs = [part for part in (np.maximum(pixels, 0), np.minimum(pixels, 0)) if part.any()]
    real: FloatArray = np.stack(signs, axis=1).reshape(-1, pixels.shape[1])
    step: FloatArray = np.take_along_axis(real, np.abs(real).argmax(axis=1, keepdims=True), axis=1)[:, 0]
    rate = np.divide(real, step[:, np.newaxis], out=np.zeros_like(real), where=step[:, np.newaxis] != 0)
    table = np.rint(RATE_THRESHOLD * rate).astype(np.int16)
    return EncodedInput(RateEncoding(shape, table, RATE_THRESHOLD), step, real)


def split_input(network: FloatNetwork, encoded: EncodedInput) -> FloatNetwork:
    """Copy the weights behind the input for each part of a channel: W x = W x_on + W x_off."""
    copies = encoded.encoding.shape[0] // network.input_shape[0]
    split = map_synapses(network, lambda synapse: _split(synapse, copies) if synapse.source == INPUT_NAME else synapse)
    return replace(split, input_shape=encoded.encoding.shape)


def _split(synapse: FloatSynapse, copies: int) -> FloatSynapse:
    """Give each part of a channel of the input weights of its own; the parts lie side by side."""
    channels, *size = synapse.source_shape
    weight = synapse.weight.reshape(len(synapse.weight), synapse.summed_shape[0] // synapse.groups, -1)
    weight = np.repeat(weight, copies, axis=1)
    shape = (len(weight), -1, *synapse.weight.shape[2:])
    return replace(synapse, source_shape=(channels * copies, *size), weight=weight.reshape(shape))
