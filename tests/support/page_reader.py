"""Somebody who reads a page of the documentation and does what its code blocks say."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from tests.support.markdown import Block, commands
from tests.support.runs import Finished

FEW = 8
"""Samples that are enough here."""

Runs = Callable[..., Finished]


def shortened(words: list[str]) -> list[str]:
    """Return a command of nctool with options that make it short; of an option given twice the last one counts."""
    if words[1] in ("train", "finetune"):
        table = {"train": "training", "finetune": "finetune"}[words[1]]
        return [*words, "--set", f"{table}.epochs=1"]
    asked = int(words[words.index("--samples") + 1]) if "--samples" in words else FEW
    return [*words, "--samples", str(min(asked, FEW))] if words[1] == "explore" or "--samples" in words else words


def assert_shown(output: str, shown: str, place: str) -> None:
    """Compare an output with what a page shows of it, any number being as good as another; … is for more lines."""
    found, expected = ([_without_numbers(line) for line in text.strip().splitlines()] for text in (output, shown))
    if expected[-1] == "…":
        del expected[-1], found[len(expected) :]
    assert found == expected, place


def _without_numbers(line: str) -> str:
    return " ".join(re.sub(r"-?\d[\d,.]*", "#", line).split())


@dataclass
class Reader:
    """Somebody who reads a page from the top and does what its blocks say, in the current folder."""

    nctool: Runs
    given: dict[str, Any]
    shown: Mapping[str, Callable[[Runs], str]]
    names: dict[str, Any] = field(default_factory=dict)
    printed: str = ""

    def read(self, block: Block) -> None:
        """Do what one block says."""
        if block.mark == "not run":
            return
        if block.mark == "file":
            Path(block.value).write_text(block.text, encoding="utf-8")
        if block.mark == "shows":
            output = self.printed if block.value == "the program" else self.shown[block.value](self.nctool)
            assert_shown(output, block.text, block.place)
        elif block.language in ("console", "sh"):
            for command, output in commands(block):
                self.command(command, output, block.place)
        elif block.language == "python" and block.mark != "file":
            self.program(block)

    def command(self, line: str, shown: str, place: str) -> None:
        """Run a line of a shell: what the shell expands, and `>`, are its own."""
        line, _, file = line.partition(" > ")
        expanded = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
        ).stdout
        words = expanded.split("\0")[:-1]
        if words[0] == "source":
            return
        assert words[0] == "nctool", f"{place}: {line}"
        ended = self.nctool(*shortened(words)[1:])
        assert ended.code == 0, f"{place}: {line}\n{ended.err}"
        if file:
            Path(file).write_text(ended.out, encoding="utf-8")
        if shown:
            assert_shown(ended.out, shown, f"{place}: {line}")

    def program(self, block: Block) -> None:
        """Run a program; in a process of its own if it uses Lava, which forks."""
        if "from lava" in block.text:
            script = [sys.executable, "-c", block.text]
            ended = subprocess.run(script, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, f"{block.place}\n{ended.stderr[-2000:]}"
            self.printed = "".join(line for line in ended.stdout.splitlines(True) if not line.startswith((" ", "WARN")))
            return
        sys.modules.pop("mine", None)  # as in a new process
        names = dict(self.given)
        with redirect_stdout(StringIO()) as out:
            exec(compile(block.text, block.place, "exec"), names)
        self.names.update(names)
        self.printed = out.getvalue()
