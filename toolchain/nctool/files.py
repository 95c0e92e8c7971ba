"""Files: read plain files only; write so that a reader sees the old content or the new one, never a part.

In: a path, and a way to fill it. Out: the path of a plain file; the file written, or a UsageError and nothing at all.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, EISDIR
from pathlib import Path

from nctool.errors import UsageError

PREFIX, SUFFIX = ".nctool-", ".part"
"""How the name of a folder for a file that is being written begins and ends."""
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def plain_file(path: Path | str) -> Path:
    """Return the path of a plain file; links are followed.

    Nothing else may be opened: a pipe without a writer would be waited for, a device may never end.

    Raises:
        OSError: there is none, it cannot be reached, or something else lies there.
    """
    path = Path(path)
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
    if kind != stat.S_IFREG:
        raise OSError(EINVAL, f"it is {_KINDS.get(kind, 'something else')}, allowed: a file")
    return path


def cannot_read(path: Path, error: OSError, what: str = "") -> UsageError:
    """Describe a failed read by its path and the system's reason; `what` is what messages call the file."""
    return UsageError(f"cannot read {what}`{path}`: {(error.strerror or str(error)).lower()}")


@contextmanager
def replace_atomically(path: Path, option: str = "-o") -> Iterator[Path]:
    """Yield the path of a file to write near `path`; move it over `path` when the block ends well.

    The file is flushed to disk before the move, and removed when the block raises. If a process was killed
    while it wrote into the same folder, what it left there is removed first.

    Args:
        path: the file to write; its folder must exist and be writable.
        option: how the user named it, for the hint.

    Raises:
        UsageError: the folder is missing or cannot be written, or `path` is something else than a file.
    """
    path = Path(path)
    require_writable(path, option)
    try:
        _remove_left_over(path.parent)
        with _locked_folder(path.parent) as folder:
            yield folder / path.name
            _flush(folder / path.name)
            (folder / path.name).replace(path)
    except OSError as error:
        raise cannot_write(path, error, option) from error


def write_atomically(path: Path, content: bytes | memoryview, option: str = "-o") -> None:
    """Write a whole file by `replace_atomically`, whose arguments and errors it has.

    A library that writes into memory first never meets a full disk, so it cannot fail in a way of its own.
    """
    with replace_atomically(path, option) as temporary:
        temporary.write_bytes(content)


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
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(path, error, option) from error


def cannot_write(path: Path, error: OSError, option: str = "-o") -> UsageError:
    """Describe a failed write by its path and the system's reason; `option` is how to name another place."""
    return UsageError(
        f"cannot write `{path}`: {(error.strerror or str(error)).lower()}",
        hint=f"choose another place with {option}, or make the folder and give yourself the right to write there",
    )


@contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    """Make a folder that is locked while the block runs, and removed then.

    The lock ends with the process, however it ends: a folder without one is left over.
    """
    folder, lock = _make_locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_locked(parent: Path) -> tuple[Path, int]:
    """Make a folder and lock it; try again if another process removed it as left over before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(SUFFIX, PREFIX, parent))
        lock = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: nothing is left over there
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_left_over(parent: Path) -> None:
    """Remove the folders of `_locked_folder` whose process is gone."""
    for folder in parent.glob(f"{PREFIX}????????{SUFFIX}"):
        with suppress(OSError), _opened(folder) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())
