"""Data sets for the tests: what is said of one that cannot be loaded."""

from pathlib import Path
from typing import Any

import pytest

from nctool.errors import NctoolError
from nctool_models import load_dataset


def refusal(kind: type[NctoolError], name: Path | str, data_dir: Path | None = None, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_dataset(str(name), data_dir, **options)
    return str(caught.value)
