"""train: a recipe becomes a checkpoint.

In: a recipe and a place. Out: the folder of a training run and a TrainReport. Torch is loaded by what trains only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import (
    DataDir,
    Device,
    EpochCallback,
    Module,
    Overrides,
    Overwrite,
    Progress,
    Resume,
    TensorBoard,
    recipe_names,
)
from nctool.commands.tables import percent, print_line, print_rows, print_whole
from nctool.errors import RecipeError, UsageError, first_line, is_out_of_memory
from nctool.progress import no_report
from nctool.signature import Hint, Option
from nctool.toml import literal

if TYPE_CHECKING:
    from nctool.ir.number_format import IntegerFormat
    from nctool.recipe.schema import Recipe
    from nctool.training import TrainingData, TrainReport

RUNS = Path("runs")


@public
def train(
    recipe: Annotated[
        Path | str,
        Option(
            "Name from `nctool recipes`, or a .toml path.",
            kind=str,
            metavar="RECIPE",
            is_positional=True,
            names=recipe_names,
        ),
        Hint('give a network with model=net, changes of a recipe with overrides={"training.epochs": 3}'),
    ],
    output: Annotated[Path | str | None, Option("Folder.", flags=("-o", "--output"), default="runs/NAME")] = None,
    *,
    overrides: Overrides = None,
    seed: Annotated[int | None, Option("In place of the recipe's seed.")] = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    model: Module | None = None,
    tensorboard: TensorBoard = False,
    progress: Progress = True,
    on_epoch: EpochCallback = no_report,
) -> TrainReport:
    """Train a network with noisy quantised activations.

    The run's folder gets checkpoint.safetensors, recipe.toml and metrics.jsonl.

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
        progress: called with the batches done and to do; True is a bar, False nothing.
        on_epoch: called with the numbers of every epoch.

    Raises:
        UsageError: unknown recipe, key, device or data set, a folder that cannot be written or holds another run, a
            model that was not prepared or does not fit the data or the recipe, or no tensorboard where it is wanted.
        FormatError: data or a saved state is bad.
        UnsupportedError: noise is to be that of a chip, and the model cannot be converted.
        RangeError: training diverged, or memory does not suffice for the images or the training.
        Interrupted: SIGINT, SIGTERM or SIGHUP came while it trained; see `nctool.errors`.
    """
    from nctool.recipe.schema import require_changed_images
    from nctool.running.checkpoints import require_no_other_recipe
    from nctool_models import load_recipe

    require_no_other_recipe(recipe)
    resolved = load_recipe(recipe, overrides, seed)
    if model is not None:
        resolved = _with_own(resolved, model)
    require_changed_images(resolved)
    output = RUNS / resolved.name if output is None else Path(output)
    require_vacant(output, resume=resume, overwrite=overwrite)
    if not resume:
        _require_recipe_elsewhere(recipe, output)

    from nctool.figures.tensorboard import with_events
    from nctool.training import fit
    from nctool.training.execution import usable_device

    usable_device(device, resolved.training)
    data = _data(resolved, data_dir)
    network = _network(resolved, data, model)
    with with_events(tensorboard, output, on_epoch) as report:
        return fit(
            network,
            data,
            resolved,
            output,
            device=device,
            resume=resume,
            number_format=integer_format(resolved),
            progress=progress,
            on_epoch=report,
        )


def print_train(report: TrainReport) -> None:
    """Show accuracies by time steps and where the checkpoint lies."""
    steps = list(report.accuracy_snn)
    network = "float" if report.replicas == 1 else f"float, {report.replicas} neurons an activation"
    row = [network, percent(report.accuracy_ann), *(percent(report.accuracy_snn[step]) for step in steps)]
    title = f"{report.recipe}, seed {report.seed}: test accuracy"
    print_rows(title, ["", "ANN", *(f"T={step}" for step in steps)], [row])
    chosen = "the start of fine-tuning" if report.kept_start else f"epoch {report.best_epoch}"
    seconds = f"{report.seconds_per_epoch:.2f} s per epoch in {report.precision}"
    print_line(f"{chosen} chosen on held-out training data, {seconds}")
    if report.kept_start:
        print_line("no epoch of fine-tuning was better: more images, or a lower finetune.learning_rate, may help")
    if report.ideal_epochs:
        print_line(f"noise of {report.ideal_epochs} epochs is that of the float network: no integers fitted")
    path, model = report.path, report.path / "model.net"
    if report.is_own:  # a command would not have it
        print_whole(f'next: nctool.export("{path}", target="loihi", output="{model}", model=your network)')
    else:
        print_whole(f"next: nctool export {quote(str(path))} --target loihi -o {quote(str(model))}")


COMMAND = Command(train, print_train, title="training")


# --- the folder of a run ----------------------------------------------------------------------------------------------


def require_vacant(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder whose run a new one would take the place of, finished or not, unless that is wanted."""
    from nctool.training.checkpoints.names import CHECKPOINT_NAME, STATE_NAME

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
    from nctool.training.checkpoints.names import RECIPE_NAME

    written = output / RECIPE_NAME
    if written.exists() and Path(recipe).exists() and written.samefile(recipe):
        raise UsageError(
            f"-o `{output}` holds the recipe itself, as `{RECIPE_NAME}`, which a run writes anew",
            hint="choose another folder with -o, or move the recipe",
        )


# --- what is trained --------------------------------------------------------------------------------------------------


def _data(recipe: Recipe, data_dir: Path | str | None) -> TrainingData:
    """Load the images, split and normalised as the recipe says."""
    from nctool.training import Normalisation
    from nctool_models import load_dataset, training_data

    settings = recipe.data
    dataset = load_dataset(settings.name, data_dir, image_size=settings.image_size, channels=settings.channels)
    mean, std = settings.mean, settings.std
    normalisation = None if mean is None or std is None else Normalisation(mean, std)
    return training_data(dataset, settings.validation_fraction, recipe.seed, normalisation)


def integer_format(recipe: Recipe) -> IntegerFormat | None:
    """Return the integers of the chip that a recipe trains for, if it does."""
    from nctool_deploy.backends.backend import find_backend

    if recipe.chip is None:
        return None
    return replace(find_backend(recipe.chip.backend).number_format, weight_bits=recipe.chip.weight_bits)


def _network(recipe: Recipe, data: TrainingData, model: Module | None) -> Module:
    """Return the recipe's network, or the one given, which must fit the images."""
    from nctool_models import build_model

    n_classes = len(data.classes)
    if model is None:
        return build_model(recipe.model, data.input_shape, n_classes, recipe.activation, seed=recipe.seed)
    _require_own(model, data, n_classes)
    return model


def _with_own(recipe: Recipe, model: Module) -> Recipe:
    """Return the recipe of a network of your own: it says of the activations what `nctool.prepare` gave them.

    The description of a recipe with another network is not of this one.
    """
    from nctool.activation.noisy_quant import activations
    from nctool.conversion.trace.prepare import require_module
    from nctool.recipe.schema import OwnSettings, consistent

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


def _require_own(model: Module, data: TrainingData, n_classes: int) -> None:
    """Check that a model gives logits for the images."""
    import torch

    images, was_training = data.normalisation(data.train.images[:2]), model.training
    try:
        with torch.no_grad():
            shape = tuple(model.eval().cpu()(images).shape)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(f"model: does not take images {tuple(images.shape)} ({first_line(error)})") from error
    finally:
        model.train(was_training)
    if shape != (2, n_classes):
        raise UsageError(f"model: gives {shape} for two images, allowed {(2, n_classes)}, a logit for each class")
