"""The signature of a public function: the one definition of its arguments, and of the options of its command.

An annotation holds the type, and by an `Option` how the command line offers the argument and which numbers it allows.

In: a function. Out: its parameters. Imports nothing of nctool.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

_TYPED = (bool, int, float, Path, str)
"""Types that a typed text can become."""

_LONGEST_TYPE = 100
"""Characters of a type that `help` shows; a longer one, as that of everything NumPy reads, is shown by its name."""


@dataclass(frozen=True)
class Option:
    """How the command line offers an argument, in its annotation; an argument without one is for Python only.

    Args:
        help: one line.
        flags: as they are typed; `--name-of-the-argument` by default.
        metavar: what stands for the value in the help.
        default: what the help says where the default depends on something.
        kind: the type that the typed text becomes; by default the first of the annotation that a text can become.
        parse: turns the text into the value, where it is more than a number or a name; it gets the
            argument's name too.
        least: of a number.
        is_checked_inside: the function itself refuses a smaller number, because it has more to say of it.
        aliases: older names, which scripts use; the help does not show them.
        is_positional: typed without a flag.
        is_repeated: may be typed several times.
        is_written: names a file that the command writes.
        names: returns what the shell completes it with; files by default.
        takes_several: of these names, with commas between them.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None
    kind: type | None = None
    parse: Callable[[Any, str], Any] | None = None
    least: float | None = None
    is_checked_inside: bool = False
    aliases: tuple[str, ...] = ()
    is_positional: bool = False
    is_repeated: bool = False
    is_written: bool = False
    names: Callable[[], Iterable[str]] | None = None
    takes_several: bool = False

    def completions(self, incomplete: str) -> list[str]:
        """Return what a text that is not complete may become; in a list, a name that stands there does not come again.

        Args:
            incomplete: what is typed, up to the cursor.
        """
        before, comma, last = incomplete.rpartition(",") if self.takes_several else ("", "", incomplete)
        names = () if self.names is None else self.names()
        return [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in before.split(",")]


@dataclass(frozen=True)
class Group:
    """The options that one argument is made of, in its annotation: fields of a dataclass by name."""

    dataclass: type
    options: Mapping[str, Option]


@dataclass(frozen=True)
class Hint:
    """The hint, in an annotation, for a caller who gives an object such as a network in place of a plain value."""

    text: str


@dataclass(frozen=True)
class Parameter:
    """An argument of a public function, or a field of a group.

    Args:
        name: in Python.
        annotation: what it may be.
        default: `inspect.Parameter.empty` where there is none.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def option(self) -> Option | None:
        """Return how the command line offers it."""
        return next((part for part in get_args(self.annotation) if isinstance(part, Option)), None)

    @property
    def group(self) -> Group | None:
        """Return the options that it is made of."""
        return next((part for part in get_args(self.annotation) if isinstance(part, Group)), None)

    @property
    def kind(self) -> type:
        """Return the type that the typed text becomes: the first that the annotation allows."""
        option, allowed = self.option, get_args(self.annotation)[0]
        if option is not None and option.kind is not None:
            return option.kind
        types = get_args(allowed) if get_origin(allowed) in (Union, UnionType) else (allowed,)
        return next((kind for kind in types if kind in _TYPED), str)


@cache
def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the arguments of a public function, in order."""
    written = inspect.unwrap(function)
    return tuple(
        Parameter(name, _evaluated(parameter.annotation, written.__globals__), parameter.default)
        for name, parameter in inspect.signature(written).parameters.items()
    )


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """Return an annotation that may be a text; that of what is returned stays one, its names are for type checkers."""
    return eval(annotation, names) if isinstance(annotation, str) else annotation


def plain_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a public function as `help` shows it: types and defaults, without options."""
    signature, shown = inspect.signature(function), []
    for parameter in parameters_of(function):
        plain = get_args(parameter.annotation)[0] if get_origin(parameter.annotation) is Annotated else None
        is_shown = plain is not None and len(inspect.formatannotation(plain)) <= _LONGEST_TYPE
        written = signature.parameters[parameter.name]
        shown.append(written.replace(annotation=plain) if is_shown else written)
    return signature.replace(parameters=shown)


@cache
def options_of(function: Callable[..., Any]) -> tuple[tuple[Parameter, Option], ...]:
    """Return what the command line offers of a public function: its arguments that are options, groups in parts."""
    return tuple(part for parameter in parameters_of(function) for part in parts_of(parameter))


def parts_of(parameter: Parameter) -> list[tuple[Parameter, Option]]:
    """Return the options that an argument is made of: itself, the fields of its group, or none."""
    option, group = parameter.option, parameter.group
    if group is None:
        return [] if option is None else [(parameter, option)]
    hints, defaults = get_type_hints(group.dataclass), {field.name: field.default for field in fields(group.dataclass)}
    return [
        (Parameter(name, Annotated[hints[name], option], defaults[name]), option)
        for name, option in group.options.items()
    ]
