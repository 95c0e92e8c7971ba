"""Real samples as pixels: 256 steps of the range of each channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.errors import RangeError
from nctool.ir.linear_range import BEYOND, LinearRange
from tests.support.networks import seeds
from tests.support.refusals import refusal


def numbers_of(found: LinearRange, pixels: np.ndarray) -> np.ndarray:
    """Return what pixels stand for, (p / 255 - mean) / std."""
    column = (-1, *[1] * (pixels.ndim - 2))
    return (pixels / 255 - np.reshape(found.mean, column)) / np.reshape(found.std, column)


@given(seeds, st.sampled_from([(3,), (2, 5), (3, 4, 2)]), st.floats(-3, 3), st.floats(-1e3, 1e3))
def test_pixels_are_the_nearest_of_256_steps(seed, shape, magnitude, offset):
    samples = 10**magnitude * np.random.default_rng(seed).normal(size=(7, *shape)) + offset
    found = LinearRange.of(samples)
    pixels = found.pixels(samples, "x")
    assert pixels.dtype == np.uint8
    axes = tuple(axis for axis in range(samples.ndim) if axis != 1)
    width = np.ptp(samples, axis=axes).reshape(-1, *[1] * (samples.ndim - 2))
    assert (np.abs(numbers_of(found, pixels) - samples) <= (0.5 + 1e-6) * width / 255).all()
    assert (pixels.min(axis=axes).tolist(), pixels.max(axis=axes).tolist()) == ([0] * shape[0], [255] * shape[0])
    np.testing.assert_array_equal(found.pixels(numbers_of(found, pixels), "x"), pixels)


def test_by_hand():
    """-1..1 in steps of 2 / 255; a channel that is always 3 takes the width 1."""
    found = LinearRange.of(np.array([[-1.0, 3.0], [1.0, 3.0]]))
    assert found == LinearRange((0.5, -3.0), (0.5, 1.0))
    assert found.pixels(np.array([[-1.0, 3.0], [0.0, 3.5], [1.0, 4.0]]), "x").tolist() == [
        [0, 0],
        [128, 128],
        [255, 255],
    ]
    assert found.pixels(np.array([[-1.9, 2.6], [1.9, 4.4]]), "x").tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("value", [-2.1, 2.1, float("nan"), float("inf"), -float("inf")])
def test_far_outside_is_refused_with_its_place(value):
    samples = np.zeros((4, 2, 3))
    samples[2, 1, 0] = value
    assert BEYOND == 0.5
    assert refusal(RangeError, LinearRange((0.5, 0.5), (0.5, 0.5)).pixels, samples, "x.npy") == (
        f"`x.npy`: holds {value:.4g} in channel 1 of sample 2, the network was converted on -1..1 there\n"
        "hint: normalise the samples as those that the network was converted on"
    )


def test_one_range_for_all_channels():
    samples = np.zeros((1, 3, 2))
    samples[0, 2, 1] = 9
    assert "in channel 2 of sample 0, the network was converted on -1..1 there" in refusal(
        RangeError, LinearRange((0.5,), (0.5,)).pixels, samples, "x"
    )
