"""What a page shows of where a network came from: the changes of its conversion, provenance and digests.

In: a Subject. Out: elements. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from nctool.reporting.elements import Element, LeftOut, Table
from nctool.reporting.measuring import hash_of
from nctool.reporting.subjects import Subject
from nctool.reporting.texts import listed
from nctool_deploy.netx import Metadata, Provenance

MOST_CLASSES = 20
"""Names of classes that are listed."""


def changes(subject: Subject) -> Iterator[Element]:
    """Yield what each step of the conversion did."""
    metadata = subject.metadata
    if metadata is None:
        if subject.content is not None:
            yield LeftOut("Changes of the conversion", "nctool did not convert this network")
        return
    rows = [
        [
            change.step,
            change.detail,
            "exact" if change.exact else _error(change.worst_error),
            _error(change.output_error),
        ]
        for change in metadata.changes
    ]
    header = ["step", "what it did", "largest error of a number", "error of the layer, root mean square"]
    yield Table(f"{len(rows)} steps of the conversion", header, rows)


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2%}"


def provenance(subject: Subject) -> Iterator[Element]:
    """Yield where the network is from, and the digests of what lies in the file."""
    facts = dict(_facts(subject))
    if facts:
        yield Table("Where it is from", ["fact", "value"], [[name, value] for name, value in facts.items()])
    if subject.path is not None:
        rows = [[str(subject.path), hash_of(subject.path)]]
        if subject.metadata is not None:
            rows += _digests(subject.metadata)
        yield Table("SHA-256 of the file, and of its parts", ["part", "SHA-256"], rows, is_folded=True)


def _facts(subject: Subject) -> Iterator[tuple[str, str]]:
    metadata, content = subject.metadata, subject.content
    if metadata is not None:
        yield "nctool", metadata.tool_version
        yield "target, backend", f"{metadata.target}, {metadata.backend}"
        yield "window", f"T = {metadata.n_steps}, {metadata.input_encoding} input, {metadata.weight_bits}-bit weights"
    if content is not None and content.provenance is not None:
        yield from _provenance(content.provenance)
    for number, note in enumerate(() if content is None else content.notes, start=1):
        yield f"note {number}", note
    if subject.run is None or subject.checkpoint is None:
        return
    checkpoint = subject.checkpoint
    recipe = checkpoint.recipe
    yield "run", str(subject.run)
    yield "checkpoint", f"SHA-256 {checkpoint.sha256}"
    yield "recipe of the run", f"{recipe.name}, seed {recipe.seed}, {recipe.training.epochs} epochs"
    yield (
        "activation",
        f"{recipe.activation.function}, {recipe.activation.levels} levels, reset {recipe.activation.reset}",
    )


def _provenance(found: Provenance) -> Iterator[tuple[str, str]]:
    named = (
        ("recipe", found.recipe),
        ("seed", found.seed),
        ("data set", found.dataset),
        ("converted from", found.model),
        ("exported from checkpoint", found.checkpoint_sha256),
    )
    yield from ((name, str(value)) for name, value in named if value is not None)
    yield "input", f"{found.samples}; mean {_numbers(found.input_mean)}, deviation {_numbers(found.input_std)}"
    if found.classes:
        yield f"{len(found.classes)} classes", listed(list(found.classes), MOST_CLASSES)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _digests(metadata: Metadata) -> list[list[str]]:
    return [["input", metadata.input_digest], *([record.name, record.digest] for record in metadata.populations)]
