"""Graded spikes: what conversion of trained ReLU networks loses at each number of bits, and what it costs on Loihi 2.

    python benchmarks/graded.py [--only NAMES] [--compare NAMES] [--runs RUN...] [--networks DIR] [--data-dir DIR]
                                [--cifar10 NAME] [--images N] [--counted N]

The networks are those of conversion.py (`_relu_networks.py`), one small network on digits by default; those that are
not in the folder --networks yet are trained. Each is converted on 1,024 training images without labels, and not
trained after that, for weights and activations of so many bits. Those of --compare are also built of other neurons;
size and operations are those of one sample on Loihi 2, counted on --counted of the test images. --runs are folders of
`nctool train`, whose networks were trained with levels.

The last line of stdout is one JSON object. Its key `points_below_ann` holds, for each network and bits, the points that
accuracy is below the float network; `compared` what each way to build neurons costs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _common import commit, environment
from _graded import WIDTHS, accuracy_by_bits, costs, trained_with_levels
from _relu_images import drawn, images_of
from _relu_networks import NETWORKS
from _relu_training import accuracy, trained

COLUMNS = {
    "latency": "latency_steps",
    "every": "period_steps",
    "neurons": "neurons",
    "cores": "cores",
    "operations": "synaptic_operations",
    "messages": "messages",
    "their bits": "message_bits",
}
"""What a way to build neurons costs, by title."""


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a network unless it is there, and convert it in every way."""
    data = images_of(name, options.cifar10, options.data_dir)
    network = trained(name, data, folder)
    data = drawn(data, options.images)
    result = {
        "ann": accuracy(network, data),
        "images": len(data.x_test),
        "graded": accuracy_by_bits(network, data),
    }
    if name in options.compare:
        result["compared"] = costs(network, data, options.counted)
    return result


def print_bits(results: dict[str, dict[str, Any]]) -> None:
    """Print a Markdown table, a line for each network, a column for each number of bits: accuracy (same answers)."""
    print(f"| network | ReLU | {' | '.join(WIDTHS)} |\n|---|---|{'---|' * len(WIDTHS)}")
    for name, result in results.items():
        cells = [f"{100 * each['accuracy']:.2f} ({100 * each['same']:.1f})" for each in result["graded"].values()]
        print(f"| {name} | {100 * result['ann']:.2f} | {' | '.join(cells)} |")


def print_compared(results: dict[str, dict[str, Any]]) -> None:
    """Print a Markdown table, a line for each network and way to build its neurons."""
    print(f"\n| network | neurons built as | accuracy | {' | '.join(COLUMNS)} |\n|---|---|---|{'---|' * len(COLUMNS)}")
    for name, result in results.items():
        for way, found in result.get("compared", {}).items():
            cells = " | ".join(f"{found[key]:,.0f}" for key in COLUMNS.values())
            print(f"| {name} | {way} | {100 * found['accuracy']:.2f} | {cells} |")


def print_runs(runs: dict[str, dict[str, Any]]) -> None:
    """Print a Markdown table, a line for each run and way to export it."""
    if runs:
        print("\n| run | quantised ANN | exported as | accuracy | neurons |\n|---|---|---|---|---|")
    for name, run in runs.items():
        for way, found in run["exported"].items():
            cells = f"{100 * found['accuracy']:.2f} | {found['neurons']:,}"
            print(f"| {name}, {run['levels']} levels | {100 * run['ann']:.2f} | {way} | {cells} |")


def summary(results: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that count, then everything that was measured."""
    return {
        "points_below_ann": {
            name: {bits: round(100 * (result["ann"] - each["accuracy"]), 2) for bits, each in result["graded"].items()}
            for name, result in results.items()
        },
        "compared": {name: result["compared"] for name, result in results.items() if "compared" in result},
        "networks": results,
        "runs": runs,
        "commit": commit(),
        **environment(),
    }


def _names(text: str) -> list[str]:
    return list(NETWORKS) if text == "all" else text.split(",")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of {', '.join(NETWORKS)}; or `all`"
    parser.add_argument("--only", type=_names, default=["digits-cnn"], metavar="NAMES", help=names)
    parser.add_argument("--compare", type=_names, default=["digits-cnn"], metavar="NAMES", help="those of --only")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="RUN", help="folders of `nctool train`")
    parser.add_argument("--networks", type=Path, metavar="DIR", help="a temporary folder by default")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--cifar10", default="cifar10", metavar="NAME", help="the data set, or the path of its .npz")
    parser.add_argument("--images", type=int, default=2000, help="test images, drawn")
    parser.add_argument("--counted", type=int, default=200, help="of these, whose operations are counted")
    return parser.parse_args()


def main() -> None:
    """Measure the networks and runs named on the command line."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.networks or Path(temporary)
        results = {name: measure(name, options, folder) for name in options.only}
    runs = {run.name: trained_with_levels(run, options.data_dir) for run in options.runs}
    print_bits(results)
    print_compared(results)
    print_runs(runs)
    print(json.dumps(summary(results, runs)))


if __name__ == "__main__":
    main()
