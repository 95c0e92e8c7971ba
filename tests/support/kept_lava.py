"""The subprocess of the Lava engine, kept from test to test: to load Lava takes three of the five seconds of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from nctool.children import Child, child
from nctool_deploy.lava.engine import WORKER, LavaJob


class KeptLava:
    """Hands out one subprocess again and again, and a new one where the last run failed, whose log it hands over.

    Attributes:
        is_on: False for tests that look at the subprocess itself, or change what it runs; they get one of their own.
    """

    def __init__(self) -> None:
        self.is_on = True
        self._stack = ExitStack()
        self._kept: Child | None = None

    @contextmanager
    def child(self, module: str, output: int | None = None) -> Iterator[Child]:
        """Take the place of `nctool.children.child` in the Lava engine."""
        if not self.is_on or module != WORKER:
            with child(module, output) as own:
                yield own
            return
        if self._kept is None:
            self._kept = self._stack.enter_context(self._started(module))
            self._kept.receive()
        begin = self._log_size()
        try:
            yield Child(self._kept.process, _Greeting(self._kept.link))  # type: ignore[arg-type]
        except BaseException:
            if output is not None:
                os.write(output, os.pread(self._log, self._log_size() - begin, begin))
            self.end()
            raise

    def _log_size(self) -> int:
        return os.fstat(self._log).st_size

    @contextmanager
    def _started(self, module: str) -> Iterator[Child]:
        with os.fdopen(os.memfd_create("log")) as log, child(module, log.fileno()) as kept:
            self._log = log.fileno()
            yield kept

    def end(self) -> None:
        """End the subprocess."""
        self._stack.close()
        self._kept = None


class _Greeting:
    """A link that says once more that the subprocess is ready."""

    def __init__(self, link: Connection[Any, Any]) -> None:
        self._link, self._is_due = link, True

    def poll(self, timeout: float) -> bool:
        return self._is_due or self._link.poll(timeout)

    def recv(self) -> object:
        if self._is_due:
            self._is_due = False
            return None
        return self._link.recv()

    def send(self, value: LavaJob) -> None:
        """Give a job, with its path as it is here: the subprocess may have been started in another folder."""
        self._link.send(replace(value, model=value.model.absolute()))
