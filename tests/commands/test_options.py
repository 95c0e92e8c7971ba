"""Options: what is typed becomes arguments, also under the older names that scripts use."""

from __future__ import annotations

from pathlib import Path

import pytest

import nctool
from nctool.commands.options import parse_replicas
from nctool.errors import UsageError

# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "replicas"),
    [
        ("auto", "auto"),
        ("4", 4),
        ("conv1=4", {"conv1": 4}),
        ("a=1, b.c=20", {"a": 1, "b.c": 20}),
    ],
)
def test_the_text_of_replicas(text: str, replicas: object) -> None:
    assert parse_replicas(text, "replicas") == replicas


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "a=", "=3", "a=1,", "a=1,a=2", "4,4", "a=b", "4 4"])
def test_text_that_is_no_number_of_replicas(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_replicas(text, "replicas")
    assert str(caught.value) == (
        f"replicas: got `{text}`, allowed a number K, LAYER=K,LAYER=K with each layer once, or auto"
    )


# --- older names ------------------------------------------------------------------------------------------------------

NEW = {"backend": "autapse", "replicas": 2}
OLDER = {"realisation": "autapse", "units": 2}


def typed(options: dict[str, object]) -> list[object]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def test_an_older_argument_is_the_new_one(digits_run: Path, tmp_path: Path) -> None:
    for name, options in {"new": NEW, "older": OLDER}.items():
        nctool.export(digits_run, tmp_path / name, steps=1, **options)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "older").read_bytes()
    only = {"steps": [1], "weight_bits": [8], "samples": 2}
    found = [
        nctool.explore(digits_run, **each, **only).rows
        for each in ({"backends": "autapse", "replicas": [2]}, {"realisations": "autapse", "units": [2]})
    ]
    assert found[0] == found[1]


def test_an_older_option_is_the_new_one(cli, digits_run: Path, tmp_path: Path) -> None:
    command = ("export", digits_run, "-o", tmp_path / "m.net", "--steps", 1, "--json")
    found = [cli(*command, *typed(options)).json for options in (NEW, OLDER)]
    assert found[0] == found[1]
    command = ("explore", digits_run, "--steps", 1, "--weight-bits", 8, "--samples", 2, "--json")
    options = ({"backends": "autapse", "replicas": "1,2"}, {"realisations": "autapse", "units": "1,2"})
    found = [cli(*command, *typed(each)).json for each in options]
    assert found[0] == found[1]


def test_the_help_has_the_new_names_only(cli) -> None:
    for command in ("export", "explore"):
        text = cli(command, "--help").out
        assert "--backend" in text and "--replicas" in text
        assert "--realisation" not in text and "--units" not in text


@pytest.mark.parametrize(
    ("typed", "suggested"), [("--unit", "--input, --replicas"), ("--calibration", "--activation-bits, --backend")]
)
def test_no_older_name_is_suggested(cli, typed: str, suggested: str) -> None:
    ended = cli("export", typed, "x")
    assert ended.code == 2
    assert ended.err.startswith(f"error: no such option: {typed} (Possible options: {suggested})\n")


@pytest.mark.parametrize(("new", "older"), [("backend", "realisation"), ("replicas", "units")])
def test_both_names_at_once_are_refused(cli, digits_run, tmp_path: Path, new: str, older: str) -> None:
    with pytest.raises(UsageError) as caught:
        nctool.export(digits_run, tmp_path / "m.net", **{new: NEW[new], older: NEW[new]})
    assert str(caught.value) == f"{new} and {older}: allowed one of them\nhint: {older} is the older name"
    command = ("export", digits_run, "-o", tmp_path / "m.net", f"--{new}", NEW[new], f"--{older}", NEW[new])
    ended = cli(*command)
    assert (ended.code, ended.err) == (
        2,
        f"error: --{new} and --{older}: allowed one of them\nhint: --{older} is the older name\n",
    )
    assert not list(tmp_path.iterdir())


def test_both_names_are_refused_where_one_says_the_default(cli, digits_run) -> None:
    ended = cli("explore", digits_run, "--backends", "autapse,population,zero-reset", "--realisations", "autapse")
    assert (ended.code, ended.err.splitlines()[0]) == (2, "error: --backends and --realisations: allowed one of them")


def test_json_has_both_keys(digits_run: Path, digits_model: Path, tmp_path: Path) -> None:
    exported = nctool.export(digits_run, tmp_path / "m.net", steps=1, **NEW).to_json()
    assert exported["backend"] == exported["realisation"] == "autapse"
    assert exported["replicas"] == exported["units"] == {"conv1": 2, "conv2": 2, "fc1": 2}
    inspected = nctool.inspect(digits_model).to_json()
    assert inspected["backend"] == inspected["realisation"] == "autapse"
    cost = nctool.run_sim(digits_model, samples=1, cost=True).to_json()["cost"]
    assert cost["backend"] == cost["realisation"] == "autapse"
