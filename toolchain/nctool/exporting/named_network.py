"""A network by what a user calls it on the command line: a file of another tool, code that builds it, or a recipe.

In: the path of an ONNX, torch.export or TorchScript file, `module.py:function`, `package.module:function`, or the name
or path of a recipe. Out: a torch module, and the shape of its images.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import nn

from nctool.errors import NctoolError, UsageError, first_line
from nctool.exporting.network_names import is_file, require_network
from nctool.importing.open_file import read_network
from nctool.ir.network import Shape
from nctool_models import build_model, load_dataset, load_recipe

if TYPE_CHECKING:
    from nctool.recipe.schema import Recipe

_LOADED = "__nctool_model__"
"""What a file that is loaded is called: with its own name it could take the place of another module."""

_SHAPE_HINT = "give the shape of an image with --shape C,H,W"


def named_network(name: str, shape: Shape | None, *, is_typed: bool = False) -> tuple[nn.Module, Shape]:
    """Return the network that a name stands for, and the shape of an image.

    `file.py:function` runs the code of that file, as `python file.py` would, and calls the function without arguments.

    Args:
        name: what was typed.
        shape: of an image, where it was given.
        is_typed: the user gave the shape, and no images.

    Raises:
        UsageError: there is no such network, its code fails, or the shape is missing.
        RecipeError: the recipe is wrong.
        FormatError, UnsupportedError: as `nctool.importing.open_network`.
    """
    require_network(name)
    if is_file(name):
        file = read_network(Path(name), shape, is_typed=is_typed)
        return file.network, file.sizes
    place, colon, attribute = name.rpartition(":")
    if colon and place:
        with redirect_stdout(sys.stderr):  # what its code prints is no report
            return _built(_module(place), attribute, name), _required(shape, name)
    return _of_recipe(name, shape)


def _required(shape: Shape | None, name: str) -> Shape:
    if shape is None:
        raise UsageError(f"model: `{name}` does not say the shape of its images", hint=_SHAPE_HINT)
    return shape


def _module(place: str) -> ModuleType:
    """Import a file or a module by its dotted name; modules beside it are found."""
    path = Path(place)
    folder = str(path.parent.resolve()) if path.suffix == ".py" else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return _loaded(path) if path.suffix == ".py" else importlib.import_module(place)
    except NctoolError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"model: `{place}` cannot be imported ({_said(error)})") from error
    finally:
        sys.path.remove(folder)


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_LOADED, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"model: `{path}` is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_LOADED] = module  # as its own classes expect
    spec.loader.exec_module(module)
    return module


def _built(module: ModuleType, attribute: str, name: str) -> nn.Module:
    """Return what a function gives, a class makes, or a name holds."""
    if not hasattr(module, attribute):
        public = [own for own, value in vars(module).items() if callable(value) and not own.startswith("_")]
        raise UsageError(f"model: `{name}`: no `{attribute}` there", hint=f"it has {', '.join(public[:20]) or 'none'}")
    value = getattr(module, attribute)
    if not isinstance(value, nn.Module):
        value = _called(value, name)
    if not isinstance(value, nn.Module):
        raise UsageError(f"model: `{name}` gives {type(value).__name__}, allowed a torch.nn.Module")
    return value


def _called(function: object, name: str) -> object:
    if not callable(function):
        return function
    try:
        return function()
    except NctoolError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"model: `{name}` fails ({_said(error)})",
            hint="it is called without arguments, and returns the network",
        ) from error


def _said(error: Exception | SystemExit) -> str:
    """Return what the code of a user raised, as a part of a message."""
    return f"{type(error).__name__}: {first_line(error)}" if isinstance(error, Exception) else "it ends the program"


def _of_recipe(name: str, shape: Shape | None) -> tuple[nn.Module, Shape]:
    """Build the network of a recipe, for images of a shape or those of its data set."""
    recipe = load_recipe(name)
    found = shape if shape is not None else _shape_of_data(recipe)
    if len(found) != 3:
        given = ",".join(map(str, found))
        raise UsageError(f"--shape {given}: allowed C,H,W for the network of a recipe", hint=_SHAPE_HINT)
    return build_model(recipe.model, (found[0], found[1], found[2]), _N_CLASSES, recipe.activation), found


_N_CLASSES = 10
"""Classes of the network of a recipe: they change the last layer only."""


def _shape_of_data(recipe: Recipe) -> Shape:
    data = recipe.data
    try:
        images = load_dataset(data.name, image_size=data.image_size, channels=data.channels, download=False).x_train
    except NctoolError as error:
        where = f"model: the shape of the images of recipe `{recipe.name}` is not known"
        raise UsageError(f"{where} ({error.message})", _SHAPE_HINT) from error
    return tuple(images.shape[1:])
