"""A command: a public function whose arguments become options, and how its report is shown.

In: a function whose annotations hold `Option`s. Out: a function that typer makes a command of: it reads what was typed,
shows progress, and prints the report, as one JSON object or for people.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from nctool.commands.html import as_html
from nctool.commands.tables import Line, Part, as_text, collect, print_whole
from nctool.progress import learn_title, no_progress, progress_bar
from nctool.reports import Shown, learn
from nctool.signature import Option, Parameter, options_of, parameters_of, parts_of
from nctool.spelling import spoken
from nctool.torchrun import rank_and_size

if TYPE_CHECKING:
    from nctool.training import EpochMetrics


class HasJson(Protocol):
    """A report that a command can print as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""


def _success(_report: Any) -> int:
    return 0


@dataclass(frozen=True)
class Command:
    """A function of `nctool` as a command.

    Args:
        function: its signature holds the options, the first line of its docstring is the help.
        show: prints its report for people.
        title: of the progress bar; may name arguments, "engine {engine}".
        exit_code: gives the exit code of the process for a report.
    """

    function: Callable[..., HasJson]
    show: Callable[[Any], None]
    title: str = ""
    exit_code: Callable[[Any], int] = _success

    def __post_init__(self) -> None:
        """Let reports, and progress in Python, be shown as the command does."""
        report = inspect.unwrap(self.function).__annotations__["return"]
        learn(report if isinstance(report, str) else report.__name__, Shown(self._text, self._html))
        learn_title(self.function.__name__, self.title)

    def _text(self, report: Any) -> str:
        return as_text(self._parts(report))

    def _html(self, report: Any) -> str:
        return as_html(self._parts(report))

    def _parts(self, report: Any) -> list[Part]:
        """Return what the command shows of a report; its lines may name other functions."""
        parts = collect(self.show, report)
        return [replace(part, text=spoken(part.text)) if isinstance(part, Line) else part for part in parts]

    @property
    def name(self) -> str:
        """Return the name of the command, as it is typed."""
        return self.function.__name__.replace("_", "-")

    def run(self, *, as_json: bool, **typed: Any) -> None:
        """Call the function with what was typed, and print its report.

        Raises:
            typer.Exit: the exit code is another than 0.
        """
        arguments = _arguments(self.function, typed)
        with _shown_progress(self.function, self.title.format_map(typed), as_json) as callbacks:
            report = self.function(**arguments, **callbacks)
        if is_first_rank():
            self._print(report, arguments, as_json)
        if code := self.exit_code(report):
            raise typer.Exit(code)

    def _print(self, report: HasJson, arguments: Mapping[str, Any], as_json: bool) -> None:
        if as_json:
            sys.stdout.write(json.dumps(report.to_json()) + "\n")
            return
        self.show(report)
        for parameter, option in options_of(self.function):
            if option.is_written and parameter.name in arguments:
                print_whole(f"wrote {Path(arguments[parameter.name])}")

    @property
    def newer_flags(self) -> dict[str, str]:
        """Return the flag of each option by the flags of its older names."""
        pairs = [(parameter.name, older) for parameter, option in options_of(self.function) for older in option.aliases]
        return {_flag(older): _flag(name) for name, older in pairs}

    def for_typer(self) -> Callable[..., None]:
        """Return a function whose signature tells typer the options."""

        def run(json: bool, **typed: Any) -> None:
            self.run(as_json=json, **typed)

        run.__doc__ = (self.function.__doc__ or "").partition("\n")[0]
        parameters = [part for offered in options_of(self.function) for part in _for_typer(*offered)]
        run.__signature__ = inspect.Signature([*parameters, _JSON])  # type: ignore[attr-defined]  # what inspect reads
        return run


# --- options ----------------------------------------------------------------------------------------------------------


