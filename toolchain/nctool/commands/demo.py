"""demo: the first minute, as the commands that a user would type; they are said, and what they show is shown.

In: a folder. Out: a trained, exported and verified network in it, and a DemoReport.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Annotated

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.tables import print_line, print_rows
from nctool.errors import EngineError, UsageError
from nctool.reports import Report
from nctool.signature import Option
from nctool.spelling import command_line

RECIPE = "digits-cnn"
FOLDER = Path("nctool-demo")
MODEL = "model.net"
SAMPLES = "100"
"""That Lava runs: it takes some seconds for them."""


@dataclass(frozen=True)
class DemoCommand(Report):
    """A command that ran, as it would be typed, and how long it took."""

    command: str
    seconds: float
    exit_code: int


@dataclass(frozen=True)
class DemoReport(Report):
    """What the demo did.

    Args:
        path: its folder, a training run.
        model: the exported network in it.
        equal: whether the engines agree, bit for bit.
        commands: what ran, in order.
        engines: that were compared.
        left_out: engines that do not run here, each with the reason and the way out.
    """

    path: Path
    model: Path
    equal: bool
    commands: tuple[DemoCommand, ...]
    engines: tuple[str, ...]
    left_out: dict[str, str]


@public
def demo(
    output: Annotated[Path | str, Option("Folder.", flags=("-o", "--output"))] = FOLDER,
) -> DemoReport:
    """Train a small network, export it, run it and verify it; every command is shown.

    It takes about a minute and needs no network: the handwritten digits come with nctool. Without Lava the engines are
    the reference and the fast one. The commands, and what they show, are on stderr.

    Args:
        output: the folder; that of an earlier demo is used anew, one that holds anything else is refused.

    Raises:
        UsageError: the folder holds something else, or cannot be written.
        NctoolError: as the commands.
    """
    folder = Path(output)
    begin = _begin(folder)
    left_out = _left_out()
    engines = tuple(name for name in ("reference", "fast", "lava") if name not in left_out)
    done: list[DemoCommand] = []
    for words in _commands(folder, begin, engines):
        done.append(_run(words))
        if done[-1].exit_code:
            break
    equal = done[-1].exit_code == 0
    return DemoReport(folder, folder / MODEL, equal, tuple(done), engines, left_out)


def _commands(folder: Path, begin: Sequence[str], engines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the commands, each as its words behind `nctool`."""
    model = str(folder / MODEL)
    yield ["train", RECIPE, "-o", str(folder), *begin]
    yield ["export", str(folder), "--target", "loihi", "--steps", "4", "-o", model]
    yield ["inspect", model]
    for engine in engines:
        fewer = ["--samples", SAMPLES] if engine == "lava" else []
        yield ["run-sim", model, "--engine", engine, *fewer]
    yield ["verify", model, "--engines", ",".join(engines), "--samples", SAMPLES]


def _begin(folder: Path) -> list[str]:
    """Return how the training begins in a folder: anew, or where an earlier demo was interrupted."""
    from nctool.training.checkpoints.names import CHECKPOINT_NAME, RECIPE_NAME, STATE_NAME
    from nctool_models import load_recipe

    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    if (folder / CHECKPOINT_NAME).exists():
        # The same recipe gives the same network, so that nothing is lost.
        if (folder / RECIPE_NAME).exists() and load_recipe(folder / RECIPE_NAME) == load_recipe(RECIPE):
            return ["--overwrite"]
    elif (folder / STATE_NAME).exists():
        return ["--resume"]  # which refuses a run of another recipe
    raise UsageError(f"`{folder}` is there, and holds something else than a demo", hint="give another folder with -o")


def _left_out() -> dict[str, str]:
    """Return the engine that does not run here, with the reason and the way out."""
    from nctool_deploy.lava.compatibility import require_lava

    try:
        require_lava()
    except EngineError as error:
        return {"lava": f"{error.message}; {error.hint}"}
    return {}


def _run(words: list[str]) -> DemoCommand:
    """Say a command and run it."""
    from nctool.commands.application import run_app

    command, start = join(["nctool", *words]), time.perf_counter()
    sys.stderr.write(f"\n$ {command}\n")
    with redirect_stdout(sys.stderr), command_line():
        code = run_app(words)
    return DemoCommand(command, time.perf_counter() - start, code)


# --- for people -------------------------------------------------------------------------------------------------------


def print_demo(report: DemoReport) -> None:
    """Show what ran, what was left out, and where to go on."""
    rows = [[f"{each.seconds:.1f}", each.command] for each in report.commands]
    print_rows("the commands of the demo", ["seconds", "what"], rows)
    for engine, reason in report.left_out.items():
        print_line(f"left out: {engine}. {reason}")
    verdict = f"EQUAL, bit for bit: {' = '.join(report.engines)}" if report.equal else "DIFFERENT: see above"
    print_line(f"{verdict}; the network is {report.model}")
    print_line("next: a network that comes trained, on an image of yours: nctool run-sim zoo:mnist-lenet --input 7.png")


def _exit_code(report: DemoReport) -> int:
    return 0 if report.equal else report.commands[-1].exit_code


COMMAND = Command(demo, print_demo, exit_code=_exit_code)
