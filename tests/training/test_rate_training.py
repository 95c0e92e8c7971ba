"""Training for rate input: the recipe says so, the network sees rates of the window and then the real spike trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU, in_mode
from nctool.conversion.input_encoding import rate_input
from nctool.reference.simulate import simulate
from nctool.training import (
    LabelledImages,
    Normalisation,
    ann_accuracy,
    image_encoding,
    load_checkpoint,
    measure_held_out,
    snn_accuracy,
)
from nctool.training.images.encoding import SpikeTrainEncoding
from nctool.verification.divergence import first_divergence
from nctool_deploy.lava.engine import LavaJob, run_jobs
from nctool_deploy.netx import read
from tests.support.small_run import small_data, small_fit, small_model, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = ("input.coding=rate",)


def pixels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 1, 1, -1)


# --- what the network sees ----------------------------------------------


def test_rates_and_trains_by_hand():
    """With mean 0.2 and deviation 0.5, pixel 0 is -0.4, 51 is 0, 119 a third of 1.6, 255 is 1.6.

    A third of 4096 is 1365: from 2048, the potential passes 4096 at steps 2 and 5, at 4778 and 4777.
    """
    encoding = SpikeTrainEncoding((0.2,), (0.5,), n_steps=4)
    images = pixels(0, 51, 119, 255)
    steps = torch.stack(list(encoding.steps(images, 5))).reshape(5, 4)
    assert steps.dtype == torch.float32
    expected = [[-0.4, 0, 0, 1.6], [-0.4, 0, 1.6, 1.6], [-0.4, 0, 0, 1.6], [-0.4, 0, 0, 1.6], [-0.4, 0, 1.6, 1.6]]
    np.testing.assert_allclose(steps, expected, rtol=1e-6, atol=0)
    np.testing.assert_allclose(encoding(images).reshape(4), [-0.4, 0, 0.4, 1.6], rtol=1e-6)


def test_trains_are_those_of_the_exported_network():
    """Three channels of their own mean and deviation: every image is what its encoders send, times its worth."""
    mean, std = (0.3, 0.0, 0.9), (0.5, 1.0, 0.1)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 4), np.uint8)
    encoded = rate_input((3, 2, 4), mean, std)
    sent = encoded.encoding.signal(images, 7) * encoded.step.reshape(-1, 1, 1)
    expected = sent[:, :, ::2] + sent[:, :, 1::2]
    steps = list(SpikeTrainEncoding(mean, std, 4).steps(torch.from_numpy(images), 7))
    np.testing.assert_array_equal(np.stack(steps, axis=1), expected.astype(np.float32))


def test_a_recipe_chooses_the_encoding_and_its_window():
    normalisation = Normalisation((0.4,), (0.25,))
    assert image_encoding(normalisation, small_recipe()) is normalisation
    recipe = small_recipe(*RATE, "noise.steps=3")
    assert image_encoding(normalisation, recipe) == SpikeTrainEncoding((0.4,), (0.25,), 3)


def test_graded_input_is_the_same_at_every_step():
    normalisation = Normalisation((0.4,), (0.25,))
    images = pixels(0, 9, 200)
    steps = list(normalisation.steps(images, 3))
    assert len(steps) == 3
    assert all(torch.equal(step, normalisation(images)) for step in steps)


# --- evaluation ---------------------------------------------------------


def test_the_gap_by_hand():
    """θ = 1, L = 4, T = 2, pixels 0.2 and 1.

    Graded, 0.2 is quantised to 1/4 and never makes a spike, 1 always does: gaps 1/4 and 0, a deviation of 1/8. The
    rate of 0.2 in two steps is 0, and so are both gaps.
    """
    model = nn.Sequential(nn.Flatten(), NoisyQuantReLU(4, 1.0))
    split = LabelledImages(pixels(51, 255), torch.tensor([1]))
    assert measure_held_out(model, split, Normalisation((0.0,), (1.0,)), 2).sigma == {"1": 0.125}
    assert measure_held_out(model, split, SpikeTrainEncoding((0.0,), (1.0,), 2), 2).sigma == {"1": 0.0}


def test_the_spiking_network_sees_one_step_of_the_trains_at_a_time():
    recipe, data = small_recipe(*RATE), small_data()
    model, encoding = small_model(recipe), image_encoding(data.normalisation, small_recipe(*RATE))
    with in_mode(model, "spiking"):
        logits = torch.stack([model(x) for x in encoding.steps(data.test.images, 5)]).cumsum(dim=0)
    expected = {t: float((logits[t - 1].argmax(dim=1) == data.test.labels).float().mean()) for t in (1, 2, 5)}
    assert snn_accuracy(model, data.test, encoding, [1, 2, 5]) == pytest.approx(expected)
    report = measure_held_out(model, data.test, encoding, 5)
    assert report.accuracy_snn == pytest.approx(expected[5])
    assert report.accuracy_ann == ann_accuracy(model, data.test, encoding)


# --- from recipe to file ------------------------------------------------


def test_a_run_trained_for_rates_is_measured_with_them_and_exported_so(tmp_path):
    result = small_fit(tmp_path / "run", RATE)
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.recipe.input.encoding == "rate"
    recipe, data = small_recipe(*RATE), small_data()
    model = small_model(recipe)
    model.load_state_dict(checkpoint.state)
    encoding = image_encoding(data.normalisation, recipe)
    assert result.accuracy_ann == ann_accuracy(model, data.test, encoding)
    assert result.accuracy_snn == {str(t): a for t, a in snn_accuracy(model, data.test, encoding).items()}
    exported = nctool.export(tmp_path / "run", tmp_path / "m.net", target="loihi1")
    assert exported.input == "rate"
    assert read(tmp_path / "m.net").network.has_binary_input
    graded = nctool.export(tmp_path / "run", tmp_path / "m.net", input="graded")
    assert graded.input == "graded"
    assert not read(tmp_path / "m.net").network.has_binary_input


def test_rates_change_what_is_trained(tmp_path):
    graded, rate = (small_fit(tmp_path / name, overrides) for name, overrides in (("graded", ()), ("rate", RATE)))
    assert graded.theta != rate.theta


@pytest.mark.lava
def test_every_backend_takes_spikes_of_one_bit(tmp_path):
    """Images reach a dense layer: stock netx flattens them in another order than Lava does."""
    small_fit(tmp_path / "run", (*RATE, "noise.steps=3"))
    images = small_data().test.images[:6].numpy()
    names = ("autapse", "zero-reset", "population")
    paths = {name: tmp_path / f"{name}.net" for name in names}
    for name, path in paths.items():
        nctool.export(tmp_path / "run", path, target="loihi1", backend=name)
    networks = {name: read(path).network for name, path in paths.items()}
    jobs = [LavaJob(paths[name], n.input.signal(images, n.n_steps), n.n_steps) for name, n in networks.items()]
    for (name, network), lava in zip(networks.items(), run_jobs(jobs), strict=True):
        reference = simulate(network, images)
        assert first_divergence(network, reference, lava, ("reference", "lava")) is None, name
        assert any(spikes.any() for spikes in reference.spikes.values()), name
