"""Conversion to rate input: encoders of either sign, weights copied exactly, spikes as in the float network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.conversion import Change, Conversion, convert
from nctool.conversion.input_encoding import RATE_THRESHOLD, rate_input, split_input
from nctool.conversion.trace.tracing import trace
from nctool.errors import RangeError, UsageError
from nctool.ir.network import Bound
from nctool.reference.simulate import simulate
from nctool.reference.synapses import convolve, dense
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from tests.conversion.test_conversion import binary_pixels, exact_model, ones
from tests.support.networks import seeds
from tests.support.torch_models import holds_nothing

pytestmark = pytest.mark.usefixtures("one_thread")


def converted(
    model: nn.Module, shape: tuple[int, ...], *, mean: float = 0.5, std: float = 0.5, **options
) -> Conversion:
    pixels = np.random.default_rng(0).integers(0, 256, (32, *shape), np.uint8)
    settings = {"n_steps": 4, "calibration": pixels, "input": "rate"} | options
    return convert(model, input_shape=shape, mean=(mean,), std=(std,), number_format=AUTAPSE_FORMAT, **settings)


# --- encoders -----------------------------------------------------------


def test_encoders_by_hand():
    """(p / 255 - 0.2) / 0.5 is -0.4 at 0, 0 at 51, 1.6 at 255, 0.4 at 102."""
    encoded = rate_input((1, 2, 2), (0.2,), (0.5,))
    assert encoded.encoding.shape == (2, 2, 2)
    assert encoded.encoding.threshold == RATE_THRESHOLD == 4096
    np.testing.assert_allclose(encoded.step, [1.6, -0.4], rtol=1e-15)
    np.testing.assert_array_equal(
        encoded.encoding.table[:, [0, 17, 51, 102, 255]].T, [[0, 4096], [0, 2731], [0, 0], [1024, 0], [4096, 0]]
    )


@pytest.mark.parametrize(
    ("mean", "step", "at_black_and_white"),
    [
        ((0.0,), [1.0], [[0, 4096]]),
        ((1.0,), [-1.0], [[4096, 0]]),
        ((-1.0,), [2.0], [[2048, 4096]]),  # nothing is ever 0
        ((2.0,), [-2.0], [[4096, 2048]]),
        ((0.0, 0.25), [1.0, 0.0, 0.75, -0.25], [[0, 4096], [0, 0], [0, 4096], [4096, 0]]),  # a silent OFF of channel 0
        ((0.0, 1.0), [1.0, 0.0, 0.0, -1.0], [[0, 4096], [0, 0], [0, 0], [4096, 0]]),
    ],
)
def test_channels_of_a_sign_that_no_pixel_has_are_left_out(mean, step, at_black_and_white):
    encoded = rate_input((len(mean), 1, 1), mean, (1.0,))
    np.testing.assert_allclose(encoded.step, step, rtol=1e-15)
    np.testing.assert_array_equal(encoded.encoding.table[:, [0, 255]], at_black_and_white)


@given(seeds, st.integers(1, 64))
def test_a_train_is_worth_its_pixel_within_half_a_spike(seed, n_steps):
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 4))
    mean, std = rng.uniform(-0.5, 1.5, channels), rng.uniform(0.01, 3, channels)
    encoded = rate_input((channels,), tuple(mean), tuple(std))
    parts = len(encoded.step) // channels
    pixels = (np.arange(256) / 255 - mean[:, None]) / std[:, None]
    np.testing.assert_allclose(encoded.real.reshape(channels, parts, 256).sum(axis=1), pixels, rtol=0, atol=1e-12)
    worth = encoded.encoding.trains(n_steps).mean(axis=2) * encoded.step[:, None]
    rounded = 0.5 / n_steps + 0.5 / RATE_THRESHOLD
    assert (np.abs(worth - encoded.real) <= np.abs(encoded.step[:, None]) * rounded * (1 + 1e-9)).all()


def test_black_and_white_are_exact_at_every_step():
    trains = rate_input((1,), (0.3,), (0.4,)).encoding.trains(64)
    assert trains[:, [0, 255]].all(axis=2).tolist() == [[False, True], [True, False]]


def test_a_normalisation_that_does_not_fit_is_refused():
    with pytest.raises(RangeError) as caught:
        rate_input((3, 2, 2), (0.0, 0.0), (1.0,))
    assert str(caught.value) == (
        "input: mean (0.0, 0.0) and deviation (1.0,), allowed one or 3 of each, deviations above 0"
    )


# --- weights ------------------------------------------------------------


@given(seeds)
def test_the_weights_of_both_parts_add_up_to_those_of_the_pixels(seed):
    """Padding, groups, strides and dense layers: the first drive is the same number, in real values."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    groups, stride, padding = (int(rng.integers(low, 3)) for low in (1, 1, 0))
    layer = nn.Conv2d(2, 2, 2, stride=stride, padding=padding, groups=groups)
    behind = nn.Linear(layer(torch.zeros(1, 2, 3, 4)).numel(), 1)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    model = flat if rng.integers(3) == 0 else nn.Sequential(layer, NoisyQuantReLU(4), nn.Flatten(), behind)
    shape, mean, std = (2, 3, 4), tuple(rng.uniform(-0.2, 1.2, 2)), tuple(rng.uniform(0.1, 2, 2))
    before, encoded = trace(model, shape), rate_input(shape, mean, std)
    after = split_input(before, encoded)
    assert after.input_shape == encoded.encoding.shape
    pixels = rng.integers(0, 256, (5, *shape))
    channels, parts = 2, len(encoded.step) // 2
    real = ((pixels / 255 - np.reshape(mean, (2, 1, 1))) / np.reshape(std, (2, 1, 1))).astype(np.float64)
    split = encoded.real[np.arange(channels * parts)[:, None, None], np.repeat(pixels, parts, axis=1)]
    drives = []
    for network, signal in ((before, real), (after, split)):
        synapse = network.populations[0].synapses[0]
        assert synapse.source_shape == signal.shape[1:]
        drive = (
            dense(signal, synapse.weight) if synapse.conv is None else convolve(signal, synapse.weight, synapse.conv)
        )
        drives.append(drive)
    np.testing.assert_allclose(drives[1], drives[0], rtol=0, atol=1e-9)


