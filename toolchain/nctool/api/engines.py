"""The engines by name: each turns an exported file and pixels into traces, batch by batch.

In: an engine's name, a file, pixels. Out: an iterator of traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import UsageError
from nctool.network import IntNetwork
from nctool.sim import reference
from nctool.sim.trace import Trace
from nctool_deploy import engine as lava
from nctool_deploy.netx import NetxFile

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """What an engine runs.

    Args:
        path: the file; `content` is what it holds.
        content: the file's content.
        pixels: uint8 (samples, *input shape).
        timeout_s: seconds that one run of a subprocess may take.
    """

    path: Path
    content: NetxFile
    pixels: Pixels
    timeout_s: float = lava.DEFAULT_TIMEOUT_S

    @property
    def network(self) -> IntNetwork:
        """Return the network."""
        return self.content.network


def _reference(job: Job) -> Iterator[Trace]:
    return reference.stream(job.network, job.pixels)


def _lava(job: Job) -> Iterator[Trace]:
    return lava.stream(job.path, job.network, job.pixels, timeout_s=job.timeout_s)


ENGINES: dict[str, Callable[[Job], Iterator[Trace]]] = {"reference": _reference, "lava": _lava}


def find_engine(name: str) -> Callable[[Job], Iterator[Trace]]:
    """Return the engine called `name`; a UsageError lists those that exist."""
    if name not in ENGINES:
        raise UsageError(f"unknown engine `{name}`, allowed {', '.join(ENGINES)}")
    return ENGINES[name]
