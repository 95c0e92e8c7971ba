"""The processes that train one network: here, this one alone. Those of torchrun are in `distributed`.

In: one process's part of the work. Out: what all processes have of it, which for one is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Processes:
    """One process, which does all the work.

    All processes call every method but `rows` and `own`, in the same order.
    """

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return True

    def rows(self, n_rows: int) -> slice:
        """Return this process's rows of a batch."""
        return slice(0, n_rows)

    def own(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield this process's batches of an evaluation."""
        return iter(batches)

    def in_order(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Return a tensor for every batch of an evaluation, in order; each process has those of its `own` batches."""
        return list(own)

    def sums(self, own: Sequence[int]) -> list[int]:
        """Add up whole numbers of all processes, number by number."""
        return list(own)

    def any(self, own: bool) -> bool:
        """Say whether something is so in any process."""
        return own

    def from_first(self, make: Callable[[], T]) -> T:
        """Let the first process alone do something, and return what it got, or raise its NctoolError, in all."""
        return make()

    def equalise(self, model: nn.Module) -> None:
        """Give the model of every process the weights of the first."""

    def whole_batch(self, model: nn.Module, n_rows: int) -> AbstractContextManager[Any]:  # noqa: ARG002 - of one process
        """Let `model` compute this process's rows as those of a batch of `n_rows`, the backward pass included."""
        return nullcontext()

    def add_gradients(self, model: nn.Module, numbers: Tensor) -> Tensor:  # noqa: ARG002 - it has them already
        """Add up the gradients of all processes, and float numbers (n,) beside them; return the sums of the numbers."""
        return numbers


ALONE = Processes()
