"""The command line: every command in order, errors as one or two lines and an exit code.

stdout is data, stderr is talk. Torch and Lava are loaded by the commands that need them, not by `--help`.

In: what was typed. Out: `app`, and `main`, which runs it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version as distribution_version
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from nctool.commands import COMMANDS
from nctool.commands.streams import held_stdout, lossy_stderr
from nctool.errors import SIGNALS, Interrupted, NctoolError, UsageError, first_line, is_out_of_memory
from nctool.spelling import command_line

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


for _command in COMMANDS:
    app.command(_command.name)(_command.for_typer())


def run_app(words: Sequence[str] | None = None) -> int:
    """Run the command that the command line names; typer's own `main` would give errors of the system exit code 1.

    Args:
        words: those of the command line behind `nctool`; what was typed by default.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("nctool", list(sys.argv[1:] if words is None else words)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def main(run: Callable[[], int] = run_app) -> None:
    """Run the command line and end the process with the exit code that `nctool.errors` gives each error.

    Its messages name options, where those of Python name arguments.

    Args:
        run: does it, and returns the exit code where there is no error.
    """
    with lossy_stderr(), command_line():
        code = _exit_code(run)
    sys.exit(code)


def _exit_code(run: Callable[[], int]) -> int:
    try:
        with ended_by_signals(), held_stdout():
            return run()
    except NctoolError as error:
        print_error(error.message, error.hint)
        return error.exit_code
    except TyperException as error:
        _suggest_new_names(error)
        print_error(_lower_first(error.format_message()), "see `nctool --help`, or `nctool COMMAND --help`")
        return UsageError.exit_code
    except Interrupted as stop:
        print_error(stop.message, stop.hint)
        return stop.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user sees no traceback
        if os.environ.get(DEBUG):
            traceback.print_exc()
        if _is_shortage(error):
            print_error(f"the machine lacks room for this: {first_line(error)}", SHORTAGE_HINT)
            return EXIT_SHORTAGE
        print_error(
            f"internal error: {type(error).__name__}: {error}",
            f"this is a bug in nctool; run again with {DEBUG}=1 for a traceback and report it",
        )
        return EXIT_BUG


def _is_shortage(error: Exception) -> bool:
    """Return True where the machine has no more of something, which is no bug."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in SHORTAGES)


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
    for signal_number in handled:
        signal.signal(signal_number, signal.SIG_IGN)
    raise Interrupted(f"stopped by {signal.Signals(number).name}", None, number)


def print_error(message: str, hint: str | None) -> None:
    """Write an error, and the way out, on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    if hint is not None:
        console.print("hint:", style="bold", end=" ")
        console.print(hint, markup=False)


def _suggest_new_names(error: TyperException) -> None:
    """Let an error that suggests options name none by its older name."""
    newer = {older: flag for command in COMMANDS for older, flag in command.newer_flags.items()}
    suggested = getattr(error, "possibilities", None)
    if suggested:
        error.possibilities = sorted({newer.get(flag, flag) for flag in suggested})  # type: ignore[attr-defined]


def _lower_first(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")
