"""Benchmarks: each can be loaded, and the one that needs other libraries says so where they are missing."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("[!_]*.py")))
def test_every_name_that_a_benchmark_imports_is_there(monkeypatch, script):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert callable(runpy.run_path(str(FOLDER / script))["main"])


def test_peers_without_their_environment_give_a_reason_and_no_figure(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "peers.py"), "--environment", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    reason = f"no environment `{tmp_path}`: make it with `make peers`"
    assert done.stderr == f"peers: {reason}\n"
    assert json.loads(done.stdout) == {"fast_over_best_peer": None, "reason": reason}
