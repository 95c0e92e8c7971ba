"""Code the input as spike trains of one bit, for chips whose spikes carry no more.

A rate cannot be negative, but a normalised pixel can: each channel becomes the sum of a positive part, ON, and a
negative part, OFF. An offset in the bias would not do: where a convolution reads padding, both parts are 0, as they
should be. Each part has a scale of its own, so that a black background, the lowest value of OFF, fires at every step
and is exact.

In: the normalisation; a FloatNetwork. Out: a CodedInput; a FloatNetwork that reads it. Must not import torch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nctool.conversion.float_network import CodedInput, FloatArray, FloatNetwork, FloatSynapse
from nctool.conversion.folding import each, normalised_pixels
from nctool.ir.network import INPUT_NAME, RateEncoding, Shape

RATE_THRESHOLD = 2**12
"""Of the encoders: over the longest window of a recipe, 64 steps, a rate is exact to 1/128 of a spike."""


def rate_input(shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> CodedInput:
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
    return CodedInput(RateEncoding(shape, table, RATE_THRESHOLD), step, real)


def split_input(network: FloatNetwork, coded: CodedInput) -> FloatNetwork:
    """Copy the weights behind the input for each part of a channel: W x = W x_on + W x_off."""
    copies = coded.encoding.shape[0] // network.input_shape[0]
    split = each(network, lambda synapse: _split(synapse, copies) if synapse.source == INPUT_NAME else synapse)
    return replace(split, input_shape=coded.encoding.shape)


def _split(synapse: FloatSynapse, copies: int) -> FloatSynapse:
    """Give each part of a channel of the input weights of its own; the parts lie side by side."""
    channels, *size = synapse.source_shape
    weight = synapse.weight.reshape(len(synapse.weight), synapse.summed_shape[0] // synapse.groups, -1)
    weight = np.repeat(weight, copies, axis=1)
    shape = (len(weight), -1, *synapse.weight.shape[2:])
    return replace(synapse, source_shape=(channels * copies, *size), weight=weight.reshape(shape))
