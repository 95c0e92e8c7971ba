"""The pages that the site adds: the format of a file, what is made from the code, the list of contents."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from nctool.commands import COMMANDS
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import IntNetwork
from nctool_deploy.netx.metadata import FORMAT_NAME, FORMAT_VERSION, Metadata
from tests.support.markdown import DOCS, ROOT, rows, sections
from tests.support.networks import (
    conv,
    dense,
    fire,
    random_enlarged,
    random_graded,
    random_graph,
    random_network,
    random_pixels,
    random_pooled,
    read_out,
    signed_input,
    write_network,
)

sys.path.insert(0, str(DOCS / "_site"))

import definitions
import drawings

# --- the format of a file ---------------------------------------------------------------------------------------------

WRITTEN = [
    *map(random_network, range(4)),
    random_network(4, rate=True),
    *map(random_enlarged, range(4)),
    *map(random_graph, range(4)),
    random_pooled(0),
    *map(random_graded, range(4)),
]


def enlarged_branch() -> IntNetwork:
    """Return a network whose second branch reads an enlarged image."""
    small = fire("small", conv("input", [[[[1]]]], stride=(2, 2)), shape=(1, 2, 2))
    enlarged = conv("small", np.ones((1, 1, 2, 2)), input_dilation=(2, 2), padding=(1, 1))
    joined = fire("sum", conv("input", [[[[1]]]]), enlarged, shape=(1, 4, 4))
    network = IntNetwork(signed_input(1, 4, 4), (small, joined, read_out(dense("sum", np.ones((2, 16))))), 2)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def documented() -> dict[str, str]:
    """Return what FORMAT.md says of every dataset: its type and shape, by its path."""
    found = [row for text in sections("FORMAT.md").values() for row in rows(text) if row[0].startswith("`/")]
    return {path: row[1] for row in found for path in re.findall(r"`(/[^`]+)`", row[0])}


def datasets(path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the datasets of a file, with N and K for the numbers in their paths."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visit(found.append)
        for name in found:
            if isinstance(file[name], h5py.Dataset):
                layer = re.sub(r"^/layer/\d+", "/layer/N", f"/{name}")
                yield re.sub(r"/\d+(?=/|$)", "/K", layer), file[name]


def written(network: IntNetwork, path: Path) -> Path:
    return write_network(network, path, random_pixels(network, 1))


def test_the_page_of_the_format_lists_every_dataset_with_its_type(tmp_path: Path) -> None:
    said, seen = documented(), set()
    for number, network in enumerate([*WRITTEN, enlarged_branch()]):
        for name, data in datasets(written(network, tmp_path / f"{number}.net")):
            kind = "text" if data.dtype.kind == "S" else data.dtype.name
            assert kind in said[name], name
            seen.add(name)
    assert seen == set(said)


def test_the_page_of_the_format_has_the_keys_of_the_metadata() -> None:
    said = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows(sections("FORMAT.md")["The metadata"])))
    assert said == [field.alias or name for name, field in Metadata.model_fields.items()]
    values = {row[0]: row[2] for row in rows(sections("FORMAT.md")["`/nctool`"])}
    assert (values["`/nctool/format`"], values["`/nctool/version`"]) == (f"`{FORMAT_NAME}`", str(FORMAT_VERSION))


# --- what is made from the code ---------------------------------------------------------------------------------------


def test_every_command_and_option_is_listed_with_what_it_is() -> None:
    text = definitions.commands()
    for name in COMMANDS:
        assert f"## `nctool {name}`\n" in text
    assert not re.search(r"\| *\|$", text, re.MULTILINE), "an option without help"


def test_every_key_of_json_is_listed_with_its_type() -> None:
    text = definitions.json_keys()
    kinds = re.findall(r"^\| `\w+` \| (.*?) \|", text, re.MULTILINE)
    assert len(kinds) > 100
    known = r"\[\w+\]\(#\w+\)|`[^`]+`|list|object|of|by|name|or|null|text|integer|number|true,|false|value|,"
    assert [kind for kind in kinds if not re.fullmatch(rf"(?:(?:{known})[ ,]*)+", kind)] == []
    for name in set(re.findall(r"\(#(\w+)\)", text)):
        assert re.search(rf"^### {name}$", text, re.MULTILINE | re.IGNORECASE), name


def test_the_codes_of_the_classes_of_errors_are_in_the_table_of_exit_codes() -> None:
    codes = set(re.findall(r"^\| [^|]+ \| [^|]+ \| (\d+) \|", definitions.error_classes(), re.MULTILINE))
    assert codes == {"2", "3", "4", "5", "74"}
    assert codes <= set(re.findall(r"\d+", definitions.exit_codes()))


# --- pages ------------------------------------------------------------------------------------------------------------


def test_every_page_stands_once_in_the_list_of_contents() -> None:
    index = definitions.page_text((DOCS / "index.md").read_text(encoding="utf-8"), "index")
    listed = [name for part in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for name in part.split("\n")]
    names = [re.sub(r".*<(.*)>", r"\1", name) for name in listed if name and not name.startswith(":")]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(names) == sorted(pages - {"index"})


def test_a_page_that_the_list_does_not_name_stands_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.md").write_text("```{toctree}\n\nA\n```", encoding="utf-8")
    for name in ("A", "B"):
        (tmp_path / f"{name}.md").touch()
    monkeypatch.setattr(definitions, "DOCS", tmp_path)
    assert definitions.other_pages().splitlines()[-2:] == ["B", "```"]


@pytest.mark.parametrize("page", definitions.ELSEWHERE)
def test_links_of_pages_from_elsewhere_lead_to_pages_of_the_site(page: str) -> None:
    text = definitions.page_text("", page)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert text.startswith("# ")
    assert [link for link in links if link and not ((DOCS / page).parent / link).exists()] == []
    assert (ROOT / definitions.ELSEWHERE[page]).exists()


def test_the_drawings_are_those_that_the_script_draws() -> None:
    for name, draw in drawings.PICTURES.items():
        assert (DOCS / name).read_text(encoding="utf-8") == draw(), f"{name}: python docs/_site/drawings.py"


@pytest.mark.parametrize(
    ("text", "is_fetched"),
    [
        ('<script async src="https://cdn.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', True),
        ("a { background: url(https://example/x.png) }", True),
        ('<a href="https://arxiv.org/abs/2404.17456">', False),
        ('<script src="_static/x.js"></script><img src="flow.svg">', False),
    ],
)
def test_what_a_browser_would_fetch_is_found(text: str, is_fetched: bool) -> None:
    assert (definitions.fetched(text) is not None) == is_fetched


def test_the_messages_that_the_page_of_troubles_quotes_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy").rglob("*.py"))
    quoted = [row[0] for row in rows(sections("TROUBLES.md")["It does not fit"])[1:]]
    assert len(quoted) > 5
    for part in (part.strip() for text in quoted for part in re.split(r"[…`]|\b[NM]\b|loihi1|1$|`, `", text)):
        assert part in code or part == ",", part


@pytest.mark.parametrize("page", sorted(DOCS.glob("tutorials/*.md")), ids=lambda page: page.name)
def test_every_block_of_a_tutorial_is_a_cell_that_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    cells = re.findall(r"^```{code-cell} python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert text.count("\n```") == 2 * len(cells) > 4
    for cell in cells:
        compile(cell, page.name, "exec")


def test_labels_of_rules_become_links_but_in_code_links_and_titles() -> None:
    text = "# W1\n\nRules W1 to W3, `W1`, [W1](x.md), Z9, T1.\n\n```\nW1\n```\n\n**W1 Dense.** By N2.\n"
    assert definitions.linked_rules(text) == (
        "# W1\n\nRules [W1](#rule-w1) to [W3](#rule-w3), `W1`, [W1](x.md), Z9, [T1](#rule-t1).\n\n```\nW1\n```\n\n"
        "**W1 Dense.** By [N2](#rule-n2).\n"
    )
