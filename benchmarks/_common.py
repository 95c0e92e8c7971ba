"""What the benchmarks share: side-by-side timing, a network of the zoo with random weights, the machine."""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from nctool.conversion import convert
from nctool.ir.network import IntNetwork
from nctool.recipe.schema import ActivationSettings
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from nctool_models import build_model

Name = TypeVar("Name")


def seconds(action: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def side_by_side(actions: Mapping[Name, Callable[[], object]], repeat: int) -> dict[Name, float]:
    """Return the median wall time of each action in seconds.

    After one warm-up of each they take turns, so that a busy moment of the machine does not fall on one alone.
    """
    return {name: times.wall for name, times in times_side_by_side(actions, repeat).items()}


@dataclass(frozen=True)
class Times:
    """Medians of the wall time, and of the time of the processor that this process used, in seconds."""

    wall: float
    cpu: float

    def over(self, other: Times) -> dict[str, float]:
        """Return the ratio of both times to those of another."""
        return {"wall": self.wall / other.wall, "cpu": self.cpu / other.cpu}


def times_side_by_side(actions: Mapping[Name, Callable[[], object]], repeat: int) -> dict[Name, Times]:
    """Return wall time and processor time of each action, measured in turns as `side_by_side` does."""
    for action in actions.values():
        action()
    rounds = [{name: _times(action) for name, action in actions.items()} for _ in range(repeat)]
    return {
        name: Times(*(statistics.median(values) for values in zip(*(each[name] for each in rounds), strict=True)))
        for name in actions
    }


def _times(action: Callable[[], object]) -> tuple[float, float]:
    start = time.process_time()
    wall = seconds(action)
    return wall, time.process_time() - start


def random_pixels(n_samples: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return uint8 noise (samples, channels, height, width), the same each time."""
    return np.random.default_rng(0).integers(0, 256, (n_samples, *shape), np.uint8)


def zoo_model(settings: Any, shape: tuple[int, int, int]) -> nn.Sequential:
    """Return an architecture of the zoo with random weights, in evaluation mode."""
    return build_model(settings, shape, 10, ActivationSettings(threshold_init=1.0), seed=0).eval()


def to_integers(model: nn.Module, calibration: np.ndarray, n_steps: int) -> IntNetwork:
    """Convert a model; `calibration` are the pixels that bounds without a proof are measured on."""
    channels = calibration.shape[1]
    return convert(
        model,
        input_shape=calibration.shape[1:],
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        number_format=AUTAPSE_FORMAT,
        n_steps=n_steps,
        calibration=calibration,
    ).network


def commit() -> str | None:
    """Return the commit of the source tree, `-dirty` where it was changed; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def environment() -> dict[str, Any]:
    """Return threads, versions and the most memory that this process has held, in MB."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
