"""The built-in recipes: one TOML file for each experiment, beside this module.

In: a recipe's name or the path of a recipe file. Out: its path, or the resolved `Recipe`.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from nctool.errors import RecipeError
from nctool.recipe.schema import Overrides, Recipe, read_recipe

_FOLDER = Path(__file__).parent
_SUFFIX = ".toml"


def list_recipes() -> tuple[str, ...]:
    """Return the names of the built-in recipes, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}")))


def recipe_path(name: str) -> Path:
    """Return the file of a built-in recipe.

    Raises:
        RecipeError: there is no recipe of that name.
    """
    known = list_recipes()
    if name not in known:
        near = " or ".join(f"`{match}`" for match in get_close_matches(name, known))
        way_out = f"did you mean {near}?" if near else "a recipe of your own is given by the path of its .toml file;"
        raise RecipeError(f"unknown recipe `{name}`", hint=f"{way_out} `nctool recipes` lists those built in")
    return _FOLDER / f"{name}{_SUFFIX}"


def load_recipe(name_or_path: str | Path, overrides: Overrides | None = None, seed: int | None = None) -> Recipe:
    """Resolve a recipe given by name or path.

    Args:
        name_or_path: a built-in name, or the path of a file: what ends in .toml or holds a separator.
        overrides: values by `table.key` or `key`, applied in order.
        seed: replaces the recipe's seed, after the overrides.

    Raises:
        RecipeError: unknown name, missing file, not TOML, or a key or value that is not allowed.
    """
    text = os.fspath(name_or_path)
    is_path = isinstance(name_or_path, Path) or text.endswith(_SUFFIX) or os.sep in text
    return read_recipe(Path(text) if is_path else recipe_path(text), overrides, seed, source=text)
