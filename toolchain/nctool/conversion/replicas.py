"""Several staggered replicas for each activation: K replicas in T steps count like one replica in K * T steps.

The K replicas of an activation have its weights and its threshold; replica k starts at threshold * (k + 1/2) / K, and a
spike is worth threshold / K. By Hermite's identity, sum over k of floor(x + k / K) = floor(K x), they emit together in
T steps what one replica would emit in K * T: the residual error shrinks as K grows, and T = 1 with K = L is the
quantised ANN itself (docs/SEMANTICS.md, rules U1 and U2).

In: a FloatNetwork whose poolings are folded. Out: a FloatNetwork whose channels repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nctool.conversion.float_network import FloatNetwork, FloatPopulation, FloatSynapse
from nctool.errors import UsageError

Replicas = int | Mapping[str, int]
MAX_REPLICAS = 64
"""As many as a recipe's activation may have levels."""


def replicas_by_name(network: FloatNetwork, replicas: Replicas) -> dict[str, int]:
    """Return the replicas of each spiking population; a maximum has those of its source.

    Args:
        replicas: for all of them, or by name; 1 for those that are not named.

    Raises:
        UsageError: a name is no spiking population, or a number is out of range.
    """
    spiking = [p.name for p in network.populations if p.threshold is not None and not p.maximum]
    named = dict.fromkeys(spiking, replicas) if isinstance(replicas, int) else dict(replicas)
    for name, number in named.items():
        if name not in spiking:
            raise UsageError(f"replicas: no layer `{name}` that spikes, allowed {', '.join(spiking)}")
        if not 1 <= number <= MAX_REPLICAS:
            raise UsageError(f"replicas: {number} for `{name}`, allowed 1..{MAX_REPLICAS}")
    return {name: named.get(name, 1) for name in spiking}


def stagger(network: FloatNetwork, replicas: Mapping[str, int]) -> FloatNetwork:
    """Give every population its replicas: its channels, and the weights of those that read it, repeat so often."""
    of_all = dict(replicas)
    for population in network.populations:
        if population.maximum:
            of_all[population.name] = of_all[population.synapses[0].source]
    return replace(network, populations=tuple(_repeated(p, of_all) for p in network.populations))


def _repeated(population: FloatPopulation, replicas: Mapping[str, int]) -> FloatPopulation:
    copies = replicas.get(population.name, 1)
    return replace(
        population,
        shape=(population.shape[0] * copies, *population.shape[1:]),
        synapses=tuple(
            _side_by_side(synapse, copies)
            if population.maximum
            else _repeat(synapse, replicas.get(synapse.source, 1), copies)
            for synapse in population.synapses
        ),
        replicas=copies,
    )


def _repeat(synapse: FloatSynapse, copies_in: int, copies_out: int) -> FloatSynapse:
    channels, *size = synapse.source_shape
    repeat = replace(synapse.repeat, copies_in=copies_in, copies_out=copies_out)
    return replace(synapse, source_shape=(channels * copies_in, *size), repeat=repeat)


def _side_by_side(synapse: FloatSynapse, copies: int) -> FloatSynapse:
    """Return the synapse of a maximum in which each replica reads the same replica of its source, and no other."""
    channels, *size = synapse.source_shape
    conv = None if synapse.conv is None else replace(synapse.conv, groups=synapse.conv.groups * copies)
    weight = synapse.weight.repeat(copies, axis=0)
    return replace(synapse, source_shape=(channels * copies, *size), weight=weight, conv=conv)
