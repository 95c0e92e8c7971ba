"""Full precision of float32 in torch: what rounds a product or a sum to fewer bits is switched off for a while.

TF32 and bfloat16 may stand in for float32 in matrix products and convolutions, by a setting of the caller or of torch
itself. Since torch 2.9 each library and operation has its own switch beside the one of all matrix products; to ask the
older one is an error once a program has set a newer one. The switch of cuDNN's convolutions cannot be put back to its
first value, which follows the others in its own way: cuDNN as a whole is switched off instead.

In: nothing. Out: a context manager. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch

EXACT = "ieee"
INHERITED = "none"
"""A switch that has no value of its own takes that of its library, or of all of torch."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Let float32 be float32 while the block runs, in all threads; the last such block puts the switches back."""
    _BLOCKS.enter()
    try:
        yield
    finally:
        _BLOCKS.leave()


class _Blocks:
    """Counts the blocks that are running, in whatever threads: the first sets the switches, the last puts them back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = 0
        self._before = ExitStack()

    def enter(self) -> None:
        """Begin a block."""
        with self._lock:
            if self._running == 0:
                self._before.enter_context(_switched())
            self._running += 1

    def leave(self) -> None:
        """End a block."""
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self._before.close()


_BLOCKS = _Blocks()


@contextmanager
def _switched() -> Iterator[None]:
    """Set the switches while the block runs, and put them back."""
    cudnn, older, switches = torch.backends.cudnn.enabled, _older_switch(), _switches()
    try:
        torch.backends.cudnn.enabled = False
        if older is not None:
            _set_older_switch(False, "highest")
        for switch, _ in switches:
            switch.fp32_precision = EXACT
        yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        if older is not None:
            _set_older_switch(*older)
        for switch, value in switches:
            switch.fp32_precision = value


def _older_switch() -> tuple[bool, str] | None:
    """Return both ways in which torch tells it; None where it may not be asked."""
    try:
        return torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _set_older_switch(allow_tf32: bool, precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.set_float32_matmul_precision(precision)  # last: it sets the other too


def _switches() -> list[tuple[Any, str]]:
    """Return what has a switch of its own, and the value of that; nothing before torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    of_library = (
        (backends.cuda.matmul, backends),
        (backends.mkldnn.matmul, backends.mkldnn),
        (backends.mkldnn.conv, backends.mkldnn),
    )
    return [(switch, _own_value(switch, library)) for switch, library in of_library]


def _own_value(switch: Any, library: Any) -> str:
    value: str = switch.fp32_precision
    return INHERITED if value == library.fp32_precision else value
