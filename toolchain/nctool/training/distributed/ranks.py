"""The processes of torchrun that train together: what each of them takes, and what they make of all parts.

In: the processes of torchrun. Out: `Ranks`, or `ALONE` without torchrun. `gloo` carries the exchange on the CPU, `nccl`
on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from nctool.errors import NctoolError, UsageError
from nctool.torchrun import exchange, local_rank, rank_and_size
from nctool.training.distributed.exchange import gathered_values, take_first, total, value_of_first
from nctool.training.distributed.global_batch import GlobalBatch
from nctool.training.processes import ALONE, Processes

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks(Processes):
    """This process among several.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.rank == 0

    def rows(self, n_rows: int) -> slice:
        """Return this process's rows of a batch; where they do not divide, the shares differ by one row."""
        return slice(n_rows * self.rank // self.size, n_rows * (self.rank + 1) // self.size)

    def own(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield this process's batches of an evaluation: every `size`-th."""
        return islice(batches, self.rank, None, self.size)

    def in_order(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors of all batches in order, on the CPU."""
        parts = gathered_values([tensor.cpu() for tensor in own])
        n_batches = sum(map(len, parts))
        return [parts[number % self.size][number // self.size] for number in range(n_batches)]

    def sums(self, own: Sequence[int]) -> list[int]:
        """Add up whole numbers of all processes, number by number."""
        return [sum(numbers) for numbers in zip(*gathered_values(list(own)), strict=True)]

    def any(self, own: bool) -> bool:
        """Say whether something is so in any process."""
        return any(gathered_values(own))

    def from_first(self, make: Callable[[], T]) -> T:
        """Let the first process alone do something, and return what it got, or raise its NctoolError, in all."""
        outcome: tuple[T | None, NctoolError | None] = (None, None)
        if self.is_first:
            try:
                outcome = (make(), None)
            except NctoolError as error:
                outcome = (None, error)
        value, failure = value_of_first(outcome)
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value] # None only where that is what `make` returns

    def equalise(self, model: nn.Module) -> None:
        """Give the model of every process the weights of the first."""
        for tensor in model.state_dict().values():
            take_first(tensor)

    def whole_batch(self, model: nn.Module, n_rows: int) -> AbstractContextManager[Any]:
        """Let `model` compute this process's rows as those of a batch of `n_rows`, the backward pass included."""
        return GlobalBatch(model, n_rows, self.rows(n_rows))

    def add_gradients(self, model: nn.Module, numbers: Tensor) -> Tensor:
        """Add up gradients, and float numbers (n,) beside them, in one exchange; return the sums of the numbers.

        One exchange behind the backward pass is simple and works with weights that are computed, as in fine-tuning. It
        does not overlap with that pass.
        """
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        flat = total(torch.cat([*(gradient.reshape(-1) for gradient in gradients), numbers]))
        *sums, numbers = flat.split([*(gradient.numel() for gradient in gradients), len(numbers)])
        for gradient, whole in zip(gradients, sums, strict=True):
            gradient.copy_(whole.view(gradient.shape))
        return numbers


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes of torchrun while the block runs; without torchrun, be alone.

    A process group that is there is used and left. One of `gloo` is left as it is at the end, for the next run: its
    threads may wait for this one while it is taken apart (torch 2.3). After an error none is taken apart: others may be
    gone.
    """
    if rank_and_size()[1] == 1:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    is_own = not distributed.is_initialized()
    if is_own:
        with exchange():
            distributed.init_process_group(backend)
    yield Ranks(distributed.get_rank(), distributed.get_world_size())
    if is_own and backend == "nccl":
        distributed.destroy_process_group()


def own_gpu(device: torch.device) -> torch.device:
    """Return the GPU of this process, and make it the one that `cuda` means; alone, or elsewhere, the device as it is.

    Raises:
        UsageError: one GPU is named for all processes, or there are fewer than processes.
    """
    if device.type != "cuda" or rank_and_size()[1] == 1:
        return device
    if device.index is not None:
        raise UsageError(f"device `{device}` for all processes of torchrun, allowed: cuda, a GPU for each")
    n_devices = torch.cuda.device_count()
    if local_rank() >= n_devices:
        raise UsageError(
            f"process {local_rank()} of this machine has no GPU of its own, there are {n_devices}",
            hint=f"start {n_devices} with --nproc-per-node",
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())
