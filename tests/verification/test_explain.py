"""The neighbourhood of a divergence holds what drove the neuron, and what the rules make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given

from nctool.ir.arrays import StructuralEquality
from nctool.ir.network import INPUT_NAME, IntArray, IntegerInput, IntegrateFire, IntNetwork
from nctool.ir.population import Neuron
from nctool.reference.neurons import after_reset
from nctool.reference.simulate import input_signal, run_population, simulate
from nctool.reference.synapses import registered_input
from nctool.reference.trace import Trace
from nctool.verification.explain import MAX_INPUTS, Input, Neighbourhood, Place, Side, explain
from nctool_deploy.foreign import ForeignOptions, read_foreign
from tests.support.foreign import random_case
from tests.support.networks import (
    as_pixels,
    conv,
    dense,
    fire,
    random_graded,
    random_network,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)

NAMES = ("reference", "lava")


def two_layers() -> IntNetwork:
    """Three inputs, two neurons in `a`, one in `b` that also sees the input, two logits."""
    first = fire("a", dense("input", [[5, 0, -2], [3, 3, 0]]), threshold=[10, 6], initial=[5, 0], bias=[1, 0])
    second = fire("b", dense("a", [[4, -3]], exponent=1), dense("input", [[0, 0, 1]]), threshold=8, reset="zero")
    return IntNetwork(signed_input(3), (first, second, read_out(dense("b", [[7], [-7]]), bias=[0, 2])), 3)


PIXELS = as_pixels([[1, 2, -1]])


def flipped(trace: Trace, layer: str, place: tuple[int, ...]) -> Trace:
    spikes = trace.spikes[layer].copy()
    spikes[place] ^= True
    return replace(trace, spikes={**trace.spikes, layer: spikes})


def test_a_spike_worked_out_by_hand():
    """`a` gets 8 and 9 a step: a0 is at 13, 11, 9 before fire, a1 at 9, 12, 15. `b` gets 8 - 6 - 1 at steps 1 and 2."""
    network = two_layers()
    expected = simulate(network, PIXELS, potentials=True)
    assert expected.spikes["a"].tolist() == [[[True, True], [True, True], [False, True]]]
    actual = replace(flipped(expected, "b", (0, 1, 0)), potentials={})
    assert explain(network, PIXELS, Place("b", "spike", 2, (0,)), (expected, actual), NAMES) == Neighbourhood(
        kind="integrate-and-fire",
        parameters={"threshold": 8, "initial": 0, "reset": "zero"},
        bias=0,
        drive=(1, 1),
        rules=Side("rules", (0, 0), (1, 2)),
        expected=Side("reference", (0, 0), (1, 2)),
        actual=Side("lava", (0, 1), None),
        inputs=(
            Input("a", (0,), 1, 4, 8, True),
            Input("a", (1,), 1, -3, -6, True),
            Input("input", (2,), -1, 1, -1, True),
            Input("input", (0,), 1, 0, 0, True),
            Input("input", (1,), 2, 0, 0, True),
        ),
        more_inputs=0,
        more_contribution=0,
        inputs_agree=True,
    )


def test_a_logit_worked_out_by_hand():
    network = two_layers()
    expected = simulate(network, PIXELS)
    assert expected.logits[0, :, 1].tolist() == [2, 4, 6]
    actual = replace(expected, logits=expected.logits + 9)
    found = explain(network, PIXELS, Place("out", "logit", 3, (1,)), (expected, actual), NAMES)
    assert (found.kind, found.parameters, found.bias) == ("readout", {"scale": 1.0}, 2)
    assert (found.drive, found.inputs) == ((2, 2, 2), ())
    assert found.rules == Side("rules", (2, 4, 6), (2, 4, 6))
    assert found.expected == Side("reference", (2, 4, 6), (2, 4, 6))
    assert found.actual == Side("lava", (11, 13, 15), (11, 13, 15))


@given(seeds)
def test_it_explains_any_neuron_of_any_network(seed):
    """The drive moves the potential from step to step, the inputs add up to it, and the rules give the trace."""
    network = random_network(seed)
    rng = np.random.default_rng(seed)
    population = network.populations[int(rng.integers(len(network.populations)))]
    step = int(rng.integers(1, network.n_steps + 1))
    neuron = tuple(int(rng.integers(size)) for size in population.shape)
    pixels = random_pixels(network, 1, seed)
    trace = simulate(network, pixels, potentials=True)
    quantity = "logit" if population is network.readout else "spike"
    found = explain(network, pixels, Place(population.name, quantity, step, neuron), (trace, trace), NAMES)

    listed = [each.contribution for each in found.inputs]
    assert listed == sorted(listed, key=lambda value: -abs(value))
    assert len(listed) == MAX_INPUTS or found.more_inputs == found.more_contribution == 0
    assert sum(listed) + found.more_contribution + found.bias == found.drive[-1]
    assert found.inputs_agree and all(each.agreed for each in found.inputs)
    assert found.rules is not None
    assert replace(found.rules, name="reference") == found.expected == replace(found.actual, name="reference")
    assert len(found.drive) == len(found.expected.values) == step

    potential, spiking = 0, isinstance(population.neuron, IntegrateFire)
    if isinstance(population.neuron, IntegrateFire):
        potential = int(population.neuron.initial[neuron[0]])
    for drive, after, fires in zip(found.drive, found.rules.potentials, found.rules.values, strict=True):
        assert potential + drive == after
        threshold = found.parameters["threshold"] if spiking else 0
        potential = (
            int(after_reset(np.array(after), np.array(threshold), np.array(fires), "subtract")) if spiking else after
        )


@given(seeds)
def test_it_explains_graded_neurons(seed):
    """Each synapse rounds its sum on its own, so the listed contributions may exceed the drive by one each."""
    network, rng = random_graded(seed), np.random.default_rng(seed)
    population = network.populations[int(rng.integers(len(network.populations)))]
    neuron = tuple(int(rng.integers(size)) for size in population.shape)
    pixels = random_pixels(network, 1, seed)
    trace = simulate(network, pixels, potentials=True)
    quantity = "logit" if population is network.readout else "spike"
    found = explain(network, pixels, Place(population.name, quantity, 1, neuron), (trace, trace), NAMES)
    potential = int(trace.potentials[population.name][(0, 0, *neuron)])
    assert found.drive == (potential,)
    assert found.rules == Side("rules", found.expected.values, (potential,))
    assert found.kind == ("readout" if population is network.readout else "graded")
    listed = sum(each.contribution for each in found.inputs) + found.more_contribution + found.bias
    assert 0 <= listed - potential < len(population.synapses)


def drives(network: IntNetwork, samples: np.ndarray) -> dict[str, np.ndarray]:
    """Return the drive of every population at steps 1, 2, ..., by the whole network run from before step 1."""
    total = network.latency + network.n_steps
    signals, found = {INPUT_NAME: input_signal(network, samples, network.n_steps)}, {}
    for population in network.populations:
        spikes = run_population(population, signals, total, network.latency).spikes.astype(np.int64)
        late = np.concatenate([np.zeros_like(spikes[:, :1]), spikes[:, :-1]], axis=1)
        signals[population.name] = late  # what it sends to itself
        weighted = [registered_input(s, signals[s.source], total)[0][0] for s in population.synapses]
        bias = population.per_neuron(population.bias) + (0 if weighted else signals[INPUT_NAME][0, -1])
        found[population.name] = np.broadcast_to(sum(weighted) + bias, (total, *population.shape))[network.latency :]
        signals[population.name] = spikes
    return found


@given(seeds)
def test_it_explains_current_based_neurons_with_delays_and_a_lead(tmp_path_factory, seed):
    """Networks of other tools: input as bias, roundings of negative exponents, conv and dense, every kind of answer."""
    case = random_case(tmp_path_factory.mktemp("netx") / "foreign.net", seed)
    content = read_foreign(case.path, ForeignOptions(reset_interval=case.reset_interval))
    samples = content.samples(case.samples)
    network = replace(content.network, n_steps=case.n_steps, input=IntegerInput(content.network.input.shape))
    rng = np.random.default_rng(seed)
    population = network.populations[int(rng.integers(len(network.populations)))]
    neuron, step = int(rng.integers(population.n_neurons)), int(rng.integers(1, case.n_steps + 1))
    index = tuple(int(axis) for axis in np.unravel_index(neuron, population.shape))
    trace = simulate(network, samples, potentials=True)
    drive = drives(network, samples)[population.name]

    places = [(Place(population.name, "spike", step, index), trace.spikes[population.name][(0, slice(step), *index)])]
    if population is network.readout:
        places.append((Place(population.name, "logit", step, (neuron,)), trace.logits[0, :step, neuron]))
    for place, values in places:
        found = explain(network, samples, place, (trace, replace(trace, potentials={})), NAMES)
        potentials = tuple(trace.potentials[population.name][(0, slice(step), *index)].tolist())
        assert found.drive == tuple(drive[(slice(step), *index)].tolist())
        assert found.rules == Side("rules", tuple(values.astype(int).tolist()), potentials)
        assert replace(found.expected, name="rules") == found.rules
        assert found.actual.potentials is None and found.inputs_agree
        assert found.kind == "current-based" and "voltage_decay" in found.parameters
        off = sum(each.contribution for each in found.inputs) + found.more_contribution + found.bias - found.drive[-1]
        assert 0 <= off < sum(1 if s.delay is None else s.delay.size for s in population.synapses) + 1


def test_only_the_largest_inputs_are_listed_and_the_rest_is_summed():
    weight = np.arange(1, 31)[np.newaxis]
    network = IntNetwork(signed_input(30), (fire("a", dense("input", weight)), read_out(dense("a", [[1]]))), 1)
    pixels = as_pixels([[1] * 29 + [-1]])
    trace = simulate(network, pixels)
    found = explain(network, pixels, Place("a", "spike", 1, (0,)), (trace, trace), NAMES)
    assert [each.contribution for each in found.inputs] == [-30, *range(29, 14, -1)]
    assert (found.more_inputs, found.more_contribution) == (14, sum(range(1, 15)))


def test_silent_inputs_and_padding_are_no_inputs():
    first = fire("a", conv("input", np.ones((1, 1, 3, 3)), padding=(1, 1)), shape=(1, 2, 2))
    network = IntNetwork(signed_input(1, 2, 2), (first, read_out(dense("a", np.ones((1, 4))))), 1)
    pixels = as_pixels([[[[0, 3], [0, 0]]]])
    trace = simulate(network, pixels)
    found = explain(network, pixels, Place("a", "spike", 1, (0, 1, 0)), (trace, trace), NAMES)
    assert found.inputs == (Input("input", (0, 0, 1), 3, 1, 3, True),)


def test_inputs_on_which_the_sides_do_not_agree_are_marked():
    """This is no first divergence: the layer before differs. It is said, and nothing is taken for granted."""
    network = two_layers()
    expected = simulate(network, PIXELS)
    actual = flipped(expected, "a", (0, 0, 1))
    found = explain(network, PIXELS, Place("b", "spike", 2, (0,)), (expected, actual), NAMES)
    assert not found.inputs_agree
    assert all(each.agreed for each in found.inputs)  # they differ at step 1, not at step 2
    found = explain(network, PIXELS, Place("b", "spike", 1, (0,)), (expected, actual), NAMES)
    assert [each.agreed for each in found.inputs[:2]] == [True, False]


@dataclass(frozen=True, eq=False)
class Leaky(Neuron, StructuralEquality):
    """A neuron that this version does not know."""

    threshold: IntArray
    decay: int
    table: IntArray


def test_a_neuron_of_an_unknown_kind_gets_a_partial_answer():
    network = two_layers()
    trace = simulate(network, PIXELS)
    leaky = Leaky(np.array([8, 9]), 3, np.arange(5))
    first = replace(network.populations[0], neuron=leaky)
    object.__setattr__(network, "populations", (first, *network.populations[1:]))
    found = explain(network, PIXELS, Place("a", "spike", 2, (1,)), (trace, trace), NAMES)
    assert (found.kind, found.parameters, found.rules) == ("Leaky", {"threshold": 9, "decay": 3}, None)
    assert (found.drive, len(found.inputs)) == ((9, 9), 3)


@pytest.mark.parametrize("names", [("fast", "lava"), ("file", "reference")])
def test_the_sides_are_called_by_their_names(names):
    network = two_layers()
    trace = simulate(network, PIXELS)
    found = explain(network, PIXELS, Place("a", "spike", 1, (0,)), (trace, trace), names)
    assert (found.expected.name, found.actual.name) == names
    assert found.expected.potentials is found.actual.potentials is None
    assert found.rules is not None and found.rules.potentials == (13,)
