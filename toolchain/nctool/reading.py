"""What may be opened for reading: plain files, so that nothing waits for ever or fills the memory.

In: a path. Out: the same path, or an OSError that says what lies there, for `cannot_read` to tell. Imports only errors.
"""

from __future__ import annotations

import os
import stat
from errno import EINVAL, EISDIR
from pathlib import Path

from nctool.errors import UsageError

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def plain_file(path: Path | str) -> Path:
    """Return the path of a plain file; links are followed.

    A pipe without a writer would be waited for, a device may never end.

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
