"""The commands that run a model: run-sim, verify.

Contract: names of commands and options, JSON keys and exit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nctool.cli import output
from nctool.cli.application import app, is_first_rank, shown_progress
from nctool.cli.costs import print_run
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
from nctool.cli.tables import print_whole
from nctool.cli.verification import print_verify
from nctool_deploy.lava.engine import DEFAULT_TIMEOUT_S

EXIT_DIFFERENT = 1


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

    with shown_progress(f"engine {engine}", json) as progress:
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
    if is_first_rank():
        output.print_json(report.to_json()) if json else print_run(report)
        if out is not None and not json:
            print_whole(f"wrote {out}")


@app.command()
def verify(
    model: Model,
    engines: Annotated[str, typer.Option(help="Comma-separated; the first is the standard.")] = "reference,fast,lava",
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="The first N samples of the data set.", metavar="N", show_default="the file's known answers"
        ),
    ] = None,
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

    with shown_progress("verifying", json) as progress:
        report = run(
            model,
            engines=engines,
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
    for written in (layers, junit):
        if written is not None and not json:
            print_whole(f"wrote {written}")
    if not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)
