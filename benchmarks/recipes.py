"""What the keys of `[training]` and `[noise]` that the method's recipe sets cost, and what they change.

    python benchmarks/recipes.py [--repeat N] [--recipe NAME] [--seeds S,S]
                                 [--cifar10 FILE.npz] [--images N] [--epochs N]

The first table has the milliseconds of the processor that each change of a batch of 128 images takes. The second has
the accuracies of --recipe on its test images, with one key set otherwise in each row. With --cifar10, small VGG is
trained on some of the images with AutoAugment and cutout; the third table has σ measured on changed held-out images
over σ on clean ones, the mean of its layers but the first, which has none.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _common import commit, environment, times_side_by_side
from _relu_images import drawn
from nctool.recipe.schema import Recipe, TrainingSettings
from nctool.training import LabelledImages, TrainingData, TrainReport, fit, measure_held_out
from nctool.training.images.augment import augment
from nctool_models import build_model, load_dataset, load_recipe, training_data

BATCH = 128
CHANGES: dict[str, dict[str, Any]] = {
    "crop_padding = 4": {"crop_padding": 4},
    "resized_crop = 0.08": {"resized_crop": 0.08},
    "horizontal_flip = true": {"horizontal_flip": True},
    'auto_augment = "cifar10"': {"auto_augment": "cifar10"},
    'auto_augment = "cifar10-pillow"': {"auto_augment": "cifar10-pillow"},
    "cutout = 16": {"cutout": 16},
    'cutout = 16, cutout_fill = "mean"': {"cutout": 16, "cutout_fill": "mean"},
}
MEAN = (0.49, 0.48, 0.45)

TRAINED = {"training.precision": "auto", "training.auto_augment": "cifar10", "training.cutout": 16}
"""What the network whose σ is measured is trained with, beside the crop and the flip of its recipe."""
METHOD: dict[str, Any] = {
    "crop_padding": 4,
    "horizontal_flip": True,
    "auto_augment": "cifar10-pillow",
    "cutout": 16,
    "cutout_fill": "mean",
}
"""The changes of the method's recipe."""
BLACK = {**METHOD, "auto_augment": "cifar10", "cutout_fill": "black"}
"""The same with what nctool does by default."""

NORMAL = "weights from a normal distribution"
"""Of variance 2/(outputs · kernel), as those of VGG in the code of QCFS; those of torch are drawn evenly."""
ARMS: dict[str, dict[str, str]] = {
    "defaults": {},
    'schedule = "cosine-by-epoch"': {"training.schedule": "cosine-by-epoch"},
    'schedule = "one-cycle"': {"training.schedule": "one-cycle"},
    'noise.images = "augmented"': {"noise.images": "augmented"},
    NORMAL: {},
}


