"""Paths that lead to no file, and disks that are full or not to be written: one line, exit 2, nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import resource
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import nctool
from nctool.errors import FormatError, NctoolError, UsageError
from nctool.running.arrays import load_array
from nctool.training.checkpoints.state import load_state
from nctool_deploy.targets.target import find_target
from nctool_models import load_dataset, load_recipe
from tests.support.small_run import small_fit, small_recipe

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "recipe": ("r.toml", load_recipe),
    "target": ("t.toml", find_target),
    "data set": ("d.npz", load_dataset),
    "array": ("x.npy", load_array),
    "checkpoint": ("c.safetensors", lambda path: nctool.export(path, path.parent / "m.net")),
    "state": ("last.safetensors", lambda path: load_state(path.parent, small_recipe())),
    "epochs": ("metrics.jsonl", lambda path: nctool.history(path.parent)),
    "network": ("m.net", nctool.inspect),
}
KINDS = {
    "pipe": "it is a pipe, allowed: a file",
    "socket": "it is a socket, allowed: a file",
    "device": "it is a device, allowed: a file",
    "loop": "too many levels of symbolic links",
}


def put(kind: str, path: Path) -> None:
    """Make something that is no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # the name of a socket may have a hundred characters
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.fchdir(here)
        os.close(here)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(NctoolError) as caught:
        call(*arguments, **options)
    assert (type(caught.value).exit_code, "\n" in caught.value.message) == (2, False)
    return caught.value.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_opened(tmp_path, reader, kind):
    name, call = READERS[reader]
    path = tmp_path / name
    put(kind, path)
    found = refusal(call, path)
    if kind == "loop" and reader in ("checkpoint", "state"):
        assert found in (f"no checkpoint at `{path}`", f"nothing to resume: no `{path}`")
    else:
        noun = f"{reader} " if reader in ("recipe", "target") else ""
        assert found == f"cannot read {noun}`{path}`: {KINDS[kind]}"


@pytest.mark.vision
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_no_file_is_not_opened(tmp_path, kind):
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    put(kind, tmp_path / "train" / "cat" / "1.png")
    np.save(tmp_path / "x.npy", np.zeros(1))
    (tmp_path / "x.npy").rename(tmp_path / "test" / "cat" / "1.png")
    assert refusal(load_dataset, tmp_path) == f"cannot read `{tmp_path}/train/cat/1.png`: {KINDS[kind]}"


def test_a_network_that_another_program_writes_is_no_bad_file(digits_model, tmp_path):
    path = tmp_path / "m.net"
    path.write_bytes(digits_model.read_bytes())
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 does for a writer
        with pytest.raises(UsageError) as caught:
            nctool.inspect(path)
    assert str(caught.value) == (
        f"cannot read `{path}`: another program holds it open for writing\n"
        "hint: close it there, or wait until it is written"
    )
    assert nctool.inspect(path).steps == 4


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (
            errno.ENOLCK,
            "its file system has no locks\n"
            "hint: set the environment variable HDF5_USE_FILE_LOCKING=FALSE, or copy the file",
        ),
        (errno.EACCES, "permission denied\nhint: give yourself the right to read it"),
        (errno.EIO, "input/output error"),
    ],
)
def test_what_the_system_refuses_is_no_bad_file(tmp_path, monkeypatch, number, text):
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "m.net").touch()
    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(UsageError) as caught:
        nctool.inspect(tmp_path / "m.net")
    assert str(caught.value) == f"cannot read `{tmp_path}/m.net`: {text}"


