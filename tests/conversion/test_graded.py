"""Graded neurons for the activations of a network: units, shifts, maxima, upper bounds, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.rectifier import Rectifier
from nctool.conversion import Conversion, convert
from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.graded.neurons import bounded, maximum_neurons
from nctool.conversion.graded.units import trained_units
from nctool.conversion.trace.tracing import trace
from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.fast.engine import FastEngine
from nctool.ir.geometry import ConvGeometry
from nctool.ir.network import GradedReadout, IntNetwork, Population, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool.reference.simulate import simulate
from tests.support.networks import as_pixels, dense, graded, random_window, read_out, seeds, signed_input
from tests.support.torch_models import on_both_engines

pytestmark = pytest.mark.usefixtures("one_thread")

FORMAT = IntegerFormat(
    weight_bits=8,
    threshold_mantissa_max=1,
    threshold_exponent_max=0,
    bias_max=16320,
    weight_exponent_max=7,
    accumulator_max=2**23 - 1,
    weight_exponent_min=-16,
    activation_bits=8,
)
SHAPE = (2, 6, 6)


class Skip(nn.Module):
    """A residual block with a grouped convolution, average and maximum pooling, a bounded activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act1 = nn.Conv2d(2, 4, 3, padding=1), Rectifier()
        self.second, self.act2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), Rectifier()
        self.pool, self.act3 = nn.MaxPool2d(3, 2, 1), Rectifier(1.0)
        self.third, self.mean = nn.Conv2d(4, 6, 1), nn.AvgPool2d(3)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.act1(self.first(x))
        joined = self.act2(self.second(first) + first)
        return self.last(self.mean(self.act3(self.third(self.pool(joined)))).flatten(1))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Skip().eval()


def pixels_of(seed: int, n: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), np.uint8)


def to_graded(model: nn.Module, seed: int = 0, **changed: object) -> Conversion:
    return convert(
        model,
        input_shape=SHAPE,
        mean=(0.5,) * 2,
        std=(0.25,) * 2,
        number_format=replace(FORMAT, **{k: v for k, v in changed.items() if k.endswith("bits")}),  # type: ignore[arg-type]
        n_steps=int(changed.get("n_steps", 1)),  # type: ignore[call-overload]
        calibration=pixels_of(seed),
        **{k: v for k, v in changed.items() if k in ("replicas", "input")},  # type: ignore[arg-type]
    )


def real_logits(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy((pixels / 255 - 0.5) / 0.25).float()), np.float64)


def logits(network: IntNetwork, pixels: np.ndarray) -> np.ndarray:
    found = on_both_engines(network, pixels).logits[:, -1]
    assert isinstance(network.readout.neuron, GradedReadout)
    return found * network.readout.neuron.scale


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    centred = wanted - wanted.mean(axis=0)
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(centred).mean()))


@settings(max_examples=15)
@given(seeds)
def test_a_network_of_relus_answers_as_it_did(seed):
    """Skip, groups, both poolings, an upper bound; on images that it was not converted on."""
    model, fresh = network(seed), pixels_of(seed + 1, 40)
    converted = to_graded(model, seed)
    assert relative_error(logits(converted.network, fresh), real_logits(model, fresh)) < 0.12
    assert set(converted.losses) == {"first", "second", "third"} and max(converted.losses.values()) < 0.05
    assert converted.network.n_steps == 1


@settings(max_examples=8)
@given(seeds)
def test_more_bits_lose_less(seed):
    model, fresh = network(seed), pixels_of(seed + 1, 40)
    wanted = real_logits(model, fresh)

    def error(**bits: int) -> float:
        return relative_error(logits(to_graded(model, seed, **bits).network, fresh), wanted)

    assert error(activation_bits=12) < error(activation_bits=5) < error(activation_bits=2)
    assert error(weight_bits=8) < error(weight_bits=3)


