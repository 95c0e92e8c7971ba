"""A trained and exported network for the tests that need a real one, and the command line in-process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nctool
from nctool.commands.application import main

SHORT = {"training.epochs": 3}


@dataclass(frozen=True)
class Finished:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        return json.loads(lines[0])


def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Finished:
    """Run `nctool ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["nctool", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return Finished(int(ended.value.code or 0), captured.out, captured.err)


def assert_error(ended: Finished, code: int, text: str) -> None:
    """A command ended with this exit code, and said this on stderr alone."""
    assert (ended.code, ended.out, ended.err) == (code, "", text)


def train_short(folder: Path, recipe: str) -> Path:
    """Train `recipe` for a few epochs into `folder` and return it."""
    nctool.train(recipe, folder, overrides=SHORT)
    return folder


def export_short(checkpoint: Path, path: Path, steps: int = 4) -> Path:
    """Export a checkpoint for `steps` time steps and return the file."""
    nctool.export(checkpoint, path, steps=steps)
    return path