def archive(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def as_npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


SOUND = {
    "x_train": as_npy(np.zeros((4, 4, 4), np.uint8)),
    "y_train": as_npy(np.arange(4)),
    "x_test": as_npy(np.zeros((4, 4, 4), np.uint8)),
    "y_test": as_npy(np.arange(4)),
}


def with_byte(content: bytes, offset: int, value: int) -> bytes:
    """Change a byte in the header of every member, at its place and in the directory at the end."""
    for mark, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        parts = content.split(mark)
        changed = [part[: offset + shift - 4] + bytes([value]) + part[offset + shift - 3 :] for part in parts[1:]]
        content = mark.join([parts[0], *changed])
    return content


@pytest.mark.parametrize(
    "content",
    [
        with_byte(archive(**SOUND), 6, 1),  # encrypted
        with_byte(archive(**SOUND), 8, 99),  # a method that zipfile does not know
        with_byte(archive(**SOUND), 8, 12),  # another one than was used
        with_byte(archive(**SOUND), 8, 14),
        archive(**SOUND | {"y_test": b"no array"}),
        archive(**SOUND | {"x_test": b"\x93NUMPY\x01\x00" + b"\xff" * 99}),
        archive(**SOUND | {"layout": b""}),
    ],
    # without names, they would be bytes of a zip file, in which the time stands: another name for each worker of xdist
    ids=["encrypted", "method 99", "method 12", "method 14", "no array", "no header", "nothing"],
)
def test_an_archive_that_cannot_be_read_is_a_bad_file(tmp_path, content):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        load_dataset(path)
    assert caught.value.message == f"`{path}` is no readable .npz file"


@pytest.mark.parametrize("call", [nctool.inspect, lambda path: nctool.export(path, path.parent / "m.net")])
def test_a_broken_archive_in_place_of_a_checkpoint_or_a_network_is_a_bad_file(tmp_path, call):
    path = tmp_path / "odd"
    path.write_bytes(archive(**SOUND).replace(b"PK\1\2", b"PK\1\0"))
    assert zipfile.is_zipfile(path)
    with pytest.raises(FormatError) as caught:
        call(path)
    assert caught.value.message.startswith(f"`{path}`")


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `n_bytes`, as on a disk that has no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def writers(run: Path, model: Path, out: Path) -> dict[Path, Callable[[], Any]]:
    """Return what writes each file."""
    spikes, layers, report = (out / name for name in ("spikes.npz", "layers.npz", "report.xml"))
    return {
        out / "m.net": lambda: nctool.export(run, out / "m.net", steps=2),
        spikes: lambda: nctool.run_sim(model, samples=9, output=spikes),
        layers: lambda: nctool.verify(model, engines="fast", samples=2, layers=layers),
        report: lambda: nctool.verify(model, engines="fast", samples=2, junit=report),
        **{out / f"h.{kind}": lambda kind=kind: nctool.history(run, plot=out / f"h.{kind}") for kind in PLOTS},
    }


PLOTS = ("svg", "png", "pdf")
NAMES = ("m.net", "spikes.npz", "layers.npz", "report.xml", *(f"h.{kind}" for kind in PLOTS))


@pytest.mark.parametrize("n_bytes", [0, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_what_was_there(digits_run, digits_model, tmp_path, name, n_bytes):
    path = tmp_path / name
    path.touch()
    write = writers(digits_run, digits_model, tmp_path)[path]
    write()
    whole = path.read_bytes()
    assert len(whole) > 1000 or name == "report.xml"
    with full_disk(min(n_bytes, len(whole) - 1)):
        assert refusal(write) == f"cannot write `{path}`: file too large"
    assert contents(tmp_path) == {name: whole}


@pytest.mark.parametrize("n_bytes", [0, 500, 6000])
def test_a_full_disk_ends_a_training_run_in_good_order(tmp_path, n_bytes):
    with full_disk(n_bytes):
        found = refusal(small_fit, tmp_path)
    assert found in [
        f"cannot write `{tmp_path / name}`: file too large" for name in ("metrics.jsonl", "last.safetensors")
    ]
    assert not [name for name in contents(tmp_path) if name != "metrics.jsonl"]
    small_fit(tmp_path)
    small_fit(tmp_path / "alone")
    name = "checkpoint.safetensors"
    assert (tmp_path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_run_that_may_not_be_replaced_says_so(tmp_path, monkeypatch):
    small_fit(tmp_path)
    before = contents(tmp_path)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert refusal(small_fit, tmp_path) == f"cannot write `{tmp_path}/checkpoint.safetensors`: read-only file system"
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "last.safetensors"])
def test_a_pipe_in_the_place_of_a_file_of_the_run_is_not_written_to(tmp_path, name):
    os.mkfifo(tmp_path / name)
    found = refusal(small_fit, tmp_path)
    assert found == f"cannot write `{tmp_path}/{name}`: it is a device, a pipe or a socket"


def test_a_link_to_itself_is_no_data_set(digits_model, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert refusal(nctool.run_sim, digits_model, dataset=loop, output=tmp_path / "o.npz").startswith("no data set ")
