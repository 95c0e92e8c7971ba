"""Accuracy of one trained run: float ANN, float SNN, and exported integer networks, on the whole test split."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nctool
from nctool.training import load_checkpoint
from nctool.training.metrics import METRICS_NAME

STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Exports:
    """Which integer networks a run is exported as; every window of `STEPS` is an export of its own.

    Attributes:
        weight_bits: widths; None is the width that the run was trained for.
        replicas: neurons for each activation.
        input: encoding of the input; None is the one that the run was trained for.
        dataset: that it is run on; None is the one that it was trained on.
        data_dir: of the data set.
    """

    weight_bits: Sequence[int | None] = (None,)
    replicas: Sequence[int] = (1,)
    input: str | None = None
    dataset: str | None = None
    data_dir: Path | None = None


def measure(run: Path, exports: Exports) -> dict[str, Any]:
    """Export `run` in every way asked for, run every export on the test split, and gather all accuracies."""
    checkpoint = load_checkpoint(run)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.net"
        integer = [
            _integer(run, path, exports, bits, replicas)
            for bits in exports.weight_bits
            for replicas in exports.replicas
        ]
    results = checkpoint.results
    return {
        "recipe": checkpoint.recipe.name,
        "seed": checkpoint.recipe.seed,
        "trained_for": checkpoint.recipe.input.encoding,
        "data": f"{checkpoint.dataset_name} test",
        "finetuned_at": list(checkpoint.recipe.finetune.steps) if checkpoint.recipe.finetune else [],
        "training_seconds": round(_training_seconds(run)),
        "ann": results["accuracy_ann"],
        "snn_float": {str(steps): results["accuracy_snn"][str(steps)] for steps in STEPS},
        "snn_integer": integer,
    }


def _training_seconds(run: Path) -> float:
    """Return the wall time of the run's own epochs; those of a run that it started from are not among them."""
    lines = (run / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    return sum(float(json.loads(line)["seconds"]) for line in lines)


def _integer(run: Path, path: Path, exports: Exports, bits: int | None, replicas: int) -> dict[str, Any]:
    """Return the accuracies of the exports of one width and number of replicas, by window."""
    accuracy, calibrated = {}, {}
    for steps in STEPS:
        exported = nctool.export(
            run, path, target="lava", steps=steps, weight_bits=bits, replicas=replicas, input=exports.input
        )
        report = nctool.run_sim(exported.path, dataset=exports.dataset, data_dir=exports.data_dir)
        if report.overflows:
            raise SystemExit(f"{run}: {report.overflows} overflows at {bits} bits, K={replicas}, T={steps}")
        accuracy[str(steps)] = report.accuracy[str(steps)]
        calibrated[str(steps)] = sorted(name for name, kind in exported.bounds.items() if kind == "calibrated")
    return {
        "weight_bits": nctool.inspect(path).weight_bits,
        "replicas": replicas,
        "input": exported.input,
        "samples": report.samples,
        "accuracy": accuracy,
        "calibrated": calibrated,
    }
