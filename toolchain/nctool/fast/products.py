"""Convolutions as matrix products: exact on a GPU, whose own convolutions may round.

cuDNN and MIOpen choose an algorithm for every shape. Those of Winograd and of Fourier transforms multiply sums and
differences of what they are given, and round in float32 where the plain sum of products would not; asking for
determinism and full precision leaves them in. A matrix product adds up products, in whatever order, so it is exact
wherever the type holds every partial sum.

`failure` tries that once for a device and a type: libraries may be told, outside torch, to multiply in a narrower one.

In: signals and weights. Out: weighted sums. Must not import the reference engine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nctool.ir.geometry import ConvGeometry

PATCH_BYTES = 2**28
"""Memory of the patches that are multiplied at a time: enough to fill a GPU, and little beside its memory."""


def convolve(signal: Tensor, weight: Tensor, bias: Tensor | None, conv: ConvGeometry) -> Tensor:
    """Return what `conv2d` does, as products of patches and weights.

    Args:
        signal: (batch, channels, height, width), quickest with the channels last; its neurons already apart.
        weight: (out, channels / groups, high, wide).
        bias: (out,), or None.
        conv: geometry, but for what lies between the neurons.

    Returns:
        (batch, out, rows, columns), with the channels last.
    """
    of_groups = weight.permute(0, 2, 3, 1).reshape(conv.groups, len(weight) // conv.groups, -1)
    padded = functional.pad(signal.permute(0, 2, 3, 1), (0, 0, *_both(conv.padding[1]), *_both(conv.padding[0])))
    patches = _patches(padded, weight, conv)
    images, rows, columns = patches.shape[:3]
    sums = signal.new_empty(images, rows, columns, len(weight))
    bytes_an_image = patches[:1].numel() * patches.element_size()
    at_once = max(1, PATCH_BYTES // max(1, bytes_an_image))
    for some, out in zip(patches.split(at_once), sums.split(at_once), strict=True):
        out.copy_(_product(some, of_groups, bias).view(out.shape))
    return sums.permute(0, 3, 1, 2)


def _both(padding: int) -> tuple[int, int]:
    return padding, padding


def _patches(padded: Tensor, weight: Tensor, conv: ConvGeometry) -> Tensor:
    """View (batch, height, width, channels) as (batch, rows, columns, groups, high, wide, channels / groups)."""
    (high, wide), (down, right) = weight.shape[2:], conv.dilation
    places = padded.unfold(1, down * (high - 1) + 1, conv.stride[0]).unfold(2, right * (wide - 1) + 1, conv.stride[1])
    images, rows, columns, channels = places.shape[:4]
    seen = places[..., ::down, ::right].view(images, rows, columns, conv.groups, channels // conv.groups, high, wide)
    return seen.permute(0, 1, 2, 3, 5, 6, 4)


def _product(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Weigh patches (..., groups, high, wide, channels) by (groups, out / groups, high * wide * channels)."""
    groups, n_out, n_in = weight.shape
    if groups == 1:
        return functional.linear(patches.reshape(-1, n_in), weight[0], bias)
    weighed = patches.reshape(-1, groups, n_in).transpose(0, 1) @ weight.transpose(1, 2)
    together = weighed.transpose(0, 1).reshape(-1, groups * n_out)
    return together if bias is None else together.add_(bias)


# --- whether they are exact here --------------------------------------------------------------------------------------

_CASES = ((300, 1, 4608, 65, 1), (64, 1, 27, 64, 127), (40, 16, 9, 1, 1), (1, 1, 500, 11, 255), (9, 1, 1, 5, 1))
"""Rows, groups, terms of a sum, sums of a group and the largest signal: a wide layer, an image, many groups, one row,
weights of all bits."""


def failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why products of a type are not to be trusted on a device, None where they are.

    Args:
        device: where they are tried.
        dtype: float32 or float64.
    """
    bits = 24 if dtype == torch.float32 else 53
    for number, (rows, groups, terms, sums, largest) in enumerate(_CASES):
        rng = np.random.default_rng(number)
        most = (2**bits - 1) // (terms * largest)
        signal = rng.choice([0, 1, largest], (rows, groups, terms))
        weight = rng.integers(-most, most + 1, (groups, sums, terms))
        weight[:, 0], signal[0] = most, largest
        on_device = [torch.from_numpy(each).to(device, dtype) for each in (signal, weight)]
        found = _product(on_device[0], on_device[1], None)
        expected = (signal.transpose(1, 0, 2) @ weight.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(rows, -1)
        if not np.array_equal(found.cpu().numpy().astype(np.int64), expected):
            name = str(dtype).removeprefix("torch.")
            return f"matrix products of {name} give wrong sums on {device.type}"
    return None
