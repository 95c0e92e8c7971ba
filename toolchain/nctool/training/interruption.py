"""End a training run before its last epoch: after a signal, or when memory runs out.

In: a block of work. Out: whether a signal came, and errors that say how to go on with the run. The
loop decides what to do about a signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nctool.errors import SIGNALS, Interrupted, RangeError, is_out_of_memory


class Interruption:
    """Notes the first signal while the block runs; a second one does at once what it did before the block.

    Outside the main thread, which alone may handle signals, nothing is noted. A signal that the process ignores
    (`nohup`, a shell's background job) stays ignored. On exit every handler is put back.

    Attributes:
        noted: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: old for number, old in handlers.items() if old not in (None, signal.SIG_IGN)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.noted is None:
            self.noted = signal.Signals(number)
            return
        self.__exit__()
        signal.raise_signal(number)

    def error(self, epoch: int, n_epochs: int, state_path: Path) -> Interrupted:
        """Return the error that ends the run; it says what is kept, and how to go on.

        Args:
            epoch: complete epochs, of `n_epochs`.
            state_path: the file that holds them.
        """
        number = self.noted or signal.SIGTERM  # where only another process was told
        if epoch == 0:
            return Interrupted(f"stopped by {number.name} before an epoch was complete", None, number)
        return Interrupted(
            f"stopped by {number.name} after epoch {epoch} of {n_epochs}, which `{state_path}` holds",
            hint="repeat the command with --resume to go on",
            signal_number=number,
        )


@contextmanager
def explained_out_of_memory(device: str | torch.device, batch_size: int) -> Iterator[None]:
    """Turn an allocation that failed in the block into an error with a way out; leave other errors alone.

    Args:
        device: where the network is trained, for the message.
        batch_size: images of a batch, for the message.

    Raises:
        RangeError: memory of the device or of the machine ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RangeError(
            f"training ran out of memory on `{device}`, with batches of {batch_size} images",
            hint="lower training.batch_size, or take a smaller network or smaller images",
        ) from error
