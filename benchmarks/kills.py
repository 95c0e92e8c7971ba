"""What a command leaves behind when a signal ends it at a random moment.

    python benchmarks/kills.py [--kills N] [--cases lava,workers,…] [--signals KILL,…] [--patience SECONDS]

Each command is started N times for each signal, and the signal is sent at a moment drawn from the time that the
command takes, to the process alone and to its process group in turn. Then the script looks, until nothing is left or
patience is over, for processes with the environment of the command, for the shared memory that they had mapped, for
files in the temporary folder of the command, and for files that were being written in its working folder. After SIGKILL
nobody can remove the latter at once: the next command that writes there does, and they are counted behind it. The
moments are the same in every run of the script; what the command does at such a moment is not.

The last line of stdout is one JSON object: for each case and signal `kills`, how many of them came before the command
was done (`in_time`), `processes`, `segments` and `files` left in all, and `unfinished`, files left for the next
command. `left` is the sum of what nobody removed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

MARK = "NCTOOL_KILLED_RUN"
"""Variable of the environment that all processes of one command have."""

START = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from nctool.commands.application import main
main()
"""
"""The program of a command that handles signals as at a terminal, however this script was started."""

CASES = {
    "lava": "run-sim model.net --engine lava --samples 3 -o lava.npz",
    "workers": "run-sim model.net --workers 2",
    "train": "train digits-mlp --set training.epochs=6 -o {run}",
    "export": "export trained -o again.net",
}
SIGNALS = ("INT", "TERM", "HUP", "KILL")
POLL_S = 0.05


class Command:
    """One command that is started to be killed.

    Args:
        line: its arguments.
        folder: where it works; its temporary folder is made in there.
    """

    def __init__(self, line: str, folder: Path) -> None:
        self.folder, self.mark = folder, uuid4().hex
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.segments: set[Path] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *line.split()],
            cwd=folder,
            env=os.environ | {MARK: self.mark, "TMPDIR": str(self.temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_after(self, seconds: float, number: signal.Signals, whole_group: bool) -> bool:
        """Send a signal after some seconds, if the command is not done by then; return whether it was not."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            return False
        self.segments = {segment for process in self.processes() for segment in mapped_segments(process)}
        (os.killpg if whole_group else os.kill)(self.process.pid, number)
        self.process.wait()
        return True

    def processes(self) -> list[Path]:
        """Return the folders in /proc of the processes of this command."""
        mark, found = f"{MARK}={self.mark}\0".encode(), []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in entry.read_bytes():
                    found.append(entry.parent)
        return found

    def left(self) -> Counter[str]:
        """Count what is there of this command, but for its results."""
        return Counter(
            processes=len(self.processes()),
            segments=sum(segment.exists() for segment in self.segments),
            files=len(list(self.temporary.iterdir())),
        )

    def left_after(self, patience_s: float) -> Counter[str]:
        """Count what is left once nothing is, or patience is over."""
        limit = time.monotonic() + patience_s
        while (left := self.left()).total() and time.monotonic() < limit:
            time.sleep(POLL_S)
        return left


def mapped_segments(process: Path) -> Iterator[Path]:
    """Yield the shared memory with a name that a process has mapped."""
    with suppress(OSError):
        for line in (process / "maps").read_text().splitlines():
            if "/dev/shm/" in line and not line.endswith("(deleted)"):
                yield Path("/dev/shm", line.partition("/dev/shm/")[2])


def unfinished(folder: Path) -> int:
    """Count the files that somebody was writing in a folder and those below it."""
    return sum(1 for path in folder.rglob(".*") if path.name not in (".", ".."))


def kill_often(case: str, name: str, n_kills: int, folder: Path, patience_s: float) -> dict[str, int]:
    """Start a command, end it and look, again and again; return the counts."""
    number, moments, counts = signal.Signals[f"SIG{name}"], random.Random(f"{case} {name}"), Counter[str](kills=n_kills)
    started = time.monotonic()
    Command(CASES[case].format(run="whole"), folder).process.wait()
    longest = time.monotonic() - started
    for kill in range(n_kills):
        line = CASES[case].format(run=f"run-{name}-{kill}")
        command = Command(line, folder)
        counts["in_time"] += command.kill_after(moments.uniform(0, longest), number, whole_group=kill % 2 == 1)
        counts += command.left_after(patience_s)
        counts["unfinished"] += unfinished(folder)
        if unfinished(folder):
            Command(next_line(line, folder), folder).process.wait()
        counts["files"] += unfinished(folder)
    return {key: counts[key] for key in ("kills", "in_time", "processes", "segments", "files", "unfinished")}


def next_line(line: str, folder: Path) -> str:
    """Return the command that follows a killed one: the same, or its continuation."""
    *_, output = line.split()
    return f"{line} --resume" if (folder / output / "last.safetensors").exists() else line


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, and print what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command by each signal")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--signals", default=",".join(SIGNALS))
    parser.add_argument("--patience", type=float, default=5.0, help="seconds until something counts as left behind")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for line in ("train digits-mlp --set training.epochs=1 -o trained", "export trained -o model.net"):
            if Command(line, folder).process.wait() != 0:
                raise SystemExit(f"kills: `nctool {line}` failed")
        for case in options.cases.split(","):
            for each in options.signals.split(","):
                counts = kill_often(case, each, options.kills, folder, options.patience)
                found.setdefault(case, {})[each] = counts
                print(f"{case}, SIG{each}: {counts}", flush=True)
    left = sum(c["processes"] + c["segments"] + c["files"] for case in found.values() for c in case.values())
    print(json.dumps({"left": left, "cases": found}))


if __name__ == "__main__":
    main()
