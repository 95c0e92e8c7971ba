"""What the pages say beside their code blocks is true: tables of keys, links, names of options, targets, scripts."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main
from pydantic.fields import FieldInfo

import nctool
from nctool.commands.application import app
from nctool.recipe.schema import Recipe
from nctool.toml import literal, tables_of, tags_of
from nctool_models import list_recipes
from nctool_models.datasets.load import NAMES
from tests.support.markdown import (
    DOCS,
    FENCE,
    PAGES,
    ROOT,
    Block,
    blocks,
    page_text,
    rows,
    sections,
    without_directives,
)

LINKED = [*PAGES, *sorted(DOCS.glob("*/*.md")), ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]


def inline_code(page: Path) -> list[str]:
    """Return what stands between single backquotes outside blocks, a line end in it being a space."""
    text = without_directives(page.read_text(encoding="utf-8"))
    found = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return [" ".join(code.split()) for code in found]


def key_row(key: str, field: FieldInfo) -> tuple[str, str, str]:
    """Return a key as the page shows it: its name, what it allows, its default."""
    default = None if field.is_required() else field.default
    shown = "" if default is None else default if isinstance(default, str) else literal(default)
    return f"`{key}`", field.description or "", shown


@pytest.mark.parametrize("block", blocks("CI.md", "yaml"), ids=lambda block: block.place)
def test_the_yaml_of_the_ci_examples_has_a_sound_layout(block: Block) -> None:
    """Spaces in pairs, no tab, every line a comment, a list item, or a key; no key twice in one mapping."""
    open_keys: list[tuple[int, set[str]]] = []
    for line in block.text.splitlines():
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
    table = re.findall(r"^\| `([^`]+)`", page_text("CI.md"), re.MULTILINE)
    report = nctool.verify(digits_model, engines=["reference", "fast"])
    groups = list(dict.fromkeys(check.group.replace("fast", "lava") for check in report.checks))
    assert list(dict.fromkeys(table)) == groups


def test_the_page_of_recipes_says_of_every_key_what_it_allows_and_its_default() -> None:
    documented = {title: rows(text) for title, text in sections("RECIPES.md").items()}
    top = [row[:3] for row in documented["Recipes"]]
    assert top == [key_row(name, Recipe.model_fields[name]) for name in ("name", "description", "seed")]
    tables = {name: field for name, field in Recipe.model_fields.items() if f"`[{name}]`" in documented}
    assert len(tables) == len(Recipe.model_fields) - 3 == len(documented) - 1
    for name, field in tables.items():
        if name != "model":
            (table,) = tables_of(field)
            expected = [key_row(key, each) for key, each in table.model_fields.items()]
            assert [row[:3] for row in documented[f"`[{name}]`"]] == expected, name


def test_the_page_of_recipes_says_of_every_network_what_its_keys_allow() -> None:
    found: list[tuple[str, ...]] = []
    for first, *others in rows(sections("RECIPES.md")["`[model]`"]):
        network = re.findall(r"`([^`]+)`", first) or [found[-1][0]]
        found.append((network[0], *others))
    expected = [
        (tag, *key_row(key, field))
        for table in tables_of(Recipe.model_fields["model"])
        for tag in tags_of(table)
        for key, field in table.model_fields.items()
        if key != "architecture"
    ]
    assert found == expected


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
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


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OF_NCTOOL = {"--help", "--version", "--install-completion", "--show-completion"}
PIP = {"--constraint", "--no-deps", "--ignore-requires-python", "--extra-index-url"}
OTHER_OPTIONS = PIP | OF_NCTOOL | {"--nproc-per-node", "--methods"}
"""Of pip, torchrun, `nctool` without a command, and a benchmark."""
OPTIONS = {name: {each for p in command.params for each in p.opts} for name, command in COMMANDS.items()}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_option_in_the_text_is_one(page: Path) -> None:
    """Of the command that stands before it, or of some program where there is none."""
    any_command = OTHER_OPTIONS.union(*OPTIONS.values())
    for code in inline_code(page):
        command = re.match(r"nctool ([a-z][a-z-]*)", code)
        if command:
            assert command[1] in OPTIONS, code
        if code.startswith(("nctool", "--")):
            known = OPTIONS[command[1]] if command else any_command
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)) <= known, code


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_target_of_make_in_the_text_is_one(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^ *|`|= nightly |\$ )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert target in targets


class Parsed(Exception):
    """The arguments of a script were taken."""


@pytest.mark.parametrize(
    "command",
    sorted({code for page in LINKED for code in inline_code(page) if "python benchmarks/" in code}),
)
def test_every_benchmark_in_the_text_takes_its_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, *arguments = shlex.split(command.partition("python ")[2])
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, _: object = None) -> None:
        parse(parser, arguments)
        raise Parsed

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    main = runpy.run_path(str(ROOT / script))["main"]
    if "argparse" in (ROOT / script).read_text(encoding="utf-8"):
        with pytest.raises(Parsed):
            main()
    else:
        assert not arguments


def test_the_citation_names_the_version_that_is_built() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_figures_of_the_comparison_are_those_of_the_results() -> None:
    """Each row of COMPARE.md stands in RESULTS.md, with the same network."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    network = ""
    for first, *others in rows(sections("RESULTS.md")["Post-training conversion"]):
        network = re.sub(r", ReLU.*", "", first) or network
        found[network, others[0]] = tuple(cell.strip("*") for cell in others[1:])
    compared = rows(sections("COMPARE.md")["Accuracy of conversion"])[1:]
    assert len(compared) == 9
    for first, tool, *figures in compared:
        network = first.partition(",")[0] or network
        assert found[network, tool] == tuple(figures), tool
