"""The commands of `nctool`: options in, a report out, errors as one or two lines and an exit code.

Contract: names of commands and options, JSON keys and exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from nctool.cli import output
from nctool.cli.costs import print_run
from nctool.cli.exploration import print_explore
from nctool.cli.lists import parse_names, parse_numbers
from nctool.cli.options import (
    DataDir,
    Dataset,
    Device,
    Input,
    Json,
    Model,
    NumLayers,
    ResetInterval,
    Samples,
    SkipLayers,
    Steps,
    Timeout,
)
from nctool.cli.units import parse_units
from nctool.cli.verification import print_verify
from nctool.errors import NctoolError
from nctool.progress import ProgressCallback, no_progress, progress_bar
from nctool_deploy.engine import DEFAULT_TIMEOUT_S

EXIT_DIFFERENT = 1
EXIT_INTERRUPTED = 130
EXIT_BUG = 70
DEBUG = "NCTOOL_DEBUG"

app = typer.Typer(
    name="nctool",
    help="Take a vision network to a spiking chip, and prove bit for bit what runs there.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line and end the process with the exit code that `nctool.errors` gives each error."""
    try:
        code = app(standalone_mode=False)
    except NctoolError as error:
        output.print_error(error.message, error.hint)
        sys.exit(error.exit_code)
    except TyperException as error:
        output.print_error(_lower_first(error.format_message()), "see `nctool --help`, or `nctool COMMAND --help`")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        output.print_error("interrupted", None)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # the last line of defence: a user sees no traceback
        if os.environ.get(DEBUG):
            raise
        output.print_error(
            f"internal error: {type(error).__name__}: {error}",
            f"this is a bug in nctool; run again with {DEBUG}=1 for a traceback and report it",
        )
        sys.exit(EXIT_BUG)
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name from `nctool recipes`, or a .toml path.", metavar="RECIPE")],
    out: Annotated[Path | None, typer.Option("-o", "--output", help="Folder.", show_default="runs/NAME")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in the recipe.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's seed.")] = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    json: Json = False,
) -> None:
    """Train a network with noisy quantised activations."""
    from nctool.api import train as run

    with _progress("training", json) as progress:
        report = run(
            recipe,
            out,
            overrides=overrides or (),
            seed=seed,
            device=device,
            data_dir=data_dir,
            resume=resume,
            progress=progress,
        )
    output.print_json(report.to_json()) if json else output.print_train(report)


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder of a training run, or its checkpoint.", metavar="CHECKPOINT")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="File to write.", metavar="MODEL.net")],
    target: Annotated[str, typer.Option(help="Name from `nctool targets`, or a .toml path.")] = "loihi",
    steps: Annotated[int | None, typer.Option(help="Time steps.", show_default="the recipe's")] = None,
    realisation: Annotated[
        str | None, typer.Option(help="autapse, or in stock netx population or zero-reset.", show_default="as trained")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            help="Neurons for each activation: K, or LAYER=K,...", show_default="population: its levels; else 1"
        ),
    ] = None,
    weight_bits: Annotated[int, typer.Option(help="2..8.")] = 8,
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

    with _progress("choosing units", json or units != "auto") as progress:
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
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder of a training run, or its checkpoint.", metavar="CHECKPOINT")
    ],
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
    plot: Annotated[Path | None, typer.Option(help="Draw the trade-offs.", metavar="FILE.png|svg")] = None,
    json: Json = False,
) -> None:
    """Try many ways to export a checkpoint: what each gives, and what it costs."""
    from nctool.api import explore as run

    with _progress("exploring", json) as progress:
        report = run(
            checkpoint,
            realisations=parse_names(realisations),
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


@app.command("run-sim")
def run_sim(
    model: Model,
    engine: Annotated[str, typer.Option(help="fast, reference or lava.")] = "fast",
    dataset: Dataset = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    samples: Samples = None,
    data_dir: DataDir = None,
    input: Input = None,  # noqa: A002  # contract
    labels: Annotated[Path | None, typer.Option(help="Class numbers for --input.", metavar="Y.npy")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write every spike and all logits.", metavar="OUT.npz")
    ] = None,
    steps: Steps = None,
    reset_interval: ResetInterval = None,
    num_layers: NumLayers = None,
    skip_layers: SkipLayers = 0,
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the samples.")] = 1,
    cost: Annotated[bool, typer.Option("--cost", help="Count operations, updates and spikes on the chip.")] = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    json: Json = False,
) -> None:
    """Run an exported network, or a netx file of another tool, on data."""
    from nctool.api import ForeignOptions
    from nctool.api import run_sim as run

    with _progress(f"engine {engine}", json) as progress:
        report = run(
            model,
            engine=engine,
            dataset=dataset,
            split=split,
            samples=samples,
            data_dir=data_dir,
            input=input,
            labels=labels,
            output=out,
            options=ForeignOptions(steps, reset_interval, num_layers, skip_layers),
            device=device,
            workers=workers,
            cost=cost,
            timeout_s=timeout,
            progress=progress,
        )
    if _is_first_rank():
        output.print_json(report.to_json()) if json else print_run(report)


@app.command()
def verify(
    model: Model,
    engines: Annotated[str, typer.Option(help="Comma-separated; the first is the standard.")] = "reference,fast,lava",
    samples: Samples = None,
    dataset: Dataset = None,
    data_dir: DataDir = None,
    input: Input = None,  # noqa: A002  # contract
    steps: Steps = None,
    reset_interval: ResetInterval = None,
    num_layers: NumLayers = None,
    skip_layers: SkipLayers = 0,
    all_differences: Annotated[
        bool, typer.Option("--all-differences", help="Compare all samples even after a difference.")
    ] = False,
    layers: Annotated[Path | None, typer.Option(help="Write the traces of every engine.", metavar="TRACES.npz")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write every check as JUnit XML.", metavar="REPORT.xml")] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    json: Json = False,
) -> None:
    """Prove that engines agree bit for bit; exit 1 when they do not."""
    from nctool.api import ForeignOptions
    from nctool.api import verify as run

    names = [name.strip() for name in engines.split(",") if name.strip()]
    with _progress("verifying", json) as progress:
        report = run(
            model,
            engines=names,
            samples=samples,
            dataset=dataset,
            data_dir=data_dir,
            input=input,
            options=ForeignOptions(steps, reset_interval, num_layers, skip_layers),
            all_differences=all_differences,
            layers=layers,
            junit=junit,
            timeout_s=timeout,
            progress=progress,
        )
    output.print_json(report.to_json()) if json else print_verify(report)
    if not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)


@app.command()
def inspect(model: Model, json: Json = False) -> None:
    """Show the layers, ranges, head-room and provenance of an exported file."""
    from nctool.api import inspect as run

    report = run(model)
    output.print_json(report.to_json()) if json else output.print_inspect(report)


@app.command()
def recipes(json: Json = False) -> None:
    """List the built-in recipes."""
    from nctool_models import list_recipes, load_recipe

    loaded = [load_recipe(name) for name in list_recipes()]
    if json:
        output.print_json({"recipes": [recipe.model_dump(mode="json") for recipe in loaded]})
        return
    rows = [[r.name, r.data.name, r.model.architecture, r.description] for r in loaded]
    output.print_rows("recipes", ["name", "data", "network", "description"], rows)


@app.command()
def targets(json: Json = False) -> None:
    """List the chips and simulators that `nctool export --target` knows."""
    from nctool_deploy.number_formats import NUMBER_FORMATS
    from nctool_deploy.targets import ALIASES, TARGETS

    if json:
        numbers = [asdict(number) for number in NUMBER_FORMATS]
        listed = [target.model_dump(mode="json") for target in TARGETS]
        output.print_json({"targets": listed, "aliases": ALIASES, "numbers": numbers})
        return
    output.print_targets(TARGETS, NUMBER_FORMATS)


@contextmanager
def _progress(title: str, json: bool) -> Iterator[ProgressCallback]:
    if json or not _is_first_rank():
        yield no_progress
        return
    with progress_bar(title) as report:
        yield report


def _is_first_rank() -> bool:
    """Return True except in a process that torchrun started beside the first."""
    return os.environ.get("RANK", "0") == "0"


def _lower_first(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")
