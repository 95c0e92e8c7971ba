"""Bounds hold for every input (rule O1): hand-worked numbers, and laws over random networks and pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.ir.bounds import Range, drive_interval, prove, prove_population, with_bounds
from nctool.ir.network import Bound, InputEncoding, IntegrateFire, IntNetwork
from nctool.reference.simulate import simulate
from tests.support.networks import (
    conv,
    dense,
    fire,
    measured,
    random_enlarged,
    random_network,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)

BINARY = signed_input(1)  # not read: what is proved of a spiking source needs no encoding


def table(*ranges: tuple[int, int]) -> np.ndarray:
    return np.array([np.linspace(low, high, 256).round() for low, high in ranges]).astype(np.int8)


def proved(population, n_steps: int, encoding: InputEncoding = BINARY) -> tuple[list[int], list[int]]:
    found = prove_population(population, encoding, n_steps)
    return found.low.tolist(), found.high.tolist()


def zero_reset(network: IntNetwork) -> IntNetwork:
    return replace(
        network,
        populations=tuple(
            replace(p, neuron=replace(p.neuron, reset="zero")) if isinstance(p.neuron, IntegrateFire) else p
            for p in network.populations
        ),
    )


def with_skip(network: IntNetwork) -> IntNetwork:
    """Let the readout also see the input."""
    weight = np.arange(np.prod(network.input.shape) * network.readout.n_neurons).reshape(network.readout.n_neurons, -1)
    skipping = replace(network.readout, synapses=(*network.readout.synapses, dense("input", weight % 7 - 3, 2)))
    return replace(network, populations=(*network.populations[:-1], skipping))


@given(
    seeds,
    st.sampled_from([lambda network: network, zero_reset, with_skip]),
    st.sampled_from([random_network, random_enlarged]),
)
def test_accumulated_input_stays_within_the_proved_range(seed, change, draw):
    network = change(draw(seed))
    trace = simulate(network, random_pixels(network, 8, seed), potentials=True)
    for population in network.populations:
        found = prove_population(population, network.input, network.n_steps)
        neuron = population.neuron
        start = population.per_neuron(neuron.initial) if isinstance(neuron, IntegrateFire) else 0
        seen = measured(trace.potentials[population.name] - start)
        assert (found.low <= seen.low).all(), population.name
        assert (seen.high <= found.high).all(), population.name


@given(seeds)
def test_the_proved_range_of_one_dense_layer_is_reached(seed):
    rng = np.random.default_rng(seed)
    encoding = InputEncoding((5,), table(*[(-int(rng.integers(128)), int(rng.integers(128))) for _ in range(5)]))
    weight = rng.integers(-128, 128, (1, 5))
    network = IntNetwork(encoding, (read_out(dense("input", weight), bias=3),), 2)
    found = prove(network)["out"]
    largest = simulate(network, np.where(weight > 0, 255, 0).astype(np.uint8)).logits[0, -1]
    smallest = simulate(network, np.where(weight > 0, 0, 255).astype(np.uint8)).logits[0, -1]
    assert (found.low.tolist(), found.high.tolist()) == ([min(0, *smallest)], [max(0, *largest)])


def test_a_spiking_neuron_by_hand():
    """Drive -1..4 a step; from 2 to 1..6, firing leaves 0..4, then -1..8: -3..6 off the start."""
    neuron = fire("a", dense("s", [[3, -2]]), threshold=5, initial=2, bias=1)
    assert proved(neuron, 1) == ([-1], [4])
    assert proved(neuron, 2) == ([-3], [6])


@pytest.mark.parametrize(("reset", "high"), [("subtract", 25), ("zero", 20)])
def test_a_neuron_that_always_fires_by_hand(reset, high):
    """From -5 to 10; subtract leaves 5 and reaches 20, zero leaves 0 and reaches 15: 25 and 20 off the start."""
    neuron = fire("a", dense("s", [[0]]), threshold=5, initial=-5, bias=15, reset=reset)
    assert proved(neuron, 2) == ([0], [high])


def test_a_neuron_that_never_fires_by_hand():
    assert proved(fire("a", dense("s", [[0]]), threshold=100, bias=-7), 3) == ([-21], [0])


def test_a_readout_adds_up_by_hand():
    assert proved(read_out(dense("s", [[3, -2], [0, 1]]), bias=[1, -1]), 3) == ([-3, -3], [12, 0])


def test_the_range_holds_zero():
    """Low and high start from 0: the empty window counts."""
    assert proved(read_out(dense("s", [[0]]), bias=5), 2) == ([0], [10])


def test_graded_input_is_bounded_by_its_table_by_hand():
    encoding = InputEncoding((2,), table((-10, 20), (5, 7)))
    assert proved(read_out(dense("input", [[1, -1]], exponent=1)), 1, encoding) == ([-34], [40])


def test_graded_image_into_a_dense_layer_takes_the_table_of_each_channel():
    encoding = InputEncoding((2, 1, 2), table((0, 3), (0, 5)))
    assert proved(read_out(dense("input", [[1, 10, 100, 1000]])), 1, encoding) == ([0], [33 + 5500])


def test_each_group_of_a_convolution_takes_its_own_channels():
    encoding = InputEncoding((4, 1, 1), table((0, 1), (-2, 0), (0, 3), (-4, 0)))
    population = fire(
        "c", conv("input", np.array([[1, 10], [100, 1000]]).reshape(2, 2, 1, 1), groups=2), shape=(2, 1, 1)
    )
    assert proved(population, 1, encoding) == ([-20, -4000], [1, 300])


def test_taps_that_never_see_neurons_at_the_same_time_do_not_add_up():
    """Two columns apart, taps 1 and 3 see neurons where 2 and 4 see zeros, and the other way round."""
    encoding = InputEncoding((1, 1, 3), table((-1, 2)))
    synapse = conv("input", np.array([1, 10, 100, -1000]).reshape(1, 1, 1, 4), input_dilation=(1, 2))
    assert proved(fire("c", synapse, threshold=5000, shape=(1, 1, 2)), 1, encoding) == ([-2010], [1020])


def test_drives_of_all_synapses_add_up():
    population = read_out(dense("a", [[2]]), dense("b", [[-3]], exponent=2), bias=1)
    low, high = drive_interval(population, BINARY)
    assert (low.tolist(), high.tolist()) == ([-11], [3])


def test_a_bound_is_the_widened_range_of_all_channels():
    found = Range(np.array([-3, 0]), np.array([1, 5]))
    assert found.magnitude.tolist() == [3, 5]
    assert found.bound("proved") == Bound("proved", -3, 5, 1.0)
    assert found.bound("calibrated", 1.5) == Bound("calibrated", -5, 8, 1.5)


@given(seeds)
def test_bounds_are_set_without_another_change(seed):
    network = random_network(seed)
    bounds = {p.name: Bound("calibrated", -i, i, 1.5) for i, p in enumerate(network.populations)}
    changed = with_bounds(network, bounds)
    assert [p.bound for p in changed.populations] == list(bounds.values())
    assert with_bounds(changed, {p.name: p.bound for p in network.populations}) == network
