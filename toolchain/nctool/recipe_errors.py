"""Turn pydantic's findings about a recipe into one RecipeError.

In: a ValidationError and the schema it came from. Out: a RecipeError that names the key, the value got,
what is allowed and, for a typo, the nearest name. Each field of the schema says what it allows in its
`description`. Imports of nctool only errors and toml_text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from nctool.errors import RecipeError
from nctool.toml_text import literal

_LONGEST_VALUE = 60
"""Characters of a value that a message shows."""


def describe(error: ValidationError, schema: type[BaseModel], source: str) -> RecipeError:
    """Describe the first finding; an unknown key goes before what it may have caused.

    Args:
        error: what `schema.model_validate` raised.
        schema: the schema of the whole recipe.
        source: name or path of the recipe, for the message.
    """
    findings: list[Any] = list(error.errors(include_url=False))
    finding = min(findings, key=lambda each: each["type"] != "extra_forbidden")
    keys, tables, field = _locate(schema, finding["loc"])
    where = f"recipe `{source}`"
    indices = [part for part in finding["loc"] if isinstance(part, int)]
    path = ".".join(keys) + "".join(f"[{index}]" for index in indices)
    if finding["type"] == "extra_forbidden":
        return _unknown_key(where, keys, tables)
    if finding["type"].startswith("union_tag") and field is not None:
        return _bad_tag(where, path, field, finding)
    allowed = _allowed(field)
    if finding["type"] == "missing":
        return RecipeError(f"{where}: `{path}` is missing, allowed: {allowed}")
    hint = closest(str(finding["input"]), allowed.split(", "))
    return RecipeError(f"{where}: `{path}` is {_shown(finding['input'])}, allowed: {allowed}", hint)


def closest(got: str, known: Iterable[str], prefix: str = "") -> str | None:
    """Return the hint "did you mean `…`" for the known name nearest to `got`, or None when none is near."""
    near = difflib.get_close_matches(got, list(known), n=1)
    return f"did you mean `{prefix}{near[0]}`?" if near else None


def _unknown_key(where: str, keys: list[str], tables: list[type[BaseModel]]) -> RecipeError:
    known = list(dict.fromkeys(name for table in tables for name in table.model_fields))
    prefix = "".join(f"{key}." for key in keys[:-1])
    message = f"{where}: unknown key `{'.'.join(keys)}`, allowed: {', '.join(known)}"
    return RecipeError(message, closest(keys[-1], known, prefix))


def _bad_tag(where: str, path: str, field: FieldInfo, finding: dict[str, Any]) -> RecipeError:
    """Describe a discriminated union without its discriminator, or with an unknown one."""
    context, key = finding["ctx"], f"{path}.{field.discriminator}"
    known = [tag for table in _tables_of(field) for tag in _tags(table)]
    if "tag" not in context:
        return RecipeError(f"{where}: `{key}` is missing, allowed: {', '.join(known)}")
    message = f"{where}: `{key}` is {_shown(context['tag'])}, allowed: {', '.join(known)}"
    return RecipeError(message, closest(context["tag"], known))


def _locate(
    schema: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str], list[type[BaseModel]], FieldInfo | None]:
    """Follow a pydantic location to the key path, the tables that may hold the last key, and its field.

    A discriminated union puts the chosen variant's tag in the location: it is no key of the file.
    """
    keys: list[str] = []
    tables = [schema]
    field: FieldInfo | None = None
    rest = [part for part in location if isinstance(part, str)]
    while rest:
        part = rest.pop(0)
        keys.append(part)
        field = next((table.model_fields[part] for table in tables if part in table.model_fields), None)
        if rest and field is not None:
            tables = _tables_of(field)
            if len(tables) > 1:
                tag = rest.pop(0)
                tables = [table for table in tables if tag in _tags(table)]
    return keys, tables, field


def _tables_of(field: FieldInfo) -> list[type[BaseModel]]:
    candidates = get_args(field.annotation) or (field.annotation,)
    return [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]


def _tags(table: type[BaseModel]) -> tuple[str, ...]:
    """Return the values that a variant's discriminator, its first field, may have."""
    return get_args(next(iter(table.model_fields.values())).annotation)


def _allowed(field: FieldInfo | None) -> str:
    if field is None:
        return "a TOML document"
    if field.description is not None:
        return field.description
    names = list(dict.fromkeys(name for table in _tables_of(field) for name in table.model_fields))
    return f"a table of {', '.join(names)}"


def _shown(value: Any) -> str:
    text = literal(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
