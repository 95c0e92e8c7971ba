"""What a command need not load, it does not load: an answer to a typo is there before torch could be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import nctool
import nctool.training
import nctool_models
from nctool.commands import COMMANDS, load_all
from nctool.commands.application import app

RUN_ALL = """
import contextlib, io, json, sys
from nctool.commands.application import main
found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["nctool", *words]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            found.append([ended.code, err.getvalue(), *sorted({"numpy", "torch"} & set(sys.modules))])
print(json.dumps(found))
"""
"""Runs commands one after the other in a new process: exit code, stderr, and what is loaded by then."""


def after(folder: Path, *commands: str) -> list[list[object]]:
    words = json.dumps([command.split() for command in commands])
    ended = subprocess.run([sys.executable, "-c", RUN_ALL, words], cwd=folder, capture_output=True, check=True)
    return json.loads(ended.stdout)


@pytest.fixture
def here(tmp_path: Path, digits_run: Path, digits_model: Path) -> Path:
    (tmp_path / "RUN").symlink_to(digits_run)
    (tmp_path / "M.net").symlink_to(digits_model)
    (tmp_path / "nets.py").touch()
    return tmp_path


NOT_THERE = {
    "train gone.toml": "no recipe file `gone.toml`",
    "train digits-cmn": "unknown recipe `digits-cmn`",
    "train RUN/recipe.toml -o RUN": "`RUN` holds a finished run",
    "finetune gone": "no checkpoint at `gone`",
    "history gone": "no `gone/metrics.jsonl`",
    "export gone -o m.net": "no checkpoint at `gone`",
    "export RUN -o gone/m.net": "cannot write `gone/m.net`: no such file or directory",
    "export RUN -o m.net --target gone.toml": "no target file `gone.toml`",
    "explore gone": "no checkpoint at `gone`",
    "explore RUN --dataset gone.npz": "no data set file `gone.npz`",
    "explore RUN --dataset gone/": "no data set folder `gone`",
    "convert gone.onnx --images x.npy -o m.net": "cannot read `gone.onnx`: no such file or directory",
    "convert gone.py:net --images x.npy -o m.net": "model: no file `gone.py`",
    "convert nets.py:net --images gone.npy -o m.net": "no such file: `gone.npy`",
    "convert nets.py:net --images x.npy -o gone/m.net": "cannot write `gone/m.net`: no such file or directory",
    "check gone.onnx": "model: no file `gone.onnx`",
    "check gone.py:net": "model: no file `gone.py`",
    "check gone.toml": "no recipe file `gone.toml`",
    "run-sim gone.net": "no such file: `gone.net`",
    "run-sim RUN": "`RUN` is the folder of a training run, allowed: an exported network",
    "run-sim M.net --input gone.npy": "no such file: `gone.npy`",
    "run-sim M.net --dataset gone.npz": "no data set file `gone.npz`",
    "run-sim M.net -o gone/t.npz": "cannot write `gone/t.npz`: no such file or directory",
    "verify gone.net": "no such file: `gone.net`",
    "verify M.net --input gone.npy": "no such file: `gone.npy`",
    "verify M.net --junit gone/j.xml": "cannot write `gone/j.xml`: no such file or directory",
    "run-sim zoo:gone": "no network `zoo:gone`, allowed: `zoo:digits-cnn`, `zoo:digits-cnn-stock`, `zoo:mnist-lenet`",
    "run-sim M.net --input gone.png": "cannot read `gone.png`: no such file or directory",
    "inspect gone.net": "no such file: `gone.net`",
    "demo -o RUN": "`RUN` is there, and holds something else than a demo",
    "report gone": "no such file: `gone`",
    "report M.net -o gone/r.html": "cannot write `gone/r.html`: no such file or directory",
    "bundle gone.net -o f": "no such file: `gone.net`",
    "bundle M.net -o M.net": "cannot write `M.net`: file exists",
    "recipes gone.toml": "no recipe file `gone.toml`",
}
"""What leads nowhere, by the command: each command that takes a path, each path that it takes."""


def test_a_path_that_leads_nowhere_is_answered_before_torch_is_loaded(here: Path) -> None:
    for command, (code, err, *loaded) in zip(NOT_THERE, after(here, *NOT_THERE), strict=True):
        assert (code, "torch" in loaded) == (2, False), command
        assert str(err).startswith(f"error: {NOT_THERE[command]}\n"), (command, err)
    assert {command.partition(" ")[0] for command in NOT_THERE} == set(COMMANDS) - {"targets", "doctor", "zoo"}


def test_what_reads_no_weights_needs_no_torch(here: Path) -> None:
    commands = (
        "inspect M.net",
        "history RUN",
        "recipes",
        "targets",
        "zoo",
        "run-sim M.net --engine reference --samples 2",
    )
    assert [found for found in after(here, *commands) if found != [0, "", "numpy"]] == []


def test_the_list_of_commands_loads_none_of_them(here: Path) -> None:
    assert after(here, "--help", "--version", "") == [[0, ""]] * 3
    assert after(here, "run-sim M.net --samples 2")[0][2:] == ["numpy", "torch"]  # and what is loaded is seen


def test_the_list_names_each_command_and_fits_a_line(cli) -> None:
    assert [command.name for command in load_all()] == list(COMMANDS)
    assert sorted(typer.main.get_command(app).commands) == sorted(COMMANDS)
    for name, entry in COMMANDS.items():
        assert len(f"  {name:8}  {entry.summary}") <= 60
        assert entry.summary.endswith(".")


def test_without_a_command_the_help_is_shown(cli) -> None:
    assert cli().out == cli("--help").out
    assert (cli().code, cli().err) == (0, "")


@pytest.mark.parametrize("package", [nctool, nctool.training, nctool_models])
def test_every_name_of_a_package_that_loads_late_is_there(package) -> None:
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match=f"module `{package.__name__}` has no attribute `gone`"):
        package.gone  # noqa: B018 - it is looked up
