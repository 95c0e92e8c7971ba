"""Nothing of a command stays behind that a signal ends while all its processes are at work: see benchmarks/kills.py."""

from __future__ import annotations

import runpy
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KILLS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "kills.py"))
PATIENCE_S = 300.0
"""How long a busy machine may take to end what was killed."""

AT_WORK = {"lava": 12, "workers": 3}
"""Processes that a command has by then."""
ENDLESS = "run-sim model.net --engine lava --input images.npy -o lava.npz"
"""A run on Lava that takes minutes, so that it is not over before a busy machine looks."""


@pytest.mark.parametrize(
    ("case", "number", "whole_group"),
    [
        pytest.param("lava", signal.SIGKILL, False, marks=pytest.mark.lava),
        pytest.param("lava", signal.SIGKILL, True, marks=pytest.mark.lava),
        pytest.param("lava", signal.SIGINT, True, marks=pytest.mark.lava),
        pytest.param("lava", signal.SIGTERM, False, marks=pytest.mark.lava),
        ("workers", signal.SIGKILL, False),
        ("workers", signal.SIGHUP, True),
    ],
)
def test_a_killed_command_leaves_nothing(
    digits_model: Path, tmp_path: Path, case: str, number: signal.Signals, whole_group: bool
) -> None:
    shutil.copy(digits_model, tmp_path / "model.net")
    np.save(tmp_path / "images.npy", np.zeros((5000, 1, 8, 8), np.uint8))
    command = KILLS["Command"](ENDLESS if case == "lava" else KILLS["CASES"][case], tmp_path)
    wait_for(command, AT_WORK[case])
    assert command.kill_after(0, number, whole_group)
    assert command.left_after(PATIENCE_S).total() == 0
    assert command.process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert KILLS["unfinished"](tmp_path) <= (number == signal.SIGKILL)  # which the next command removes


def wait_for(command: Any, n_processes: int) -> None:
    while len(command.processes()) < n_processes:
        assert command.process.poll() is None
        time.sleep(0.1)
