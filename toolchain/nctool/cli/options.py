"""Options that several commands take, each with its help text.

In: nothing. Out: types for typer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[Path, typer.Argument(help="Folder of a training run, or its checkpoint.", metavar="CHECKPOINT")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in the recipe.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write every epoch for TensorBoard too.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of data sets.", show_default="~/.cache/nctool/data")]
Model = Annotated[Path, typer.Argument(help="File that `nctool export` wrote, or other netx.", metavar="MODEL")]
Samples = Annotated[int | None, typer.Option(min=1, help="The first N samples.", metavar="N", show_default="all")]
Dataset = Annotated[
    str | None, typer.Option(help="Name, .npz path or folder of images.", show_default="what it was trained on")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Timeout = Annotated[float, typer.Option(min=1.0, help="Seconds that one run of the Lava subprocess may take.")]
Input = Annotated[Path | None, typer.Option(help="Samples of your own; foreign files need them.", metavar="X.npy")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Foreign file: time steps of a constant input.", show_default="the file's")
]
ResetInterval = Annotated[
    int | None, typer.Option(min=1, help="Foreign file: clear all states every so many time steps.")
]
NumLayers = Annotated[int | None, typer.Option(min=1, help="Foreign file: only its first layers.")]
SkipLayers = Annotated[int, typer.Option(min=0, help="Foreign file: leave out its first layers.")]
