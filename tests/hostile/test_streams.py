"""What becomes of a command whose output cannot be written, and of one that a signal ends: its exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from nctool.commands import application
from nctool.errors import Interrupted, NctoolError, RangeError
from tests.support.runs import run_command

NCTOOL = f"{sys.executable} -m nctool"
ANSWER = f"{NCTOOL} recipes"
NO_ROOM = "error: cannot write to stdout: no space left on device\nhint: send it to a file on a disk with room\n"
CLOSED = "error: stdout is closed\nhint: send it to a file, or to /dev/null\n"
SHORT = "error: the machine lacks room for this: "
UNKNOWN = f"{NCTOOL} recipes none-such"


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; its exit code is that of the first command of a pipeline that fails."""
    command = ["bash", "-o", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        (f"{ANSWER} | head -1", 0, ""),
        (f"{ANSWER} | true", 0, ""),
        (f"{ANSWER} > /dev/full", 74, NO_ROOM),
        (f"{ANSWER} >&-", 74, CLOSED),
        (f"{ANSWER} >&- 2>&- <&-", 74, ""),
        (f"{ANSWER} 2>&- | tail -0", 0, ""),
        (f"{UNKNOWN} 2>&-", 2, ""),
        (f"{UNKNOWN} 2>/dev/full", 2, ""),
        (f"{UNKNOWN} 2>&1 >/dev/full | true", 2, ""),
    ],
)
def test_what_cannot_be_written_never_means_different(script: str, code: int, error: str) -> None:
    ended = shell(script)
    assert (ended.returncode, ended.stderr) == (code, error)


@pytest.mark.parametrize("reader", ["true", "cat"])
@pytest.mark.parametrize("is_equal", [True, False])
def test_the_verdict_is_in_the_exit_code_whoever_reads(
    digits_model: Path, tmp_path: Path, reader: str, is_equal: bool
) -> None:
    path = tmp_path / "model.net"
    shutil.copy(digits_model, path)
    if not is_equal:
        with h5py.File(path, "r+") as file:
            file["layer/1/weight"][...] = -file["layer/1/weight"][...]
    ended = shell(f"{NCTOOL} verify {path} --engines reference | {reader}")
    assert (ended.returncode, ended.stderr) == (0 if is_equal else 1, "")
    if reader == "cat":
        assert ended.stdout.startswith("EQUAL" if is_equal else "DIFFERENT")


def test_an_answer_that_cannot_be_written_is_not_held_back_for_nothing(digits_model: Path) -> None:
    """A closed stdout is said before the work, not after it."""
    ended = shell(f"{NCTOOL} verify {digits_model}.none-such >&-")
    assert (ended.returncode, ended.stderr) == (74, CLOSED)


def test_text_that_cannot_be_encoded_is_escaped() -> None:
    ended = shell(f"{NCTOOL} history --help", PYTHONIOENCODING="ascii", COLUMNS="200")
    assert ended.returncode == 0
    assert "accuracies, \\u03b8 and \\u03c3" in ended.stdout
    refused = shell(f"{NCTOOL} inspect θ.net", PYTHONIOENCODING="ascii")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: no such file: `\\u03b8.net`\n")


def test_a_file_never_gets_the_number_of_a_standard_stream(tmp_path: Path) -> None:
    """Else what a library prints would go into it. Coverage is not measured: it would take the first numbers."""
    script = f"""
import os, sys
from nctool.commands.streams import lossy_stderr
with lossy_stderr(), open({str(tmp_path / "file")!r}, "w") as file:
    os.write(1, b"x"), os.write(2, b"y"), print("talk", file=sys.stderr)
    sys.exit(file.fileno())
"""
    (tmp_path / "script.py").write_text(script)
    line = f"env -u COVERAGE_PROCESS_CONFIG {sys.executable} {tmp_path / 'script.py'} <&- >&- 2>&-"
    assert shell(line).returncode > 2
    assert (tmp_path / "file").read_bytes() == b""


def test_no_error_has_the_exit_code_of_a_difference() -> None:
    def errors(kind: type[NctoolError]) -> list[type[NctoolError]]:
        return [kind, *(each for below in kind.__subclasses__() for each in errors(below))]

    assert {each.exit_code for each in errors(NctoolError)[1:]} == {2, 3, 4, 5, 74}
    assert not hasattr(NctoolError, "exit_code")


def test_a_bug_has_its_exit_code_with_a_traceback_too(capsys, monkeypatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("nctool.running.model_file.open_model", broken)
    monkeypatch.setenv(application.DEBUG, "1")
    ended = run_command(capsys, monkeypatch, "inspect", tmp_path)
    assert ended.code == 70
    assert ended.err.startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (RangeError("too large"), 3, "error: too large\n"),
        (OSError(11, "Resource temporarily unavailable"), 71, f"{SHORT}[errno 11] resource temporarily unavailable\n"),
        (MemoryError("Unable to allocate 8. GiB"), 71, f"{SHORT}unable to allocate 8. gib\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 71, f"{SHORT}defaultcpuallocator: can't allocate"),
    ],
)
def test_what_ended_a_command_is_said_where_stdout_is_full_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, failure: Exception, code: int, text: str
) -> None:
    def fail() -> int:
        sys.stdout.write("an answer")
        raise failure

    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as ended:
            application.main(fail)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(text)


# --- signals ----------------------------------------------------------------------------------------------------------

AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""

WAITING = """
import sys, time
from nctool.commands import application

def wait():
    try:
        print("held back")
        sys.__stdout__.write("waiting\\n")
        sys.__stdout__.flush()
        time.sleep(600)
    finally:
        sys.__stdout__.write("taking back\\n")
        sys.__stdout__.flush()
        sys.stdin.readline()
        sys.__stdout__.write("taken back\\n")

application.main(wait)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_an_error_does(tmp_path: Path, number: signal.Signals) -> None:
    """Also where more signals follow before all is taken back."""
    (tmp_path / "script.py").write_text(WAITING)
    with start(tmp_path / "script.py") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "waiting\n"
        running.send_signal(number)
        assert running.stdout.readline() == "taking back\n"
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate("go on\n")
    assert (running.returncode, err) == (128 + number, f"error: stopped by {number.name}\n")
    assert out == "taken back\nheld back\n"


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with application.ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Interrupted), application.ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_handler_of_somebody_else_stays() -> None:
    def own(*_: object) -> None:
        """Do nothing."""

    before = signal.signal(signal.SIGHUP, own)
    try:
        with pytest.raises(Interrupted), application.ended_by_signals():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is own
    finally:
        signal.signal(signal.SIGHUP, before)


def start(script: Path) -> subprocess.Popen[str]:
    """Start a script that handles signals as at a terminal: a job in the background, or nohup, has some ignored."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{AT_A_TERMINAL}import runpy; runpy.run_path({str(script)!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