def costs(repeat: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of the processor for a batch, by side of the image and change."""
    found = {}
    for side in (32, 64):
        images = torch.randint(256, (BATCH, 3, side, side), dtype=torch.uint8)
        actions = {
            name: lambda images=images, changes=changes: augment(images, TrainingSettings(epochs=1, **changes), MEAN)
            for name, changes in CHANGES.items()
        }
        found[str(side)] = {name: 1000 * each.cpu for name, each in times_side_by_side(actions, repeat).items()}
    return found


def trained(recipe: Recipe, data: TrainingData, *, normal: bool = False) -> tuple[nn.Module, TrainReport]:
    """Train a network, of weights as torch draws them, or from a normal distribution."""
    model = build_model(recipe.model, data.input_shape, len(data.classes), recipe.activation, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    for layer in model if normal else ():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    with tempfile.TemporaryDirectory() as folder:
        return model, fit(model, data, recipe, Path(folder))


def arms(name: str, seeds: list[int]) -> list[dict[str, Any]]:
    """Return a row for each arm and seed."""
    rows = []
    for seed in seeds:
        for arm, overrides in ARMS.items():
            recipe = load_recipe(name, overrides, seed)
            data = training_data(load_dataset(recipe.data.name), recipe.data.validation_fraction, seed)
            _, report = trained(recipe, data, normal=arm == NORMAL)
            sigma = float(np.mean(list(report.sigma.values())))
            rows.append({"arm": arm, "seed": seed, "ann": report.accuracy_ann, **report.accuracy_snn, "sigma": sigma})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def ratios(path: Path, n_images: int, epochs: int) -> dict[str, float]:
    """Train a network; return, for changes of the held-out images, σ over that of clean ones, the mean over layers.

    The first layer is left out: with a constant input and as many steps as levels it has no gap but rounding.
    """
    recipe = load_recipe("cifar10-small-vgg", {**TRAINED, "training.epochs": epochs})
    whole = drawn(load_dataset(str(path)), 1000)
    few = replace(whole, x_train=whole.x_train[:n_images], y_train=whole.y_train[:n_images])
    data = training_data(few, recipe.data.validation_fraction, recipe.seed)
    model, report = trained(recipe, data)
    print(f"small VGG: ANN {report.accuracy_ann:.3f}, SNN {report.accuracy_snn}", file=sys.stderr, flush=True)
    clean = measure_held_out(model, data.held_out, data.normalisation, recipe.noise.steps).sigma
    found = {}
    together = {"all of the method's recipe": METHOD, "all, torchvision's operations and black": BLACK}
    for name, changes in {**CHANGES, **together}.items():
        torch.manual_seed(0)
        images = augment(data.held_out.images, TrainingSettings(epochs=1, **changes), data.normalisation.mean)
        split = LabelledImages(images, data.held_out.labels)
        sigma = measure_held_out(model, split, data.normalisation, recipe.noise.steps).sigma
        found[name] = float(np.mean([sigma[layer] / clean[layer] for layer in list(clean)[1:]]))
    return found


def print_costs(found: Mapping[str, Mapping[str, float]]) -> None:
    """Print a Markdown table of milliseconds."""
    print("| change | 32x32 | 64x64 |\n|---|---|---|")
    for name in CHANGES:
        print(f"| `{name}` | {found['32'][name]:.1f} | {found['64'][name]:.1f} |")


def print_arms(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table of means and standard deviations over the seeds, in percent."""
    windows = ("ann", "1", "2", "4")
    print("| | ANN | T = 1 | T = 2 | T = 4 | σ, mean |\n|---|---|---|---|---|---|")
    for arm in ARMS:
        of_arm = [row for row in rows if row["arm"] == arm]
        values = [np.array([100 * row[window] for row in of_arm]) for window in windows]
        cells = [f"{each.mean():.1f} ± {each.std():.1f}" for each in values]
        print(f"| {arm} | {' | '.join(cells)} | {np.mean([row['sigma'] for row in of_arm]):.3f} |")


def print_ratios(found: Mapping[str, float]) -> None:
    """Print a Markdown table."""
    print("| held-out images | σ over that of clean ones |\n|---|---|")
    for name, ratio in found.items():
        print(f"| {name} | {ratio:.2f} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--recipe", default="digits-cnn", metavar="NAME")
    parser.add_argument("--seeds", type=lambda text: list(map(int, text.split(","))), default=[1, 2, 3], metavar="S,S")
    parser.add_argument("--cifar10", type=Path, metavar="FILE.npz")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=8)
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for."""
    options = _arguments()
    result: dict[str, Any] = {"milliseconds": costs(options.repeat)}
    print_costs(result["milliseconds"])
    result["rows"] = arms(options.recipe, options.seeds)
    print_arms(result["rows"])
    if options.cifar10 is not None:
        result["ratios"] = ratios(options.cifar10, options.images, options.epochs)
        print_ratios(result["ratios"])
    print(json.dumps({**result, "commit": commit(), **environment()}))


if __name__ == "__main__":
    main()
