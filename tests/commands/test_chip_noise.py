"""Noise of source "chip": σ is the gap to the integer network that will be exported, after every epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU, activations
from nctool.conversion import convert
from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.recipe.schema import ChipSettings
from nctool.reference.simulate import simulate
from nctool.training import LabelledImages, Normalisation, chip, image_encoding, load_checkpoint, measure_held_out
from nctool_deploy.backends.backend import BACKENDS, find_backend
from nctool_deploy.netx import read
from nctool_models import load_recipe, restore_model
from tests.support.small_run import POOLED, epoch_lines, small_data, small_fit, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

CHIP = ("noise.source=chip",)
AUTAPSE = find_backend("autapse").number_format
TOO_SMALL = replace(AUTAPSE, accumulator_max=1)
PLAIN = Normalisation((0.0,), (1.0,))


def integer(model, images, number_format=AUTAPSE, **options):
    settings = {"mean": (0.0,), "std": (1.0,), "number_format": number_format, "calibration": images.numpy(), **options}
    return convert(model, input_shape=tuple(images.shape[1:]), **settings).network


# --- the gap ------------------------------------------------------------


def two_channels() -> nn.Sequential:
    """Weights 1 and 1/2, θ = 1.6, L = 4: an input of 1 is quantised to 1.2 and 0.4."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), NoisyQuantReLU(4, 1.6), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.5]]))
        model[1].bias.zero_()
    return model.eval()


@pytest.mark.parametrize(
    ("n_steps", "replicas", "gaps"),
    [
        # One replica starts at 0.8: at step 1 it has 1.8, which is a spike, and 1.3, which is none.
        (1, 1, (1.2 - 1.6, 0.4)),
        # At step 2 the first has 0.2 + 1, no spike, and the second 1.8, a spike: rates of 1/2.
        (2, 1, (1.2 - 0.8, 0.4 - 0.8)),
        # Two replicas start at 0.4 and 1.2: of both channels, the second only has a spike.
        (1, 2, (1.2 - 0.8, 0.4 - 0.8)),
    ],
)
def test_the_gap_by_hand(n_steps, replicas, gaps):
    """An image of 1 has these gaps in its two channels, an image of 0 has none."""
    model = two_channels()
    images = torch.tensor([255, 0], dtype=torch.uint8).reshape(2, 1, 1, 1)
    network = integer(model, images, n_steps=n_steps, replicas=replicas)
    split = LabelledImages(images, torch.tensor([0, 0]))
    report = measure_held_out(model, split, PLAIN, n_steps, network)
    assert report.sigma == {"2": pytest.approx(np.std([*gaps, 0, 0]), rel=1e-5)}


