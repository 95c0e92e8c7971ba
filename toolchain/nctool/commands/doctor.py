"""doctor: what works here, and the way out where something does not.

In: nothing. Out: a DoctorReport. Torch and Lava are loaded to try them.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import Progress
from nctool.commands.tables import counted, print_line, print_rows
from nctool.cpu import has_bfloat16
from nctool.errors import EngineError
from nctool.reports import Report

if TYPE_CHECKING:
    from nctool.surroundings.engines import EngineState
    from nctool.surroundings.libraries import Library
    from nctool.surroundings.machine import Gpu, Memory, Place, Processor
    from nctool.surroundings.parts import Kernel, PatchState

CORE = ("reference", "fast")
"""The engines without which nothing works."""

SETTINGS = (
    *("CUDA_VISIBLE_DEVICES", "HDF5_USE_FILE_LOCKING", "NCTOOL_DEBUG", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT"),
    *("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "XDG_CACHE_HOME"),
)
"""Variables of the environment that change what nctool does."""

GIB = 2**30
LEAST_FREE = GIB // 4
"""Bytes that a place has free before it is told."""


@dataclass(frozen=True)
class Problem:
    """Something that does not work here, and the way out."""

    what: str
    hint: str


@dataclass(frozen=True)
class DoctorReport(Report):
    """What works here.

    Args:
        works: the reference and the fast engine give the same on a small network: all but Lava works.
        version: of nctool; None where it is not installed.
        python, executable, system: that run it.
        processor, memory, gpus: of the machine.
        bfloat16: whether `training.precision = "bfloat16"` has a device here.
        engines: each was tried.
        kernels: of the fast engine, and on a GPU of training, beside torch's.
        patches: files of Lava that are changed while they are imported.
        places: folders that nctool writes to; the compiled loops are among them where there are such.
        libraries: that nctool needs or can use.
        settings: variables of the environment that change what nctool does, where they are set.
        problems: all that does not work; with `works`, nctool runs in spite of them.
    """

    works: bool
    version: str | None
    python: str
    executable: Path
    system: str
    processor: Processor
    memory: Memory
    gpus: tuple[Gpu, ...]
    bfloat16: bool
    engines: tuple[EngineState, ...]
    kernels: tuple[Kernel, ...]
    patches: tuple[PatchState, ...]
    places: tuple[Place, ...]
    libraries: tuple[Library, ...]
    settings: dict[str, str]
    problems: tuple[Problem, ...]


@public
def doctor(*, progress: Progress = True) -> DoctorReport:
    """Show what works here, and the way out where something does not.

    Every engine runs a small network; Lava takes some seconds for it.

    Args:
        progress: called with the engines done and to do; True is a bar, False nothing.

    Returns:
        versions, machine, engines, kernels, caches; exit code 5 of the command where the core does not work, else 0.
    """
    from nctool.surroundings import engines, libraries, machine, parts

    progress(0, 3, "engine reference")
    tried = engines.try_engines(progress)
    kernels, needed, gpus = (*parts.try_kernels(), *parts.try_gpu_kernels()), libraries.libraries(), _gpus()
    cache = parts.compiled_cache()
    caches = () if cache is None else (machine.place("compiled loops", cache),)
    places = (*machine.places(), *caches)
    return DoctorReport(
        works=all(engine.works for engine in tried if engine.name in CORE),
        version=libraries.installed("nctool"),
        python=platform.python_version(),
        executable=Path(sys.executable),
        system=platform.platform(),
        processor=machine.processor(),
        memory=machine.memory(),
        gpus=gpus,
        bfloat16=has_bfloat16() or any(gpu.bfloat16 for gpu in gpus),
        engines=tried,
        kernels=kernels,
        patches=parts.patches(),
        places=places,
        libraries=needed,
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        problems=tuple(_problems(tried, kernels, places, needed)),
    )


def _gpus() -> tuple[Gpu, ...]:
    from nctool.surroundings import machine

    try:
        return machine.gpus()
    except Exception:  # noqa: BLE001 - of a driver, or of torch: the fast engine says what is wrong
        return ()


def _problems(
    engines: Sequence[EngineState], kernels: Sequence[Kernel], places: Sequence[Place], libraries: Sequence[Library]
) -> Iterator[Problem]:
    for engine in engines:
        if not engine.works:
            yield Problem(f"engine `{engine.name}` does not work: {engine.reason}", engine.hint)
    for kernel in kernels:
        if not kernel.works:
            yield Problem(f"kernels `{kernel.name}` are not used: {kernel.reason}", kernel.hint)
    for place in places:
        if not place.writable:
            yield Problem(f"{place.what}: `{place.path}` cannot be written", _WAYS_OUT[place.what])
        elif place.free is not None and place.free < LEAST_FREE:
            yield Problem(f"{place.what}: {_size(place.free)} are free in `{place.path}`", _WAYS_OUT[place.what])
    yield from _missing(libraries)


_WAYS_OUT = {
    "current folder": "work in another folder, or name one with -o",
    "data sets": "name another folder with --data-dir, or set XDG_CACHE_HOME",
    "temporary files": "set TMPDIR to another folder",
    "compiled loops": "set NUMBA_CACHE_DIR to another folder",
}


def _missing(libraries: Sequence[Library]) -> Iterator[Problem]:
    """Yield what is not installed: the engine that needs Lava says so itself."""
    from nctool.surroundings.libraries import PURPOSES

    for extra in dict.fromkeys(library.extra for library in libraries if library.extra != "lava"):
        missing = [each.name for each in libraries if each.extra == extra and each.version is None]
        if missing:
            purpose = "nctool needs it" if extra is None else f"for {PURPOSES[extra]}"
            package = "nctool" if extra is None else f"nctool[{extra}]"
            yield Problem(f"not installed: {', '.join(missing)}, {purpose}", f"pip install '{package}'")


# --- for people -------------------------------------------------------------------------------------------------------


def print_doctor(report: DoctorReport) -> None:
    """Show what works, then what there is, and last what does not work."""
    verdict = "works here" if report.works else "does NOT work here"
    print_line(f"nctool {report.version or '(not installed)'} {verdict}")
    print_line(f"Python {report.python}, {report.executable}; {report.system}")
    print_line(_processor(report.processor))
    print_line(_memory(report.memory))
    print_line(_devices(report))
    rows = [[engine.name, _yes(engine.works)] for engine in report.engines]
    _print_table("engines, each tried on a small network", ["engine", "works"], rows)
    if report.kernels:
        rows = [[kernel.name, _yes(kernel.works), kernel.what] for kernel in report.kernels]
        _print_table("kernels of the fast engine and of training", ["kernels", "used", "what"], rows)
    print_line(_patches(report.patches))
    print_line("")
    for place in report.places:
        print_line(_place(place))
    rows = [[each.name, each.version or "none", each.allowed, each.extra or ""] for each in report.libraries]
    _print_table("libraries", ["library", "installed", "allowed", "extra"], rows)
    if report.settings:
        print_line(f"in the environment: {', '.join(f'{name}={value}' for name, value in report.settings.items())}")
    if report.problems:
        print_line("")
        print_line("what does not work, and the way out" + (": nctool runs without it" if report.works else ""))
    for problem in report.problems:
        print_line(problem.what)
        print_line(f"  hint: {problem.hint}")


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_line("")
    print_rows(title, columns, rows)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "NO"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.1f} GiB"


def _processor(cpu: Processor) -> str:
    features = "features not known" if cpu.features is None else ", ".join(cpu.features) or "no vector instructions"
    return f"processor: {cpu.name}, {counted(cpu.cores, 'core')} for this process; {features}"


def _memory(memory: Memory) -> str:
    named = (("in all", memory.total), ("available", memory.available), ("allowed to this container", memory.limit))
    parts = [f"{_size(size)} {what}" for what, size in named if size is not None]
    return f"memory: {', '.join(parts) or 'not known'}"


def _devices(report: DoctorReport) -> str:
    gpus = ", ".join(f"{gpu.name}, {_size(gpu.memory)}" for gpu in report.gpus) or "none that torch can use"
    having = ["CPU"] * has_bfloat16() + ["GPU"] * any(gpu.bfloat16 for gpu in report.gpus)
    return f"GPU: {gpus}; training in bfloat16: {' and '.join(having) or 'nowhere here, train in float32'}"


def _place(place: Place) -> str:
    free = "" if place.free is None else f", {_size(place.free)} free"
    return f"{place.what}: {'writable' if place.writable else 'NOT writable'}{free}: {place.path}"


def _patches(patches: Sequence[PatchState]) -> str:
    applying = sum(patch.applies for patch in patches)
    reasons = ", ".join(dict.fromkeys(patch.reason for patch in patches if not patch.applies))
    return f"files of Lava that are changed in memory: {applying} of {len(patches)}{f'; {reasons}' if reasons else ''}"


def _exit_code(report: DoctorReport) -> int:
    return 0 if report.works else EngineError.exit_code


COMMAND = Command(doctor, print_doctor, title="trying engines", exit_code=_exit_code)
