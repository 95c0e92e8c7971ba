"""Tell which of the processes of torchrun this one is, and end it; without torchrun, it is the first of one.

In: the environment that torchrun sets. Out: numbers. Must not import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from nctool.errors import EngineError, UsageError, first_line


def rank_and_size() -> tuple[int, int]:
    """Return this process's number and the number of processes that torchrun started; (0, 1) without it.

    Raises:
        UsageError: the environment holds something else than numbers.
    """
    return _number("RANK", 0), _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return this process's number among those of its machine; a UsageError where the environment holds none."""
    return _number("LOCAL_RANK", 0)


def is_one_of_several() -> bool:
    """Return whether torchrun started this process beside others."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def leave(code: int) -> NoReturn:
    """End a process of torchrun at once, when all is written.

    The threads of its process group may still run; an interpreter that is taken apart around them now and then ends by
    SIGABRT.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


@contextmanager
def exchange() -> Iterator[None]:
    """Turn a failed exchange with the other processes into an error that says so: that of torch looks like a bug.

    Raises:
        EngineError: the others are not there, or not there any more.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"the exchange with the other processes of torchrun failed: {first_line(error)}",
            hint="the error of the process that ended first says why; without torchrun, unset RANK and WORLD_SIZE",
        ) from error


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise UsageError(f"`{name}` in the environment is `{text}`, allowed: a number", hint="torchrun sets it")
    return int(text)
