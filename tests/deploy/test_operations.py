"""What is counted of a run: numbers worked out by hand, and every count against an explicit matrix of connections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nctool.errors import UnsupportedError
from nctool.fast.engine import FastEngine
from nctool.ir.network import INPUT_NAME, IntegerInput, IntNetwork, Population, Synapse
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool_deploy.backends.backend import Backend, find_backend
from nctool_deploy.cost.operations import OperationCounter, Operations, bits_of, fan_out, reached
from nctool_deploy.lava.runner.unrolling import unroll
from nctool_deploy.mapping.wiring import AutapseWiring
from nctool_deploy.pipeline import Schedule
from tests.lava.test_unrolling import random_conv
from tests.support.networks import (
    SPIKING,
    as_pixels,
    conv,
    dense,
    fire,
    fitting_graded,
    graded,
    graded_read_out,
    leaky,
    random_graph,
    random_network,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)

AUTAPSE = find_backend("autapse")
ZERO_RESET = find_backend("zero-reset")
GRADED = find_backend("graded")


def count(network: IntNetwork, backend: Backend, pixels: np.ndarray) -> OperationCounter:
    counter = OperationCounter(network, backend)
    counter.add(pixels, simulate(network, pixels))
    return counter


# --- by hand --------------------------------------------------------------


def two_neurons(bias: int = 0) -> IntNetwork:
    """Two inputs into two neurons of threshold 2; the first reads both, and neuron 0 drives two classes."""
    hidden = fire("hidden", dense(INPUT_NAME, [[1, 0], [0, 1]]), threshold=2, bias=bias)
    return IntNetwork(signed_input(2), (hidden, read_out(dense("hidden", [[1, 1], [1, -1], [0, 0]]))), 3)


def test_autapses_by_hand():
    """Input (1, 0) at three steps: neuron 0 holds 1, 2, 1 and fires at step 2; neuron 1 gets a weight of 0."""
    counter = count(two_neurons(), AUTAPSE, as_pixels([[1, 0]]))
    assert counter.schedule == Schedule(n_steps=3, flush_steps=1, depth=2)
    assert counter.operations == {
        INPUT_NAME: Operations(spikes=3, payload_bits=3 * 2),
        # 3 spikes of the input reach both neurons; the autapse acts at step 3; 6 of 2 * 4 updates are active
        "hidden": Operations(spikes=1, network_operations=6, autapse_operations=1, active_updates=6, idle_updates=2),
        # one spike reaches three classes at step 2, 3 of 3 * 4 updates
        "out": Operations(network_operations=3, active_updates=3, idle_updates=9),
    }


def test_the_last_spike_returns_in_the_flush_step():
    """Input (2, 0): neuron 0 fires at every step, so its autapse acts at steps 2, 3 and in the flush step."""
    counter = count(two_neurons(), AUTAPSE, as_pixels([[2, 0]]))
    assert counter.operations["hidden"] == Operations(
        spikes=3, network_operations=6, autapse_operations=3, active_updates=7, idle_updates=1
    )


def test_an_autapse_alone_makes_an_update_active():
    """The first layer holds 3, 1, 2: it fires at step 1 only. The second fires then, its spike returns at step 2."""
    first = fire("first", dense(INPUT_NAME, [[1]]), threshold=3, initial=2)
    second = fire("second", dense("first", [[1]]))
    network = IntNetwork(signed_input(1), (first, second, read_out(dense("second", [[1]]))), 3)
    counter = count(network, AUTAPSE, as_pixels([[1]]))
    assert counter.operations["second"] == Operations(
        spikes=1, network_operations=1, autapse_operations=1, active_updates=2, idle_updates=2
    )


def test_always_on_sources_by_hand():
    """A bias of 1 and a silent input: both neurons hold 1, 2, 1, fire at step 2, and are active in the window."""
    counter = count(two_neurons(bias=1), AUTAPSE, as_pixels([[0, 0]]))
    assert counter.operations[INPUT_NAME] == Operations()
    assert counter.operations["hidden"] == Operations(
        spikes=2, bias_spikes=3, autapse_operations=2, bias_operations=6, active_updates=6, idle_updates=2
    )


def test_a_large_bias_has_two_sources():
    counter = count(two_neurons(bias=-128), AUTAPSE, as_pixels([[0, 0]]))
    assert counter.operations["hidden"] == Operations(
        bias_spikes=6, bias_operations=12, active_updates=6, idle_updates=2
    )


def test_stock_neurons_have_no_autapse_no_bias_source_and_no_flush_step():
    network = two_neurons(bias=1)
    populations = [replace(p, neuron=replace(p.neuron, reset="zero")) for p in network.populations[:1]]
    counter = count(replace(network, populations=(*populations, network.readout)), ZERO_RESET, as_pixels([[0, 0]]))
    assert counter.schedule == Schedule(n_steps=3, flush_steps=0, depth=2)
    # both fire at step 2 of 3: 2 of 6 updates are active; 2 spikes reach 3 classes
    assert counter.operations["hidden"] == Operations(spikes=2, active_updates=2, idle_updates=4)
    assert counter.operations["out"] == Operations(network_operations=6, active_updates=3, idle_updates=6)


def test_the_border_of_an_image_has_fewer_connections():
    synapse = conv(INPUT_NAME, np.ones((2, 1, 3, 3)), padding=(1, 1))
    corner, edge, centre = 2 * 4, 2 * 6, 2 * 9
    np.testing.assert_array_equal(
        fan_out(synapse, (1, 3, 3)), [[[corner, edge, corner], [edge, centre, edge], [corner, edge, corner]]]
    )


def test_latency_goes_by_the_longest_path():
    """A skip past a layer: the readout waits for the layer."""
    hidden = fire("hidden", dense(INPUT_NAME, [[1]]))
    later = fire("later", dense("hidden", [[1]]))
    network = IntNetwork(signed_input(1), (hidden, later, read_out(dense("hidden", [[1]]), dense("later", [[1]]))), 5)
    counter = OperationCounter(network, AUTAPSE)
    assert (counter.schedule.latency, counter.schedule.period) == (8, 6)


def test_graded_spikes_by_hand():
    """Input (10, -7), 4 + 1 and 3 + 1 bits; `a` sends 44, 6 bits, and nothing; a bias of 300 has two sources."""
    hidden = graded("a", dense(INPUT_NAME, [[3, -2], [1, 4]]))
    network = IntNetwork(signed_input(2), (hidden, graded_read_out(dense("a", [[5, -6]] * 3), bias=300)), 1)
    counter = count(network, GRADED, as_pixels([[10, -7]]))
    assert counter.schedule == Schedule(n_steps=1, flush_steps=0, depth=2)
    assert counter.operations == {
        INPUT_NAME: Operations(spikes=2, payload_bits=9),
        "a": Operations(spikes=1, payload_bits=6, graded_operations=4, active_updates=2),
        "out": Operations(bias_spikes=2, graded_operations=3, bias_operations=6, active_updates=3),
    }
    assert counter.total.synaptic_operations == 13


def test_a_graded_neuron_that_nothing_reaches_is_idle():
    hidden = graded("a", dense(INPUT_NAME, [[-1]]))
    network = IntNetwork(signed_input(1), (hidden, graded_read_out(dense("a", [[1]]))), 1)
    counter = count(network, GRADED, as_pixels([[5], [-5]]))
    assert counter.operations["out"] == Operations(graded_operations=1, active_updates=1, idle_updates=1)


def test_graded_input_carries_bits_in_other_networks_too():
    """(1, -128) at each of 3 steps: 1 and 8 bits, and one each for the sign; its operations are not told apart."""
    counter = count(two_neurons(), AUTAPSE, as_pixels([[1, -128]]))
    assert counter.operations[INPUT_NAME] == Operations(spikes=6, payload_bits=3 * 11)
    assert counter.operations["hidden"].network_operations == 12
    assert counter.total.graded_operations == 0


@pytest.mark.parametrize(("number", "bits"), [(0, 0), (1, 1), (2, 2), (255, 8), (-256, 9), (2**23 - 1, 23)])
def test_the_bits_of_a_number(number, bits):
    assert bits_of(np.array([number], np.int32)) == bits
    assert bits_of(np.array([[number, 3]])) == bits + 2


def test_current_based_neurons_are_refused():
    population = Population("cuba", (1,), leaky(1, 0, 0), np.zeros(1, np.int64), (dense(INPUT_NAME, [[1]]),))
    with pytest.raises(UnsupportedError) as caught:
        OperationCounter(IntNetwork(IntegerInput((1,)), (population,), 1), AUTAPSE)
    assert str(caught.value) == (
        "population `cuba`: the cost of current-based neurons is not counted, allowed integrate-and-fire or graded "
        "neurons\n"
        "hint: leave out --cost; it is for files that nctool exported"
    )


# --- against the matrix of connections ------------------------------------


def matrix_of(synapse: Synapse, source: tuple[int, ...]) -> np.ndarray:
    """Return 1 for each connection, (driven, sending)."""
    ones = np.ones_like(synapse.weight)
    return ones if synapse.conv is None else unroll(ones, synapse.conv, source).toarray()


@given(seeds)
def test_connections_of_a_convolution_are_those_of_the_matrix(seed):
    synapse, source = random_conv(seed)
    matrix = matrix_of(synapse, source)
    np.testing.assert_array_equal(fan_out(synapse, source).reshape(-1), matrix.sum(axis=0))
    spikes = np.random.default_rng(seed).random((2, 3, *source)) < 0.1
    expected = spikes.reshape(6, -1).astype(int) @ matrix.T > 0
    np.testing.assert_array_equal(reached(synapse, spikes).reshape(6, -1), expected)


def by_brute_force(network: IntNetwork, backend: Backend, pixels: np.ndarray, trace: Trace) -> dict[str, Operations]:
    """Step every neuron of every sample, flush steps included, each with a row of connections to all that sends."""
    n_steps = network.n_steps
    period = n_steps + backend.flush_steps
    signal = network.input.signal(pixels, n_steps) != 0
    signal = np.broadcast_to(signal, (len(signal), n_steps, *signal.shape[2:]))
    fires = {name: spikes != 0 for name, spikes in trace.spikes.items()}
    sent = {name: _padded(spikes, period) for name, spikes in {INPUT_NAME: signal, **fires}.items()}
    found = {INPUT_NAME: input_by_brute_force(network, pixels)}
    for population in network.populations:
        n_neurons = population.n_neurons
        fired = sent.get(population.name, np.zeros((len(pixels), period, n_neurons), int))
        wirings = backend.wirings(population)
        has_autapse = any(isinstance(wiring, AutapseWiring) for wiring in wirings)
        n_sources = len(wirings) - has_autapse
        total = Operations()
        for sample in range(len(pixels)):
            for step in range(period):
                network_row = np.zeros(n_neurons, int)
                for synapse in population.synapses:
                    row = matrix_of(synapse, network.shapes[synapse.source])
                    network_row += row @ sent[synapse.source][sample, step]
                returned = fired[sample, step - 1] * (has_autapse and step > 0)
                always_on = np.full(n_neurons, n_sources * (step < n_steps))
                active = (network_row + returned + always_on > 0) | (fired[sample, step] > 0)
                total += Operations(
                    spikes=int(fired[sample, step].sum()),
                    bias_spikes=n_sources * (step < n_steps),
                    **{OPERATIONS[network.is_graded]: int(network_row.sum())},
                    autapse_operations=int(returned.sum()),
                    bias_operations=int(always_on.sum()),
                    active_updates=int(active.sum()),
                    idle_updates=int((~active).sum()),
                )
        if network.is_graded and population.name in trace.spikes:
            total += Operations(payload_bits=sum(len(f"{n:b}") for n in trace.spikes[population.name].flat if n))
        found[population.name] = total
    return found


OPERATIONS = {False: "network_operations", True: "graded_operations"}


def input_by_brute_force(network: IntNetwork, pixels: np.ndarray) -> Operations:
    signal = network.input.signal(pixels, network.n_steps).astype(int)
    numbers = [n for n in np.broadcast_to(signal, (len(signal), network.n_steps, *signal.shape[2:])).flat if n]
    sign = int(network.input.table.min() < 0)
    bits = 0 if network.has_binary_input else sum(len(f"{abs(n):b}") + sign for n in numbers)
    return Operations(spikes=len(numbers), payload_bits=bits)


def _padded(spikes: np.ndarray, period: int) -> np.ndarray:
    flat = spikes.reshape(*spikes.shape[:2], -1).astype(int)
    return np.pad(flat, [(0, 0), (0, period - flat.shape[1]), (0, 0)])


@given(seeds, st.sampled_from(SPIKING), st.booleans(), st.booleans())
def test_every_count_is_the_one_of_a_matrix_of_connections(seed, backend, silent_biases, rate):
    network = random_network(seed, n_steps=backend.steps, rate=rate)
    if silent_biases:
        network = replace(
            network, populations=tuple(replace(p, bias=np.zeros_like(p.bias)) for p in network.populations)
        )
    network = replace(network, input=replace(network.input, table=_often_zero(network.input.table, seed)))
    pixels = random_pixels(network, 3, seed)
    trace = simulate(network, pixels)
    counter = OperationCounter(network, backend)
    counter.add(pixels[:1], _part(trace, slice(0, 1)))
    counter.add(pixels[1:], _part(trace, slice(1, None)))
    assert counter.operations == by_brute_force(network, backend, pixels, trace)
    assert counter.n_samples == 3
    updates = counter.total.active_updates + counter.total.idle_updates
    assert updates == 3 * counter.schedule.period * sum(p.n_neurons for p in network.populations)


def _often_zero(table: np.ndarray, seed: int) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(table.shape) < 0.9, 0, table).astype(table.dtype)


def _part(trace: Trace, part: slice) -> Trace:
    return Trace({name: spikes[part] for name, spikes in trace.spikes.items()}, trace.logits[part], {}, {})


@given(seeds)
def test_branches_add_up(seed):
    """Several synapses into one population, as skip connections make them."""
    network = random_graph(seed)
    pixels = random_pixels(network, 2, seed)
    trace = simulate(network, pixels)
    counter = OperationCounter(network, AUTAPSE)
    counter.add(pixels, trace)
    assert counter.operations == by_brute_force(network, AUTAPSE, pixels, trace)


@settings(max_examples=40)
@given(seeds)
def test_every_count_of_graded_spikes_is_the_one_of_a_matrix_of_connections(seed):
    network = fitting_graded(seed)
    network = replace(network, input=replace(network.input, table=_often_zero(network.input.table, seed)))
    pixels = random_pixels(network, 3, seed)
    trace = simulate(network, pixels)
    counter = OperationCounter(network, GRADED)
    counter.add(pixels[:1], _part(trace, slice(0, 1)))
    counter.add(pixels[1:], _part(trace, slice(1, None)))
    assert counter.operations == by_brute_force(network, GRADED, pixels, trace)


@pytest.mark.parametrize(("network", "backend"), [(random_network(5, conv=True), AUTAPSE), (fitting_graded(4), GRADED)])
def test_the_fast_engine_gives_the_same_counts(network, backend):
    pixels = random_pixels(network, 20)
    expected, found = count(network, backend, pixels), OperationCounter(network, backend)
    for trace in FastEngine(network).traces(pixels):
        found.add(pixels[found.n_samples :][: trace.n_samples], trace)
    assert found.operations == expected.operations