def _for_typer(parameter: Parameter, option: Option) -> Iterator[inspect.Parameter]:
    """Yield an option as typer takes it, and its older names, which are not in the help."""
    kind, default = _typed_kind(parameter, option), _typed_default(parameter)
    shown: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
    if option.least is not None:
        shown["min"] = parameter.kind(option.least)
    if option.names is not None:
        shown["autocompletion"] = option.completions
    if option.default is not None or option.aliases:
        shown["show_default"] = option.default or default
        default = None if option.aliases else default  # None tells that it was not typed, by any of its names
    if option.is_positional:
        yield _parameter(parameter.name, kind, typer.Argument(default, **shown))
        return
    yield _parameter(parameter.name, kind, typer.Option(default, *(option.flags or (_flag(parameter.name),)), **shown))
    for older in option.aliases:
        yield _parameter(older, kind, typer.Option(None, _flag(older), hidden=True))


def _parameter(name: str, kind: Any, info: Any) -> inspect.Parameter:
    annotation = kind if info.default is not None else kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_JSON = _parameter("json", bool, typer.Option(False, "--json", help="Print one JSON object on stdout."))


def _typed_kind(parameter: Parameter, option: Option) -> Any:
    if option.is_repeated:
        return list[str]
    return parameter.kind if option.parse is None else str


def _typed_default(parameter: Parameter) -> Any:
    """Return a default as it would be typed, several values with commas; `...` where there is none."""
    if parameter.default is inspect.Parameter.empty:
        return ...
    if isinstance(parameter.default, tuple):
        return ",".join(map(str, parameter.default)) or None
    return parameter.default


def _arguments(function: Callable[..., Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were typed; those equal to their default are left out."""
    arguments: dict[str, Any] = {}
    for parameter in parameters_of(function):
        values = {name: value for part in parts_of(parameter) for name, value in _values(*part, typed)}
        if parameter.group is None:
            arguments.update(values)
        elif values:
            arguments[parameter.name] = parameter.group.dataclass(**values)
    return arguments


def _values(parameter: Parameter, option: Option, typed: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what was typed for an option, under the name that was typed."""
    for name in (parameter.name, *option.aliases):
        value = typed[name]
        if value is not None and (option.aliases or value != _typed_default(parameter)):
            yield name, value if option.parse is None else option.parse(value, parameter.name)


# --- progress ---------------------------------------------------------------------------------------------------------


def is_first_rank() -> bool:
    """Return True except in a process that torchrun started beside the first."""
    return rank_and_size()[0] == 0


@contextmanager
def _shown_progress(
    function: Callable[..., Any], title: str, as_json: bool
) -> Iterator[dict[str, Callable[..., None]]]:
    """Yield the callbacks that a function takes: they move a bar, or write a line for each epoch.

    On a terminal there is a bar, unless stdout is JSON. In the other cases a training writes a line for each epoch.
    Under torchrun only the first rank shows anything.
    """
    takes = {parameter.name for parameter in parameters_of(function)}
    if "progress" not in takes:
        yield {}
    elif not is_first_rank():
        yield {"progress": no_progress}
    elif "on_epoch" in takes and (as_json or not sys.stderr.isatty()):
        yield {"progress": no_progress, "on_epoch": EpochLines()}
    elif as_json:
        yield {"progress": no_progress}
    else:
        with progress_bar(title) as progress:
            yield {"progress": progress}


class EpochLines:
    """Writes a line for each epoch; the time left is an estimate from the mean time of an epoch so far."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def __call__(self, metrics: EpochMetrics, n_epochs: int) -> None:
        """Write the numbers of an epoch."""
        self._seconds.append(metrics.seconds)
        left = sum(self._seconds) / len(self._seconds) * (n_epochs - metrics.epoch)
        sys.stderr.write(
            f"{metrics.stage}: epoch {metrics.epoch}/{n_epochs}, loss {metrics.loss:.4f}, "
            f"training accuracy {metrics.training_accuracy:.2%}, held out {metrics.held_out()}, "
            f"{metrics.seconds:.1f} s, {timedelta(seconds=round(left))} left\n"
        )
        sys.stderr.flush()
