"""Whole post-training conversions: how near the spiking network comes to the trained one, and that engines agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nctool.activation.rectifier import Rectifier
from nctool.conversion import Conversion
from nctool.conversion.changes import notes_of_silence
from nctool.conversion.constants import Held
from nctool.conversion.fidelity import FloatSpikes, measure_fidelity
from nctool.exporting.calibration_images import MOST_IMAGES, calibration_images
from nctool.exporting.convert import Design, Source, converted
from nctool.exporting.own_network import of_module
from nctool.fast.engine import FastEngine
from nctool.reference.simulate import simulate
from nctool.reference.trace import join
from nctool_deploy.backends.backend import find_backend

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 8, 8)


# --- networks ---------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A block with a shortcut, whose sum is rectified."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.two(torch.relu(self.one(x))) + x)
        return self.fc(x.mean((2, 3)))


class Joined(nn.Module):
    """Two branches side by side, with ReLU6 and a clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.after = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([functional.relu6(self.left(x)), self.right(x).clamp(0, 0.5)], dim=1)
        return self.fc(functional.relu(self.after(x)).flatten(1))


def plain(pooling: nn.Module | None = None, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    pool = nn.AvgPool2d(2) if pooling is None else pooling
    first = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), pool
    return nn.Sequential(*first, nn.Conv2d(6, 8, 3), activation(), nn.Flatten(), nn.Linear(32, 4))


NETWORKS = {
    "plain": plain,
    "residual": Residual,
    "joined": Joined,
    "maximum": lambda: plain(nn.MaxPool2d(2)),
    "bounded": lambda: plain(activation=nn.ReLU6),
}


def trained(name: str) -> nn.Module:
    """Return a network whose weights are drawn, and whose batch norms have seen its images."""
    torch.manual_seed(1)
    model = NETWORKS[name]().train()
    model(calibration_images(pixels(200), (0.5,), (0.25,)).normalised(pixels(200)))
    return model.eval()


def pixels(number: int, seed: int = 0) -> np.ndarray:
    """Return smooth images, so that layers see more than noise: uint8 (number, 3, 8, 8)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (number, 3, 4, 4)).astype(np.float64)
    return np.kron(coarse, np.ones((1, 1, 2, 2))).astype(np.uint8)


def source(name: str) -> Source:
    return of_module(trained(name), calibration_images(pixels(120), (0.5,), (0.25,)))


def conversion(of: Source, backend: str = "autapse", n_steps: int = 4, **options: Any) -> Conversion:
    settings = {"replicas": 1, "weight_bits": 8, "encoding": "graded"} | options
    return converted(of, Design(find_backend(backend), n_steps, **settings))


def real_logits(found: Conversion, images: np.ndarray) -> np.ndarray:
    """Return the logits of the integers after the whole window, in units of the trained network's."""
    network = found.network
    trace = join(FastEngine(network).traces(images))
    return trace.logits[:, -1] * network.readout.neuron.scale


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.square(found - wanted).mean() / np.square(wanted - wanted.mean(axis=0)).mean()) ** 0.5


# --- near the trained network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"maximum"}))
def test_logits_come_near_those_of_the_trained_network(name):
    """On images that it was not converted on; of maximum pooling, see below."""
    of, images = source(name), pixels(60, seed=5)
    wanted = of.logits(images)
    far, near, nearest = (relative(real_logits(conversion(of, n_steps=n), images), wanted) for n in (2, 8, 32))
    assert far > near > nearest
    assert nearest < 0.1


def test_replicas_do_what_steps_do():
    of, images = source("plain"), pixels(60, seed=5)
    wanted = of.logits(images)
    several = relative(real_logits(conversion(of, n_steps=4, replicas=8), images), wanted)
    assert several < 0.1 < relative(real_logits(conversion(of, n_steps=4), images), wanted)


def test_maximum_pooling_is_near_in_one_step():
    """In one step, replicas fire in the order of their starts: their OR is the maximum (rule M1)."""
    of, images = source("maximum"), pixels(60, seed=5)
    wanted = of.logits(images)
    few, many = (relative(real_logits(conversion(of, n_steps=1, replicas=k), images), wanted) for k in (4, 32))
    assert few > many
    assert many < 0.12


