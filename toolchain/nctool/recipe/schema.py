"""The recipe of an experiment: a checked, frozen value, read from TOML and written as TOML.

In: TOML text or a file, overrides, a seed. Out: `Recipe`, or a RecipeError that names the key, the value got and what
is allowed. `nctool_models.recipes.load` finds the built-in recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from nctool.errors import RecipeError
from nctool.recipe.overrides import Overrides, override, rename_older_keys
from nctool.recipe.tables import (
    ActivationSettings,
    ChipSettings,
    CnnSettings,
    DataSettings,
    FinetuneSettings,
    InputSettings,
    LenetSettings,
    MlpSettings,
    ModelSettings,
    NoiseSettings,
    OwnSettings,
    ResnetSettings,
    SmallVggSettings,
    Table,
    TrainingSettings,
    VggSettings,
    whole,
)
from nctool.toml import DocumentKind, literal, parse_document, read_document, validate_document

__all__ = [
    "FOLLOWING",
    "ActivationSettings",
    "ChipSettings",
    "CnnSettings",
    "DataSettings",
    "FinetuneSettings",
    "InputSettings",
    "LenetSettings",
    "MlpSettings",
    "ModelSettings",
    "NoiseSettings",
    "Overrides",
    "OwnSettings",
    "Recipe",
    "ResnetSettings",
    "SmallVggSettings",
    "TrainingSettings",
    "VggSettings",
    "parse_recipe",
    "read_recipe",
    "require_changed_images",
]

FOLLOWING = {
    "chip": "noise.source",
    "finetune.weight_bits": "chip.weight_bits",
    "finetune.replicas": "chip.replicas",
    "model": "model.architecture",
}
"""What has its default from another key, and from which: a table, or a key, or a table's keys besides that one."""

AnyTable = TypeVar("AnyTable", bound=Table)

_KIND = DocumentKind("recipe", RecipeError, "`nctool recipes` lists the built-in recipes")


