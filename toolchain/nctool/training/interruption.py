"""Signals that end a training run in good order, behind the batch in work.

In: nothing. Out: whether one came. What is done about it is the loop's affair. Imports of nctool only errors.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from nctool.errors import SIGNALS


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
