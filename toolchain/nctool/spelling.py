"""Messages in the words of the caller: options on the command line, arguments in Python.

`learn` gets from each public function the options with another name than their argument, and the flags.

In: a text that names options, as all messages do: `--steps 4`, `--shape C,H,W`, `-o`, `--set KEY=VALUE`,
`nctool export RUN -o FILE`. Out: that text, or the same with arguments: `steps=4`, `shape=(C, H, W)`, `output`,
`overrides={"KEY": "VALUE"}`, `nctool.export("RUN", output="FILE")`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from nctool.toml import parse_value

_functions: set[str] = set()
_arguments: dict[str, str] = {}
"""Arguments by options that are called otherwise."""
_flags: set[str] = set()
"""Options without a value."""

_WORDS = "auto|autapse|cpu|fast|graded|lava|loihi2?|population|rate|reference|zero-reset"
"""Values that stand behind an option in a message; any other word in small letters belongs to the sentence."""
_CHANGE = r"--set (?P<quote>'?)(?P<key>[\w.]+)=(?P<change>\{.*?\}|[^\s',]+)(?P=quote)"
_LIST = r"(?:\d+|[A-Z])(?:,(?:\d+|[A-Z]))+(?!\w|,\w)"
"""Several numbers, or letters that stand for them."""
_NAME = r"(?<![\w-])--?(?P<option>(?<=-)o|(?<=--)(?!nproc)[a-z]+(?:-[a-z]+)*)(?![\w-])"
_OPTION = rf"{_NAME}(?: (?P<value>{_LIST}|\d+|[A-Z][\w.]*|(?:{_WORDS})\b(?:,(?:{_WORDS})\b)*))?"
_QUOTED_WORDS = ("nctool ", "--")
"""How a part in back-ticks begins that is a command or an option; any other is a name of the caller's, and stays."""

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)


def learn(function: str, arguments: Mapping[str, str], flags: Iterable[str]) -> None:
    """Take in the options of a command.

    Args:
        function: the public function that it calls.
        arguments: those that are called otherwise than their options, by option.
        flags: arguments that are options without a value.
    """
    _functions.add(function.replace("_", "-"))
    _arguments.update({option.lstrip("-"): name for option, name in arguments.items()})
    _flags.update(name.replace("_", "-") for name in flags)
    _spoken.cache_clear()


@cache
def _spoken() -> re.Pattern[str]:
    """Return what a message may say of commands and options."""
    functions = "|".join(sorted(_functions)) or "(?!)"
    command = rf"nctool (?P<function>{functions})\b(?P<arguments>( [^\s`]+)*)"
    return re.compile("|".join((command, _CHANGE, _OPTION)))


@contextmanager
def command_line() -> Iterator[None]:
    """Let messages name options while the block runs."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def spoken(text: str) -> str:
    """Return a message in the words of who called."""
    if _on_command_line.get():
        return text
    parts = text.split("`")
    names = {number for number in range(1, len(parts), 2) if not parts[number].startswith(_QUOTED_WORDS)}
    return "`".join(part if number in names else _spoken().sub(_in_python, part) for number, part in enumerate(parts))


def _in_python(match: re.Match[str]) -> str:
    if match["function"]:
        return _call(match["function"], match["arguments"])
    if match["key"]:
        return f"overrides={json.dumps({match['key']: parse_value(match['change'])})}"
    return _argument(match["option"], match["value"])


def _argument(option: str, value: str | None) -> str:
    name = _arguments.get(option, option.replace("-", "_"))
    if value is not None and re.fullmatch(_LIST, value):
        return f"{name}=({', '.join(value.split(','))})"
    if option in _flags:
        return f"{name}=True" + (f" {value}" if value else "")
    return name if value is None else f"{name}={value if value == 'N' else json.dumps(parse_value(value))}"


def _call(function: str, arguments: str) -> str:
    """Return a command as a call in Python."""
    words, spelled = iter(shlex.split(arguments)), []
    for word in words:
        is_option = word.startswith("-")
        spelled.append(_argument(word.lstrip("-"), next(words, None)) if is_option else json.dumps(word))
    return f"nctool.{function.replace('-', '_')}({', '.join(spelled)})"