class Recipe(Table):
    """One experiment, complete: with the data it determines the trained network on the CPU.

    Attributes:
        name: lower-case letters, digits, `-`, `_` and `.`.
        description: one line for `nctool recipes`.
        seed: starts every random stream, 0..2^32 − 1.
        chip: set where `noise.source` is `chip`, and only there.
        finetune: set where training ends with fine-tuning.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="lower-case letters, digits and `-_.`")
    description: str = Field(default="", min_length=0, description="a text")
    seed: int = whole(0, 2**32 - 1, 1)
    data: DataSettings
    input: InputSettings = InputSettings()
    model: ModelSettings
    activation: ActivationSettings = ActivationSettings()
    noise: NoiseSettings = NoiseSettings()
    chip: ChipSettings | None = None
    training: TrainingSettings
    finetune: FinetuneSettings | None = None

    @property
    def n_epochs(self) -> int:
        """Epochs of all stages of training."""
        return self.training.epochs + (self.finetune.epochs if self.finetune else 0)

    def to_toml(self) -> str:
        """Write the resolved recipe as TOML that `parse_recipe` reads back to an equal value.

        A value that follows from another key, and was not set, stands behind a `#`, so that it goes on following.
        """
        content = self.model_dump(exclude_none=True)
        tables = {key: value for key, value in content.items() if isinstance(value, dict)}
        lines = [f"{key} = {literal(value)}" for key, value in content.items() if key not in tables]
        for name, values in tables.items():
            said = getattr(self, name).model_fields_set
            table_mark = "# " if name in FOLLOWING and name not in self.model_fields_set else ""
            lines += ["", f"{table_mark}[{name}]"]
            for key, value in values.items():
                mark = table_mark or ("# " if _is_following(name, key) and key not in said else "")
                lines.append(f"{mark}{key} = {literal(value)}")
        return "\n".join(lines) + "\n"


def _is_following(table: str, key: str) -> bool:
    """Say whether the default of a key depends on another one."""
    leader = FOLLOWING.get(table)
    in_table = leader is not None and leader.startswith(f"{table}.") and leader != f"{table}.{key}"
    return in_table or f"{table}.{key}" in FOLLOWING


def read_recipe(
    path: Path, overrides: Overrides | None = None, seed: int | None = None, *, source: str | None = None
) -> Recipe:
    """Read a recipe file.

    Args:
        path: a UTF-8 TOML file.
        overrides: values by `table.key` or `key`, applied in order.
        seed: replaces the recipe's seed, after the overrides.
        source: what messages call the recipe; its path when None.

    Raises:
        RecipeError: the file is missing or not TOML, or a key or value is not allowed.
    """
    text = read_document(path, _KIND)
    return parse_recipe(text, overrides, seed, source=source or str(path))


def parse_recipe(
    text: str, overrides: Overrides | None = None, seed: int | None = None, *, source: str = "recipe"
) -> Recipe:
    """Check TOML text and make a `Recipe` of it.

    Args:
        text: the TOML document.
        overrides: as for `read_recipe`.
        seed: as for `read_recipe`.
        source: where the text came from, for messages.

    Raises:
        RecipeError: the text is not TOML, or a key or value is not allowed.
    """
    content = parse_document(text, _KIND, source)
    rename_older_keys(content, source)
    override(content, overrides or {})
    rename_older_keys(content, source)
    _drop_idle(content, overrides or {})
    if seed is not None:
        content["seed"] = seed
    return consistent(validate_document(content, Recipe, _KIND, source), source)


_IDLE = (
    ("training.cutout", 0, "training.cutout_fill"),
    ("training.epochs", 0, "training.schedule"),
    ("training.epochs", 0, "noise.images"),
    ("noise.source", "none", "noise.images"),
)
"""Which key has no use where another one has some value."""


def _drop_idle(content: dict[str, Any], overrides: Overrides) -> None:
    """Drop keys that a change has left without use, in place; those that are changed too stay, and are refused."""
    changed = {".".join(part.strip() for part in str(key).split(".")) for key in overrides}
    for leader, value, idle in _IDLE:
        (table, key), (idle_table, idle_key) = leader.split("."), idle.split(".")
        settings, others = content.get(table), content.get(idle_table)
        if leader not in changed or idle in changed or not isinstance(settings, dict) or not isinstance(others, dict):
            continue
        if settings.get(key) == value:
            others.pop(idle_key, None)


def consistent(recipe: Recipe, source: str) -> Recipe:
    """Return `recipe` with the defaults that follow from other keys; a RecipeError says what does not go together."""
    _require_one_normalisation(recipe, source)
    _require_one_window(recipe, source)
    _require_something_to_train(recipe, source)
    _require_use(recipe, source)
    return _require_replicas(_tuned_for_chip(_with_chip(recipe, source)), source)


def _require_one_normalisation(recipe: Recipe, source: str) -> None:
    """Require both mean and standard deviation of each channel, or neither."""
    counts = {key: len(getattr(recipe.data, key) or ()) for key in ("mean", "std")}
    if counts["mean"] != counts["std"]:
        raise RecipeError(
            f"recipe `{source}`: `data.mean` and `data.std` have lengths {counts['mean']} and {counts['std']}, "
            "allowed: equal ones, a number for each channel",
            hint="without both, those of the training images are taken",
        )


def _require_one_window(recipe: Recipe, source: str) -> None:
    """Require noise of the window that the staircase is made for: that of another window would not be its error."""
    levels, steps = recipe.activation.levels, recipe.noise.steps
    if recipe.activation.reset == "zero" and steps != levels:
        raise RecipeError(
            f"recipe `{source}`: `noise.steps` is {steps}, allowed: {levels}, as `activation.levels`",
            hint='with activation.reset = "zero" the levels are the time steps of the window',
        )


def _require_something_to_train(recipe: Recipe, source: str) -> None:
    """Require epochs, windows that differ, and no noise of ReLUs."""
    if recipe.training.epochs == 0 and recipe.finetune is None:
        raise RecipeError(
            f"recipe `{source}`: `training.epochs` is 0, allowed: 1 or more",
            hint="0 is for recipes with [finetune], which then train the spiking network from the start",
        )
    if recipe.activation.function == "relu" and recipe.noise.source != "none":
        raise RecipeError(
            f'recipe `{source}`: `noise.source` is "{recipe.noise.source}", allowed: none',
            hint='with activation.function = "relu" the network is trained without noise',
        )
    _require_graded(recipe, source)
    steps = recipe.finetune.steps if recipe.finetune else ()
    if len(set(steps)) != len(steps):
        raise RecipeError(f"recipe `{source}`: `finetune.steps` is {list(steps)}, allowed: each window once")


def _require_use(recipe: Recipe, source: str) -> None:
    """Refuse what would be ignored: the fill of no square, the schedule of no epochs, the images of no noise."""
    training, noise = recipe.training, recipe.noise
    if training.cutout_fill != "black" and training.cutout == 0:
        raise RecipeError(
            f'recipe `{source}`: `training.cutout_fill` is "{training.cutout_fill}", allowed: black',
            hint="with training.cutout = 0 there is no square to fill",
        )
    if training.schedule != "cosine" and training.epochs == 0:
        raise RecipeError(
            f'recipe `{source}`: `training.schedule` is "{training.schedule}", allowed: cosine',
            hint="with training.epochs = 0 there is only fine-tuning, whose rate falls by a cosine of its own",
        )
    if noise.images != "clean" and (noise.source == "none" or training.epochs == 0):
        without = 'noise.source = "none"' if noise.source == "none" else "training.epochs = 0"
        raise RecipeError(
            f'recipe `{source}`: `noise.images` is "{noise.images}", allowed: clean',
            hint=f"with {without} no noise is measured",
        )


def require_changed_images(recipe: Recipe) -> None:
    """Refuse noise of augmented images where training changes none.

    That is a rule for training, not for every recipe: fine-tuning, which has no noise, may leave the images as they
    are.

    Raises:
        RecipeError: `noise.images` is "augmented", and `[training]` has no change of images.
    """
    training = recipe.training
    changes = (
        *(training.crop_padding, training.resized_crop, training.horizontal_flip, training.cutout),
        training.auto_augment != "none",
    )
    if recipe.noise.images == "augmented" and not any(changes):
        raise RecipeError(
            f'recipe `{recipe.name}`: `noise.images` is "augmented", allowed: clean',
            hint="[training] changes no images, so that the augmented ones are the clean ones",
        )


def _require_graded(recipe: Recipe, source: str) -> None:
    """Require what graded neurons have, where `[finetune]` trains for them."""
    finetune = recipe.finetune
    if finetune is None or finetune.activation_bits is None:
        return
    with_bits, others = (
        "with finetune.activation_bits the network is trained for graded neurons, which have one step",
        {
            "finetune.steps": (list(finetune.steps), [1], finetune.steps == (1,)),
            "activation.reset": (recipe.activation.reset, "subtract", recipe.activation.reset == "subtract"),
            "input.encoding": (recipe.input.encoding, "graded", recipe.input.encoding == "graded"),
        },
    )
    for key, (value, allowed, fits) in others.items():
        if not fits:
            raise RecipeError(f"recipe `{source}`: `{key}` is {value}, allowed: {allowed}", hint=with_bits)


def _with_chip(recipe: Recipe, source: str) -> Recipe:
    """Fill in `[chip]` where noise is measured on it; anywhere else it would be read and ignored."""
    if recipe.noise.source == "chip":
        chip = recipe.chip or ChipSettings()
        _require_one_chip(recipe, chip, source)
        return _following(recipe, chip=chip)
    if recipe.chip is not None:
        raise RecipeError(
            f'recipe `{source}`: has a table `chip`, but `noise.source` is "{recipe.noise.source}"',
            hint='set noise.source = "chip", or leave out [chip]',
        )
    return recipe


def _tuned_for_chip(recipe: Recipe) -> Recipe:
    """Fine-tune for weights and replicas of the chip that noise was measured on, unless `[finetune]` says others."""
    if recipe.chip is None or recipe.finetune is None:
        return recipe
    of_chip = {key: getattr(recipe.chip, key) for key in ("weight_bits", "replicas")}
    if recipe.finetune.activation_bits is not None:
        of_chip.pop("replicas")  # graded neurons have none
    unsaid = {key: value for key, value in of_chip.items() if key not in recipe.finetune.model_fields_set}
    return recipe.model_copy(update={"finetune": _following(recipe.finetune, **unsaid)})


def _require_replicas(recipe: Recipe, source: str) -> Recipe:
    """Require one neuron for each activation where fine-tuning trains neurons that have no replicas."""
    finetune = recipe.finetune
    if finetune is None or finetune.replicas == 1:
        return recipe
    reason = None
    if recipe.activation.reset == "zero":
        reason = 'with activation.reset = "zero" every neuron starts at 0, replicas differ in where they start'
    elif finetune.activation_bits is not None:
        reason = "with finetune.activation_bits the network is trained for graded neurons, which need no replicas"
    if reason is None:
        return recipe
    raise RecipeError(f"recipe `{source}`: `finetune.replicas` is {finetune.replicas}, allowed: 1", hint=reason)


def _following(table: AnyTable, **values: Any) -> AnyTable:
    """Return a table with values that follow from other keys; they do not count as set in it."""
    filled = table.model_copy(update=values)
    filled.model_fields_set.intersection_update(table.model_fields_set)
    return filled


def _require_one_chip(recipe: Recipe, chip: ChipSettings, source: str) -> None:
    """Require the activation, the window and the replicas that neurons of the backend have."""
    if recipe.activation.reset == "zero" and chip.backend != "zero-reset":
        raise RecipeError(
            f'recipe `{source}`: `chip.backend` is "{chip.backend}", allowed: zero-reset',
            hint='with activation.reset = "zero" the network is trained for neurons that a spike sets to zero',
        )
    if chip.backend == "population" and recipe.noise.steps != 1:
        raise RecipeError(
            f"recipe `{source}`: `noise.steps` is {recipe.noise.steps}, allowed: 1, the window of population",
            hint="with chip.replicas = activation.levels, one step gives the quantised activation",
        )
    if chip.backend == "zero-reset" and chip.replicas > 1:
        raise RecipeError(
            f"recipe `{source}`: `chip.replicas` is {chip.replicas}, allowed: 1",
            hint="zero-reset starts every neuron at 0, replicas differ in where they start",
        )
