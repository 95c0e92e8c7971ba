"""A trained network, prepared for a window: it is what conversion chose, and trains from there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU, activations
from nctool.conversion import Conversion, convert
from nctool.conversion.fidelity import FloatSpikes
from nctool.conversion.post_training.settling import settle_norms
from nctool.conversion.post_training.taking_over import fixed_modules
from nctool.conversion.trace.prepare import rectify
from nctool.conversion.trace.tracing import trace
from nctool.errors import NctoolWarning, UnsupportedError, UsageError
from nctool.exporting import preparing
from nctool.exporting.calibration_images import calibration_images
from nctool.exporting.convert import Design, converted
from nctool.exporting.own_network import of_module
from nctool.reference.simulate import simulate
from nctool.training.finetuning import window_logits
from nctool_deploy.backends.backend import find_backend
from tests.support import user_models
from tests.support.user_models import SHAPES, trained
from tests.usermodels.test_user_models import CONVERTED

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning"),
]


class Net(nn.Module):
    """Norms behind convolutions and behind a sum, a skip, a maximum, a mean, branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.conv3 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.conv4, self.fc = nn.Conv2d(12, 5, 3, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(x) + self.conv3(x)))
        z = functional.max_pool2d(torch.cat([x, y], dim=1), 2)
        return self.fc(torch.relu(self.conv4(z)).mean((2, 3)))


def images(number: int = 100, seed: int = 0) -> Tensor:
    """Return smooth images, so that layers see more than noise."""
    coarse = torch.randn(number, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.kron(coarse, torch.ones(1, 1, 2, 2))


def network() -> nn.Module:
    torch.manual_seed(2)
    net = Net().train()
    for _ in range(3):
        net(images())
    return net.eval()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Conversion]]:
    """Give the conversions that `prepare` makes."""
    made: list[Conversion] = []

    def keep(*arguments: Any) -> Conversion:
        made.append(converted(*arguments))
        return made[-1]

    monkeypatch.setattr(preparing, "converted", keep)
    yield made


def spiking(model: nn.Module, x: Tensor, n_steps: int) -> np.ndarray:
    """Return the logits of the float spiking network of a prepared module."""
    with torch.no_grad():
        return window_logits(model.eval(), {}, x.expand(n_steps, *x.shape))[-1].numpy()


def chosen(found: Conversion, pixels: np.ndarray, n_steps: int) -> np.ndarray:
    """Return the logits of the float spiking network that conversion chose."""
    return FloatSpikes.prepare(found.real, found.encoded, found.number_format.reset, n_steps).run(pixels)[1]


