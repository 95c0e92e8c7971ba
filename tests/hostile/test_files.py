"""Files are written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nctool.errors import UsageError
from nctool.files import cannot_write, make_directory, replace_atomically, require_writable
from tests.support.refusals import refusal

HINT = "hint: choose another place with -o, or make the folder and give yourself the right to write there"


def write(path: Path, content: bytes) -> None:
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_x(path: Path) -> None:
    write(path, b"x")


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("before", [None, b"a longer old content"])
def test_the_new_content_is_there_and_nothing_else(tmp_path, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_the_old_content_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replace_atomically(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent.parent == tmp_path  # a move within one file system
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_content_and_no_other_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replace_atomically(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


WRITER = """
import sys
from pathlib import Path
from nctool.files import replace_atomically

with replace_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process write `path`, and wait in the middle of it."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        yield writer


def test_what_a_killed_process_left_goes_with_the_next_file_of_that_folder(tmp_path):
    with another_writer(tmp_path / "one") as writer:
        writer.kill()
    (left,) = names(tmp_path)
    assert left.startswith(".nctool-")
    write(tmp_path / "other", b"new")
    assert names(tmp_path) == ["other"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    with another_writer(tmp_path / "file") as writer:
        write(tmp_path / "file", b"ours")
        assert (tmp_path / "file").read_bytes() == b"ours"
        writer.communicate("")
    assert writer.returncode == 0
    assert (tmp_path / "file").read_bytes() == b"half"  # whole, as far as that process is concerned
    assert names(tmp_path) == ["file"]


def test_files_of_others_are_left_alone(tmp_path):
    """As an editor's, or a folder that somebody called so."""
    (tmp_path / ".file.swp").write_bytes(b"")
    (tmp_path / ".nctool-notes").mkdir()
    (tmp_path / ".nctool-aaaaaaaa.part").write_bytes(b"")
    write(tmp_path / "file", b"new")
    assert names(tmp_path) == [".file.swp", ".nctool-aaaaaaaa.part", ".nctool-notes", "file"]


def test_a_file_system_without_locks_can_be_written(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(38, "Function not implemented")

    (tmp_path / ".nctool-aaaaaaaa.part").mkdir()
    monkeypatch.setattr("fcntl.flock", refuse)
    write(tmp_path / "file", b"new")
    assert names(tmp_path) == [".nctool-aaaaaaaa.part", "file"]


def test_a_folder_that_was_taken_for_left_over_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    known, removed = fcntl.flock, []

    def slow(lock: int, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir()
        known(lock, operation)

    monkeypatch.setattr("fcntl.flock", slow)
    write(tmp_path / "file", b"new")
    assert len(removed) == 1
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_said(tmp_path):
    path = tmp_path / "file"

    def fill(path: Path) -> None:
        with replace_atomically(path):
            raise OSError(28, "No space left on device")

    assert refusal(UsageError, fill, path) == f"cannot write `{path}`: no space left on device\n{HINT}"
    assert names(tmp_path) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_file_has_the_rights_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"x")
        assert os.umask(umask) == umask  # the mask is left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_missing_folder_is_said(tmp_path):
    path = tmp_path / "none" / "file"
    assert refusal(UsageError, write_x, path) == f"cannot write `{path}`: no such file or directory\n{HINT}"


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "model.net"
    assert refusal(UsageError, write_x, path) == f"cannot write `{path}`: not a directory\n{HINT}"
    assert refusal(UsageError, make_directory, path) == f"cannot write `{path}`: not a directory\n{HINT}"


def test_a_folder_is_not_replaced(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    assert refusal(UsageError, write_x, path) == f"cannot write `{path}`: is a directory\n{HINT}"
    assert names(tmp_path) == ["folder"]


def test_a_name_that_is_too_long_is_said(tmp_path):
    path = tmp_path / ("x" * 300)
    assert refusal(UsageError, write_x, path) == f"cannot write `{path}`: file name too long\n{HINT}"


def test_a_folder_that_may_not_be_written_is_said(tmp_path, monkeypatch):
    """The superuser may write anywhere: the system's refusal is put in its place."""

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    path = tmp_path / "file"
    assert refusal(UsageError, write_x, path) == f"cannot write `{path}`: permission denied\n{HINT}"


def test_a_directory_is_made_with_its_parents_or_kept(tmp_path):
    path = tmp_path / "a" / "b"
    assert make_directory(path) == path
    assert make_directory(path).is_dir()


def test_an_error_without_a_reason_of_the_system_says_its_text():
    assert str(cannot_write(Path("m.net"), OSError("Odd"))) == f"cannot write `m.net`: odd\n{HINT}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/file", "no such file or directory"), ("old/file", "not a directory"), (".", "is a directory")],
)
def test_what_cannot_be_written_is_refused_beforehand(tmp_path, name, reason):
    (tmp_path / "old").write_bytes(b"old")
    path = tmp_path / name
    assert refusal(UsageError, lambda each: require_writable(each, "--junit"), path) == (
        f"cannot write `{path}`: {reason}\n{HINT.replace('-o', '--junit')}"
    )
    assert names(tmp_path) == ["old"]


def test_a_pipe_is_refused_beforehand(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert refusal(UsageError, lambda each: require_writable(each, "-o"), path) == (
        f"cannot write `{path}`: it is a device, a pipe or a socket\n{HINT}"
    )


@pytest.mark.parametrize("before", [None, b"old"])
def test_what_can_be_written_is_let_through_and_left_as_it_is(tmp_path, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    require_writable(path, "-o")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({} if before is None else {"file": before})
