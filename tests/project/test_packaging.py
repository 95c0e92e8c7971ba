"""What is installed: wheel and sdist hold what they should and nothing else, and are the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from nctool.toml import DocumentKind, parse_document, read_document
from nctool_deploy.lava.compatibility import LOOSE_INSTALL

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "nctool": ROOT / "toolchain" / "nctool",
    "nctool_models": ROOT / "models" / "nctool_models",
    "nctool_deploy": ROOT / "deploy" / "nctool_deploy",
}
MADE = {"runs", "data", "build", "dist", "nctool-demo"}
"""What work leaves at the top of a checkout."""

ADDED = {"PKG-INFO", "pyproject.toml", ".gitignore"}
"""What hatchling adds to an sdist of its own."""


def built(kind: str, tree: Path, folder: Path, umask: int = 0o022) -> Path:
    """Build a `wheel` or an `sdist` as pip would, without a build environment and so without a network."""
    program = f"import os; os.umask({umask}); from hatchling.build import build_{kind}; build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=tree, check=True, stdin=subprocess.DEVNULL)
    (path,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def files(folder: Path) -> set[str]:
    """Return every file below a folder, caches left out."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {f"{package}/{name}" for package, folder in PACKAGES.items() for name in files(folder)}


def test_the_wheel_holds_types_recipes_targets_networks_programs_and_the_licence(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert "nctool_models/recipes/digits-cnn.toml" in names
    assert "nctool_models/zoo/mnist-lenet.net" in names
    assert "nctool_deploy/targets/files/loihi2.toml" in names
    assert "nctool_deploy/bundle/files/run.py" in names
    assert "nctool-0.1.0.dist-info/licenses/LICENSE" in names


def test_the_wheel_installs_the_command(wheel: Path) -> None:
    entry_points = ConfigParser()
    with ZipFile(wheel) as archive:
        entry_points.read_string(archive.read("nctool-0.1.0.dist-info/entry_points.txt").decode())
    assert dict(entry_points["console_scripts"]) == {"nctool": "nctool.commands.application:main"}


def listed() -> set[str]:
    """Return the folders and files at the top of the checkout that the sdist is to hold."""
    kind = DocumentKind("project", ValueError, "")  # type: ignore[arg-type]
    content = parse_document(read_document(ROOT / "pyproject.toml", kind), kind, "pyproject.toml")
    return set(content["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])


def test_the_sdist_holds_what_is_listed_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {name for name in listed() if (ROOT / name).is_file()}
    for name in listed() - expected:
        expected |= {f"{name}/{each}" for each in files(ROOT / name)}
    assert names == expected | ADDED


def test_whatever_is_at_the_top_of_the_checkout_is_in_the_sdist_or_hidden() -> None:
    top = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert top - listed() - ADDED <= MADE


def test_both_are_the_same_bytes_wherever_whenever_and_whoever_builds_them(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    """From the sdist itself, unpacked: other folder, times and permissions."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            member.mode, member.mtime = member.mode & 0o700, 1_000_000_000
            archive.extract(member, tmp_path)
    (tree,) = tmp_path.iterdir()
    for kind, first in (("wheel", wheel), ("sdist", sdist)):
        (tmp_path / kind).mkdir()
        again = built(kind, tree, tmp_path / kind, umask=0o077)
        assert (again.name, again.read_bytes()) == (first.name, first.read_bytes()), kind


# --- the image of Docker ----------------------------------------------------------------------------------------------


def test_the_dockerfile_copies_what_is_there_and_installs_the_verified_lava() -> None:
    """No Docker runs here; what a build would stumble on first is looked at."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert {folder.relative_to(ROOT).parts[0] for folder in PACKAGES.values()} <= copied
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    text = "\n".join(lines)
    assert f"{LOOSE_INSTALL.removeprefix('pip install ')}\n" in text
    assert "--constraint constraints/py311-core.txt '.[lava]'" in text
    assert "FROM python:3.11-" in text
