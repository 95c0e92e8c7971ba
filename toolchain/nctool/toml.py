"""TOML: read a document into a pydantic schema, with one error that a user understands; write values as literals.

In: a file, or TOML text, and a schema whose fields say in their `description` what they allow. Out: plain values, a
model, or an error that names the key, the value got, what is allowed and, for a typo, the nearest name.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from nctool.errors import UsageError
from nctool.files import plain_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Model = TypeVar("Model", bound=BaseModel)

_PARSE_ERRORS = (tomllib.TOMLDecodeError, RecursionError)
"""What TOML's parser raises on text that is not TOML, or is nested too deep to read."""

_LONGEST_VALUE = 60
"""Characters of a value that a message shows."""

_NUMBERS = re.compile(r"[\d.,\s-]+")
"""Numbers with commas between them."""


@dataclass(frozen=True)
class DocumentKind:
    """A kind of document.

    Args:
        noun: what messages call it.
        error: the error raised.
        hint: what to do where there is no such file.
    """

    noun: str
    error: type[UsageError]
    hint: str


@dataclass(frozen=True)
class _Place:
    """Where a finding is.

    Args:
        keys: the path of the key in the document.
        tables: those that may hold the last key.
        field: of the last key, None where no table has it.
        union: the field of the discriminated union that the tables are a variant of, or None.
    """

    keys: list[str]
    tables: list[type[BaseModel]]
    field: FieldInfo | None = None
    union: FieldInfo | None = None


