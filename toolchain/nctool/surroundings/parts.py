"""What the engines are made of: kernels of the fast one and of training, their cache, files of Lava that are changed.

In: nothing. Out: what is used here, and why something is not. Loads torch to try its kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from nctool.errors import NctoolError, first_line
from nctool_deploy.lava import compatibility


@dataclass(frozen=True)
class Kernel:
    """Kernels of the fast engine or of training, and why they are not used here.

    Args:
        name: of those of the fast engine on a CPU, as `run-sim` says it in `kernels`.
        what: computes them.
        works: whether they are used.
        reason: why not; empty where they are.
        hint: the way out.
    """

    name: str
    what: str
    works: bool
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class PatchState:
    """A file of Lava that is changed while it is imported.

    Args:
        module: its name.
        applies: whether this Python needs the change, and the file is the verified one.
        reason: why not; empty where it does.
    """

    module: str
    applies: bool
    reason: str = ""


_CACHE_HINT = "set NUMBA_CACHE_DIR to a folder that you may write to"


def try_kernels() -> tuple[Kernel, ...]:
    """Return which kernels the fast engine uses here; none where torch cannot be loaded."""
    try:
        choice = import_module("nctool.fast.choice").usable()
    except (ImportError, OSError):  # a library of torch that the system cannot load
        return ()
    integer = next((note for note in choice.notes if note.startswith("no integer kernels")), "")
    fused = next((note for note in choice.notes if note.startswith("no fused loops")), "")
    return (
        Kernel(
            "int8",
            "8-bit weights in oneDNN's kernels, compared with 64-bit integers",
            choice.integer,
            integer.partition(": ")[2],
            "" if choice.integer else "float32 computes the same, more slowly; a newer torch may have them",
        ),
        Kernel(
            "fused",
            "neurons stepped in loops that Numba compiles",
            choice.fused,
            fused.partition(": ")[2],
            "" if choice.fused else f"torch computes the same, more slowly; {_CACHE_HINT}, or install Numba again",
        ),
    )


def try_gpu_kernels() -> tuple[Kernel, ...]:
    """Return which kernels are used on the first GPU; none where torch has no GPU, or cannot be loaded."""
    try:
        import torch
    except (ImportError, OSError):
        return ()
    if not torch.cuda.is_available():
        return ()
    sums, activation = _reason(_no_float32), _reason(_no_activation)
    return (
        Kernel(
            "GPU float32",
            "sums of the fast engine on the GPU, compared with 64-bit integers",
            not sums,
            sums,
            "" if not sums else "float64 computes the same, where the GPU adds that up exactly",
        ),
        Kernel(
            "GPU activation",
            "noisy activations on the GPU, by Triton, compared with torch",
            not activation,
            activation,
            "" if not activation else "torch computes the same, more slowly; Triton needs a C compiler and a cache",
        ),
    )


def _reason(tried: Callable[[], str]) -> str:
    try:
        return tried()
    except Exception as error:  # noqa: BLE001 - whatever it was, it is why they are not used
        return f"{type(error).__name__}: {first_line(error)}"


def _no_float32() -> str:
    engine, choice = import_module("nctool.fast.engine"), import_module("nctool.fast.choice")
    with engine.exact_arithmetic():
        notes = choice.usable_on(engine.find_device("cuda")).notes
    return next((note.partition(": ")[2] for note in notes), "")


def _no_activation() -> str:
    import torch

    trial, device = import_module("nctool.activation.gpu_trial"), torch.device("cuda", torch.cuda.current_device())
    return next(filter(None, (trial.failure(device, kind) for kind in trial.TYPES)), "")


def compiled_cache() -> Path | None:
    """Return where Numba keeps the compiled loops; None where they are not compiled."""
    try:
        return Path(import_module("nctool.fast.fused").fire.stats.cache_path)
    except Exception:  # noqa: BLE001 - as in nctool.fast.choice, which says why
        return None


def patches() -> tuple[PatchState, ...]:
    """Return which files of Lava are changed on this Python; none where Lava is not there."""
    if sys.version_info[:2] == compatibility.PINNED_PYTHON:
        return tuple(
            PatchState(module, applies=False, reason="this Python needs no change") for module in compatibility.PATCHES
        )
    states = []
    for module, patch in compatibility.PATCHES.items():
        try:
            patch.apply(patch.installed())
        except NctoolError as error:
            states.append(PatchState(module, applies=False, reason=error.message.removeprefix("engine `lava`: ")))
        except ModuleNotFoundError:  # PackageNotFoundError is one
            states.append(PatchState(module, applies=False, reason=f"{patch.package} is not installed"))
        else:
            states.append(PatchState(module, applies=True))
    return tuple(states)
