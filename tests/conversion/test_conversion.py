"""Conversion: the integer network spikes like the float network it came from, and fits its accumulators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import Change, Conversion, convert
from nctool.conversion.quantise.calibration import MARGIN
from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.ir.bounds import prove, prove_population
from nctool.ir.network import ACCUMULATOR_LIMIT, Bound, IntegrateFire, RateEncoding
from nctool.ir.number_format import LONGEST_WINDOW
from nctool.reference.simulate import simulate
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from tests.support.networks import dense, measured, read_out, seeds
from tests.support.torch_models import act, float_run, holds_nothing

pytestmark = pytest.mark.usefixtures("one_thread")

THETA = 64.0
UNIT_STD = 1 / 127
"""With mean 0, pixels 0 and 255 enter as 0 and 127, and the step of the input is exactly 1."""


def converted(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    n_steps: int = 4,
    weight_bits: int = 8,
    mean: float = 0.0,
    std: float = 1.0,
    calibration: np.ndarray | None = None,
    input: str = "graded",  # noqa: A002  # as in convert
) -> Conversion:
    pixels = np.random.default_rng(0).integers(0, 256, (32, *shape), np.uint8) if calibration is None else calibration
    return convert(
        model,
        input_shape=shape,
        mean=(mean,),
        std=(std,),
        number_format=replace(AUTAPSE_FORMAT, weight_bits=weight_bits),
        n_steps=n_steps,
        calibration=pixels,
        input=input,
    )


# --- equal spikes -------------------------------------------------------


def integers(layer: nn.Conv2d | nn.Linear, rng: np.random.Generator, worth: float, shrink: int = 1) -> nn.Module:
    """Give `layer` weights that become integers, one of them ±127 in each channel, when a source is worth `worth`."""
    weight = rng.integers(-127, 128, tuple(layer.weight.shape)) // shrink
    flat = weight.reshape(len(weight), -1)
    flat[:, 0] = rng.choice([-127, 127], len(flat))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(flat.reshape(weight.shape) / worth))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(2.0 * rng.integers(-20, 21, len(flat))))
    return layer


def halving(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Return a norm that halves: the convolution before it has weights of twice the size."""
    with torch.no_grad():
        norm.weight.fill_(0.5)
    return norm


def exact_model(seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return a small network, in float64, that integers represent exactly at a scale of 1, and its input's shape."""
    rng = np.random.default_rng(seed)
    groups, channels = (2, 4) if rng.integers(2) else (1, int(rng.integers(1, 4)))
    stride, padding = int(rng.integers(1, 3)), int(rng.integers(0, 2))
    conv1 = nn.Conv2d(2, channels, 2, padding=padding, groups=groups, bias=bool(rng.integers(2)))
    conv2 = nn.Conv2d(channels, 2, 2, stride=stride, padding=padding)
    model = nn.Sequential(
        integers(conv1, rng, 0.5, shrink=20),  # 127 + 7 · 7 times 127 stays within the accumulator for 5 steps
        halving(nn.BatchNorm2d(channels, eps=0.0)),
        NoisyQuantReLU(4, THETA),
        nn.AvgPool2d(2),
        integers(conv2, rng, THETA / 4, shrink=int(rng.choice([1, 4]))),
        NoisyQuantReLU(4, THETA),
        nn.Flatten(),
    ).double()
    shape = (2, 9 - 2 * padding, 7 - 2 * padding)  # so that the pooling tiles
    size = model.eval()(torch.zeros(1, *shape, dtype=torch.float64)).shape[1]
    hidden = integers(nn.Linear(size, 5), rng, THETA)
    model.extend([hidden, NoisyQuantReLU(4, THETA), integers(nn.Linear(5, 3), rng, THETA)])
    return model.double(), shape


def binary_pixels(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 255], np.uint8), (4, *shape))


