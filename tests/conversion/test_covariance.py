"""Factors of covariances: the thin one is the whole one, and takes no memory of the square of the inputs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import convert
from nctool.conversion.quantise.covariance import (
    ThinTriangle,
    Triangle,
    block_bounds,
    factor,
    moments,
    thin_triangle,
    triangle,
)
from nctool.conversion.quantise.rounding import round_with_feedback
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from tests.support.networks import seeds

pytestmark = pytest.mark.usefixtures("one_thread")


def patches(seed: int, groups: int, rows: int, fan_in: int) -> np.ndarray:
    """Return signals that vary together, some of which never change."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(groups, rows, 5)) @ rng.normal(size=(groups, 5, fan_in)) + rng.normal(size=fan_in)
    return (signals * (rng.random(fan_in) < 0.8)).astype(np.float32)


def whole(thin: ThinTriangle) -> np.ndarray:
    """Return the triangle that a thin one stands for."""
    upper = np.triu(thin.weights.T @ thin.signals)
    for inner, (start, stop) in zip(reversed(thin.inner), block_bounds(len(upper)), strict=True):
        upper[start:stop, start:stop] = inner
    return upper


@given(seeds, st.integers(1, 40), st.sampled_from([1, 127, 128, 129, 300, 500]))
@settings(max_examples=20)
def test_the_factor_in_single_precision_is_that_in_double(seed, rows, fan_in):
    """With fewer patches than inputs too, and inputs that never change: the diagonal keeps the matrix regular."""
    found = moments(patches(seed, 1, rows, fan_in))
    covariance = found.covariance(0)
    double, single = triangle(covariance.astype(np.float64)), triangle(covariance)
    assert single.upper.dtype == single.pivots.dtype == np.float32
    np.testing.assert_allclose(single.pivots, double.pivots, rtol=1e-4)
    np.testing.assert_allclose(single.upper, double.upper, rtol=1e-3, atol=1e-4)
    wanted = 20 * np.random.default_rng(seed).normal(size=(5, fan_in))
    errors = [round_with_feedback(wanted, each, 127)[1].sum() for each in (single, double)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


@given(seeds, st.integers(1, 80), st.integers(1, 600), st.integers(2, 8))
@settings(max_examples=20)
def test_the_compiled_loop_rounds_as_numpy_does(seed, fan_in, channels, bits):
    found = factor(moments(patches(seed, 1, 30, fan_in)), 0)
    largest = 2 ** (bits - 1) - 1
    wanted = largest * np.random.default_rng(seed).normal(size=(channels, fan_in))
    compiled = round_with_feedback(wanted, found, largest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool.conversion.quantise.rounding.failure", lambda module: module)
        plain = round_with_feedback(wanted, found, largest)
    for of_compiled, of_plain in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(of_compiled, of_plain)


@given(seeds, st.integers(1, 3), st.integers(1, 40), st.integers(1, 200))
@settings(max_examples=20)
def test_a_thin_triangle_is_the_whole_one(seed, groups, rows, fan_in):
    found = moments(patches(seed, groups, rows, fan_in))
    for group in range(groups):
        exact = triangle(found.covariance(group))
        thin = thin_triangle(found.own(group), found.centred[group], found.share)
        np.testing.assert_allclose(thin.pivots, exact.pivots, rtol=1e-4)
        np.testing.assert_allclose(whole(thin), exact.upper, rtol=1e-3, atol=1e-4)


@given(seeds, st.integers(2, 8))
@settings(max_examples=10)
def test_errors_cancel_in_a_thin_triangle_as_in_the_whole_one(seed, bits):
    found, largest = moments(patches(seed, 1, 30, 200)), 2 ** (bits - 1) - 1
    wanted = np.random.default_rng(seed).normal(size=(6, 200)) * largest / 2
    thin = thin_triangle(found.own(0), found.centred[0], found.share)
    rounded, error = round_with_feedback(wanted, thin, largest)
    off, covariance = rounded - wanted, found.covariance(0)
    np.testing.assert_allclose(error, ((off @ covariance) * off).sum(axis=1), rtol=1e-3)
    expected = round_with_feedback(wanted, triangle(covariance), largest)[1]
    np.testing.assert_allclose(error.sum(), expected.sum(), rtol=0.05)


def test_signals_that_never_change_leave_each_weight_to_itself():
    thin = thin_triangle(np.zeros(70), np.zeros((3, 70), np.float32), 0.1)
    rounded, error = round_with_feedback(np.full((1, 70), 0.4), thin, 7)
    assert not rounded.any()
    assert not error.any()


@pytest.mark.parametrize(("fan_in", "kind"), [(20, Triangle), (21, ThinTriangle)])
def test_more_than_twice_as_many_weights_as_patches_make_it_thin(fan_in, kind):
    assert isinstance(factor(moments(patches(0, 1, 10, fan_in)), 0), kind)


def test_memory_does_not_grow_with_the_square_of_the_inputs(monkeypatch):
    """6,144 inputs squared are 302 MB as float64; weights and patches are less than one."""
    monkeypatch.setattr("nctool.conversion.quantise.input_precision.LARGEST", (127,))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6_144, 4), NoisyQuantReLU(4, 1.0), nn.Linear(4, 2)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 6, 32, 32), np.uint8)
    tracemalloc.start()
    found = convert(
        model,
        input_shape=(6, 32, 32),
        mean=(0.5,) * 6,
        std=(0.25,) * 6,
        number_format=AUTAPSE_FORMAT,
        n_steps=1,
        calibration=pixels,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.network.populations[0].synapses[0].weight.shape == (4, 6_144)
    assert peak < 64 * 2**20
