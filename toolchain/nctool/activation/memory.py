"""How the elements of a tensor lie, and their bits for compiled loops.

In: tensors. Out: the same elements as vectors and arrays that share their memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nctool.compiled import loops

_SHIFTS = {torch.float32: 0, torch.bfloat16: 16}
"""Types that the loops take, and how far their words are shifted to be those of a float32."""
_WORDS: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.float32: (torch.int32, np.uint32),
    torch.bfloat16: (torch.int16, np.uint16),
}
"""Their words in torch and in NumPy, which has no bfloat16."""


def compiled_loops(tensor: Tensor) -> Any:
    """Return the module `nctool.activation.loops`, or None where it cannot be used: torch.compile sees torch alone."""
    if tensor.device.type != "cpu" or tensor.dtype not in _SHIFTS or torch.compiler.is_compiling():
        return None
    return loops("nctool.activation.loops")


def shift_of(tensor: Tensor) -> int:
    """Return what the loops call `shift`."""
    return _SHIFTS[tensor.dtype]


def bits(tensor: Tensor) -> npt.NDArray[Any]:
    """Return the words of a contiguous tensor of a type that the loops take: uint32 or uint16, the same memory."""
    torch_type, numpy_type = _WORDS[tensor.dtype]
    words: npt.NDArray[Any] = tensor.detach().view(torch_type).numpy().view(numpy_type)
    return words


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor whose elements lie without gaps, images in the order that they have."""
    return tensor.contiguous(memory_format=memory_format(tensor))


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Return channels_last for images that lie so, and only so; contiguous otherwise."""
    last = tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def flat(tensor: Tensor) -> Tensor:
    """Return a dense tensor as a vector, in the order of its memory."""
    return (tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1)).view(-1)
