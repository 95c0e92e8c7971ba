"""What the processes of a group exchange: tensors, or any other values, through torch.distributed.

In: one process's part. Out: that of all, the same in each. All processes call every function, in the same order.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from nctool.torchrun import exchange

T = TypeVar("T")


def total(values: Tensor) -> Tensor:
    """Add up tensors of one shape, in place; every process gets the same bits."""
    with exchange():
        distributed.all_reduce(values)
    return values


def gathered(values: Tensor) -> Tensor:
    """Return the tensors of all processes, of one shape, as (size, ...) in order."""
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    with exchange():
        distributed.all_gather(parts, values)
    return torch.stack(parts)


def gathered_values(value: T) -> list[T]:
    """Return the values of all processes, in order; they must be such as can be pickled, tensors on the CPU."""
    parts: list[T | None] = [None] * distributed.get_world_size()
    with exchange():
        distributed.all_gather_object(parts, value)
    return cast(list[T], parts)


def value_of_first(value: T) -> T:
    """Return the value of the first process."""
    parts = [value]
    with exchange():
        distributed.broadcast_object_list(parts, src=0)
    return parts[0]


def take_first(tensor: Tensor) -> None:
    """Fill a tensor with that of the first process."""
    with exchange():
        distributed.broadcast(tensor, src=0)
