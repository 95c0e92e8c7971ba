"""The share of an epoch that measuring the noise takes, on random images.

    python benchmarks/noise_share.py

Trains the zoo's LeNet on 28x28x1 and its small VGG on 32x32x3 for one epoch each, as `nctool train` does, with
T_val = 4 and a tenth of the images held out, and reads `seconds` and `seconds_noise` from metrics.jsonl. There are just
enough training images for the number of measured ones to be in proportion: larger data sets have the same share.

The last line of stdout is one JSON object; its key `noise_share` holds the share for each network.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from _common import environment
from nctool.recipe.schema import parse_recipe
from nctool.training import LabelledImages, Normalisation, TrainingData, fit
from nctool_models import build_model

N_TRAIN = 14_400
NETWORKS = {"lenet": (1, 28, 28), "small-vgg": (3, 32, 32)}
RECIPE = """
name = "share"
[data]
name = "random"
[model]
architecture = "{}"
[training]
epochs = 1
"""


def random_split(n_images: int, shape: tuple[int, int, int]) -> LabelledImages:
    """Return pixels and labels without any relation."""
    return LabelledImages(torch.randint(256, (n_images, *shape), dtype=torch.uint8), torch.randint(10, (n_images,)))


def measure(architecture: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """Train one epoch and return its times in seconds."""
    recipe = parse_recipe(RECIPE.format(architecture))
    splits = [random_split(n_images, shape) for n_images in (N_TRAIN, N_TRAIN // 9, 10)]
    data = TrainingData("random", tuple("0123456789"), *splits, Normalisation((0.5,) * shape[0], (0.25,) * shape[0]))
    with tempfile.TemporaryDirectory() as folder:
        fit(build_model(recipe.model, shape, 10, recipe.activation, seed=0), data, recipe, Path(folder))
        line = json.loads((Path(folder) / "metrics.jsonl").read_text())
    return {"seconds": line["seconds"], "seconds_noise": line["seconds_noise"]}


def main() -> None:
    """Measure both networks and print one JSON line."""
    torch.manual_seed(0)
    rows = {name: measure(name, shape) for name, shape in NETWORKS.items()}
    share = {name: row["seconds_noise"] / row["seconds"] for name, row in rows.items()}
    for name, value in share.items():
        print(f"{name:12} {100 * value:5.1f} % of {rows[name]['seconds']:.1f} s")
    print(json.dumps({"noise_share": share, "networks": rows, **environment()}))


if __name__ == "__main__":
    main()
