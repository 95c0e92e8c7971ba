"""The receptive field holds exactly the source neurons that drive a neuron, each with its weight."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nctool.ir.network import Shape, Synapse
from nctool.ir.receptive_field import receptive_field
from nctool.reference.synapses import synaptic_input
from tests.support.networks import conv, dense, random_enlarged, random_network, seeds


def responses(synapse: Synapse, source: Shape) -> np.ndarray:
    """Return what one spike of each source neuron drives, (source neurons, *driven shape), exponent left out."""
    n_sources = int(np.prod(source))
    spikes = np.eye(n_sources, dtype=np.int64).reshape(n_sources, 1, *source)
    return synaptic_input(synapse, spikes, 1)[:, 0] >> synapse.exponent


def scattered(synapse: Synapse, source: Shape, neuron: tuple[int, ...]) -> np.ndarray:
    """Return the receptive field as one weight per source neuron, (source neurons,)."""
    field = receptive_field(synapse, source, neuron)
    weights = np.zeros(source, np.int64)
    weights[field.index] = field.weight
    assert len({field.neuron(k) for k in range(len(field.weight))}) == len(field.weight)
    return weights.reshape(-1)


@given(seeds, st.sampled_from([random_network, random_enlarged]))
def test_it_is_what_single_spikes_drive(seed, draw):
    """Dense, strided, dilated, grouped, padded, spread: each weight stands where a spike of that source arrives."""
    network = draw(seed)
    rng = np.random.default_rng(seed)
    for population in network.populations:
        synapse = population.synapses[0]
        source = network.shapes[synapse.source]
        expected = responses(synapse, source)
        for _ in range(5):
            neuron = tuple(int(rng.integers(size)) for size in population.shape)
            np.testing.assert_array_equal(scattered(synapse, source, neuron), expected[(slice(None), *neuron)])


def test_a_corner_of_a_padded_strided_dilated_grouped_convolution():
    """Kernel 2x3, stride (2, 1), padding (1, 1), dilation (1, 2), 2 groups of 2 channels; worked out by hand."""
    weight = np.arange(4 * 2 * 2 * 3).reshape(4, 2, 2, 3)
    synapse = conv("input", weight, stride=(2, 1), padding=(1, 1), dilation=(1, 2), groups=2)
    field = receptive_field(synapse, (4, 3, 5), (2, 0, 0))  # group 1: channels 2 and 3; row 0; columns 1 and 3
    assert [field.neuron(k) for k in range(4)] == [(2, 0, 1), (2, 0, 3), (3, 0, 1), (3, 0, 3)]
    assert field.weight.tolist() == [2 * 12 + 4, 2 * 12 + 5, 2 * 12 + 10, 2 * 12 + 11]


def test_a_dense_neuron_sees_the_whole_source_in_channel_height_width_order():
    field = receptive_field(dense("a", [[1, 2, 3, 4], [5, 6, 7, 8]]), (2, 1, 2), (1,))
    assert [field.neuron(k) for k in range(4)] == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    assert field.weight.tolist() == [5, 6, 7, 8]


def test_a_neuron_that_sees_only_padding_has_an_empty_field():
    field = receptive_field(conv("input", np.ones((1, 1, 1, 1)), padding=(1, 1)), (1, 2, 2), (0, 0, 0))
    assert len(field.weight) == 0


def test_delays_reach_back_in_time_and_nothing_arrives_from_before_it():
    """Weights 1, 2, 3 with delays 0, 2, 2 and exponent -1: 1 / 2 and (2 + 3) / 2 are rounded each on its own."""
    synapse = Synapse("a", np.array([[1, 2, 3]]), exponent=-1, delay=np.array([[0, 2, 2]]))
    field = receptive_field(synapse, (3,), (0,))
    signal = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1]])
    assert [field.arriving(signal, at).tolist() for at in range(3)] == [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert [field.weighted(field.arriving(signal, at)) for at in range(3)] == [0, 0, 0 + 2]
    assert [field.contribution(k, 1) for k in range(3)] == [0.5, 1, 1.5]
    assert field.weighted(np.array([-1, 0, 0])) == -1
