"""Build the networks of the model zoo, with fresh weights or those of a checkpoint.

In: the `[model]` and `[activation]` tables of a recipe, the shape of an image, the number of classes.
Out: an `nn.Sequential` of Conv2d, BatchNorm, Linear, AvgPool2d, MaxPool2d, AdaptiveAvgPool2d, Flatten, Dropout,
NoisyQuantReLU and ResidualBlock, whose layers are called `conv1`, `bn1`, `act1`, `pool1`, `block1`, … `fc1`; the
last layer is always dense and gives logits. Averaged maps have even sides, or are pooled as a whole, so that pooling
folds into the next layer exactly.
"""

from __future__ import annotations

import torch
from torch import nn

from nctool.activation.noisy_quant import activations
from nctool.conversion.trace.prepare import require_module
from nctool.errors import FormatError, RecipeError, UsageError
from nctool.recipe.schema import ActivationSettings, ModelSettings, OwnSettings
from nctool.training import Checkpoint
from nctool.training.checkpoints.tensor_file import first_mismatch
from nctool_models.architectures.networks import NETWORKS
from nctool_models.architectures.stack import Stack

_FROM_PYTHON = "give it from Python: nctool.train, finetune, explore and export take it as model=net"
_AS_TRAINED = "give the network that was trained, made by nctool.prepare with the same options"


def build_model(
    model: ModelSettings,
    input_shape: tuple[int, int, int],
    n_classes: int,
    activation: ActivationSettings,
    *,
    seed: int = 0,
) -> nn.Sequential:
    """Build a network with fresh weights.

    Args:
        model: the recipe's `[model]` table.
        input_shape: (channels, height, width) of an image.
        n_classes: number of logits, ≥ 1.
        activation: the recipe's `[activation]` table.
        seed: starts the weights; torch's global generator is left as it was.

    Returns:
        a network from float images (N, C, H, W) to float logits (N, n_classes).

    Raises:
        RecipeError: the images are too small for the architecture, a pooled side is odd, or the network is your own.
    """
    if isinstance(model, OwnSettings):
        raise RecipeError('`model.architecture` is "own": no network was given', hint=_FROM_PYTHON)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stack = Stack(model.architecture, input_shape, activation)
        NETWORKS[model.architecture](stack, model)
        stack.dense(n_classes)
    return stack.layers


def restore_model(checkpoint: Checkpoint, model: nn.Module | None = None) -> nn.Module:
    """Rebuild a trained network from its checkpoint, in evaluation mode.

    Args:
        model: your own network, where that is what was trained; it gets the weights of the checkpoint.

    Raises:
        UsageError: a network of your own is missing, given for a built-in recipe, or another one than was trained.
        FormatError: the tensors in the checkpoint do not fit the recipe in it, or a threshold is not positive.
    """
    recipe = checkpoint.recipe
    model = _built_in(checkpoint) if model is None else _own(checkpoint, model)
    model.load_state_dict(checkpoint.state)
    for name, layer in activations(model).items():
        thresholds = layer.threshold.detach() if layer.ratios is None else layer.threshold.detach() * layer.ratios
        if float(thresholds.min()) <= 0.0:
            raise FormatError(f"checkpoint of recipe `{recipe.name}`: threshold of `{name}` is not positive")
    return model.eval()


def _built_in(checkpoint: Checkpoint) -> nn.Module:
    """Return the network of a built-in recipe, if it has the tensors of the checkpoint."""
    recipe = checkpoint.recipe
    if isinstance(recipe.model, OwnSettings):
        raise UsageError(f"checkpoint of recipe `{recipe.name}`: its network is your own", hint=_FROM_PYTHON)
    model = build_model(recipe.model, checkpoint.input_shape, len(checkpoint.classes), recipe.activation)
    problem = first_mismatch(model.state_dict(), checkpoint.state)
    if problem is not None:
        raise FormatError(f"checkpoint does not fit its recipe `{recipe.name}`: {problem}")
    return model


def _own(checkpoint: Checkpoint, model: nn.Module) -> nn.Module:
    """Return `model` if it is the network that was trained.

    Levels and reset are checked too: no tensor holds them, and with others, fine-tuning would train another network.
    """
    recipe = checkpoint.recipe
    where = f"checkpoint of recipe `{recipe.name}`"
    if not isinstance(recipe.model, OwnSettings):
        raise UsageError(
            f"{where}: its network is `{recipe.model.architecture}`, got a model too", hint="leave out model="
        )
    require_module(model)
    problem = first_mismatch(checkpoint.state, model.state_dict())
    if problem is not None:
        raise UsageError(f"{where}: the given model does not fit, its {problem}", hint=_AS_TRAINED)
    trained = (recipe.activation.levels, recipe.activation.reset)
    for name, layer in activations(model).items():
        if (layer.levels, layer.reset_to) != trained:
            raise UsageError(
                f"{where}: activation `{name}` of the given model has (levels, reset) "
                f"{(layer.levels, layer.reset_to)}, allowed: {trained}",
                hint=_AS_TRAINED,
            )
    return model
