"""A Sphinx extension: parts of pages that are made from the code, and pages whose files stand outside docs/.

In a page, `<!-- generated: NAME -->` becomes what the function of that name in `GENERATED` returns, Markdown. Pages of
`ELSEWHERE` become the file at the root of the repository that they name, with its links turned round.

In: the packages of nctool, the pages. Out: Markdown, while Sphinx reads a page.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import typer.main

import nctool
from nctool import errors
from nctool.commands import application, load_all, streams
from nctool.reports import NOT_JSON, Report
from nctool.signature import options_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

ELSEWHERE = {
    "project/architecture": "ARCHITECTURE.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
}
"""Pages of the site that are files at the root of the repository."""

RULES = "SEMANTICS"
"""The page of the rules, each of which begins with its label, `**W1 Dense.**`."""

_LABEL = re.compile(r"^\*\*([A-Z]\d) ", re.MULTILINE)
_NO_TEXT = re.compile(
    r"(^```.*?^```$|`[^`]*`|\[[^\]]*\]\([^)]*\)|^#+ .*?$|<!--.*?-->|\*\*[A-Z]\d )", re.MULTILINE | re.DOTALL
)
"""What stays as it is where labels of rules become links: blocks, code, links, titles, comments, where rules begin."""

_MARK = re.compile(r"<!-- generated: ([\w -]+) -->")
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


# --- tables -----------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """Return a text between back-ticks, nothing for nothing."""
    return f"`{text}`" if str(text) else ""


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Return a section for each command: what it does, its options, arguments of Python, defaults."""
    built = typer.main.get_command(application.app).commands  # type: ignore[attr-defined]
    parts = []
    for command in load_all():
        arguments = {parameter.name for parameter, _ in options_of(command.function)}
        rows = [option_row(shown, arguments) for shown in built[command.name].params if not shown.hidden]
        head = ["option", "in Python", "default", "is"]
        parts.append(f"## `nctool {command.name}`\n\n{built[command.name].help}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def option_row(shown: Any, arguments: set[str]) -> list[str]:
    """Return what the table says of one option as typer shows it."""
    names = shown.opts if shown.param_type_name == "option" else [shown.metavar]
    flags = ", ".join(f"{code(name)}{{.whole}}" for name in names)  # not broken at its hyphens
    default = shown.show_default if isinstance(shown.show_default, str) else shown.default
    said = "" if shown.required or default in (None, False) or callable(default) else str(default)
    is_in_words = isinstance(shown.show_default, str)
    return [flags, code(shown.name if shown.name in arguments else ""), said if is_in_words else code(said), shown.help]


# --- JSON -------------------------------------------------------------------------------------------------------------


def json_keys() -> str:
    """Return, for each command, the keys of its JSON, from the dataclass of its report and those inside it."""
    parts, seen = [], {}
    for command in load_all():
        module = importlib.import_module(command.function.__module__)
        report = getattr(module, str(inspect.signature(command.function).return_annotation), None)
        if dataclasses.is_dataclass(report) and issubclass(report, Report):
            parts.append(f"## `nctool {command.name} --json`\n\n{keys_of(report, seen)}")
    nested = [f"### {name}\n\n{text}" for name, text in seen.items()]
    return "\n\n".join([*parts, "## Objects in them", *nested])


def keys_of(kind: type, seen: dict[str, str]) -> str:
    """Return the table of the keys of a dataclass; those of dataclasses that it holds are added to `seen`."""
    said, names, rows = attributes_of(kind), names_of(kind), []
    for field in dataclasses.fields(kind):
        if field.metadata == NOT_JSON:
            continue
        inner = [names[word] for word in re.findall(r"\w+", str(field.type)) if word in names]
        for each in inner:
            if each.__name__ not in seen:
                seen[each.__name__] = ""  # it may hold itself
                seen[each.__name__] = keys_of(each, seen)
        shape = json_type(with_aliases(kind, str(field.type)), {each.__name__ for each in inner})
        rows.append([code(field.name), shape, said.get(field.name, "")])
    return table(["key", "JSON", "is"], rows)


_JSON_NAMES = {
    "Any": "value",
    "str": "text",
    "Path": "text",
    "int": "integer",
    "np.int64": "integer",
    "float": "number",
    "bool": "true, false",
}


def json_type(annotation: str, nested: set[str]) -> str:
    """Return what JSON holds for an annotation."""
    return _json_type(ast.parse(annotation, mode="eval").body, nested)


def _json_type(node: ast.expr, nested: set[str]) -> str:
    match node:
        case ast.BinOp(left=left, right=right):
            said = f"{_json_type(left, nested)} or {_json_type(right, nested)}"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            said = ", ".join(code(value) for value in ast.literal_eval(ast.Tuple(getattr(values, "elts", [values]))))
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[_, value])):
            said = f"object of {_json_type(value, nested)} by name"
        case ast.Subscript(slice=ast.Tuple(elts=[first, ast.Constant(value=builtins.Ellipsis)])):
            said = f"list of {_json_type(first, nested)}"
        case ast.Subscript(slice=ast.Tuple()):
            said = "list"
        case ast.Subscript(slice=inner):
            said = f"list of {_json_type(inner, nested)}"
        case ast.Constant(value=None):
            said = "null"
        case _:
            name = ast.unparse(node)
            said = f"[{name}](#{name.lower()})" if name in nested else _JSON_NAMES.get(name, name)
    return said


