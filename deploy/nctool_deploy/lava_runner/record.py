"""Run a Lava process and record what its parts send while it runs.

Reading a Var after the run would send one message per element; extractors stream whole arrays, step by step.

In: a Lava process. Out: arrays over time. Must not import torch itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
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
    """Run `n_total` steps with the fixed-point models; return what each wire carried, (n_total, *Lava shape)."""
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map={Extractor: PyLoihiExtractorModel})
    try:
        process.run(condition=RunSteps(num_steps=n_total, blocking=False), run_cfg=config)
        with _watched(process):
            first = [wire.receive() for wire in wires]
            recorded = [np.empty((n_total, *values.shape), np.int32) for values in first]
            for step in range(n_total):
                for values, wire, store in zip(first, wires, recorded, strict=True):
                    store[step] = values if step == 0 else wire.receive()
            process.wait()
    finally:
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
            sys.stderr.flush()
            os._exit(1)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
