"""The commands that make something: train, finetune, export, explore.

Contract: names of commands and options, JSON keys and exit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nctool.cli import output
from nctool.cli.application import app, shown_progress
from nctool.cli.epochs import shown_epochs
from nctool.cli.exploration import print_explore
from nctool.cli.lists import parse_numbers, parse_units
from nctool.cli.options import (
    Checkpoint,
    DataDir,
    Dataset,
    Device,
    Json,
    Overrides,
    Overwrite,
    Resume,
    Samples,
    TensorBoard,
)
from nctool.cli.tables import print_whole
from nctool.ir.number_format import LONGEST_WINDOW


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name from `nctool recipes`, or a .toml path.", metavar="RECIPE")],
    out: Annotated[Path | None, typer.Option("-o", "--output", help="Folder.", show_default="runs/NAME")] = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's seed.")] = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Train a network with noisy quantised activations."""
    from nctool.api import train as run
    from nctool.recipe.overrides import parse_overrides

    with shown_epochs("training", json) as (progress, on_epoch):
        report = run(
            recipe,
            out,
            overrides=parse_overrides(overrides or ()),
            seed=seed,
            device=device,
            data_dir=data_dir,
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard,
            progress=progress,
            on_epoch=on_epoch,
        )
    output.print_json(report.to_json()) if json else output.print_train(report)


@app.command()
def finetune(
    checkpoint: Checkpoint,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="runs/NAME-finetuned")
    ] = None,
    overrides: Overrides = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    json: Json = False,
) -> None:
    """Train a checkpoint on as the spiking network itself, with rounded weights."""
    from nctool.api import finetune as run
    from nctool.recipe.overrides import parse_overrides

    with shown_epochs("fine-tuning", json) as (progress, on_epoch):
        report = run(
            checkpoint,
            out,
            overrides=parse_overrides(overrides or ()),
            device=device,
            data_dir=data_dir,
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard,
            progress=progress,
            on_epoch=on_epoch,
        )
    output.print_json(report.to_json()) if json else output.print_train(report)


@app.command()
def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("-o", "--output", help="File to write.", metavar="MODEL.net")],
    target: Annotated[str, typer.Option(help="Name from `nctool targets`, or a .toml path.")] = "loihi",
    steps: Annotated[
        int | None,
        typer.Option(help=f"Time steps T of the window, 1..{LONGEST_WINDOW}.", show_default="that of the training"),
    ] = None,
    realisation: Annotated[
        str | None, typer.Option(help="autapse, or in stock netx population or zero-reset.", show_default="as trained")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            help="Neurons an activation: K, LAYER=K,... or auto.", show_default="as trained; population: its levels"
        ),
    ] = None,
    weight_bits: Annotated[int | None, typer.Option(help="2..8.", show_default="as trained, else 8")] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="One threshold a layer, not one a channel.")] = False,
    input: Annotated[  # noqa: A002  # contract
        str | None, typer.Option(help="graded: signed 8 bits; rate: binary spikes.", show_default="the recipe's")
    ] = None,
    chips: Annotated[int, typer.Option(help="Chips that the network may take.")] = 1,
    max_neurons: Annotated[int | None, typer.Option(help="Budget of --units auto.")] = None,
    max_cores: Annotated[int | None, typer.Option(help="Budget of --units auto.")] = None,
    json: Json = False,
) -> None:
    """Convert a trained network to integers and write it as netx HDF5."""
    from nctool.api import export as run

    with shown_progress("exporting", json) as progress:
        report = run(
            checkpoint,
            out,
            target=target,
            steps=steps,
            realisation=realisation,
            units=parse_units(units),
            weight_bits=weight_bits,
            per_layer=per_layer,
            input=input,
            chips=chips,
            max_neurons=max_neurons,
            max_cores=max_cores,
            progress=progress,
        )
    output.print_json(report.to_json()) if json else output.print_export(report)


@app.command()
def explore(
    checkpoint: Checkpoint,
    realisations: Annotated[str, typer.Option(help="Comma-separated.")] = "autapse,population,zero-reset",
    steps: Annotated[
        str | None, typer.Option(help="Windows T, comma-separated.", show_default="1,2,4,8; zero-reset 4,8")
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="Units K of autapse, comma-separated.", show_default="1,2,4")
    ] = None,
    weight_bits: Annotated[str, typer.Option(help="2..8 each, comma-separated.")] = "8,4",
    input: Annotated[  # noqa: A002  # contract
        str | None, typer.Option(help="graded: signed 8 bits; rate: binary spikes.", show_default="the recipe's")
    ] = None,
    target: Annotated[str, typer.Option(help="Name from `nctool targets`, or a .toml path.")] = "loihi",
    chips: Annotated[int, typer.Option(help="Chips that the network may take.")] = 1,
    dataset: Dataset = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    samples: Samples = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Draw the trade-offs.", metavar="FILE.png|svg|pdf")] = None,
    json: Json = False,
) -> None:
    """Try many ways to export a checkpoint: what each gives, and what it costs."""
    from nctool.api import explore as run

    with shown_progress("exploring", json) as progress:
        report = run(
            checkpoint,
            realisations=realisations,
            steps=parse_numbers(steps, "steps"),
            units=parse_numbers(units, "units"),
            weight_bits=parse_numbers(weight_bits, "weight bits") or (),
            input=input,
            target=target,
            chips=chips,
            dataset=dataset,
            split=split,
            samples=samples,
            data_dir=data_dir,
            device=device,
            plot=plot,
            progress=progress,
        )
    output.print_json(report.to_json()) if json else print_explore(report)
    if plot is not None and not json:
        print_whole(f"wrote {plot}")
