"""Accuracy of trained runs: float ANN, float SNN, and the exported integer network, on the whole test split.

Each window T is an export of its own: its bounds, and so its scales, are those of T steps. Integer accuracies come
from the fast engine, which the tests hold equal to the reference engine bit for bit.

    python benchmarks/accuracy.py RUN... [--data-dir DIR] [--dataset NAME] [--input graded|rate] [--weight-bits 8,6,4]
    python benchmarks/accuracy.py --recipe RECIPE [--methods nq,qcfs,...] [--seeds 1,2,3] [--runs DIR] [--set KEY=VALUE]

RUN is a folder that `nctool train` wrote. With --recipe, runs are trained by several methods and seeds into the folder
--runs, where those that are finished are kept, and compared: mean and spread of the seeds; `--set finetune.KEY=VALUE`
is for the methods with fine-tuning only. Without either, that is done for `digits-cnn`. With --replicas 1,2,4 networks
are exported with so many neurons for each activation; with --input for that encoding, whatever they were trained for;
with --weight-bits at several widths; with --dataset they are run on that one, a name or the path of an .npz file. The
last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _accuracy import STEPS, Exports, measure
from _common import commit, environment
from _methods import METHODS, Experiment
from nctool.recipe.overrides import parse_overrides

COLUMNS = " | ".join(f"T={steps}" for steps in STEPS)
LINE = "|---|---|" + "---|" * (1 + len(STEPS))


def print_runs(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table, a line for each run and network."""
    print(f"| recipe, seed | network | ANN | {COLUMNS} |\n{LINE}")
    for row in rows:
        name = f"{row['recipe']}, {row['seed']}"
        print(f"| {name} | float SNN, {row['trained_for']} | {100 * row['ann']:.2f} | {_cells([row['snn_float']])} |")
        for each in row["snn_integer"]:
            print(f"| {name} | {_network(each)}, {each['input']} |  | {_cells([each['accuracy']])} |")


def print_methods(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table, a line for each method and network: mean and sample standard deviation of the seeds."""
    print(f"| trained as | network | ANN | {COLUMNS} |\n{LINE}")
    for method in dict.fromkeys(row["method"] for row in rows):
        group = [row for row in rows if row["method"] == method]
        title = METHODS[method].title + _windows(group[0]["finetuned_at"])
        ann = _mean_and_spread([row["ann"] for row in group])
        print(f"| {title} | float SNN | {ann} | {_cells([row['snn_float'] for row in group])} |")
        for index, each in enumerate(group[0]["snn_integer"]):
            cells = _cells([row["snn_integer"][index]["accuracy"] for row in group])
            print(f"| {title} | {_network(each)} |  | {cells} |")


def _windows(steps: Sequence[int]) -> str:
    return f" at T={','.join(map(str, steps))}" if steps else ""


def _network(integer: dict[str, Any]) -> str:
    replicas = f", K={integer['replicas']}" if integer["replicas"] > 1 else ""
    return f"integer, {integer['weight_bits']} bit{replicas}"


def _cells(accuracies: Sequence[dict[str, float]]) -> str:
    return " | ".join(_mean_and_spread([each[str(steps)] for each in accuracies]) for steps in STEPS)


def _mean_and_spread(fractions: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(fractions):.2f}"
    return mean if len(fractions) == 1 else f"{mean} ± {100 * statistics.stdev(fractions):.2f}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= METHODS.keys():
        raise argparse.ArgumentTypeError(f"allowed: {', '.join(METHODS)}")
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--recipe", default="digits-cnn")
    parser.add_argument("--methods", type=_names, default=tuple(METHODS), metavar="NAMES", help=", ".join(METHODS))
    parser.add_argument("--seeds", type=_numbers, default=(1, 2, 3), metavar="1,2,3")
    parser.add_argument("--runs", type=Path, help="folder of the runs; a temporary one by default")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--dataset", help="what each network was trained on by default")
    parser.add_argument("--input", help="graded or rate; what each network was trained for by default")
    parser.add_argument("--weight-bits", type=_numbers, default=(None,), metavar="8,6,4")
    parser.add_argument("--replicas", type=_numbers, default=(1,), metavar="1,2,4")
    return parser.parse_args()


def main() -> None:
    """Measure the runs named on the command line, or those of an experiment."""
    options = _arguments()
    exports = Exports(options.weight_bits, options.replicas, options.input, options.dataset, options.data_dir)
    if options.trained:
        rows = [measure(run, exports) for run in options.trained]
        print_runs(rows)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            experiment = Experiment(
                options.recipe,
                options.runs or Path(temporary),
                options.methods,
                options.seeds,
                parse_overrides(options.overrides),
                options.data_dir,
            )
            rows = [{"method": method} | measure(run, exports) for method, run in experiment.runs()]
        print_methods(rows)
    print(json.dumps({"accuracy": rows, "commit": commit(), **environment()}))


if __name__ == "__main__":
    main()
