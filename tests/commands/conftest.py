"""The command line in this process, for the tests of all commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.support.runs import Finished, run_command


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Return what runs `nctool ARGUMENTS`."""
    return partial(run_command, capsys, monkeypatch)