@settings(max_examples=10)
@given(seeds, st.integers(2, 16))
def test_bounds_hold_and_nothing_overflows(seed, bits):
    converted = to_graded(network(seed), seed, activation_bits=bits)
    found = simulate(converted.network, pixels_of(seed + 1, 40), potentials=True)
    for population in converted.network.populations:
        assert population.bound is not None
        assert population.bound.low <= found.potentials[population.name].min()
        assert found.potentials[population.name].max() <= population.bound.high
        assert population.head_room_bits >= 0
    assert set(found.overflows.values()) == {0}


def test_most_activations_fit_the_bits_that_were_asked_for():
    """Units are chosen so that 99.9 of 100 activations of a channel are below 2**bits, and not far below."""
    for bits in (4, 8):
        trace_of = simulate(to_graded(network(1), 1, activation_bits=bits).network, pixels_of(1))
        for name in ("first", "second"):
            channels = trace_of.spikes[name][:, 0].swapaxes(0, 1).reshape(4, -1)
            bulk = np.percentile(channels, 99, axis=1)
            assert (bulk < 2**bits).all()
            assert bulk.max() > 2**bits / 5


# --- maxima and upper bounds ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seeds)
def test_G5_maxima_of_any_window_are_exact(seed):
    rng = np.random.default_rng(seed)
    source = (int(rng.integers(1, 4)), *rng.integers(3, 8, 2).tolist())
    drawn = random_window(rng, source[1:])
    window = np.asarray(drawn.pop("window"))
    taps = np.tile(window.astype(float), (source[0], 1, 1, 1))
    geometry = ConvGeometry(groups=source[0], **drawn)  # type: ignore[arg-type]
    synapse = FloatSynapse("pool", "x", source, taps, np.zeros(source[0]), geometry)
    shape = (source[0], *geometry.output_size(source, window.shape))
    real = FloatPopulation("pool", shape, (synapse,), np.ones(source[0]), maximum=True, graded=True)
    x = Population(
        "x", source, graded("x", dense("input", [[1]])).neuron, np.zeros(source[0], np.int64), (identity(source),)
    )
    neurons = maximum_neurons(real)
    assert (neurons[-1].name, neurons[-1].shape) == ("pool", shape)
    assert len(neurons) == 1 + int(np.ceil(np.log2(max(window.sum(), 1))))
    out = replace(read_out(dense("pool", np.eye(int(np.prod(shape)), dtype=int))), neuron=GradedReadout(1.0))
    whole = IntNetwork(signed_input(*source), (x, *neurons, out), 1)
    values = rng.integers(-128, 128, (5, *source))
    found = on_both_engines(whole, as_pixels(values)).logits[:, 0].reshape(5, *shape)
    padded = np.pad(np.maximum(values, 0), [(0, 0), (0, 0), *[(p, p) for p in geometry.padding]])
    for y, x_ in np.ndindex(*shape[1:]):
        rows, columns = (
            at * step + np.arange(taps_) * dil
            for at, step, taps_, dil in zip((y, x_), geometry.stride, window.shape, geometry.dilation, strict=True)
        )
        seen = np.where(window, padded[:, :, rows][..., columns], 0)
        np.testing.assert_array_equal(found[:, :, y, x_], seen.max(axis=(2, 3)))


def identity(shape: tuple[int, ...]):

    return Synapse("input", np.ones((shape[0], 1, 1, 1), np.int32), conv=ConvGeometry(groups=shape[0]))


@given(seeds, st.booleans())
def test_G6_an_upper_bound_costs_a_neuron_and_half_a_unit_at_most(seed, on_image):
    """min(max(0, z), a), with z rounded up where it was rounded down: they differ by one in the last place."""
    rng = np.random.default_rng(seed)
    shift, most = int(rng.integers(0, 5)), rng.integers(1, 60, 3)
    population = graded("a", dense("input", rng.integers(-127, 128, (3, 4)), -shift), bias=rng.integers(-30, 31, 3))
    if on_image:
        population = replace(population, shape=(3, 1, 1), synapses=(reshaped(population),))
    below, capped = bounded(population, most)
    assert [below.name, capped.name] == ["a.below", "a"]
    out = replace(read_out(dense("a", np.eye(3, dtype=int))), neuron=GradedReadout(1.0))
    shape = (4, 1, 1) if on_image else (4,)
    pixels = rng.integers(0, 256, (20, *shape), np.uint8)
    alone, both = (
        simulate(IntNetwork(signed_input(*shape), (*parts, out), 1), pixels).logits[:, 0]
        for parts in ((population,), (below, capped))
    )
    wanted = np.minimum(alone, most)
    assert np.abs(both - wanted).max() <= (shift > 0)
    assert both.max() <= most.max() and both.min() >= 0
    assert bounded(population, None) == [population]


