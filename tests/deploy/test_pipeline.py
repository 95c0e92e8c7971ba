"""Depths and delays: by hand, and as the lengths of paths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given

from nctool.ir.network import INPUT_NAME, IntNetwork
from nctool_deploy.pipeline import delays, depths
from tests.support.networks import dense, fire, random_graph, random_network, read_out, seeds, signed_input


def test_depths_and_delays_by_hand():
    """`d` is as deep as its deepest source; `c` has no longer path than the one through `b`, wherever it stands."""
    network = IntNetwork(
        signed_input(1),
        (
            fire("a", dense("input", [[1]])),
            fire("side", dense("input", [[1]])),
            fire("b", dense("a", [[1]]), dense("input", [[1]])),
            fire("c", dense("b", [[1]])),
            fire("d", dense("side", [[1]]), dense("c", [[1]]), dense("a", [[1]]), dense("a", [[1]])),
            read_out(dense("c", [[1]]), dense("input", [[1]])),
        ),
        1,
    )
    depth = depths(network)
    assert depth == {"input": 0, "a": 1, "side": 1, "b": 2, "c": 3, "d": 4, "out": 4}
    assert [delays(population, depth) for population in network.populations] == [
        (0,),
        (0,),
        (0, 1),
        (0,),
        (2, 0, 2, 2),
        (0, 3),
    ]


def paths(network: IntNetwork, name: str) -> Iterator[tuple[str, ...]]:
    """Yield every path from the input to `name`."""
    if name == INPUT_NAME:
        yield (name,)
        return
    synapses = next(population.synapses for population in network.populations if population.name == name)
    for source in {synapse.source for synapse in synapses}:
        yield from ((*path, name) for path in paths(network, source))


@given(seeds)
def test_every_path_takes_as_long_as_its_population_is_deep(seed):
    """A step for each synapse and the steps that it waits; on one path, nothing waits."""
    network = random_graph(seed)
    depth = depths(network)
    wait = {
        (synapse.source, population.name): delay
        for population in network.populations
        for synapse, delay in zip(population.synapses, delays(population, depth), strict=True)
    }
    for population in network.populations:
        taken = [[1 + wait[step] for step in pairwise(path)] for path in paths(network, population.name)]
        assert {sum(steps) for steps in taken} == {depth[population.name]}
        assert any(set(steps) == {1} for steps in taken)


@given(seeds)
def test_nothing_waits_in_a_chain(seed):
    network = random_network(seed)
    depth = depths(network)
    assert list(depth.values()) == list(range(len(network.populations) + 1))
    assert {delays(population, depth) for population in network.populations} == {(0,)}
