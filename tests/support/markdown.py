"""The pages of the documentation, taken apart: fenced blocks with their marks, sections, tables, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>file|not run|shows|example): (?P<value>[^>]*?) -->\n\n?)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

DIRECTIVE = re.compile(r"^```\{[\w-]+\}.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: page and line of its fence.
        language: behind the fence, or nothing.
        text: what the fences hold.
        mark: `file` (the text is that of a file), `not run`, `shows` (the text is what something prints), `example` (of
            rules of docs/SEMANTICS.md), or nothing.
        value: of the mark: the name of the file, the reason, what prints it, the rules.
    """

    place: str
    language: str
    text: str
    mark: str
    value: str


def page_text(name: str) -> str:
    """Return the text of a page, by its file name, with empty lines in place of what is for Sphinx."""
    (page,) = (page for page in PAGES if page.name == name)
    return without_directives(page.read_text(encoding="utf-8"))


def without_directives(text: str) -> str:
    """Return a text with empty lines in place of blocks such as ```{toctree}, which are for Sphinx."""
    return DIRECTIVE.sub(lambda found: "\n" * found[0].count("\n"), text)


def blocks(name: str, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, those of one language where it is given."""
    text = page_text(name)
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        value = " ".join((match["value"] or "").split())
        found.append(Block(f"{name}:{line}", match["language"], match["text"], match["mark"] or "", value))
    return [block for block in found if language in (None, block.language)]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield every command of a block for a shell or for a CI service, with the output that stands below it."""
    if block.language == "yaml":
        for line in block.text.splitlines():
            command = line.strip().removeprefix("- ").removeprefix("run: ")
            if command.startswith("nctool "):
                yield command, ""
    elif block.language == "sh":
        yield from ((line, "") for line in block.text.splitlines())
    elif block.language == "console":
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def sections(name: str) -> dict[str, str]:
    """Return the text of a page under each of its headings."""
    parts = re.split(r"^#+ ", page_text(name), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part for part in parts}


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of the tables in a text, without their heads."""
    lines = re.findall(r"^\| (?!key |architecture )(.*) ?\|$", text, re.MULTILINE)
    return [tuple(cell.strip() for cell in line.split("|")) for line in lines]
