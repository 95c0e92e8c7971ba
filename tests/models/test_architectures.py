"""The networks of the model zoo: names, shapes, sizes, seeds, and images that do not fit."""

import pytest
import torch
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations
from nctool.errors import RecipeError
from nctool.recipe.schema import (
    ActivationSettings,
    CnnSettings,
    LenetSettings,
    MlpSettings,
    ResnetSettings,
    SmallVggSettings,
    VggSettings,
)
from nctool_models import build_model
from nctool_models.architectures.stack import ResidualBlock

ACTIVATION = ActivationSettings(levels=3, threshold_init=2.5)
CONVERTIBLE = (
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.Linear,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Dropout,
    NoisyQuantReLU,
)

MLP = MlpSettings(architecture="mlp", hidden=(12, 8))
CNN = CnnSettings(architecture="cnn", channels=(4, 6), kernel=3, hidden=10)
LENET = LenetSettings(architecture="lenet", channels=(6, 16), hidden=(120, 84))
SMALL_VGG = SmallVggSettings(architecture="small-vgg", channels=(4, 6, 8))
VGG_11 = VggSettings(architecture="vgg", depth=11)
VGG_16 = VggSettings(architecture="vgg", depth=16)
RESNET_8, RESNET_18, RESNET_20, RESNET_34 = (
    ResnetSettings(architecture="resnet", depth=depth) for depth in (8, 18, 20, 34)
)


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
    model, again, of_seed_2 = build(MLP, seed=1), build(MLP, seed=1), build(MLP, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.fc1.weight, again.fc1.weight)
    assert not torch.equal(model.fc1.weight, of_seed_2.fc1.weight)


@pytest.mark.parametrize("settings", [CNN, LENET, SMALL_VGG, VGG_11], ids=lambda settings: settings.architecture)
def test_pooling_is_of_averages_or_of_maxima(settings):
    kinds = {}
    for pooling in ("average", "maximum"):
        model = build(settings.model_copy(update={"pooling": pooling}), (1, 32, 32))
        kinds[pooling] = [type(layer) for layer in model if "Pool" in type(layer).__name__]
    number = len(kinds["average"])
    assert number > 0
    assert kinds == {"average": [nn.AvgPool2d] * number, "maximum": [nn.MaxPool2d] * number}
    assert settings.pooling == "average"


def test_maxima_leave_out_the_last_of_an_odd_number_of_rows():
    model = build(CNN.model_copy(update={"pooling": "maximum"}), (1, 7, 8))
    assert model.fc1.in_features == 6 * 3 * 4
    assert model(torch.zeros(2, 1, 7, 8)).shape[0] == 2


EVEN = "allowed: sides even where they are pooled"