def reshaped(population: Population):
    (synapse,) = population.synapses
    return replace(synapse, weight=synapse.weight[:, :, None, None], conv=ConvGeometry())


# --- networks of trained levels ---------------------------------------------------------------------------------------


class Trained(nn.Module):
    """Activations with thresholds and levels of their own."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3), NoisyQuantReLU(levels, 0.7), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("bits", "levels", "steps"), [(8, 4, 252), (4, 4, 12), (3, 4, 4), (2, 4, 3), (8, 5, 255)])
def test_trained_levels_are_whole_numbers(bits, levels, steps):
    """Where the bits hold them; 252 = 63 * 4. The largest number is worth the threshold."""
    traced = trace(Trained(levels), SHAPE)
    first, pool, out = trained_units(traced, replace(FORMAT, activation_bits=bits)).populations
    np.testing.assert_allclose(first.threshold, 0.7 / steps)
    np.testing.assert_array_equal(first.most, np.full(4, steps))
    np.testing.assert_array_equal(pool.threshold, first.threshold)
    assert out.threshold is None and first.graded and pool.graded and out.graded


def test_a_trained_network_keeps_its_thresholds():
    torch.manual_seed(0)
    model = Trained().eval()
    converted = to_graded(model)
    names = [population.name for population in converted.network.populations]
    assert names == ["layers.0.below", "layers.0", "layers.2.level1", "layers.2.level2", "layers.2", "layers.4"]
    fresh = pixels_of(5)
    found = logits(converted.network, fresh)
    clipped = nn.Sequential(model.layers[0], Rectifier(0.7), *model.layers[2:])
    assert relative_error(found, real_logits(clipped, fresh)) < 0.03
    assert simulate(converted.network, fresh).spikes["layers.0"].max() == 252
    assert converted.losses == {}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"input": "rate"}, "input: spike trains, graded neurons take numbers"),
        ({"replicas": 2}, "replicas: 2 for `first`, graded neurons allow 1: each sends all there is"),
    ],
)
def test_what_graded_neurons_have_no_use_for_is_refused(changed, text):
    with pytest.raises(UnsupportedError) as caught:
        to_graded(network(0), **changed)
    assert caught.value.message == text


@pytest.mark.parametrize("bits", [1, 17])
def test_activation_bits_out_of_range_are_refused(bits):
    with pytest.raises(UsageError, match=f"activation bits: {bits} is out of range, allowed 2..16"):
        replace(FORMAT, activation_bits=bits)


def test_a_drive_without_room_is_refused():
    """Weights that cancel on the calibration images in no way fit 24 bits where the limit is set low."""
    with pytest.raises(RangeError) as caught:
        convert(
            network(0),
            input_shape=SHAPE,
            mean=(0.5,) * 2,
            std=(0.25,) * 2,
            number_format=replace(FORMAT, accumulator_max=100),
            n_steps=1,
            calibration=pixels_of(0),
        )
    assert caught.value.message.startswith("population `first`: its drive may reach ")
    assert caught.value.message.endswith(", allowed 100")
    assert caught.value.hint == "use fewer --activation-bits or fewer --weight-bits"


def test_a_bias_without_room_makes_the_unit_larger():
    model = network(0)
    with torch.no_grad():
        model.first.bias[0] = 40.0  # of activations around 1
    converted = to_graded(model, activation_bits=16)
    (bias,) = [p.bias for p in converted.network.populations if p.name == "first"]
    assert 15900 < np.abs(bias).max() <= FORMAT.bias_max
    fresh = pixels_of(7)
    np.testing.assert_allclose(logits(converted.network, fresh), real_logits(model, fresh), rtol=1e-3)


def test_the_engine_runs_summaries_of_what_was_converted():
    converted, pixels = to_graded(network(2), 2).network, pixels_of(2, 8)
    (summary,) = FastEngine(converted).summaries(pixels)
    expected = simulate(converted, pixels)
    assert summary == expected.summary()


# --- numbers that leave little room -----------------------------------------------------------------------------------


class Cancelling(nn.Module):
    """Two branches whose sums are large, and take each other away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.d, self.e = (nn.Conv2d(i, o, 1) for i, o in ((2, width), *[(width, width)] * 3))
        self.acts = nn.ModuleList([Rectifier(), Rectifier(), Rectifier()])
        self.last = nn.Linear(width * 36, 3)
        with torch.no_grad():
            self.a.weight.abs_()
            self.d.weight[:], self.e.weight[:] = 1.0, -1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.acts[0](self.a(x))
        return self.last(self.acts[2](self.d(a) + self.e(self.acts[1](self.b(a)))).flatten(1))


