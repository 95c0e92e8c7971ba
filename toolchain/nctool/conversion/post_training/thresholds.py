"""The threshold and the start of each channel with which neurons send what a ReLU gives, with the least squared error.

In: the drive of some neurons at every step, and what their activations should send. Out: thresholds and shifts.

Source of the criterion: Li et al., A Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks
Calibration, ICML 2021, arXiv 2106.06984, which looks for the threshold of a layer on a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nctool.conversion.post_training.simulation import Window

THRESHOLDS = torch.logspace(-5.0, 0.5, 34, base=2.0)
"""Thresholds tried, as a part of the largest value that an activation should send: 1/32 to 1.4 of it."""

FINER = torch.linspace(0.88, 1.12, 9)
"""The same beside the best of them."""

SHIFTS = torch.linspace(-0.48, 0.48, 13)
"""Shifts of the start tried, in gaps between the starts of replicas."""

MARGIN = 1.25
"""The threshold of a channel that should send nothing lies so far above what its drive reaches."""

SMALL = 1 / 32
"""The same as a part of the largest drive, where no channel of the layer should send anything."""

VALUES = 2**23
"""Numbers that are simulated for one threshold, over all rows, channels, steps and replicas."""


@dataclass(frozen=True)
class Chosen:
    """Neurons that were chosen.

    Args:
        threshold, shift: float (channels,).
        error: mean square of what they send beside what they should, (channels,).
    """

    threshold: Tensor
    shift: Tensor
    error: Tensor


def choose_thresholds(drive: Tensor, wanted: Tensor, window: Window, shared: bool) -> Chosen:
    """Return the threshold and the shift of least squared error for each channel.

    Args:
        drive: float (n_steps, rows, channels).
        wanted: what the activations should send, or the largest of those that a maximum takes together: float
            (rows / window.together, channels), >= 0.
        window: of the neurons.
        shared: all channels get one threshold.
    """
    every = max(1, window.replicas * drive.numel() // VALUES)
    drive = drive.unflatten(1, (-1, window.together))[:, ::every].flatten(1, 2)
    wanted = wanted[::every]
    silent = (wanted <= 0).all(0)
    if shared:  # with the others, or all of them
        silent = silent.all().expand_as(silent)
    largest = torch.where(silent, _out_of_reach(wanted, drive, window), wanted.amax(0))
    if shared:
        largest = largest.amax().expand_as(largest)
    coarse = _search(drive, wanted, window, _tried(largest, THRESHOLDS, silent), shared)
    fine = _search(drive, wanted, window, _tried(coarse.threshold, FINER, silent), shared)
    return fine if window.reset == "zero" else _shifted(drive, wanted, window, fine)


def _tried(around: Tensor, parts: Tensor, silent: Tensor) -> Tensor:
    """Return thresholds to try, (candidates, channels): parts of one for each channel, of a silent one that alone."""
    return torch.where(silent, around, around * parts[:, None])


def _out_of_reach(wanted: Tensor, drive: Tensor, window: Window) -> Tensor:
    """Return a threshold for each channel that its drive does not reach, of the size of the others in the layer.

    The replica that starts highest is threshold / 2K below it: what is out of reach of that one is of all. Where all
    channels should send nothing, it is small beside the drive: a spike is then worth little to what reads it.
    """
    reach = drive.clamp(min=0).sum(0).amax(0) * (2 * MARGIN * window.replicas)
    largest = wanted.amax(0)
    typical = largest[largest > 0].mean() if bool((largest > 0).any()) else drive.abs().amax() * SMALL
    threshold = torch.maximum(reach, typical)
    return torch.where(threshold > 0, threshold, 1.0)


def _search(drive: Tensor, wanted: Tensor, window: Window, tried: Tensor, shared: bool) -> Chosen:
    """Return the best of the thresholds `tried`, (candidates, channels), for each channel or for all together."""
    errors = window.errors(drive, wanted, tried, torch.zeros_like(tried))
    compared = errors.sum(1, keepdim=True).expand_as(errors) if shared else errors
    best = compared.argmin(0, keepdim=True)
    threshold, error = (values.gather(0, best)[0] for values in (tried, errors))
    return Chosen(threshold, torch.zeros_like(threshold), error)


def _shifted(drive: Tensor, wanted: Tensor, window: Window, chosen: Chosen) -> Chosen:
    """Return the same thresholds with the shift of least squared error."""
    threshold, shift, error = chosen.threshold, chosen.shift, chosen.error
    moves = threshold * (SHIFTS / window.replicas)[:, None]
    for moved, moved_error in zip(moves, window.errors(drive, wanted, threshold.expand_as(moves), moves), strict=True):
        better = moved_error < error
        shift, error = torch.where(better, moved, shift), torch.where(better, moved_error, error)
    return Chosen(threshold, shift, error)
