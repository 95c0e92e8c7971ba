"""The registers of the autapse (rules R1 to R4): by hand, as a law, and every limit from both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.ir.network import Population
from nctool.reference.simulate import run_population
from nctool_deploy.backends.autapse import Autapse, AutapseRegisters, self_exponent
from nctool_deploy.backends.bias_sources import BIAS_LIMIT, BiasSource, bias_exponents, split_bias
from tests.support.networks import dense, fire, random_network, read_out, seeds


def neurons(threshold, initial=0, bias=0) -> Population:
    channels = np.size(threshold) if np.size(threshold) > 1 else max(np.size(initial), np.size(bias))
    return fire("a", dense("s", np.ones((channels, 1))), threshold=threshold, initial=initial, bias=bias)


registers = Autapse().registers


def refusal(population: Population) -> str:
    return "\n".join(str(error) for error in Autapse().violations(population))


# --- by hand ------------------------------------------------------------


def test_R1_registers_by_hand():
    """Gaps 10 - 4 = 6, 20 - 10 = 10, 4 - 0 = 4: V = 7, so the constants are 1, -3, 3."""
    found = registers(neurons([10, 20, 4], [4, 10, 0]))
    assert found == AutapseRegisters(6, np.array([1, -3, 3]), np.array([-10, -20, -4]), 0, ())


@pytest.mark.parametrize(("threshold", "constants"), [([1], [0]), ([1, 2], [0, -1]), ([2, 1, 1], [-1, 0, 0])])
def test_R1_V_is_at_least_one(threshold, constants):
    """The least gap is 1: of a neuron that starts one below its threshold."""
    found = registers(neurons(threshold))
    assert (found.threshold_mantissa, found.bias_mantissa.tolist()) == (0, constants)


@pytest.mark.parametrize("initial", [1, 2])
def test_R1_no_neuron_starts_at_its_threshold(initial):
    assert (
        refusal(neurons([1, 9], [initial, 0]))
        == "population `a`: an initial potential reaches its threshold, allowed below it"
    )


def test_R2_self_weights_share_the_smallest_exponent():
    found = registers(neurons([128, 254]))
    assert (found.self_weight.tolist(), found.self_exponent) == ([-64, -127], 1)


def test_R3_no_source_one_source_two_sources():
    assert split_bias(np.array([0, 0])) == ()
    assert split_bias(np.array([127, -127])) == (BiasSource(np.array([127, -127]), 0),)
    assert split_bias(np.array([128, -1])) == (
        BiasSource(np.array([1, 0]), 7),
        BiasSource(np.array([0, -1]), 0),
    )


def test_R4_a_readout_never_reaches_its_threshold():
    found = registers(read_out(dense("s", [[1], [1]]), bias=[3, -4]))
    assert found == AutapseRegisters(131071, np.array([0, 0]), None, 0, (BiasSource(np.array([3, -4]), 0),))


def test_registers_with_other_numbers_are_not_equal():
    one = registers(neurons([10, 20], bias=[1, 2]))
    assert one != replace(one, self_weight=one.self_weight + 1)
    assert one != replace(one, bias_sources=())


# --- laws ---------------------------------------------------------------


def run_registers(values: AutapseRegisters, drive: np.ndarray) -> np.ndarray:
    """Step u, v and the comparison of a stock LIF with these registers; drive (steps, channels) without bias."""
    bias = sum((part.weight << part.exponent for part in values.bias_sources), np.zeros_like(values.bias_mantissa))
    u, late, spikes = np.zeros_like(values.bias_mantissa), 0, []
    for step in drive:
        u = u + step + bias + late
        spikes.append(u + values.bias_mantissa > values.threshold_mantissa)
        late = (values.self_weight << values.self_exponent) * spikes[-1]
    return np.array(spikes)


@given(seeds)
def test_R1_to_R3_the_registers_fire_like_the_neuron(seed):
    rng = np.random.default_rng(seed)
    for population in random_network(seed).populations[:-1]:
        channels = population.shape[0]
        flat = replace(population, shape=(channels,), synapses=(dense("s", np.eye(channels)),))
        limit = int(population.neuron.threshold.max()) * 2
        drive = rng.integers(-limit, limit + 1, (12, channels))
        expected = run_population(flat, {"s": drive[np.newaxis]}, 12).spikes[0]
        np.testing.assert_array_equal(run_registers(registers(population), drive), expected)


@given(st.lists(st.integers(-BIAS_LIMIT, BIAS_LIMIT), min_size=1, max_size=8))
def test_R3_every_bias_is_rebuilt_exactly(bias):
    assert_split_exactly(np.array(bias))


def test_R3_the_whole_range_is_rebuilt_exactly():
    assert_split_exactly(np.arange(-BIAS_LIMIT, BIAS_LIMIT + 1))


def assert_split_exactly(bias: np.ndarray) -> None:
    sources = split_bias(bias)
    np.testing.assert_array_equal(sum((s.weight << s.exponent for s in sources), np.zeros_like(bias)), bias)
    assert tuple(s.exponent for s in sources) == bias_exponents(bias)
    assert [s.exponent for s in sources] == {0: [], 1: [0], 2: [7, 0]}[len(sources)]
    for source in sources:
        assert -128 <= source.weight.min() <= source.weight.max() <= 127


@given(st.integers(0, 7), st.lists(st.integers(1, 127), min_size=1, max_size=5))
def test_R2_every_threshold_of_the_form_is_accepted(exponent, mantissas):
    threshold = np.array(mantissas) << exponent
    found = self_exponent(threshold)
    assert found <= exponent
    np.testing.assert_array_equal((threshold >> found) << found, threshold)
    assert (threshold >> found).max() <= 127


# --- limits from both sides ---------------------------------------------


@pytest.mark.parametrize(("threshold", "exponent"), [([127], 0), ([254, 2], 1), ([127 * 128, 128], 7)])
def test_R2_thresholds_that_fit(threshold, exponent):
    assert registers(neurons(threshold, np.array(threshold) // 2)).self_exponent == exponent


@pytest.mark.parametrize(
    ("threshold", "bad", "exponent"),
    [([129], 129, 1), ([254, 1], 1, 1), ([127 * 128 + 128], 128 * 128, 7), ([16257], 16257, 7)],
)
def test_R2_thresholds_that_do_not_fit(threshold, bad, exponent):
    assert refusal(neurons(threshold, np.array(threshold) // 2)) == (
        f"population `a`: threshold {bad} is no synaptic weight m * 2**e with one e <= 7 for the layer, "
        f"allowed m 1..127 (here e = {exponent})\nhint: convert with nctool, which rounds thresholds to that form"
    )


@pytest.mark.parametrize("bias", [16320, -16320])
def test_R3_the_largest_bias_fits(bias):
    assert len(registers(neurons([1, 1], bias=[0, bias])).bias_sources) == 2


@pytest.mark.parametrize("bias", [16321, -16321])
def test_R3_a_larger_bias_does_not_fit(bias):
    assert refusal(neurons([1, 1], bias=[0, bias])) == (
        f"population `a`: bias {bias} does not fit two always-on sources, allowed -16320..16320\n"
        "hint: use fewer --weight-bits, which lowers the biases"
    )


@pytest.mark.parametrize("order", [1, -1])
def test_R1_the_widest_spread_fits(order):
    found = registers(neurons([2, 2], np.array([1, 1 - 8191])[::order]))  # gaps 1 and 8192
    assert sorted(found.bias_mantissa.tolist()) == [-4096, 4095]


@pytest.mark.parametrize("order", [1, -1])
def test_R1_a_wider_spread_does_not_fit(order):
    assert refusal(neurons([2, 2], np.array([1, 1 - 8192])[::order])) == (
        "population `a`: thresholds spread over 1..8193 above the initial potential need bias mantissas -4096..4096, "
        "allowed -4096..4095\nhint: use fewer --weight-bits, which lowers the thresholds"
    )


def test_R1_the_lowest_initial_potential_fits():
    assert registers(neurons([2], [2 - 131072])).threshold_mantissa == 131071


def test_R1_a_lower_initial_potential_does_not_fit():
    assert refusal(neurons([2], [2 - 131073])) == (
        "population `a`: an initial potential 131073 below its threshold needs a threshold register of 131072, "
        "allowed 0..131071"
    )


def test_all_that_does_not_fit_is_listed():
    errors = Autapse().violations(neurons([129, 1], [129 - 140000, 0], bias=[16321, 0]))
    assert [error.message for error in errors] == [
        "population `a`: bias 16321 does not fit two always-on sources, allowed -16320..16320",
        "population `a`: threshold 129 is no synaptic weight m * 2**e with one e <= 7 for the layer, "
        "allowed m 1..127 (here e = 1)",
        "population `a`: thresholds spread over 1..140000 above the initial potential need bias mantissas "
        "-70000..69999, allowed -4096..4095",
    ]
    assert [error.hint for error in errors] == [
        "use fewer --weight-bits, which lowers the biases",
        "convert with nctool, which rounds thresholds to that form",
        "use fewer --weight-bits, which lowers the thresholds",
    ]
