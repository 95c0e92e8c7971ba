"""The application that the commands belong to: errors as one or two lines and an exit code, progress on stderr.

In: nothing. Out: `app`, and the parts that commands share.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as distribution_version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from nctool.cli import output
from nctool.errors import NctoolError
from nctool.processes import rank_and_size
from nctool.progress import ProgressCallback, no_progress, progress_bar

EXIT_INTERRUPTED = 130
EXIT_BUG = 70
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
