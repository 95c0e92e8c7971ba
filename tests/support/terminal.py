"""A stream that says it is a terminal, and bars that do not wait for a second before they are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO

import pytest


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class AtOnce:
    """A timer that does not wait."""

    def __init__(self, _seconds: float, action: Callable[[], None]) -> None:
        self.start = action

    def cancel(self) -> None:
        """Do nothing: it is over."""

    join = cancel


def stderr_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let stderr be a terminal from here on, in the test itself: pytest puts its own stream there before each one."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("nctool.progress.Timer", AtOnce)
    return stream
