"""Several processes give the report of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nctool
from nctool.errors import UsageError

TIMES = ("images_per_second", "steps_per_second")


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in TIMES}


def test_two_workers_report_what_one_process_reports(digits_model: Path):
    expected = nctool.run_sim(digits_model, samples=101).to_json()
    found = nctool.run_sim(digits_model, samples=101, workers=2).to_json()
    assert without_times(found) == without_times(expected)


def test_two_ranks_of_torchrun_report_once_what_one_process_reports(digits_model: Path):
    expected = nctool.run_sim(digits_model, samples=101).to_json()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nctool"]
    command += ["run-sim", str(digits_model), "--samples", "101", "--json"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert without_times(json.loads(line)) == json.loads(json.dumps(without_times(expected)))


def test_an_error_in_a_worker_is_the_error_of_the_run(digits_model: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError) as raised:
        nctool.run_sim(digits_model, samples=4, workers=2, device="cuda")
    assert str(raised.value) == "device `cuda` is not available here\nhint: use --device cpu"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers: 0 is out of range, allowed >= 1"),
        (
            {"workers": 2, "engine": "lava"},
            "engine `lava` starts processes of its own, allowed one worker\nhint: use --engine fast",
        ),
        ({"workers": 2, "output": Path("x.npz")}, "output `x.npz` is written by one process, allowed one worker"),
    ],
)
def test_workers_that_are_refused(digits_model: Path, options: dict[str, Any], text: str):
    with pytest.raises(UsageError) as raised:
        nctool.run_sim(digits_model, **options)
    assert str(raised.value) == text


def test_workers_beside_torchrun_are_refused(digits_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as raised:
        nctool.run_sim(digits_model, workers=2)
    assert str(raised.value) == "workers: 2 beside torchrun, allowed one of both"
