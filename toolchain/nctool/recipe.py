"""The recipe of an experiment: a checked, frozen value that reads and writes as TOML.

In: TOML text or a file, overrides `table.key=value`, a seed. Out: `Recipe`, or a RecipeError that names
the key, the value got and what is allowed. Imports of nctool only errors, the range of weight bits and the TOML
helpers; where the built-in recipes lie is known to `nctool_models.zoo` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nctool.errors import RecipeError
from nctool.integer_format import WEIGHT_BITS_RANGE
from nctool.toml_schema import DocumentKind, parse_document, read_document, validate_document
from nctool.toml_text import literal, parse_value

_KIND = DocumentKind("recipe", RecipeError, "`nctool recipes` lists the built-in recipes")


def _whole(low: int, high: int, default: Any = ...) -> Any:
    return Field(default, ge=low, le=high, description=f"a whole number {low}..{high}")


def _positive(default: Any = ...) -> Any:
    return Field(default, gt=0.0, description="a number above 0")


def _fraction(default: Any = ...) -> Any:
    return Field(default, ge=0.0, lt=1.0, description="a number from 0 to below 1")


_Width = Annotated[int, Field(ge=1, le=16384)]
_WIDTHS = "a list of whole numbers 1..16384"


class _Table(BaseModel):
    """A table of the recipe: frozen, no unknown keys, no coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(_Table):
    """`[data]`: which images, and how many of the training images are held out.

    Attributes:
        name: a built-in data set or the path of an .npz file.
        validation_fraction: part of the training images held out for model selection and noise.
    """

    name: str = Field(min_length=1, description="the name of a data set or the path of an .npz file")
    validation_fraction: float = Field(default=0.1, ge=0.01, le=0.5, description="a number 0.01..0.5")


class MlpSettings(_Table):
    """`[model] architecture = "mlp"`: flatten, then dense layers of the widths `hidden`."""

    architecture: Literal["mlp"]
    hidden: tuple[_Width, ...] = Field(min_length=1, max_length=16, description=_WIDTHS)
    batch_norm: bool = Field(default=True, description="true or false")
    dropout: float = _fraction(0.0)


class CnnSettings(_Table):
    """`[model] architecture = "cnn"`: two convolutions of one kernel size, pooling, one hidden dense layer."""

    architecture: Literal["cnn"]
    channels: tuple[_Width, _Width] = Field(default=(16, 32), description=f"{_WIDTHS}, two of them")
    kernel: Literal[1, 3, 5, 7] = Field(default=3, description="1, 3, 5 or 7")
    hidden: int = _whole(1, 16384, 64)


class LenetSettings(_Table):
    """`[model] architecture = "lenet"`: two 5x5 convolutions, each pooled, then dense layers."""

    architecture: Literal["lenet"]
    channels: tuple[_Width, _Width] = Field(default=(6, 16), description=f"{_WIDTHS}, two of them")
    hidden: tuple[_Width, ...] = Field(default=(120, 84), min_length=1, max_length=16, description=_WIDTHS)


class SmallVggSettings(_Table):
    """`[model] architecture = "small-vgg"`: three stages of two 3x3 convolutions, each pooled, one dense layer."""

    architecture: Literal["small-vgg"]
    channels: tuple[_Width, _Width, _Width] = Field(default=(32, 64, 128), description=f"{_WIDTHS}, three of them")
    dropout: float = _fraction(0.0)


class VggSettings(_Table):
    """`[model] architecture = "vgg"`: five pooled stages of 3x3 convolutions, dense layers of the widths `hidden`."""

    architecture: Literal["vgg"]
    depth: Literal[11, 16] = Field(description="11 or 16")
    hidden: tuple[_Width, ...] = Field(default=(), max_length=16, description=_WIDTHS)
    dropout: float = _fraction(0.0)


class ResnetSettings(_Table):
    """`[model] architecture = "resnet"`: a 3x3 stem, residual blocks in stages, global average pooling."""

    architecture: Literal["resnet"]
    depth: Literal[8, 18, 20, 34] = Field(description="8, 18, 20 or 34")