@given(seeds, st.integers(1, 5))
def test_integers_spike_like_the_float_network_where_they_represent_it_exactly(seed, n_steps):
    model, shape = exact_model(seed)
    pixels = binary_pixels(seed, shape)
    conversion = converted(model, shape, n_steps=n_steps, std=UNIT_STD)
    assume(holds_nothing(conversion))  # what is held has another scale
    network = conversion.network
    assert all((p.neuron.threshold == THETA).all() for p in network.populations[:-1])
    spikes, logits = float_run(model, torch.from_numpy(pixels / 255 * 127), n_steps)
    trace = simulate(network, pixels)
    for found, expected in zip(trace.spikes.values(), spikes.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(trace.logits, logits)
    assert network.readout.neuron.scale == 1 / n_steps
    assert set(trace.overflows.values()) == {0}


def test_the_exact_networks_do_spike():
    """The test above compares something: there are spikes, and there are silences."""
    share = []
    for seed in range(5):
        model, shape = exact_model(seed)
        trace = simulate(converted(model, shape, std=UNIT_STD).network, binary_pixels(seed, shape))
        share += [float(spikes.mean()) for spikes in trace.spikes.values()]
    assert 0.2 < np.mean(share) < 0.8


@given(seeds)
def test_rounded_logits_are_near_the_float_logits(seed):
    """A readout alone has no threshold to cross: the logits differ by the rounding of weights and input only."""
    torch.manual_seed(seed % 2**31)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 3, 2, 2), np.uint8)
    network = converted(model, (3, 2, 2), mean=0.5, std=0.5).network
    found = simulate(network, pixels).logits[:, -1] * network.readout.neuron.scale
    expected = model(torch.from_numpy((pixels / 255 - 0.5) / 0.5)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=12 * 2 * 0.5 / 127)


# --- shapes and corner cases -------------------------------------------


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (
            nn.Sequential(nn.Conv2d(2, 4, 1, stride=3), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
            {"0": (4, 3, 2), "4": (3,)},
        ),
        (
            nn.Sequential(
                nn.Conv2d(2, 4, 1, stride=3), act(), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(8, 3)
            ),
            {"0": (4, 3, 2), "4": (3,)},
        ),
        (
            nn.Sequential(
                nn.Conv2d(2, 4, (3, 1), groups=2), act(), nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Linear(36, 3)
            ),
            {"0": (4, 6, 6), "4": (3,)},
        ),
        (
            nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2), nn.Conv2d(2, 1, 1), act(), nn.Flatten(), nn.Linear(2, 3)),
            {"2": (1, 2, 1), "5": (3,)},
        ),
    ],
)
def test_a_converted_network_has_the_shapes_of_its_model(model, shapes):
    network = converted(model, (2, 8, 6)).network
    assert {p.name: p.shape for p in network.populations} == shapes
    assert simulate(network, np.zeros((1, 2, 8, 6), np.uint8)).logits.shape == (1, 4, 3)


def linear(weight, bias=0.0) -> nn.Linear:
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float64).expand(len(weight)))
    return layer


def test_a_channel_without_weights_keeps_its_bias():
    model = nn.Sequential(linear([[0.0, 0.0], [1.0, 1.0]], [0.75, 0.0]), act(), linear([[1.0, 1.0]]))
    network = converted(model, (2,)).network
    hidden = network.populations[0]
    assert hidden.synapses[0].weight.tolist()[0] == [0, 0]
    assert hidden.bias[0] / hidden.neuron.threshold[0] == pytest.approx(0.75, abs=0.01)
    spikes = simulate(network, np.zeros((1, 2), np.uint8)).spikes["0"][0, :, 0]
    assert spikes.tolist() == [True, True, False, True]  # 1.25, 1.0, 0.75, 1.5 thresholds


@pytest.mark.parametrize("weight", [[[-1.0, -0.5]], [[0.0, 0.0]]])
def test_a_layer_that_never_fires_is_converted(weight):
    model = nn.Sequential(linear(weight, -0.1), act(), linear([[2.0], [-1.0]], [3.0, 4.0]))
    network = converted(model, (2,)).network
    trace = simulate(network, np.array([[0, 0], [255, 255]], np.uint8))
    assert not trace.spikes["0"].any()
    assert network.populations[0].bound.high == 0
    np.testing.assert_allclose(trace.logits[:, -1] * network.readout.neuron.scale, [[3, 4]] * 2, rtol=0.02)


