"""How a run computes: its device, precision, determinism and memory format.

In: the recipe's `[training]` and the device. Out: context managers for a run, and for the forward pass of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nctool.cpu import has_bfloat16 as cpu_has_bfloat16
from nctool.errors import UsageError
from nctool.recipe.schema import TrainingSettings

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_REPEATABLE_WORKSPACES = (":4096:8", ":16:8")
"""Settings with which cuBLAS repeats its sums. Source: `torch.use_deterministic_algorithms`."""

_AMPERE = (8, 0)
"""The first compute capability with bfloat16. Source: CUDA C++ programming guide, arithmetic instructions."""


def usable_device(device: str | torch.device, settings: TrainingSettings) -> torch.device:
    """Return a device that is there and can do what the recipe asks for.

    Raises:
        UsageError: no such device here, bfloat16 where it is not supported or slower than float32, or determinism of a
            GPU whose cuBLAS was not told of it.
    """
    usable = _device(device)
    require_execution(settings, usable)
    return usable


def _device(device: str | torch.device) -> torch.device:
    try:
        parsed = torch.device(device)
    except RuntimeError:
        parsed = torch.device("meta")  # as the other devices that nothing is trained on
    if parsed.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device `{device}`, allowed: cpu, cuda")
    if parsed.type == "cuda" and (not torch.cuda.is_available() or (parsed.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device `{device}` is not available here", hint="use --device cpu")
    return parsed


def require_execution(settings: TrainingSettings, device: torch.device) -> None:
    """Check that a device can do what the recipe asks for; a UsageError says what it cannot."""
    if settings.precision == "bfloat16" and not has_bfloat16(device):
        raise UsageError(
            f"`training.precision` is bfloat16, but the {device.type.upper()} of this machine has none: "
            "allowed: float32, auto",
            hint="set training.precision=auto: bfloat16 where the device has it",
        )
    workspace = os.environ.get(_CUBLAS)
    if settings.deterministic and device.type == "cuda" and workspace not in _REPEATABLE_WORKSPACES:
        raise UsageError(
            f"`training.deterministic` is true, but {_CUBLAS} is {workspace or 'not set'}, "
            f"allowed: {', '.join(_REPEATABLE_WORKSPACES)}",
            hint=f"start again with {_CUBLAS}={_REPEATABLE_WORKSPACES[0]} in the environment",
        )


def has_bfloat16(device: torch.device) -> bool:
    """Return True for devices that compute in bfloat16; torch's functions are also true for those that emulate it."""
    if device.type == "cpu":
        return cpu_has_bfloat16()
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _AMPERE


@contextmanager
def execution(model: nn.Module, channels: int, settings: TrainingSettings, device: torch.device) -> Iterator[None]:
    """Set the fastest memory format, and determinism if the recipe asks for it, while the block runs.

    Images of several channels are convolved with the channels of a pixel side by side on a CPU, and on a GPU in
    bfloat16, whose tensor cores take them so; the weights bring it about. Images of one channel are slower that way.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if channels > 1 and (device.type == "cpu" or computes_in_bfloat16(settings, device)):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.deterministic:
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def computes_in_bfloat16(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether linear layers are trained in bfloat16 on a device; precision "auto" leaves that to it."""
    return settings.precision == "bfloat16" or (settings.precision == "auto" and has_bfloat16(device))


def autocast(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: with precision bfloat16, linear layers take that type.

    Activations and spikes pass between layers in it. Weights, thresholds, potentials and noise stay float32, and
    activations are computed in it.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(settings, device))
