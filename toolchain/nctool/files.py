"""Write files so that a reader sees the old content or the new one, never a part.

In: a path and a way to fill it. Out: the file, or a UsageError and nothing at all. Imports only errors.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path

from nctool.errors import UsageError


@contextmanager
def replace_atomically(path: Path, option: str = "-o") -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it over `path` when the block ends well.

    The temporary file is flushed to disk before the move and removed when the block raises.

    Args:
        path: the file to write; its folder must exist and be writable.
        option: how the user named it, for the hint.

    Raises:
        UsageError: the folder is missing or cannot be written, or `path` is something else than a file.
    """
    path = Path(path)
    require_writable(path, option)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error, option) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error, option) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_directory(path: Path) -> Path:
    """Create `path` and its parents; a UsageError says why it cannot be done."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Path(path)


def require_writable(path: Path, option: str) -> None:
    """Refuse a file that `replace_atomically` could not write, before the work that it is to hold is done.

    Args:
        path: the file to write; one that is there must be a plain file.
        option: how the user named it, for the hint.

    Raises:
        UsageError: the folder is missing or cannot be written, or `path` is something else than a file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise OSError(EISDIR, os.strerror(EISDIR))
        if path.exists() and not path.is_file():
            raise OSError("it is a device, a pipe or a socket")
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(path, error, option) from error


def remove_unfinished(path: Path) -> None:
    """Delete what a killed process left of its writing of `path`; `path` itself is whole, and stays."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*"):
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError, option: str = "-o") -> UsageError:
    """Describe a failed write by its path and the system's reason; `option` is how to name another place."""
    return UsageError(
        f"cannot write `{path}`: {(error.strerror or str(error)).lower()}",
        hint=f"choose another place with {option}, or make the folder and give yourself the right to write there",
    )


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
