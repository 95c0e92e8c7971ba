"""A network that is trained from the start begins with thresholds from its data, unless the recipe gives one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nctool.errors import RangeError
from nctool.nq import activations
from nctool.recipe import OwnSettings
from nctool.training import fit
from nctool.training.first_thresholds import start_thresholds
from nctool.training.metrics import read_metrics
from tests.small_run import small_data, small_fit, small_model, small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = "activation.threshold_init=data"


def thresholds(model: nn.Module) -> list[float]:
    return [float(layer.threshold.detach()) for layer in activations(model).values()]


def started(*overrides: str) -> nn.Module:
    recipe, data = small_recipe(DATA, *overrides), small_data()
    model = small_model(recipe)
    start_thresholds(model, data, data.normalisation, recipe)
    return model


def percentile(values: Tensor) -> float:
    return float(torch.quantile(values[values > 0], 0.99).detach())


def test_one_in_a_hundred_positive_inputs_of_a_relu_network_lies_above():
    model, data = started("model.batch_norm=false"), small_data()
    first, second = (model.get_submodule(name) for name in ("fc1", "fc2"))
    z1 = first(data.normalisation(data.train.images).flatten(1))
    z2 = second(functional.relu(z1))
    assert thresholds(model) == pytest.approx([percentile(z1), percentile(z2)])


def test_batch_normalisation_of_a_fresh_network_takes_its_statistics_from_the_images():
    """With its own, mean 0 and variance 1, pre-activations would have the scale of the weights."""
    model, data = started(), small_data()
    z = model.get_submodule("fc1")(data.normalisation(data.train.images).flatten(1))
    normalised = (z - z.mean(0)) / torch.sqrt(z.var(0, unbiased=False) + 1e-5)
    assert thresholds(model)[0] == pytest.approx(percentile(normalised), rel=1e-5)


def test_nothing_but_the_thresholds_is_changed():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    model, fresh = started("model.dropout=0.5"), small_model(small_recipe(DATA))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training == fresh.training
    for (name, got), expected in zip(model.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(got, expected) is not name.endswith("threshold"), name


def test_a_number_in_the_recipe_is_that_of_every_layer():
    assert thresholds(started("activation.threshold_init=3.5")) == [3.5, 3.5]


def test_a_network_of_your_own_keeps_its_thresholds():
    recipe, data = small_recipe("activation.threshold_init=0.7"), small_data()
    model = small_model(recipe)
    own = recipe.model_copy(
        update={"model": OwnSettings(architecture="own"), "activation": small_recipe(DATA).activation}
    )
    start_thresholds(model, data, data.normalisation, own)
    assert thresholds(model) == pytest.approx([0.7, 0.7])


def test_a_network_that_is_trained_with_relus_is_not_measured_before():
    assert thresholds(started("activation.function=relu", "noise.source=none")) == [1.0, 1.0]


def test_an_activation_that_is_never_positive_is_named():
    data = small_data()
    recipe = small_recipe(DATA, "model.batch_norm=false")
    model = small_model(recipe)
    nn.init.constant_(model.get_submodule("fc1").bias, -1000.0)
    with pytest.raises(RangeError) as caught:
        start_thresholds(model, data, data.normalisation, recipe)
    assert str(caught.value) == (
        "activation `act1`: is 0 on all 100 images, so it has no threshold\n"
        "hint: set activation.threshold_init to a number"
    )


def test_training_starts_from_them(tmp_path):
    small_fit(tmp_path, [DATA, "training.epochs=1", "training.learning_rate=1e-6"])
    (epoch,) = read_metrics(tmp_path)
    assert list(epoch.theta.values()) == pytest.approx(thresholds(started()), rel=1e-3)


def test_a_resumed_run_keeps_what_was_trained(tmp_path):
    def stop(done, total, message=""):
        if message.startswith("epoch 3/"):
            raise KeyboardInterrupt

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small_fit(whole, [DATA])
    with pytest.raises(KeyboardInterrupt):
        small_fit(parts, [DATA], progress=stop)
    small_fit(parts, [DATA], resume=True)
    assert (parts / "checkpoint.safetensors").read_bytes() == (whole / "checkpoint.safetensors").read_bytes()


def test_a_trained_network_keeps_its_thresholds_when_it_is_fine_tuned(tmp_path):
    recipe = small_recipe(DATA, "finetune.epochs=1", "finetune.learning_rate=1e-6")
    model = small_model(small_recipe("activation.threshold_init=0.7"))
    fit(model, small_data(), recipe, tmp_path, trained=True)
    assert thresholds(model) == pytest.approx([0.7, 0.7], abs=1e-4)


def test_direct_training_starts_from_them_too(tmp_path):
    small_fit(tmp_path, [DATA, "training.epochs=0", "finetune.epochs=1", "finetune.learning_rate=1e-6"])
    (epoch,) = read_metrics(tmp_path)
    assert list(epoch.theta.values()) == pytest.approx(thresholds(started()), rel=1e-3)
