"""Lava on Python 3.11 to 3.13: only the verified files are changed, only while they load, and nothing on 3.10."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import nctool
from nctool.errors import EngineError
from nctool_deploy.lava import compatibility
from nctool_deploy.lava.compatibility import KNOWN_VERSIONS, PATCHES, Patch, PatchFinder, make_importable, require_lava
from tests.support.runs import run_command

NEWER = sys.version_info >= (3, 11)
WITHOUT = "without Lava: `nctool run-sim MODEL.net --engine fast`, `nctool verify MODEL.net --engines reference,fast`"
PINNED_HINT = f"`pip install nctool[lava]`; {WITHOUT}"
LOOSE = "pip install --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0"
LOOSE_HINT = f"`pip install nctool[lava]`, then `{LOOSE}` (docs/LAVA.md); {WITHOUT}"
ANOTHER = "one = 1  # patched by somebody\n"
ANOTHER_FILE = (
    "engine `lava`: `example.py` of lava-nc has SHA-256 efd23145279e, allowed 1e476111f652\n"
    f"hint: `{LOOSE} --force-reinstall`; {WITHOUT}"
)


class Machine:
    """What nctool sees of a Python with Lava: its version, its finders, and the packages in a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.versions = folder, dict(KNOWN_VERSIONS)
        self.sys = SimpleNamespace(version_info=(3, 12, 0), meta_path=["Python's own"])
        monkeypatch.setattr(compatibility, "sys", self.sys)
        monkeypatch.setattr(compatibility, "version", self.version)
        monkeypatch.setattr(compatibility, "distribution", lambda name: SimpleNamespace(locate_file=folder.joinpath))
        monkeypatch.setattr(compatibility, "PATCHES", {"example": self.install("one = 1\n")})

    def version(self, package: str) -> str:
        if package not in self.versions:
            raise PackageNotFoundError(package)
        return self.versions[package]

    def install(self, source: str) -> Patch:
        """Write a file of Lava; return a patch that verifies it and makes its 1 a 2."""
        (self.folder / "example.py").write_text(source)
        digest = hashlib.sha256(source.encode()).hexdigest()
        return Patch("lava-nc", "example.py", digest, {"= 1": "= 2"})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    yield Machine(monkeypatch, tmp_path)
    for name in ("example", "neighbour"):
        sys.modules.pop(name, None)


# --- what is allowed ----------------------------------------------------


