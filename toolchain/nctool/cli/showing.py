"""The commands that show what there is: inspect, history, recipes, targets.

Contract: names of commands and options, JSON keys and exit codes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nctool.cli import output
from nctool.cli.application import app
from nctool.cli.epochs import print_history
from nctool.cli.options import Json, Model
from nctool.cli.tables import print_rows, print_whole


@app.command()
def inspect(model: Model, json: Json = False) -> None:
    """Show the layers, ranges, head-room and provenance of an exported file."""
    from nctool.api import inspect as run

    report = run(model)
    output.print_json(report.to_json()) if json else output.print_inspect(report)


@app.command()
def history(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.", metavar="RUN")],
    plot: Annotated[
        Path | None, typer.Option(help="Draw loss, accuracies, θ and σ.", metavar="FILE.png|svg|pdf")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a training run measured, epoch by epoch."""
    from nctool.api import history as read

    report = read(run, plot=plot)
    output.print_json(report.to_json()) if json else print_history(report)
    if plot is not None and not json:
        print_whole(f"wrote {plot}")


@app.command()
def recipes(
    recipe: Annotated[
        str | None, typer.Argument(help="Write out this one, a name or a .toml path.", metavar="RECIPE")
    ] = None,
    json: Json = False,
) -> None:
    """List the built-in recipes, or write one out as TOML with all its keys."""
    from nctool_models import list_recipes, load_recipe

    loaded = [load_recipe(name) for name in (list_recipes() if recipe is None else [recipe])]
    if json:
        output.print_json({"recipes": [each.model_dump(mode="json") for each in loaded]})
        return
    if recipe is not None:
        typer.echo(loaded[0].to_toml(), nl=False)
        return
    rows = [[r.name, r.data.name, r.model.architecture, str(r.n_epochs), r.description] for r in loaded]
    print_rows("recipes", ["name", "data", "network", "epochs", "description"], rows)


@app.command()
def targets(json: Json = False) -> None:
    """List the chips and simulators that `nctool export --target` knows."""
    from nctool_deploy.backends.number_formats import NUMBER_FORMATS
    from nctool_deploy.targets.target import ALIASES, TARGETS

    if json:
        numbers = [asdict(number) for number in NUMBER_FORMATS]
        listed = [target.model_dump(mode="json") for target in TARGETS]
        output.print_json({"targets": listed, "aliases": ALIASES, "numbers": numbers})
        return
    output.print_targets(TARGETS, NUMBER_FORMATS)
