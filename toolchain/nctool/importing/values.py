"""What flows through a network file while it is read: a tensor of the network that is built, and how the file sees it.

A file may keep its images as (N, H, W, C), transpose and flatten them. None of this is done: a `Value` notes which axis
of the tensor each axis of the file is, and which of its features each feature is. The layers that read it take their
weights in that order, and the network stays (N, C, H, W) throughout.

In: a value and what the file does with its axes. Out: a value, or a `RefusedError`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import fx

BATCH = 1_000_003
"""Stands for the number of samples in shapes: a prime that no size of a layer equals."""

Sizes = tuple[int, ...]
Order = NDArray[np.int64]


class RefusedError(Exception):
    """A node of the file that cannot be brought into the network.

    Args:
        reason: what is special about this node, or empty where it is its kind.
        kind: what hints call it, if another name than that of its operation.
    """

    def __init__(self, reason: str = "", kind: str = "") -> None:
        super().__init__(reason)
        self.reason, self.kind = reason, kind


MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python and torch raise where the arguments of an operation do not fit: those of a damaged file."""


@dataclass(frozen=True)
class Value:
    """A tensor of the network that is built.

    Args:
        node: what gives it; None for the images themselves, while their order of axes is open.
        sizes: of the tensor, the first is `BATCH`.
        axes: for each axis that the file sees, the axis of the tensor. Axes that the file does not see have length 1.
        order: int64 (features,) of a flat tensor: for each feature that the file sees, that of the tensor. None: the
            same.
    """

    node: fx.Node | None
    sizes: Sizes
    axes: Sizes
    order: Order | None = None

    @property
    def seen(self) -> Sizes:
        """Return the sizes that the file sees."""
        return tuple(self.sizes[axis] for axis in self.axes)

    @property
    def longer(self) -> list[int]:
        """Return the axes of the tensor that are longer than 1, as the file sees them."""
        return [axis for axis in self.axes if self.sizes[axis] != 1]


def permuted(value: Value, permutation: Sizes) -> Value:
    """Return a value whose axes the file exchanges."""
    if sorted(permutation) != list(range(len(value.axes))) or permutation[0] != 0:
        raise RefusedError(f"exchanges axes {permutation}")
    return replace(value, axes=tuple(value.axes[axis] for axis in permutation))


def resolved(value: Value, sizes: Sizes, batch: int | None = None) -> Sizes:
    """Return the sizes that the file asks for, without -1; the first is `BATCH`.

    Args:
        value: what is to have these sizes.
        sizes: -1 stands for what is left.
        batch: number of samples that the file was made for, if it is for one number.
    """
    total = math.prod(value.seen[1:])
    first, *rest = sizes or (0,)
    if -1 in rest:
        known = math.prod(size for size in rest if size != -1)
        rest = [total // known if size == -1 and known else size for size in rest]
    if first not in (-1, BATCH, batch) or math.prod(rest) != total or not rest:
        shown = ", ".join("N" if size == BATCH else str(size) for size in sizes)
        raise RefusedError(f"reshapes a sample of {value.seen[1:]} to ({shown})")
    return BATCH, *rest


def reviewed(value: Value, sizes: Sizes) -> Value | None:
    """Return a value of other sizes where the file only adds or takes away axes of length 1, else None.

    Args:
        value: what is to have these sizes.
        sizes: as from `resolved`.
    """
    spare = [axis for axis, size in enumerate(value.sizes) if size == 1]
    if [value.sizes[axis] for axis in value.longer] != [size for size in sizes if size != 1]:
        return None
    if sizes.count(1) > len(spare):
        return None
    unused, used = iter(spare), iter(value.longer)
    return replace(value, axes=tuple(next(unused) if size == 1 else next(used) for size in sizes))


def flat_order(value: Value) -> Order | None:
    """Return which feature of the flat tensor each feature is when the file flattens `value`; None: the same."""
    if value.order is not None:
        return value.order
    hidden = set(range(1, len(value.sizes))) - set(value.axes)
    places = np.arange(math.prod(value.sizes[1:])).reshape(value.sizes[1:])
    order = places.transpose([axis - 1 for axis in (*value.axes[1:], *hidden)]).reshape(-1)
    return None if np.array_equal(order, np.arange(len(order))) else order