def read_document(path: Path, kind: DocumentKind) -> str:
    """Return the text of a UTF-8 file; `kind.error` says why it cannot be read."""
    try:
        return plain_file(path).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise kind.error(f"no {kind.noun} file `{path}`", hint=kind.hint) from error
    except OSError as error:
        raise kind.error(f"cannot read {kind.noun} `{path}`: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise kind.error(f"{kind.noun} `{path}` is not UTF-8 text (byte {error.start})") from error


def parse_document(text: str, kind: DocumentKind, source: str) -> dict[str, Any]:
    """Return the values of a TOML document; `kind.error` says where it is no TOML, `source` where it came from."""
    try:
        return tomllib.loads(text)
    except _PARSE_ERRORS as error:
        reason = str(error).splitlines()[0].lower()
        raise kind.error(f"{kind.noun} `{source}` is not valid TOML: {reason}") from error


def validate_document(content: Mapping[str, Any], schema: type[Model], kind: DocumentKind, source: str) -> Model:
    """Return `content` as a `schema`; `kind.error` describes the first thing that is not allowed."""
    try:
        return schema.model_validate(_lists_to_tuples(content))
    except ValidationError as error:
        raise _describe(error, schema, kind, f"{kind.noun} `{source}`") from error


def parse_value(text: str) -> Any:
    """Read one TOML literal; text that is none is returned as it is."""
    try:
        document = tomllib.loads(f"value = {text}")
    except _PARSE_ERRORS:
        return text
    return document["value"] if list(document) == ["value"] else text


def literal(value: Any) -> str:
    """Write a value as a TOML literal on one line.

    Args:
        value: str, bool, int, float, or a list, tuple or mapping of these; anything else (dates) is written as its
            text.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(str(key))} = {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):  # tomli_w gives every member a line of its own
        return "[" + ", ".join(literal(inner) for inner in value) + "]"
    plain = value if isinstance(value, (bool, int, float)) else str(value)
    text = tomli_w.dumps({"value": plain}).removeprefix("value = ").removesuffix("\n")
    return text.replace("\t", "\\t")  # which is allowed in TOML, but cannot be seen


def _describe(error: ValidationError, schema: type[BaseModel], kind: DocumentKind, where: str) -> UsageError:
    """Describe the first finding; an unknown key goes before what it may have caused."""
    findings: list[Any] = list(error.errors(include_url=False))
    finding = min(findings, key=lambda error: error["type"] != "extra_forbidden")
    place = _locate(schema, finding["loc"])
    indices = [part for part in finding["loc"] if isinstance(part, int)]
    path = ".".join(place.keys) + "".join(f"[{index}]" for index in indices)
    if finding["type"] == "extra_forbidden":
        message, hint = _unknown_key(place, schema)
    elif finding["type"].startswith("union_tag") and place.field is not None:
        message, hint = _bad_tag(path, place.field, finding)
    elif finding["type"] == "missing":
        message, hint = f"`{path}` is missing, allowed: {_allowed(place.field)}", None
    else:
        allowed = _allowed(place.field)
        message = f"`{path}` is {_shown(finding['input'])}, allowed: {allowed}"
        hint = _as_list(path, finding["input"], place.field) or closest(str(finding["input"]), allowed.split(", "))
    return kind.error(f"{where}: {message}", hint)


def closest(got: str, known: Iterable[str], prefix: str = "") -> str | None:
    """Return the hint "did you mean `…`" for the known name nearest to `got`, or None when none is near."""
    near = difflib.get_close_matches(got, list(known), n=1)
    return f"did you mean `{prefix}{near[0]}`?" if near else None


def _as_list(path: str, value: Any, field: FieldInfo | None) -> str | None:
    """Return how a value is written where a list is allowed, or None where that is not what is wrong."""
    is_numbers = type(value) in (int, float) or (isinstance(value, str) and _NUMBERS.fullmatch(value))
    if path.endswith("]") or not is_numbers or not _allowed(field).startswith("a list "):
        return None
    return f"a list has brackets: '{path}=[{value}]'"


def _unknown_key(place: _Place, schema: type[BaseModel]) -> tuple[str, str | None]:
    *parents, key = place.keys
    known = list(dict.fromkeys(name for table in place.tables for name in table.model_fields))
    near = closest(key, known, "".join(f"{parent}." for parent in parents))
    hint = _key_of_others(place, key) or _elsewhere(key, schema) or near
    return f"unknown key `{'.'.join(place.keys)}`, allowed: {', '.join(known)}", hint


def _elsewhere(key: str, schema: type[BaseModel]) -> str | None:
    """Return the hint that other tables have the key, or None where none has."""
    fields = schema.model_fields.items()
    tables = [name for name, field in fields if any(key in table.model_fields for table in tables_of(field))]
    return f"did you mean {' or '.join(f'`{table}.{key}`' for table in tables)}?" if tables else None


def _key_of_others(place: _Place, key: str) -> str | None:
    """Return the hint that other variants of a discriminated union have the key, or None where none has."""
    union = place.union
    if union is None:
        return None
    others = [tag for table in tables_of(union) if key in table.model_fields for tag in tags_of(table)]
    if not others:
        return None
    what = f"it is a key of {union.discriminator} {', '.join(others)}: leave it out, or replace the whole table"
    return f"{what}: --set '{'.'.join(place.keys[:-1])}={{{union.discriminator} = \"NAME\"}}'"


def _bad_tag(path: str, field: FieldInfo, finding: dict[str, Any]) -> tuple[str, str | None]:
    """Describe a discriminated union without its discriminator, or with an unknown one."""
    context, key = finding["ctx"], f"{path}.{field.discriminator}"
    known = [tag for table in tables_of(field) for tag in tags_of(table)]
    if "tag" not in context:
        return f"`{key}` is missing, allowed: {', '.join(known)}", None
    return f"`{key}` is {_shown(context['tag'])}, allowed: {', '.join(known)}", closest(context["tag"], known)


def _locate(schema: type[BaseModel], location: tuple[int | str, ...]) -> _Place:
    """Follow a pydantic location; the tag of a discriminated union, which is in it, is no key of the file."""
    place = _Place([], [schema])
    rest = [part for part in location if isinstance(part, str)]
    while rest:
        part = rest.pop(0)
        field = next((table.model_fields[part] for table in place.tables if part in table.model_fields), None)
        place = replace(place, keys=[*place.keys, part], field=field)
        if rest and field is not None:
            tables = tables_of(field)
            if not tables:
                break  # what follows is pydantic's name of one of several types of a value
            tag = rest.pop(0) if len(tables) > 1 else None
            tables = [table for table in tables if tag is None or tag in tags_of(table)]
            place = replace(place, tables=tables, union=None if tag is None else field)
    return place


def tables_of(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the schemas of a field: that of a table, or all variants of a discriminated union; none of a value."""
    candidates = get_args(field.annotation) or (field.annotation,)
    return [table for table in candidates if isinstance(table, type) and issubclass(table, BaseModel)]


def tags_of(table: type[BaseModel]) -> tuple[str, ...]:
    """Return the values that a variant's discriminator, its first field, may have."""
    return get_args(next(iter(table.model_fields.values())).annotation)


def _allowed(field: FieldInfo | None) -> str:
    if field is None:
        return "a TOML document"
    if field.description is not None:
        return field.description
    names = list(dict.fromkeys(name for table in tables_of(field) for name in table.model_fields))
    return f"a table of {', '.join(names)}"


def _shown(value: Any) -> str:
    text = literal(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(inner) for key, inner in value.items()}
    return tuple(_lists_to_tuples(inner) for inner in value) if isinstance(value, list) else value
