"""Changes of training images, by hand and against torchvision; AutoAugment has a file of its own."""

import math

import pytest
import torch

from nctool.recipe.schema import TrainingSettings
from nctool.training import Normalisation
from nctool.training.images.augment import augment, draw_windows


def settings(**changes):
    return TrainingSettings(epochs=1, **changes)


def pictures(n_images, height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(256, (n_images, 3, height, width), generator=generator, dtype=torch.uint8)


# --- crops of any size, brought back to the old one -------------------------------------------------------------------


def test_a_window_of_all_the_area_is_the_image():
    """Of 4x4 images a window of 16 pixels is 4x4, or longer than the image, so that the image is taken."""
    images = pictures(50, 4, 4)
    assert torch.equal(augment(images, settings(resized_crop=1.0)), images)


def test_a_window_is_enlarged_by_hand(monkeypatch):
    """Columns 1 and 2 of 0, 60, 100, 7 in four pixels, whose middles lie at −1/4, 1/4, 3/4 and 5/4 of the two."""
    images = torch.tensor([0, 60, 100, 7], dtype=torch.uint8).expand(1, 1, 4, 4).contiguous()
    window = tuple(torch.tensor([value], dtype=torch.float64) for value in (0, 1, 4, 2))
    monkeypatch.setattr("nctool.training.images.augment.draw_windows", lambda *_: window)
    assert augment(images, settings(resized_crop=0.5))[0, 0].tolist() == [[60, 70, 90, 100]] * 4


@pytest.mark.vision
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (21, 17), (12, 50), (50, 12)])
def test_resized_windows_are_those_of_torchvision_to_one_grey_level(shape):
    """torchvision rounds the weights of two pixels to 8-bit fixed point, and the pixels after each direction."""
    from torchvision.transforms.v2 import functional

    images = pictures(100, *shape)
    torch.manual_seed(1)
    got = augment(images, settings(resized_crop=0.08))
    torch.manual_seed(1)
    differing = 0
    for image, ours, *window in zip(images, got, *draw_windows(100, *shape, 0.08), strict=True):
        theirs = functional.resized_crop(image, *map(int, window), list(shape), antialias=True)
        difference = (theirs.int() - ours.int()).abs()
        assert int(difference.max()) <= 1
        differing += int(difference.sum())
    assert differing < 0.02 * images.numel()
    assert (got.dtype, got.shape) == (torch.uint8, images.shape)


@pytest.mark.vision
@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (12, 50), (50, 12)])
def test_windows_are_drawn_as_torchvision_draws_them(shape):
    """Two samples of 3000 windows: their means differ by less than four standard errors, and so do their squares'."""
    from torchvision.transforms import RandomResizedCrop

    n = 3000
    torch.manual_seed(2)
    ours = torch.stack(draw_windows(n, *shape, 0.08)).T
    blank = torch.zeros(3, *shape)
    drawn = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    theirs = torch.tensor(drawn, dtype=torch.float64)
    for power in (1, 2):
        a, b = ours**power, theirs**power
        error = ((a.var(0) + b.var(0)) / n).sqrt()
        assert bool(((a.mean(0) - b.mean(0)).abs() <= 4 * error).all())
    top, left, height, width = ours.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (height >= 1) & (width >= 1)).all())
    assert bool(((top + height <= shape[0]) & (left + width <= shape[1])).all())


@pytest.mark.parametrize(
    ("shape", "window"), [((12, 50), (0, 17, 12, 16)), ((50, 12), (17, 0, 16, 12)), ((12, 13), (0, 0, 12, 13))]
)
def test_where_no_window_fits_it_stands_in_the_middle(shape, window, monkeypatch):
    """Windows of all the area and the ratio 4/3, ten times, fit none of these images."""
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype: torch.ones(shape, dtype=dtype))
    assert [size.tolist() for size in draw_windows(2, *shape, 1.0)] == [[value] * 2 for value in window]


# --- cutout -----------------------------------------------------------------------------------------------------------


def test_a_cutout_of_the_mean_is_what_the_network_sees_as_nothing():
    """(0.4914, 0.4822, 0.4465) · 255 = 125.3, 123.0, 113.9; what is left of 0 is half a grey level at most."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    images = torch.full((200, 3, 8, 8), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    filled = augment(images, settings(cutout=4, cutout_fill="mean"), mean)
    torch.manual_seed(0)
    black = augment(images, settings(cutout=4), mean)
    assert torch.equal((filled < 255).any(1), (black == 0).all(1))
    colours = filled.permute(0, 2, 3, 1)[(filled < 255).any(1)].unique(dim=0)
    assert colours.tolist() == [[125, 123, 114]]
    seen = Normalisation(mean, std)(colours.view(1, 3, 1, 1)).flatten()
    assert bool((seen.abs() <= 0.5 / 255 / torch.tensor(std)).all())


def test_a_mean_beyond_black_and_white_is_filled_by_these():
    images = torch.full((20, 2, 4, 4), 7, dtype=torch.uint8)
    got = augment(images, settings(cutout=256, cutout_fill="mean"), (-0.3, 1.7))
    assert got[:, 0].unique().tolist() == [0]
    assert got[:, 1].unique().tolist() == [255]


def test_every_draw_is_of_the_generator_of_the_cpu():
    changes = settings(crop_padding=2, resized_crop=0.3, horizontal_flip=True, cutout=4)
    images = pictures(20, 16, 16)
    torch.manual_seed(5)
    first = augment(images, changes)
    torch.manual_seed(5)
    assert torch.equal(augment(images, changes), first)
    assert not torch.equal(augment(images, changes), first)
    assert math.isclose(first.float().mean().item(), images.float().mean().item(), rel_tol=0.3)
