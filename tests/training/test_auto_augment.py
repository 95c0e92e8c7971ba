"""AutoAugment: images in groups give what torchvision's own transform, or Pillow, gives each of them alone."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from nctool.errors import UsageError
from nctool.progress import no_progress
from nctool.recipe.schema import TrainingSettings
from nctool.training.images.augment import augment
from nctool.training.images.auto_augment import KINDS, POLICIES, auto_augment, require_auto_augment
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


def drawn_by(seed, n_images):
    """Return what each image draws: the number of a pair, and for each operation a chance and a sign."""
    torch.manual_seed(seed)
    numbers = torch.randint(25, (n_images,)).tolist()
    return numbers, torch.rand(2, n_images).T.tolist(), torch.randint(2, (2, n_images)).T.tolist()


@pytest.mark.parametrize("policy", ["cifar10", "imagenet"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_each_image_gets_what_torchvision_gives_it_alone(policy, n_channels):
    """The transform of torchvision is told what was drawn: a pair, and for each operation a chance and a direction."""
    n_images = 800
    images = pictures(n_images, n_channels)
    torch.manual_seed(3)
    together = auto_augment(images, policy)
    numbers, chances, signs = drawn_by(3, n_images)
    for number, image in enumerate(images):
        pair = POLICIES[policy][numbers[number]]
        draws = []
        for (name, probability, _), chance, sign in zip(
            (pair[:3], pair[3:]), chances[number], signs[number], strict=True
        ):
            is_drawn = chance <= probability and KINDS[policy][name].is_signed
            draws += [chance, float(sign)] if is_drawn else [chance]
        assert torch.equal(together[number], by_torchvision(image, policy, numbers[number], draws)), pair
        assert draws == []
    assert (together.dtype, together.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, pictures(n_images, n_channels))  # the images of the data set stay as they are


def blended(enhance):
    return lambda image, size, _grey: enhance(image).enhance(1 + size)


def turned(image, degrees, grey):
    """What leaves the image is transparent, and shows the grey behind it."""
    with_alpha = image.convert("RGBA").rotate(degrees)
    return Image.composite(with_alpha, Image.new("RGBA", image.size, (128,) * 4), with_alpha).convert(image.mode)


def shifted(matrix, resample=Image.Resampling.NEAREST):
    return lambda image, size, grey: image.transform(
        image.size, Image.Transform.AFFINE, matrix(size, *image.size), resample, fillcolor=grey
    )


BY_PILLOW = {
    "ShearY": (shifted(lambda m, _w, _h: (1, 0, 0, m, 1, 0), Image.Resampling.BICUBIC), np.linspace(0, 0.3, 10)),
    "TranslateX": (shifted(lambda m, width, _h: (1, 0, m * width, 0, 1, 0)), np.linspace(0, 150 / 331, 10)),
    "TranslateY": (shifted(lambda m, _w, height: (1, 0, 0, 0, 1, m * height)), np.linspace(0, 150 / 331, 10)),
    "Rotate": (turned, np.linspace(0, 30, 10)),
    "Brightness": (blended(ImageEnhance.Brightness), np.linspace(0, 0.9, 10)),
    "Color": (blended(ImageEnhance.Color), np.linspace(0, 0.9, 10)),
    "Contrast": (blended(ImageEnhance.Contrast), np.linspace(0, 0.9, 10)),
    "Sharpness": (blended(ImageEnhance.Sharpness), np.linspace(0, 0.9, 10)),
    "Posterize": (lambda image, bits, _: ImageOps.posterize(image, int(bits)), np.round(np.linspace(8, 4, 10))),
    "Solarize": (lambda image, limit, _: ImageOps.solarize(image, limit), np.linspace(256, 0, 10)),
    "AutoContrast": (lambda image, *_: ImageOps.autocontrast(image), [0] * 10),
    "Equalize": (lambda image, *_: ImageOps.equalize(image), [0] * 10),
    "Invert": (lambda image, *_: ImageOps.invert(image), [0] * 10),
}
"""Each operation as a call of Pillow, and its magnitudes: (image, magnitude with its sign, grey) to an image."""
MIRRORED = ("ShearY", "TranslateX", "TranslateY", "Brightness", "Color", "Contrast", "Sharpness")
"""Those whose magnitude has either sign. A translation says where pixels come from; ours says where they go."""


def as_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy())


def by_pillow(image, pair, chances, signs):
    picture, grey = as_pillow(image), (128,) * 3 if len(image) == 3 else 128
    for (name, probability, step), chance, sign in zip((pair[:3], pair[3:]), chances, signs, strict=True):
        call, sizes = BY_PILLOW[name]
        direction = -1 if name in MIRRORED and (sign == 0) != name.startswith("Translate") else 1
        if chance <= probability:
            picture = call(picture, direction * sizes[step or 0], grey)
    return torch.from_numpy(np.array(picture)).reshape(*image.shape[1:], len(image)).permute(2, 0, 1)


@pytest.mark.parametrize("shape", [(3, 16, 12), (1, 16, 12), (3, 32, 32), (3, 9, 64), (3, 2, 2)])
def test_each_image_gets_what_pillow_gives_it_alone(shape):
    """Every pixel is that of Pillow; of a few images of one value too, which have no contrast to stretch."""
    n_images, policy = 800, "cifar10-pillow"
    images = pictures(n_images, *shape)
    images[::40] = 77
    torch.manual_seed(3)
    together = auto_augment(images, policy)
    numbers, chances, signs = drawn_by(3, n_images)
    for image, got, number, chance, sign in zip(images, together, numbers, chances, signs, strict=True):
        pair = POLICIES[policy][number]
        assert torch.equal(got, by_pillow(image, pair, chance, sign)), pair


def test_the_policy_for_pillow_differs_in_one_probability():
    differing = [
        pairs for pairs in zip(POLICIES["cifar10"], POLICIES["cifar10-pillow"], strict=True) if len(set(pairs)) > 1
    ]
    assert differing == [
        (("Equalize", 0.2, None, "Equalize", 0.6, None), ("Equalize", 0.2, None, "Equalize", 0.8, None))
    ]


def test_moved_pixels_by_hand():
    """On 32 columns the last step moves 0.4532 · 32 = 14.5 pixels: 15 with Pillow, 14 with torchvision."""
    images = torch.full((1, 1, 1, 32), 200, dtype=torch.uint8)
    for policy, grey, columns in (("cifar10-pillow", 128, 15), ("cifar10", 0, 14)):
        from torchvision.transforms.v2 import functional

        kind = KINDS[policy]["TranslateX"]
        size = float(kind.magnitudes(1, 32)[9])
        assert kind.apply(functional, images, size).flatten().tolist() == [grey] * columns + [200] * (32 - columns)


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
    task = Task(small_model(recipe), data, data.held_out, data.normalisation, recipe, None)
    return Optimiser(task, data.train, NoisyTraining(task), 0)


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
