"""What the layers of the fast engine share: exact types, weighted sums, the result of a window.

In: populations, signals as tensors. Out: tensors. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nctool.errors import RangeError
from nctool.fast.kernel import IMAGE_AXES, Kernel
from nctool.ir.bounds import drive_interval
from nctool.ir.inputs import Input
from nctool.ir.network import Population, Shape

FLOAT32_EXACT = 2**24
"""Integers of at most this magnitude are exact in float32. Source: IEEE 754, 24-bit significand."""

FLOAT64_EXACT = 2**53
"""The same for float64."""


class Surroundings(Protocol):
    """What a population may read; an IntNetwork is one, and so is what conversion has made of it so far."""

    @property
    def input(self) -> Input:
        """Return what a sample is."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Return the shape of the input and of every population that may be read, by name."""


@dataclass(frozen=True)
class LayerRun:
    """One population over a window.

    Args:
        spikes: 0 or 1, or what graded spikes carry, in a float type, (steps, samples, *shape); None for a readout,
            which has none.
        potentials: (steps, samples, *shape); None unless the population gives the answer by its potentials.
        overflows: events of rules O1 to O3.
    """

    spikes: Tensor | None
    potentials: Tensor | None
    overflows: int

    def after(self, latency: int) -> LayerRun:
        """Return the run without its first `latency` steps; overflows of those count."""
        spikes, potentials = (None if x is None else x[latency:] for x in (self.spikes, self.potentials))
        return LayerRun(spikes, potentials, self.overflows)


def exact_type(population: Population, network: Surroundings, beyond: int) -> torch.dtype:
    """Return the smallest float type in which every partial sum of `population` is an exact integer.

    Args:
        beyond: largest magnitude that other terms add to one step's weighted input.

    Raises:
        RangeError: not even float64 is wide enough.
    """
    low, high = drive_interval(population, network.input)
    worst = int((high - low).max()) + beyond
    for dtype, limit in ((torch.float32, FLOAT32_EXACT), (torch.float64, FLOAT64_EXACT)):
        if worst < limit:
            return dtype
    raise RangeError(f"population `{population.name}`: sums may reach {worst}, the fast engine is exact below 2**53")


def weighted_sum(kernels: Sequence[Kernel], signals: Mapping[str, Tensor]) -> Tensor:
    """Weigh every source over all its steps at once (rules W1 to W3) and add up.

    Args:
        kernels: at least one.

    Returns:
        (steps or 1, samples, *shape).
    """
    total = _weigh(kernels[0], signals)
    for kernel in kernels[1:]:
        total = total + _weigh(kernel, signals)
    return total


def _weigh(kernel: Kernel, signals: Mapping[str, Tensor]) -> Tensor:
    signal = signals[kernel.source].to(kernel.weight.dtype)
    weighted: Tensor = kernel(signal.flatten(0, 1)).unflatten(0, signal.shape[:2])
    return weighted


def empty_steps(signal: Tensor, n_steps: int) -> Tensor:
    """Return an uninitialised (n_steps, *signal.shape) whose steps are laid out as `signal` is."""
    layout = torch.channels_last if signal.dim() == IMAGE_AXES else torch.contiguous_format
    shape = (n_steps * len(signal), *signal.shape[1:])
    empty = torch.empty(shape, dtype=signal.dtype, device=signal.device, memory_format=layout)
    steps: Tensor = empty.unflatten(0, (n_steps, len(signal)))
    return steps
