"""AutoAugment: images in groups give what torchvision's own transform gives each of them, with the same chances."""

import sys

import pytest
import torch

from nctool.errors import UsageError
from nctool.progress import no_progress
from nctool.recipe.schema import TrainingSettings
from nctool.training.images.augment import augment
from nctool.training.images.auto_augment import (
    _apply,
    _draw,
    _Operation,
    _transform,
    auto_augment,
    require_auto_augment,
)
from nctool.training.interruption import Interruption
from nctool.training.optimiser import Optimiser
from nctool.training.stages import NoisyTraining, Task
from tests.support.small_run import small_data, small_model, small_recipe

pytestmark = pytest.mark.vision
POLICIES = ("cifar10", "imagenet")


def pictures(n_images, n_channels=3, height=16, width=12):
    """Smooth colours with noise: every operation changes something in them."""
    generator = torch.Generator().manual_seed(n_images)
    ramp = torch.linspace(30, 180, height)[:, None] * torch.linspace(0.5, 1, width)
    noise = torch.randint(-30, 30, (n_images, n_channels, height, width), generator=generator)
    return (ramp * torch.rand(n_images, n_channels, 1, 1, generator=generator) + 30 + noise).clamp(0, 255).byte()


def operations():
    """Every operation of both policies, with every magnitude that the policies give it, in both directions."""
    found = set()
    for policy in POLICIES:
        transform = _transform(policy)
        for name, _, step in (operation for pair in transform._policies for operation in pair):
            is_signed = transform._AUGMENTATION_SPACE[name][1]
            found |= {_Operation(name, step, is_negative) for is_negative in ((False, True) if is_signed else (False,))}
    return sorted(found, key=str)


def flat(images):
    return [tuple(image.flatten().tolist()) for image in images]


def alone(image, operation):
    """What torchvision's public transform makes of an image whose policy is this operation and nothing else.

    The direction, where there are two, is torchvision's to draw: it is called until it has drawn both.
    """
    from torchvision.transforms import v2

    transform = v2.AutoAugment()
    transform._policies = [((operation.name, 1.0, operation.step), (operation.name, -1.0, operation.step))]
    times = 16 if transform._AUGMENTATION_SPACE[operation.name][1] else 1
    return {flat(transform(image)[None])[0] for _ in range(times)}


def test_the_two_policies_hold_all_operations():
    names = {operation.name for operation in operations()}
    assert len(operations()) > 50
    assert names == {
        *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
        *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"),
    }


@pytest.mark.parametrize("n_channels", [1, 3])
def test_images_together_get_what_torchvision_gives_each_alone(n_channels):
    torch.manual_seed(0)
    images, listed = pictures(5, n_channels), operations()
    for operation in listed:
        reverse = _Operation(operation.name, operation.step, not operation.is_negative)
        directions = [operation, reverse] if reverse in listed else [operation]
        together = [flat(_apply(_transform("cifar10"), images, direction)) for direction in directions]
        for image, *got in zip(images, *together, strict=True):
            assert set(got) == alone(image, operation), operation


@pytest.mark.parametrize("policy", POLICIES)
def test_each_image_gets_the_operations_of_its_own_draw(policy):
    images, transform = pictures(60), _transform(policy)
    torch.manual_seed(3)
    got = auto_augment(images, policy)
    torch.manual_seed(3)
    wanted = images.clone()
    for groups in _draw(transform, 60):
        for operation, members in groups.items():
            for member in members:
                wanted[member] = _apply(transform, wanted[member][None], operation)[0]
    assert torch.equal(got, wanted)
    assert (got.dtype, got.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, pictures(60))  # the images of the data set stay as they are


@pytest.mark.parametrize("policy", POLICIES)
def test_operations_are_as_frequent_as_the_policy_says(policy):
    n_images, transform = 200_000, _transform(policy)
    torch.manual_seed(0)
    for place, groups in enumerate(_draw(transform, n_images)):
        wanted: dict[_Operation, float] = {}
        for pair in transform._policies:
            name, probability, step = pair[place]
            directions = (False, True) if transform._AUGMENTATION_SPACE[name][1] else (False,)
            for direction in directions:
                key = _Operation(name, step, direction)
                wanted[key] = wanted.get(key, 0.0) + probability / len(transform._policies) / len(directions)
        found = {operation: len(members) / n_images for operation, members in groups.items()}
        expected = {operation: share for operation, share in wanted.items() if share > 0}
        assert found == pytest.approx(expected, abs=0.002)


def test_a_batch_in_which_no_operation_happens_stays_as_it_is(monkeypatch):
    images = pictures(3)
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, 2.0))
    assert torch.equal(auto_augment(images, "cifar10"), images)


def test_both_operations_of_a_pair_are_drawn_for_an_image():
    """Only the fourth pair of `cifar10` shears and then translates down: 0.5 · 0.7 of its images get both."""
    torch.manual_seed(0)
    first, second = _draw(_transform("cifar10"), 100_000)
    sheared = {i for operation, members in first.items() if operation.name == "ShearY" for i in members}
    translated = {i for operation, members in second.items() if operation.name == "TranslateY" for i in members}
    assert len(sheared & translated) / 100_000 == pytest.approx(0.5 * 0.7 / 25, abs=0.002)


def test_auto_augment_stands_between_flip_and_cutout():
    images = torch.full((400, 3, 8, 8), 200, dtype=torch.uint8)
    torch.manual_seed(0)
    changed = augment(images, TrainingSettings(epochs=1, auto_augment="cifar10", cutout=4))
    assert len(torch.unique(changed)) > 2
    # A cutout before an inversion would leave white squares; one after it leaves black ones in every image.
    assert bool((changed.amin((1, 2, 3)) == 0).all())


def optimiser(policy):
    recipe, data = small_recipe(f"training.auto_augment={policy}"), small_data()
    model = small_model(recipe)
    stage = NoisyTraining(Task(model, data, data.held_out, data.normalisation, recipe, None))
    return Optimiser(model, data.train, stage, 0, recipe)


def test_an_epoch_with_auto_augment_repeats():
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        losses.append(optimiser("cifar10").run_epoch(1, no_progress, Interruption()))
    assert losses[0] == losses[1]


def test_a_missing_torchvision_is_named_before_training_starts(monkeypatch):
    _transform.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(UsageError) as caught:
        optimiser("imagenet")
    assert str(caught.value) == (
        'recipe: `training.auto_augment` needs torchvision\nhint: pip install "nctool[vision]"'
    )
    optimiser("none")


@pytest.mark.parametrize("n_channels", [2, 4])
def test_images_that_are_neither_grey_nor_rgb_are_refused(n_channels):
    with pytest.raises(UsageError) as caught:
        require_auto_augment("cifar10", n_channels)
    assert str(caught.value) == (
        f"recipe: `training.auto_augment` got images of {n_channels} channels, allowed: 1 or 3\n"
        'hint: set training.auto_augment = "none"'
    )
    require_auto_augment("none", n_channels)
