"""The recipes of the zoo: each builds the network that its name says, and takes a step of training."""

import itertools
import math

import numpy as np
import pytest
import torch

from nctool.activation.noisy_quant import activations
from nctool.conversion.trace.tracing import trace
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import IntNetwork
from nctool.progress import no_progress
from nctool.recipe.schema import NoiseSettings, TrainingSettings
from nctool.training import LabelledImages, Normalisation, TrainingData
from nctool.training.interruption import Interruption
from nctool.training.optimiser import Optimiser
from nctool.training.stages import NoisyTraining, Task
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from nctool_models import build_model, list_recipes, load_recipe
from tests.support.networks import conv, fire, read_out, signed_input
from tests.support.networks import dense as fully_connected

CLASSES_AND_SHAPE = {
    "digits": (10, (1, 8, 8)),
    "mnist": (10, (1, 28, 28)),
    "fashion-mnist": (10, (1, 28, 28)),
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "tiny-imagenet": (200, (3, 64, 64)),
}
PUBLISHED = (
    "cifar10-vgg16",
    "cifar10-resnet18",
    "cifar10-resnet20",
    "cifar10-resnet34",
    "cifar100-vgg16",
    "cifar100-resnet18",
    "cifar100-resnet20",
    "tiny-imagenet-vgg16",
    "tiny-imagenet-resnet34",
)
"""Networks and data of the paper that the training method is from, and of those that it compares with."""
CONVOLUTIONS_OF_VGG_16 = 14_710_464 + 2 * 4_224  # weights, and the two numbers of each channel's batch norm


def dense(*widths: int) -> int:
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def build(name: str) -> torch.nn.Sequential:
    recipe = load_recipe(name)
    n_classes, shape = CLASSES_AND_SHAPE[recipe.data.name]
    return build_model(recipe.model, shape, n_classes, recipe.activation, seed=recipe.seed)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar10-vgg16", CONVOLUTIONS_OF_VGG_16 + dense(512, 4096, 4096, 10)),
        ("cifar100-vgg16", CONVOLUTIONS_OF_VGG_16 + dense(512, 4096, 4096, 100)),
        ("tiny-imagenet-vgg16", CONVOLUTIONS_OF_VGG_16 + dense(4 * 512, 4096, 4096, 200)),
        ("cifar10-resnet18", 11_173_962),
        ("cifar100-resnet18", 11_220_132),
        ("cifar10-resnet20", 272_474),
        ("cifar100-resnet20", 278_324),
        ("cifar10-resnet34", 21_282_122),
        ("tiny-imagenet-resnet34", 21_282_122 - dense(512, 10) + dense(512, 200)),
        ("fashion-mnist-lenet", 61_706 - 6 - 16 + 2 * (6 + 16) + 120 + 84),  # LeNet-5, its biases now batch norms
    ],
)
def test_the_number_of_parameters_is_the_known_one(name, parameters):
    model = build(name)
    assert sum(value.numel() for value in model.parameters()) == parameters + len(activations(model))


@pytest.mark.parametrize("name", [name for name in list_recipes() if "resnet" in name])
def test_the_widest_skip_of_a_residual_network_can_be_lowered(name):
    _, shape = CLASSES_AND_SHAPE[load_recipe(name).data.name]
    synapses = [s for p in trace(build(name).eval(), shape).populations for s in p.synapses]
    widest = max(s.conv.groups for s in synapses if s.conv is not None)
    assert widest == {"resnet8": 16, "resnet20": 64, "resnet18": 512, "resnet34": 512}[name.rpartition("-")[2]]
    network = with_skip(widest)
    assert lower(network, find_target("loihi2")).network is network


def with_skip(channels: int) -> IntNetwork:
    """Return a convolution of one pixel with a skip that passes it by, as conversion writes it."""
    shape = (channels, 1, 1)
    first = fire("a", conv("input", np.ones((channels, 1, 1, 1))), shape=shape)
    branches = conv("a", np.eye(channels)[:, :, None, None]), conv("a", np.ones((channels, 1, 1, 1)), groups=channels)
    network = IntNetwork(
        signed_input(1, 1, 1),
        (first, fire("b", *branches, threshold=2, shape=shape), read_out(fully_connected("b", np.ones((2, channels))))),
        n_steps=1,
    )
    return with_bounds(network, {name: proof.bound("proved") for name, proof in prove(network).items()})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipe_is_followed(name):
    recipe = load_recipe(name)
    changes = {"crop_padding": 4, "auto_augment": "cifar10-pillow", "cutout": 16, "cutout_fill": "mean"}
    is_residual = recipe.model.architecture == "resnet"
    assert recipe.training == TrainingSettings(
        epochs=400,
        batch_size={"cifar10": 256, "cifar100": 100 if is_residual else 128, "tiny-imagenet": 128}[recipe.data.name],
        learning_rate=0.05,
        schedule="cosine-by-epoch",
        momentum=0.9,
        weight_decay=5e-4,
        horizontal_flip=True,
        **({"resized_crop": 0.08} if recipe.data.name == "tiny-imagenet" else changes),
    )
    assert (recipe.activation.levels, recipe.activation.threshold_init, recipe.activation.reset) == (4, 8.0, "subtract")
    assert recipe.noise == NoiseSettings(source="ideal", steps=4, images="augmented")
    assert recipe.data.validation_fraction == 0.1


@pytest.mark.vision
@pytest.mark.parametrize(
    "name", [name for name in list_recipes() if name not in ("cifar100-vgg16", "tiny-imagenet-vgg16")]
)
def test_every_recipe_takes_a_step_of_training(name, one_thread):
    """The two networks left out differ from `cifar10-vgg16` in the width of two dense layers."""
    recipe = load_recipe(name, {"training.batch_size": 2})
    n_classes, shape = CLASSES_AND_SHAPE[recipe.data.name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, *shape), generator=generator, dtype=torch.uint8)
    two = LabelledImages(images, torch.tensor([0, n_classes - 1]))
    normalisation = Normalisation((0.5,) * shape[0], (0.25,) * shape[0])
    data = TrainingData(recipe.data.name, tuple(map(str, range(n_classes))), two, two, two, normalisation)
    model = build(name)
    task = Task(model, data, two, normalisation, recipe, None)
    before = [value.detach().clone() for value in model.parameters()]
    with torch.random.fork_rng():
        epoch = Optimiser(task, two, NoisyTraining(task), 0).run_epoch(1, no_progress, Interruption())
    assert math.isfinite(epoch.loss)
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
