"""Rounding for the output: errors cancel, clipping pays, the bias takes the mean, and nothing gets worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nctool.conversion import Conversion, convert
from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.input_encoding import encode_input
from nctool.conversion.quantise.accumulator import fit_population
from nctool.conversion.quantise.calibration import Calibration
from nctool.conversion.quantise.candidates import Candidates
from nctool.conversion.quantise.clipping import error_curve
from nctool.conversion.quantise.covariance import moments, triangle
from nctool.conversion.quantise.patches import choose_neurons, extract, views
from nctool.conversion.quantise.rounding import round_with_feedback
from nctool.conversion.quantise.scales import fits_comparison
from nctool.ir.network import INPUT_NAME, ConvGeometry, Population
from nctool.ir.number_format import IntegerFormat
from nctool.ir.repeat import Repeat
from nctool.reference.simulate import simulate
from nctool.reference.synapses import convolve
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from tests.support.networks import measured, seeds
from tests.support.scales import thresholds
from tests.support.torch_models import act, on_both_engines

pytestmark = pytest.mark.usefixtures("one_thread")

GRADED = encode_input((6,), (0.0,), (1.0,))


def covariance(seed: int, fan_in: int) -> np.ndarray:
    signals = np.random.default_rng(seed).normal(size=(3 * fan_in, fan_in)) @ np.random.default_rng(seed).normal(
        size=(fan_in, fan_in)
    )
    return signals.T @ signals / len(signals)


# --- error feedback -----------------------------------------------------


def test_an_error_goes_into_the_weight_whose_signal_is_alike():
    """0.4 + 0.4 of two signals that are nearly one: 0 and 0 would lose 0.8 of it, 1 and 0 adds 0.2."""
    alike = triangle(np.array([[1.0, 0.99], [0.99, 1.0]]))
    rounded, error = round_with_feedback(np.array([[0.4, 0.4]]), alike, 127)
    assert rounded.tolist() == [[1, 0]]
    assert error == pytest.approx(0.6**2 - 2 * 0.99 * 0.6 * 0.4 + 0.4**2)


def test_what_is_clipped_goes_into_the_others():
    alike = triangle(np.array([[1.0, 1.0 - 1e-9], [1.0 - 1e-9, 1.0]]))
    assert round_with_feedback(np.array([[0.0, 3.0]]), alike, 1)[0].tolist() == [[1, 1]]


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.diag([1.0, 2.0, 3.0])])
def test_signals_that_do_not_vary_together_leave_each_weight_to_itself(matrix):
    rounded, error = round_with_feedback(np.array([[0.4, -1.6, 9.0]]), triangle(matrix.copy()), 7)
    assert rounded.tolist() == [[0, -2, 7]]
    np.testing.assert_allclose(error, [0.4**2 * matrix[0, 0] + 0.4**2 * matrix[1, 1] + 2.0**2 * matrix[2, 2]])


@given(seeds, st.integers(1, 150), st.integers(2, 8))
def test_the_error_is_that_of_the_integers(seed, fan_in, bits):
    """Over several blocks of columns too."""
    matrix, largest = covariance(seed, fan_in) + 0.1 * np.eye(fan_in), 2 ** (bits - 1) - 1
    wanted = np.random.default_rng(seed).normal(size=(4, fan_in)) * largest / 2
    rounded, error = round_with_feedback(wanted, triangle(matrix.copy()), largest)
    assert np.abs(rounded).max() <= largest
    off = rounded - wanted
    np.testing.assert_allclose(error, ((off @ matrix) * off).sum(axis=1), rtol=1e-6)


def test_feedback_lowers_the_error_of_correlated_signals():
    matrix, wanted = covariance(0, 80), np.random.default_rng(1).normal(size=(20, 80)) * 3
    off = np.rint(wanted) - wanted
    plain = ((off @ matrix) * off).sum()
    assert round_with_feedback(wanted, triangle(matrix.copy()), 127)[1].sum() < 0.5 * plain


# --- what synapses see --------------------------------------------------


@given(seeds)
def test_patches_are_what_a_convolution_weighs(seed):
    rng = np.random.default_rng(seed)
    groups, (stride, padding, dilation) = int(rng.integers(1, 3)), rng.integers(1, 3, 3)
    conv = ConvGeometry((int(stride), 1), (int(padding), 1), (int(dilation), 1), groups)
    weight = rng.normal(size=(4, 2, 2, 3))
    signal = rng.integers(0, 5, (3, 2 * groups, 6, 5)).astype(np.float64)
    synapse = FloatSynapse("c", INPUT_NAME, signal.shape[1:], weight, np.zeros(4), conv)
    patches = extract(synapse, signal, choose_neurons([synapse], len(signal)))
    found = np.concatenate(
        [p @ w.reshape(len(w), -1).T for p, w in zip(patches, np.split(weight, groups), strict=True)], axis=1
    )
    wanted = np.moveaxis(convolve(signal, weight, conv), 1, 3).reshape(-1, 4)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool.conversion.quantise.patches.failure", lambda module: module)
        without_loops = extract(synapse, signal, choose_neurons([synapse], len(signal)))
    np.testing.assert_array_equal(patches, without_loops)


def test_a_large_image_is_looked_at_in_as_many_patches_as_are_allowed(monkeypatch):
    """Of the same neurons however many samples are looked at together."""
    synapse = FloatSynapse("c", INPUT_NAME, (1, 9, 9), np.ones((1, 1, 3, 3)), np.zeros(1), ConvGeometry())
    signal = np.random.default_rng(0).normal(size=(4, 1, 9, 9))
    neurons = choose_neurons([synapse], len(signal), most=50)
    patches = extract(synapse, signal, neurons)
    assert patches.shape == (1, 50, 9)
    monkeypatch.setattr("nctool.conversion.quantise.patches.AT_ONCE", 1)
    np.testing.assert_array_equal(patches, extract(synapse, signal, neurons))


@pytest.mark.parametrize(
    ("widths", "patches"),
    [([3], 4096), ([8192], 4096), ([8193], 4095), ([27_648], 1213), ([150_528], 222), ([3, 27_648], 1213)],
)
def test_all_patches_of_a_population_fit_into_128_mebibytes_each(widths, patches):
    synapses = [FloatSynapse("fc", INPUT_NAME, (w,), np.zeros((2, w)), np.zeros(2), None) for w in widths]
    assert len(choose_neurons(synapses, samples=5000).sample) == patches
    assert patches * max(widths) <= 2**25


def test_moments_of_signals_that_never_change_are_zero():
    found = moments(np.full((1, 5, 3), 2.0, np.float32))
    np.testing.assert_array_equal(found.mean, np.full((1, 3), 2.0))
    np.testing.assert_array_equal(found.covariance(0), np.zeros((3, 3)))
    np.testing.assert_array_equal(found.own(0), np.zeros(3))


# --- the whole population -----------------------------------------------


def population(weight, bias=0.0, threshold: float | None = 1.0, replicas: int = 1) -> FloatPopulation:
    weight = np.asarray(weight, np.float64)
    bias, repeat = np.full(len(weight), bias), Repeat(copies_out=replicas)
    synapse = FloatSynapse("fc", INPUT_NAME, weight.shape[1:], weight, bias, None, repeat=repeat)
    return FloatPopulation("fc", (len(weight) * replicas,), (synapse,), thresholds(threshold, len(weight)), replicas)


def calibration(seed: int = 0, samples: int = 40) -> Calibration:
    return Calibration(GRADED, np.random.default_rng(seed).integers(0, 256, (samples, 6), np.uint8), 3)


def number_format(bits: int, **options: object) -> IntegerFormat:
    return replace(AUTAPSE_FORMAT, weight_bits=bits, **options)


@given(seeds, st.integers(2, 8), st.sampled_from([None, 30.0]), st.booleans())
def test_the_output_is_never_worse_than_of_plain_rounding(seed, bits, threshold, shared):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(4, 6)) * rng.lognormal(0, 1, (4, 1)) * (rng.random((4, 1)) < 0.9)
    real, seen = population(weight, 0.3, threshold), calibration(seed)
    candidates = Candidates(real, number_format(bits, one_threshold=shared), 3, views(real, seen.rates))
    found = candidates.at(np.full(4, np.inf))
    rounded, _ = fit_population(real, GRADED, number_format(bits, one_threshold=shared), seen)
    scale = 1 / (rounded.neuron.scale * 3) if threshold is None else rounded.neuron.threshold / threshold
    error = drive(rounded, seen) / scale - drive(real, seen)
    assert (error**2).mean() <= candidates.error(found[0]) * (1 + 1e-5)
    assert np.abs(rounded.synapses[0].weight).max() <= 2 ** (bits - 1) - 1
    if threshold is not None:
        thresholds = rounded.neuron.threshold
        assert any((thresholds % 2**e == 0).all() and (thresholds >> e).max() <= 127 for e in range(8))
        assert len(np.unique(thresholds)) == 1 or not shared


def drive(population: FloatPopulation | Population, seen: Calibration) -> np.ndarray:
    return seen.rates(INPUT_NAME)[:] @ population.synapses[0].weight.T + population.bias


@pytest.mark.parametrize("threshold", [30.0, None])
def test_the_reported_error_is_that_of_the_drive_between_0_and_the_threshold(threshold):
    real, seen = population(np.random.default_rng(0).normal(size=(5, 6)), 0.2, threshold), calibration()
    rounded, errors = fit_population(real, GRADED, number_format(3), seen)
    scale = 1 / (rounded.neuron.scale * 3) if threshold is None else rounded.neuron.threshold / threshold
    found, wanted = drive(rounded, seen) / scale, drive(real, seen)
    if threshold is not None:
        assert (wanted > threshold).any() and (wanted < 0).any()
        found, wanted = (np.clip(each, 0, threshold) for each in (found, wanted))
    assert errors.output == pytest.approx(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()), rel=1e-4)
    assert 0.01 < errors.output < 0.5


def test_a_channel_that_lies_far_below_does_not_hide_the_error_of_the_others():
    """It may fire, for an input that calibration does not show; its drive is a hundred times that of the others."""
    weight, seen = np.random.default_rng(0).normal(size=(5, 6)), calibration()
    weight[0] *= 100
    bias = np.array([-20000.0, 0.2, 0.2, 0.2, 0.2])
    synapse = FloatSynapse("fc", INPUT_NAME, (6,), weight, bias, None)
    real = FloatPopulation("fc", (5,), (synapse,), thresholds(30.0, 5))
    alone = replace(
        real, shape=(4,), threshold=thresholds(30.0, 4), synapses=(replace(synapse, weight=weight[1:], bias=bias[1:]),)
    )
    _, errors = fit_population(real, GRADED, number_format(3), seen)
    _, wanted = fit_population(alone, GRADED, number_format(3), seen)
    assert 0.5 * wanted.output < errors.output < 2 * wanted.output


def test_two_bits_clip_and_beat_the_largest_scale_that_fits():
    real, seen = population(np.random.default_rng(0).normal(size=(20, 6)), threshold=30.0), calibration()
    candidates = Candidates(real, number_format(2), 3, views(real, seen.rates))
    plain, clipped = candidates.at(np.full(20, np.inf))
    assert (clipped.scale.per_channel >= plain.scale.per_channel).all()
    assert (clipped.scale.per_channel > 1.2 * plain.scale.per_channel).any()
    assert candidates.error(clipped) < 0.6 * candidates.error(plain)


def test_the_mean_of_the_error_goes_into_the_bias():
    real, seen = population(np.random.default_rng(3).normal(size=(5, 6)), threshold=30.0), calibration()
    rounded, _ = fit_population(real, GRADED, number_format(3), seen)
    scale = rounded.neuron.threshold / real.threshold
    rates = seen.rates(INPUT_NAME)[:]
    off = (rates @ rounded.synapses[0].weight.T + rounded.bias) / scale - rates @ real.synapses[0].weight.T
    assert (np.abs(off.mean(axis=0)) <= 0.51 / scale).all()


def test_replicas_are_given_the_same_integers():
    weight = np.random.default_rng(0).normal(size=(3, 6))
    rounded, _ = fit_population(population(weight, 0.1, replicas=4), GRADED, number_format(4), calibration())
    for values in (rounded.synapses[0].weight, rounded.bias, rounded.neuron.threshold):
        np.testing.assert_array_equal(values, np.repeat(values[::4], 4, axis=0))


def test_copies_of_the_source_are_given_the_same_weights():
    real = population(np.random.default_rng(0).normal(size=(4, 3)))
    doubled = replace(real.synapses[0], source_shape=(6,), repeat=Repeat(copies_in=2))
    rounded, _ = fit_population(replace(real, synapses=(doubled,)), GRADED, number_format(4), calibration())
    found = rounded.synapses[0].weight
    np.testing.assert_array_equal(found, np.repeat(found[:, ::2], 2, axis=1))


def test_channels_that_are_left_out_of_the_curve_are_like_the_others(monkeypatch):
    real, seen = population(np.random.default_rng(0).normal(size=(40, 6)), threshold=None), calibration()
    seen_by, base = views(real, seen.rates), np.full(40, 1.0)
    exact = error_curve(base, seen_by, (0,), 1).errors
    monkeypatch.setattr(
        "nctool.conversion.quantise.clipping.BUDGET", 13 * 40 * seen_by[0].factors[0].multiplications / 4
    )
    sampled = error_curve(base, seen_by, (0,), 1).errors
    np.testing.assert_array_equal(sampled[:, ::4], exact[:, ::4])
    np.testing.assert_allclose(sampled.sum(axis=1), exact.sum(axis=1), rtol=0.3)


@pytest.mark.parametrize(
    ("distance", "fits"),
    [([-1, 9], True), ([-2, 9], False), ([-4, 1], True), ([10, 10], True), ([11], False), ([-5], False)],
)
def test_distances_lie_around_one_centre(distance, fits):
    assert fits_comparison(np.array(distance), 5) is fits


# --- calibration --------------------------------------------------------


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_fast_engine_measures_what_the_reference_does(reset):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), act(0.5), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), act(0.5), nn.Linear(4, 2)
    )
    pixels = np.random.default_rng(1).integers(0, 256, (9, 1, 6, 6), np.uint8)
    network = conversion(model, (1, 6, 6), pixels, replace(AUTAPSE_FORMAT, reset=reset)).network
    trace = simulate(network, pixels, potentials=True)
    graded = replace(encode_input((1, 6, 6), (0.0,), (1.0,)), encoding=network.input)
    seen = Calibration(graded, pixels, network.n_steps)
    for each in network.populations:
        start = each.per_neuron(each.neuron.initial) if each.name in trace.spikes else 0
        wanted, found = measured(trace.potentials[each.name] - start), seen.range_of(each)
        np.testing.assert_array_equal(found.low, wanted.low)
        np.testing.assert_array_equal(found.high, wanted.high)
        if each.name in trace.spikes:
            seen.settle(each)
            np.testing.assert_array_equal(seen.rates(each.name)[:], trace.spikes[each.name].mean(axis=1))
    assert sum(int(spikes.sum()) for spikes in trace.spikes.values()) > 0


# --- whole networks -----------------------------------------------------


def conversion(model: nn.Module, shape: tuple[int, ...], pixels: np.ndarray, numbers: IntegerFormat) -> Conversion:
    return convert(
        model.eval(), input_shape=shape, mean=(0.0,), std=(1.0,), number_format=numbers, n_steps=4, calibration=pixels
    )


def dense(weight: np.ndarray, bias: float = 0.1) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.fill_(bias)
    return layer


def one_channel_of_zeros(weight: np.ndarray) -> np.ndarray:
    weight[1] = 0
    return weight


@pytest.mark.parametrize("samples", [1, 30])
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(
    "sign",
    [np.abs, lambda weight: -np.abs(weight), np.zeros_like, one_channel_of_zeros, lambda weight: weight - 10],
    ids=["positive", "negative", "zero", "a channel of zeros", "never fires"],
)
def test_special_weights_are_converted(sign, bits, samples):
    rng = np.random.default_rng(0)
    model = nn.Sequential(dense(sign(rng.normal(size=(5, 8)))), act(0.5), dense(rng.normal(size=(3, 5))))
    pixels = rng.integers(0, 256, (samples, 8), np.uint8)
    found = conversion(model, (8,), pixels, number_format(bits))
    for population in found.network.populations:
        assert np.abs(population.synapses[0].weight).max() <= 2 ** (bits - 1) - 1
    assert all(0 <= change.output_error < 1.5 for change in found.changes if change.output_error is not None)
    on_both_engines(found.network, pixels)


def test_behind_a_layer_that_is_silent_on_calibration_weights_are_rounded_each_by_itself():
    weight = np.random.default_rng(0).normal(size=(3, 5))
    model = nn.Sequential(dense(np.ones((5, 8)), -5), act(0.5), dense(weight, 0.0))  # 8 · 99 / 255 is less than 5
    found = conversion(model, (8,), np.full((4, 8), 99, np.uint8), number_format(8)).network.readout.synapses[0].weight
    np.testing.assert_array_equal(found, np.rint(weight * 127 / np.abs(weight).max()))


def test_kernels_of_folded_pooling_stay_constant_in_blocks():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), act(0.5), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), act(0.5), nn.Flatten(), nn.Linear(4, 2)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), np.uint8)
    synapse = conversion(model, (1, 6, 6), pixels, number_format(4)).network.populations[1].synapses[0]
    assert (synapse.weight.shape, synapse.repeat) == ((4, 3, 4, 4), Repeat((2, 2)))
    np.testing.assert_array_equal(synapse.weight, np.kron(synapse.weight[:, :, ::2, ::2], np.ones((2, 2), int)))
    assert len(np.unique(synapse.weight)) > 4


def test_a_conversion_gives_the_same_integers_each_time():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12), act(0.5), nn.Linear(12, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    assert (
        conversion(model, (20,), pixels, number_format(3)).network
        == conversion(model, (20,), pixels, number_format(3)).network
    )
