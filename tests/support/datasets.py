"""Data sets for the tests: what is said of one that cannot be loaded."""

from pathlib import Path
from typing import Any

from nctool.errors import NctoolError
from nctool_models import load_dataset
from tests.support.refusals import refusal as refusal_of


def refusal(kind: type[NctoolError], name: Path | str, data_dir: Path | None = None, **options: Any) -> str:
    """Return what is said of a data set that cannot be loaded."""
    return refusal_of(kind, load_dataset, str(name), data_dir, **options)
