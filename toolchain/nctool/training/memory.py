"""Memory that ran out in training, as an error that says what to change.

In: a block of work. Out: what the block raises, allocation failures as a RangeError. Imports of nctool only allocation
and errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nctool.errors import RangeError, is_out_of_memory


@contextmanager
def explained_out_of_memory(device: str | torch.device, batch_size: int) -> Iterator[None]:
    """Turn an allocation that failed in the block into an error with a way out; leave other errors alone.

    Args:
        device: where the network is trained, for the message.
        batch_size: images of a batch, for the message.

    Raises:
        RangeError: memory of the device or of the machine ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RangeError(
            f"training ran out of memory on `{device}`, with batches of {batch_size} images",
            hint="lower training.batch_size, or take a smaller network or smaller images",
        ) from error
