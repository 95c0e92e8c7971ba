"""train: a recipe becomes a checkpoint.

In: a recipe and a place. Out: the folder of a training run and a TrainReport.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from nctool.activation.noisy_quant import activations
from nctool.arguments import Hint, public
from nctool.conversion.trace.prepare import require_module
from nctool.errors import RecipeError, UsageError, first_line, is_out_of_memory
from nctool.figures.tensorboard import with_events
from nctool.ir.number_format import IntegerFormat
from nctool.progress import ProgressCallback, no_progress
from nctool.recipe.schema import Overrides, OwnSettings, Recipe, consistent
from nctool.running.checkpoints import require_no_other_recipe
from nctool.toml import literal
from nctool.training import EpochCallback, TrainResult, fit, no_report
from nctool.training.checkpoints.checkpoint import CHECKPOINT_NAME, RECIPE_NAME
from nctool.training.checkpoints.state import STATE_NAME
from nctool.training.execution import usable_device
from nctool.training.images.data import TrainingData
from nctool.training.images.encoding import Normalisation
from nctool_deploy.backends.backend import find_realisation
from nctool_models import build_model, load_dataset, load_recipe, training_data

RUNS = Path("runs")


@dataclass(frozen=True)
class TrainReport:
    """What a training run achieved; accuracies are fractions of the test split.

    Args:
        path: folder of the run.
        recipe, seed: what was trained.
        accuracy_ann: of the noise-free ANN.
        accuracy_snn: of the float spiking network by time steps, "1" to "16".
        theta, sigma: threshold and noise scale per layer.
        best_epoch: the epoch that the held-out split chose.
        seconds_per_epoch: mean wall time.
        ideal_epochs: with noise of a chip, epochs that took it from the float spiking network, because no integers
            fitted.
    """

    path: Path
    recipe: str
    seed: int
    accuracy_ann: float
    accuracy_snn: dict[str, float]
    theta: dict[str, float]
    sigma: dict[str, float]
    best_epoch: int
    seconds_per_epoch: float
    ideal_epochs: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self) | {"path": str(self.path)}


@public
def train(
    recipe: Annotated[
        Path | str, Hint('give a network with model=net, changes of a recipe with overrides={"training.epochs": 3}')
    ],
    output: Path | str | None = None,
    *,
    overrides: Overrides | None = None,
    seed: int | None = None,
    device: str = "cpu",
    data_dir: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    model: nn.Module | None = None,
    tensorboard: bool = False,
    progress: ProgressCallback = no_progress,
    on_epoch: EpochCallback = no_report,
) -> TrainReport:
    """Train a recipe and write checkpoint.safetensors, recipe.toml and metrics.jsonl.

    Args:
        recipe: name of a built-in recipe, or the path of a .toml file.
        output: folder of the run; runs/<name> by default.
        overrides: values by `table.key`, applied in order.
        seed: in place of the recipe's.
        device: `cpu` or `cuda`.
        data_dir: where data sets lie.
        resume: go on where an interrupted run in `output` stopped.
        overwrite: replace the run in `output`, finished or not, as soon as an epoch is done.
        model: a network of your own instead of the recipe's, made trainable by `nctool.prepare`; it is trained in
            place. The recipe's data, noise and training settings hold for it; levels, reset and first thresholds are
            its activations'.
        tensorboard: write the numbers of every epoch to the folder `tensorboard` of the run.
        progress: called with the batches done and to do.
        on_epoch: called with the numbers of every epoch.

    Raises:
        UsageError: unknown recipe, key, device or data set, a folder that cannot be written or holds another run, a
            model that was not prepared or does not fit the data or the recipe, or no tensorboard where it is wanted.
        FormatError: data or a saved state is bad.
        UnsupportedError: noise is to be that of a chip, and the model cannot be converted.
        RangeError: training diverged, or memory does not suffice for the images or the training.
        Interrupted: SIGINT, SIGTERM or SIGHUP came while it trained; see `nctool.errors`.
    """
    require_no_other_recipe(recipe)
    resolved = load_recipe(recipe, overrides, seed)
    if model is not None:
        resolved = _with_own(resolved, model)
    output = RUNS / resolved.name if output is None else Path(output)
    require_vacant(output, resume=resume, overwrite=overwrite)
    if not resume:
        _require_recipe_elsewhere(recipe, output)
    usable_device(device, resolved.training)
    data = _data(resolved, data_dir)
    n_classes = len(data.classes)
    if model is None:
        model = build_model(resolved.model, data.input_shape, n_classes, resolved.activation, seed=resolved.seed)
    else:
        _require_own(model, data, n_classes)
    form = integer_format(resolved)
    with with_events(tensorboard, output, on_epoch) as report:
        result = fit(
            model,
            data,
            resolved,
            output,
            device=device,
            resume=resume,
            form=form,
            progress=progress,
            on_epoch=report,
        )
    return train_report(output, resolved, result)


def require_vacant(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder whose run a new one would take the place of, finished or not, unless that is wanted."""
    if resume and overwrite:
        raise UsageError(
            "--resume and --overwrite: allowed one of them", hint="--resume goes on, --overwrite begins anew"
        )
    if resume or overwrite:
        return
    if (output / CHECKPOINT_NAME).exists():
        raise UsageError(f"`{output}` holds a finished run", hint="choose another folder with -o, or --overwrite")
    if (output / STATE_NAME).exists():
        raise UsageError(
            f"`{output}` holds a run that is not finished",
            hint="continue it with --resume, choose another folder with -o, or replace it with --overwrite",
        )


