"""Fidelity: spikes and answers of the integers against the float spiking network, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion import Change, Conversion, convert
from nctool.conversion.constants import hold
from nctool.conversion.fidelity import Fidelity, FloatSpikes, SpikeError, measure_fidelity, n_images
from nctool.conversion.input_encoding import encode_input, rate_input, split_input
from nctool.conversion.trace.tracing import trace
from nctool.errors import RangeError
from nctool.fast.layer import weighted_sum
from nctool.ir.network import IntegrateFire
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from tests.support.networks import seeds
from tests.support.torch_models import binary_pixels, converted, exact_model, float_run, holds_nothing, real_input

pytestmark = pytest.mark.usefixtures("one_thread")

NOTHING_FINER = "use more --replicas, or train on with `nctool finetune`"


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.skip = linear([[0.5, 0.2]], [0.0]), linear([[1.0]], [0.0]), linear([[0.3, 0.2]], [0.0])
        self.act, self.other, self.head = NoisyQuantReLU(4, 1.0), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0])

    def forward(self, x):
        return self.head(self.other(self.b(self.act(self.a(x))) + self.skip(x)))


def no_ann(pixels: np.ndarray) -> np.ndarray:
    """Answer class 0."""
    return np.eye(1, 3).repeat(len(pixels), axis=0)


def linear(weight, bias) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def of(model: nn.Module, shape: tuple[int, ...] = (2,), n_steps: int = 4, **options) -> Conversion:
    pixels = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    settings = {"number_format": AUTAPSE_FORMAT, "calibration": pixels} | options
    return convert(model.eval(), input_shape=shape, mean=(0.0,), std=(1.0,), n_steps=n_steps, **settings)


def with_thresholds(conversion: Conversion, factor: int) -> Conversion:
    """Multiply the thresholds of the first layer: it fires less often."""
    first, *others = conversion.network.populations
    neuron = IntegrateFire(first.neuron.threshold * factor, first.neuron.initial)
    network = replace(conversion.network, populations=(replace(first, neuron=neuron), *others))
    return replace(conversion, network=network)


# --- the float network --------------------------------------------------


@given(seeds, st.integers(1, 4))
def test_the_float_network_spikes_like_torch(seed, n_steps):
    model, shape = exact_model(seed)
    pixels = binary_pixels(seed, shape)
    conversion = converted(model, shape, n_steps=n_steps)
    run = FloatSpikes.prepare(conversion.real, conversion.encoded, "subtract", n_steps)
    counts, logits = run.run(pixels)
    spikes, wanted = float_run(model, real_input(pixels), n_steps)
    for found, expected in zip(counts.values(), spikes.values(), strict=True):
        np.testing.assert_array_equal(found, expected.sum(axis=1))
    np.testing.assert_allclose(logits, np.asarray(wanted)[:, -1] / n_steps, atol=1e-9)


def test_replicas_start_side_by_side_and_a_reset_to_zero_at_0():
    """Drive 0.3, threshold 1: replicas start at 1/4 and 3/4; set to zero, 0.3, 0.6, 0.9, 1.2."""
    model = nn.Sequential(linear([[0.3, 0.0]], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    white = np.full((1, 2), 255, np.uint8)
    for options, wanted in (
        ({"replicas": 2, "n_steps": 2}, [[0, 1]]),
        ({"replicas": 2, "n_steps": 3}, [[1, 1]]),
        ({"number_format": replace(AUTAPSE_FORMAT, reset="zero")}, [[1]]),
    ):
        conversion = of(model, **options)
        run = FloatSpikes.prepare(
            conversion.real, conversion.encoded, conversion.number_format.reset, conversion.network.n_steps
        )
        assert run.run(white)[0]["0"].tolist() == wanted


@given(seeds, st.integers(1, 6), st.sampled_from(["subtract", "zero"]), st.sampled_from([rate_input, encode_input]))
def test_what_is_held_spikes_as_before(seed, n_steps, reset, code):
    rng, shape = np.random.default_rng(seed), (1, 3, 4)
    torch.manual_seed(seed)
    padding = int(rng.integers(3))
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        NoisyQuantReLU(4, 1.0),
        nn.Conv2d(4, 4, 3, padding=padding),
        NoisyQuantReLU(4, 1.0),
        nn.Flatten(),
        nn.Linear(4 * (1 + 2 * padding) * (2 + 2 * padding), 3),
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.copy_(torch.from_numpy(rng.choice([-9.0, -1.0, -0.3, 0.0, 0.3, 1.0, 9.0], 4)))
        model[5].bias[0] = float(rng.choice([-99.0, 0.0]))
    encoded = code(shape, (0.3,), (0.5,))
    before = split_input(trace(model, shape), encoded)
    after, _ = hold(before, encoded.range, replace(AUTAPSE_FORMAT, reset=reset), n_steps)
    pixels = rng.choice(np.array([0, 1, 128, 255], np.uint8), (20, *shape))
    runs = [FloatSpikes.prepare(network, encoded, reset, n_steps).run(pixels) for network in (before, after)]
    (counts, logits), (held_counts, held_logits) = runs
    for name, wanted in counts.items():
        np.testing.assert_array_equal(held_counts[name], wanted)
    np.testing.assert_array_equal(held_logits.argmax(axis=1), logits.argmax(axis=1))


def test_a_signal_is_dropped_behind_its_last_reader(monkeypatch):
    """The input and `a` are read by the sum, `a` again by none behind it."""
    seen = []
    monkeypatch.setattr(
        "nctool.conversion.fidelity.weighted_sum",
        lambda kernels, signals: seen.append(set(signals)) or weighted_sum(kernels, signals),
    )
    conversion = of(Skip())
    FloatSpikes.prepare(conversion.real, conversion.encoded, "subtract", 4).run(np.zeros((1, 2), np.uint8))
    assert seen == [{"input"}, {"input", "a"}, {"b"}]


# --- what is measured ---------------------------------------------------


def test_an_exact_network_has_no_error():
    seed = next(seed for seed in range(20) if holds_nothing(converted(*exact_model(seed), n_steps=4)))
    model, shape = exact_model(seed)
    found = measure_fidelity(
        converted(model, shape, n_steps=4), binary_pixels(seed, shape), lambda x: np.ones((len(x), 9))
    )
    assert set(found.layers.values()) == {SpikeError(0.0, 0.0)}
    assert (found.images, found.same_as_snn) == (4, 1.0)


def test_errors_by_hand():
    """Two neurons of drive 1 and 0.5, so 4 and 2 spikes in 4 steps; twice the threshold leaves 2 and 1."""
    model = nn.Sequential(
        linear([[1.0, 0.0], [0.0, 0.5]], [0.0, 0.0]),
        NoisyQuantReLU(4, 1.0),
        linear([[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]], [0.0] * 3),
    )
    conversion, white = of(model), np.full((5, 2), 255, np.uint8)
    exact = measure_fidelity(conversion, white, no_ann)
    assert exact == Fidelity(5, {"0": SpikeError(0.0, 0.0)}, 1.0, 0.0)  # logits 1 and 1.5
    halved = measure_fidelity(with_thresholds(conversion, 2), white, no_ann)
    assert halved.layers == {"0": SpikeError(np.sqrt((2**2 + 1**2) / (4**2 + 2**2)), 1.0)}
    silent = measure_fidelity(with_thresholds(conversion, 64), white, no_ann)
    assert silent.layers == {"0": SpikeError(1.0, 1.0)}
    assert (silent.same_as_snn, silent.same_as_ann) == (0.0, 1.0)  # logits of 0: the first class
    assert silent.notes(conversion) == (
        f"spikes differ grossly from the float network's, by `0` 100%: {NOTHING_FINER}",
        f"only 0.0% of the answers to 5 calibration images are the float network's: {NOTHING_FINER}",
    )
    assert silent.changes == (
        Change("compare `0`", "100.0% of spike counts differ from the float network's, on 5 images", False, None, 1.0),
        Change("compare answers", "0.0% are the float network's, 100.0% the ANN's, on 5 images", False),
    )


@pytest.mark.parametrize(("same", "images"), [(3, 8), (21, 32), (193, 256), (0, 2)])
def test_fewer_answers_than_chance_explains_are_noted(same, images):
    """Of a network that keeps 80 %, fewer than one choice of images in 20 has so few; one more is no rare thing."""
    conversion = of(nn.Sequential(linear([[1.0, 0.0]], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0])))
    assert Fidelity(images, {}, same / images, 1.0).notes(conversion) == (
        f"only {same / images:.1%} of the answers to {images} calibration images are the float network's: "
        f"{NOTHING_FINER}",
    )
    assert Fidelity(images, {}, (same + 1) / images, 1.0).notes(conversion) == ()


@pytest.mark.parametrize(("bias", "images", "is_noted"), [(9.0, 20, True), (9.0, 19, False), (0.0, 20, False)])
def test_a_network_that_answers_all_images_alike_is_noted(bias, images, is_noted):
    """Class 1 answers a bright pixel, class 0 a dark one, unless its bias is beyond both."""
    model = nn.Sequential(linear([[1.0]], [0.0]), NoisyQuantReLU(4, 1.0), linear([[0.0], [4.0]], [1.0 + bias, 0.0]))
    pixels = np.arange(images, dtype=np.uint8).reshape(-1, 1) % 2 * 255
    conversion = of(model, (1,))
    found = measure_fidelity(
        conversion, pixels, lambda part: model(torch.from_numpy(part / 255).float()).detach().numpy()
    )
    assert found.one_class is is_noted
    assert any("one class for all 20 images" in note for note in found.notes(conversion)) is is_noted


@pytest.mark.parametrize(
    ("n_steps", "options", "way_out"),
    [
        (4, {}, NOTHING_FINER),
        (1, {}, NOTHING_FINER),
        (4, {"number_format": replace(AUTAPSE_FORMAT, weight_bits=7)}, "use more --weight-bits"),
        (4, {"number_format": replace(AUTAPSE_FORMAT, reset="zero")}, "train on with `nctool finetune`"),
        (4, {"replicas": 64}, "train on with `nctool finetune`"),
        (700, {"input": "rate"}, "use fewer --steps"),
        (
            700,
            {"input": "rate", "number_format": replace(AUTAPSE_FORMAT, weight_bits=7)},
            "use fewer --steps, or more --weight-bits",
        ),
    ],
)
def test_only_options_that_help_are_named(n_steps, options, way_out):
    """Nine weights of 1 may be 131071 / 700 / 9 replicas in 700 steps, which is 20; the readout's one uses its bits."""
    model = nn.Sequential(linear([[1.0] * 9], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    conversion = of(model, (9,), n_steps, **options)
    (note,) = Fidelity(9, {"0": SpikeError(1.0, 1.0)}, 1.0, 1.0).notes(conversion)
    assert note == f"spikes differ grossly from the float network's, by `0` 100%: {way_out}"


def test_spikes_where_none_are_wanted_are_all_wrong():
    model = nn.Sequential(linear([[0.1, 0.0]], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    conversion = of(model)
    first, readout = conversion.network.populations
    firing = replace(first, bias=first.neuron.threshold.copy())
    always = replace(conversion, network=replace(conversion.network, populations=(firing, readout)))
    black = np.zeros((3, 2), np.uint8)
    assert measure_fidelity(conversion, black, no_ann).layers == {"0": SpikeError(0.0, 0.0)}
    assert measure_fidelity(always, black, no_ann).layers == {"0": SpikeError(1.0, 1.0)}


def test_the_replicas_of_an_activation_count_together():
    """Drive 0.3: the float network's second replica fires; the integers' first does not more."""
    model = nn.Sequential(linear([[0.3, 0.0]], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    conversion = of(model, replicas=2, n_steps=2)
    first, readout = conversion.network.populations
    swapped = replace(first, neuron=replace(first.neuron, initial=first.neuron.initial[::-1].copy()))
    conversion = replace(conversion, network=replace(conversion.network, populations=(swapped, readout)))
    assert measure_fidelity(conversion, np.full((1, 2), 255, np.uint8), no_ann).layers == {"0": SpikeError(0.0, 0.0)}


def test_large_networks_are_measured_on_fewer_images():
    network = of(nn.Sequential(linear([[1.0, 0.0]], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))).network
    assert n_images(network, 256) == 256
    work = 12 * 20  # 3 connections, 4 steps
    assert (n_images(network, 256, work), n_images(network, 10, work)) == (20, 10)
    assert n_images(network, 256, 1) == 8


# --- what is lost -------------------------------------------------------


def test_a_layer_whose_weights_all_round_to_0_is_refused():
    """Its bias makes it fire in some steps, so that it is not held; its thresholds are at most 127 x 128 replicas."""
    model = nn.Sequential(
        linear([[0.0, 0.0], [1e-6, 0.0]], [0.3, 0.4]), NoisyQuantReLU(4, 1.0), linear([[1.0, 1.0]], [0.0])
    )
    with pytest.raises(RangeError) as caught:
        of(model)
    assert str(caught.value) == (
        "population `0`: all its weights round to 0 over 4 time steps, beside a bias of 0.4 in channel 1\n"
        "hint: train the network again"
    )


def test_a_window_that_leaves_no_weights_is_refused():
    """Pixels of up to 127 at each of 500 steps: the accumulator holds two replicas of nine weights."""
    model = nn.Sequential(linear([[1.0] * 9], [0.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    with pytest.raises(RangeError) as caught:
        of(model, (9,), 500)
    assert caught.value.hint == "use fewer --steps"


def test_a_window_that_leaves_only_a_bias_is_refused_with_the_way_out():
    """A unit of weight adds up to 9 x 127 x 500; a threshold of about 100 units leaves none, and fills no register."""
    model = nn.Sequential(linear([[0.004] * 9], [0.3]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    with pytest.raises(RangeError) as caught:
        of(model, (9,), 500)
    assert str(caught.value) == (
        "population `0`: all its weights round to 0 over 500 time steps, beside a bias of 0.3 in channel 0\n"
        "hint: use fewer --steps"
    )


def test_a_layer_that_cannot_fire_is_noted():
    model = nn.Sequential(linear([[1.0, 1.0]], [-9.0]), NoisyQuantReLU(4, 1.0), linear([[1.0]], [0.0]))
    assert of(model).notes == ("no neuron of `0` can fire, whatever the image: train the network again",)


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.act = linear([[1.0, 0.5]], [0.0]), linear([[1e-6, 0.0]], [0.0]), NoisyQuantReLU(4, 1.0)
        self.head = linear([[1.0]], [0.0])

    def forward(self, x):
        return self.head(self.act(self.one(x) + self.two(x)))


def test_a_branch_that_is_lost_is_noted():
    number_format = replace(AUTAPSE_FORMAT, weight_exponent_max=0)
    assert of(TwoBranches(), number_format=number_format).notes == (
        "all weights of `one` from `input` round to 0: train the network again",
    )
    narrow = replace(number_format, weight_bits=7)
    assert of(TwoBranches(), number_format=narrow).notes == (
        "all weights of `one` from `input` round to 0: use more --weight-bits",
    )


# --- the command --------------------------------------------------------


def test_export_tells_and_the_file_keeps_it(digits_run: Path, tmp_path: Path):
    report = nctool.export(digits_run, tmp_path / "m.net", steps=4)
    fidelity = report.to_json()["fidelity"]
    assert fidelity["layers"].keys() == {"conv1", "conv2", "fc1"}
    assert all(0 < each["error"] < 0.5 and 0 < each["differing"] < 0.2 for each in fidelity["layers"].values())
    assert (fidelity["images"], report.notes) == (256, ())
    assert fidelity["same_as_snn"] > 0.95 and fidelity["same_as_ann"] > 0.9
    kept = nctool.inspect(tmp_path / "m.net").changes
    assert [change["step"] for change in kept[-4:]] == [
        "compare `conv1`",
        "compare `conv2`",
        "compare `fc1`",
        "compare answers",
    ]
    assert kept[-4]["output_error"] == fidelity["layers"]["conv1"]["error"]


def test_notes_name_arguments_in_python(digits_run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("nctool.conversion.fidelity.LARGEST_SPIKE_ERROR", 0.0)
    (note,) = nctool.export(digits_run, tmp_path / "m.net", steps=4, weight_bits=7).notes
    assert note.startswith("spikes differ grossly") and note.endswith(": use more weight_bits")
