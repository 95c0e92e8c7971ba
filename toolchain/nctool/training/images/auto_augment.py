"""AutoAugment: each image gets one of a policy's 25 pairs of operations, through torchvision.

In: a uint8 batch (N, C, H, W) and the name of a policy. Out: a batch of the same shape and type. torchvision is
imported here only, and only when a recipe asks for it. Source: Cubuk et al., arXiv 1805.09501; policies, magnitudes and
operations are those of `torchvision.transforms.v2.AutoAugment`.

torchvision's transform takes one image at a time. Here the images of a batch that drew the same operation go through it
together, which is several times faster and changes no pixel. For that, private parts of torchvision's class are used;
the tests hold them to what the class does in public. Random numbers come from torch's global generator of the CPU, so
that a device does not change them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nctool.errors import UsageError

_STEPS = 10
"""Magnitudes that an operation may have; a policy chooses by their position."""
_CHANNELS = (1, 3)
"""Grey or RGB: the operations on colour know no other images."""


@dataclass(frozen=True)
class _Operation:
    """What is done to some images.

    Attributes:
        name: as torchvision calls it.
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
        policy: `cifar10` or `imagenet`.

    Returns:
        new uint8 images of the same shape.
    """
    transform = _transform(policy)
    images = images.clone()
    for groups in _draw(transform, len(images)):
        members = torch.tensor([number for group in groups.values() for number in group], dtype=torch.int64)
        sizes = [len(group) for group in groups.values()]
        for operation, chosen in zip(groups, members.to(images.device).split(sizes), strict=True):  # one transfer
            images[chosen] = _apply(transform, images[chosen], operation)
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
    _transform(policy)


@cache
def _transform(policy: str) -> Any:
    try:
        from torchvision.transforms import AutoAugmentPolicy, v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: its release does not fit that of torch
        message = "recipe: `training.auto_augment` needs torchvision"
        raise UsageError(message, hint='pip install "nctool[vision]"') from error
    return v2.AutoAugment(AutoAugmentPolicy(policy))


def _draw(transform: Any, n_images: int) -> list[dict[_Operation, list[int]]]:
    """Return, for the first operation of the pairs and for the second, which images get which."""
    pairs = [transform._policies[number] for number in torch.randint(len(transform._policies), (n_images,)).tolist()]
    chances, signs = torch.rand(2, n_images).tolist(), torch.randint(2, (2, n_images)).tolist()
    places: list[dict[_Operation, list[int]]] = [defaultdict(list), defaultdict(list)]
    for place, groups in enumerate(places):
        for number, pair in enumerate(pairs):
            name, probability, step = pair[place]
            if chances[place][number] <= probability:
                is_signed = transform._AUGMENTATION_SPACE[name][1]
                groups[_Operation(name, step, is_signed and signs[place][number] == 0)].append(number)
    return places


def _apply(transform: Any, images: Tensor, operation: _Operation) -> Tensor:
    magnitudes = transform._AUGMENTATION_SPACE[operation.name][0](_STEPS, *images.shape[2:])
    magnitude = 0.0 if magnitudes is None else float(magnitudes[operation.step])
    changed: Tensor = transform._apply_image_or_video_transform(
        images,
        operation.name,
        -magnitude if operation.is_negative else magnitude,
        interpolation=transform.interpolation,
        fill=transform._fill,
    )
    return changed