def trains_in_real_numbers(pixels: np.ndarray, shape: tuple[int, ...], n_steps: int) -> torch.Tensor:
    """Return ON minus OFF, float64 (steps, samples, *shape), of pixels with mean and deviation 0.5."""
    signal = rate_input(shape, (0.5,), (0.5,)).encoding.signal(pixels, n_steps).astype(np.float64)
    return torch.from_numpy(np.moveaxis(signal[:, :, ::2] - signal[:, :, 1::2], 1, 0))


@given(seeds, st.integers(1, 5), st.booleans())
def test_integers_spike_like_the_float_network_on_the_same_trains(seed, n_steps, binary):
    model, shape = exact_model(seed)
    any_pixels = np.random.default_rng(seed).integers(0, 256, (4, *shape), np.uint8)
    pixels = binary_pixels(seed, shape) if binary else any_pixels
    conversion = converted(model, shape, n_steps=n_steps)
    assume(holds_nothing(conversion))  # what is held has another scale
    network = conversion.network
    seen: dict[str, list[np.ndarray]] = {name: [] for name in activations(model)}
    hooks = [
        layer.register_forward_hook(lambda m, i, o, name=name: seen[name].append(o.numpy() > 0))
        for name, layer in activations(model).items()
    ]
    with in_mode(model, "spiking"):
        logits = np.cumsum([model(x).numpy() for x in trains_in_real_numbers(pixels, shape, n_steps)], axis=0)
    for hook in hooks:
        hook.remove()
    found = simulate(network, pixels)
    for spikes, expected in zip(found.spikes.values(), seen.values(), strict=True):
        np.testing.assert_array_equal(spikes, np.stack(expected, axis=1))
    np.testing.assert_array_equal(found.logits, np.moveaxis(logits, 0, 1))
    assert set(found.overflows.values()) == {0}


