"""Draw Gaussian noise quickly: random numbers are most of the time that an activation with noise takes.

In: σ. Out: a function that fills one tensor after the other with noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_N_VALUES = 1 << 16
"""Values that a draw on the CPU can take, one for each 16-bit word."""


def gaussian_noise(sigma: Tensor) -> Callable[[Tensor], Any]:
    """Return a function that fills a tensor with σ·ε, ε ~ N(0, 1), new for each element and call.

    On an accelerator torch draws them. On the CPU, torch would take three times as long. There a word of 16 random bits
    chooses one of 65,536 equally likely values, the means of as many slices of the normal distribution, with mean 0,
    variance 1, and none beyond 4.5. The bits are those of SFC64, whose seed is drawn from torch's global generator;
    they do not depend on the number of threads.

    Args:
        sigma: σ > 0, shape (), on the device of what is filled.

    Returns:
        the function; it takes contiguous float tensors.

    Source of SFC64: Doty-Humphrey, PractRand; numpy's generator of this name.
    """
    if sigma.device.type != "cpu":
        return lambda block: block.normal_().mul_(sigma)
    bits = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
    values = _standard_values() * np.float32(sigma)

    def fill(block: Tensor) -> None:
        words = bits.random_raw(-(-block.numel() // 4)).view(np.uint16)[: block.numel()].reshape(block.shape)
        if block.dtype == torch.float32:
            values.take(words, out=block.numpy(), mode="wrap")
        else:
            block.copy_(torch.from_numpy(values.take(words, mode="wrap")))

    return fill


@cache
def _standard_values() -> npt.NDArray[np.float32]:
    """Return the means of 65,536 equally likely slices of N(0, 1), scaled to variance 1."""
    edges = torch.special.ndtri(torch.linspace(0, 1, _N_VALUES + 1, dtype=torch.float64))
    density = torch.exp(-edges.square() / 2)
    means = density[:-1] - density[1:]
    values: npt.NDArray[np.float32] = (means / means.square().mean().sqrt()).float().numpy()
    return values
