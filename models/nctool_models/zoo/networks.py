"""The zoo: exported networks beside this module, which `zoo.toml` describes.

`benchmarks/zoo.py` makes each network anew from what stands there, and measures it.

In: a name. Out: the path of a file, or what is known of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nctool.errors import UsageError
from nctool.reports import Report
from nctool.toml import DocumentKind, closest, parse_document, read_document

FOLDER = Path(__file__).parent
FACTS = FOLDER / "zoo.toml"
PREFIX = "zoo:"
"""What a network of the zoo begins with where the path of a file may stand."""

_KIND = DocumentKind("zoo", UsageError, "install nctool anew")


@dataclass(frozen=True)
class ZooNetwork(Report):
    """A network of the zoo: how it is made, and what was measured when it was made.

    Attributes:
        name: without the prefix.
        description: one line.
        recipe, seed: of the training.
        finetune: overrides of the recipe for fine-tuning, KEY=VALUE; None where it was not fine-tuned.
        export: options of `nctool export`.
        dataset: whose test images it was measured on.
        samples: how many these are.
        steps: time steps of a sample.
        accuracy: share of the test images that the file answers rightly, by the number of time steps.
        accuracy_ann: the same of the quantised network that it was converted from.
        cores: that it takes on its target.
        size: of the file, bytes.
        sha256: of the file, hexadecimal.
        commit: of nctool, that made it.
    """

    name: str
    description: str
    recipe: str
    seed: int
    finetune: tuple[str, ...] | None
    export: dict[str, str | int]
    dataset: str
    samples: int
    steps: int
    accuracy: dict[str, float]
    accuracy_ann: float
    cores: int
    size: int
    sha256: str
    commit: str

    @property
    def path(self) -> Path:
        """Return the file."""
        return FOLDER / f"{self.name}.net"


def zoo() -> tuple[ZooNetwork, ...]:
    """Return the networks that come with nctool."""
    return tuple(_network(name, facts) for name, facts in _facts().items())


def _network(name: str, facts: dict[str, Any]) -> ZooNetwork:
    overrides = facts.get("finetune")
    return ZooNetwork(name=name, **{**facts, "finetune": None if overrides is None else tuple(overrides)})


def _facts() -> dict[str, Any]:
    return parse_document(read_document(FACTS, _KIND), _KIND, FACTS.name)


def is_of_zoo(model: Path | str) -> bool:
    """Return whether what stands for a file means a network of the zoo."""
    return os.fspath(model).startswith(PREFIX)


def zoo_path(model: Path | str) -> Path:
    """Return the file of `zoo:NAME`.

    Raises:
        UsageError: the zoo has no such network.
    """
    name, known = os.fspath(model).removeprefix(PREFIX), list(_facts())
    if name not in known:
        hint = closest(name, known, PREFIX) or "`nctool zoo` lists them"
        allowed = ", ".join(f"`{PREFIX}{each}`" for each in known)
        raise UsageError(f"no network `{PREFIX}{name}`, allowed: {allowed}", hint)
    return FOLDER / f"{name}.net"
