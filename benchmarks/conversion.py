"""Post-training conversion of trained ReLU networks, without labels: nctool against SpikingJelly and sinabs.

    python benchmarks/conversion.py [--only NAMES] [--networks DIR] [--data-dir DIR] [--cifar10 NAME]
                                    [--images N] [--search N] [--environment DIR]

The networks are plain torch modules (`_relu_networks.py`); those that are not in the folder --networks yet are
trained. By default that is one small network on digits. nctool gives 8-bit integer networks,
calibrated on 1,024 training images. The other libraries keep float weights, are calibrated on 2,048 images, and their
settings are chosen by --search labelled training images more (`_conversion_peers.py`). They live in an environment of
their own (`make peers`); what was measured there is kept in the folder, too. The last line of stdout is one JSON
object; figures against the other libraries are null, with a reason on stderr, where the environment is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _common import commit, environment
from _conversion_ours import BACKENDS, REPLICAS, STEPS, measure_ours
from _relu_images import drawn, images_of
from _relu_networks import NETWORKS
from _relu_training import accuracy, normalised, report, trained
from nctool_models.datasets.dataset import Dataset
from peers import ENVIRONMENT

N_CALIBRATION = 1024
N_CALIBRATION_PEERS = 2048


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a network unless it is there, convert it in every way, and measure all on the same test images."""
    data = images_of(name, options.cifar10, options.data_dir)
    network = trained(name, data, folder)
    data = drawn(data, options.images)
    return {
        "ann": accuracy(network, data),
        "images": len(data.x_test),
        "trained": report(name, folder),
        "peers": _peers(name, data, options, folder),
        "ours": measure_ours(network, data, data.x_train[:N_CALIBRATION]),
    }


def _peers(name: str, data: Dataset, options: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """Return what the other libraries reach, measured in their environment or kept from before."""
    kept = folder / f"{name}-peers-{options.images}.json"
    python = options.environment / "bin" / "python"
    if not kept.exists():
        if not python.is_file():
            print(f"conversion: no environment `{options.environment}`: make it with `make peers`", file=sys.stderr)
            return None
        script = str(Path(__file__).with_name("_conversion_peers.py"))
        with tempfile.TemporaryDirectory() as temporary:
            images = Path(temporary) / "images.npz"
            _write_images(images, data, options.search)
            subprocess.run([str(python), script, name, str(folder / f"{name}.pt"), str(images), str(kept)], check=True)
    return json.loads(kept.read_text(encoding="utf-8"))


def _write_images(path: Path, data: Dataset, n_search: int) -> None:
    """Write calibration, search and test images as the networks take them."""

    def floats(images: np.ndarray) -> np.ndarray:
        return normalised(torch.from_numpy(images), data).numpy()

    np.savez(
        path,
        calibration=floats(data.x_train[:-n_search][:N_CALIBRATION_PEERS]),
        search=floats(data.x_train[-n_search:]),
        search_labels=data.y_train[-n_search:],
        test=floats(data.x_test),
        test_labels=data.y_test,
    )


def print_windows(results: dict[str, dict[str, Any]]) -> None:
    """Print a Markdown table of every network and way, a column for each window, and the seconds of a conversion."""
    columns = " | ".join(f"T={steps}" for steps in STEPS)
    print(f"| network | converted by | {columns} | CPU s |\n|---|---|{'---|' * (len(STEPS) + 1)}")
    for name, result in results.items():
        ours = result["ours"]
        cells = [ours["accuracy"][f"K1T{steps}"] for steps in STEPS]
        title = f"{name}, ReLU {100 * result['ann']:.2f}"
        print(f"| {title} | nctool, 8 bit | {_cells(cells)} | {ours['seconds']:.1f} |")
        for way in _ways(result):
            cells = [way["accuracy"][str(steps)] for steps in STEPS]
            print(f"| | {way['library']}, {way['way']}: {way['setting']} | {_cells(cells)} | {way['seconds']:.1f} |")


def print_replicas(results: dict[str, dict[str, Any]]) -> None:
    """Print a Markdown table of one step with several neurons for each activation."""
    columns = " | ".join(f"K={replicas}" for replicas in REPLICAS)
    print(f"\n| network, T=1 | backend | {columns} |\n|---|---|{'---|' * len(REPLICAS)}")
    for name, result in results.items():
        for backend in BACKENDS:
            cells = [result["ours"]["accuracy"].get(f"K{replicas}T1 {backend}") for replicas in REPLICAS]
            print(f"| {name}, ReLU {100 * result['ann']:.2f} | {backend} | {_cells(cells)} |")


def _cells(fractions: Iterable[float | None]) -> str:
    return " | ".join("refused" if fraction is None else f"{100 * fraction:.2f}" for fraction in fractions)


def _ways(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [] if result["peers"] is None else result["peers"]["ways"]


def _over_best_peer(result: dict[str, Any]) -> dict[str, float] | None:
    """Return, for each window, the points that nctool is above the best way of any library."""
    if result["peers"] is None:
        return None
    ours = result["ours"]["accuracy"]
    best = {steps: max(way["accuracy"][str(steps)] for way in _ways(result)) for steps in STEPS}
    return {str(steps): _points(ours[f"K1T{steps}"], best[steps]) for steps in STEPS}


def _points(high: float, low: float) -> float:
    return round(100 * (high - low), 2)


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that count, then everything that was measured."""
    return {
        "ours_minus_best_peer": {name: _over_best_peer(result) for name, result in results.items()},
        "points_below_ann": {
            name: {key: _points(result["ann"], value) for key, value in result["ours"]["accuracy"].items()}
            for name, result in results.items()
        },
        "seconds": {
            name: {"ours": result["ours"]["seconds"]}
            | {f"{way['library']}, {way['way']}": way["seconds"] for way in _ways(result)}
            for name, result in results.items()
        },
        "networks": results,
        "commit": commit(),
        **environment(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="digits-cnn", metavar="NAMES", help=f"of {', '.join(NETWORKS)}; or `all`")
    parser.add_argument("--networks", type=Path, metavar="DIR", help="a temporary folder by default")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--cifar10", default="cifar10", metavar="NAME", help="the data set, or the path of its .npz")
    parser.add_argument("--images", type=int, default=2000, help="test images, drawn")
    parser.add_argument("--search", type=int, default=250, help="training images that settings are chosen by")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of the other libraries")
    return parser.parse_args()


def main() -> None:
    """Measure the networks named on the command line."""
    options = _arguments()
    names = list(NETWORKS) if options.only == "all" else options.only.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.networks or Path(temporary)
        results = {name: measure(name, options, folder) for name in names}
    print_windows(results)
    print_replicas(results)
    print(json.dumps(summary(results)))


if __name__ == "__main__":
    main()
