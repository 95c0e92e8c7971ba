"""Completion in the shell: what stands at the cursor becomes a command, an option, or a name that nctool knows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nctool.commands.application import COMPLETE
from nctool.signature import Option


@pytest.fixture
def completed(cli, monkeypatch: pytest.MonkeyPatch):
    """Return what bash, zsh or fish is told for a line up to the cursor."""

    def ask(line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        asked = {"COMP_WORDS": " ".join(words).rstrip(), "COMP_CWORD": str(len(words) - 1)}
        asked |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        for name, value in {COMPLETE: f"complete_{shell}", **asked}.items():
            monkeypatch.setenv(name, value)
        ended = cli()
        assert (ended.code, ended.err) == (0, "")
        return ended.out.split("\n")[:-1]

    return ask


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nctool ex", ["export", "explore"]),
        ("nctool --ver", ["--version"]),
        ("nctool train digits-m", ["digits-mlp"]),
        ("nctool recipes mnist-", ["mnist-lenet", "mnist-mlp"]),
        ("nctool export RUN --backe", ["--backend"]),
        ("nctool export RUN --target ", ["loihi", "loihi2", "loihi1", "lava"]),
        ("nctool convert MODEL --backend g", ["graded"]),
        ("nctool explore RUN --backends autapse,g", ["autapse,graded"]),
        ("nctool run-sim M.net --engine ", ["reference", "fast", "lava"]),
        ("nctool run-sim M.net --dataset mn", ["mnist"]),
        ("nctool run-sim M.net --split ", ["test", "train"]),
        ("nctool verify M.net --engines fast,reference,", ["fast,reference,lava"]),
        ("nctool train digits-mlp --device c", ["cpu", "cuda"]),
        ("nctool check MODEL --input r", ["rate"]),
        ("nctool run-sim M.ne", [""]),  # then the shell itself completes files
    ],
)
def test_what_a_line_becomes(completed, line: str, words: list[str]) -> None:
    assert completed(line) == words


def test_zsh_and_fish_are_told_what_a_command_does(completed) -> None:
    assert completed("nctool verif", "zsh") == [
        """_arguments '*: :(("verify":"Prove that engines agree, bit for bit."))'"""
    ]
    assert completed("nctool verif", "fish") == ["verify\tProve that engines agree, bit for bit."]


def test_a_text_without_names_has_no_completions() -> None:
    assert Option("A number.").completions("4") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_sound(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str) -> None:
    monkeypatch.setenv(COMPLETE, f"source_{shell}")
    script = cli().out
    assert f"{COMPLETE}=complete_{shell}" in script
    if shutil.which(shell):  # bash, where tests run; the others where somebody has them
        (tmp_path / "script").write_text(script, encoding="utf-8")
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, env={"PATH": "/usr/bin:/bin"})


def test_bash_completes_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nctool = tmp_path / "nctool"
    nctool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nctool "$@"\n', encoding="utf-8")
    nctool.chmod(0o755)
    line = "COMP_WORDS=(nctool train digits-m); COMP_CWORD=2; _nctool_completion nctool; echo ${COMPREPLY[@]}"
    program = f'PATH="{tmp_path}:$PATH"; eval "$({COMPLETE}=source_bash nctool)"; {line}'
    ended = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("digits-mlp\n", "")


def test_a_shell_that_is_not_known_is_no_difference_of_engines(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """typer's own exit code 1 would say that."""
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "csh")
    ended = cli("--show-completion")
    assert ended.code == 2
    assert ended.err == (
        "Shell csh not supported.\n"
        "error: completion: which shell this is cannot be told, or it is not supported\n"
        'hint: put `eval "$(_NCTOOL_COMPLETE=source_bash nctool)"` into the file that your shell reads first\n'
    )