# --- the whole conversion -----------------------------------------------


def test_rate_input_fits_loihi_1_and_costs_no_bits_of_the_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 40), NoisyQuantReLU(4, 8.0), nn.Linear(40, 3))
    torch.manual_seed(0)
    conversion = converted(model, (2, 8, 8))
    assert lower(conversion.network, find_target("loihi1")).cores == 1
    assert [p.bound.kind for p in conversion.network.populations] == ["proved", "proved"]
    assert abs(conversion.network.populations[0].synapses[0].weight).max() == 127


@pytest.mark.parametrize(
    ("features", "bound"),
    [
        (1032, Bound("proved", 0, 1032 * 127)),  # 131064 of 131071
        (
            2064,
            Bound("proved", 0, 2064 * 62 + 117),
        ),  # lowered by 131071 / 262128 · 0.98; the bias makes up for rounding
        (2065, Bound("calibrated", 0, 500 * 127 * 2, 2.0)),
    ],
)
def test_bounds_count_one_spike_a_step(features, bound):
    """With mean 0 and deviation 1, the 500 white pixels spike at every step and the black ones never."""
    pixels = np.zeros((2, features), np.uint8)
    pixels[:, :500] = 255
    conversion = converted(ones(features), (features,), mean=0.0, std=1.0, n_steps=1, calibration=pixels)
    assert conversion.network.readout.bound == bound


def test_both_steps_say_what_they_changed():
    assert converted(ones(2), (2,)).changes[3:7] == (
        Change(
            "split the channels", "2 into 4, ON above the mean and OFF below it: the weights behind are copied", True
        ),
        Change(
            "code the input as rates", "a spike train for each of 4 channels, its rate rounded to 4 steps", False, 1 / 8
        ),
        Change("hold what never changes", "nothing to hold", True),
        Change("absorb spike values", "a spike is worth its threshold: folded into the weights behind it", True),
    )
    assert converted(ones(2), (2,), mean=0.0).changes[3:5] == (
        Change("split the channels", "nothing to split: all of one sign", True),
        Change(
            "code the input as rates", "a spike train for each of 2 channels, its rate rounded to 4 steps", False, 1 / 8
        ),
    )


def test_replicas_and_parts_are_copied_each_on_its_own():
    """Two replicas for each activation, an ON and an OFF channel for each pixel: 2 x 3 rows, 2 x 4 columns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), NoisyQuantReLU(4, 1.0), nn.Linear(3, 2))
    hidden, readout = converted(model, (4,), replicas=2).network.populations
    assert (hidden.synapses[0].weight.shape, readout.synapses[0].weight.shape) == ((6, 8), (2, 6))
    starts = hidden.neuron.initial / hidden.neuron.threshold
    np.testing.assert_allclose(starts, [0.25, 0.75] * 3, rtol=0, atol=0.01)
    weight = hidden.synapses[0].weight
    np.testing.assert_array_equal(weight[::2], weight[1::2])
    assert np.abs(weight[:, ::2] + weight[:, 1::2]).max() <= 1  # each is rounded for what it sends


def test_an_unknown_encoding_is_refused():
    with pytest.raises(UsageError) as caught:
        converted(ones(2), (2,), input="latency")
    assert str(caught.value) == "unknown input encoding `latency`, allowed graded, rate"


def test_a_readout_reads_the_mean_rate():
    """Logits per step are W times the rounded rates, up to the rounding of the weights."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 3)).double()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 6), np.uint8)
    network = converted(model, (6,), n_steps=8).network
    expected = model(trains_in_real_numbers(pixels, (6,), 8).mean(dim=0)).detach().numpy()
    found = simulate(network, pixels).logits[:, -1] * network.readout.neuron.scale
    largest = float(model[0].weight.detach().abs().max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=7 * 0.51 * largest / 127)
