"""See that average pooling, over windows as large as the stride, can stand for a maximum: its output may be smaller.

In: a rewritten network, and the maximum poolings that were replaced. Out: an UnsupportedError for one whose average has
another shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nctool.conversion.trace.modules import pair
from nctool.errors import UnsupportedError


@contextmanager
def same_shapes(module: nn.Module, maxima: Mapping[str, nn.MaxPool2d]) -> Iterator[None]:
    """Compare, whenever `module` runs inside, each average pooling with the maximum that it replaces, by name.

    Raises:
        UnsupportedError: on the images at hand they have different shapes.
    """
    handles = [
        module.get_submodule(name).register_forward_hook(partial(_compare, name, maximum))
        for name, maximum in maxima.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(name: str, maximum: nn.MaxPool2d, _: nn.Module, given: tuple[Any, ...], average: Tensor) -> None:
    sizes = (getattr(maximum, key) for key in ("kernel_size", "stride", "padding", "dilation", "ceil_mode"))
    maxima = functional.max_pool2d(given[0], *sizes)
    if maxima.shape != average.shape:
        kernel, stride, padding = (pair(getattr(maximum, key)) for key in ("kernel_size", "stride", "padding"))
        raise UnsupportedError(
            f"pooling `{name}` (kernel {kernel}, stride {stride}, padding {padding}) of {_size(given[0])} gives "
            f"{_size(maxima)}, but the average over its stride {_size(average)}",
            hint="use windows as large as the stride, without padding",
        )


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape[-2:]))
