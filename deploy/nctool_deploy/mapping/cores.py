"""Mapping: which core of a target holds which neurons, and how full the cores are.

`nctool_deploy.mapping.placement` makes mappings. docs/TARGETS.md says what is counted and what is approximated.

In: a target. Out: frozen objects. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from nctool_deploy.targets.target import Target


@dataclass(frozen=True)
class Usage:
    """What is used of a core, or what it has: the limits `*_per_core` of a target.

    Args:
        neurons: neurons.
        synaptic_memory_bytes: for the synapses into them.
        input_axons: neurons that send to them; one that sends through two synapses counts twice.
        output_axons: pairs of one of them and a slice that it sends to, its own included.
        thresholds: threshold registers.
    """

    neurons: int = 0
    synaptic_memory_bytes: int = 0
    input_axons: int = 0
    output_axons: int = 0
    thresholds: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Slice:
    """Neurons of one population on one core.

    Args:
        population: its name.
        start, stop: the neurons, counted position by position with all channels of a position together.
        usage: what they use of the core.
    """

    population: str
    start: int
    stop: int
    usage: Usage


@dataclass(frozen=True)
class Core:
    """What one core holds."""

    slices: tuple[Slice, ...]

    @property
    def usage(self) -> Usage:
        """Return what is used of the core."""
        return sum((part.usage for part in self.slices), Usage())


@dataclass(frozen=True)
class Mapping:
    """Where each neuron of a network lies.

    Args:
        target: whose cores they are.
        cores: in the order of their populations; none where the target does not limit a core.
    """

    target: Target
    cores: tuple[Core, ...]

    @property
    def chips(self) -> int:
        """Return how many chips the cores fill."""
        limit = self.target.limits.cores_per_chip
        return -(-len(self.cores) // limit.value) if limit else min(len(self.cores), 1)

    def cores_of(self, population: str) -> int:
        """Return how many cores hold neurons of a population."""
        return sum(any(part.population == population for part in core.slices) for core in self.cores)


def capacity(target: Target) -> dict[str, int | None]:
    """Return what a core of `target` has of each resource of `Usage`; None for no limit."""
    limits = dict(target.limits)
    per_core = {field.name: limits[f"{field.name}_per_core"] for field in fields(Usage)}
    return {name: limit.value if limit else None for name, limit in per_core.items()}
