"""Weight exponents: branches of different size share the scale of a population without giving up bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.quantise.rounding import round_population
from nctool.conversion.quantise.rounding_error import weight_errors
from nctool.conversion.quantise.scales import candidate_exponents, size_ratios
from nctool.errors import RangeError
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from tests.support.networks import seeds
from tests.support.scales import choose_scale, thresholds


def summed(*weights: object, threshold: float | None = 100.0, bias: float = 0.0) -> FloatPopulation:
    """Return a population of one dense branch for each of `weights`, (out, in); each has the bias `bias`."""
    arrays = [np.asarray(weight, np.float64) for weight in weights]
    biases = np.full(len(arrays[0]), bias)
    synapses = (FloatSynapse("fc", "input", w.shape[1:], w, biases, None) for w in arrays)
    return FloatPopulation("sum", biases.shape, tuple(synapses), thresholds(threshold, len(biases)))


# --- by hand ------------------------------------------------------------


def test_a_branch_of_four_times_the_size_takes_an_exponent_of_two():
    """127 and 127·4 at a scale of 126.72, the largest of a threshold m·2^e: 99·128 = 12672."""
    real = summed([[1.0]], [[4.0]], bias=0.25)
    scale = choose_scale(real, AUTAPSE_FORMAT)
    assert (scale.exponents, scale.threshold.tolist()) == ((0, 2), [12672])
    rounded = round_population(real, scale, AUTAPSE_FORMAT, 1)
    assert [(s.weight.tolist(), s.exponent) for s in rounded.synapses] == [([[127]], 0), ([[127]], 2)]
    assert rounded.bias.tolist() == [63]  # 126.72 · (0.25 + 0.25)
    assert weight_errors(real, scale, rounded) == (pytest.approx(0.28 / 126.72), pytest.approx(0.28 / 126.72))


def test_without_exponents_the_smaller_branch_pays():
    number_format = replace(AUTAPSE_FORMAT, weight_exponent_max=0)
    scale = choose_scale(summed([[1.0]], [[4.0]]), number_format)
    assert (scale.exponents, scale.threshold.tolist()) == ((0, 0), [99 * 32])


@pytest.mark.parametrize(
    ("weights", "ratios"),
    [
        (([[1.0]],), [0]),
        (([[1.0]], [[1.0]]), [0, 0]),
        (([[-1.0]], [[4.0]]), [0, 2]),
        (([[1.0]], [[4.1]]), [0, 3]),
        (([[8.0]], [[1.0, 0.5]], [[2.0]]), [3, 0, 1]),
        (([[1.0], [1.0], [1.0]], [[2.0], [4.0], [64.0]]), [0, 2]),  # the median channel
        (([[0.0]], [[4.0]]), [0, 0]),
        (([[0.0], [1.0]], [[4.0], [2.0]]), [0, 1]),  # 4 has nothing beside it: ratios 0 and 1, median 0.5
        (([[5e-324]], [[1.0]]), [0, 1074]),
    ],
)
def test_size_ratios(weights, ratios):
    assert size_ratios(summed(*weights)) == ratios


def test_candidates_go_from_none_to_a_little_more_than_the_ratio():
    assert candidate_exponents(summed([[1.0]]), AUTAPSE_FORMAT) == ((0,),)
    assert candidate_exponents(summed([[1.0]], [[1.0]]), AUTAPSE_FORMAT) == ((0, 0),)
    three = candidate_exponents(summed([[8.0]], [[1.0]], [[2.0]]), AUTAPSE_FORMAT)
    assert three == ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 0, 2), (5, 0, 3))
    far = candidate_exponents(summed([[1e-300]], [[1.0]]), AUTAPSE_FORMAT)
    assert far == tuple((0, exponent) for exponent in range(8))


def test_what_fits_with_an_exponent_only_is_not_refused():
    real = summed([[0.001]], [[2.0]], threshold=0.01)
    with pytest.raises(RangeError):
        choose_scale(real, replace(AUTAPSE_FORMAT, weight_exponent_max=0))
    scale = choose_scale(real, AUTAPSE_FORMAT)
    assert scale.exponents[1] > 0
    assert scale.threshold.min() >= 1


def test_what_does_not_fit_with_any_exponent_is_refused():
    with pytest.raises(RangeError) as caught:
        choose_scale(summed([[1.0]], [[2.0]], threshold=0.001), AUTAPSE_FORMAT)
    assert str(caught.value) == (
        "population `sum`: channel 0 would need a threshold of 0.127 units, allowed >= 1\n"
        "hint: its weights are far larger than its threshold: train with weight decay"
    )


# --- laws ---------------------------------------------------------------


def drawn(seed: int, threshold: float | None) -> FloatPopulation:
    rng = np.random.default_rng(seed)
    out = int(rng.integers(1, 6))
    weights = [
        rng.normal(size=(out, rng.integers(1, 6))) * rng.lognormal(0, 3) * (rng.random((out, 1)) < 0.9)
        for _ in range(rng.integers(1, 4))
    ]
    return summed(*weights, threshold=threshold, bias=float(rng.normal()))


@given(seeds, st.integers(2, 8), st.sampled_from([None, 50.0, 300.0]))
def test_every_branch_fits_and_is_within_half_a_step(seed, bits, threshold):
    real, number_format = drawn(seed, threshold), replace(AUTAPSE_FORMAT, weight_bits=bits)
    try:
        scale = choose_scale(real, number_format)
    except RangeError:
        assert threshold is not None
        return
    rounded = round_population(real, scale, number_format, 1)
    for before, after in zip(real.synapses, rounded.synapses, strict=True):
        assert np.abs(after.weight).max() <= number_format.weight_max
        assert 0 <= after.exponent <= number_format.weight_exponent_max
        step = 2.0**after.exponent / scale.per_channel[:, np.newaxis]
        assert (np.abs(after.weight * step - before.weight) <= 0.5000001 * step).all()
    assert np.abs(rounded.bias).max() <= number_format.bias_max
    assert min(scale.exponents) == 0


@given(seeds)
def test_exponents_never_make_it_worse(seed):
    real = drawn(seed, None)

    def error(number_format: IntegerFormat) -> float:
        scale = choose_scale(real, number_format)
        rounded = round_population(real, scale, number_format, 1).synapses
        back = [s.weight * 2.0**s.exponent / scale.per_channel[:, np.newaxis] for s in rounded]
        return sum(((b - s.weight) ** 2).sum() for b, s in zip(back, real.synapses, strict=True))

    assert error(AUTAPSE_FORMAT) <= error(replace(AUTAPSE_FORMAT, weight_exponent_max=0)) * (1 + 1e-9)
