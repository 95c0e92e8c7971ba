"""Run a Lava process and record what its parts send while it runs.

Reading a Var after the run would send one message per element; extractors stream whole arrays, step by step.

In: a Lava process. Out: arrays over time. Must not import torch itself.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Process
from multiprocessing.connection import wait
from signal import Signals
from threading import Event, Thread

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.extractor import Extractor, PyLoihiExtractorModel, VarWire
from numpy.typing import NDArray

BUFFERED_STEPS = 32
"""Steps that a layer may run ahead of the recording."""


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
    with _watched(process):
        first = [wire.receive() for wire in wires]
        recorded = [np.empty((n_total, *values.shape), np.int32) for values in first]
        for step in range(n_total):
            for values, wire, store in zip(first, wires, recorded, strict=True):
                store[step] = values if step == 0 else wire.receive()
        process.wait()
    process.stop()
    return recorded


@contextmanager
def _watched(process: AbstractProcess) -> Iterator[None]:
    """End this program when one of Lava's processes fails, and print why: the others would wait for it for ever."""
    actors, over = process.runtime._messaging_infrastructure.actors, Event()

    def watch() -> None:
        wait([actor.sentinel for actor in actors])
        if not over.is_set():
            sys.stderr.writelines(trace for _, trace in filter(None, (actor.exception for actor in actors)))
            sys.stderr.writelines(f"a process of Lava ended by {name}\n" for name in _signals(actors))
            sys.stderr.flush()
            os._exit(1)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _signals(actors: Sequence[Process]) -> list[str]:
    """Return the names of the signals that ended processes."""
    return [Signals(-actor.exitcode).name for actor in actors if actor.exitcode is not None and actor.exitcode < 0]


def _end_with_thread(error: threading.ExceptHookArgs) -> None:
    """Print why a thread failed and end its process: the other threads would wait for it for ever."""
    threading.__excepthook__(error)
    sys.stderr.flush()
    os._exit(1)
