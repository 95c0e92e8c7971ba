"""The command line: every command in order, errors as one or two lines and an exit code.

stdout is data, stderr is talk. A command is loaded when it is named, torch and Lava when it needs them.

In: what was typed. Out: `app`, and `main`, which runs it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import CompletionItem, TyperGroup  # type: ignore[attr-defined]  # of no public module
from typer.exceptions import TyperException

from nctool.commands import COMMANDS, load
from nctool.commands.streams import held_stdout, lossy_stderr
from nctool.errors import SIGNALS, Interrupted, NctoolError, UsageError, first_line, is_out_of_memory
from nctool.spelling import command_line
from nctool.torchrun import is_one_of_several, leave

EXIT_BUG = 70
EXIT_SHORTAGE = 71
"""EX_OSERR. Source: sysexits.h"""
SHORTAGES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the system says where memory, processes or open files are used up."""
SHORTAGE_HINT = "ask for less at once, or end other programs: memory, processes or open files are used up"
DEBUG = "NCTOOL_DEBUG"

COMPLETE = "_NCTOOL_COMPLETE"
"""By this variable a shell asks for what may stand at the cursor. Source: typer, which makes it of the name."""


class _Loaded(Mapping[str, Any]):
    """The commands by name, each loaded when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return _typer_command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class CommandGroup(TyperGroup):
    """All commands, none of which is loaded to show the list of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": _Loaded()})

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write a line for each command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """Return what may stand in place of a command: its name, or an option of nctool itself."""
        commands = [
            CompletionItem(name, help=entry.summary) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]
        return commands or super(TyperGroup, self).shell_complete(ctx, incomplete)


app = typer.Typer(name="nctool", cls=CommandGroup, pretty_exceptions_enable=False, rich_markup_mode=None)


@cache
def _typer_command(name: str) -> Any:
    if name not in COMMANDS:
        raise KeyError(name)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(load(name).for_typer())
    return typer.main.get_command(alone)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nctool {version('nctool')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take a vision network to a spiking chip, and prove bit for bit what runs there."""


def run_app(words: Sequence[str] | None = None) -> int:
    """Run the command that the command line names, or show the help where it names none.

    typer's own `main` would give errors of the system exit code 1.

    Args:
        words: those of the command line behind `nctool`; what was typed by default.
    """
    command = typer.main.get_command(app)
    if COMPLETE in os.environ:
        from typer.completion import shell_complete

        return shell_complete(command, {}, "nctool", COMPLETE, os.environ[COMPLETE])
    try:
        with _context(command, list(sys.argv[1:] if words is None else words)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def _context(command: Any, words: list[str]) -> Any:
    """Take in what was typed before the name of a command, with `--help` where nothing was typed."""
    try:
        return command.make_context("nctool", words or ["--help"])
    except typer.Exit as ended:
        if ended.exit_code == 0:
            raise
        hint = f'put `eval "$({COMPLETE}=source_bash nctool)"` into the file that your shell reads first'
        raise UsageError("completion: which shell this is cannot be told, or it is not supported", hint) from None


def main(run: Callable[[], int] = run_app) -> None:
    """Run the command line and end the process with the exit code that `nctool.errors` gives each error.

    Its messages name options, where those of Python name arguments.

    Args:
        run: does it, and returns the exit code where there is no error.
    """
    with lossy_stderr(), command_line():
        code = _exit_code(run)
    if is_one_of_several():
        leave(code)
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
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    if hint is not None:
        console.print("hint:", style="bold", end=" ")
        console.print(hint, markup=False)


def _suggest_new_names(error: TyperException) -> None:
    """Let an error that suggests options name none by its older name."""
    suggested, context = getattr(error, "possibilities", None), getattr(error, "ctx", None)
    if suggested and context is not None and context.info_name in COMMANDS:
        newer = load(context.info_name).newer_flags
        error.possibilities = sorted({newer.get(flag, flag) for flag in suggested})  # type: ignore[attr-defined]


def _lower_first(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")
