"""`explore`: a row is what `export` and `run-sim --cost` give, what does not fit is a row with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nctool
from nctool.commands.explore import LEGEND
from nctool.errors import UsageError
from nctool.exporting.exploring import Setting, best, settings
from nctool.fast.engine import FastEngine
from nctool.figures.exploration import COLOURS
from nctool.ir.inputs import Samples
from nctool.reference.trace import Trace
from nctool_deploy.backends.backend import BACKENDS

ALL = ("autapse", "population", "zero-reset")
SMALL_CHIP = """
name = "small-chip"
[limits]
cores_per_chip = { value = 3, source = "data sheet" }
neurons_per_core = { value = 2000, source = "data sheet" }
[features]
graded_spikes = { value = true, source = "data sheet" }
shared_kernels = { value = false, source = "data sheet" }
[energy]
basis = "made up"
synaptic_operation = { pj = 2, source = "data sheet" }
active_update = { pj = 8, source = "data sheet" }
idle_update = { pj = 4, source = "data sheet" }
spike = { pj = 1, source = "data sheet" }
"""


@pytest.fixture
def small_chip(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_CHIP, encoding="utf-8")
    return path


# --- settings -------------------------------------------------------------


def test_the_settings_that_are_tried_unasked() -> None:
    found = settings(ALL, None, None, (8, 4), levels=3)
    eight = [setting for setting in found if setting.weight_bits == 8]
    assert [(each.backend, each.replicas, each.steps) for each in eight] == [
        *(("autapse", replicas, steps) for replicas in (1, 2, 4) for steps in (1, 2, 4, 8)),
        ("population", 3, 1),
        ("zero-reset", 1, 4),
        ("zero-reset", 1, 8),
    ]
    assert {replace(setting, weight_bits=8) for setting in found if setting.weight_bits == 4} == set(eight)


def test_the_settings_asked_for_each_once() -> None:
    assert settings(("zero-reset", "autapse", "autapse"), (3, 3), (2,), (5, 5), levels=4) == [
        Setting("zero-reset", 1, 3, 5),
        Setting("autapse", 2, 3, 5),
    ]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"backends": ("magic",)}, "unknown backend `magic`, allowed autapse, population, zero-reset, graded"),
        ({"backends": ()}, "backends: none given, allowed one or more"),
        ({"steps": (1, 0)}, "steps: 0 is out of range, allowed 1..1032"),
        ({"steps": (1032, 1033)}, "steps: 1033 is out of range, allowed 1..1032"),
        ({"replicas": (65,)}, "replicas: 65 is out of range, allowed 1..64"),
        ({"weight_bits": (8, 9)}, "weight bits: 9 is out of range, allowed 2..8"),
        ({"weight_bits": ()}, "weight bits: none given, allowed one or more"),
    ],
)
def test_settings_that_are_refused(changed: dict[str, tuple[int, ...]], text: str) -> None:
    chosen: dict[str, object] = {"backends": ALL, "steps": None, "replicas": None, "weight_bits": (8,)}
    with pytest.raises(UsageError) as caught:
        settings(**(chosen | changed), levels=4)  # type: ignore[arg-type]
    assert str(caught.value) == text


# --- rows -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "replicas", "steps", "encoding"),
    [
        ("autapse", 2, 2, None),
        ("autapse", 1, 2, "rate"),
        ("population", 4, 1, None),
        ("zero-reset", 1, 3, None),
        ("graded", 1, 1, None),
    ],
)
def test_a_row_is_what_exporting_and_running_give(
    digits_run: Path, tmp_path: Path, backend: str, replicas: int, steps: int, encoding: str | None
) -> None:
    report = nctool.explore(
        digits_run,
        backends=[backend],
        replicas=[replicas],
        steps=[steps],
        weight_bits=[5],
        input=encoding,
        samples=60,
    )
    exported = nctool.export(
        digits_run,
        tmp_path / "model.net",
        backend=backend,
        replicas=replicas,
        steps=steps,
        weight_bits=5,
        input=encoding,
    )
    ran = nctool.run_sim(exported.path, samples=60, cost=True)
    (row,) = report.rows
    assert row.setting == Setting(backend, replicas, steps, 5)
    assert (row.refusal, row.pareto) == (None, True)
    assert row.measured is not None
    assert row.measured.accuracy == ran.accuracy[str(steps)]
    assert row.measured.cost == ran.cost
    sizes = (row.measured.neurons, row.measured.cores, row.measured.chips)
    assert sizes == (exported.neurons, exported.cores, exported.chips)
    assert (report.dataset, report.samples, report.target) == ("digits/test", 60, "loihi2")


def test_what_does_not_fit_is_a_row_with_the_reason(digits_run: Path, small_chip: Path) -> None:
    options = {"backends": ["autapse"], "replicas": [1, 2], "steps": [1], "weight_bits": [8], "samples": 20}
    one, two = nctool.explore(digits_run, target=small_chip, **options).rows
    assert one.measured is not None
    assert (one.measured.cores, one.pareto) == (3, True)
    assert (two.measured, two.pareto) == (None, False)
    assert two.refusal == "network: needs 6 cores, 2 chips of `small-chip` with 3 cores each, allowed 1"
    both = nctool.explore(digits_run, target=small_chip, chips=2, **options).rows
    assert [row.measured.chips for row in both if row.measured is not None] == [1, 2]


def test_an_overflow_is_a_row_with_the_reason(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overflowing(FastEngine):
        def traces(self, samples: Samples) -> Iterator[Trace]:
            return (replace(trace, overflows={"conv1": 2, "fc1": 1}) for trace in super().traces(samples))

    monkeypatch.setattr("nctool.exporting.exploring.FastEngine", Overflowing)
    (row,) = nctool.explore(digits_run, backends=["autapse"], replicas=[1], steps=[1], weight_bits=[8], samples=1).rows
    assert row.measured is None
    assert row.refusal == "network: 3 accumulated inputs left the accumulator (rule O1), allowed 0"


def test_progress_counts_the_samples_of_every_setting(digits_run: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    def note(done: int, total: int, message: str = "") -> None:
        seen.append((done, total, message))

    nctool.explore(
        digits_run, backends=["autapse"], replicas=[1], steps=[1, 2], weight_bits=[8], samples=30, progress=note
    )
    assert seen[0] == (0, 60, "autapse, K=1, T=1, 8 bits")
    assert seen[-1] == (60, 60, "autapse, K=1, T=2, 8 bits")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


# --- the front ------------------------------------------------------------


def test_the_front_by_hand() -> None:
    assert best([(1, 5), (2, 4), (2, 5), (3, 1), (1, 5)]) == [True, True, False, True, True]
    assert best([]) == []


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_what_is_not_on_the_front_is_beaten_by_something_on_it(choices: list[tuple[int, ...]]) -> None:
    marks = best(choices)
    front = [choice for choice, kept in zip(choices, marks, strict=True) if kept]

    def beaten(choice: tuple[int, ...]) -> bool:
        return any(other != choice and all(a <= b for a, b in zip(other, choice, strict=True)) for other in front)

    assert [not beaten(choice) for choice in choices] == marks


# --- the plot -------------------------------------------------------------


def test_the_plot_names_every_curve_and_is_the_same_each_time(digits_run: Path, tmp_path: Path) -> None:
    options = {"backends": ["autapse", "graded"], "replicas": [1], "steps": [1, 2], "samples": 10}
    for name in ("one.svg", "two.svg"):
        nctool.explore(digits_run, plot=tmp_path / name, **options)
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "two.svg").read_text(encoding="utf-8")
    curves = ["autapse, K=1, 8 bits", "autapse, K=1, 4 bits", "graded, K=1, 8 bits", "graded, K=1, 4 bits"]
    for text in [*curves, "latency, time steps", "neurons", "synaptic operations a sample"]:
        assert f">{text}</text>" in drawn, text


def test_every_backend_has_a_colour() -> None:
    assert set(COLOURS) == {backend.name for backend in BACKENDS}


def test_a_plot_without_a_row_is_drawn(digits_run: Path, small_chip: Path, tmp_path: Path) -> None:
    nctool.explore(digits_run, backends=["population"], target=small_chip, samples=5, plot=tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_plots_that_are_refused_before_the_work(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        nctool.explore(digits_run, plot=tmp_path / "plot.gif")
    assert str(caught.value) == f"plot `{tmp_path / 'plot.gif'}`: ends in `.gif`, allowed .png, .svg, .pdf"
    with pytest.raises(UsageError) as caught:
        nctool.explore(digits_run, plot=tmp_path / "no" / "plot.png")
    assert str(caught.value).startswith(f"cannot write `{tmp_path / 'no' / 'plot.png'}`: no such file or directory")


# --- the command ----------------------------------------------------------


def test_the_table_and_the_json(cli, digits_run: Path, small_chip: Path) -> None:
    options = ["--steps", "1", "--replicas", "1, 2", "--weight-bits", "8", "--backends", "autapse", "--samples", 20]
    command = ["explore", digits_run, "--target", small_chip, *options]
    shown = cli(*command)
    assert (shown.code, shown.err) == (0, "")
    title, header, row, refusal, *notes = shown.out.splitlines()
    assert title == f"{digits_run}: digits/test, 20 samples, target small-chip, backend autapse, cores 3"
    assert header.split() == [
        "K", "T", "bits", "accuracy", "latency", "every", "neurons", "spikes", "operations", "active", "idle",
    ]  # fmt: skip
    assert row.split()[:4] == ["*", "1", "1", "8"]
    assert refusal == (
        "not possible: autapse, K=2, T=1, 8 bits: network: needs 6 cores, 2 chips of `small-chip` with 3 cores each, "
        "allowed 1"
    )
    assert tuple(notes[:3]) == LEGEND
    assert notes[3] == "energy of a sample, by cause; made up"

    found = cli(*command, "--json").json
    first, second = found["rows"]
    names = {"backend": "autapse", "realisation": "autapse", "replicas": 1, "units": 1}
    assert first["setting"] == {**names, "steps": 1, "weight_bits": 8}
    energy = first["measured"]["cost"]["energy"]
    names = ("synaptic_operations", "active_updates", "idle_updates", "spikes", "total")
    *parts, total = [energy[f"{name}_pj"] for name in names]
    assert total == pytest.approx(sum(parts), rel=1e-12)
    shown_parts = [f"{part / 1000:,.1f}" for part in (*parts, total)]
    assert notes[6].split() == ["autapse,", "K=1,", "T=1,", "8", "bits", *shown_parts]
    assert (second["measured"], second["pareto"]) == (None, False)


@pytest.mark.parametrize(
    ("option", "text", "error"),
    [
        ("--steps", "1;2", "error: steps: got `1;2`, allowed whole numbers with commas between them\n"),
        ("--replicas", ",", "error: replicas: got `,`, allowed whole numbers with commas between them\n"),
        ("--weight-bits", "-4", "error: weight bits: got `-4`, allowed whole numbers with commas between them\n"),
        ("--input", "direct", "error: unknown input encoding `direct`, allowed graded, rate\n"),
        (
            "--chips",
            "0",
            "error: chips: 0 is out of range, allowed >= 1\nhint: give 1 or more chips with --chips\n",
        ),
        (
            "--samples",
            "9999",
            "error: samples: 9999 is out of range, allowed 1..359 (digits, test)\n",
        ),
    ],
)
def test_options_that_are_refused(cli, digits_run: Path, option: str, text: str, error: str) -> None:
    ended = cli("explore", digits_run, option, text)
    assert (ended.code, ended.out, ended.err) == (2, "", error)
