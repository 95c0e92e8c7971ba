"""The processes that train one network together: what each of them takes, and what they exchange.

In: the processes of torchrun. Out: `Ranks`; alone, one that exchanges nothing. `gloo` carries the exchange on the CPU,
`nccl` on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from nctool.errors import NctoolError, UsageError
from nctool.torchrun import exchange, local_rank, rank_and_size

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Every method but `rows` and `own` is called by all of them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

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

    def total(self, values: Tensor) -> Tensor:
        """Add up tensors of one shape, in place; every process gets the same bits."""
        if self.size > 1:
            with exchange():
                distributed.all_reduce(values)
        return values

    def gathered(self, values: Tensor) -> Tensor:
        """Return the tensors of all processes, (size, ...), in order."""
        if self.size == 1:
            return values.unsqueeze(0)
        parts = [torch.empty_like(values) for _ in range(self.size)]
        with exchange():
            distributed.all_gather(parts, values)
        return torch.stack(parts)

    def in_order(self, own: Sequence[Tensor], shape: tuple[int, int], device: torch.device) -> Tensor:
        """Return the numbers of all batches, float64 of `shape` (batches, numbers); each process has its `own`."""
        values = torch.zeros(shape, dtype=torch.float64, device=device)
        for number, value in zip(range(self.rank, shape[0], self.size), own, strict=True):
            values[number] = value
        return self.total(values)

    def counts(self, own: Sequence[int], device: torch.device) -> list[int]:
        """Add up whole numbers."""
        return list(own) if self.size == 1 else [int(n) for n in self.total(torch.tensor(own, device=device))]

    def any(self, is_so: bool, device: torch.device) -> bool:
        """Say whether it is so in any process."""
        return is_so if self.size == 1 else bool(self.total(torch.tensor(float(is_so), device=device)) > 0)

    def add_gradients(self, model: nn.Module, numbers: Tensor) -> Tensor:
        """Add up gradients, and float numbers (n,) beside them, in one exchange; return the sums of the numbers.

        One exchange behind the backward pass is simple and works with weights that are computed, as in fine-tuning. It
        does not overlap with that pass.
        """
        if self.size == 1:
            return numbers
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        flat = self.total(torch.cat([*(gradient.reshape(-1) for gradient in gradients), numbers]))
        *sums, numbers = flat.split([*(gradient.numel() for gradient in gradients), len(numbers)])
        for gradient, whole in zip(gradients, sums, strict=True):
            gradient.copy_(whole.view(gradient.shape))
        return numbers

    def equalise(self, model: nn.Module) -> None:
        """Give the model of every process the weights of the first."""
        if self.size > 1:
            with exchange():
                for tensor in model.state_dict().values():
                    distributed.broadcast(tensor, src=0)

    def from_first(self, make: Callable[[], T]) -> T:
        """Let the first process alone do something, and return what it got, or raise its NctoolError, in all."""
        if self.size == 1:
            return make()
        outcome: list[tuple[T | None, NctoolError | None]] = [(None, None)]
        if self.is_first:
            try:
                outcome = [(make(), None)]
            except NctoolError as error:
                outcome = [(None, error)]
        with exchange():
            distributed.broadcast_object_list(outcome, src=0)
        value, failure = outcome[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value] # None only where that is what `make` returns


ALONE = Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
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
