"""Thresholds and starts for each channel: the network is that of one threshold whose weights take up the ratios.

The ratios here are powers of 2, so that all numbers are equal, not only near.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.activation.thresholds import balanced_thresholds
from nctool.conversion import convert
from nctool.conversion.trace.tracing import trace
from nctool.errors import RangeError, UsageError
from nctool.reference.simulate import simulate
from nctool.training.accuracy import snn_accuracy
from nctool.training.finetuning import window_logits
from nctool.training.images.data import LabelledImages
from nctool.training.images.encoding import Normalisation
from nctool.training.noise import measure_held_out
from nctool.training.weight_grid import WeightGrid
from nctool_deploy.backends.backend import find_backend

pytestmark = pytest.mark.usefixtures("one_thread")

RATIOS = torch.tensor([1.0, 4.0, 0.5, 0.25, 2.0, 1.0])
AGAIN = RATIOS.flip(0)
SHIFTS = torch.tensor([0.0, 0.4, -0.3, 0.25, -0.48, 0.1])
SHAPE = (2, 6, 6)
ENCODING = Normalisation((0.5, 0.5), (0.25, 0.25))


class Net(nn.Module):
    """Two ways from the first activation to the second, pooled, and joined with a maximum of it."""

    def __init__(self, ratios: tuple[Tensor | None, Tensor | None], reset: str = "subtract") -> None:
        super().__init__()
        torch.manual_seed(3)
        shifts = SHIFTS if reset == "subtract" else None
        self.conv1, self.act1 = nn.Conv2d(2, 6, 3, padding=1), NoisyQuantReLU(3, 1.0, reset, ratios[0], shifts)
        self.conv2, self.act2 = nn.Conv2d(6, 6, 3, padding=1), NoisyQuantReLU(3, 0.5, reset, ratios[1], shifts)
        self.average, self.maximum = nn.AvgPool2d(2), nn.MaxPool2d(2)
        self.fc = nn.Linear(6 * 9 + 6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(x))
        y = self.act2(self.conv2(x))
        return self.fc(torch.cat([self.average(y), self.maximum(x)], dim=1).flatten(1))


def pair(reset: str = "subtract") -> tuple[Net, Net]:
    """Return a network with thresholds for each channel, and that of one threshold which computes the same."""
    ours, one = Net((RATIOS, AGAIN), reset).eval(), Net((None, None), reset).eval()
    with torch.no_grad():
        one.conv1.weight /= RATIOS[:, None, None, None]
        one.conv1.bias /= RATIOS
        one.conv2.weight *= RATIOS[None, :, None, None] / AGAIN[:, None, None, None]
        one.conv2.bias /= AGAIN
        one.fc.weight *= torch.cat([AGAIN, RATIOS]).repeat_interleave(9)
    return ours, one


def pixels(number: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (number, *SHAPE), np.uint8)


def split(number: int = 32) -> LabelledImages:
    return LabelledImages(torch.from_numpy(pixels(number)), torch.arange(number) % 4)


IMAGES = ENCODING(torch.from_numpy(pixels()))


# --- the activation ---------------------------------------------------------------------------------------------------


@given(
    levels=st.integers(1, 8),
    threshold=st.floats(0.1, 8),
    reset=st.sampled_from(["subtract", "zero"]),
    mode=st.sampled_from(["quantised", "rectified", "window"]),
    size=st.sampled_from([(), (5,), (3, 2)]),
    seed=st.integers(0, 1000),
)
def test_each_channel_is_an_activation_of_its_own(levels, threshold, reset, mode, size, seed):
    whole = NoisyQuantReLU(levels, threshold, reset, RATIOS)
    z = torch.randn(4, 6, *size, generator=torch.Generator().manual_seed(seed)) * 3
    ours = z.clone().requires_grad_()
    with in_mode(whole, mode, 2 if mode == "window" else 1):
        found = whole(ours)
    found.sum().backward()
    gradient = 0.0
    for channel, ratio in enumerate(RATIOS):
        alone, theirs = NoisyQuantReLU(levels, threshold * float(ratio), reset), z[:, channel].clone().requires_grad_()
        with in_mode(alone, mode, 2 if mode == "window" else 1):
            wanted = alone(theirs)
        wanted.sum().backward()
        torch.testing.assert_close(found[:, channel], wanted)
        torch.testing.assert_close(ours.grad[:, channel], theirs.grad)
        gradient += 0.0 if mode == "rectified" else float(ratio * alone.threshold.grad)
    assert gradient == pytest.approx(0.0 if mode == "rectified" else float(whole.threshold.grad), rel=1e-4, abs=1e-4)


@given(
    n_steps=st.integers(1, 6),
    threshold=st.floats(0.1, 8),
    shift=st.floats(-0.5, 0.49),
    z=st.floats(-2, 2).filter(lambda z: abs(z) > 1e-3),
)
def test_a_start_beside_the_middle_is_the_rounding_of_the_staircase(n_steps, threshold, shift, z):
    """Of one drive in a window of as many steps as levels, up to numbers at the edge of a level."""
    layer = NoisyQuantReLU(n_steps, threshold, shifts=torch.tensor([shift])).double().eval()
    layer.shifts.fill_(shift)
    drive = torch.tensor([[z * threshold]], dtype=torch.float64)
    edge = n_steps * min(max(z, 0), 1) + 0.5 + shift
    assume(abs(edge - round(edge)) > 1e-6)
    with in_mode(layer, "window", n_steps):
        at_once = layer(drive.repeat(n_steps, 1)).mean()
    with in_mode(layer, "spiking"):
        step_by_step = sum(layer(drive) for _ in range(n_steps)) / n_steps
    torch.testing.assert_close(at_once, step_by_step[0, 0])
    spikes = min(max(math.floor(n_steps * z + 0.5 + shift), 0), n_steps)
    assert float(at_once.detach()) == pytest.approx(threshold * spikes / n_steps)
    if 0 <= z <= 1:
        assert float(layer(drive).detach()) == pytest.approx(threshold * spikes / n_steps)


def test_theta_learns_from_the_start():
    """Against differences: a neuron that starts higher by a part of θ, and whose drive takes it over the ramp."""
    layer = NoisyQuantReLU(1, 2.0, shifts=torch.tensor([0.25]))
    with in_mode(layer, "window"):
        layer(torch.tensor([[1.0]])).sum().backward()
    one = NoisyQuantReLU(1, 2.0)
    theta = one.threshold
    with in_mode(one, "window"):
        one(torch.tensor([[1.0]]) + 0.25 * theta).sum().backward()
    assert float(layer.threshold.grad) == pytest.approx(float(theta.grad))


def test_noise_is_as_wide_as_the_ratio_says():
    layer = NoisyQuantReLU(2, 1.0, ratios=RATIOS).train()
    layer.sigma.fill_(0.1)
    torch.manual_seed(0)
    noise = layer(torch.full((20_000, 6), -1.0)).detach()
    torch.testing.assert_close(noise.std(0), 0.1 * RATIOS, rtol=0.03, atol=0)


def test_one_threshold_is_saved_as_before_and_ratios_are_saved_beside():
    assert list(NoisyQuantReLU(4).state_dict()) == ["threshold", "sigma"]
    layer = NoisyQuantReLU(4, ratios=torch.ones(6), shifts=torch.zeros(6))
    layer.load_state_dict(NoisyQuantReLU(4, ratios=RATIOS, shifts=SHIFTS).state_dict())
    assert torch.equal(layer.ratios, RATIOS)
    assert torch.equal(layer.shifts, SHIFTS)
    assert "ratios=0.25..4" in repr(layer)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (torch.tensor([1.0, 0.0]), "`ratios` hold 0, allowed: positive numbers"),
        (torch.tensor([1.0, float("nan")]), "`ratios` hold nan"),
        (torch.tensor([1.0, float("inf")]), "`ratios` hold inf"),
    ],
)
def test_ratios_are_positive(ratios, message):
    with pytest.raises(RangeError, match=message):
        NoisyQuantReLU(4, ratios=ratios)


@pytest.mark.parametrize("shift", [0.51, -0.51, float("nan")])
def test_a_neuron_starts_between_0_and_its_threshold(shift):
    with pytest.raises(RangeError, match=rf"`shifts` hold {shift:g}, allowed: -0.5..0.5"):
        NoisyQuantReLU(4, shifts=torch.tensor([0.0, shift]))


def test_neurons_that_are_reset_to_zero_start_at_zero():
    with pytest.raises(RangeError, match='`shifts` with reset "zero", allowed "subtract"'):
        NoisyQuantReLU(4, reset="zero", shifts=SHIFTS)


def test_ratios_are_one_a_channel():
    with pytest.raises(UsageError, match=r"`ratios` of shape \(2, 3\), allowed \(channels,\)"):
        NoisyQuantReLU(4, ratios=torch.ones(2, 3))
    with pytest.raises(UsageError, match=r"got \(5, 4\), allowed \(N, 6, …\)"):
        NoisyQuantReLU(4, ratios=RATIOS)(torch.ones(5, 4))
    with pytest.raises(RangeError, match="are 6, allowed one for each of 4 channels"):
        NoisyQuantReLU(4, ratios=RATIOS).channel_thresholds(4)
    with pytest.raises(RangeError, match="`shifts` are 6, allowed one for each of 4 channels"):
        NoisyQuantReLU(4, shifts=SHIFTS).channel_shifts(4)


# --- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_network_computes_what_that_of_one_threshold_computes(reset):
    ours, one = pair(reset)
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES), one(IMAGES))
        steps = IMAGES.expand(3, *IMAGES.shape)
        torch.testing.assert_close(window_logits(ours, {}, steps), window_logits(one, {}, steps))
    assert snn_accuracy(ours, split(), ENCODING, (1, 3)) == snn_accuracy(one, split(), ENCODING, (1, 3))


@pytest.mark.parametrize("on_chip", [False, True])
def test_the_gap_is_that_of_one_threshold(on_chip):
    networks = [None, None]
    if on_chip:
        networks = [converted(model) for model in pair()]
    found, wanted = (
        measure_held_out(model, split(), ENCODING, 3, network) for model, network in zip(pair(), networks, strict=True)
    )
    assert found.sigma == pytest.approx(wanted.sigma, rel=1e-5)
    assert found.sigma["act2"] > 0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_rounded_as_the_products_with_thresholds_that_are_exported(bits):
    ours, one = pair()
    rounded, wanted = (WeightGrid(model, IMAGES, bits).weights() for model in (ours, one))
    assert torch.equal(rounded["conv1.weight"], wanted["conv1.weight"] * RATIOS[:, None, None, None])
    assert torch.equal(
        rounded["conv2.weight"], wanted["conv2.weight"] / RATIOS[None, :, None, None] * AGAIN[:, None, None, None]
    )
    of_features = torch.cat([AGAIN, RATIOS]).repeat_interleave(9)
    assert torch.equal(rounded["fc.weight"], wanted["fc.weight"] / of_features)


def test_groups_of_a_convolution_read_their_own_channels():
    model = nn.Sequential(NoisyQuantReLU(2, ratios=RATIOS), nn.Conv2d(6, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2))
    rounded = WeightGrid(model, torch.zeros(1, 6, 1, 1), 3).weights()["1.weight"].detach()
    products = rounded[:, :, 0, 0] * RATIOS.reshape(2, 3).repeat_interleave(2, 0)
    unit = products.abs().amax(1, keepdim=True) / 3
    torch.testing.assert_close(products / unit, (products / unit).round(), rtol=0, atol=1e-5)


def test_balanced_thresholds_keep_the_ratios():
    found, wanted = (balanced(model) for model in pair())
    assert found == pytest.approx(wanted, rel=1e-6)


def balanced(model: Net) -> dict[str, float]:
    with in_mode(model, "rectified"):
        return balanced_thresholds(model, activations(model), IMAGES, 99.0)


def test_it_is_traced_with_its_thresholds():
    populations = {p.name: p for p in trace(pair()[0], SHAPE).populations}
    assert populations["conv1"].threshold == pytest.approx(RATIOS.numpy())
    assert populations["maximum"].threshold == pytest.approx(RATIOS.numpy())
    assert populations["conv2"].threshold == pytest.approx(0.5 * AGAIN.numpy())
    assert populations["conv1"].starts[:, 0] == pytest.approx((RATIOS * (0.5 + SHIFTS)).numpy())
    assert populations["conv2"].starts[:, 0] == pytest.approx((0.5 * AGAIN * (0.5 + SHIFTS)).numpy())


@pytest.mark.parametrize("backend", ["autapse", "population"])
def test_its_integers_are_those_of_one_threshold(backend):
    ours, one = (converted(model, backend) for model in pair())
    for found, wanted in zip(ours.populations[:-1], one.populations[:-1], strict=True):
        assert np.array_equal(found.neuron.threshold, wanted.neuron.threshold)
        assert np.array_equal(found.neuron.initial, wanted.neuron.initial)
        for synapse, same in zip(found.synapses, wanted.synapses, strict=True):
            assert np.array_equal(synapse.weight, same.weight)


def converted(model: Net, backend: str = "autapse"):
    return convert(
        model,
        input_shape=SHAPE,
        mean=ENCODING.mean,
        std=ENCODING.std,
        number_format=find_backend(backend).number_format,
        n_steps=1 if backend == "population" else 3,
        calibration=pixels(),
    ).network


def test_spikes_of_the_float_network_are_nearly_those_of_its_integers():
    """Where the integers start in the middle, half of the answers are others."""
    model, images = pair()[0], torch.from_numpy(pixels(200))
    with in_mode(model, "spiking"):
        wanted = sum(model(ENCODING(images)) for _ in range(3)).argmax(1).numpy()
    found = simulate(converted(model), images.numpy()).logits[:, -1].argmax(1)
    assert (found == wanted).mean() > 0.9
