"""What the stages of the GPU job share: the time that is left, and the record of what was found."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARES = {
    "machine": 0.01,
    "exact": 0.09,
    "speed": 0.06,
    "data": 0.04,
    "plan": 0.08,
    "train": 0.41,
    "finetune": 0.16,
    "integers": 0.12,
}
"""Part of the whole time that each stage may take; the rest is a reserve. What one does not need, the next has."""


@dataclass(frozen=True)
class Budget:
    """The time of a job.

    Attributes:
        seconds: in all.
        started: on the clock of `time.perf_counter`.
    """

    seconds: float
    started: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.started

    def until(self, stage: str) -> float:
        """Return when a stage must have ended, in seconds since the start."""
        names = list(SHARES)
        return self.seconds * sum(SHARES[name] for name in names[: names.index(stage) + 1])

    def left(self, stage: str) -> float:
        """Return the seconds until a stage must have ended, below 0 where it is too late."""
        return self.until(stage) - self.spent

    def share(self, stage: str) -> float:
        """Return the seconds that a stage may take where those before it take no longer than they may."""
        return SHARES[stage] * self.seconds


@dataclass(frozen=True)
class Record:
    """What a job found: each line is on disk before the next thing begins, so that a run that is cut is still a result.

    Attributes:
        folder: gets `log.txt` and `results.jsonl`.
        budget: says when.
        found: what was noted, by stage.
    """

    folder: Path
    budget: Budget
    found: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Tell how far the job is, on stderr and in the log."""
        line = f"{self.budget.spent:6.1f} s  {text}"
        print(line, file=sys.stderr, flush=True)
        _append(self.folder / "log.txt", line)

    def note(self, stage: str, result: Mapping[str, Any]) -> None:
        """Keep what a stage found, in place of what it found before."""
        self.found[stage] = dict(result)
        line = {"stage": stage, "at_seconds": round(self.budget.spent, 2), **result}
        _append(self.folder / "results.jsonl", json.dumps(line))


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
