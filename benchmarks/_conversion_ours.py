"""Convert a trained ReLU network by nctool and run the integer network on test images.

In: the network, its data set. Out: top-1 for each window, for several neurons an activation, and the CPU seconds of
a conversion. Every window and number of replicas is a conversion of its own. A backend that cannot hold the network is
left out, with its reason on stderr.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import nctool
from nctool.errors import UnsupportedError
from nctool_models.datasets.dataset import Dataset

STEPS = (1, 2, 4, 8, 16)
REPLICAS = (2, 4, 8)
BACKENDS = ("autapse", "population")
"""That replicas are measured on, at one step."""

_TIMED = "K1T4"


def measure_ours(network: nn.Module, data: Dataset, calibration: np.ndarray) -> dict[str, Any]:
    """Return accuracies by `K…T…`, followed by the backend where it is not the default, and `seconds` of one.

    Args:
        data: its test images are run.
        calibration: uint8 (N, C, H, W), training images.
    """
    accuracy, spent = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.net"
        for key, options in _conversions().items():
            start = time.process_time()
            try:
                _convert(network, data, calibration, path, options)
            except UnsupportedError as error:
                print(f"conversion: {key}: {error}", file=sys.stderr)
                continue
            spent[key] = time.process_time() - start
            accuracy[key] = _run(path, data)
    return {"accuracy": accuracy, "seconds": spent[_TIMED]}


def _conversions() -> dict[str, dict[str, Any]]:
    """Return the arguments of every conversion by name."""
    windows = {f"K1T{steps}": {"steps": steps} for steps in STEPS}
    replicas = {
        f"K{replicas}T1 {backend}": {"steps": 1, "replicas": replicas, "backend": backend}
        for backend in BACKENDS
        for replicas in REPLICAS
    }
    return windows | replicas


def _convert(network: nn.Module, data: Dataset, images: np.ndarray, path: Path, options: dict[str, Any]) -> None:
    nctool.convert(network, images, path, mean=data.mean, std=data.std, target="lava", **options)


def _run(path: Path, data: Dataset) -> float:
    report = nctool.run_sim(path, input=data.x_test, labels=data.y_test)
    if report.overflows:
        raise SystemExit(f"{path.name}: {report.overflows} overflows")
    return next(reversed(report.accuracy.values()))
