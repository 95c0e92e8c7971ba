"""The standard streams of a command: stdout is its answer, written once, when it is whole; stderr is talk.

In: the streams that the process got. Out: streams that can be written to, wherever they lead. Must not import torch.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from nctool.errors import NctoolError


class OutputError(NctoolError):
    """The answer of a command cannot be written."""

    exit_code = 74
    """EX_IOERR. Source: sysexits.h"""


@contextmanager
def lossy_stderr() -> Iterator[None]:
    """Drop what cannot be written to stderr while the block runs: talk changes nothing of what a command does.

    The null device takes the place of standard streams that are closed. Without it, the next file that is opened would
    get their number, and then the text that libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free: this one
    before = sys.stderr
    sys.stderr = _Talk(before)
    try:
        yield
    finally:
        sys.stderr = before


@contextmanager
def held_stdout() -> Iterator[None]:
    """Hold back what the block prints, and write it when the block ends.

    A reader who has gone is no error: the exit code says what the command found. What cannot be encoded is escaped.

    Raises:
        OutputError: stdout is closed, which is raised before the block runs, or it cannot be written. If the block
            raises an error too, that one is raised.
    """
    stdout = sys.stdout
    if stdout is None:
        raise OutputError("stdout is closed", hint="send it to a file, or to /dev/null")
    held = sys.stdout = _Held(stdout)
    try:
        yield
    except BaseException:
        with suppress(OutputError):  # what ended the block is what there is to say
            _write(held.getvalue(), stdout)
        raise
    else:
        _write(held.getvalue(), stdout)
    finally:
        sys.stdout = stdout


def _write(text: str, stream: TextIO) -> None:
    if not text:
        return  # to write nothing fails too where there is no room
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _discard(stream)
    except OSError as error:
        _discard(stream)
        raise OutputError(
            f"cannot write to stdout: {(error.strerror or str(error)).lower()}",
            hint="send it to a file on a disk with room",
        ) from error


def _discard(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere: Python flushes it once more at the end, and would fail."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - its name is no path
        os.dup2(nowhere.fileno(), stream.fileno())


class _Held(io.StringIO):
    """Text for a stream, which is asked what it is."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream.isatty()


class _Talk(io.TextIOBase):
    """A stream, or none, to which as much is written as can be."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return 2 if self._stream is None else self._stream.fileno()

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError:
                _discard(self._stream)
        return len(text)
