"""The first thresholds of a network that is trained from the start: from data, or those that its recipe gives.

In: a model with fresh weights, training images. Out: its thresholds, set.
"""

from __future__ import annotations

import torch
from torch import nn

from nctool.activation.noisy_quant import activations, in_mode
from nctool.activation.thresholds import FIRST_PERCENTILE, balanced_thresholds
from nctool.errors import RangeError
from nctool.recipe.schema import Recipe
from nctool.training.images.data import TrainingData
from nctool.training.images.encoding import ImageEncoding


def start_thresholds(model: nn.Module, data: TrainingData, encoding: ImageEncoding, recipe: Recipe) -> None:
    """Set every threshold to what one in a hundred positive pre-activations exceeds, if the recipe asks for that.

    A network of your own has thresholds already: `nctool.prepare` measured them, or they were trained. One that is
    trained with ReLUs gets its own after each epoch.

    Raises:
        RangeError: an activation is never positive.
    """
    rectified_first = recipe.activation.function == "relu" and recipe.training.epochs > 0
    if recipe.activation.threshold_init != "data" or recipe.model.architecture == "own" or rectified_first:
        return
    images = encoding(data.calibration(recipe.seed).images.to(next(model.parameters()).device))
    is_training = model.training
    try:
        with in_mode(model.eval(), "rectified"):
            measured = balanced_thresholds(model, activations(model), images, FIRST_PERCENTILE)
    except RangeError as error:
        raise RangeError(error.message, hint="set activation.threshold_init to a number") from error
    finally:
        model.train(is_training)
    with torch.no_grad():
        for name, layer in activations(model).items():
            layer.threshold.fill_(measured[name])
