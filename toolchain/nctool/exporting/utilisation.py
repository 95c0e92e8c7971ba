"""How full the cores of a target are, and how much head-room a network has, as reports print it.

In: a Mapping, or a network. Out: a Utilisation, or bits of head-room. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from nctool.ir.network import IntNetwork
from nctool_deploy.mapping.cores import Mapping, Usage, capacity


@dataclass(frozen=True)
class Utilisation:
    """Every core of a mapping, column by column.

    Args:
        slices: for each core its slices: (population, start, stop), neurons counted position by position with all
            channels of a position together.
        used: for each resource, how much each core uses.
        capacity: for each resource, how much a core has; None for no limit.
    """

    slices: tuple[tuple[tuple[str, int, int], ...], ...]
    used: dict[str, tuple[int, ...]]
    capacity: dict[str, int | None]

    @property
    def fullest(self) -> dict[str, float]:
        """Return, for each resource with a limit, the largest fraction that any core uses."""
        limited = {name: limit for name, limit in self.capacity.items() if limit is not None}
        return {name: max(self.used[name], default=0) / limit for name, limit in limited.items()}


def utilisation(mapping: Mapping) -> Utilisation:
    """Return how full the cores of `mapping` are."""
    usages = [vars(core.usage) for core in mapping.cores]
    return Utilisation(
        slices=tuple(tuple((s.population, s.start, s.stop) for s in core.slices) for core in mapping.cores),
        used={field.name: tuple(usage[field.name] for usage in usages) for field in fields(Usage)},
        capacity=capacity(mapping.target),
    )


def tightest(network: IntNetwork) -> tuple[float, str]:
    """Return the least head-room of any population, in bits, and which has it: how often its bound could double."""
    rooms = ((layer.head_room_bits, layer.name) for layer in network.populations)
    return min((room, name) for room, name in rooms if room is not None)
