"""What reaches a range of neurons: packing by hand, and every count against the matrix of connections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nctool_deploy.lava.runner.unrolling import unroll
from nctool_deploy.mapping.packing import index_bits, weight_bits, words
from nctool_deploy.mapping.wiring import AutapseWiring, DenseWiring, Load, wire
from tests.support.networks import conv, dense, random_network, seeds

# --- packing, by hand -----------------------------------------------------


@pytest.mark.parametrize(
    ("connections", "bits", "expected"),
    [
        (0, 8, 0),
        (1, 8, 1),  # 10 + 8 bits
        (6, 8, 1),  # 10 + 48
        (7, 8, 2),  # 10 + 56 = 66
        (64, 8, 9),  # 10 + 512 = 522
        (65, 8, 10),
        (128, 8, 18),
        (3, 18, 1),  # 10 + 54 = 64
        (3, 19, 2),
    ],
)
def test_words_of_an_axon(connections, bits, expected):
    assert int(words(connections, bits)) == expected


@given(st.lists(st.integers(0, 400), min_size=1, max_size=20), st.integers(1, 30))
def test_words_are_those_of_blocks_of_64(connections, bits):
    def blocks(count: int) -> int:
        return sum(-(-(10 + min(64, count - first) * bits) // 64) for first in range(0, count, 64))

    np.testing.assert_array_equal(words(np.array(connections), bits), [blocks(count) for count in connections])


@pytest.mark.parametrize(
    ("n_neurons", "bits"), [(1, 6), (64, 6), (65, 7), (1024, 10), (1025, 11), (4096, 12), (8192, 13)]
)
def test_bits_of_an_index(n_neurons, bits):
    assert index_bits(n_neurons) == bits


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        ([0, 0], 2),
        ([-2, 1], 2),
        ([2, 0], 3),
        ([-8, 7], 4),
        ([-31, 31], 6),
        ([-33, 0], 8),
        ([63, 0], 8),
        ([-128, 127], 8),
    ],
)
def test_bits_of_the_weights_of_a_synapse(weight, bits):
    """Sign included; 7 bits cannot be stored."""
    assert weight_bits(np.array(weight)) == bits


# --- against the matrix ---------------------------------------------------


def random_convolution(seed: int):
    """Return a convolution of `random_network` and the shapes of its source and of what it drives."""
    network = random_network(seed, conv=True, enlarging=seed % 2 == 1)
    found = next((p for p in network.populations if p.synapses[0].conv), None)
    assume(found is not None)
    source = network.shapes[found.synapses[0].source]
    return found.synapses[0], source, found.shape


def connections(synapse, source, driven, start: int, stop: int) -> np.ndarray:
    """Count, from the matrix, the connections of each source neuron into the range: (channels, height, width)."""
    synapse = replace(synapse, weight=np.ones_like(synapse.weight))
    order = np.arange(np.prod(driven)).reshape(driven).transpose(1, 2, 0).reshape(-1)
    matrix = unroll(synapse.weight, synapse.conv, source)[order[start:stop]]
    return np.asarray(matrix.sum(axis=0)).reshape(source)


@given(seeds, st.data())
def test_a_convolution_is_counted_as_its_matrix(seed, data):
    synapse, source, driven = random_convolution(seed)
    size = int(np.prod(driven))
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    expected = connections(synapse, source, driven, start, stop)
    wiring = wire(synapse, source, shared_kernels=False)
    bits = weight_bits(synapse.weight) + index_bits(stop - start)
    assert wiring.load(start, stop) == Load(np.count_nonzero(expected), int(words(expected, bits).sum()))
    destinations = np.full((source[1], source[2], source[0]), 5)
    wiring.reach(destinations, start, stop)
    np.testing.assert_array_equal(destinations.transpose(2, 0, 1), 5 + (expected > 0))


@given(seeds)
def test_a_range_never_needs_less_than_a_part_of_it(seed):
    synapse, source, driven = random_convolution(seed)
    size = int(np.prod(driven))
    start = seed % size
    for shared in (False, True):
        wiring = wire(synapse, source, shared)
        loads = [wiring.load(start, stop) for stop in range(start + 1, size + 1)]
        assert [load.axons for load in loads] == sorted(load.axons for load in loads)
        assert [load.words for load in loads] == sorted(load.words for load in loads)


def test_a_dense_synapse_needs_no_index():
    wiring = wire(dense("a", np.full((300, 5), 127)), (5,), shared_kernels=False)
    assert wiring == DenseWiring(5)
    assert wiring.load(100, 165) == Load(5, 5 * 10)
    destinations = np.zeros((1, 1, 5))
    wiring.reach(destinations, 0, 10)
    np.testing.assert_array_equal(destinations, np.ones((1, 1, 5)))


def test_connections_of_a_branch_that_waits_hold_six_bits_of_delay():
    dense_wiring = wire(dense("a", np.full((64, 5), 127)), (5,), shared_kernels=False, delay=1)
    assert dense_wiring == DenseWiring(5, 14)
    assert dense_wiring.load(0, 64) == Load(5, 5 * 15)  # 10 + 64 · 14 = 906 bits
    synapse = conv("a", np.full((1, 1, 1, 1), 127))
    now, later = (wire(synapse, (1, 1, 3), shared_kernels=False, delay=delay) for delay in (0, 62))
    assert [now.load(0, 3), later.load(0, 3)] == [Load(3, 3), Load(3, 3)]  # 10 + 8 + 6 and 10 + 14 + 6 bits
    many = conv("a", np.full((3, 1, 1, 1), 127))
    now, later = (
        wire(many, (1, 1, 1), shared_kernels=shared, delay=delay) for shared, delay in ((False, 0), (False, 9))
    )
    assert [now.load(0, 3).words, later.load(0, 3).words] == [1, 2]  # 10 + 3 · 14 = 52 and 10 + 3 · 20 = 70 bits
    kernels = [wire(conv("a", np.full((6, 1, 1, 1), 127)), (1, 9, 9), shared_kernels=True, delay=d) for d in (0, 1)]
    assert [each.load(0, 486).words for each in kernels] == [1, 2]  # 10 + 6 · 8 = 58 and 10 + 6 · 14 = 94 bits


def test_an_autapse_is_an_axon_of_one_connection():
    assert AutapseWiring().load(10, 30) == Load(20, 20)


def test_shared_kernels_are_kept_once():
    """4 channels of 3 by 2 by 2 weights: 12 axons of 4 weights of 8 bits, a word each, wherever the kernel is used."""
    synapse = conv("a", np.full((4, 3, 2, 2), 127))
    wiring = wire(synapse, (3, 9, 9), shared_kernels=True)
    assert [wiring.load(0, stop).words for stop in (1, 4, 5, 256)] == [12, 12, 12, 12]
    many = wire(conv("a", np.full((128, 3, 2, 2), 127)), (3, 9, 9), shared_kernels=True)
    assert [many.load(0, stop).words for stop in (1, 64, 65, 128, 8192)] == [12, 108, 120, 216, 216]
    assert many.load(0, 8192).axons == 3 * 81


def test_shared_kernels_of_groups():
    """2 groups of 64 channels, each from 3 source channels: 12 axons of 64 weights a group."""
    wiring = wire(conv("a", np.full((128, 3, 2, 2), 127), groups=2), (6, 9, 9), shared_kernels=True)
    assert [wiring.load(0, stop).words for stop in (64, 65, 128, 8192)] == [108, 120, 216, 216]
