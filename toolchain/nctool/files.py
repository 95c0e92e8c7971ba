"""Write files so that a reader sees the old content or the new one, never a part.

In: a path and a way to fill it. Out: the file, or a UsageError and nothing at all. Imports only errors.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nctool.errors import UsageError


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it over `path` when the block ends well.

    The temporary file is flushed to disk before the move and removed when the block raises.

    Args:
        path: the file to write; its folder must exist and be writable.

    Raises:
        UsageError: the folder is missing or cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_directory(path: Path) -> Path:
    """Create `path` and its parents; a UsageError says why it cannot be done."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Path(path)


def cannot_write(path: Path, error: OSError) -> UsageError:
    """Describe a failed write by its path and the system's reason."""
    return UsageError(
        f"cannot write `{path}`: {(error.strerror or str(error)).lower()}",
        hint="choose another place with -o, or make the folder and give yourself the right to write there",
    )


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
