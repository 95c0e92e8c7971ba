"""What a source sends on calibration data, kept in little memory: a spike is one bit.

In: signals of the input, spikes of the fast engine. Out: tensors over time, and rates, of some samples. Must not import
an engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.conversion.float_network import FloatArray
from nctool.conversion.quantise.second_moments import Rates
from nctool.ir.network import Shape

_Unsigned = TypeVar("_Unsigned", np.uint8, np.uint16)


class Sent(Rates, Protocol):
    """What one source sends; as `Rates`, it is the mean over the window."""

    def steps(self, samples: slice) -> Tensor:
        """Return the signal, (n_steps or 1, samples, *shape)."""


@dataclass(frozen=True, eq=False)
class SentIntegers:
    """The same integers at every step.

    Args:
        values: int8 (samples, *shape).
    """

    values: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, samples: slice) -> FloatArray:
        return self.values[samples].astype(np.float64)

    def steps(self, samples: slice) -> Tensor:
        """Return the signal of one step, which is that of all."""
        return torch.from_numpy(self.values[np.newaxis, samples])


@dataclass(frozen=True, eq=False)
class SentSpikes:
    """Spikes, eight to a byte.

    Args:
        bits: uint8 (n_steps, samples, bytes); the neurons of a sample as torch lays them out with the channels last.
        shape: of the source.
    """

    bits: NDArray[np.uint8]
    shape: Shape

    def __len__(self) -> int:
        return self.bits.shape[1]

    def __getitem__(self, samples: slice) -> FloatArray:
        bits = self.bits[:, samples]
        counts = np.zeros((bits.shape[1], self._n_neurons), np.uint16)
        for step in bits:  # one at a time: spikes of a long window take far more memory than their mean
            counts += self._unpacked(step)
        return np.moveaxis(self._by_place(counts), -1, 1) / np.float64(len(bits))

    def steps(self, samples: slice) -> Tensor:
        """Return 0 or 1, float32 (n_steps, samples, *shape)."""
        spikes = self._by_place(self._unpacked(self.bits[:, samples]))
        return torch.from_numpy(spikes.astype(np.float32)).movedim(-1, 2)

    @property
    def _n_neurons(self) -> int:
        return math.prod(self.shape)

    def _unpacked(self, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the spikes that bits (..., bytes) hold, (..., neurons)."""
        return np.unpackbits(bits, axis=-1, count=self._n_neurons)

    def _by_place(self, flat: NDArray[_Unsigned]) -> NDArray[_Unsigned]:
        """Return numbers (..., neurons) with the channels last, (..., *size, channels)."""
        channels, *size = self.shape
        return flat.reshape(*flat.shape[:-1], *size, channels)


def pack(spikes: Tensor) -> SentSpikes:
    """Keep spikes, 0 or 1 (n_steps, samples, *shape)."""
    flat = spikes.movedim(2, -1).flatten(2).numpy()
    return SentSpikes(np.packbits(flat != 0, axis=-1), tuple(spikes.shape[2:]))


def join(parts: Sequence[SentSpikes]) -> SentSpikes:
    """Put the spikes of consecutive samples together."""
    return SentSpikes(np.concatenate([part.bits for part in parts], axis=1), parts[0].shape)
