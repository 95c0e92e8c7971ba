"""The commands and examples in docs/ work as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic.fields import FieldInfo
from torch import nn

import nctool
from nctool.api.engines import ENGINES
from nctool.nq import activations
from nctool.recipe import Recipe, parse_recipe
from nctool.toml_schema import _tables_of, _tags
from nctool.toml_text import literal
from nctool_models import list_recipes, load_dataset
from nctool_models.datasets import NAMES
from tests.foreign import Draft, dense_layer
from tests.runs import run_command

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str, language: str) -> list[str]:
    """Return the fenced blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def sections(name: str) -> dict[str, str]:
    """Return the text of a page under each of its headings."""
    parts = re.split(r"^#+ ", (DOCS / name).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part for part in parts}


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of the tables in a text, without their heads."""
    lines = re.findall(r"^\| (?!key |architecture )(.*) ?\|$", text, re.MULTILINE)
    return [tuple(cell.strip() for cell in line.split("|")) for line in lines]


def key_row(key: str, field: FieldInfo) -> tuple[str, str, str]:
    """Return a key as the page shows it: its name, what it allows, its default."""
    default = None if field.is_required() else field.default
    shown = "" if default is None else default if isinstance(default, str) else literal(default)
    return f"`{key}`", field.description or "", shown


def commands(yaml: str) -> Iterator[list[str]]:
    """Yield the words of every `nctool` command line of a job."""
    for line in yaml.splitlines():
        command = line.strip().removeprefix("- ").removeprefix("run: ")
        if command.startswith("nctool "):
            yield shlex.split(command)


def test_every_command_in_the_ci_examples_is_one_that_nctool_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    class Equal:
        equal = True

        @staticmethod
        def to_json() -> dict[str, Any]:
            return {}

    def record(model: Path, **options: Any) -> Equal:
        calls.append(options)
        return Equal()

    monkeypatch.setattr("nctool.api.verify", record)
    github, gitlab = blocks("CI.md", "yaml")
    for command in [*commands(github), *commands(gitlab)]:
        ended = run_command(capsys, monkeypatch, *command[1:], "--json")
        assert (ended.code, ended.err) == (0, ""), command
    assert [options["engines"] for options in calls] == [
        "reference,fast",
        "reference,fast,lava",
        "reference,fast,lava",
    ]
    assert all(set(options["engines"].split(",")) <= set(ENGINES) and options["junit"] for options in calls)


@pytest.mark.parametrize("number", [0, 1])
def test_the_yaml_of_the_ci_examples_has_a_sound_layout(number: int) -> None:
    """Spaces in pairs, no tab, every line a comment, a list item, or a key; no key twice in one mapping."""
    open_keys: list[tuple[int, set[str]]] = []
    for line in blocks("CI.md", "yaml")[number].splitlines():
        if not line.strip():
            continue
        found = re.fullmatch(r"((?:  )*)(- )?(?:([\w-]+):(?: +(\S.*))?|\S.*)", line)
        assert found, line
        indent = len(found[1]) + len(found[2] or "")
        while open_keys and (open_keys[-1][0] > indent or (found[2] and open_keys[-1][0] == indent)):
            open_keys.pop()
        if found[3]:
            if not open_keys or open_keys[-1][0] < indent:
                open_keys.append((indent, set()))
            assert found[3] not in open_keys[-1][1], f"key twice: {line}"
            open_keys[-1][1].add(found[3])


def test_the_names_in_the_ci_page_are_those_of_the_checks(digits_model: Path) -> None:
    table = re.findall(r"^\| `([^`]+)`", (DOCS / "CI.md").read_text(encoding="utf-8"), re.MULTILINE)
    report = nctool.verify(digits_model, engines=["reference", "fast"])
    groups = list(dict.fromkeys(check.group.replace("fast", "lava") for check in report.checks))
    assert table == groups


@pytest.mark.lava
def test_the_commands_for_files_of_other_tools_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Draft([dense_layer([[9, -5, 7], [3, 8, -6]])]).write(Path("network.net"))
    np.save("spikes.npy", np.ones((3, 20, 3), np.int8))
    np.save("classes.npy", np.array([0, 1, 0]))
    (session,) = blocks("NETX.md", "console")
    lines = [shlex.split(line.removeprefix("$ ")) for line in session.splitlines()]
    assert len(lines) == 4
    for words in lines:
        ended = run_command(capsys, monkeypatch, *words[1:])
        assert (ended.code, ended.err) == (0, ""), words


def test_the_example_that_reads_traces(
    digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nctool.verify(digits_model, engines=["reference", "fast"], layers="traces.npz")
    (code,) = blocks("TRACES.md", "python")
    exec(code, {})
    assert capsys.readouterr().out == "conv1 fast []\nconv2 fast []\nfc1 fast []\n"


def test_the_page_of_a_network_of_ones_own_works_from_data_to_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On digits, every script in a process of its own: that is what the page promises of the second and third."""
    monkeypatch.chdir(tmp_path)
    digits = load_dataset("digits")
    train, test = (images.transpose(0, 2, 3, 1) for images in (digits.x_train, digits.x_test))
    np.savez("mine.npz", x_train=train, y_train=digits.y_train, x_test=test, y_test=digits.y_test)
    (recipe,) = blocks("OWN_MODEL.md", "toml")
    module, *scripts = blocks("OWN_MODEL.md", "python")[:4]
    Path("mine.toml").write_text(recipe)
    Path("mine.py").write_text(module)
    for script in scripts:
        subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, stdout=subprocess.DEVNULL)
    (session,) = blocks("OWN_MODEL.md", "console")
    for line in session.splitlines():
        ended = run_command(capsys, monkeypatch, *shlex.split(line.removeprefix("$ "))[1:])
        assert (ended.code, ended.err) == (0, ""), line
    for name, steps in {"mine": 2, "longer": 4, "looped": 4}.items():
        assert nctool.run_sim(f"{name}.net", dataset="mine.npz").accuracy[str(steps)] > 0.8, name
        assert nctool.verify(f"{name}.net", engines=["reference", "fast"]).equal


