"""The zip archives in which torch saves: what they hold, and tensors from them, without running anything.

In: a path. Out: the bytes of members, or tensors; a FormatError where the archive is damaged or holds objects that run
code when they are loaded.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nctool.errors import FormatError, first_line


class Archive:
    """An archive that was opened.

    Args:
        path: of the file.

    Raises:
        FormatError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self.damaged(first_line(error)) from error
        self.names = self._zip.namelist()

    def damaged(self, reason: str) -> FormatError:
        """Return the error that says so."""
        return FormatError(
            f"`{self.path}`: truncated or damaged ({reason})", hint="save the network again, or copy it again"
        )

    def find(self, ending: str) -> str | None:
        """Return the one member whose path ends like this."""
        found = [name for name in self.names if f"/{name}".endswith(f"/{ending}")]
        if len(found) > 1:
            raise self.damaged(f"{len(found)} members are called `{ending}`")
        return found[0] if found else None

    def read(self, name: str) -> bytes:
        """Return the bytes of a member; torch stores them as they are, so that a small file claims no large ones."""
        try:
            if self._zip.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise self.damaged(f"`{name}` is compressed")
            return self._zip.read(name)
        except (
            KeyError,
            zipfile.BadZipFile,
            EOFError,
            OSError,
            ValueError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise self.damaged(first_line(error)) from error

    def json(self, name: str) -> Any:
        """Return what a member says in JSON."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"`{name}`: {first_line(error)}") from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that `torch.save` put into a member; anything else in it is refused.

        Raises:
            FormatError: it is damaged, or holds objects.
        """
        content = self.read(name)
        found = {} if not content else load_tensors(io.BytesIO(content))
        if found is None:
            raise FormatError(
                f"`{self.path}`: `{name}` holds more than tensors, and could run code when it is loaded",
                hint="export a network whose constants are tensors",
            )
        return found


def load_tensors(source: io.BytesIO | Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file of `torch.save` by name, None if it holds anything else or is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles in a form that torch does not write
            found = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, IndexError, TypeError):
        return None
    except (AttributeError, AssertionError, ImportError):
        return None
    named = isinstance(found, dict) and all(isinstance(it, str) for it in found)
    return found if named and all(isinstance(it, Tensor) for it in found.values()) else None
