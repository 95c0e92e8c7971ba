"""AutoAugment: each image gets one of a policy's 25 pairs of operations, through torchvision or as Pillow does it.

In: a uint8 batch (N, C, H, W) and the name of a policy. Out: a batch of the same shape and type. torchvision is
imported here only, and only when a recipe asks for it. Source: Cubuk et al., arXiv 1805.09501; policies, magnitudes and
operations are those of `torchvision.transforms.v2.AutoAugment`, to which a test holds them. Those of `cifar10-pillow`
are the ones that many repositories share, written for Pillow, among them that of QCFS (Bu et al., ICLR 2022); another
test holds them to Pillow.

torchvision's transform takes one image at a time. Here the images of a batch that drew the same operation go through it
together, which is several times faster and changes no pixel. Random numbers come from torch's global generator of the
CPU, so that a device does not change them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nctool.errors import UsageError
from nctool.training.images import pillow_operations as pillow

_STEPS = 10
"""Magnitudes that an operation may have; a policy chooses by their position."""
_CHANNELS = (1, 3)
"""Grey or RGB: the operations on colour know no other images."""
_WHITE = 255

POLICIES: dict[str, tuple[tuple[str, float, int | None, str, float, int | None], ...]] = {
    "cifar10": (
        ("Invert", 0.1, None, "Contrast", 0.2, 6),
        ("Rotate", 0.7, 2, "TranslateX", 0.3, 9),
        ("Sharpness", 0.8, 1, "Sharpness", 0.9, 3),
        ("ShearY", 0.5, 8, "TranslateY", 0.7, 9),
        ("AutoContrast", 0.5, None, "Equalize", 0.9, None),
        ("ShearY", 0.2, 7, "Posterize", 0.3, 7),
        ("Color", 0.4, 3, "Brightness", 0.6, 7),
        ("Sharpness", 0.3, 9, "Brightness", 0.7, 9),
        ("Equalize", 0.6, None, "Equalize", 0.5, None),
        ("Contrast", 0.6, 7, "Sharpness", 0.6, 5),
        ("Color", 0.7, 7, "TranslateX", 0.5, 8),
        ("Equalize", 0.3, None, "AutoContrast", 0.4, None),
        ("TranslateY", 0.4, 3, "Sharpness", 0.2, 6),
        ("Brightness", 0.9, 6, "Color", 0.2, 8),
        ("Solarize", 0.5, 2, "Invert", 0.0, None),
        ("Equalize", 0.2, None, "AutoContrast", 0.6, None),
        ("Equalize", 0.2, None, "Equalize", 0.6, None),
        ("Color", 0.9, 9, "Equalize", 0.6, None),
        ("AutoContrast", 0.8, None, "Solarize", 0.2, 8),
        ("Brightness", 0.1, 3, "Color", 0.7, 0),
        ("Solarize", 0.4, 5, "AutoContrast", 0.9, None),
        ("TranslateY", 0.9, 9, "TranslateY", 0.7, 9),
        ("AutoContrast", 0.9, None, "Solarize", 0.8, 3),
        ("Equalize", 0.8, None, "Invert", 0.1, None),
        ("TranslateY", 0.7, 9, "AutoContrast", 0.9, None),
    ),
    "imagenet": (
        ("Posterize", 0.4, 8, "Rotate", 0.6, 9),
        ("Solarize", 0.6, 5, "AutoContrast", 0.6, None),
        ("Equalize", 0.8, None, "Equalize", 0.6, None),
        ("Posterize", 0.6, 7, "Posterize", 0.6, 6),
        ("Equalize", 0.4, None, "Solarize", 0.2, 4),
        ("Equalize", 0.4, None, "Rotate", 0.8, 8),
        ("Solarize", 0.6, 3, "Equalize", 0.6, None),
        ("Posterize", 0.8, 5, "Equalize", 1.0, None),
        ("Rotate", 0.2, 3, "Solarize", 0.6, 8),
        ("Equalize", 0.6, None, "Posterize", 0.4, 6),
        ("Rotate", 0.8, 8, "Color", 0.4, 0),
        ("Rotate", 0.4, 9, "Equalize", 0.6, None),
        ("Equalize", 0.0, None, "Equalize", 0.8, None),
        ("Invert", 0.6, None, "Equalize", 1.0, None),
        ("Color", 0.6, 4, "Contrast", 1.0, 8),
        ("Rotate", 0.8, 8, "Color", 1.0, 2),
        ("Color", 0.8, 8, "Solarize", 0.8, 7),
        ("Sharpness", 0.4, 7, "Invert", 0.6, None),
        ("ShearX", 0.6, 5, "Equalize", 1.0, None),
        ("Color", 0.4, 0, "Equalize", 0.6, None),
        ("Equalize", 0.4, None, "Solarize", 0.2, 4),
        ("Solarize", 0.6, 5, "AutoContrast", 0.6, None),
        ("Invert", 0.6, None, "Equalize", 1.0, None),
        ("Color", 0.6, 4, "Contrast", 1.0, 8),
        ("Equalize", 0.8, None, "Equalize", 0.6, None),
    ),
}
"""The pairs of a policy: an operation, its probability and the position of its magnitude, twice."""

_EQUALIZE_TWICE = ("Equalize", 0.2, None, "Equalize", 0.6, None)
POLICIES["cifar10-pillow"] = tuple(
    ("Equalize", 0.2, None, "Equalize", 0.8, None) if pair == _EQUALIZE_TWICE else pair for pair in POLICIES["cifar10"]
)


@dataclass(frozen=True)
class _Kind:
    """A kind of operation.

    Attributes:
        apply: does it, by the functions of torchvision, to images (N, C, H, W), with a magnitude.
        magnitudes: those that it may have, of images of a height and a width; none where it has no magnitude.
        is_signed: the magnitude may be negative too.
    """

    apply: Callable[[Any, Tensor, float], Tensor]
    magnitudes: Callable[[int, int], Tensor] | None = None
    is_signed: bool = False


def _from_zero(largest: float) -> Callable[[int, int], Tensor]:
    return lambda _height, _width: torch.linspace(0.0, largest, _STEPS)


def _sheared(functions: Any, images: Tensor, x: float, y: float) -> Tensor:
    shear = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    moved: Tensor = functions.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
    return moved


def _moved(functions: Any, images: Tensor, x: float, y: float) -> Tensor:
    moved: Tensor = functions.affine(images, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])
    return moved


OPERATIONS = {
    "ShearX": _Kind(lambda f, images, size: _sheared(f, images, size, 0.0), _from_zero(0.3), is_signed=True),
    "ShearY": _Kind(lambda f, images, size: _sheared(f, images, 0.0, size), _from_zero(0.3), is_signed=True),
    "TranslateX": _Kind(
        lambda f, images, size: _moved(f, images, size, 0.0),
        lambda _height, width: torch.linspace(0.0, 150.0 / 331.0 * width, _STEPS),
        is_signed=True,
    ),
    "TranslateY": _Kind(
        lambda f, images, size: _moved(f, images, 0.0, size),
        lambda height, _width: torch.linspace(0.0, 150.0 / 331.0 * height, _STEPS),
        is_signed=True,
    ),
    "Rotate": _Kind(lambda f, images, size: f.rotate(images, angle=size), _from_zero(30.0), is_signed=True),
    "Brightness": _Kind(lambda f, images, size: f.adjust_brightness(images, 1.0 + size), _from_zero(0.9), True),
    "Color": _Kind(lambda f, images, size: f.adjust_saturation(images, 1.0 + size), _from_zero(0.9), True),
    "Contrast": _Kind(lambda f, images, size: f.adjust_contrast(images, 1.0 + size), _from_zero(0.9), True),
    "Sharpness": _Kind(lambda f, images, size: f.adjust_sharpness(images, 1.0 + size), _from_zero(0.9), True),
    "Posterize": _Kind(
        lambda f, images, size: f.posterize(images, bits=int(size)),
        lambda _height, _width: (8 - torch.arange(_STEPS) / ((_STEPS - 1) / 4)).round(),
    ),
    "Solarize": _Kind(
        lambda f, images, size: f.solarize(images, threshold=_WHITE * size),
        lambda _height, _width: torch.linspace(1.0, 0.0, _STEPS),
    ),
    "AutoContrast": _Kind(lambda f, images, _size: f.autocontrast(images)),
    "Equalize": _Kind(lambda f, images, _size: f.equalize(images)),
    "Invert": _Kind(lambda f, images, _size: f.invert(images)),
}
"""The kinds of operations by the names that torchvision gives them."""


def _up_to(largest: float) -> Callable[[int, int], Tensor]:
    return lambda _height, _width: torch.linspace(0.0, largest, _STEPS, dtype=torch.float64)


_PILLOW_OPERATIONS = {
    "ShearY": _Kind(lambda _, images, size: pillow.sheared_down(images, size), _up_to(0.3), is_signed=True),
    "TranslateX": _Kind(
        lambda _, images, size: pillow.moved(images, size * images.shape[3], 0.0), _up_to(150 / 331), is_signed=True
    ),
    "TranslateY": _Kind(
        lambda _, images, size: pillow.moved(images, 0.0, size * images.shape[2]), _up_to(150 / 331), is_signed=True
    ),
    "Rotate": _Kind(lambda _, images, size: pillow.rotated(images, size), _up_to(30.0)),
    "Brightness": _Kind(lambda f, images, size: f.adjust_brightness(images, 1.0 + size), _up_to(0.9), is_signed=True),
    "Color": _Kind(lambda _, images, size: pillow.coloured(images, 1.0 + size), _up_to(0.9), is_signed=True),
    "Contrast": _Kind(lambda _, images, size: pillow.contrasted(images, 1.0 + size), _up_to(0.9), is_signed=True),
    "Sharpness": _Kind(lambda _, images, size: pillow.sharpened(images, 1.0 + size), _up_to(0.9), is_signed=True),
    "Posterize": OPERATIONS["Posterize"],
    "Solarize": _Kind(
        lambda f, images, size: f.solarize(images, threshold=size),
        lambda _height, _width: torch.linspace(256.0, 0.0, _STEPS),
    ),
    "AutoContrast": _Kind(lambda _, images, _size: pillow.autocontrasted(images)),
    "Equalize": OPERATIONS["Equalize"],
    "Invert": OPERATIONS["Invert"],
}

KINDS = {"cifar10": OPERATIONS, "imagenet": OPERATIONS, "cifar10-pillow": _PILLOW_OPERATIONS}
"""The kinds of operations of a policy."""


@dataclass(frozen=True)
class _Operation:
    """What is done to some images.

    Attributes:
        name: of its kind.
        step: position of the magnitude among the `_STEPS`; None for an operation without one.
        is_negative: the other way round, where there are two.
    """

    name: str
    step: int | None
    is_negative: bool


def auto_augment(images: Tensor, policy: str) -> Tensor:
    """Give each image a pair of operations, each of which happens with the probability that the policy states.

    Args:
        images: uint8 (N, 1 or 3, H, W).
        policy: one of `POLICIES`.

    Returns:
        new uint8 images of the same shape.
    """
    functions = _import_functions()
    images = images.clone()
    for groups in _draw(policy, len(images)):
        members = torch.tensor([number for group in groups.values() for number in group], dtype=torch.int64)
        sizes = [len(group) for group in groups.values()]
        for operation, chosen in zip(groups, members.to(images.device).split(sizes), strict=True):  # one transfer
            images[chosen] = _apply(functions, images[chosen], KINDS[policy][operation.name], operation)
    return images


def require_auto_augment(policy: str, n_channels: int) -> None:
    """Refuse a policy that cannot be followed, before the first image is changed.

    Args:
        policy: the recipe's `training.auto_augment`.
        n_channels: of the images.

    Raises:
        UsageError: torchvision is not installed, or the images are neither grey nor RGB.
    """
    if policy == "none":
        return
    if n_channels not in _CHANNELS:
        raise UsageError(
            f"recipe: `training.auto_augment` got images of {n_channels} channels, allowed: 1 or 3",
            hint='set training.auto_augment = "none"',
        )
    _import_functions()


def _import_functions() -> Any:
    try:
        from torchvision.transforms.v2 import functional
    except (ImportError, RuntimeError) as error:  # RuntimeError: its release does not fit that of torch
        message = "recipe: `training.auto_augment` needs torchvision"
        raise UsageError(message, hint='pip install "nctool[vision]"') from error
    return functional


def _draw(policy: str, n_images: int) -> list[dict[_Operation, list[int]]]:
    """Return, for the first operation of the pairs and for the second, which images get which."""
    pairs = [POLICIES[policy][number] for number in torch.randint(len(POLICIES[policy]), (n_images,)).tolist()]
    chances, signs = torch.rand(2, n_images).tolist(), torch.randint(2, (2, n_images)).tolist()
    first: dict[_Operation, list[int]] = defaultdict(list)
    second: dict[_Operation, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        for place, groups, (name, probability, step) in ((0, first, pair[:3]), (1, second, pair[3:])):
            if chances[place][number] <= probability:
                is_negative = KINDS[policy][name].is_signed and signs[place][number] == 0
                groups[_Operation(name, step, is_negative)].append(number)
    return [first, second]


def _apply(functions: Any, images: Tensor, kind: _Kind, operation: _Operation) -> Tensor:
    magnitude = 0.0
    if kind.magnitudes is not None and operation.step is not None:
        magnitude = float(kind.magnitudes(*images.shape[2:])[operation.step])
    return kind.apply(functions, images, -magnitude if operation.is_negative else magnitude)
