"""One process's rows of a batch, computed as the rows that they are of the whole batch.

In: a model and the rows. Out: the same forward and backward pass as one process would make for all rows, up to the
order of sums. What couples the rows of a batch is done for all of them:

    noise            every number depends on its place in the whole batch alone, so that a process draws its own
    dropout          every process draws for the whole batch and takes its rows
    batch norm       mean and variance are those of all rows
    cross-entropy    the mean becomes this process's part of it: parts add up to the loss, and gradients to its gradient
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nctool.activation.noisy_quant import activations
from nctool.activation.staircase import Rows
from nctool.training.distributed.global_batch_norm import global_batch_norm


class GlobalBatch(TorchFunctionMode):
    """Computes with one process's rows of a batch while the block runs, backward pass included.

    It puts the functions of a table in the place of torch's, and tells the activations where their noise is.

    Args:
        model: what computes.
        n_rows: of the whole batch.
        rows: this process's.
    """

    def __init__(self, model: nn.Module, n_rows: int, rows: slice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layers, self._n_rows, self._rows = activations(model).values(), n_rows, rows
        self._instead: dict[Callable[..., Any], Callable[..., Any]] = {
            functional.batch_norm: global_batch_norm,
            functional.dropout: self._dropout,
            functional.cross_entropy: self._cross_entropy,
        }

    def __enter__(self) -> GlobalBatch:
        for layer in self._layers:
            layer.rows = Rows(self._rows.start, self._rows.stop - self._rows.start, self._n_rows)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        for layer in self._layers:
            layer.rows = None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._instead.get(function, function)(*args, **(kwargs or {}))

    def _own(self, values: Tensor) -> Tensor:
        """Return this process's rows of each time step."""
        by_step: Tensor = values.unflatten(0, (-1, self._n_rows))
        return by_step[:, self._rows].flatten(0, 1)

    def _whole(self, x: Tensor, value: float) -> Tensor:
        """Return a tensor for all rows of what `x` is of this process's rows, filled with one value."""
        n_steps = max((layer.window for layer in self._layers), default=1)
        whole = x.new_full((n_steps * self._n_rows, *x.shape[1:]), value)
        return whole.contiguous(memory_format=torch.channels_last) if _is_channels_last(x) else whole

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        kept = self._own(functional.dropout(self._whole(x.detach(), 1.0), p, training))
        return x.mul_(kept) if inplace else x * kept

    def _cross_entropy(self, logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
        return functional.cross_entropy(logits, labels, **(options | {"reduction": "sum"})) / self._n_rows


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
