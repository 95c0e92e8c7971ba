"""Check the arguments of public functions against their annotations before anything is done.

In: a public function. Out: the same function, which refuses values of another type, and names arguments in its errors.
Modules, tensors and arrays are not checked here: the functions that use them do so, with a hint that fits.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from nctool.errors import Interrupted, NctoolError, UsageError
from nctool.progress import no_progress, progress_bar, title_of
from nctool.signature import Hint, Option, options_of, parameters_of, plain_signature
from nctool.spelling import learn, spoken
from nctool.torchrun import rank_and_size

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST_VALUE = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class _Plain:
    """A type that arguments have.

    Args:
        name: what messages call it.
        allows: tells whether a value is of this type, or one like it.
        make: turns such a value into this type.
    """

    name: str
    allows: Callable[[Any], bool]
    make: Callable[[Any], Any]


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


_PLAIN = {
    NoneType: _Plain("None", lambda value: value is None, lambda value: value),
    bool: _Plain("True or False", lambda value: isinstance(value, (bool, np.bool_)), bool),
    int: _Plain("a whole number", lambda value: _is_number(value, Integral), int),
    float: _Plain("a finite number", lambda value: _is_number(value, Real) and _is_finite(value), float),
    str: _Plain("a text", lambda value: isinstance(value, str), str),
    Path: _Plain("a path", lambda value: isinstance(value, os.PathLike) and isinstance(os.fspath(value), str), Path),
}


class _MisfitError(Exception):
    """A value that an annotation does not allow.

    Args:
        place: the argument, or a part of it.
        value: that stands there.
        allowed: what may stand there.
    """

    def __init__(self, place: str, value: object, allowed: str) -> None:
        super().__init__(place)
        self.place, self.value, self.allowed = place, value, allowed


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose arguments are checked, and whose errors name options or arguments, as the caller does.

    Numbers of NumPy become Python's, older names of arguments the new ones. A UsageError says which argument has a
    value of another type, or why the system refuses a path: a name too long, a folder that may not be read.
    """
    signature, parameters = inspect.signature(function), parameters_of(function)
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    options = options_of(function)
    renamed = {older: parameter.name for parameter, option in options for older in option.aliases}
    if options:
        otherwise = {flag: parameter.name for parameter, option in options for flag in option.flags}
        learn(function.__name__, otherwise, [parameter.name for parameter, _ in options if parameter.kind is bool])

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        with _in_words_of_caller():
            bound = _bound(function, signature, args, _with_new_names(kwargs, renamed))
            bound.arguments.update(
                {name: _checked(name, value, annotations[name]) for name, value in bound.arguments.items()}
            )
            with _progress_shown(function.__name__, bound):
                return function(*bound.args, **bound.kwargs)

    checked.__signature__ = plain_signature(function)  # type: ignore[attr-defined]  # what inspect reads
    return checked


@contextmanager
def _progress_shown(function: str, bound: inspect.BoundArguments) -> Iterator[None]:
    """Give a function that shows progress its callback: a bar in place of True, the default, and of False nothing."""
    defaults = {name: parameter.default for name, parameter in bound.signature.parameters.items()}
    arguments = {**defaults, **bound.arguments}
    wanted = arguments.get("progress")
    if not isinstance(wanted, bool):
        yield
    elif not wanted or rank_and_size()[0] > 0:
        bound.arguments["progress"] = no_progress
        yield
    else:
        with progress_bar(title_of(function, arguments)) as bound.arguments["progress"]:
            yield


@contextmanager
def _in_words_of_caller() -> Iterator[None]:
    try:
        yield
    except (NctoolError, Interrupted) as error:
        error.message = spoken(error.message)
        error.hint = None if error.hint is None else spoken(error.hint)
        raise
    except OSError as error:
        if error.filename is None:
            raise  # it is not about a path
        reason = os.strerror(error.errno or 0).lower()
        raise UsageError(f"`{os.fsdecode(error.filename)}`: {reason}") from error