class Residual(nn.Module):
    """A block with a skip, whose activations are registered in another order than they run, all of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.sum_act, self.inner_act, self.stem_act = (NoisyQuantReLU(4, theta) for theta in (2.0, 1.0, 1.5))
        self.head = nn.Linear(2 * 9, 2)
        self.outer, self.inner, self.stem = (nn.Conv2d(channels, 2, 3, padding=1) for channels in (2, 2, 1))
        for parameter in self.parameters():
            parameter.data.abs_()  # so that every neuron spikes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.stem_act(self.stem(x))
        branch = self.outer(self.inner_act(self.inner(first)))
        return self.head(torch.flatten(self.sum_act(first + branch), 1))


POPULATIONS = {"stem_act": "stem", "inner_act": "inner", "sum_act": "outer"}


@pytest.mark.parametrize("replicas", [1, 3])
def test_each_activation_of_a_residual_network_is_compared_with_its_population(replicas):
    torch.manual_seed(0)
    model = Residual().eval()
    images = torch.randint(256, (40, 1, 3, 3), dtype=torch.uint8)
    network = integer(model, images, n_steps=3, replicas=replicas)
    assert [population.name for population in network.populations[:-1]] == list(POPULATIONS.values())
    trace, quantised = simulate(network, images.numpy()), {}
    for name, layer in activations(model).items():
        layer.register_forward_hook(lambda _module, _inputs, out, name=name: quantised.update({name: out.detach()}))
    with torch.no_grad():
        model(PLAIN(images))
    expected = {}
    for name, population in POPULATIONS.items():
        spikes = trace.spikes[population].reshape(40, 3, 2, replicas, 3, 3)
        theta = float(getattr(model, name).threshold.detach())
        expected[name] = (quantised[name].numpy() - theta * spikes.mean(axis=(1, 3))).std()
    report = measure_held_out(model, LabelledImages(images, torch.zeros(40, dtype=torch.int64)), PLAIN, 3, network)
    assert report.sigma == pytest.approx(expected, rel=1e-4)
    assert report.accuracy_snn == (trace.logits[:, -1].argmax(axis=1) == 0).mean()
    assert len({round(value, 3) for value in expected.values()} - {0.0}) == 3


def test_an_activation_that_is_used_twice_has_no_population_of_its_own():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), NoisyQuantReLU(4, 1.0), nn.Linear(4, 4), nn.Linear(4, 2))
    model.insert(4, model[2])
    images = torch.randint(256, (5, 1, 2, 2), dtype=torch.uint8)
    network = integer(model.eval(), images, n_steps=2)
    with pytest.raises(UnsupportedError) as caught:
        measure_held_out(model, LabelledImages(images, torch.zeros(5, dtype=torch.int64)), PLAIN, 2, network)
    assert str(caught.value) == (
        "model: activations 1, populations that spike 2, allowed one for each\n"
        "hint: give every layer a NoisyQuantReLU of its own"
    )


def test_only_so_many_held_out_images_run_on_the_integer_network(monkeypatch):
    monkeypatch.setattr("nctool.training.noise.MAX_CHIP_IMAGES", 3)
    model, images = two_channels(), torch.randint(256, (9, 1, 1, 1), dtype=torch.uint8)
    network, split = integer(model, images, n_steps=2), LabelledImages(images, torch.zeros(9, dtype=torch.int64))
    few = measure_held_out(model, split.first(3), PLAIN, 2, network)
    assert measure_held_out(model, split, PLAIN, 2, network) == few


# --- training -----------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "overrides"),
    [
        ("autapse", ("chip.replicas=2", "chip.weight_bits=3", "noise.steps=2")),
        ("autapse", ("input.coding=rate",)),
        ("zero-reset", ("chip.backend=zero-reset", "activation.reset=zero")),
        ("population", ("chip.backend=population", "noise.steps=1", "chip.replicas=4")),
        ("autapse", (POOLED, "chip.replicas=2", "noise.steps=2")),
        ("zero-reset", (POOLED, "chip.backend=zero-reset", "activation.reset=zero")),
        ("population", (POOLED, "chip.backend=population", "noise.steps=1", "chip.replicas=4")),
    ],
)
def test_noise_is_that_of_the_network_that_is_exported(tmp_path, backend, overrides):
    """σ of the epoch that is kept is measured again on what `export` makes of the checkpoint without an option."""
    recipe = small_recipe(*CHIP, *overrides)
    number_format = replace(find_backend(backend).number_format, weight_bits=recipe.chip.weight_bits)
    result = small_fit(tmp_path, (*CHIP, *overrides), number_format=number_format)
    assert {line["noise_source"] for line in epoch_lines(tmp_path)} == {"chip"}
    assert result.ideal_epochs == 0
    exported = nctool.export(tmp_path, tmp_path / "m.net", target="lava")
    network = read(tmp_path / "m.net").network
    assert (exported.backend, exported.steps) == (backend, recipe.noise.steps)
    assert set(exported.replicas.values()) == {recipe.chip.replicas}
    assert nctool.inspect(tmp_path / "m.net").weight_bits == recipe.chip.weight_bits
    held_out = small_data().held_out
    correct = simulate(network, held_out.images.numpy()).logits[:, -1].argmax(axis=1) == held_out.labels.numpy()
    assert epoch_lines(tmp_path)[result.best_epoch - 1]["validation_accuracy_snn"] == {
        str(recipe.noise.steps): correct.mean()
    }
    restored, encoding = restore_model(load_checkpoint(tmp_path)), image_encoding(small_data().normalisation, recipe)
    again = measure_held_out(restored, held_out, encoding, recipe.noise.steps, network, batch_size=16)
    assert again.sigma == pytest.approx(result.sigma, rel=1e-6)


def test_options_go_before_the_chip_of_the_recipe(tmp_path):
    chosen = ("noise.steps=2", "chip.replicas=2", "chip.weight_bits=4")
    small_fit(tmp_path, (*CHIP, *chosen), number_format=replace(AUTAPSE, weight_bits=4))
    exported = nctool.export(tmp_path, tmp_path / "a.net", target="lava", steps=3, replicas=1, weight_bits=5)
    assert (exported.steps, set(exported.replicas.values())) == (3, {1})
    assert nctool.inspect(tmp_path / "a.net").weight_bits == 5
    other = nctool.export(tmp_path, tmp_path / "b.net", target="lava", backend="population")
    assert (other.steps, set(other.replicas.values())) == (1, {4})
    assert nctool.inspect(tmp_path / "b.net").weight_bits == 4


def test_one_seed_gives_the_same_bytes_twice_and_other_weights_than_ideal_noise(tmp_path):
    small_fit(tmp_path / "a", CHIP, number_format=AUTAPSE)
    small_fit(tmp_path / "b", CHIP, number_format=AUTAPSE)
    a, b = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in "ab")
    assert a == b
    assert small_fit(tmp_path / "c").theta != small_fit(tmp_path / "d", CHIP, number_format=AUTAPSE).theta


def test_two_and_two_epochs_equal_four(tmp_path):
    def interrupt(done, total, message=""):
        if message.startswith("epoch 3/"):
            raise KeyboardInterrupt

    small_fit(tmp_path / "whole", CHIP, number_format=AUTAPSE)
    with pytest.raises(KeyboardInterrupt):
        small_fit(tmp_path / "parts", CHIP, number_format=AUTAPSE, progress=interrupt)
    small_fit(tmp_path / "parts", CHIP, number_format=AUTAPSE, resume=True)
    whole, parts = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_where_no_integers_fit_noise_is_that_of_the_float_network(tmp_path):
    result, ideal = small_fit(tmp_path / "chip", CHIP, number_format=TOO_SMALL), small_fit(tmp_path / "ideal")
    assert (result.ideal_epochs, ideal.ideal_epochs) == (4, 0)
    assert (result.theta, result.sigma) == (ideal.theta, ideal.sigma)
    assert [line["noise_source"] for line in epoch_lines(tmp_path / "chip")] == ["ideal"] * 4


def test_an_epoch_that_does_not_fit_the_chip_is_not_chosen(tmp_path, monkeypatch):
    conversions = []

    def only_the_second_fits(*arguments, **options):
        conversions.append(arguments)
        if len(conversions) != 2:
            raise RangeError("population `fc1`: no scale fits")
        return convert(*arguments, **options)

    monkeypatch.setattr(chip, "convert", only_the_second_fits)
    result = small_fit(tmp_path, CHIP, number_format=AUTAPSE)
    assert [line["noise_source"] for line in epoch_lines(tmp_path)] == ["ideal", "chip", "ideal", "ideal"]
    assert (result.best_epoch, result.ideal_epochs) == (2, 3)


def test_what_cannot_be_converted_at_all_ends_the_training(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise UnsupportedError("module `act` (Tanh): cannot be converted")

    monkeypatch.setattr(chip, "convert", refuse)
    with pytest.raises(UnsupportedError, match="cannot be converted"):
        small_fit(tmp_path, CHIP, number_format=AUTAPSE)


def test_a_chip_needs_its_integer_format(tmp_path):
    with pytest.raises(UsageError) as caught:
        small_fit(tmp_path, CHIP)
    assert str(caught.value) == (
        'recipe: `noise.source` is "chip", but no integer format is given\nhint: use nctool.train'
    )


def test_a_recipe_knows_the_backends_of_spiking_networks():
    of_spikes = {backend.name for backend in BACKENDS if not backend.number_format.is_graded}
    assert set(get_args(ChipSettings.model_fields["backend"].annotation)) == of_spikes


def test_the_command_trains_for_the_chip_of_the_recipe_and_says_where_it_did_not_fit(cli, tmp_path, monkeypatch):
    formats = []

    def refuse(_model, *, number_format, **_options):
        formats.append(number_format)
        raise RangeError("population `fc1`: no scale fits")

    monkeypatch.setattr(chip, "convert", refuse)
    sets = ("training.epochs=2", *CHIP, "chip.backend=zero-reset", "chip.weight_bits=4")
    options = [part for each in sets for part in ("--set", each)]
    done = cli("train", "digits-mlp", "-o", tmp_path / "run", *options)
    assert done.code == 0
    assert "noise of 2 epochs is that of the float network: no integers fitted" in done.out
    assert formats == [replace(find_backend("zero-reset").number_format, weight_bits=4)] * 2
    assert load_recipe(tmp_path / "run" / "recipe.toml").chip == ChipSettings(backend="zero-reset", weight_bits=4)