class OwnSettings(_Table):
    """`[model] architecture = "own"`: a network that is given from Python, `nctool.train(recipe, model=...)`."""

    architecture: Literal["own"]


ModelSettings = Annotated[
    MlpSettings | CnnSettings | LenetSettings | SmallVggSettings | VggSettings | ResnetSettings | OwnSettings,
    Field(discriminator="architecture"),
]
"""`[model]`: one variant for each architecture, chosen by `architecture`."""


class ActivationSettings(_Table):
    """`[activation]`: `levels` is L; `threshold_init` the first value of every θ, in units of the pre-activation.

    `reset`: what a spike does to the membrane potential of the spiking network. With `zero`, the activation is the
    staircase of that neuron over `levels` time steps, for chips whose neurons cannot subtract.
    """

    levels: int = _whole(1, 64, 4)
    threshold_init: float = _positive(8.0)
    reset: Literal["subtract", "zero"] = Field(default="subtract", description="subtract, zero")


class InputSettings(_Table):
    """`[input]`: how pixels reach the network.

    `graded`: each at its value, at every step. `rate`: as the spike train of `noise.steps` time steps that an
    integrate-and-fire encoder makes of it, for chips whose spikes carry one bit.
    """

    coding: Literal["graded", "rate"] = Field(default="graded", description="graded, rate")


class NoiseSettings(_Table):
    """`[noise]`: where σ comes from, and `steps`, the window T_val of the spiking network that it is measured on.

    `ideal`: the gap between the ANN and its float spiking network, re-estimated after each epoch. `none`: σ stays 0.
    `chip`: the gap between the ANN and the integer network that `[chip]` describes, converted anew after each epoch.
    """

    source: Literal["ideal", "none", "chip"] = Field(default="ideal", description="ideal, none, chip")
    steps: int = _whole(1, 64, 4)


class ChipSettings(_Table):
    """`[chip]`: the integer network that noise of source `chip` is measured on, and that `export` makes by default.

    Its window is `noise.steps`, its input that of `[input]`.

    Attributes:
        realisation: how neurons are built.
        units: neurons for each activation.
        weight_bits: signed width of a weight.
    """

    realisation: Literal["autapse", "zero-reset", "population"] = Field(
        default="autapse", description="autapse, zero-reset, population"
    )
    units: int = _whole(1, 64, 1)
    weight_bits: int = _whole(*WEIGHT_BITS_RANGE, default=8)


class TrainingSettings(_Table):
    """`[training]`: SGD with momentum, a cosine from `learning_rate` to 0, and random changes of the images.

    Attributes:
        crop_padding: pixels of black border from which an image-sized window is cut at random; 0 is off.
        horizontal_flip: mirror half of the images.
        cutout: side in pixels of a black square at a random place; 0 is off.
    """

    epochs: int = _whole(1, 10000)
    batch_size: int = _whole(2, 65536, 128)
    learning_rate: float = _positive(0.05)
    momentum: float = _fraction(0.9)
    weight_decay: float = _fraction(5e-4)
    schedule: Literal["cosine"] = Field(default="cosine", description="cosine")
    crop_padding: int = _whole(0, 64, 0)
    horizontal_flip: bool = Field(default=False, description="true or false")
    cutout: int = _whole(0, 256, 0)


