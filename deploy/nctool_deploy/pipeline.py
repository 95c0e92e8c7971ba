"""How a network runs as a pipeline of layers: depths, the delays of its synapses, and the schedule of a stream.

Each layer computes one step later than the one before it (rule R7); samples follow each other with silent steps
between them (rule R5).

In: an IntNetwork, lengths. Out: time steps. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import INPUT_NAME, IntArray, IntNetwork, Population


def depths(network: IntNetwork) -> dict[str, int]:
    """Return the number of synapses on the longest path from the input, by name; the input's own is 0."""
    depth = {INPUT_NAME: 0}
    for population in network.populations:
        depth[population.name] = 1 + max((depth[synapse.source] for synapse in population.synapses), default=0)
    return depth


def delays(population: Population, depth: Mapping[str, int]) -> tuple[int, ...]:
    """Return how many time steps each synapse of `population` delays what it carries.

    A signal moves on by one layer in a step: one that passes by d layers would arrive d steps early.

    Args:
        depth: of every population and the input, as `depths` returns it.
    """
    return tuple(depth[population.name] - depth[synapse.source] - 1 for synapse in population.synapses)


@dataclass(frozen=True)
class Schedule:
    """When each layer computes, in global steps; a population of depth k sees its input k steps late.

    Args:
        n_steps: length of a window.
        flush_steps: silent steps between two windows.
        depth: of the deepest population.
        n_samples: windows in the run.
    """

    n_steps: int
    flush_steps: int
    depth: int
    n_samples: int = 1

    @property
    def latency(self) -> int:
        """Return the steps from the first input of a sample until its answer stands."""
        return self.n_steps + self.depth

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
