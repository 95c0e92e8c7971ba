"""AutoAugment: images in groups give what torchvision's own transform gives each of them, with the same chances."""

import sys

import pytest
import torch

from nctool.errors import UsageError
from nctool.progress import no_progress
from nctool.recipe.schema import TrainingSettings
from nctool.training.images.augment import augment
from nctool.training.images.auto_augment import OPERATIONS, POLICIES, auto_augment, require_auto_augment
from nctool.training.interruption import Interruption
from nctool.training.optimiser import Optimiser
from nctool.training.stages import NoisyTraining, Task
from tests.support.small_run import small_data, small_model, small_recipe

pytestmark = pytest.mark.vision


def pictures(n_images, n_channels=3, height=16, width=12):
    """Smooth colours with noise: every operation changes something in them."""
    generator = torch.Generator().manual_seed(n_images)
    ramp = torch.linspace(30, 180, height)[:, None] * torch.linspace(0.5, 1, width)
    noise = torch.randint(-30, 30, (n_images, n_channels, height, width), generator=generator)
    return (ramp * torch.rand(n_images, n_channels, 1, 1, generator=generator) + 30 + noise).clamp(0, 255).byte()


def by_torchvision(image, policy, number, draws):
    """What torchvision's transform makes of one image, where its draws are `number`, of the pair, and then `draws`."""
    from torchvision.transforms import AutoAugmentPolicy, v2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda limit, shape: torch.tensor(number))
        patch.setattr(torch, "rand", lambda shape: torch.tensor(draws.pop(0)))
        return v2.AutoAugment(AutoAugmentPolicy(policy))(image)


def test_the_two_policies_hold_all_operations():
    names = {name for pairs in POLICIES.values() for pair in pairs for name in (pair[0], pair[3])}
    assert names == {
        *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
        *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"),
    }


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_each_image_gets_what_torchvision_gives_it_alone(policy, n_channels):
    """The transform of torchvision is told what was drawn: a pair, and for each operation a chance and a direction."""
    n_images = 800
    images = pictures(n_images, n_channels)
    torch.manual_seed(3)
    together = auto_augment(images, policy)
    torch.manual_seed(3)
    numbers = torch.randint(25, (n_images,)).tolist()
    chances, signs = torch.rand(2, n_images).T.tolist(), torch.randint(2, (2, n_images)).T.tolist()
    for number, image in enumerate(images):
        pair = POLICIES[policy][numbers[number]]
        draws = []
        for (name, probability, _), chance, sign in zip(
            (pair[:3], pair[3:]), chances[number], signs[number], strict=True
        ):
            is_drawn = chance <= probability and OPERATIONS[name].is_signed
            draws += [chance, float(sign)] if is_drawn else [chance]
        assert torch.equal(together[number], by_torchvision(image, policy, numbers[number], draws)), pair
        assert draws == []
    assert (together.dtype, together.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, pictures(n_images, n_channels))  # the images of the data set stay as they are


def test_a_batch_in_which_no_operation_happens_stays_as_it_is(monkeypatch):
    images = pictures(3)
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.full(shape, 2.0))
    assert torch.equal(auto_augment(images, "cifar10"), images)


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
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
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
