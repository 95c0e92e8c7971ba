"""recipes, zoo, targets: list what is built in.

In: nothing, or a name. Out: lists of recipes, networks and targets, or one recipe in full.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nctool.commands.command import Command
from nctool.commands.options import recipe_names
from nctool.commands.tables import percent, print_line, print_rows, span
from nctool.recipe.overrides import add_older_keys
from nctool.signature import Option

if TYPE_CHECKING:
    from nctool.recipe.schema import Recipe
    from nctool_deploy.backends.number_formats import NumberFormat
    from nctool_deploy.targets.target import Limit, Target
    from nctool_models.zoo.networks import ZooNetwork

# --- recipes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecipeList:
    """Recipes; one alone, if it was asked for."""

    recipes: Sequence[Recipe]
    is_written_out: bool

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON types."""
        return {"recipes": [add_older_keys(recipe.model_dump(mode="json")) for recipe in self.recipes]}


def recipes(
    recipe: Annotated[
        Path | str | None,
        Option(
            "Write out this one, a name or a .toml path.",
            kind=str,
            metavar="RECIPE",
            is_positional=True,
            names=recipe_names,
        ),
    ] = None,
) -> RecipeList:
    """List the built-in recipes, or write one out as TOML with all its keys."""
    from nctool_models import list_recipes, load_recipe

    names = list_recipes() if recipe is None else [recipe]
    return RecipeList([load_recipe(name) for name in names], is_written_out=recipe is not None)


def print_recipes(report: RecipeList) -> None:
    """Show a row for each recipe, or the one that was asked for, as it is in a file."""
    if report.is_written_out:
        sys.stdout.write(report.recipes[0].to_toml())
        return
    rows = [[r.name, r.data.name, r.model.architecture, str(r.n_epochs), r.description] for r in report.recipes]
    print_rows("recipes", ["name", "data", "network", "epochs", "description"], rows)


# --- zoo --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ZooList:
    """The trained networks that come with nctool."""

    networks: Sequence[ZooNetwork]

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON types, each with its path."""
        return {"zoo": [{**network.to_json(), "path": str(network.path)} for network in self.networks]}


def zoo() -> ZooList:
    """List the trained networks that come with nctool; `zoo:NAME` stands for a file."""
    from nctool_models.zoo import networks

    return ZooList(networks.zoo())


def print_zoo(report: ZooList) -> None:
    """Show a row for each network."""
    rows = [
        [
            f"zoo:{each.name}",
            each.dataset,
            percent(each.accuracy[str(each.steps)]),
            str(each.steps),
            str(each.cores),
            each.description,
        ]
        for each in report.networks
    ]
    columns = ["network", "data", "accuracy", "T", "cores", "description"]
    print_rows("trained networks, and their accuracy on all test images", columns, rows)
    print_line("`nctool run-sim zoo:NAME` runs one; --json says how each was made")


STEP_TIME = "time of a step, at least"

# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetList:
    """What each target can hold, and the ranges of numbers that hold for all of them."""

    targets: Sequence[Target]
    aliases: dict[str, str]
    numbers: Sequence[NumberFormat]

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON types."""
        return {
            "targets": [target.model_dump(mode="json") for target in self.targets],
            "aliases": self.aliases,
            "numbers": [asdict(number) for number in self.numbers],
        }


def targets() -> TargetList:
    """List the chips and simulators that `nctool export --target` knows."""
    from nctool_deploy.backends.number_formats import NUMBER_FORMATS
    from nctool_deploy.targets.target import ALIASES, TARGETS

    return TargetList(TARGETS, ALIASES, NUMBER_FORMATS)


def print_targets(report: TargetList) -> None:
    """Show limits, features and figures, a column for each target, and below them the ranges of numbers."""
    from nctool_deploy.targets.target import Energy

    limits = [dict(target.limits) for target in report.targets]
    rows = [[name.replace("_", " "), *(_limit(of_target[name]) for of_target in limits)] for name in limits[0]]
    features = [dict(target.features) for target in report.targets]
    rows += [[name.replace("_", " "), *("yes" if f[name].value else "no" for f in features)] for name in features[0]]
    figures = [_figures(target) for target in report.targets]
    named = [*(_energy_of(name) for name in Energy.model_fields if name != "basis"), STEP_TIME]
    rows += [[name, *(of_target.get(name, "not known") for of_target in figures)] for name in named]
    print_rows("targets", ["", *(target.name for target in report.targets)], rows)
    for target in report.targets:
        print_line(f"{target.name}: {target.description}")
    print_line("")
    print_rows("numbers, for every target", ["", "range"], [[n.name, span((n.low, n.high))] for n in report.numbers])
    print_line("the sources are in `nctool targets --json`")


def _limit(limit: Limit | None) -> str:
    return "no limit" if limit is None else f"{limit.value:,}"


def _figures(target: Target) -> dict[str, str]:
    """Return the energies and the times that a target states, with their units."""
    energy, step = target.energy, target.step_time
    energies = {} if energy is None else {name: figure.pj for name, figure in energy if name != "basis" and figure}
    shown = {_energy_of(name): f"{pj:g} pJ" for name, pj in energies.items()}
    return shown if step is None else {**shown, STEP_TIME: f"{step.low_ns:g}..{step.high_ns:g} ns"}


def _energy_of(name: str) -> str:
    return f"energy: {name.replace('_', ' ')}"


RECIPES = Command(recipes, print_recipes)
ZOO = Command(zoo, print_zoo)
TARGETS = Command(targets, print_targets)
