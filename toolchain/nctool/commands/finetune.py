"""finetune: a trained checkpoint becomes one for the windows and the weight bits that it will be deployed with.

In: a checkpoint and a place. Out: the folder of another training run and its TrainReport. Torch is loaded by what
trains only.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import (
    Checkpoint,
    DataDir,
    Device,
    EpochCallback,
    Module,
    Overrides,
    Overwrite,
    Progress,
    Resume,
    TensorBoard,
)
from nctool.commands.train import RUNS, integer_format, print_train, require_vacant
from nctool.errors import UsageError
from nctool.progress import no_report
from nctool.signature import Option
from nctool.toml import literal

if TYPE_CHECKING:
    from nctool import training
    from nctool.recipe.schema import Recipe
    from nctool.training import TrainingData, TrainReport

TABLES = ("finetune", "training", "data")
"""Tables of the recipe that fine-tuning follows; the others made the network."""

FIXED = (
    ("data", "validation_fraction", None),
    ("data", "mean", "images are normalised as in training"),
    ("data", "std", "images are normalised as in training"),
    ("training", "epochs", "fine-tuning lasts `finetune.epochs`"),
    ("training", "learning_rate", "that of fine-tuning is `finetune.learning_rate`"),
)
"""Keys of these tables that are not followed, because they made the network, with what to set instead."""


@public
def finetune(
    checkpoint: Checkpoint,
    output: Annotated[
        Path | str | None, Option("Folder.", flags=("-o", "--output"), default="runs/NAME-finetuned")
    ] = None,
    *,
    overrides: Overrides = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    model: Module | None = None,
    tensorboard: TensorBoard = False,
    progress: Progress = True,
    on_epoch: EpochCallback = no_report,
) -> TrainReport:
    """Train a checkpoint on as the spiking network itself, with rounded weights.

    The recipe is that of the checkpoint; keys that its `[finetune]` lacks have their defaults (docs/RECIPES.md). The
    same images are held out as in training.

    Args:
        checkpoint: folder of a training run, or its checkpoint.safetensors; it is left as it is.
        output: folder of the new run; runs/<name>-finetuned by default.
        overrides: values by `table.key`, of the tables `finetune`, `training` and `data`.
        device: `cpu` or `cuda`.
        data_dir: where data sets lie; by default where that of the training was.
        resume: go on where an interrupted run in `output` stopped.
        overwrite: replace the run in `output`, finished or not, as soon as an epoch is done.
        model: the network of the checkpoint, where it is your own; it is trained in place.
        tensorboard: write the numbers of every epoch to the folder `tensorboard` of the run.
        progress: called with the batches done and to do; True is a bar, False nothing.
        on_epoch: called with the numbers of every epoch.

    Raises:
        RecipeError: an override is not allowed.
        UsageError: there is no checkpoint, an override that would change the network, another data set, an unknown
            device, a folder that cannot be written, is the checkpoint's or holds another run, or no tensorboard where
            it is wanted.
        FormatError: the checkpoint, the data or a saved state is bad.
        RangeError: training diverged.
        Interrupted: SIGINT, SIGTERM or SIGHUP came while it trained; see `nctool.errors`.
    """
    from nctool.running.checkpoints import open_checkpoint, remembered, require_checkpoint

    require_checkpoint(checkpoint)

    from nctool.figures.tensorboard import with_events
    from nctool.training import fit
    from nctool.training.execution import usable_device
    from nctool_models import restore_model

    loaded = open_checkpoint(checkpoint)
    recipe = _recipe(loaded.recipe, overrides)
    output = RUNS / f"{recipe.name}-finetuned" if output is None else Path(output)
    _require_another(Path(checkpoint), output)
    require_vacant(output, resume=resume, overwrite=overwrite)
    usable_device(device, recipe.training)
    data = _data(loaded, recipe, remembered(data_dir, loaded, recipe.data.name))
    network = restore_model(loaded, model)
    with with_events(tensorboard, output, on_epoch) as report:
        return fit(
            network,
            data,
            recipe,
            output,
            device=device,
            resume=resume,
            trained=True,
            number_format=integer_format(recipe),
            progress=progress,
            on_epoch=report,
        )


COMMAND = Command(finetune, print_train, title="fine-tuning")


def _recipe(trained: Recipe, overrides: Overrides) -> Recipe:
    from nctool.recipe.schema import FinetuneSettings, consistent, parse_recipe

    recipe = parse_recipe(trained.to_toml(), overrides, source=trained.name)
    if recipe.model_copy(update={table: getattr(trained, table) for table in TABLES}) != trained:
        raise UsageError(
            f"--set changes what the network was trained as, allowed: keys of {', '.join(TABLES)}",
            hint="`nctool train` makes another network",
        )
    for table, key, hint in FIXED:
        got, allowed = (getattr(getattr(settings, table), key) for settings in (recipe, trained))
        if got != allowed:
            shown = "none" if allowed is None else literal(allowed)
            raise UsageError(f"--set changes `{table}.{key}` to {literal(got)}, allowed: {shown}, as in training", hint)
    if recipe.finetune is None:
        recipe = recipe.model_copy(update={"finetune": FinetuneSettings()})
    return consistent(recipe, trained.name)


def _require_another(checkpoint: Path, output: Path) -> None:
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if output.exists() and output.samefile(folder):
        raise UsageError(f"-o `{output}` holds the checkpoint itself, allowed: another folder")


def _data(loaded: training.Checkpoint, recipe: Recipe, data_dir: Path | str | None) -> TrainingData:
    """Load the images, split and normalised as in training."""
    from nctool.training import Normalisation
    from nctool_models import load_dataset, training_data

    settings = recipe.data
    dataset = load_dataset(settings.name, data_dir, image_size=settings.image_size, channels=settings.channels)
    data = training_data(dataset, recipe.data.validation_fraction, recipe.seed)
    got, trained = (data.input_shape, data.classes), (loaded.input_shape, loaded.classes)
    if got != trained:
        raise UsageError(
            f"data set `{recipe.data.name}` has images {got[0]} of {len(got[1])} classes, allowed: {trained[0]} of "
            f"{len(trained[1])} classes, those of the checkpoint",
            hint="name the data set that it was trained on with --set data.name=NAME",
        )
    return replace(data, normalisation=Normalisation(loaded.mean, loaded.std))
