"""The two ends of a network that is read: its images and its scores.

In: sizes of the images, or the value that the file gives. Out: a `Builder`, or the finished module; an UnsupportedError
where they are no images or scores.
"""

from __future__ import annotations

from typing import NoReturn

from torch import fx

from nctool.importing.builder import Builder
from nctool.importing.problems import Problems
from nctool.importing.scaling import fold_scaling
from nctool.importing.values import RefusedError, Sizes, Value


def started(name: str, sizes: Sizes, batch: int | None, problems: Problems) -> Builder:
    """Return a builder for images of `sizes`.

    Raises:
        UnsupportedError: they are too large.
    """
    try:
        return Builder(sizes, batch)
    except RefusedError as refused:
        _raise(problems, name, "input", refused)


def finished(layers: Builder, output: object, problems: Problems) -> fx.GraphModule:
    """Return the network that gives `output`.

    Raises:
        UnsupportedError: it does not depend on the images, or they are shifted in a way that has no spiking form.
    """
    if not isinstance(output, Value) or output.node is None:
        _raise(problems, "output", "output", RefusedError("does not depend on the images"))
    network = layers.finish(output)
    try:
        fold_scaling(network)
    except RefusedError as refused:
        _raise(problems, "images", "input", refused)
    return network


def _raise(problems: Problems, name: str, kind: str, refused: RefusedError) -> NoReturn:
    problems.add(name, kind, refused)
    raise problems.error()