def test_a_network_of_zeros_is_converted():
    network = converted(nn.Sequential(linear([[0.0]]), act(), linear([[0.0], [0.0]])), (1,)).network
    assert simulate(network, np.full((1, 1), 255, np.uint8)).logits.tolist() == [[[0, 0]] * 4]


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_keep_their_bits(bits):
    torch.manual_seed(bits)
    model = nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 3))
    network = converted(model, (6,), weight_bits=bits).network
    largest = [int(np.abs(p.synapses[0].weight).max()) for p in network.populations]
    assert max(largest) == 2 ** (bits - 1) - 1
    lower(network, find_target("lava"))


@given(seeds, st.integers(2, 8), st.floats(0.3, 20.0))
def test_what_is_converted_can_be_lowered(seed, bits, threshold):
    """Thresholds are m·2^e with one e ≤ 7, the initial potential is half of them, the biases fit."""
    torch.manual_seed(seed % 2**31)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), act(threshold), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )
    try:
        network = converted(model, (1, 6, 6), weight_bits=bits, mean=0.2, std=0.3).network
    except RangeError as error:
        assert "would need a threshold of" in error.message
        return
    for population in network.populations:
        if isinstance(population.neuron, IntegrateFire):
            threshold = population.neuron.threshold
            np.testing.assert_array_equal(population.neuron.initial, threshold // 2)
    lowered = lower(network, find_target("loihi"))
    assert lowered.network is network


# --- bounds -------------------------------------------------------------


def ones(features: int) -> nn.Module:
    """Return a readout whose only weight is 1: at full scale, a pixel counts 127 · 127."""
    return nn.Sequential(linear(np.ones((1, features))))


@pytest.fixture
def eight_bit_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grade the input as finely as it goes, whatever that costs the weights."""
    monkeypatch.setattr("nctool.conversion.quantise.input_precision.LARGEST", (127,))


@pytest.mark.parametrize(
    ("features", "weight", "kind"),
    [
        (8, 127, "proved"),  # 8 · 127 · 127 = 129032 fits
        (9, 111, "proved"),  # lowered by 131071 / 145161 · 0.98, one bit at most
        (16, 62, "proved"),  # 258064 is 1.97 times the accumulator
    ],
)
def test_the_scale_gives_up_a_bit_for_a_proof(eight_bit_input, features, weight, kind):
    network = converted(ones(features), (features,), n_steps=1).network
    readout = network.readout
    assert np.abs(readout.synapses[0].weight - weight).max() <= 2  # rounding moves them apart
    assert readout.bound == prove(network)["0"].bound(kind)
    assert 0.97 * ACCUMULATOR_LIMIT < readout.bound.high <= ACCUMULATOR_LIMIT


def test_beyond_a_bit_the_bound_is_measured(eight_bit_input):
    dark = np.full((4, 17), 10, np.uint8)  # table 5: 17 · 5 · 127 = 10795
    readout = converted(ones(17), (17,), n_steps=1, calibration=dark).network.readout
    assert readout.synapses[0].weight.max() == 127
    assert readout.bound == Bound("calibrated", 0, 17 * 5 * 127 * 2, 2.0)


def test_a_measured_bound_lowers_the_scale_too(eight_bit_input):
    bright = np.full((4, 17), 255, np.uint8)
    network = converted(ones(17), (17,), n_steps=1, calibration=bright).network
    bound = network.readout.bound
    assert bound == Bound("calibrated", 0, int(simulate(network, bright).logits.max() * MARGIN), MARGIN)
    assert 0.9 * ACCUMULATOR_LIMIT < bound.high <= ACCUMULATOR_LIMIT


def test_a_channel_of_zeros_leaves_the_scale_of_another_alone(eight_bit_input):
    model = nn.Sequential(nn.Linear(9, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 9))
    readout = converted(model, (9,), n_steps=1).network.readout
    assert readout.synapses[0].weight[1].tolist() == [0] * 9
    assert int(readout.synapses[0].weight[0, 0]) in (111, 112)  # as in a layer of the other channel only, above


def test_a_wide_layer_is_calibrated_a_narrow_one_proved_and_nothing_overflows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2000, 20), act(4.0), nn.Linear(20, 5))
    pixels = np.random.default_rng(1).integers(0, 256, (100, 2000), np.uint8)
    network = converted(model, (2000,), mean=0.5, std=0.25, calibration=pixels).network
    assert [p.bound.kind for p in network.populations] == ["calibrated", "proved"]
    trace = simulate(network, pixels, potentials=True)
    assert set(trace.overflows.values()) == {0}
    hidden = network.populations[0]
    found = measured(trace.potentials["0"] - hidden.per_neuron(hidden.neuron.initial))
    bound = hidden.bound
    assert (bound.low, bound.high) == (int(np.floor(found.low.min() * MARGIN)), int(np.ceil(found.high.max() * MARGIN)))
    assert trace.spikes["0"].any()


def test_a_calibrated_layer_behind_a_calibrated_layer_is_measured_on_its_spikes():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(900, 900), act(0.5), nn.Linear(900, 3))
    with torch.no_grad():
        model[2].weight.fill_(0.1)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 900), np.uint8)
    network = converted(model, (900,), mean=0.5, std=0.25, calibration=pixels).network
    assert [p.bound.kind for p in network.populations] == ["calibrated", "calibrated"]
    trace = simulate(network, pixels)
    assert set(trace.overflows.values()) == {0}
    assert network.readout.bound.high == int(np.ceil(trace.logits.max() * MARGIN))


@given(seeds, st.integers(1, 8))
def test_proved_bounds_are_those_of_the_weights(seed, n_steps):
    torch.manual_seed(seed % 2**31)
    model = nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 4))
    network = converted(model, (5,), n_steps=n_steps).network
    for population in network.populations:
        assert population.bound == prove(network)[population.name].bound("proved")
        assert population.head_room_bits >= 0


@pytest.mark.parametrize(("n_steps", "hint"), [(1, "train with weight decay"), (2, "use fewer --steps")])
def test_what_cannot_be_made_to_fit_is_refused(monkeypatch, n_steps, hint):
    monkeypatch.setattr("nctool.conversion.quantise.accumulator.MAX_ROUNDS", 1)
    with pytest.raises(RangeError) as caught:
        converted(ones(9), (9,), n_steps=n_steps)
    assert str(caught.value) == (f"population `0`: no scale keeps its accumulated input within +-131071\nhint: {hint}")


# --- the list of changes ------------------------------------------------


def test_the_input_is_graded_more_coarsely_where_the_accumulator_is_short_of_bits():
    """A wide layer at T = 16: with 8-bit input its weights would keep a few levels only."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 30), act(2.0), nn.Linear(30, 5))
    pixels = np.random.default_rng(1).integers(0, 256, (64, 784), np.uint8)
    network = converted(model, (784,), mean=0.5, std=0.25, n_steps=16, calibration=pixels).network
    assert 7 <= network.input.table.max() < 127
    float_logits = float_run(model, torch.from_numpy((pixels / 255 - 0.5) / 0.25).float(), 16)[1][:, -1]
    agree = (simulate(network, pixels).logits[:, -1].argmax(axis=1) == float_logits.argmax(axis=1)).mean()
    assert agree > 0.9


def test_a_narrow_network_keeps_all_eight_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), act(0.125), nn.Linear(6, 4))
    network = converted(model, (5,)).network
    assert np.abs(network.populations[0].synapses[0].weight).max() > 64
    assert network.input.table.max() == 127