@cache
def tree_of(module: ModuleType) -> ast.Module:
    """Return the syntax of a module."""
    return ast.parse(inspect.getsource(module))


@cache
def modules_of(kind: type) -> list[ModuleType]:
    """Return the modules whose names the annotations of a class may use: its own, of its bases, what they import."""
    own = [importlib.import_module(each.__module__) for each in kind.__mro__ if dataclasses.is_dataclass(each)]
    imported = [
        importlib.import_module(node.module)
        for module in own
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nctool")
    ]
    return [*imported, *own]


def names_of(kind: type) -> dict[str, type]:
    """Return the dataclasses that the annotations of a class may name."""
    found = {name: value for module in modules_of(kind) for name, value in vars(module).items()}
    return {name: value for name, value in found.items() if isinstance(value, type) and dataclasses.is_dataclass(value)}


def with_aliases(kind: type, annotation: str) -> str:
    """Return an annotation with what the names of types in it stand for."""
    for module in modules_of(kind):
        for node in tree_of(module).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
                name, value = ast.unparse(node.targets[0]), ast.unparse(node.value)
                annotation = re.sub(rf"\b{name}\b", lambda _: value, annotation)  # noqa: B023 - used at once
    return annotation


def attributes_of(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of each attribute."""
    text = inspect.getdoc(kind) or ""
    found = re.search(r"^(?:Args|Attributes):\n((?:(?:    .*)?\n?)+)", text, re.MULTILINE)
    said: dict[str, str] = {}
    for names, meaning in re.findall(
        r"^    (\w[\w, ]*): ((?:.+\n?)(?:      +.+\n?)*)", found[1] if found else "", re.M
    ):
        said |= {name: " ".join(meaning.split()) for name in names.split(", ")}
    return said


# --- Python -----------------------------------------------------------------------------------------------------------


def functions() -> str:
    """Return the public functions of nctool, for autodoc."""
    return "\n".join(["```{eval-rst}", *(f".. autofunction:: nctool.{name}" for name in nctool.__all__), "```"])


# --- errors -----------------------------------------------------------------------------------------------------------


def error_classes() -> str:
    """Return the classes of errors, with their exit codes and what their docstrings say."""
    rows = []
    for kind in [*subclasses(errors.NctoolError), streams.OutputError]:
        place = f"`{kind.__module__}.{kind.__name__}`"
        rows.append([place, code(kind.__mro__[1].__name__), str(kind.exit_code), first_paragraph(kind)])
    rows = sorted({tuple(row): row for row in rows}.values(), key=lambda row: (int(row[2]), row[0]))
    return table(["class", "is a", "exit code", "means"], rows)


def subclasses(kind: type) -> Iterator[Any]:
    """Yield what inherits from a class, however deep, in the packages of nctool."""
    for each in kind.__subclasses__():
        if each.__module__.startswith("nctool"):
            yield each
            yield from subclasses(each)


def first_paragraph(kind: type) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def exit_codes() -> str:
    """Return the table of exit codes, which stands in COMMANDS.md."""
    (found,) = re.findall(r"^\| exit code .*?\n\n", (DOCS / "COMMANDS.md").read_text(encoding="utf-8"), re.M | re.S)
    return found


# --- pages ------------------------------------------------------------------------------------------------------------


def other_pages() -> str:
    """Return a list of contents of the pages that index.md does not name, so that none is lost."""
    index = re.split(r"[\s<>]+", (DOCS / "index.md").read_text(encoding="utf-8"))
    paths = [path for path in DOCS.rglob("*.md") if "_site" not in path.parts]
    names = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in paths)
    left = [name for name in names if name not in index and name != "index"]
    return "\n".join(["```{toctree}", ":caption: More", ":hidden:", "", *left, "```"]) if left else ""


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "JSON keys": json_keys,
    "functions": functions,
    "classes of errors": error_classes,
    "exit codes": exit_codes,
    "pages that stand nowhere else": other_pages,
}


def page_text(text: str, page: str) -> str:
    """Return a page as Sphinx reads it.

    Args:
        text: of the file.
        page: its name without `.md`, from docs/.
    """
    folder = (DOCS / page).parent
    if page in ELSEWHERE:
        text, folder = (ROOT / ELSEWHERE[page]).read_text(encoding="utf-8"), ROOT
    text = linked_rules(_MARK.sub(lambda found: GENERATED[found[1]](), text))
    if page == RULES:
        text = _LABEL.sub(lambda found: f"(rule-{found[1].lower()})=\n{found[0]}", text)
    return _LINK.sub(lambda found: f"]({turned(found[1], folder, page)}{found[2] or ''})", text)


@cache
def rules() -> frozenset[str]:
    """Return the labels of all rules."""
    return frozenset(_LABEL.findall((DOCS / f"{RULES}.md").read_text(encoding="utf-8")))


def linked_rules(text: str, link: str = "[{0}](#rule-{1})") -> str:
    """Return a text in which the labels of rules, `W1`, are links to them."""

    def linked(found: re.Match[str]) -> str:
        return link.format(found[0], found[0].lower()) if found[0] in rules() else found[0]

    parts = _NO_TEXT.split(text)
    return "".join(part if number % 2 else re.sub(r"\b[A-Z]\d\b", linked, part) for number, part in enumerate(parts))


def turned(link: str, folder: Path, page: str) -> str:
    """Return a link of a file in `folder` as a page of the site has it; one to the root leads to its page there."""
    target = (folder / link).resolve()
    pages = {ROOT / name: DOCS / f"{page}.md" for page, name in ELSEWHERE.items()} | {
        ROOT / "README.md": DOCS / "index.md"
    }
    up = "../" * page.count("/")
    inside = pages.get(target, target)
    return up + inside.relative_to(DOCS).as_posix() if inside.is_relative_to(DOCS) else link


def read_page(_: Sphinx, page: str, source: list[str]) -> None:
    """Put what is generated into a page, before it is read."""
    source[0] = page_text(source[0], page)


def read_docstring(_: Sphinx, _kind: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Let a star in a docstring be a star, as in `2**e` and `(samples, *shape)`, and labels of rules be links."""
    starred = [re.sub(r"(`[^`]*`)|\*", lambda found: found[1] or "\\*", line) for line in lines]
    lines[:] = [linked_rules(line, f"`{{0}} <../{RULES}.html#rule-{{1}}>`__") for line in starred]


_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|license))[^>]*\bhref=[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//",
    re.IGNORECASE,
)
"""What lets a browser fetch something from elsewhere; a link that is clicked is another matter."""


def fetched(text: str) -> str | None:
    """Return the place in HTML or CSS that fetches something from another computer, or None."""
    found = _FETCHED.search(text)
    return text[found.start() : found.end() + 60].partition("\n")[0] if found else None


def require_offline(app: Sphinx, error: Exception | None) -> None:
    """Refuse a site that is not complete in itself."""
    from sphinx.errors import ExtensionError

    for path in sorted(Path(app.outdir).rglob("*.*")) if error is None else ():
        place = fetched(path.read_text(encoding="utf-8")) if path.suffix in (".html", ".css") else None
        if place:
            raise ExtensionError(f"{path.relative_to(app.outdir)} fetches something: {place}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx call what is above."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon
    app.connect("build-finished", require_offline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
