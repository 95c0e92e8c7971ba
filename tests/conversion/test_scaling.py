"""The integer scale: as large as the format allows, with thresholds m·2^e that are never rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.quantise.rounding import round_population
from nctool.conversion.quantise.rounding_error import weight_errors
from nctool.errors import RangeError, UsageError
from nctool.ir.network import Readout
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from tests.support.networks import seeds
from tests.support.scales import choose_scale, thresholds


def population(weight, bias=0.0, threshold: float | None = 1.0) -> FloatPopulation:
    weight = np.asarray(weight, np.float64)
    bias = np.broadcast_to(np.asarray(bias, np.float64), len(weight)).copy()
    synapse = FloatSynapse("fc", "input", weight.shape[1:], weight, bias, None)
    return FloatPopulation("fc", bias.shape, (synapse,), thresholds(threshold, len(bias)))


def drawn(seed: int, threshold: float | None = None) -> FloatPopulation:
    rng = np.random.default_rng(seed)
    out, fan_in = rng.integers(1, 12, 2)
    weight = rng.normal(size=(out, fan_in)) * rng.lognormal(0, 1, (out, 1))
    weight[rng.random(out) < 0.2] = 0
    bias = rng.normal(size=out) * (rng.random(out) < 0.8)
    return population(weight, bias, threshold)


# --- by hand ------------------------------------------------------------


def test_weights_fill_their_bits_when_the_threshold_allows():
    scale = choose_scale(population([[0.5, -1.0]], threshold=1.0), AUTAPSE_FORMAT)
    assert scale.threshold.tolist() == [127]  # weight 1 may become 127, so may the threshold
    assert scale.per_channel.tolist() == [127.0]
    rounded = round_population(population([[0.5, -1.0]], threshold=1.0), scale, AUTAPSE_FORMAT, 4)
    assert rounded.synapses[0].weight.tolist() == [[64, -127]]  # 63.5 rounds to even
    assert rounded.neuron.initial.tolist() == [63]


def test_a_large_threshold_takes_an_exponent():
    scale = choose_scale(population([[1.0]], threshold=10.0), AUTAPSE_FORMAT)
    assert scale.threshold.tolist() == [79 * 16]  # 1270 = 79.4 · 16
    assert scale.per_channel.tolist() == [126.4]


def test_the_largest_threshold_bounds_the_scale():
    scale = choose_scale(population([[1e-6]], threshold=1.0), AUTAPSE_FORMAT)
    assert scale.threshold.tolist() == [127 * 128]


def test_a_bias_bounds_the_scale():
    scale = choose_scale(population([[1e-3]], bias=-16.32, threshold=None), AUTAPSE_FORMAT)
    assert scale.per_channel.tolist() == [1000.0]
    assert round_population(
        population([[1e-3]], bias=-16.32, threshold=None), scale, AUTAPSE_FORMAT, 1
    ).bias.tolist() == [-16320]


def test_one_scale_serves_all_logits():
    scale = choose_scale(population([[1.0], [0.25]], threshold=None), AUTAPSE_FORMAT)
    assert scale.per_channel.tolist() == [127.0, 127.0]
    assert scale.threshold is None
    rounded = round_population(population([[1.0], [0.25]], threshold=None), scale, AUTAPSE_FORMAT, 4)
    assert rounded.neuron == Readout(1 / (127 * 4))
    assert rounded.synapses[0].weight.tolist() == [[127], [32]]


@pytest.mark.parametrize("threshold", [1.0, None])
def test_a_channel_without_weights_gets_a_finite_scale(threshold):
    scale = choose_scale(population([[0.0, 0.0]], threshold=threshold), AUTAPSE_FORMAT)
    assert scale.per_channel.tolist() == [1.0 if threshold is None else 127.0 * 128]


def test_the_smallest_numbers_do_not_warn():
    assert choose_scale(population([[5e-324]], bias=5e-324), AUTAPSE_FORMAT).threshold.tolist() == [127 * 128]


def test_a_ceiling_lowers_the_scale_of_its_channel():
    two = population([[1.0], [1.0]])
    assert choose_scale(two, AUTAPSE_FORMAT, np.array([np.inf, 20.9])).threshold.tolist() == [127, 20]
    readout = choose_scale(replace(two, threshold=None), AUTAPSE_FORMAT, np.array([np.inf, 20.9]))
    assert readout.per_channel.tolist() == [20.9, 20.9]


def test_weight_error_is_relative_to_the_largest_weight_of_the_channel():
    def errors(real, scale):
        return weight_errors(real, scale, round_population(real, scale, AUTAPSE_FORMAT, 1))

    real = population([[2.0, 1.0]])
    scale = choose_scale(real, AUTAPSE_FORMAT)  # 63.5 and a threshold of 63: weights 126 and 63
    assert errors(real, scale) == (0,)
    off = replace(scale, per_channel=np.array([60.25]))  # 120.5 and 60.25 become 120 and 60
    assert errors(real, off) == (pytest.approx(0.5 / 120.5),)
    assert errors(population([[0.0, 0.0]]), scale) == (0,)
    two = population([[2.0, 1.0], [1.0, 0.5]])
    coarse = replace(choose_scale(two, AUTAPSE_FORMAT), per_channel=np.array([60.25, 10.3]))
    assert errors(two, coarse) == (pytest.approx(0.3 / 10.3),)  # 10.3 and 5.15 become 10 and 5: the worst of the layer


def test_weights_far_larger_than_the_threshold_are_refused():
    with pytest.raises(RangeError) as caught:
        choose_scale(population([[0.1], [1.0]], threshold=0.001), AUTAPSE_FORMAT)
    assert str(caught.value) == (
        "population `fc`: channel 1 would need a threshold of 0.127 units, allowed >= 1\n"
        "hint: its weights are far larger than its threshold: train with weight decay"
    )
    with pytest.raises(RangeError) as caught:
        choose_scale(population([[1.0]], threshold=0.001), replace(AUTAPSE_FORMAT, weight_bits=7))
    assert caught.value.hint == (
        "its weights are far larger than its threshold: train with weight decay, or use more --weight-bits"
    )


def test_a_threshold_of_one_unit_is_accepted():
    assert choose_scale(population([[127.0]]), AUTAPSE_FORMAT).threshold.tolist() == [1]


# --- laws ---------------------------------------------------------------


@given(seeds, st.integers(2, 8), st.floats(0.5, 50))
def test_every_number_fits_the_format(seed, bits, threshold):
    real, number_format = drawn(seed, threshold), replace(AUTAPSE_FORMAT, weight_bits=bits)
    try:
        scale = choose_scale(real, number_format)
    except RangeError:
        assert (real.synapses[0].largest > (2 ** (bits - 1) - 1) * threshold).any()
        return
    rounded = round_population(real, scale, number_format, 1)
    values = rounded.neuron.threshold
    assert np.abs(rounded.synapses[0].weight).max() <= 2 ** (bits - 1) - 1
    assert np.abs(rounded.bias).max() <= number_format.bias_max
    assert any((values % 2**e == 0).all() and (values >> e).max() <= 127 for e in range(8))
    assert values.min() >= 1
    np.testing.assert_array_equal(rounded.neuron.initial, values // 2)
    np.testing.assert_allclose(scale.per_channel * threshold, values, rtol=1e-15)


@given(seeds, st.integers(2, 8))
def test_a_readout_fills_the_bits(seed, bits):
    real = population(drawn(seed).synapses[0].weight, threshold=None)
    number_format = replace(AUTAPSE_FORMAT, weight_bits=bits)
    weight = round_population(real, choose_scale(real, number_format), number_format, 1).synapses[0].weight
    assert np.abs(weight).max() == (number_format.weight_max if real.synapses[0].weight.any() else 0)


# --- the format ---------------------------------------------------------


@pytest.mark.parametrize(("bits", "most"), [(2, 1), (3, 3), (7, 63), (8, 127)])
def test_weight_bits_are_symmetric(bits, most):
    assert IntegerFormat(bits, 127, 7, 16320).weight_max == most


@pytest.mark.parametrize("bits", [1, 9])
def test_weight_bits_out_of_range_are_refused(bits):
    with pytest.raises(UsageError) as caught:
        IntegerFormat(bits, 127, 7, 16320)
    assert str(caught.value).splitlines()[0] == f"weight bits: {bits} is out of range, allowed 2..8"
