"""When what happens in a run that streams many samples through a pipeline of layers (rule R5).

In: lengths. Out: steps. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import IntArray


@dataclass(frozen=True)
class Schedule:
    """When what happens, in global steps that count from 1; a population of depth k sees its input k steps late.

    Args:
        n_steps: length of a window.
        n_samples: windows in the run.
        depth: of the deepest population.
        flush_steps: silent steps between two windows.
    """

    n_steps: int
    n_samples: int
    depth: int
    flush_steps: int

    @property
    def period(self) -> int:
        """Return the steps from one sample to the next."""
        return self.n_steps + self.flush_steps

    @property
    def n_total(self) -> int:
        """Return the steps until the deepest population has finished the last sample."""
        return self.n_samples * self.period + self.depth

    def active(self, layer: int) -> NDArray[np.bool_]:
        """Return at which steps the synapses into depth `layer` must carry input, bool (n_total,)."""
        step = np.arange(self.n_total) - (layer - 1)
        return (step >= 0) & (step % self.period < self.n_steps) & (step < self.n_samples * self.period)

    def window(self, layer: int) -> IntArray:
        """Return the zero-based steps at which depth `layer` computes, int64 (samples, n_steps)."""
        return np.arange(self.n_samples)[:, None] * self.period + np.arange(self.n_steps) + layer
