"""The machine: processor, memory, GPUs, and the places that nctool writes to.

In: what the system says. Out: frozen dataclasses; None where the system says nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nctool.cpu import features
from nctool_models.datasets.load import default_data_dir


@dataclass(frozen=True)
class Processor:
    """The CPU.

    Args:
        name: what the system calls it.
        cores: that this process may use.
        features: those of `nctool.cpu` that it has; None where nobody can tell.
    """

    name: str
    cores: int
    features: tuple[str, ...] | None


@dataclass(frozen=True)
class Memory:
    """Memory in bytes; `limit` is that of a container, where it has one."""

    total: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use: its memory in bytes, and whether it computes in bfloat16."""

    name: str
    memory: int
    bfloat16: bool


@dataclass(frozen=True)
class Place:
    """A folder that nctool writes to.

    Args:
        what: lies there.
        path: of the folder, which may not be there yet.
        writable: whether a file can be made there.
        free: bytes.
    """

    what: str
    path: Path
    writable: bool
    free: int | None


def processor() -> Processor:
    """Return the CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = _told(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()
    return Processor(name, cores, features())


def memory() -> Memory:
    """Return how much memory there is."""
    told = {name: _told(Path("/proc/meminfo"), name) for name in ("MemTotal", "MemAvailable")}
    total, available = (None if text is None else int(text.split()[0]) * 1024 for text in told.values())
    return Memory(total, available, _limit())


def _limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < 2**60:  # cgroup v1 says "none" by a number near 2**63
            return int(text)
    return None


def _told(path: Path, key: str) -> str | None:
    """Return what a file of lines `key: value` says first of a key."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    values = (value for name, colon, value in (line.partition(":") for line in lines) if colon and name.strip() == key)
    return next((value.strip() for value in values), None)


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that torch can use."""
    import torch

    from nctool.training.execution import has_bfloat16

    if not torch.cuda.is_available():
        return ()
    devices = (torch.device("cuda", number) for number in range(torch.cuda.device_count()))
    return tuple(
        Gpu(torch.cuda.get_device_name(each), torch.cuda.get_device_properties(each).total_memory, has_bfloat16(each))
        for each in devices
    )


def places() -> tuple[Place, ...]:
    """Return the folders that nctool writes to where it is told no other."""
    return (
        place("current folder", Path.cwd()),
        place("data sets", default_data_dir()),
        place("temporary files", Path(tempfile.gettempdir())),
    )


def place(what: str, path: Path) -> Place:
    """Return what can be said of a folder, or of the nearest one above it that is there."""
    there = next((folder for folder in (path, *path.parents) if folder.is_dir()), None)
    if there is None:
        return Place(what, path, writable=False, free=None)
    try:
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    return Place(what, path, writable, shutil.disk_usage(there).free)
