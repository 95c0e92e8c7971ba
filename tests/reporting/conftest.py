"""Pages for the tests of `nctool report`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import nctool
from tests.support.runs import Finished, export_short, run_command


@pytest.fixture(scope="session")
def page(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with an exported network."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    nctool.report(digits_model.parent, path)
    return path


@pytest.fixture(scope="session")
def comparison(digits_run: Path, digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two networks: one of spikes of one bit, one of graded spikes."""
    folder = tmp_path_factory.mktemp("comparison")
    nctool.export(digits_run, folder / "graded.net", backend="graded")
    nctool.report([digits_model, folder / "graded.net"], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="session")
def other_window(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with one time step, in another folder than its run."""
    return export_short(digits_run, tmp_path_factory.mktemp("other") / "one.net", steps=1)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Return what runs `nctool ARGUMENTS`."""
    return partial(run_command, capsys, monkeypatch)