@pytest.mark.parametrize(
    ("settings", "shape", "allowed"),
    [
        (CNN, (1, 7, 8), f"`cnn` got images of 1x7x8, {EVEN} (there 7x8)"),
        (LENET, (1, 30, 30), f"`lenet` got images of 1x30x30, {EVEN} (there 11x11)"),
        (LENET, (1, 8, 8), "`lenet` got images of 1x8x8, allowed: sides larger than the 5x5 kernel"),
        (VGG_11, (3, 16, 16), f"`vgg` got images of 3x16x16, {EVEN} (there 1x1)"),
        (SMALL_VGG, (3, 28, 28), f"`small-vgg` got images of 3x28x28, {EVEN} (there 7x7)"),
        (
            VGG_11.model_copy(update={"pooling": "maximum"}),
            (3, 16, 16),
            "`vgg` got images of 3x16x16, allowed: sides of 2 or more where they are pooled (there 1x1)",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(settings, shape, allowed):
    with pytest.raises(RecipeError) as caught:
        build(settings, shape)
    assert str(caught.value) == f"architecture {allowed}\nhint: choose another model.architecture, `mlp` takes any size"


@pytest.mark.parametrize(
    ("settings", "shape"), [(CNN, (1, 2, 2)), (LENET, (1, 12, 12)), (SMALL_VGG, (3, 8, 8)), (RESNET_8, (1, 3, 1))]
)
def test_the_smallest_images_that_fit(settings, shape):
    assert build(settings, shape)(torch.randn(2, *shape)).shape == (2, 5)


# --- VGG and residual networks ------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parameters", "n_activations"),
    [
        (VGG_11, 9_231_114 - 2_752, 8),  # less the biases of the convolutions, which batch norm makes idle
        (VGG_16, 14_728_266 - 4_224, 13),
        (VGG_16.model_copy(update={"hidden": (4096, 4096)}), 33_646_666 - 4_224, 15),
        (RESNET_8, 78_042, 7),
        (RESNET_18, 11_173_962, 17),
        (RESNET_20, 272_474, 19),
        (RESNET_34, 21_282_122, 33),
    ],
)
def test_the_number_of_parameters_is_the_known_one(settings, parameters, n_activations):
    model = build(settings, (3, 32, 32), 10)
    assert len(activations(model)) == n_activations
    assert sum(value.numel() for value in model.parameters()) == parameters + n_activations  # one threshold each


def test_vgg_pools_each_stage_and_may_end_in_dense_layers():
    stages = "conv1 bn1 act1 pool1 conv2 bn2 act2 pool2 conv3 bn3 act3 conv4 bn4 act4 pool3 "
    stages += "conv5 bn5 act5 conv6 bn6 act6 pool4 conv7 bn7 act7 conv8 bn8 act8 pool5 flatten "
    assert names(build(VGG_11, (3, 32, 32))) == stages + "fc1"
    assert names(build(VGG_11.model_copy(update={"dropout": 0.5}), (3, 32, 32))) == stages + "drop1 fc1"
    deep = VGG_11.model_copy(update={"dropout": 0.5, "hidden": (6, 7)})
    assert names(build(deep, (3, 32, 32))) == stages + "drop1 fc1 act9 drop2 fc2 act10 drop3 fc3"


def test_resnet_is_a_stem_and_blocks():
    model = build(RESNET_8, (1, 8, 8))
    assert names(model) == "conv1 bn1 act1 block1 block2 block3 pool1 flatten fc1"
    blocks = [layer for layer in model if isinstance(layer, ResidualBlock)]
    assert [(block.conv1.in_channels, block.conv2.out_channels, block.conv1.stride) for block in blocks] == [
        (16, 16, (1, 1)),
        (16, 32, (2, 2)),
        (32, 64, (2, 2)),
    ]
    assert [names(block.shortcut) for block in blocks] == ["", "conv bn", "conv bn"]
    leaves = {type(layer) for layer in model.modules() if not list(layer.children())} - {nn.Sequential}
    assert leaves <= set(CONVERTIBLE)


@pytest.mark.parametrize(
    ("settings", "sides"),
    [(RESNET_20, "16 16 16 32 32 32 64 64 64"), (RESNET_34, "64 " * 3 + "128 " * 4 + "256 " * 6 + "512 512 512")],
)
def test_the_stages_of_resnet(settings, sides):
    blocks = [layer for layer in build(settings, (3, 8, 8)) if isinstance(layer, ResidualBlock)]
    assert " ".join(str(block.bn2.num_features) for block in blocks) == sides


def test_the_shortcut_is_added_before_the_second_activation():
    """With a branch of zeros, the block gives the activation of its input: nothing stands between sum and act2."""
    block = build(RESNET_8, (1, 8, 8)).eval().block1
    with torch.no_grad():
        block.bn2.weight.zero_()
        x = 2.5 * torch.randint(0, 4, (2, 16, 8, 8)) / 3  # on the grid of an activation of 3 levels and threshold 2.5
        torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("settings", [RESNET_8, RESNET_20, VGG_11])
def test_deep_networks_learn_in_every_layer(settings):
    torch.manual_seed(0)
    model = build(settings, (3, 32, 32))
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    assert all(layer.weight.grad.any() for layer in model.modules() if isinstance(layer, nn.Conv2d))
