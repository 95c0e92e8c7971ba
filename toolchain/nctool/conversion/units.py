"""Several staggered units for each activation: K units in T steps count like one unit in K * T steps.

The K units of an activation have its weights and its threshold; unit k starts at threshold * (k + 1/2) / K, and a
spike is worth threshold / K. By Hermite's identity, sum over k of floor(x + k / K) = floor(K x), they emit together in
T steps what one unit would emit in K * T: the residual error shrinks as K grows, and T = 1 with K = L is the quantised
ANN itself (docs/SEMANTICS.md, rules U1 and U2).

In: a FloatNetwork whose poolings are folded. Out: a FloatNetwork whose channels repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nctool.conversion.float_network import FloatNetwork, FloatPopulation, FloatSynapse
from nctool.errors import UsageError

Units = int | Mapping[str, int]
MAX_UNITS = 64
"""As many as a recipe's activation may have levels."""


def units_by_name(network: FloatNetwork, units: Units) -> dict[str, int]:
    """Return the units of each spiking population.

    Args:
        units: for all of them, or by name; 1 for those that are not named.

    Raises:
        UsageError: a name is no spiking population, or a number is out of range.
    """
    spiking = [population.name for population in network.populations if population.threshold is not None]
    named = dict.fromkeys(spiking, units) if isinstance(units, int) else dict(units)
    for name, number in named.items():
        if name not in spiking:
            raise UsageError(f"units: no layer `{name}` that spikes, allowed {', '.join(spiking)}")
        if not 1 <= number <= MAX_UNITS:
            raise UsageError(f"units: {number} for `{name}`, allowed 1..{MAX_UNITS}")
    return {name: named.get(name, 1) for name in spiking}


def stagger(network: FloatNetwork, units: Mapping[str, int]) -> FloatNetwork:
    """Give every population its units: its channels, and the weights of those that read it, repeat so often."""
    return replace(network, populations=tuple(_repeated(p, units) for p in network.populations))


def _repeated(population: FloatPopulation, units: Mapping[str, int]) -> FloatPopulation:
    copies = units.get(population.name, 1)
    return replace(
        population,
        shape=(population.shape[0] * copies, *population.shape[1:]),
        synapses=tuple(_repeat(synapse, units.get(synapse.source, 1), copies) for synapse in population.synapses),
        units=copies,
    )


def _repeat(synapse: FloatSynapse, copies_in: int, copies_out: int) -> FloatSynapse:
    channels, *size = synapse.source_shape
    repeat = replace(synapse.repeat, copies_in=copies_in, copies_out=copies_out)
    return replace(synapse, source_shape=(channels * copies_in, *size), repeat=repeat)
