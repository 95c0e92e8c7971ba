"""What the layers of the fast engine share: exact types, weighted sums, the result of a window.

In: populations, signals as tensors. Out: tensors. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.errors import RangeError
from nctool.fast.choice import Choice
from nctool.fast.integer_weights import FLOAT32_EXACT
from nctool.fast.kernel import Kernel
from nctool.ir.bounds import drive_interval
from nctool.ir.inputs import Input
from nctool.ir.network import INPUT_NAME, Pair, Population, Shape

FLOAT64_EXACT = 2**53
"""The same for float64."""


TILE = 1536
"""Neurons that a compiled loop steps at a time: their numbers, 4 or 8 bytes each, stay in the nearest cache."""

PLAIN_AXES = 3
"""(steps, samples, channels)."""


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
        spikes: 0 or 1 in a float type or in bytes, or what graded spikes carry, (steps, samples, *shape); None for a
            readout, which has none.
        potentials: (steps, samples, *shape); None unless the population gives the answer by its potentials.
        overflows: events of rules O1 to O3.
        n_spikes: how many spikes there are, where that is known without counting them once more.
    """

    spikes: Tensor | None
    potentials: Tensor | None
    overflows: int
    n_spikes: int | None = None

    def after(self, latency: int) -> LayerRun:
        """Return the run without its first `latency` steps; overflows of those count."""
        if latency == 0:
            return self
        spikes, potentials = (None if x is None else x[latency:] for x in (self.spikes, self.potentials))
        return LayerRun(spikes, potentials, self.overflows)


class Extremes:
    """Smallest and largest value of each channel, seen run by run.

    Within a run they may be kept for each neuron and sample: that takes a tenth of the time of looking over it at every
    step.
    """

    def __init__(self) -> None:
        self._run: tuple[Tensor, Tensor] | None = None
        self._closed: list[tuple[Tensor, Tensor]] = []

    def see(self, values: Tensor) -> None:
        """Look at values of one step, (samples, channels, ...); all steps of a run have as many samples."""
        if self._run is None:
            self._run = values.clone(), values.clone()
            return
        low, high = self._run
        torch.minimum(low, values, out=low)
        torch.maximum(high, values, out=high)

    def close(self) -> None:
        """End a run."""
        if self._run is not None:
            axes = [axis for axis in range(self._run[0].dim()) if axis != 1]
            self.add(self._run[0].amin(axes), self._run[1].amax(axes))
        self._run = None

    def add(self, low: Tensor, high: Tensor) -> None:
        """Take what another way found to be the smallest and largest value of each channel in a run, (channels,)."""
        self._closed.append((low, high))

    @property
    def low(self) -> Tensor:
        """Return the smallest value of each channel."""
        return torch.stack([low for low, _ in self._closed]).amin(0)

    @property
    def high(self) -> Tensor:
        """Return the largest value of each channel."""
        return torch.stack([high for _, high in self._closed]).amax(0)


def exact_type(population: Population, network: Surroundings, beyond: int, choice: Choice) -> torch.dtype:
    """Return the smallest float type in which every partial sum of `population` is an exact integer.

    Args:
        beyond: largest magnitude that other terms add to one step's weighted input.
        choice: whether float32 may be used.

    Raises:
        RangeError: not even float64 is wide enough.
    """
    low, high = drive_interval(population, network.input)
    worst = int((high - low).max()) + beyond
    for dtype, limit in ((torch.float32, FLOAT32_EXACT), (torch.float64, FLOAT64_EXACT)):
        if worst < limit and (choice.float32 or dtype == torch.float64):
            return dtype
    raise RangeError(f"population `{population.name}`: sums may reach {worst}, the fast engine is exact below 2**53")


def signal_range(source: str, encoding: Input) -> Pair:
    """Return the smallest and the largest value that a source sends: a population sends spikes, 0 or 1."""
    if source != INPUT_NAME:
        return (0, 1)
    low, high = encoding.channel_range()
    return int(low.min()), int(high.max())


def weighted_sum(kernels: Sequence[Kernel], signals: Mapping[str, Tensor]) -> Tensor:
    """Weigh every source over all its steps at once (rules W1 to W3) and add up.

    Args:
        kernels: at least one.

    Returns:
        (steps or 1, samples, *shape).
    """
    total = over_steps(kernels[0], signals[kernels[0].source])
    for kernel in kernels[1:]:
        total = total + over_steps(kernel, signals[kernel.source])
    return total


def over_steps(weigh: Callable[[Tensor], Tensor], signal: Tensor) -> Tensor:
    """Weigh a signal, (steps, samples, *source shape), of all steps at once, to (steps, samples, *driven shape)."""
    weighed = weigh(signal.flatten(0, 1))
    return weighed.view(*signal.shape[:2], *weighed.shape[1:])  # takes a tenth of the time of `unflatten`


def flat(steps: Tensor) -> NDArray[Any]:
    """Return (steps, samples, channels, ...) as an array (steps, neurons), the channels of a place side by side."""
    array: NDArray[Any] = steps.numpy()  # its views take a tenth of the time of torch's
    if array.ndim > PLAIN_AXES:
        array = array.transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(array).reshape(len(array), -1)


def tiled(columns: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of all channels, (numbers, channels), again and again for about as many neurons as a tile has."""
    return np.tile(columns, max(1, TILE // columns.shape[1]))


def empty_steps(n_steps: int, samples: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialised (n_steps, samples, *shape); steps of images are laid out with the channels last."""
    layout = torch.contiguous_format if len(shape) == 1 else torch.channels_last
    empty = torch.empty((n_steps * samples, *shape), dtype=dtype, device=device, memory_format=layout)
    return empty.view(n_steps, samples, *shape)
