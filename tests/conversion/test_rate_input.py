"""Rate input (rule I4): the spike trains of integer integrate-and-fire encoders, in the encoding and in the engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.errors import RangeError
from nctool.fast.engine import FastEngine
from nctool.ir.bounds import drive_interval
from nctool.ir.network import InputEncoding, IntNetwork, RateEncoding
from nctool.reference.simulate import simulate
from nctool.reference.trace import join
from nctool.verification.divergence import first_divergence
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from tests.support.networks import dense, random_network, random_pixels, random_rate, read_out, seeds

pytestmark = pytest.mark.usefixtures("one_thread")


def encoders(*increments: int, threshold: int, channels: int = 1) -> RateEncoding:
    """Return an encoder for each of `increments`, which every pixel value adds."""
    table = np.tile(np.array(increments, np.int16)[:, np.newaxis], (1, 256))
    return RateEncoding((channels,), table, threshold)


# --- spike trains -------------------------------------------------------


@pytest.mark.parametrize(
    ("increment", "threshold", "train"),
    [
        (3, 10, [0, 1, 0, 0, 1, 0, 0, 0, 1]),  # 5: 8, 11 -> 1, 4, 7, 10 -> 0, 3, 6, 9, 12 -> 2
        (5, 10, [1, 0, 1, 0]),  # 5: 10 -> 0, 5, 10 -> 0, 5
        (10, 10, [1, 1, 1]),  # 5: 15 -> 5 each time
        (9, 10, [1, 1, 1, 1, 1, 0, 1]),  # 5: 14 -> 4, 13, 12, 11, 10 -> 0, 9, 18
        (1, 10, [0, 0, 0, 0, 1, 0]),  # 5: 6, 7, 8, 9, 10 -> 0, 1
        (0, 10, [0, 0, 0, 0]),
        (2, 3, [1, 0, 1]),  # 1, an odd threshold halved and rounded down: 3 -> 0, 2, 4 -> 1
        (1, 3, [0, 1, 0]),  # 1: 2, 3 -> 0, 1
        (0, 1, [0, 0]),
        (1, 1, [1, 1]),  # 0: 1 -> 0 each time
    ],
)
def test_spike_trains_by_hand(increment, threshold, train):
    trains = encoders(increment, threshold=threshold).trains(len(train))
    assert trains.dtype == np.int8
    assert trains.shape == (1, 256, len(train))
    assert trains[0, 0].tolist() == train


@given(seeds, st.integers(1, 64))
def test_the_spikes_up_to_a_step_are_the_rounded_rate(seed, n_steps):
    encoding = random_rate(np.random.default_rng(seed), (2,))
    step = np.arange(1, n_steps + 1)
    expected = (encoding.threshold // 2 + step * encoding.table[..., np.newaxis].astype(int)) // encoding.threshold
    np.testing.assert_array_equal(encoding.trains(n_steps).cumsum(axis=-1, dtype=int), expected)


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_a_shorter_window_is_the_beginning_of_a_longer_one(seed, one, other):
    encoding = random_rate(np.random.default_rng(seed), (3,))
    both = min(one, other)
    np.testing.assert_array_equal(encoding.trains(one)[..., :both], encoding.trains(other)[..., :both])


def test_each_pixel_goes_to_the_encoders_of_its_channel():
    table = np.zeros((4, 256), np.int16)
    table[:, 7], table[:, 9] = [4, 0, 2, 0], [0, 4, 0, 1]
    encoding = RateEncoding((2, 1, 2), table, 4)
    assert encoding.shape == (4, 1, 2)
    signal = encoding.signal(np.array([[[[7, 9]], [[9, 7]]]], np.uint8), 3)
    assert signal.shape == (1, 3, 4, 1, 2)
    assert signal[0, :, :, 0, 0].T.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert signal[0, :, :, 0, 1].T.tolist() == [[0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("pixels", [np.zeros((1, 2), np.int16), np.zeros((1, 4), np.uint8)])
def test_pixels_that_do_not_fit_are_refused(pixels):
    with pytest.raises(RangeError) as caught:
        encoders(1, 1, 1, 1, threshold=1, channels=2).signal(pixels, 1)
    assert str(caught.value) == (
        f"input: got {pixels.dtype} {pixels.shape[1:]} per sample, allowed uint8 (2,)\n"
        "hint: give the data set that the network was trained on, as pixels 0..255"
    )


# --- limits -------------------------------------------------------------


def network_of(encoding: RateEncoding | InputEncoding) -> IntNetwork:
    return IntNetwork(encoding, (read_out(dense("input", np.ones((1, encoding.shape[0])))),), 1)


@pytest.mark.parametrize(
    "encoding",
    [
        encoders(0, 32767, threshold=32767),
        encoders(0, threshold=1),
        encoders(4, 3, 2, 1, 0, 0, threshold=4, channels=2),
    ],
)
def test_what_an_encoder_may_hold(encoding):
    assert network_of(encoding).has_binary_input


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (encoders(0, threshold=0), "input: threshold is 0, allowed 1..32767"),
        (encoders(0, threshold=32768), "input: threshold is 32768, allowed 1..32767"),
        (encoders(1, 5, threshold=4), "input: increment is (1, 5), allowed 0..4"),
        (encoders(-1, 4, threshold=4), "input: increment is (-1, 4), allowed 0..4"),
        (
            encoders(1, 1, 1, threshold=4, channels=2),
            "input: table is int16 (3, 256), allowed int16 (a multiple of 2, 256)",
        ),
        (
            encoders(1, threshold=4, channels=2),
            "input: table is int16 (1, 256), allowed int16 (a multiple of 2, 256)",
        ),
        (
            replace(encoders(1, threshold=4), table=np.zeros((1, 256), np.int8)),
            "input: table is int8 (1, 256), allowed int16 (a multiple of 1, 256)",
        ),
        (
            replace(encoders(1, threshold=4), table=np.zeros((1, 255), np.int16)),
            "input: table is int16 (1, 255), allowed int16 (a multiple of 1, 256)",
        ),
        (
            replace(encoders(1, threshold=4), sample_shape=(0,)),
            "input: shape is (0,), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
    ],
)
def test_what_an_encoder_may_not_hold(encoding, message):
    with pytest.raises(RangeError) as caught:
        network_of(encoding)
    assert str(caught.value) == message


# --- what a network makes of it -----------------------------------------


def test_a_network_with_rate_input_by_hand():
    """Trains 0 1 0 0 and 1 0 1 0, weighed 5 and -2, add up in the readout."""
    encoding = encoders(3, 5, threshold=10)
    network = IntNetwork(encoding, (read_out(dense("input", [[5, -2]])),), 4)
    assert simulate(network, np.zeros((1, 1), np.uint8)).logits.tolist() == [[[-2], [3], [1], [1]]]


@given(seeds)
def test_the_fast_engine_gives_the_trace_of_the_reference(seed):
    network = random_network(seed, rate=True)
    pixels = random_pixels(network, 3, seed)
    for n_steps in (network.n_steps, 1, 7):
        reference = simulate(network, pixels, n_steps=n_steps)
        fast = join(FastEngine(network, n_steps=n_steps).traces(pixels))
        assert first_divergence(network, reference, fast, ("reference", "fast")) is None


def test_a_train_is_bounded_by_one_spike_a_step_and_a_silent_one_by_none():
    encoding = encoders(3, 0, threshold=10)
    low, high = drive_interval(read_out(dense("input", [[-7, 100]])), encoding)
    assert (low.tolist(), high.tolist()) == ([-7], [0])
    assert network_of(encoders(0, threshold=10)).input_range == (0, 0)


def test_a_network_with_rate_input_fits_a_chip_of_binary_spikes():
    network = random_network(3, rate=True)
    assert lower(network, find_target("loihi1"), chips=None).network is network
