"""When what happens in a run that streams many samples through a pipeline of layers (rule R5).

In: lengths. Out: steps. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.network import IntArray


@dataclass(frozen=True)
class Schedule:
    """When what happens, in global steps that count from 1; layer k = 1, 2, ... sees its input k steps late.

    Args:
        n_steps: length of a window.
        n_samples: windows in the run.
        n_layers: populations in the chain.
        flush_steps: silent steps between two windows.
    """

    n_steps: int
    n_samples: int
    n_layers: int
    flush_steps: int

    @property
    def period(self) -> int:
        """Return the steps from one sample to the next."""
        return self.n_steps + self.flush_steps

    @property
    def n_total(self) -> int:
        """Return the steps until the last layer has finished the last sample."""
        return self.n_samples * self.period + self.n_layers

    def active(self, layer: int) -> NDArray[np.bool_]:
        """Return at which steps the synapses into `layer` must carry input, bool (n_total,)."""
        step = np.arange(self.n_total) - (layer - 1)
        return (step >= 0) & (step % self.period < self.n_steps) & (step < self.n_samples * self.period)

    def window(self, layer: int) -> IntArray:
        """Return the zero-based steps at which `layer` computes, int64 (samples, n_steps)."""
        return np.arange(self.n_samples)[:, None] * self.period + np.arange(self.n_steps) + layer
