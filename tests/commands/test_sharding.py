"""Several processes give the report of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nctool
from nctool.children import Child, child
from nctool.errors import EngineError, UsageError
from nctool.running.engines import Job
from nctool.running.sharding import summaries_of_workers
from nctool_deploy.netx import read

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
    assert str(raised.value) == 'device `cuda` is not available here\nhint: use device="cpu"'


@pytest.mark.parametrize("is_file", [True, False])
def test_workers_do_not_run_the_script_again(digits_model: Path, tmp_path: Path, is_file: bool):
    """A script needs no guard; nor do workers take a file of the folder where they start for a library."""
    text = f"import nctool; print(nctool.run_sim({str(digits_model)!r}, samples=8, workers=2).samples)"
    script, folder = tmp_path / "script.py", tmp_path / "folder"
    script.write_text(text)
    folder.mkdir()
    (folder / "numpy.py").write_text("raise RuntimeError('a file of the user')")
    ended = subprocess.run(
        [sys.executable, str(script) if is_file else "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder if is_file else tmp_path,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "8\n", "")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (signal.SIGKILL, "ended by SIGKILL)\nhint: use fewer workers: memory may be short"),
        (signal.SIGSEGV, "ended by SIGSEGV)\nhint: run again with workers=1"),
    ],
)
def test_a_worker_that_ends_before_its_time_is_said(digits_model: Path, monkeypatch, number: int, text: str):
    @contextmanager
    def ended(module: str) -> Iterator[Child]:
        with child(module) as found:
            found.process.send_signal(number)
            yield found

    monkeypatch.setattr("nctool.running.sharding.child", ended)
    with pytest.raises(EngineError) as raised:
        nctool.run_sim(digits_model, samples=8, workers=2)
    assert str(raised.value) == f"engine `fast`: a worker ended before its time ({text}"


def test_any_other_error_in_a_worker_has_its_name(digits_model: Path, monkeypatch: pytest.MonkeyPatch):
    content = read(digits_model)
    job = Job(digits_model, content, None)  # type: ignore[arg-type]  # which no engine takes
    with pytest.raises(EngineError) as raised:
        list(summaries_of_workers("fast", [job, job], 2))
    assert str(raised.value) == ("engine `fast`, in a worker: TypeError: object of type 'nonetype' has no len()")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers: 0 is out of range, allowed >= 1"),
        (
            {"workers": 2, "engine": "lava"},
            'engine `lava` starts processes of its own, allowed one worker\nhint: use engine="fast"',
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