def test_every_step_says_what_it_changed():
    model = nn.Sequential()
    model.conv = nn.Conv2d(1, 2, 3)
    model.norm = nn.BatchNorm2d(2)
    model.act = act()
    model.pool = nn.AvgPool2d(2)
    model.flat = nn.Flatten()
    model.fc = nn.Linear(8, 3)
    conversion = converted(model, (1, 6, 6))
    conv, fc = conversion.network.populations
    top = int(conversion.network.input.table.max())
    assert conversion.changes[:6] == (
        Change("fold batch norm", "into conv", True),
        Change("fold average pooling", "into fc", True),
        Change("copy units", "one unit for each activation", True),
        Change("grade the input", f"pixels as integers 0..{top}, one step per channel", False, 0.5 / top),
        Change("hold what never changes", "nothing to hold", True),
        Change("absorb spike values", "a spike is worth its threshold: folded into the weights behind it", True),
    )
    for change, population in zip(conversion.changes[6:], (conv, fc), strict=True):
        weight = population.synapses[0].weight
        assert change.step == f"round `{population.name}`"
        assert change.detail == (
            f"weights {weight.min()}..{weight.max()} of 8 bits; "
            f"bound proved, head-room {population.head_room_bits:.2f} bits"
        )
        assert not change.exact
        per_channel = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
        assert 0 < change.worst_error <= 0.5 / (per_channel.min() - 0.5)


