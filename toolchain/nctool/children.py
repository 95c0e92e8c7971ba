"""Start Python processes that end with this one, and talk to them.

A child loads one module and calls its `main`. It is neither a copy of this process nor another run of its script, so a
program needs no `if __name__ == "__main__"`. What passes between them has no name in a file system, and Linux ends a
child whose parent is gone: whatever ends this process, nothing stays behind. Elsewhere a child ends after the request
that it works on.

In: the name of a module. Out: a `Child`. Must not import torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

_START = "import sys; sys.path[:] = {paths}; from nctool.children import enter; enter({module!r}, {parent}, {link})"
"""The program of a child. It finds modules where its parent does, and not in the folder that it happens to run in."""

_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG`. Source: prctl(2)."""

_prctl = getattr(ctypes.CDLL(None), "prctl", None)
"""Only Linux has it."""


class ChildError(Exception):
    """A child ended while something was expected of it.

    Args:
        exit_code: as `subprocess` counts it, negative for a signal.
    """

    def __init__(self, exit_code: int) -> None:
        is_signal = exit_code < 0
        super().__init__(f"ended by {signal.Signals(-exit_code).name}" if is_signal else f"exit code {exit_code}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Child:
    """A process that was started, in a session of its own.

    Attributes:
        process: the process.
        link: takes and gives what can be pickled; `main` of the child's module has the other end.
    """

    process: subprocess.Popen[bytes]
    link: Connection[Any, Any]

    def send(self, value: object) -> None:
        """Give the child a value, which waits for it; `ChildError` if it is gone."""
        try:
            self.link.send(value)
        except OSError as error:
            raise ChildError(self.process.wait()) from error

    def receive(self) -> Any:
        """Take a value of the child, or wait for one; `ChildError` if none will come."""
        try:
            return self.link.recv()
        except (EOFError, OSError) as error:
            raise ChildError(self.process.wait()) from error


@contextmanager
def child(module: str, output: int | None = None) -> Iterator[Child]:
    """Start a child, and end it and all that it started when the block ends.

    Enter and leave the block in one thread: Linux counts the end of the thread that started a child as the end of its
    parent.

    Args:
        module: its `main` is called with the child's end of the link.
        output: descriptor that its stdout and stderr go to; by default stdout is dropped, and stderr that of this
            process.
    """
    ours, theirs = Pipe()
    with ours:
        with theirs:
            paths = [str(path) for path in sys.path]
            start = _START.format(paths=paths, module=module, parent=os.getpid(), link=theirs.fileno())
            process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if output is None else output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            yield Child(process, ours)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def enter(module: str, parent: int, link: int) -> None:
    """Run as a child; `child` starts this.

    Args:
        module: its `main` is called.
        parent: process number of who started it.
        link: descriptor of this end of the link.
    """
    _end_with(parent)
    forking = deque[int](maxlen=1)
    os.register_at_fork(before=lambda: forking.append(os.getpid()), after_in_child=lambda: _end_with(forking[0]))
    import_module(module).main(Connection(link))


def requests(link: Connection[Any, Any]) -> Iterator[Any]:
    """Yield what the parent of this process sends, as long as it is there."""
    with suppress(EOFError, ConnectionError):
        while True:
            yield link.recv()


def _end_with(parent: int) -> None:
    """Let Linux end this process when its parent ends; if that has happened already, end it here."""
    if _prctl is not None:
        _prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
