"""Run a Lava process and record what its parts send while it runs; nothing of it is left behind.

Reading a Var after the run would send one message per element; extractors stream whole arrays, step by step.

The processes of Lava share memory that has no name: it is gone when they are, however they end. Lava's own comes from
`multiprocessing.managers`: named segments, which a process of their own is to delete, and a socket in the temporary
folder. Both stay behind when a whole session is killed, and containers have little room for segments.

In: a Lava process. Out: arrays over time. Must not import torch itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mmap import mmap
from multiprocessing import Process
from multiprocessing.connection import wait
from signal import Signals
from threading import Event, Thread

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.magma.runtime.message_infrastructure import multiprocessing as infrastructure
from lava.proc.io.extractor import Extractor, PyLoihiExtractorModel, VarWire
from numpy.typing import NDArray

BUFFERED_STEPS = 32
"""Steps that a layer may run ahead of the recording."""

EXIT_CODE_S = 5.0
"""Seconds to wait for the exit code of a process that has ended."""


def tap(block: AbstractProcess) -> Extractor:
    """Return an extractor of the spikes of a netx block."""
    extractor = Extractor(shape=block.out.shape, buffer_size=BUFFERED_STEPS)
    block.out.connect(extractor.in_port)
    return extractor


def run_and_record(
    process: AbstractProcess, wires: Sequence[Extractor | VarWire], n_total: int
) -> list[NDArray[np.int32]]:
    """Run `n_total` steps with the fixed-point models; return what each wire carried, (n_total, *Lava shape).

    After an error the processes are not stopped, which can last for ever: this program is to end.
    """
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map={Extractor: PyLoihiExtractorModel})
    threading.excepthook = _end_with_thread  # also in Lava's processes, which are forked from this one
    process.run(condition=RunSteps(num_steps=n_total, blocking=False), run_cfg=config)
    with watched(process):
        first = [wire.receive() for wire in wires]
        recorded = [np.empty((n_total, *values.shape), np.int32) for values in first]
        for step in range(n_total):
            for values, wire, store in zip(first, wires, recorded, strict=True):
                store[step] = values if step == 0 else wire.receive()
        process.wait()
    process.stop()
    return recorded


@contextmanager
def watched(process: AbstractProcess) -> Iterator[None]:
    """End this program when one of Lava's processes fails, and print why: the others would wait for it for ever."""
    actors, over = process.runtime._messaging_infrastructure.actors, Event()

    def watch() -> None:
        by_sentinel = {actor.sentinel: actor for actor in actors}
        ended = [by_sentinel[sentinel] for sentinel in wait(by_sentinel)]
        if not over.is_set():
            sys.stderr.writelines(trace for _, trace in filter(None, (actor.exception for actor in actors)))
            sys.stderr.writelines(f"a process of Lava {_end(actor)}\n" for actor in ended)
            sys.stderr.flush()
            os._exit(1)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _end(actor: Process) -> str:
    """Say how a process ended; its exit code may come a little later, by way of another thread."""
    deadline = time.monotonic() + EXIT_CODE_S
    while actor.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.01)
    code = actor.exitcode
    return "ended" if code is None or code >= 0 else f"ended by {Signals(-code).name}"


def _end_with_thread(error: threading.ExceptHookArgs) -> None:
    """Print why a thread failed and end its process: the other threads would wait for it for ever."""
    threading.__excepthook__(error)
    sys.stderr.flush()
    os._exit(1)


# --- memory that the processes of Lava share ------------------------------


class Memory:
    """A shared memory, as the channels of Lava read it.

    Attributes:
        buf: the bytes; a process that is forked later has the same ones.
    """

    def __init__(self, size: int) -> None:
        self.buf = memoryview(mmap(-1, size))


class Memories:
    """Make memory without names: takes the place of `SharedMemoryManager` in Lava's message infrastructure."""

    def start(self) -> None:
        """Do nothing: no process is needed."""

    def create_shared_memory(self, size: int) -> Memory:
        """Return a memory of `size` bytes, all 0."""
        return Memory(size)

    def shutdown(self) -> None:
        """Do nothing: a memory is freed with the last channel that holds it."""


def share_without_names() -> None:
    """Make the runs of this process use `Memories`."""
    infrastructure.SharedMemoryManager = Memories