@pytest.mark.parametrize("make", [network, *CONVERTED], ids=lambda make: make.__name__)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_it_is_the_network_that_conversion_chose(make, n_steps, kept):
    model, some = (network(), images()) if make is network else trained(make, SHAPES[make])
    prepared = nctool.prepare(model, some, steps=n_steps)
    calibration = calibration_images(some, None, None)
    pixels = calibration.pixels[:20]
    x = calibration.normalised(pixels)
    as_image = pixels if pixels.ndim != 3 else pixels[:, :, np.newaxis]
    wanted = chosen(kept[0], as_image, n_steps)
    np.testing.assert_allclose(spiking(prepared, x, n_steps), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    assert all(layer.levels == n_steps for layer in activations(prepared).values())


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_neurons_of_both_resets(reset, kept):
    prepared = nctool.prepare(network(), images(), steps=4, reset=reset, levels=2)
    pixels = calibration_images(images(), None, None).pixels[:20]
    x = calibration_images(images(), None, None).normalised(pixels)
    np.testing.assert_allclose(spiking(prepared, x, 4), chosen(kept[0], pixels, 4), rtol=0, atol=1e-5)
    layers = activations(prepared).values()
    assert {(layer.levels, layer.reset_to) for layer in layers} == {(2, reset)}
    assert all((layer.shifts is None) == (reset == "zero") for layer in layers)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_its_integers_answer_as_those_of_the_conversion(n_steps):
    """The input may be graded otherwise, and the weights of skips are not corrected, so they are not equal."""
    model, some = network(), calibration_images(images(400), None, None)
    prepared = nctool.prepare(model, images(400), steps=n_steps).eval()
    directly = converted(of_module(model, some), Design(find_backend("autapse"), n_steps, 1, 8, "graded"))
    number_format = find_backend("autapse").number_format
    later = convert(
        prepared,
        input_shape=(2, 8, 8),
        mean=some.mean,
        std=some.std,
        number_format=number_format,
        n_steps=n_steps,
        calibration=some.fitted,
    )
    found, wanted = (simulate(each.network, some.compared).logits[:, -1].argmax(1) for each in (later, directly))
    assert (found == wanted).mean() > 0.9


def test_the_network_that_is_given_stays_as_it_is():
    model = network().train()
    model.conv2.eval()
    before = copy.deepcopy(model.state_dict())
    prepared = nctool.prepare(model, images(), steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not model.conv2.training
    assert prepared.training and prepared.conv1.training and not prepared.conv2.training
    assert all(layer.training for layer in activations(prepared).values())
    shared = {id(p) for p in model.parameters()} & {id(p) for p in prepared.parameters()}
    assert not shared


def test_the_same_images_give_the_same_network():
    first, second = (nctool.prepare(network(), images(), steps=2).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_in_training_is_the_network_that_was_converted():
    """Of all calibration images at once, what norms see is what they were given as their statistics."""
    prepared = nctool.prepare(network(), images(), steps=2).train()
    x = calibration_images(images(), None, None)
    x = x.normalised(x.fitted)
    steps = x.expand(2, *x.shape)
    with torch.no_grad():
        trained_on = window_logits(copy.deepcopy(prepared), {}, steps)
        evaluated = window_logits(prepared.eval(), {}, steps)
    torch.testing.assert_close(trained_on, evaluated, rtol=0, atol=1e-4)


def test_norms_settle_without_a_change_of_what_they_give():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    net = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(2, 6, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)))
    with torch.no_grad():
        norm.weight.uniform_(-1, 2), norm.bias.normal_(), norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    net.eval()
    before, mean = net(images()), norm.running_mean.clone()
    settle_norms(net, images(), 1, 30)
    torch.testing.assert_close(net(images()), before, rtol=0, atol=1e-4)
    assert not torch.allclose(norm.running_mean, mean)
    seen = net.get_submodule("0")(images()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, seen.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(norm.running_var, seen.var(1, unbiased=False), rtol=1e-4, atol=0)


class Twice(nn.Module):
    """A layer that is used twice, two linear layers in a row, overlapping pooling before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.one, self.two = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 4, 1)
        self.fc = nn.Linear(4 * 3 * 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.first(x))))
        x = torch.relu(self.two(self.one(torch.relu(self.again(x)))))
        return self.fc(functional.avg_pool2d(x, 2, 2).flatten(1))


def test_what_has_no_place_is_not_changed(kept):
    torch.manual_seed(0)
    model = Twice().eval()
    rectified = rectify(model, images())
    assert {"again", "two"} <= fixed_modules(rectified, trace(rectified, (2, 8, 8)))
    prepared = nctool.prepare(model, images(), steps=2)
    for name in ("again", "one", "two"):
        assert torch.equal(prepared.get_submodule(name).weight, model.get_submodule(name).weight)
    assert not torch.equal(prepared.fc.weight, model.fc.weight)
    some = calibration_images(images(), None, None)
    x, pixels = some.normalised(some.pixels[:20]), some.pixels[:20]
    np.testing.assert_allclose(spiking(prepared, x, 2), chosen(kept[0], pixels, 2), rtol=0, atol=1e-5)


def test_thresholds_are_those_of_channels_with_the_middle_one_as_theta(kept):
    prepared = nctool.prepare(network(), images(), steps=2)
    for layer, population in zip(activations(prepared).values(), _spiking(kept[0]), strict=True):
        thresholds = layer.channel_thresholds(len(population.threshold)).numpy()
        np.testing.assert_allclose(thresholds, population.threshold, rtol=1e-6)
        assert float(layer.threshold.detach()) in thresholds.astype(np.float32)
        assert float(layer.sigma) == 0.0


def _spiking(found: Conversion) -> list[Any]:
    return [p for p in found.real.populations if p.threshold is not None and not p.maximum]


def test_a_network_of_activations_can_be_made_of_a_sequence():
    model, some = trained(user_models.KeywordSpotting, SHAPES[user_models.KeywordSpotting])
    prepared = nctool.prepare(model, some, steps=1)
    assert prepared(some[:2]).shape == model(some[:2]).shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: 0 is out of range, allowed 1..64"),
        ({"steps": 65}, "steps: 65 is out of range, allowed 1..64"),
        ({"steps": 1, "percentile": 99.0}, "percentile: given with steps, for which thresholds are chosen"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        nctool.prepare(network(), images(), **options)


def test_obstacles_are_all_told():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UnsupportedError, match=r"(?s)`1` \(GELU\).*`3` \(SiLU\)"):
        nctool.prepare(net, images(), steps=1)


def test_a_network_that_holds_what_cannot_be_copied_is_refused():
    net = network()
    net.lock = (number for number in range(3))
    with pytest.raises(UsageError, match="model `Net`: cannot be copied"):
        nctool.prepare(net, images(), steps=1)


def test_what_costs_accuracy_is_told():
    with pytest.warns(NctoolWarning, match="converted on 10 images: what is chosen by them is a guess"):
        nctool.prepare(network(), images(10), steps=1)


def test_averages_may_take_the_place_of_maxima():
    prepared = nctool.prepare(network(), images(), steps=2, pooling="average")
    assert not [m for m in prepared.modules() if isinstance(m, nn.MaxPool2d)]
    assert all(isinstance(layer, NoisyQuantReLU) for layer in activations(prepared).values())
