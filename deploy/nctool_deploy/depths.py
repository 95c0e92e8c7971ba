"""How deep a population lies in a pipeline, and how long each of its branches must wait for the deepest (rule R7).

In: an IntNetwork. Out: time steps. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping

from nctool.ir.network import INPUT_NAME, IntNetwork, Population


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