@pytest.mark.parametrize("replicas", [1, 3])
def test_losses_fall_with_the_window_and_are_those_of_the_spikes(replicas):
    """The loss is the root mean square of what is sent beside what the ReLU gives, relative to the latter."""
    of = source("plain")
    few, many = (conversion(of, n_steps=n, replicas=replicas) for n in (2, 16))
    assert set(few.losses) == set(many.losses) == {"0", "4"}
    assert all(few.losses[name] > many.losses[name] for name in few.losses)
    trace = join(FastEngine(many.network).traces(of.pixels))
    (threshold,) = (p.threshold for p in many.real.populations if p.name == "0")
    rates = trace.spikes["0"].mean(axis=1).reshape(len(of.pixels), 6, replicas, 8, 8).mean(axis=2)
    sent = rates * threshold[:, np.newaxis, np.newaxis]
    with torch.no_grad():
        real = torch.from_numpy((of.pixels / 255 - 0.5) / 0.25).float()
        gives = of.model.get_submodule("1")(of.model.get_submodule("0")(real)).clamp(min=0).numpy()
    assert many.losses["0"] == pytest.approx(
        float((np.square(sent - gives).mean() / np.square(gives).mean()) ** 0.5), rel=0.05
    )


def test_a_ceiling_is_kept():
    """No neuron stands for more than the bound of its ReLU6, however large the drive."""
    model = plain(activation=nn.ReLU6)
    with torch.no_grad():
        model[1].weight.fill_(50.0)
    of = of_module(model.train(), calibration_images(pixels(60), (0.5,), (0.25,)))
    ceilings = [module.ceiling for module in of.model.modules() if isinstance(module, Rectifier)]
    assert ceilings == [6.0, 6.0]
    first = conversion(of, n_steps=8, replicas=2).real.populations[0]
    assert (first.ceiling, bool((first.threshold <= 6.0 * 1.5).all())) == (6.0, True)


# --- exactly the same on every engine ---------------------------------------------------------------------------------

DESIGNS: dict[str, dict[str, Any]] = {
    "autapse": {},
    "one step": {"n_steps": 1},
    "several replicas": {"replicas": 3, "n_steps": 2},
    "four bits": {"weight_bits": 4},
    "two bits": {"weight_bits": 2},
    "per layer": {"per_layer": True},
    "spike trains": {"encoding": "rate", "n_steps": 8},
    "population": {"backend": "population", "n_steps": 1, "replicas": 4},
    "zero-reset": {"backend": "zero-reset"},
}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", NETWORKS)
def test_both_engines_compute_it(name, design):
    """Also where the backend could not build the network: its integers are converted, and lowering refuses it."""
    of, options = source(name), DESIGNS[design]
    found = conversion(of, **options)
    images = pixels(6, seed=7)
    trace = simulate(found.network, images)
    assert join(FastEngine(found.network).traces(images)) == trace
    assert set(trace.overflows.values()) == {0}
    assert found.losses
    assert all(0 <= loss < 1 for loss in found.losses.values())
    assert set(found.losses) == set(found.replicas)


def test_replicas_by_name():
    found = conversion(source("plain"), replicas={"4": 3})
    assert found.replicas == {"0": 1, "4": 3}
    assert [p.shape[0] for p in found.network.populations] == [6, 24, 4]


def test_neurons_that_a_spike_sets_to_zero_start_at_zero():
    found = conversion(source("plain"), "zero-reset")
    assert all(population.shift is None for population in found.real.populations)
    assert all(not population.start.any() for population in found.network.populations[:-1])


def test_one_threshold_a_layer_is_one():
    found = conversion(source("plain"), per_layer=True)
    assert [len(set(p.threshold.tolist())) for p in found.real.populations if p.threshold is not None] == [1, 1]
    by_channel = conversion(source("plain"))
    assert [len(set(p.threshold.tolist())) > 1 for p in by_channel.real.populations[:-1]] == [True, True]


@pytest.mark.parametrize("options", [{}, {"replicas": 4}, {"encoding": "rate", "n_steps": 8}])
def test_the_integers_are_near_the_float_network_that_was_chosen(options):
    """Both have the corrected weights, the thresholds and the starts; only rounding lies between them."""
    of = source("plain")
    found = conversion(of, **options)
    fidelity = measure_fidelity(found, of.pixels, of.logits)
    assert all(layer.error < 0.3 for layer in fidelity.layers.values())
    assert fidelity.same_as_snn > 0.85
    run = FloatSpikes.prepare(found.real, found.encoded, "subtract", found.network.n_steps)
    assert relative(real_logits(found, pixels(60, 5)), run.run(pixels(60, 5))[1]) < 0.3