def _require_recipe_elsewhere(recipe: Path | str, output: Path) -> None:
    """Refuse a recipe in the place of the one that a run writes: with its comments it would be gone."""
    written = output / RECIPE_NAME
    if written.exists() and Path(recipe).exists() and written.samefile(recipe):
        raise UsageError(
            f"-o `{output}` holds the recipe itself, as `{RECIPE_NAME}`, which a run writes anew",
            hint="choose another folder with -o, or move the recipe",
        )


def _data(recipe: Recipe, data_dir: Path | str | None) -> TrainingData:
    """Load the images, split and normalised as the recipe says."""
    settings = recipe.data
    dataset = load_dataset(settings.name, data_dir, image_size=settings.image_size, channels=settings.channels)
    given = None if settings.mean is None or settings.std is None else Normalisation(settings.mean, settings.std)
    return training_data(dataset, settings.validation_fraction, recipe.seed, given)


def train_report(output: Path, recipe: Recipe, result: TrainResult) -> TrainReport:
    """Report what a training run into `output` achieved."""
    return TrainReport(
        path=output,
        recipe=recipe.name,
        seed=recipe.seed,
        accuracy_ann=result.accuracy_ann,
        accuracy_snn=result.accuracy_snn,
        theta=result.theta,
        sigma=result.sigma,
        best_epoch=result.best_epoch,
        seconds_per_epoch=result.seconds_per_epoch,
        ideal_epochs=result.ideal_epochs,
    )


def integer_format(recipe: Recipe) -> IntegerFormat | None:
    """Return the integers of the chip that a recipe trains for, if it does."""
    if recipe.chip is None:
        return None
    return replace(find_realisation(recipe.chip.realisation).form, weight_bits=recipe.chip.weight_bits)


def _with_own(recipe: Recipe, model: nn.Module) -> Recipe:
    """Return the recipe of a network of your own: it says of the activations what `nctool.prepare` gave them.

    The description of a recipe with another network is not of this one.
    """
    require_module(model)
    kinds = {(layer.levels, layer.reset_to) for layer in activations(model).values()}
    if not kinds:
        raise UsageError("model: has no NoisyQuantReLU", hint="make it trainable with nctool.prepare(model, images)")
    if len(kinds) > 1:
        raise UsageError(f"model: activations of (levels, reset) {sorted(kinds)}, allowed one for all")
    ((levels, reset),) = kinds
    prepared = {"levels": levels, "reset": reset, "threshold_init": "data"}
    is_own = isinstance(recipe.model, OwnSettings)
    if is_own:
        _require_as_prepared(recipe, prepared)
    own = {
        "description": recipe.description if is_own else "",
        "model": OwnSettings(architecture="own"),
        "activation": recipe.activation.model_copy(update=prepared),
    }
    return consistent(recipe.model_copy(update=own), recipe.name)


def _require_as_prepared(recipe: Recipe, prepared: Mapping[str, Any]) -> None:
    """Refuse what the recipe of a network of your own says of its activations, if they are others."""
    for key in sorted(recipe.activation.model_fields_set & prepared.keys()):
        got, allowed = getattr(recipe.activation, key), prepared[key]
        if got != allowed:
            raise RecipeError(
                f"recipe `{recipe.name}`: `activation.{key}` is {literal(got)}, allowed: {allowed}, as the model was "
                "prepared",
                hint="leave it out: nctool.prepare gives a network of your own its levels, reset and first thresholds",
            )


def _require_own(model: nn.Module, data: TrainingData, n_classes: int) -> None:
    """Check that a model gives logits for the images."""
    images, was_training = data.normalisation(data.train.images[:2]), model.training
    try:
        with torch.no_grad():
            found = tuple(model.eval().cpu()(images).shape)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(f"model: does not take images {tuple(images.shape)} ({first_line(error)})") from error
    finally:
        model.train(was_training)
    if found != (2, n_classes):
        raise UsageError(f"model: gives {found} for two images, allowed {(2, n_classes)}, a logit for each class")