@pytest.mark.parametrize("python", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_the_known_lava_is_allowed_on_four_pythons(machine: Machine, python: tuple[int, int]) -> None:
    machine.sys.version_info = (*python, 0)
    require_lava()


def test_a_newer_python_is_refused(machine: Machine) -> None:
    machine.sys.version_info = (3, 14, 0)
    with pytest.raises(EngineError) as caught:
        make_importable()
    assert str(caught.value) == (
        "engine `lava`: this is Python 3.14, allowed 3.10 to 3.13\n"
        f"hint: make an environment with one of those; {WITHOUT}"
    )


@pytest.mark.parametrize(("python", "hint"), [((3, 10), PINNED_HINT), ((3, 12), LOOSE_HINT)])
def test_a_missing_lava_says_how_to_get_it(machine: Machine, python: tuple[int, int], hint: str) -> None:
    machine.sys.version_info = (*python, 0)
    del machine.versions["lava-nc"]
    with pytest.raises(EngineError) as caught:
        require_lava()
    assert str(caught.value) == f"engine `lava`: lava-nc 0.10.0 is not installed\nhint: {hint}"


@pytest.mark.parametrize(("python", "hint"), [((3, 10), PINNED_HINT), ((3, 12), LOOSE_HINT)])
def test_another_lava_is_refused(machine: Machine, python: tuple[int, int], hint: str) -> None:
    machine.sys.version_info = (*python, 0)
    machine.versions["lava-dl"] = "0.5.0"
    with pytest.raises(EngineError) as caught:
        require_lava()
    assert str(caught.value) == f"engine `lava`: lava-dl 0.5.0 is installed, allowed 0.6.0\nhint: {hint}"


def test_the_way_out_is_in_the_words_of_the_caller(
    machine: Machine, digits_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del machine.versions["lava-nc"]
    with pytest.raises(EngineError) as caught:
        nctool.verify(digits_model, engines="lava")
    assert caught.value.hint == (
        f"`pip install nctool[lava]`, then `{LOOSE}` (docs/LAVA.md); without Lava: "
        '`nctool.run_sim("MODEL.net", engine="fast")`, `nctool.verify("MODEL.net", engines="reference,fast")`'
    )
    ended = run_command(capsys, monkeypatch, "verify", digits_model, "--engines", "lava")
    assert ended.err.endswith(f"\nhint: {LOOSE_HINT}\n")


def test_a_file_that_was_not_verified_is_refused(machine: Machine) -> None:
    (machine.folder / "example.py").write_text(ANOTHER)
    with pytest.raises(EngineError) as caught:
        make_importable()
    assert str(caught.value) == ANOTHER_FILE
    assert machine.sys.meta_path == ["Python's own"]


def test_a_file_that_is_not_there_is_refused(machine: Machine) -> None:
    (machine.folder / "example.py").unlink()
    with pytest.raises(EngineError) as caught:
        require_lava()
    assert str(caught.value) == (
        f"engine `lava`: `example.py` of lava-nc is missing\nhint: `{LOOSE} --force-reinstall`; {WITHOUT}"
    )


def test_the_documents_give_the_command_of_the_hint() -> None:
    page = Path(__file__).parents[2] / "docs" / "LAVA.md"
    assert f"$ {LOOSE}\n" in page.read_text(encoding="utf-8")


# --- what is changed ----------------------------------------------------


def test_on_python_3_10_nothing_is_touched_or_even_looked_for(machine: Machine) -> None:
    machine.sys.version_info = (3, 10, 13)
    machine.versions.clear()
    make_importable()
    assert machine.sys.meta_path == ["Python's own"]


def test_the_finder_comes_first_and_once(machine: Machine) -> None:
    make_importable()
    make_importable()
    first, *others = machine.sys.meta_path
    assert isinstance(first, PatchFinder)
    assert others == ["Python's own"]


def test_a_patched_module_is_changed_in_memory_only(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.folder / "neighbour.py").write_text("one = 1\n")
    monkeypatch.syspath_prepend(machine.folder)
    monkeypatch.setattr(sys, "meta_path", [PatchFinder(), *sys.meta_path])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    changed, neighbour = (importlib.import_module(name) for name in ("example", "neighbour"))
    assert (changed.one, neighbour.one) == (2, 1)
    assert (machine.folder / "example.py").read_text() == "one = 1\n"
    assert [path.name.partition(".")[0] for path in machine.folder.glob("__pycache__/*")] == ["neighbour"]


def test_a_patched_module_that_python_finds_elsewhere_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "example.py").write_text(ANOTHER)
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.setattr(sys, "meta_path", [PatchFinder(), *sys.meta_path])
    with pytest.raises(EngineError) as caught:
        importlib.import_module("example")
    assert str(caught.value) == ANOTHER_FILE


# --- Lava itself --------------------------------------------------------


@pytest.mark.lava
@pytest.mark.parametrize("module", PATCHES)
def test_every_replacement_is_made_once_and_keeps_the_lines(module: str) -> None:
    patch = PATCHES[module]
    source = patch.installed()
    assert [source.decode().count(old) for old in patch.replacements] == [1] * len(patch.replacements)
    before, after = source.splitlines(), patch.apply(source).splitlines()
    assert len(before) == len(after)
    n_changed = sum(one != other for one, other in zip(before, after, strict=True))
    assert n_changed == len(patch.replacements)
    compile(patch.apply(source), module, "exec")


@pytest.mark.lava
def test_only_four_dataclasses_of_lava_become_hashable() -> None:
    patch = PATCHES["lava.magma.compiler.var_model"]
    assert re.findall(rb"unsafe_hash", patch.installed()) == []
    assert re.findall(rb"@dataclass\(unsafe_hash=True\)\nclass (\w+):", patch.apply(patch.installed())) == [
        b"ByteEncoder",
        b"CoreEncoder",
        b"ChipEncoder",
        b"AxonEncoder",
    ]


@pytest.mark.lava
def test_the_runner_changes_lava_and_spares_torch_where_python_is_newer_only() -> None:
    script = textwrap.dedent("""
        import json, sys
        import nctool_deploy.lava.runner.run
        from lava.magma.compiler import var_model

        print(json.dumps({
            "finders": [type(finder).__name__ for finder in sys.meta_path].count("PatchFinder"),
            "loader": type(var_model.__spec__.loader).__name__,
            "hashable": var_model.ByteEncoder.__hash__ is not None,
            "loaded": sorted({"torch", "torchvision", "cv2"} & set(sys.modules)),
        }))
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    untouched = {
        "finders": 0,
        "loader": "SourceFileLoader",
        "hashable": False,
        "loaded": ["cv2", "torch", "torchvision"],
    }
    changed = {"finders": 1, "loader": "PatchLoader", "hashable": True, "loaded": []}
    assert json.loads(ended.stdout.splitlines()[-1]) == (changed if NEWER else untouched)
