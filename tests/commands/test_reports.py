"""What public functions return, as people see it: in a line, printed, and as tables in a notebook."""

from __future__ import annotations

import dataclasses
import sys
import types
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from torch import nn

import nctool
from nctool.commands.html import as_html
from nctool.commands.tables import Line, Rows
from nctool.figures import theme
from nctool.progress import learn_title, no_progress, progress_bar, title_of
from nctool.reports import LONGEST_LINE, Report
from nctool_models import load_dataset
from tests.commands.test_doctor import no_lava
from tests.support.terminal import stderr_terminal

FUNCTIONS = (
    "bundle",
    "check",
    "convert",
    "doctor",
    "explore",
    "export",
    "finetune",
    "history",
    "inspect",
    "run_sim",
    "train",
    "verify",
)
"""Those that return a report."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, digits_run: Path, digits_model: Path) -> dict[str, Any]:
    """Return the report of every public function."""
    folder = tmp_path_factory.mktemp("reports")
    short, relus = {"training.epochs": 1}, nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    digits = load_dataset("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool.surroundings.engines._lava", no_lava)
        checked = nctool.doctor()
    settings = {"backends": "autapse", "steps": [1], "replicas": [1], "weight_bits": [8], "samples": 4}
    return {
        "bundle": nctool.bundle(digits_model, folder / "b"),
        "check": nctool.check(relus, (1, 8, 8)),
        "convert": nctool.convert(relus, digits.x_train[:64], folder / "c.net", mean=0.5, std=0.5),
        "doctor": checked,
        "explore": nctool.explore(digits_run, **settings),
        "export": nctool.export(digits_run, folder / "e.net", steps=1),
        "finetune": nctool.finetune(digits_run, folder / "f", overrides={"finetune.epochs": 1}),
        "history": nctool.history(digits_run),
        "inspect": nctool.inspect(digits_model),
        "run_sim": nctool.run_sim(digits_model, samples=8, cost=True),
        "train": nctool.train("digits-mlp", folder / "t", overrides=short),
        "verify": nctool.verify(digits_model, engines="reference,fast", samples=2),
    }


class Tables(HTMLParser):
    """Reads HTML that is well-formed: its text, and the cells of its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text, self.rows = "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_report_is_a_short_line(reports, name: str) -> None:
    line = repr(reports[name])
    assert line.startswith(f"{type(reports[name]).__name__}(")
    assert line.endswith(")")
    assert len(line) <= LONGEST_LINE
    assert "\n" not in line


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_report_is_printed_as_its_command_prints_it(reports, name: str, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    text = str(reports[name])
    assert len(text.splitlines()) > 1
    assert "\x1b" not in text
    assert not text.endswith("\n")


def test_the_text_is_that_of_the_command(cli, reports, digits_model: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert str(reports["inspect"]) == "\n".join(map(str.rstrip, cli("inspect", digits_model).out.splitlines()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_notebook_shows_the_same_words_in_tables(reports, name: str, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    shown = Tables(reports[name]._repr_html_())
    assert set(shown.text.split()) == set(str(reports[name]).replace("`", " ").split())
    assert all(len(row) > 1 for row in shown.rows)
    assert shown.rows or name == "verify"
    assert shown.tags <= {"div", "style", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}


def test_the_next_step_with_a_network_of_your_own_is_given_that(reports) -> None:
    text = str(dataclasses.replace(reports["train"], is_own=True))
    assert text.splitlines()[-1].startswith('next: nctool.export("')
    assert text.endswith('model.net", model=your network)')


def test_commands_are_named_as_functions(reports) -> None:
    assert 'next: nctool.export("' in str(reports["train"])
    assert 'next: nctool.run_sim("' in str(reports["export"])


def test_nothing_of_a_text_is_taken_for_html() -> None:
    evil = "<script>alert('&')</script>"
    shown = as_html(
        [Line(evil), Line(f"next: {evil}", is_whole=True), Rows(evil, [evil, "what"], [[evil, f"`{evil}`"]])]
    )
    assert "<script" not in shown
    read = Tables(shown)
    assert read.rows == [[evil, "what"], [evil, evil]]
    assert read.text.count(evil) == 6


def test_numbers_stand_right_and_long_texts_go_on_in_the_next_line() -> None:
    shown = as_html([Rows("t", ["layer", "neurons", "what", "none"], [["fc1", "1,024", "a", ""], ["7", "", "b", ""]])])
    head = '<th>layer</th><th class="number">neurons</th><th class="text">what</th><th>none</th>'
    assert f"<thead><tr>{head}</tr></thead>" in shown


def test_a_report_without_a_command_is_shown_by_its_line() -> None:
    @dataclass(frozen=True)
    class Other(Report):
        path: Path
        sizes: dict[str, float]
        array: Any
        nothing: None = None
        rows: tuple[object, ...] = (None, None)

    other = Other(Path("x" * 60), {"a": 0.123456}, np.zeros((2, 3)))
    assert repr(other) == f"Other(path='…{'x' * 39}', sizes={{a: 0.1235}}, array=<array (2, 3)>, rows=<2>)"
    assert (str(other), other._repr_html_()) == (repr(other), None)
    assert repr(dataclasses.replace(other, path="y", sizes=dict.fromkeys("abcdefgh", 1))).startswith(
        "Other(path='y', sizes=<8>"
    )
    assert other.to_json()["array"] == [[0, 0, 0], [0, 0, 0]]


def test_a_run_has_answers_labels_and_logits_as_arrays(digits_model: Path) -> None:
    digits = load_dataset("digits")
    images, labels = digits.x_test[:20], digits.y_test[:20]
    report = nctool.run_sim(digits_model, input=images, labels=labels)
    np.testing.assert_array_equal(report.logits, nctool.open(digits_model)(images))
    np.testing.assert_array_equal(report.answers, report.logits.argmax(axis=1))
    np.testing.assert_array_equal(report.labels, labels)
    assert report.accuracy["4"] == (report.answers == report.labels).mean()
    assert report.answer_names == tuple(map(str, report.answers))
    unlabelled = nctool.run_sim(digits_model, input=images, engine="reference")
    assert unlabelled.labels is None
    np.testing.assert_array_equal(unlabelled.answers, report.answers)
    assert {"labels", "logits"}.isdisjoint(report.to_json())  # the keys of JSON are a contract
    assert (report.to_json()["answers"], unlabelled.to_json()["answers"]) == ([], report.answers.tolist())
    assert report == dataclasses.replace(report)
    assert report != dataclasses.replace(report, answers=report.answers + 1)


def test_history_and_explore_plot_what_their_option_draws(reports) -> None:
    import altair as alt
    import vl_convert

    for name in ("history", "explore"):
        chart = reports[name].plot()
        assert isinstance(chart, alt.TopLevelMixin)
        assert "<svg" in vl_convert.vegalite_to_svg(chart.to_dict())
        assert chart.to_dict()["config"]["background"] == theme.LIGHT["paper"]  # in a dark notebook too
    assert len(reports["explore"].plot().to_dict()["hconcat"]) == 3


def test_an_open_model_says_what_it_takes_and_gives(digits_model: Path) -> None:
    line = repr(nctool.open(digits_model))
    assert line.startswith(f"OpenModel({str(digits_model)!r}: pixels 1x8x8 -> 10 classes, T=4, cpu, kernels ")


# --- progress ---------------------------------------------------------------------------------------------------------


def train(folder: Path, **options: Any) -> None:
    nctool.train("digits-mlp", folder / "run", overrides={"training.epochs": 1}, overwrite=True, **options)


def test_training_shows_a_bar_on_a_terminal_unless_told_not_to(tmp_path: Path, monkeypatch) -> None:
    terminal = stderr_terminal(monkeypatch)
    calls = []
    train(tmp_path, progress=False)
    train(tmp_path, progress=lambda *call: calls.append(call))
    assert terminal.getvalue() == ""
    assert calls
    train(tmp_path)
    assert "training" in terminal.getvalue()


def test_what_is_quick_shows_no_bar(monkeypatch) -> None:
    terminal = stderr_terminal(monkeypatch)
    monkeypatch.setattr("nctool.progress.Timer", lambda _seconds, action: Timer(100, action))
    with progress_bar("quick") as report:
        report(1, 2)
    assert terminal.getvalue() == ""


def test_the_title_names_arguments(digits_model: Path, monkeypatch) -> None:
    terminal = stderr_terminal(monkeypatch)
    nctool.run_sim(digits_model, samples=2, engine="reference")
    assert "engine reference" in terminal.getvalue()
    learn_title("some_function", "on {device}")
    assert title_of("some_function", {"device": "cpu"}) == "on cpu"
    assert title_of("another", {}) == "another"


def test_the_command_line_shows_one_bar_and_with_json_none(cli, digits_model: Path, monkeypatch) -> None:
    terminal = stderr_terminal(monkeypatch)
    assert cli("run-sim", digits_model, "--samples", 2, "--json").code == 0
    assert terminal.getvalue() == ""


def test_a_later_rank_shows_nothing(digits_model: Path, monkeypatch) -> None:
    terminal = stderr_terminal(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    nctool.verify(digits_model, engines="fast", samples=1)
    assert terminal.getvalue() == ""


def test_a_notebook_shows_a_bar_of_the_browser(monkeypatch) -> None:
    shown: list[dict[str, str]] = []

    def show(data: dict[str, str], *, raw: bool, display_id: bool = True) -> Any:
        assert raw and display_id
        shown.append(data)
        return types.SimpleNamespace(update=show)

    shell = types.SimpleNamespace(kernel=object())
    modules = {name: types.ModuleType(name) for name in ("IPython", "IPython.display")}
    modules["IPython"].get_ipython = lambda: shell
    modules["IPython.display"].display = show
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with progress_bar("title") as report:
        report(1, 2)
    assert shown == []  # it was quick
    monkeypatch.setattr("nctool.progress.FIRST_S", 0)
    monkeypatch.setattr("nctool.progress.NOTEBOOK_S", 0)
    with progress_bar("a <title>") as report:
        report(3, 7, "loss < 1")
        report(4, 7)
    first = 'a &lt;title&gt; 3/7 <progress value="3" max="7"></progress><br>loss &lt; 1'
    assert shown[0] == {"text/html": f"<div>{first}</div>", "text/plain": "a <title> 3/7"}
    assert 'value="4"' in shown[1]["text/html"]
    assert shown[2:] == [{"text/html": "", "text/plain": ""}]
    shell.kernel = None  # IPython in a terminal
    with progress_bar("title") as report:
        assert report is no_progress
