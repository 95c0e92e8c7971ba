"""Trace: what every engine returns for a network and a batch of samples.

In: arrays from an engine. Out: one frozen dataclass. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.equality import StructuralEquality


@dataclass(frozen=True, eq=False)
class Trace(StructuralEquality):
    """Everything that a run of a network can be compared by.

    Args:
        spikes: per spiking population, bool (samples, steps, *shape).
        logits: int64 (samples, steps, classes); the readout's potential after each step.
        overflows: per population, how many accumulated inputs left the accumulator (rule O1); must be 0.
        potentials: per population, int64 (samples, steps, *shape); the membrane potential after integration
            and before reset (rule S1). Empty unless asked for.
    """

    spikes: Mapping[str, NDArray[np.bool_]]
    logits: NDArray[np.int64]
    overflows: Mapping[str, int]
    potentials: Mapping[str, NDArray[np.int64]]

    @property
    def n_samples(self) -> int:
        """Return the number of samples."""
        return int(self.logits.shape[0])

    def spike_counts(self) -> dict[str, NDArray[np.int64]]:
        """Return the spikes of each population per sample, int64 (samples,)."""
        return {name: s.reshape(len(s), -1).sum(axis=1, dtype=np.int64) for name, s in self.spikes.items()}


def join(traces: Iterable[Trace]) -> Trace:
    """Concatenate traces of consecutive batches of one network along the sample axis."""
    parts = list(traces)
    return Trace(
        spikes={name: np.concatenate([p.spikes[name] for p in parts]) for name in parts[0].spikes},
        logits=np.concatenate([p.logits for p in parts]),
        overflows={name: sum(p.overflows[name] for p in parts) for name in parts[0].overflows},
        potentials={name: np.concatenate([p.potentials[name] for p in parts]) for name in parts[0].potentials},
    )