def test_nothing_to_fold_is_said():
    assert converted(ones(2), (2,)).changes[:2] == (
        Change("fold batch norm", "nothing to fold", True),
        Change("fold average pooling", "nothing to fold", True),
    )


# --- what is refused ----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "first_line"),
    [
        ({"n_steps": 0}, UsageError, "steps: 0 is out of range, allowed 1..1032"),
        ({"n_steps": 1033}, UsageError, "steps: 1033 is out of range, allowed 1..1032"),
        (
            {"calibration": np.zeros((0, 2), np.uint8)},
            UsageError,
            "calibration: number of samples is 0, allowed >= 1",
        ),
        (
            {"calibration": np.zeros((3, 4), np.uint8)},
            RangeError,
            "input: got uint8 (4,) per sample, allowed uint8 (2,)",
        ),
        (
            {"std": 0.0},
            RangeError,
            "input: mean (0.0,) and deviation (0.0,), allowed one or 2 of each, deviations above 0",
        ),
        ({"weight_bits": 9}, UsageError, "weight bits: 9 is out of range, allowed 2..8"),
    ],
)
def test_arguments_out_of_range_are_refused(options, kind, first_line):
    with pytest.raises(kind) as caught:
        converted(ones(2), (2,), **options)
    assert str(caught.value).splitlines()[0] == first_line


def test_the_longest_window_is_the_last_that_holds_a_weight_of_8_bits():
    """Of one connection that gets a spike at every step: 127 times 1032 is 131064, and one step more leaves 131071."""

    def reached(n_steps: int) -> int:
        readout = read_out(dense("input", [[127]]))
        return int(prove_population(readout, rate, n_steps).high[0])

    rate = RateEncoding((1,), np.full((1, 256), 1, np.int16), 1)
    assert reached(LONGEST_WINDOW) == 131_064 <= ACCUMULATOR_LIMIT < reached(LONGEST_WINDOW + 1)
    found = converted(ones(1), (1,), n_steps=LONGEST_WINDOW, input="rate").network
    assert (found.n_steps, found.readout.synapses[0].weight.ravel().tolist()) == (1032, [127])


def test_what_tracing_refuses_is_refused():
    with pytest.raises(UnsupportedError) as caught:
        converted(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), (2,))
    assert str(caught.value) == (
        "module `1` (ReLU) cannot be converted\nhint: nctool.prepare puts a NoisyQuantReLU there: train it"
    )


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            nn.Sequential(nn.Conv2d(1, 2, 5), act(), nn.Flatten(), nn.Linear(2, 1)),
            "module `0` (Conv2d): its kernel reaches beyond the padded image, which is (4, 4) unpadded",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), act(), nn.AvgPool2d(5), nn.Flatten(), nn.Linear(2, 1)),
            "module `2` (AvgPool2d): its kernel reaches beyond the padded image, which is (4, 4) unpadded",
        ),
    ],
)
def test_a_kernel_beyond_the_image_is_refused(model, text):
    with pytest.raises(UnsupportedError) as caught:
        converted(model, (1, 4, 4))
    assert str(caught.value).splitlines()[0] == text
