"""`nctool demo`: says each command, runs it, and tells what it left out."""

from __future__ import annotations

from pathlib import Path

import pytest

import nctool
from nctool.commands import demo
from nctool.errors import EngineError, UsageError
from nctool_models import load_recipe
from tests.support.refusals import refused
from tests.support.runs import Finished, assert_error


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the demo train a narrow network for an epoch, and work in an empty folder."""
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        load_recipe("digits-cnn", {"training.epochs": 1, "model.channels": [4, 4], "model.hidden": 16}).to_toml(),
        encoding="utf-8",
    )
    monkeypatch.setattr(demo, "RECIPE", str(recipe))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def no_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Lava be missing."""

    def require_lava() -> None:
        raise EngineError("engine `lava`: lava-nc 0.10.0 is not installed", hint="install it")

    monkeypatch.setattr("nctool_deploy.lava.compatibility.require_lava", require_lava)


def said(ended: Finished) -> list[str]:
    return [line.removeprefix("$ ") for line in ended.err.splitlines() if line.startswith("$ ")]


def expected(recipe: str, engines: list[str], *begin: str) -> list[str]:
    folder, model = "nctool-demo", "nctool-demo/model.net"
    return [
        " ".join(("nctool", "train", recipe, "-o", folder, *begin)),
        f"nctool export {folder} --target loihi --steps 4 -o {model}",
        f"nctool inspect {model}",
        *(f"nctool run-sim {model} --engine {e}{' --samples 100' if e == 'lava' else ''}" for e in engines),
        f"nctool verify {model} --engines {','.join(engines)} --samples 100",
    ]


def test_without_lava_two_engines_are_compared_and_the_third_is_named(cli, short: Path, no_lava: None) -> None:
    first = cli("demo", "--json")
    assert first.code == 0
    report, engines = first.json, ["reference", "fast"]
    assert said(first) == [each["command"] for each in report["commands"]] == expected(demo.RECIPE, engines)
    assert (report["equal"], report["engines"], report["path"]) == (True, engines, "nctool-demo")
    assert report["left_out"] == {"lava": "engine `lava`: lava-nc 0.10.0 is not installed; install it"}
    assert "EQUAL, bit for bit: file = reference = fast" in first.err
    assert nctool.run_sim(report["model"]).samples == 359
    again = cli("demo")
    assert again.code == 0
    assert said(again)[0] == f"nctool train {demo.RECIPE} -o nctool-demo --overwrite"
    assert "left out: lava. engine `lava`: lava-nc 0.10.0 is not installed; install it\n" in again.out
    assert "EQUAL, bit for bit: reference = fast; the network is nctool-demo/model.net\n" in again.out


@pytest.mark.lava
def test_with_lava_all_three_are(capsys: pytest.CaptureFixture[str], short: Path) -> None:
    report = nctool.demo("nctool-demo")
    assert [each.command for each in report.commands] == expected(demo.RECIPE, ["reference", "fast", "lava"])
    assert report.equal and not report.left_out
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "$ nctool verify nctool-demo/model.net --engines reference,fast,lava --samples 100\n" in captured.err


def test_a_difference_ends_it_with_the_exit_code_of_verify(cli, short: Path, no_lava: None, monkeypatch) -> None:
    words = demo._commands

    def only(folder: Path, begin: list[str], engines: list[str]) -> list[list[str]]:
        return [*words(folder, begin, engines)][:2]

    monkeypatch.setattr(demo, "_commands", only)
    monkeypatch.setattr(demo, "_run", lambda words: demo.DemoCommand(words[0], 0.0, int(words[0] == "export")))
    ended = cli("demo")
    assert ended.code == 1
    assert "DIFFERENT: see above" in ended.out


def test_a_folder_that_holds_something_else_is_left_alone(cli, short: Path, digits_run: Path) -> None:
    Path("nctool-demo").mkdir()
    Path("nctool-demo", "thesis.tex").write_text("all of it")
    text = "`nctool-demo` is there, and holds something else than a demo"
    assert_error(cli("demo"), 2, f"error: {text}\nhint: give another folder with -o\n")
    error = refused(UsageError, nctool.demo, digits_run)  # of another number of epochs
    assert error.message == f"`{digits_run}` is there, and holds something else than a demo"


def test_one_that_was_interrupted_goes_on(short: Path, monkeypatch) -> None:
    Path("nctool-demo").mkdir()
    Path("nctool-demo", "last.safetensors").touch()
    assert demo._begin(Path("nctool-demo")) == ["--resume"]
