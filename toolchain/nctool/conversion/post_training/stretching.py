"""Stretch the thresholds of a layer for what reads it.

Neuron by neuron, the error of what a layer sends is least where small and large values err alike. But what reads the
layer adds up many neurons: there, the coarseness of small values averages out, and large values that are cut off do
not. So all thresholds of a layer are stretched by the factor with which its readers' drive has the least error.

In: the neurons that were chosen, the drive of some images, the synapses that read. Out: neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nctool.conversion.float_network import FloatSynapse
from nctool.conversion.post_training.simulation import Window
from nctool.conversion.post_training.thresholds import Chosen
from nctool.fast.engine import exact_arithmetic
from nctool.fast.kernel import kernel_of_weights
from nctool.ir.geometry import Shape

FACTORS = (1.0, 1.2, 1.45, 1.75)
"""Factors tried."""


@dataclass(frozen=True)
class Images:
    """What a layer gets and should send on some whole images.

    Args:
        drive: of its neurons at every step, float32 (n_steps, images * places * neurons of a maximum, channels).
        wanted: what the trained network's gives, or the maximum behind it: float32 (images, *shape).
    """

    drive: Tensor
    wanted: Tensor


def stretch(chosen: Chosen, window: Window, images: Images, readers: Sequence[FloatSynapse]) -> Chosen:
    """Return the neurons with the thresholds and the shifts stretched by one factor.

    Args:
        window: of the neurons.
        readers: of the layer, or of the maximum behind it, in the trained network.
    """
    if not readers:
        return chosen
    wanted = [_read(synapse, images.wanted) for synapse in readers]
    errors = []
    for factor in FACTORS:
        sent = window.sent(images.drive, factor * chosen.threshold, factor * chosen.shift)
        given = _as_images(sent, images.wanted.shape)
        errors.append(sum(_error(_read(s, given), drive) for s, drive in zip(readers, wanted, strict=True)))
    factor = FACTORS[min(range(len(FACTORS)), key=errors.__getitem__)]
    return Chosen(factor * chosen.threshold, factor * chosen.shift, chosen.error)


def _as_images(sent: Tensor, shape: Shape) -> Tensor:
    """Return (places, channels) as (images, channels, ...)."""
    images, channels, *size = shape
    return sent.reshape(images, *size, channels).movedim(-1, 1)


def _read(synapse: FloatSynapse, signal: Tensor) -> Tensor:
    """Return what a synapse makes of a real signal (images, *shape)."""
    kernel = kernel_of_weights(
        synapse.source, synapse.weight, synapse.conv, synapse.source_shape, synapse.repeat, signal.device, signal.dtype
    )
    with exact_arithmetic():
        return kernel(signal)


def _error(drive: Tensor, wanted: Tensor) -> float:
    """Return the mean square error of a drive relative to its variance, without its mean, which the bias takes."""
    axes = [axis for axis in range(drive.dim()) if axis != 1]
    gap = drive - wanted
    spread = wanted - wanted.mean(axes, keepdim=True)
    return float((gap - gap.mean(axes, keepdim=True)).square().mean() / spread.square().mean().clamp(min=1e-30))