class Recipe(_Table):
    """One experiment, complete: with the data it determines the trained network on the CPU.

    Attributes:
        name: lower-case letters, digits, `-`, `_` and `.`.
        description: one line for `nctool recipes`.
        seed: starts every random stream, 0..2^32 − 1.
        chip: set where `noise.source` is `chip`, and only there.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="lower-case letters, digits and `-_.`")
    description: str = Field(default="", description="a text")
    seed: int = _whole(0, 2**32 - 1, 1)
    data: DataSettings
    input: InputSettings = InputSettings()
    model: ModelSettings
    activation: ActivationSettings = ActivationSettings()
    noise: NoiseSettings = NoiseSettings()
    chip: ChipSettings | None = None
    training: TrainingSettings

    def to_toml(self) -> str:
        """Write the resolved recipe as TOML that `parse_recipe` reads back to an equal value."""
        content = self.model_dump(exclude_none=True)
        tables = {key: value for key, value in content.items() if isinstance(value, dict)}
        lines = [f"{key} = {literal(value)}" for key, value in content.items() if key not in tables]
        for table, values in tables.items():
            lines += ["", f"[{table}]", *(f"{key} = {literal(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"


def read_recipe(
    path: Path, overrides: Sequence[str] = (), seed: int | None = None, *, source: str | None = None
) -> Recipe:
    """Read a recipe file.

    Args:
        path: a UTF-8 TOML file.
        overrides: `table.key=value` or `key=value`, applied in order; a value is a TOML literal, else plain text.
        seed: replaces the recipe's seed, after the overrides.
        source: what messages call the recipe; its path when None.

    Raises:
        RecipeError: the file is missing or not TOML, an override has no `=`, or the recipe is not allowed.
    """
    text = read_document(path, _KIND)
    return parse_recipe(text, overrides, seed, source=source or str(path))


def parse_recipe(
    text: str, overrides: Sequence[str] = (), seed: int | None = None, *, source: str = "recipe"
) -> Recipe:
    """Check TOML text and make a `Recipe` of it.

    Args:
        text: the TOML document.
        overrides: as for `read_recipe`.
        seed: as for `read_recipe`.
        source: where the text came from, for messages.

    Raises:
        RecipeError: the text is not TOML, an override has no `=`, or a key or value is not allowed.
    """
    content = parse_document(text, _KIND, source)
    for override in overrides:
        _apply_override(content, override)
    if seed is not None:
        content["seed"] = seed
    recipe = validate_document(content, Recipe, _KIND, source)
    _require_one_window(recipe, source)
    return _with_chip(recipe, source)


def _require_one_window(recipe: Recipe, source: str) -> None:
    """A staircase is that of one window: noise measured on another would not be its error."""
    levels, steps = recipe.activation.levels, recipe.noise.steps
    if recipe.activation.reset == "zero" and steps != levels:
        raise RecipeError(
            f"recipe `{source}`: `noise.steps` is {steps}, allowed: {levels}, as `activation.levels`",
            hint='with activation.reset = "zero" the levels are the time steps of the window',
        )


def _with_chip(recipe: Recipe, source: str) -> Recipe:
    """Fill in `[chip]` where noise is measured on it; anywhere else it would be read and ignored."""
    if recipe.noise.source == "chip":
        chip = recipe.chip or ChipSettings()
        _require_one_chip(recipe, chip, source)
        return recipe.model_copy(update={"chip": chip})
    if recipe.chip is not None:
        raise RecipeError(
            f'recipe `{source}`: has a table `chip`, but `noise.source` is "{recipe.noise.source}"',
            hint='set noise.source = "chip", or leave out [chip]',
        )
    return recipe


def _require_one_chip(recipe: Recipe, chip: ChipSettings, source: str) -> None:
    """Activation, window and units must be those that neurons of the realisation have."""
    if recipe.activation.reset == "zero" and chip.realisation != "zero-reset":
        raise RecipeError(
            f'recipe `{source}`: `chip.realisation` is "{chip.realisation}", allowed: zero-reset',
            hint='with activation.reset = "zero" the network is trained for neurons that a spike sets to zero',
        )
    if chip.realisation == "population" and recipe.noise.steps != 1:
        raise RecipeError(
            f"recipe `{source}`: `noise.steps` is {recipe.noise.steps}, allowed: 1, the window of population",
            hint="with chip.units = activation.levels, one step gives the quantised activation",
        )
    if chip.realisation == "zero-reset" and chip.units > 1:
        raise RecipeError(
            f"recipe `{source}`: `chip.units` is {chip.units}, allowed: 1",
            hint="zero-reset starts every neuron at 0, units differ in where they start",
        )


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise RecipeError(f"--set got `{override}`, allowed: KEY=VALUE", hint="for instance --set training.epochs=3")
    table = content
    for depth, part in enumerate(parts[:-1], start=1):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            whole = ".".join(parts[:depth])
            raise RecipeError(f"--set got `{override}`, but `{whole}` is no table")
        table = inner
    table[parts[-1]] = parse_value(text.strip())
