"""What a user calls a network: a file of another tool, code that builds it, or a recipe; nothing of it is loaded here.

In: what was typed. Out: what it is, or a UsageError where it stands for no network. Must not import torch.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from nctool.errors import UsageError
from nctool.files import cannot_read, plain_file
from nctool.training.checkpoints.names import CHECKPOINT_NAME
from nctool_models import list_recipes, load_recipe

_ALLOWED = "a network file, a file.py:function or package.module:function that builds the network, or a recipe"


def is_code(name: str) -> bool:
    """Return whether a name says which code builds a network, and is no path of a file."""
    place, colon, function = name.rpartition(":")
    return bool(colon and place and function.isidentifier()) and not Path(name).exists()


def is_file(name: str) -> bool:
    """Return whether a name is the path of a file that is neither code nor a recipe."""
    return Path(name).is_file() and Path(name).suffix not in (".py", ".toml")


def is_recipe(name: str) -> bool:
    """Return whether a name is that of a recipe, or the path of its file."""
    return name in list_recipes() or name.endswith(".toml")


def require_network(name: str) -> None:
    """Refuse a name that stands for no network."""
    place, colon, _ = name.rpartition(":")
    if colon and place and not is_file(name):
        _require_code(Path(place))
    elif is_recipe(name):
        load_recipe(name)
    elif Path(name).suffix and not Path(name).exists():
        raise UsageError(f"model: no file `{name}`", hint="name a network file, file.py:function, or a recipe")
    elif not is_file(name):
        raise UsageError(f"model: `{name}` is none, allowed {_ALLOWED}", hint="see `nctool recipes` for the names")


def require_trained(name: str) -> None:
    """Refuse a name that stands neither for a network file nor for code: such a network has no weights."""
    if is_code(name):
        _require_code(Path(name.rpartition(":")[0]))
    else:
        _require_network_file(Path(name))


def _require_code(path: Path) -> None:
    if path.suffix == ".py" and not path.is_file():
        raise UsageError(f"model: no file `{path}`")


def _require_network_file(path: Path) -> None:
    """Refuse what is often given in place of a network file."""
    if path.suffix == ".py":
        raise UsageError(
            f"model: `{path}` does not say what builds the network, allowed file.py:function",
            hint="name a function that returns the network with its weights",
        )
    if path.suffix == ".net":
        raise UsageError(f"model: `{path}` is converted already", hint=f"run it: nctool run-sim {quote(str(path))}")
    if (path / CHECKPOINT_NAME).exists():
        raise UsageError(
            f"model: `{path}` is the folder of a training run",
            hint=f"export it: nctool export {quote(str(path))} -o MODEL.net",
        )
    try:
        plain_file(path)
    except OSError as error:
        raise cannot_read(path, error) from error