def test_a_conversion_gives_the_same_integers_each_time():
    one, other = (conversion(source("residual")).network for _ in range(2))
    assert one == other


@pytest.mark.parametrize("name", ["plain", "joined", "maximum"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_whole_images_give_the_neurons_that_patches_give(name, replicas, monkeypatch):
    of_images = conversion(source(name), replicas=replicas)
    monkeypatch.setattr("nctool.conversion.post_training.choosing.WORTH_WHOLE_IMAGES", np.inf)
    of_patches = conversion(source(name), replicas=replicas)
    for by_image, by_patch in zip(of_images.real.populations[:-1], of_patches.real.populations[:-1], strict=True):
        np.testing.assert_allclose(by_image.threshold, by_patch.threshold, rtol=1e-4)
    assert of_images.losses == pytest.approx(of_patches.losses, rel=1e-3)


def test_of_many_images_some_are_drawn_the_same_each_time():
    images = pixels(MOST_IMAGES + 76)
    some = calibration_images(images, (0.5,), (0.25,))
    assert some.pixels.shape == (MOST_IMAGES, *SHAPE)
    again = calibration_images(images, (0.5,), (0.25,))
    np.testing.assert_array_equal(some.pixels, again.pixels)
    assert len(np.unique(some.pixels.reshape(512, -1), axis=0)) == 512


def test_a_note_says_why_a_layer_is_silent():
    """A layer that loses something stands for ReLUs that give something; another one is dead."""
    found = conversion(source("plain"))
    held = {"0": Held(never=6), "4": Held(never=8), "7": Held()}
    assert notes_of_silence(found.real, held, {"0": 1.0, "4": 0.0}) == (
        "no neuron of `0` can fire, whatever the image: spikes are too few to tell what its ReLUs give, convert with "
        "more --steps or --replicas",
        "no neuron of `4` can fire, whatever the image: train the network again",
    )
    assert notes_of_silence(found.real, {**held, "0": Held(never=5), "4": Held()}, found.losses) == ()


def test_a_note_says_when_answers_are_not_the_trained_networks():
    of = source("plain")
    found = conversion(of, n_steps=1)
    fidelity = replace(measure_fidelity(found, of.pixels, of.logits), same_as_snn=1.0, same_as_ann=0.5, layers={})
    worst = max(found.losses, key=found.losses.__getitem__)
    share = f"only 50.0% of the answers to {fidelity.images} images are the trained network's; `{worst}` "
    loses = f"loses most, {found.losses[worst]:.0%}: "
    assert fidelity.notes(found) == (share + loses + "convert with more --replicas",)
    zero = replace(found, number_format=replace(found.number_format, reset="zero"))
    assert fidelity.notes(zero) == (share + loses + "convert with more --steps",)
    assert replace(fidelity, same_as_ann=0.95).notes(found) == ()
    assert fidelity.notes(replace(found, losses={})) == ()


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_channel_that_is_hardly_ever_positive_does_not_refuse_the_network(bits):
    """Its threshold would be small beside its weights, which integers of few bits cannot say."""
    model = trained("plain")
    with torch.no_grad():
        drives = model[0](calibration_images(pixels(64), (0.5,), (0.25,)).normalised(pixels(64)))
        normed = model[1](drives)[:, 2]
        model[1].bias[2] -= normed.max() - 1e-4
    images = calibration_images(pixels(64), (0.5,), (0.25,))
    design = Design(find_backend("autapse"), 2, 1, bits, "graded")
    network = converted(of_module(model, images), design).network
    assert network.populations[0].neuron.threshold.min() >= 1


def test_a_network_too_large_for_all_images_says_on_how_many_it_was_converted(monkeypatch):
    monkeypatch.setattr("nctool.conversion.post_training.activations.MOST_KEPT", 32 * 6 * 8 * 8)
    (note,) = (note for note in conversion(source("plain")).notes if note.startswith("converted on"))
    assert note == "converted on 32 of 96 images: what its largest layer gives fills memory"
