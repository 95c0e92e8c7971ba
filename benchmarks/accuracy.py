"""Accuracy of trained runs: float ANN, float SNN, and the exported integer network, on the whole test split.

Each window T is an export of its own: its bounds, and so its scales, are those of T steps. Integer accuracies come
from the fast engine, which the tests hold equal to the reference engine bit for bit.

    python benchmarks/accuracy.py RUN... [--data-dir DIR] [--input graded|rate]

RUN is a folder that `nctool train` wrote; without one, `digits-cnn` and `digits-mlp` are trained first, three seeds
each. With --input, networks are exported for that coding, whatever they were trained for. The last line of stdout is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import nctool
from nctool.training import load_checkpoint

STEPS = (1, 2, 4, 8, 16)
DEFAULT_RECIPES = ("digits-cnn", "digits-mlp")
DEFAULT_SEEDS = (1, 2, 3)


def measure(run: Path, folder: Path, data_dir: Path | None, coding: str | None) -> dict[str, Any]:
    """Export `run` once per window and run every export on the test split."""
    checkpoint = load_checkpoint(run)
    results, integer, bounds = checkpoint.results, {}, {}
    for steps in STEPS:
        exported = nctool.export(run, folder / f"{steps}.net", steps=steps, input=coding)
        report = nctool.run_sim(exported.path, engine="fast", data_dir=data_dir)
        if report.overflows:
            raise SystemExit(f"{run}: {report.overflows} overflows at T={steps}")
        integer[str(steps)] = report.accuracy[str(steps)]
        bounds[str(steps)] = sorted(name for name, kind in exported.bounds.items() if kind == "calibrated")
    return {
        "recipe": checkpoint.recipe.name,
        "seed": checkpoint.recipe.seed,
        "trained_for": checkpoint.recipe.input.coding,
        "input": exported.input,
        "data": f"{checkpoint.dataset_name} test",
        "samples": report.samples,
        "ann": results["accuracy_ann"],
        "snn_float": {str(steps): results["accuracy_snn"][str(steps)] for steps in STEPS},
        "snn_integer": integer,
        "calibrated": bounds,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table, two lines a run."""
    print("| recipe, seed | network | ANN | " + " | ".join(f"T={steps}" for steps in STEPS) + " |")
    print("|---|---|" + "---|" * (1 + len(STEPS)))
    for row in rows:
        for kind, ann in (("snn_float", f"{100 * row['ann']:.2f}"), ("snn_integer", "")):
            cells = " | ".join(f"{100 * row[kind][str(steps)]:.2f}" for steps in STEPS)
            name = f"float SNN, {row['trained_for']}" if kind == "snn_float" else f"integer, 8 bit, {row['input']}"
            print(f"| {row['recipe']}, {row['seed']} | {name} | {ann} | {cells} |")


def main() -> None:
    """Measure the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--input", help="graded or rate; what each network was trained for by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = arguments.runs or [
            nctool.train(recipe, Path(name) / f"{recipe}-{seed}", seed=seed).path
            for recipe in DEFAULT_RECIPES
            for seed in DEFAULT_SEEDS
        ]
        rows = [measure(run, Path(name), arguments.data_dir, arguments.input) for run in runs]
    print_table(rows)
    print(json.dumps({"accuracy": rows}))


if __name__ == "__main__":
    main()
