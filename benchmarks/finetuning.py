"""Fine-tuning of trained ReLU networks, from a conversion and from `prepare` alone, on few images and on many.

    python benchmarks/finetuning.py [--only NAMES] [--networks DIR] [--data-dir DIR] [--images N,N] [--steps T,T]
                                    [--seeds S,S] [--epochs N] [--rates R,R]

The networks are those of `conversion.py`, and are trained where the folder --networks lacks them. For each number of
training images, drawn anew for each seed, three 8-bit integer networks are measured on all test images: that of
`nctool.convert`, and two that `nctool.train` fine-tunes with labels for the same window. One begins with
`nctool.prepare(…, levels=2)`, or with as many levels as steps, the other with `nctool.prepare(…, steps=T)`. All of them
see only these images, a tenth of which is held out in fine-tuning. An asterisk says that the start was kept.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import nctool
from _common import commit, environment
from _relu_training import normalised, trained
from nctool_models import load_dataset
from nctool_models.datasets.dataset import Dataset

N_CONVERTED = 1024
"""Images that a conversion sees at most."""

N_PREPARED = 256
"""The same of `prepare` without one."""

RECIPE = """
name = "tuned"
[data]
name = "{data}"
mean = {mean}
std = {std}
[model]
architecture = "own"
[training]
epochs = 0
batch_size = 64
[finetune]
epochs = {epochs}
steps = [{steps}]
learning_rate = {rate}
"""

Found = dict[str, Any]


def measure(name: str, options: argparse.Namespace, folder: Path, work: Path) -> list[Found]:
    """Return a row for each window, number of images, start and learning rate."""
    data = load_dataset("digits") if name.startswith("digits") else load_dataset("mnist", options.data_dir)
    rows = []
    for steps in options.steps:
        for number in options.images:
            few = [_some(data, number, seed) for seed in options.seeds]
            runs = [_converted(trained(name, data, folder), some, steps, work) for some in few]
            rows.append(_row(name, steps, number, "conversion", None, runs))
            for start in ("levels", "steps"):
                for rate in options.rates:
                    runs = [
                        _tuned(trained(name, data, folder), some, steps, start, rate, seed, options.epochs, work)
                        for seed, some in zip(options.seeds, few, strict=True)
                    ]
                    rows.append(_row(name, steps, number, f"prepare({start}=…)", rate, runs))
    return rows


def _row(name: str, steps: int, images: int, start: str, rate: float | None, runs: list[tuple[float, bool]]) -> Found:
    row = {"network": name, "steps": steps, "images": images, "start": start, "rate": rate}
    row |= {"accuracy": [accuracy for accuracy, _ in runs], "kept_start": [kept for _, kept in runs]}
    print(row, file=sys.stderr, flush=True)
    return row


def _some(data: Dataset, number: int, seed: int) -> Dataset:
    """Return a data set of as many training images, drawn, with the mean and deviation of all."""
    chosen = np.random.default_rng(seed).permutation(len(data.y_train))[:number]
    return replace(data, x_train=data.x_train[chosen], y_train=data.y_train[chosen])


def _converted(network: nn.Module, data: Dataset, steps: int, work: Path) -> tuple[float, bool]:
    nctool.convert(
        network, data.x_train[:N_CONVERTED], work / "c.net", mean=data.mean, std=data.std, steps=steps, target="lava"
    )
    return _accuracy(work / "c.net", data), False


def _tuned(
    network: nn.Module, data: Dataset, steps: int, start: str, rate: float, seed: int, epochs: int, work: Path
) -> tuple[float, bool]:
    """Return the accuracy of a network that is fine-tuned, and whether its start was kept."""
    images = normalised(torch.from_numpy(data.x_train[:N_CONVERTED]), data)
    prepare: dict[str, Callable[[], nn.Module]] = {
        "levels": lambda: nctool.prepare(network, images[:N_PREPARED], levels=max(2, steps)),
        "steps": lambda: nctool.prepare(network, images, steps=steps),
    }
    split = {"x_train": data.x_train, "x_test": data.x_test}
    arrays = {key: value.transpose(0, 2, 3, 1) for key, value in split.items()}
    np.savez(work / "data.npz", **arrays, y_train=data.y_train, y_test=data.y_test)
    recipe = work / "tuned.toml"
    settings = {"mean": list(data.mean), "std": list(data.std), "epochs": epochs, "steps": steps, "rate": rate}
    recipe.write_text(RECIPE.format(data=work / "data.npz", **settings), encoding="utf-8")
    model = prepare[start]()
    report = nctool.train(recipe, work / "run", model=model, seed=seed, overwrite=True)
    nctool.export(work / "run", work / "t.net", target="lava", steps=steps, model=model)
    return _accuracy(work / "t.net", data), report.kept_start


def _accuracy(path: Path, data: Dataset) -> float:
    report = nctool.run_sim(path, input=data.x_test, labels=data.y_test)
    return float(next(reversed(report.accuracy.values())))


def print_table(rows: list[Found]) -> None:
    """Print a Markdown table, a row for each window, number of images and start."""
    print("| network | T | images | start | learning rate | top-1, a seed each | mean |\n|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [
            f"{100 * value:.2f}{'*' * kept}" for value, kept in zip(row["accuracy"], row["kept_start"], strict=True)
        ]
        mean = f"{100 * float(np.mean(row['accuracy'])):.2f}"
        rate = "none" if row["rate"] is None else f"{row['rate']:g}"
        print(
            f"| {row['network']} | {row['steps']} | {row['images']} | {row['start']} | {rate} | {', '.join(cells)} "
            f"| {mean} |"
        )


def _numbers(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="digits-cnn", metavar="NAMES")
    parser.add_argument("--networks", type=Path, metavar="DIR", help="a temporary folder by default")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=_numbers, default=[500, 1438], metavar="N,N")
    parser.add_argument("--steps", type=_numbers, default=[1, 2], metavar="T,T")
    parser.add_argument("--seeds", type=_numbers, default=[1, 2, 3], metavar="S,S")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rates", type=lambda text: list(map(float, text.split(","))), default=[0.02], metavar="R,R")
    return parser.parse_args()


def main() -> None:
    """Measure the networks named on the command line."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.networks or Path(temporary)
        work = Path(temporary) / "work"
        work.mkdir()
        rows = [row for name in options.only.split(",") for row in measure(name, options, folder, work)]
    print_table(rows)
    print(json.dumps({"rows": rows, "commit": commit(), **environment()}))


if __name__ == "__main__":
    main()
