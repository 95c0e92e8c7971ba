"""Accuracy of trained runs: float ANN, float SNN, and the exported integer network, on the whole test split.

Each window T is an export of its own: its bounds, and so its scales, are those of T steps. Integer accuracies come
from the fast engine, which the tests hold equal to the reference engine bit for bit.

    python benchmarks/accuracy.py RUN... [--data-dir DIR] [--dataset NAME] [--input graded|rate] [--weight-bits 8,6,4]

RUN is a folder that `nctool train` wrote; without one, `digits-cnn` and `digits-mlp` are trained first, three seeds
each. With --input, networks are exported for that coding, whatever they were trained for; with --weight-bits at several
widths; with --dataset, they are run on that one, a name or the path of an .npz file. The last line of stdout is one
JSON object.
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


def measure(run: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Export `run` once per width of the weights and window, and run every export on the test split."""
    checkpoint = load_checkpoint(run)

    def accuracy(bits: int, steps: int) -> dict[str, Any]:
        path = folder / f"{bits}-{steps}.net"
        exported = nctool.export(run, path, target="lava", steps=steps, weight_bits=bits, input=options.input)
        report = nctool.run_sim(exported.path, dataset=options.dataset, data_dir=options.data_dir)
        if report.overflows:
            raise SystemExit(f"{run}: {report.overflows} overflows at {bits} bits, T={steps}")
        return {
            "accuracy": report.accuracy[str(steps)],
            "samples": report.samples,
            "input": exported.input,
            "calibrated": sorted(name for name, kind in exported.bounds.items() if kind == "calibrated"),
        }

    exports = {str(bits): {str(steps): accuracy(bits, steps) for steps in STEPS} for bits in options.weight_bits}
    results, any_export = checkpoint.results, exports[str(options.weight_bits[0])][str(STEPS[0])]
    return {
        "recipe": checkpoint.recipe.name,
        "seed": checkpoint.recipe.seed,
        "trained_for": checkpoint.recipe.input.coding,
        "input": any_export["input"],
        "data": f"{checkpoint.dataset_name} test",
        "samples": any_export["samples"],
        "ann": results["accuracy_ann"],
        "snn_float": {str(steps): results["accuracy_snn"][str(steps)] for steps in STEPS},
        "snn_integer": _each(exports, "accuracy"),
        "calibrated": _each(exports, "calibrated"),
    }


def _each(exports: dict[str, dict[str, dict[str, Any]]], key: str) -> dict[str, dict[str, Any]]:
    """Return one value of every export, by width and window."""
    return {bits: {steps: found[key] for steps, found in row.items()} for bits, row in exports.items()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table, two lines a run."""
    print("| recipe, seed | network | ANN | " + " | ".join(f"T={steps}" for steps in STEPS) + " |")
    print("|---|---|" + "---|" * (1 + len(STEPS)))
    for row in rows:
        name = f"{row['recipe']}, {row['seed']}"
        print(f"| {name} | float SNN, {row['trained_for']} | {100 * row['ann']:.2f} | {_cells(row['snn_float'])} |")
        for bits, accuracies in row["snn_integer"].items():
            print(f"| {name} | integer, {bits} bit, {row['input']} |  | {_cells(accuracies)} |")


def _cells(accuracies: dict[str, float]) -> str:
    return " | ".join(f"{100 * accuracies[str(steps)]:.2f}" for steps in STEPS)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(bits) for bits in text.split(","))


def main() -> None:
    """Measure the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dataset", help="what each network was trained on by default")
    parser.add_argument("--input", help="graded or rate; what each network was trained for by default")
    parser.add_argument("--weight-bits", type=_widths, default=(8,), metavar="8,6,4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = arguments.runs or [
            nctool.train(recipe, Path(name) / f"{recipe}-{seed}", seed=seed).path
            for recipe in DEFAULT_RECIPES
            for seed in DEFAULT_SEEDS
        ]
        rows = [measure(run, Path(name), arguments) for run in runs]
    print_table(rows)
    print(json.dumps({"accuracy": rows}))


if __name__ == "__main__":
    main()
