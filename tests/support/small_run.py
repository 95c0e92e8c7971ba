"""A training run that takes a fraction of a second: two classes of 4x4 images told apart by their left half."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nctool.recipe.overrides import parse_overrides
from nctool.recipe.schema import Recipe, parse_recipe
from nctool.training import LabelledImages, Normalisation, TrainingData, TrainReport, fit
from nctool_models import build_model

TEXT = """
name = "small"
seed = 3
[data]
name = "halves"
[model]
architecture = "mlp"
hidden = [12, 8]
[activation]
threshold_init = 2.0
[training]
epochs = 4
batch_size = 16
"""


POOLED = 'model={architecture="cnn", channels=[4, 6], hidden=8, pooling="maximum"}'
"""An override: convolutions, maximum pooling, dense layers."""


def small_recipe(*overrides: str, seed: int | None = None) -> Recipe:
    return parse_recipe(TEXT, parse_overrides(overrides), seed)


def halves(n_images: int, seed: int) -> LabelledImages:
    """Noise, brighter on the left in class 0 and on the right in class 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n_images,), generator=generator)
    images = torch.randint(180, (n_images, 1, 4, 4), generator=generator)
    bright = (torch.arange(4) >= 2)[None, :] == (labels == 1)[:, None]
    return LabelledImages((images + 60 * bright[:, None, None, :]).to(torch.uint8), labels)


def small_data() -> TrainingData:
    return TrainingData(
        name="halves",
        classes=("left", "right"),
        train=halves(100, 0),
        held_out=halves(60, 1),
        test=halves(60, 2),
        normalisation=Normalisation((0.4,), (0.25,)),
    )


def small_model(recipe: Recipe) -> nn.Sequential:
    return build_model(recipe.model, (1, 4, 4), 2, recipe.activation, seed=recipe.seed)


def small_fit(
    directory: Path, overrides: Sequence[str] = (), *, data: TrainingData | None = None, **options: Any
) -> TrainReport:
    recipe = small_recipe(*overrides)
    return fit(small_model(recipe), data or small_data(), recipe, directory, **options)


def epoch_lines(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, one for each epoch."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
