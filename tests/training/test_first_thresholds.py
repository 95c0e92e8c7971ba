"""A network that is trained from the start begins with thresholds from its data, unless the recipe gives one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nctool import prepare
from nctool.activation.noisy_quant import activations
from nctool.activation.staircase import activate
from nctool.errors import NctoolWarning, RangeError, UsageError
from nctool.recipe.schema import OwnSettings
from nctool.training import fit
from nctool.training.metrics import read_metrics
from nctool.training.stages import start_thresholds
from tests.support.small_run import small_data, small_fit, small_model, small_recipe

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


class Small(nn.Module):
    """A residual network with batch norms, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.fc = nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(x + self.norm2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))

    def drives(self, x: Tensor) -> list[Tensor]:
        """Return what its two activations get, in the mode that it has."""
        first = self.norm1(self.conv1(x))
        return [first, first.relu() + self.norm2(self.conv2(first.relu()))]


SEEN = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
NOT_SEEN = (
    "batch norm `norm1` and 1 more: no data seen, so thresholds were measured with the statistics of the images; if "
    "the network is pretrained, load its weights first"
)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_a_network_of_your_own_that_is_not_trained_takes_them_from_the_images(training, momentum):
    own = Small().train(training)
    for norm in (own.norm1, own.norm2):
        norm.momentum = momentum
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    with pytest.warns(NctoolWarning) as caught:
        prepared = prepare(own, SEEN, percentile=99.0)
    assert [str(warning.message) for warning in caught] == [NOT_SEEN]
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    assert thresholds(prepared) == pytest.approx([percentile(drive) for drive in own.train().drives(SEEN)], rel=1e-5)


@pytest.mark.parametrize("counted", [True, False])
def test_a_network_of_your_own_that_is_trained_keeps_its_statistics(counted):
    """Files of old versions of torch hold statistics, but no count of batches."""
    own = Small()
    for _ in range(3):
        own(SEEN * 2)
    own.eval()
    if not counted:
        own.norm1.num_batches_tracked.zero_()
        own.norm2.num_batches_tracked.zero_()
    assert thresholds(prepare(own, SEEN, percentile=99.0)) == pytest.approx(
        [percentile(z) for z in own.drives(SEEN)], rel=1e-5
    )


def test_statistics_of_one_value_are_refused():
    own = nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(UsageError) as caught:
        prepare(own, SEEN[:1])
    assert str(caught.value) == (
        "images: (1, 2, 8, 8) do not fit the model (expected more than 1 value per channel when training, got input "
        "size torch.size([1, 4]))\n"
        "hint: it takes more than one image, of the size that it is trained on; pooling windows must tile them"
    )


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


# --- thresholds of least squared error --------------------------------------------------------------------------------


def ann_gap(model: nn.Module, prepared: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        return float((prepared.eval()(images) - model.eval()(images)).square().mean())


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("levels", [1, 3, 8])
def test_the_nearest_threshold_is_that_of_least_squared_error(levels, reset):
    """Of a ReLU alone in front of the logits, no threshold of a fine grid is nearer."""
    values = torch.randn(4000, generator=torch.Generator().manual_seed(levels)).abs() ** 1.5
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (net[1], net[3]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    (layer,) = activations(prepare(net, values[:, None], levels=levels, reset=reset)).values()

    def error(theta: float) -> float:
        return float((activate(values, torch.tensor(theta), levels, reset, None) - values).square().mean())

    grid = torch.linspace(0.02, 1.0, 400) * float(values.max())
    assert error(layer.threshold.item()) <= 1.02 * min(error(float(theta)) for theta in grid)


def test_prepare_takes_the_thresholds_that_answer_most_like_the_network():
    torch.manual_seed(3)
    own = Small().eval()
    for _ in range(3):
        own.train()(SEEN)
    chosen, balanced = (prepare(own.eval(), SEEN, levels=2, **asked) for asked in ({}, {"percentile": 99.0}))
    assert thresholds(chosen) != thresholds(balanced)
    assert ann_gap(own, chosen, SEEN) < ann_gap(own, balanced, SEEN)
