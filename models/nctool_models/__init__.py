"""The model zoo: recipes, the networks that they name, and the images that they train on.

load_recipe(name_or_path, overrides, seed) -> Recipe        recipes
load_dataset(name, data_dir, image_size) -> Dataset         datasets
training_data(dataset, fraction, seed) -> TrainingData      datasets
build_model(model, input_shape, n_classes, activation)      architectures
restore_model(checkpoint)                                   architectures
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nctool.lazy import lazy_names

if TYPE_CHECKING:
    from nctool_models.architectures.build import build_model, restore_model
    from nctool_models.datasets.dataset import Dataset, training_data
    from nctool_models.datasets.load import is_image_folder, load_dataset
    from nctool_models.recipes.load import list_recipes, load_recipe, recipe_path

__all__ = [
    "Dataset",
    "build_model",
    "is_image_folder",
    "list_recipes",
    "load_dataset",
    "load_recipe",
    "recipe_path",
    "restore_model",
    "training_data",
]

__getattr__ = lazy_names(
    __name__,
    {
        "architectures.build": "build_model restore_model",
        "datasets.dataset": "Dataset training_data",
        "datasets.load": "is_image_folder load_dataset",
        "recipes.load": "list_recipes load_recipe recipe_path",
    },
)
