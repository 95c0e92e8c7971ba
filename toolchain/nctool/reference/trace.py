"""Trace: what every engine returns for a network and a batch of samples.

In: arrays from an engine. Out: one frozen dataclass. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nctool.ir.arrays import StructuralEquality

Spikes = NDArray[np.bool_] | NDArray[np.int32]
"""Whether each neuron fires, or what its graded spike carries."""


@dataclass(frozen=True, eq=False)
class Summary(StructuralEquality):
    """What a run needs to keep of a batch when nobody looks at single spikes.

    Args:
        logits: int64 (samples, steps, classes); the readout's potential after each step.
        spike_counts: per spiking population, the spikes of the whole batch, whatever they carry.
        overflows: per population, how many accumulated inputs left the accumulator (rule O1); empty when the
            engine cannot tell.
        kernels: per population, which kernels the engine computed it with, where it has a choice; no part of equality.
    """

    logits: NDArray[np.int64]
    spike_counts: Mapping[str, int]
    overflows: Mapping[str, int]
    kernels: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, eq=False)
class Trace(StructuralEquality):
    """Everything that a run of a network can be compared by.

    Args:
        spikes: per spiking population, bool (samples, steps, *shape); of a graded one int32, what they carry.
        logits: int64 (samples, steps, classes); the readout's potential after each step.
        overflows: per population, how many accumulated inputs left the accumulator (rule O1); must be 0.
        potentials: per population, int64 (samples, steps, *shape); the membrane potential after integration
            and before reset (rule S1). Empty unless asked for.
        kernels: as in a summary.
    """

    spikes: Mapping[str, Spikes]
    logits: NDArray[np.int64]
    overflows: Mapping[str, int]
    potentials: Mapping[str, NDArray[np.int64]]
    kernels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def n_samples(self) -> int:
        """Return the number of samples."""
        return int(self.logits.shape[0])

    def summary(self) -> Summary:
        """Return the logits and the counts."""
        counts = {name: int(np.count_nonzero(spikes)) for name, spikes in self.spikes.items()}
        return Summary(self.logits, counts, self.overflows, self.kernels)


def join(traces: Iterable[Trace]) -> Trace:
    """Concatenate traces of consecutive batches of one network along the sample axis."""
    parts = list(traces)
    return Trace(
        spikes={name: np.concatenate([p.spikes[name] for p in parts]) for name in parts[0].spikes},
        logits=np.concatenate([p.logits for p in parts]),
        overflows={name: sum(p.overflows[name] for p in parts) for name in parts[0].overflows},
        potentials={name: np.concatenate([p.potentials[name] for p in parts]) for name in parts[0].potentials},
        kernels=parts[0].kernels,
    )


def join_summaries(summaries: Iterable[Summary]) -> Summary:
    """Return what consecutive batches of one network hold together."""
    parts = list(summaries)
    return Summary(
        logits=np.concatenate([p.logits for p in parts]),
        spike_counts={name: sum(p.spike_counts[name] for p in parts) for name in parts[0].spike_counts},
        overflows={name: sum(p.overflows[name] for p in parts) for name in parts[0].overflows},
        kernels=parts[0].kernels,
    )
