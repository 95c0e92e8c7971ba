"""The application that the commands belong to: errors as one or two lines and an exit code, progress on stderr.

In: nothing. Out: `app`, and the parts that commands share.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version as distribution_version
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

from nctool.cli import output
from nctool.cli.streams import held_stdout, lossy_stderr
from nctool.errors import SIGNALS, Interrupted, NctoolError, UsageError, first_line, is_out_of_memory
from nctool.progress import ProgressCallback, no_progress, progress_bar
from nctool.torchrun import rank_and_size

EXIT_BUG = 70
EXIT_SHORTAGE = 71
"""EX_OSERR. Source: sysexits.h"""
SHORTAGES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the system says where memory, processes or open files are used up."""
SHORTAGE_HINT = "ask for less at once, or end other programs: memory, processes or open files are used up"
DEBUG = "NCTOOL_DEBUG"

app = typer.Typer(
    name="nctool",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nctool {distribution_version('nctool')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take a vision network to a spiking chip, and prove bit for bit what runs there."""


def main() -> None:
    """Run the command line and end the process with the exit code that `nctool.errors` gives each error."""
    with lossy_stderr():
        code = _exit_code()
    sys.exit(code)


def _exit_code() -> int:
    try:
        with ended_by_signals(), held_stdout():
            return _run_command()
    except NctoolError as error:
        output.print_error(error.message, error.hint)
        return error.exit_code
    except TyperException as error:
        output.print_error(_lower_first(error.format_message()), "see `nctool --help`, or `nctool COMMAND --help`")
        return UsageError.exit_code
    except Interrupted as stop:
        output.print_error(stop.message, stop.hint)
        return stop.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user sees no traceback
        if os.environ.get(DEBUG):
            traceback.print_exc()
        if _is_shortage(error):
            output.print_error(f"the machine lacks room for this: {first_line(error)}", SHORTAGE_HINT)
            return EXIT_SHORTAGE
        output.print_error(
            f"internal error: {type(error).__name__}: {error}",
            f"this is a bug in nctool; run again with {DEBUG}=1 for a traceback and report it",
        )
        return EXIT_BUG


def _is_shortage(error: Exception) -> bool:
    """Return True where the machine has no more of something, which is no bug."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in SHORTAGES)


def _run_command() -> int:
    """Run the command that the command line names; typer's own `main` would give errors of the system exit code 1."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("nctool", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal end the block as an error would, so that what is half done is taken back.

    Raises:
        Interrupted: a signal came. From then on those that end the block are ignored until it has ended.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if before[number] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in handled:
        signal.signal(number, partial(_stop, handled))
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _stop(handled: Sequence[int], number: int, _frame: FrameType | None) -> None:
    for each in handled:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(f"stopped by {signal.Signals(number).name}", None, number)


@contextmanager
def shown_progress(title: str, json: bool) -> Iterator[ProgressCallback]:
    """Show a bar on stderr, but for JSON and for the ranks of torchrun behind the first."""
    if json or not is_first_rank():
        yield no_progress
        return
    with progress_bar(title) as report:
        yield report


def is_first_rank() -> bool:
    """Return True except in a process that torchrun started beside the first."""
    return rank_and_size()[0] == 0


def _lower_first(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")
