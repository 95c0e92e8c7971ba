"""Children of this process, and what they fork: each ends with its parent, and not before."""

from __future__ import annotations

from pathlib import Path

import pytest

from nctool.children import child

FORKING = """
import os

def main(link):
    if os.fork() == 0:
        if os.fork() == 0:
            link.send("from a fork of a fork")
            os._exit(0)
        os.wait()
        os._exit(0)
    _, status = os.wait()
    link.send(status)
"""


def test_what_a_fork_forks_lives_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forking.py").write_text(FORKING)
    monkeypatch.syspath_prepend(tmp_path)
    with child("forking") as started:
        assert [started.receive(), started.receive()] == ["from a fork of a fork", 0]
