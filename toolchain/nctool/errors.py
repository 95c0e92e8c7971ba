"""Every error that leaves a public function of nctool.

    NctoolError
    ├── UsageError        exit 2   bad option, or a path that is not there
    │   └── RecipeError   exit 2   unknown recipe, unknown key, value not allowed
    ├── UnsupportedError  exit 3   the network holds something that cannot be converted or lowered
    ├── RangeError        exit 3   a number does not fit the format or the chip
    ├── FormatError       exit 4   a file that is there, but bad
    ├── EngineError       exit 5   an engine is missing or failed
    └── OutputError       exit 74  stdout is closed or full; of the command line only, `nctool.commands.streams`

Exit 1 is no error: it means that two engines differ, and nothing else gives it. A message says where, what, got and
allowed on its first line; `hint` says the way out. `Interrupted` is no error either: it is a KeyboardInterrupt, so that
a program that handles errors does not swallow Ctrl-C. `NctoolWarning` is what Python callers are warned with. This
module imports nothing of nctool.
"""

from __future__ import annotations

import signal


class NctoolError(Exception):
    """Base of all errors that a user can meet.

    Args:
        message: one line, lower case, back-ticks round names, no full stop.
        hint: one line that says what to do about it, or None.
    """

    exit_code: int

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"

    def __reduce__(self) -> tuple[type[NctoolError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class UsageError(NctoolError):
    """A bad option, or a path that is not there."""

    exit_code = 2


class RecipeError(UsageError):
    """An unknown recipe, an unknown key or a value that is not allowed."""

    exit_code = 2


class UnsupportedError(NctoolError):
    """The network holds something that cannot be converted, lowered or simulated."""

    exit_code = 3


class RangeError(NctoolError):
    """A number does not fit the integer format or the chip."""

    exit_code = 3


class FormatError(NctoolError):
    """A file that is there, but truncated, foreign, newer or inconsistent."""

    exit_code = 4


class EngineError(NctoolError):
    """A simulation engine is not installed, timed out or failed."""

    exit_code = 5


class NctoolWarning(UserWarning):
    """Something is done as asked, but was probably not meant; filter it by this category."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run in good order: Ctrl-C, a scheduler that wants the machine back, a terminal that closes."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a run in good order.

    Args:
        message: one line, as that of an error.
        hint: how to go on, or None where there is nothing to go on from.
        signal_number: one of `SIGNALS`.
    """

    def __init__(self, message: str, hint: str | None, signal_number: int) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = 128 + signal_number


def first_line(error: Exception) -> str:
    """Return what a library says, as a part of a message: one line in lower case that a terminal only prints."""
    line = (str(error).splitlines() or [type(error).__name__])[0].lower()
    return "".join(character if character.isprintable() else "?" for character in line)


_NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch begins to say it of the CPU: it has no type of error for that."""


def is_out_of_memory(error: Exception) -> bool:
    """Return True for memory that could not be had, of the machine or of a device.

    torch's error of a device is known by its name: this module must be loaded without torch.
    """
    is_of_device = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or is_of_device or _NO_CPU_MEMORY in str(error)
