"""Noise is Gaussian, and each of its numbers depends on a seed and its place alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nctool.activation.gaussian import (
    BLOCK,
    COUNTERS,
    PLACES,
    normal_numbers,
    number_at,
    philox,
    place_of,
    random_words,
)

U = np.uint64


@pytest.mark.parametrize(
    ("counter", "keys", "words"),
    [
        (0, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0x85A308D3243F6A88, (0xA4093822, 0x299F31D0), None),
    ],
)
def test_words_are_those_of_philox(counter, keys, words):
    """The first are the known answers of Random123; the others come from a slow implementation in Python's integers."""
    got = tuple(int(word) for word in philox(U(counter), *map(U, keys)))
    assert got == slow_philox([counter & 0xFFFFFFFF, counter >> 32, 0, 0], list(keys))
    assert words is None or got == words


def slow_philox(counter: list[int], key: list[int]) -> tuple[int, ...]:
    """Write ten rounds of figure 2 of Salmon et al. down."""
    a, b, c, d = counter
    for number in range(10):
        high_a, low_a = divmod(0xD2511F53 * a, 1 << 32)
        high_c, low_c = divmod(0xCD9E8D57 * c, 1 << 32)
        keys = [(value + number * step) % (1 << 32) for value, step in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]
        a, b, c, d = high_c ^ b ^ keys[0], low_c, high_a ^ d ^ keys[1], low_a
    return a, b, c, d


@pytest.fixture(scope="module")
def places() -> tuple[np.ndarray, np.ndarray]:
    """The number of every place, and how likely it is: as likely as its sum of four bytes."""
    byte = np.full(256, 1 / 256)
    two = np.convolve(byte, byte)
    return number_at(np.arange(PLACES, dtype=np.int32)).astype(np.float64), np.repeat(np.convolve(two, two) / 256, 256)


def test_every_number_is_near_the_quantile_of_its_place(places):
    numbers, chances = places
    below = torch.from_numpy(np.cumsum(chances) - chances / 2)
    exact = torch.special.ndtri(below[: PLACES // 2]).numpy()  # the lower half, whose sums are exact
    for bound, error in ((3, 0.003), (4, 0.013)):
        inside = exact > -bound
        assert np.abs(numbers[: PLACES // 2] - exact)[inside].max() < error
    assert np.allclose(numbers, -numbers[::-1], rtol=0, atol=1e-6)
    assert bool((np.diff(numbers) > 0).all())
    assert numbers.max() == pytest.approx(5.127, abs=0.001)


def test_moments_are_those_of_the_normal_distribution_to_the_sixth(places):
    numbers, chances = places
    assert abs((chances * numbers).sum()) < 1e-7
    for power, expected, error in ((2, 1, 1e-6), (4, 3, 1e-4), (6, 15, 0.006)):
        assert (chances * numbers**power).sum() == pytest.approx(expected, abs=error)


def test_a_place_is_the_sum_of_the_bytes_and_a_fifth_that_is_spread_evenly_over_words_of_one_sum():
    words = np.random.default_rng(0).integers(1 << 32, size=400_000, dtype=np.uint64).astype(np.uint32)
    sums, fine = np.divmod(place_of(words), 256)
    assert np.array_equal(sums, words.view(np.uint8).reshape(-1, 4).sum(1))
    assert abs(np.corrcoef(sums, fine)[0, 1]) < 0.008
    counts = np.bincount(fine[np.abs(sums - 510) < 50], minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 256 + 5 * 512**0.5  # chi-squared of 255


def test_drawn_numbers_are_normal_in_every_slice_and_far_into_the_tails():
    noise = normal_numbers(3, 0, 4_000_000).astype(np.float64)
    assert abs(noise.mean()) < 0.003
    assert noise.std() == pytest.approx(1, abs=0.002)
    assert (noise**3).mean() == pytest.approx(0, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3, abs=0.025)
    for bound in (-4.0, -3.0, -1.0, -0.1, 0.0, 0.3, 2.0, 3.5):
        expected = float(torch.special.ndtr(torch.tensor(bound, dtype=torch.float64)))
        error = 5 * (expected * (1 - expected) / len(noise)) ** 0.5
        assert abs((noise < bound).mean() - expected) < error


@pytest.mark.parametrize("distance", [1, 2, 3, 64, COUNTERS, 2 * COUNTERS, 3 * COUNTERS, BLOCK])
def test_numbers_are_independent_of_those_beside_them_and_of_the_other_words_of_their_counter(distance):
    noise = normal_numbers(4, 0, 1_000_000).astype(np.float64)
    for a, b in ((noise, noise), (noise**2 - 1, noise**2 - 1), (np.abs(noise), noise)):
        assert abs(np.corrcoef(a[distance:], b[:-distance])[0, 1]) < 0.005


@pytest.mark.parametrize("other", [1, 2**32, 2**63 - 1])
def test_other_seeds_give_other_numbers(other):
    noise, others = normal_numbers(0, 0, 100_000), normal_numbers(other, 0, 100_000)
    assert abs(float(np.corrcoef(noise, others)[0, 1])) < 0.016
    assert np.array_equal(noise, normal_numbers(0, 0, 100_000))


@given(st.integers(0, 2**63 - 1), st.integers(0, 5 * BLOCK), st.integers(1, 3 * BLOCK))
def test_a_part_has_the_numbers_of_its_places(seed, first, count):
    whole = normal_numbers(seed, 0, 8 * BLOCK)
    assert np.array_equal(normal_numbers(seed, first, count), whole[first : first + count])


def test_places_beyond_32_bits_have_numbers_of_their_own():
    far = (1 << 32) // COUNTERS  # the counter's lower half begins anew
    words = random_words(7, far, 1)
    assert not np.array_equal(words, random_words(7, 0, 1))
    assert int(words[0]) == slow_philox([0, 1, 0, 0], [7, 0])[0]