def test_O3_sums_that_only_cancel_behind_their_shift_are_refused_or_held():
    pixels = pixels_of(0)
    for bits in (8, 16):
        try:
            network_of = to_graded(Cancelling(64).eval(), activation_bits=bits).network
        except RangeError as error:
            assert "its weighted sum from `a` may reach" in error.message
        else:
            assert set(simulate(network_of, pixels).overflows.values()) == {0}


def test_a_layer_that_is_silent_leaves_the_answer_to_the_bias():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), Rectifier(), nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        model[0].bias -= 50
    found = logits(to_graded(model).network, pixels_of(3))
    np.testing.assert_allclose(found, real_logits(model, pixels_of(3)), atol=2e-4)


def test_a_bias_that_keeps_channels_silent_costs_no_bits():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), Rectifier(), nn.Flatten(), nn.Linear(128, 3)).eval()
    with torch.no_grad():
        model[0].bias[::2] -= 50
    error = {
        bits: relative_error(
            logits(to_graded(model, activation_bits=bits).network, pixels_of(3)), real_logits(model, pixels_of(3))
        )
        for bits in (6, 12)
    }
    assert error[12] < error[6] < 0.1


@pytest.mark.parametrize("bound", [6.0, 50.0, 1e4])
def test_bounds_that_are_seldom_reached_cost_nothing(bound):
    """With small weights behind a norm, the unit takes up the bound; one far out of reach is left out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), Rectifier(bound), nn.Flatten(), nn.Linear(128, 3)).eval()
    with torch.no_grad():
        model[0].weight[0] *= 1e-3
    converted = to_graded(model, activation_bits=8)
    assert relative_error(logits(converted.network, pixels_of(3)), real_logits(model, pixels_of(3))) < 0.1
    assert any(p.name.endswith(".below") for p in converted.network.populations) == (bound < 1e3)


def test_parts_of_a_threshold_leave_room_for_the_bias():
    traced = trace(Trained(), SHAPE)
    (first, *_) = trained_units(traced, replace(FORMAT, activation_bits=16)).populations
    assert (first.most + np.abs(first.bias) / first.threshold).max() <= FORMAT.bias_max


def test_a_layer_that_is_called_below_is_no_bound():
    """Its name ends as those of the populations behind an upper bound do."""
    layers = {"below": nn.Conv2d(2, 4, 3), "act": Rectifier(), "flat": nn.Flatten(), "out": nn.Linear(64, 3)}

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.ModuleDict(layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            head = self.head
            return head["out"](head["flat"](head["act"](head["below"](x))))

    steps = [change.step for change in to_graded(Named().eval()).changes]
    assert "round `head.below`" in steps and "bound activations" not in steps
