"""Obstacles: what keeps a network from being converted, gathered so that a user sees all of it at once.

Whoever reads a graph notes the obstacle at a node and goes on with a stand-in for its value. An error that only
follows from a stand-in is not noted.

In: errors. Out: one error that says all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx

from nctool.errors import NctoolError, RangeError, UnsupportedError


class Obstacles:
    """The errors found so far, each once, and the nodes at which they stand."""

    def __init__(self) -> None:
        self.nodes: set[fx.Node] = set()
        self._errors: dict[str, NctoolError] = {}

    def __bool__(self) -> bool:
        return bool(self._errors)

    def __iter__(self) -> Iterator[NctoolError]:
        return iter(self._errors.values())

    def add(self, error: NctoolError, node: fx.Node | None = None) -> None:
        """Take in an error; one that says what another says, as of a module that is called twice, is the same."""
        self._errors.setdefault(error.message, error)
        if node is not None:
            self.nodes.add(node)

    @contextmanager
    def noted(self, node: fx.Node | None = None) -> Iterator[None]:
        """Take in what keeps the block from its end, and go on behind it."""
        try:
            yield
        except (UnsupportedError, RangeError) as error:
            self.add(error, node)

    def raise_all(self) -> None:
        """Raise the errors as one, if there are any."""
        if self:
            raise self.joined()

    def joined(self) -> NctoolError:
        """Return the only error as it is, or one UnsupportedError with a line for each, and each hint once."""
        errors = list(self)
        if len(errors) == 1:
            return errors[0]
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        return UnsupportedError("\n".join(error.message for error in errors), hint="; ".join(hints) or None)