def test_the_page_of_a_network_of_ones_own_replaces_activations() -> None:
    code = blocks("OWN_MODEL.md", "python")[4]
    given: dict[str, Any] = {}
    exec(code, given)
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.GELU()), nn.LeakyReLU(), nn.Linear(4, 2))
    kinds = [type(module) for module in given["with_relu"](net).modules()]
    assert kinds == [nn.Sequential, nn.Sequential, nn.Linear, nn.ReLU, nn.ReLU, nn.Linear]


@pytest.mark.vision
def test_the_page_of_a_network_of_ones_own_fits_the_head_of_a_vgg() -> None:
    code = blocks("OWN_MODEL.md", "python")[5]
    given: dict[str, Any] = {}
    exec(code, given)
    prepared = nctool.prepare(given["net"], torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert len(activations(prepared)) == 10


def test_the_page_of_recipes_says_of_every_key_what_it_allows_and_its_default() -> None:
    documented = {title: rows(text) for title, text in sections("RECIPES.md").items()}
    top = [row[:3] for row in documented["Recipes"]]
    assert top == [key_row(name, Recipe.model_fields[name]) for name in ("name", "description", "seed")]
    tables = {name: field for name, field in Recipe.model_fields.items() if f"`[{name}]`" in documented}
    assert len(tables) == len(Recipe.model_fields) - 3 == len(documented) - 1
    for name, field in tables.items():
        if name != "model":
            (table,) = _tables_of(field)
            expected = [key_row(key, each) for key, each in table.model_fields.items()]
            assert [row[:3] for row in documented[f"`[{name}]`"]] == expected, name


def test_the_page_of_recipes_says_of_every_network_what_its_keys_allow() -> None:
    found: list[tuple[str, ...]] = []
    for first, *others in rows(sections("RECIPES.md")["`[model]`"]):
        network = re.findall(r"`([^`]+)`", first) or [found[-1][0]]
        found.append((network[0], *others))
    expected = [
        (tag, *key_row(key, field))
        for table in _tables_of(Recipe.model_fields["model"])
        for tag in _tags(table)
        for key, field in table.model_fields.items()
        if key != "architecture"
    ]
    assert found == expected


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = blocks("RECIPES.md", "toml")
    assert parse_recipe(text).training.epochs == 10


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = page if not path else page.parent / path
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_training_page_lists_every_data_set_and_recipe() -> None:
    parts = sections("TRAINING.md")
    first_cells = {
        title: re.findall(r"`([^`]+)`", " ".join(row[0] for row in rows(parts[title])))
        for title in ("Data sets", "The built-in recipes")
    }
    assert set(first_cells["Data sets"]) - {".npz"} == set(NAMES)
    assert sorted(first_cells["The built-in recipes"]) == list(list_recipes())
