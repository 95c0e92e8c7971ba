"""What graded spikes make of a network: accuracy by bits, and what each way to build neurons costs.

In: a trained ReLU network and its images, or a run of `nctool train`. Out: figures by name. Every figure is of a file
of its own. A backend that cannot hold the network is left out, with its reason on stderr.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import nctool
from _relu_training import answers
from nctool.commands.convert import ConvertReport
from nctool.errors import UnsupportedError
from nctool.training import load_checkpoint
from nctool_models import load_dataset
from nctool_models.datasets.dataset import Dataset

N_CALIBRATION = 1024
WIDTHS: dict[str, dict[str, Any]] = {
    f"{weight} and {activation}": {"weight_bits": weight, "activation_bits": activation}
    for weight, activation in ((8, 8), (8, 6), (8, 4), (6, 8), (4, 8), (4, 4))
}
"""Options by the bits of weights and activations."""

WIDTHS["8 and 4, per layer"] = WIDTHS["8 and 4"] | {"per_layer": True}

BUILT: dict[str, dict[str, Any]] = {
    "autapse, T=4": {"backend": "autapse", "steps": 4},
    "population, K=4": {"backend": "population", "replicas": 4},
    "graded": {"backend": "graded"},
}
"""Ways to build the neurons, by name."""

TRAINED: dict[str, dict[str, Any]] = {
    "autapse, T=4": {"backend": "autapse", "steps": 4},
    "population": {"backend": "population"},
} | {f"graded, {bits} bits": {"backend": "graded", "activation_bits": bits} for bits in (8, 6, 4, 3)}
"""Ways to export a network that was trained with levels, by name. Levels that are 4 fit 3 bits: 0 to 4."""

MOST_CHIPS = 1024
"""More than any of the networks takes."""


def accuracy_by_bits(network: nn.Module, data: Dataset) -> dict[str, dict[str, float]]:
    """Return `accuracy` and `same`, the part of the answers that the float network gives, for each of `WIDTHS`."""
    expected = answers(network, data)
    found = {}
    for name, options in WIDTHS.items():
        with _model() as path:
            _convert(network, data, path, target="lava", backend="graded", **options)
            given = _answers(path, data)
        found[name] = {"accuracy": float((given == data.y_test).mean()), "same": float((given == expected).mean())}
    return found


def costs(network: nn.Module, data: Dataset, n_counted: int) -> dict[str, dict[str, Any]]:
    """Return the accuracy and the size of each of `BUILT` on Loihi 2, and what a sample costs in the mean.

    Args:
        n_counted: test images, from the first on, whose operations are counted; all of them give the accuracy.
    """
    found = {}
    for name, options in BUILT.items():
        with _model() as path, _told(name):
            report = _convert(network, data, path, target="loihi2", chips=MOST_CHIPS, **options)
            accuracy = float((_answers(path, data) == data.y_test).mean())
            cost = nctool.run_sim(path, input=data.x_test[:n_counted], cost=True).cost
            found[name] = {
                "accuracy": accuracy,
                "latency_steps": cost.latency_steps,
                "period_steps": cost.period_steps,
                "neurons": report.neurons,
                "cores": report.cores,
                "synaptic_operations": cost.total.synaptic_operations,
                "graded_operations": cost.total.graded_operations,
                "messages": cost.total.spikes + cost.total.bias_spikes,
                "message_bits": cost.total.payload_bits,
                "counted": cost.samples,
            }
    return found


def trained_with_levels(run: Path, data_dir: Path | None) -> dict[str, Any]:
    """Return the accuracy of a run of `nctool train` on its whole test split, in each of `TRAINED`."""
    checkpoint = load_checkpoint(run)
    data = load_dataset(checkpoint.dataset_name, data_dir)
    found = {}
    for name, options in TRAINED.items():
        with _model() as path, _told(name):
            nctool.export(run, path, target="lava", **options)
            report = nctool.inspect(path)
            found[name] = {
                "accuracy": float((_answers(path, data) == data.y_test).mean()),
                "neurons": report.neurons,
            }
    return {
        "levels": checkpoint.recipe.activation.levels,
        "images": len(data.x_test),
        "ann": checkpoint.results["accuracy_ann"],
        "exported": found,
    }


@contextmanager
def _model() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model.net"


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say why a network is refused, and go on."""
    try:
        yield
    except UnsupportedError as error:
        print(f"graded: {name}: {error}", file=sys.stderr)


def _convert(network: nn.Module, data: Dataset, path: Path, **options: Any) -> ConvertReport:
    return nctool.convert(network, data.x_train[:N_CALIBRATION], path, mean=data.mean, std=data.std, **options)


def _answers(path: Path, data: Dataset) -> NDArray[np.int64]:
    """Return the class that a file gives each test image, int64 (N,)."""
    report = nctool.run_sim(path, input=data.x_test)
    if report.overflows:
        raise SystemExit(f"{path.name}: {report.overflows} overflows")
    return report.answers