def _with_new_names(arguments: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments with new names in place of older ones."""
    for older in renamed.keys() & arguments.keys():
        if renamed[older] in arguments:
            raise UsageError(
                f"--{renamed[older]} and --{older}: allowed one of them", hint=f"--{older} is the older name"
            )
    return {renamed.get(name, name): value for name, value in arguments.items()}


def _bound(
    function: Callable[..., Any], signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"nctool.{function.__name__}: {error}, allowed: {', '.join(signature.parameters)}") from None


def _checked(name: str, value: Any, annotation: Any) -> Any:
    try:
        return _fitted(name, value, annotation)
    except _MisfitError as misfit:
        is_short = isinstance(misfit.value, (str, int, float, NoneType))
        text = repr(misfit.value) if is_short else f"a {type(misfit.value).__name__.rstrip('_')}"
        text = text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
        hint = None if is_short else next((part.text for part in get_args(annotation) if isinstance(part, Hint)), None)
        raise UsageError(f"{misfit.place}: got {text}, allowed: {misfit.allowed}", hint) from None


def _fitted(place: str, value: Any, annotation: Any) -> Any:
    """Return `value` in the type that an annotation asks for; what has a check of its own is returned as it is."""
    kind = get_origin(annotation) or annotation
    if kind in _COMPOSED:
        return _COMPOSED[kind](place, value, annotation)
    if kind in _PLAIN:
        return _PLAIN[kind].make(_required(place, value, annotation, _PLAIN[kind].allows(value)))
    if isinstance(kind, type) and is_dataclass(kind):
        return _fitted_fields(place, value, kind)
    if kind is Callable or (getattr(kind, "_is_protocol", False) and "__call__" in vars(kind)):
        return _required(place, value, annotation, callable(value))
    return value


def _one_of(place: str, value: Any, union: Any) -> Any:
    """Return `value` in the first type of a union that it fits; an error names the nearest that it does not fit."""
    nearest = _MisfitError(place, value, _described(union))
    for kind in get_args(union):
        try:
            fitted = _fitted(place, value, kind)
        except _MisfitError as misfit:
            is_of_this_type = misfit.allowed != _described(kind)  # and something else is wrong with it
            nearest = misfit if is_of_this_type else nearest
        else:
            return _without_null(place, fitted) if Path in get_args(union) else fitted
    raise nearest


def _without_null(place: str, value: Any) -> Any:
    """Refuse a path that no file system can have."""
    if isinstance(value, (str, Path)) and "\0" in str(value):
        raise _MisfitError(place, str(value), "a path without null characters")
    return value


def _literal(place: str, value: Any, annotation: Any) -> Any:
    return _required(place, value, annotation, isinstance(value, str) and value in get_args(annotation))


def _sequence(place: str, value: Any, annotation: Any) -> Any:
    _required(place, value, annotation, isinstance(value, (list, tuple, range, np.ndarray)))
    (kind,) = get_args(annotation)
    return tuple(_fitted(f"{place}[{number}]", element, kind) for number, element in enumerate(value))


def _mapping(place: str, value: Any, annotation: Any) -> Any:
    _required(place, value, annotation, isinstance(value, Mapping))
    of_key, of_value = get_args(annotation)
    keys = [_fitted(f"{place}, key {key!r}", key, of_key) for key in value]
    return {key: _fitted(f"{place}[{key!r}]", value[key], of_value) for key in keys}


def _in_range(place: str, value: Any, annotation: Any) -> Any:
    kind, *others = get_args(annotation)
    fitted = _fitted(place, value, kind)
    for option in others:
        if isinstance(option, Option) and fitted is not None and _is_too_small(fitted, option):
            raise UsageError(f"{place}: {value} is out of range, allowed >= {option.least:g}")
    return fitted


def _is_too_small(number: float, option: Option) -> bool:
    return option.least is not None and not option.is_checked_inside and number < option.least


def _fitted_fields(place: str, value: Any, kind: Any) -> Any:
    _required(place, value, kind, isinstance(value, kind))
    hints = get_type_hints(kind, include_extras=True)
    return kind(
        **{
            name: _fitted(f"{place}.{name}", getattr(value, name), hints[name])
            for name in (field.name for field in fields(kind))
        }
    )


def _required(place: str, value: Any, annotation: Any, is_allowed: bool) -> Any:
    if not is_allowed:
        raise _MisfitError(place, value, _described(annotation))
    return value


_COMPOSED: dict[Any, Callable[[str, Any, Any], Any]] = {
    Annotated: _in_range,
    Literal: _literal,
    Mapping: _mapping,
    Sequence: _sequence,
    Union: _one_of,
    UnionType: _one_of,
}
"""How a value is fitted to a type that is made of others."""


def _described(annotation: Any) -> str:
    """Return what messages call a type."""
    kind, parts = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(_described(part) for part in parts))
    if kind is Literal:
        return ", ".join(map(repr, parts))
    if kind in (Sequence, Mapping):
        inner = f" of {_PLAIN[parts[-1]].name.removeprefix('a ')}s" if parts[-1] in _PLAIN else ""
        return ("a list" if kind is Sequence else "a mapping") + inner
    if kind is Annotated:
        return _described(parts[0])
    if kind in _PLAIN:
        return _PLAIN[kind].name
    members = getattr(kind, "__dict__", {})  # an alias has none: `ArrayLike` is one since numpy 2.5
    return "a function" if "__call__" in members else f"a {kind.__name__}"


def split_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names of `names`, a list or a text with commas between them, without the blanks around them."""
    parts = names.split(",") if isinstance(names, str) else names
    return tuple(name.strip() for name in parts if name.strip())
