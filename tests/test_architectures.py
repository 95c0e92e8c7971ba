"""The networks of the model zoo: names, shapes, sizes, seeds, and images that do not fit."""

import pytest
import torch
from torch import nn

from nctool.errors import RecipeError
from nctool.nq import NoisyQuantReLU, activations
from nctool.recipe import ActivationSettings, CnnSettings, LenetSettings, MlpSettings, SmallVggSettings
from nctool_models import build_model

ACTIVATION = ActivationSettings(levels=3, threshold_init=2.5)
CONVERTIBLE = (
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.Linear,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Dropout,
    NoisyQuantReLU,
)

MLP = MlpSettings(architecture="mlp", hidden=(12, 8))
CNN = CnnSettings(architecture="cnn", channels=(4, 6), kernel=3, hidden=10)
LENET = LenetSettings(architecture="lenet", channels=(6, 16), hidden=(120, 84))
SMALL_VGG = SmallVggSettings(architecture="small-vgg", channels=(4, 6, 8))


def build(model, shape=(1, 8, 8), n_classes=5, **options):
    return build_model(model, shape, n_classes, ACTIVATION, **options)


def names(model):
    return " ".join(dict(model.named_children()))


@pytest.mark.parametrize(
    ("settings", "shape", "layers"),
    [
        (MLP, (1, 8, 8), "flatten fc1 bn1 act1 fc2 bn2 act2 fc3"),
        (MLP.model_copy(update={"batch_norm": False}), (1, 8, 8), "flatten fc1 act1 fc2 act2 fc3"),
        (MLP.model_copy(update={"dropout": 0.2}), (1, 8, 8), "flatten fc1 bn1 act1 drop1 fc2 bn2 act2 drop2 fc3"),
        (CNN, (1, 8, 8), "conv1 bn1 act1 conv2 bn2 act2 pool1 flatten fc1 act3 fc2"),
        (
            LENET,
            (1, 28, 28),
            "conv1 bn1 act1 pool1 conv2 bn2 act2 pool2 flatten fc1 bn3 act3 fc2 bn4 act4 fc3",
        ),
        (
            SMALL_VGG,
            (3, 32, 32),
            "conv1 bn1 act1 conv2 bn2 act2 pool1 conv3 bn3 act3 conv4 bn4 act4 pool2 "
            "conv5 bn5 act5 conv6 bn6 act6 pool3 flatten fc1",
        ),
        (SMALL_VGG.model_copy(update={"dropout": 0.5}), (3, 8, 8), None),
    ],
)
def test_layers_have_names_and_only_convertible_types(settings, shape, layers):
    model = build(settings, shape)
    assert layers is None or names(model) == layers
    assert {type(layer) for layer in model} <= set(CONVERTIBLE)
    assert model(torch.randn(2, *shape)).shape == (2, 5)


def test_dropout_of_small_vgg_stands_before_its_dense_layer():
    model = build(SMALL_VGG.model_copy(update={"dropout": 0.5}), (3, 8, 8))
    assert names(model).endswith("pool3 flatten drop1 fc1")
    assert model.drop1.p == 0.5


def test_lenet_on_mnist_has_the_sizes_of_lenet_5():
    model = build(LENET, (1, 28, 28), 10)
    weights = [tuple(layer.weight.shape) for layer in model if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert weights == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_the_kernel_of_cnn_leaves_the_side_as_it_is(kernel):
    model = build(CNN.model_copy(update={"kernel": kernel}))
    assert model.conv2.kernel_size == (kernel, kernel)
    assert model.fc1.in_features == 6 * 4 * 4


def test_biases_are_left_to_the_batch_normalisation():
    model = build(CNN)
    assert (model.conv1.bias, model.conv2.bias) == (None, None)
    assert model.fc1.bias is not None
    assert model.fc2.bias is not None
    assert build(MLP).fc1.bias is None


def test_every_activation_has_its_own_threshold():
    layers = list(activations(build(CNN)).values())
    assert [(layer.levels, float(layer.threshold.detach())) for layer in layers] == [(3, 2.5)] * 3
    assert len({id(layer.threshold) for layer in layers}) == 3


def test_the_seed_makes_the_weights_and_the_callers_random_stream_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = build(MLP, seed=1), build(MLP, seed=1), build(MLP, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


EVEN = "allowed: sides even where they are pooled"


@pytest.mark.parametrize(
    ("settings", "shape", "allowed"),
    [
        (CNN, (1, 7, 8), f"`cnn` got images of 1x7x8, {EVEN} (there 7x8)"),
        (LENET, (1, 30, 30), f"`lenet` got images of 1x30x30, {EVEN} (there 11x11)"),
        (LENET, (1, 8, 8), "`lenet` got images of 1x8x8, allowed: sides larger than the 5x5 kernel"),
        (SMALL_VGG, (3, 28, 28), f"`small-vgg` got images of 3x28x28, {EVEN} (there 7x7)"),
    ],
)
def test_images_that_do_not_fit_are_refused(settings, shape, allowed):
    with pytest.raises(RecipeError) as caught:
        build(settings, shape)
    assert str(caught.value) == f"architecture {allowed}\nhint: choose another model.architecture, `mlp` takes any size"


@pytest.mark.parametrize(("settings", "shape"), [(CNN, (1, 2, 2)), (LENET, (1, 12, 12)), (SMALL_VGG, (3, 8, 8))])
def test_the_smallest_images_that_fit(settings, shape):
    assert build(settings, shape)(torch.randn(2, *shape)).shape == (2, 5)
