"""What counted operations cost by the figures of a target, always split by cause (docs/COST.md).

In: operations, a target. Out: energies. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

from nctool_deploy.cost.operations import Operations
from nctool_deploy.targets.target import Energy


@dataclass(frozen=True)
class SplitEnergy:
    """Picojoules of one sample, by cause.

    Args:
        synaptic_operations_pj, active_updates_pj, idle_updates_pj, spikes_pj: by cause.
        total_pj: their sum. Static power, hops between cores and input and output are not in it.
        basis: what sort of figures they come from.
    """

    synaptic_operations_pj: float
    active_updates_pj: float
    idle_updates_pj: float
    spikes_pj: float
    total_pj: float
    basis: str


def split_energy(operations: Operations, n_samples: int, figures: Energy) -> SplitEnergy:
    """Return what a sample costs, of `n_samples` that took `operations` together."""
    synaptic_operations, active_updates, idle_updates, spikes = (
        count * figure.pj / n_samples
        for count, figure in (
            (operations.synaptic_operations, figures.synaptic_operation),
            (operations.active_updates, figures.active_update),
            (operations.idle_updates, figures.idle_update),
            (operations.all_spikes, figures.spike),
        )
    )
    return SplitEnergy(
        synaptic_operations_pj=synaptic_operations,
        active_updates_pj=active_updates,
        idle_updates_pj=idle_updates,
        spikes_pj=spikes,
        total_pj=synaptic_operations + active_updates + idle_updates + spikes,
        basis=figures.basis,
    )
