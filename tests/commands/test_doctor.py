"""`nctool doctor`: what works here is found by trying it, and what does not has a way out."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nctool
from nctool.errors import EngineError
from nctool.fast.choice import Choice
from nctool.reference.simulate import simulate
from nctool.surroundings import engines, libraries, machine, parts
from nctool.surroundings.libraries import Library
from nctool_deploy.lava import compatibility

HINT = "`pip install nctool[lava]`"


def no_lava(*_: object) -> Any:
    raise EngineError("engine `lava`: lava-nc 0.10.0 is not installed", hint=HINT)


@pytest.fixture
def without_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_lava", no_lava)


@pytest.mark.lava
def test_all_engines_work_where_the_tests_run(cli) -> None:
    ended = cli("doctor", "--json")
    assert (ended.code, ended.json["works"]) == (0, True)
    assert [(engine["name"], engine["works"], engine["reason"]) for engine in ended.json["engines"]] == [
        (name, True, "") for name in ("reference", "fast", "lava")
    ]


def test_without_lava_the_core_works_and_the_way_out_is_told(cli, without_lava: None) -> None:
    ended = cli("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"nctool {nctool.doctor().version} works here\n")
    told = "engine `lava` does not work: lava-nc 0.10.0 is not installed\n  hint: `pip install nctool[lava]`\n"
    assert told in ended.out
    assert "what does not work, and the way out: nctool runs without it\n" in ended.out
    assert ["torch", version("torch")] in [line.split()[:2] for line in ended.out.splitlines()]


def test_an_engine_that_gives_something_else_does_not_work(cli, without_lava: None, monkeypatch) -> None:
    def other(network: Any, pixels: Any) -> Any:
        trace = simulate(network, pixels)
        return replace(trace, logits=trace.logits + 1)

    monkeypatch.setattr(engines, "_fast", other)
    ended = cli("doctor")
    assert ended.code == 5
    assert ended.out.splitlines()[0].endswith(" does NOT work here")
    assert "engine `fast` does not work: it gives other spikes or logits than the reference engine\n" in ended.out


def test_a_broken_library_is_no_traceback(without_lava: None, monkeypatch) -> None:
    def broken(*_: object) -> Any:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(engines, "_fast", broken)
    monkeypatch.setattr(machine, "gpus", broken)
    report = nctool.doctor()
    (fast,) = [engine for engine in report.engines if engine.name == "fast"]
    assert not report.works
    assert fast.reason == "OSError: libtorch.so: cannot open shared object file"
    assert report.problems[0].hint == "install torch again, as https://pytorch.org says"


def test_kernels_that_are_not_used_say_why(without_lava: None, monkeypatch) -> None:
    notes = (
        "no integer kernels: torch 2 does not offer them",
        "no fused loops: Numba cannot compile them (no locator)",
    )
    monkeypatch.setattr("nctool.fast.choice.usable", lambda: Choice(notes=notes))
    problems = {problem.what: problem.hint for problem in nctool.doctor().problems}
    assert problems["kernels `int8` are not used: torch 2 does not offer them"] == (
        "float32 computes the same, more slowly; a newer torch may have them"
    )
    assert problems["kernels `fused` are not used: Numba cannot compile them (no locator)"] == (
        "torch computes the same, more slowly; set NUMBA_CACHE_DIR to a folder that you may write to, or install Numba "
        "again"
    )


def test_the_kernels_are_those_that_run(digits_model: Path) -> None:
    used = {kernel.name for kernel in parts.try_kernels() if kernel.works}
    ran = nctool.run_sim(digits_model, samples=2).kernels.values()
    assert used >= {name for kernels in ran for name in kernels.replace(",", " ").split()} & {"int8", "fused"}
    assert parts.compiled_cache() is None or parts.compiled_cache().is_dir()


def test_what_is_not_installed_is_told_with_the_extra(without_lava: None, monkeypatch) -> None:
    needed = (
        Library("h5py", None, ">=3.10"),
        Library("onnx", None, ">=1.16", "onnx"),
        Library("torchvision", "1", "", "vision"),
    )
    monkeypatch.setattr(libraries, "libraries", lambda: needed)
    problems = [(problem.what, problem.hint) for problem in nctool.doctor().problems]
    assert ("not installed: h5py, nctool needs it", "pip install 'nctool'") in problems
    assert ("not installed: onnx, for networks from ONNX files", "pip install 'nctool[onnx]'") in problems
    assert not [what for what, _ in problems if "torchvision" in what]


def test_the_libraries_are_those_of_the_distribution() -> None:
    found = {library.name: library for library in libraries.libraries()}
    assert found["torch"] == Library("torch", version("torch"), ">=2.3.1")
    assert found["torchvision"].extra == "vision"
    assert found["lava-nc"].extra == "lava"
    assert ("tomli" in found) == (sys.version_info < (3, 11))
    assert "ruff" not in found


def test_a_folder_that_cannot_be_written_is_told(without_lava: None, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert machine.place("data sets", tmp_path / "new" / "data").writable
    closed = machine.Place("data sets", tmp_path, writable=False, free=None)
    full = machine.Place("temporary files", tmp_path, writable=True, free=5)
    monkeypatch.setattr(machine, "places", lambda: (closed, full))
    problems = [(problem.what, problem.hint) for problem in nctool.doctor().problems]
    assert (
        f"data sets: `{tmp_path}` cannot be written",
        "name another folder with --data-dir, or set XDG_CACHE_HOME",
    ) in problems
    assert (f"temporary files: 0.0 GiB are free in `{tmp_path}`", "set TMPDIR to another folder") in problems


def test_gpus_are_told_with_their_memory_and_bfloat16(cli, without_lava: None, monkeypatch) -> None:
    capability = {0: (9, 0), 1: (7, 5)}
    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_name": lambda device: f"GPU {device.index}",
        "get_device_properties": lambda device: SimpleNamespace(total_memory=(device.index + 1) * 2**30),
        "get_device_capability": lambda device: capability[device.index],
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    assert machine.gpus() == (machine.Gpu("GPU 0", 2**30, True), machine.Gpu("GPU 1", 2**31, False))
    assert "\nGPU: GPU 0, 1.0 GiB, GPU 1, 2.0 GiB; training in bfloat16: " in cli("doctor").out
    assert nctool.doctor().bfloat16


@pytest.mark.parametrize("exact", [True, False])
def test_kernels_of_a_gpu_are_tried(monkeypatch, exact: bool) -> None:
    assert parts.try_gpu_kernels() == () or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    choice = Choice(products=True) if exact else Choice(products=True, float32=False, notes=("no float32: it rounds",))
    monkeypatch.setattr("nctool.fast.choice.usable_on", lambda device: choice)
    monkeypatch.setattr("nctool.activation.gpu_trial.failure", lambda *_: None if exact else "Triton is not there")
    found = {kernel.name: (kernel.works, kernel.reason) for kernel in parts.try_gpu_kernels()}
    if exact:
        assert found == {"GPU float32": (True, ""), "GPU activation": (True, "")}
    else:
        assert found == {"GPU float32": (False, "it rounds"), "GPU activation": (False, "Triton is not there")}


def test_a_gpu_that_fails_while_it_is_tried_is_told(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: unknown\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", fail)
    assert {kernel.reason for kernel in parts.try_gpu_kernels()} == {"RuntimeError: cuda error: unknown"}


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("2147483648\n", 2**31)])
def test_the_memory_of_a_container(monkeypatch, text: str, limit: int | None) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert machine.memory() == machine.Memory(None, None, limit)


def test_the_patches_of_lava_are_those_of_this_python(monkeypatch) -> None:
    modules = list(compatibility.PATCHES)
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert [patch.module for patch in parts.patches()] == modules
    assert {patch.reason for patch in parts.patches()} == {"this Python needs no change"}
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(compatibility.Patch, "installed", lambda _: b"")
    monkeypatch.setattr(compatibility, "PATCHES", {"a": compatibility.Patch("numpy", "numpy/version.py", "0" * 64, {})})
    (refused,) = parts.patches()
    assert not refused.applies
    assert "`numpy/version.py` of numpy has SHA-256 " in refused.reason
    monkeypatch.setattr(compatibility.Patch, "apply", lambda _, source: source)
    assert parts.patches() == (parts.PatchState("a", applies=True),)
