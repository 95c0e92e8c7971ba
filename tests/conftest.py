"""Settings and fixtures of the whole suite: how many examples Hypothesis tries, and one trained network.

`ci`, the default, tries the same examples on every machine and on every run. `nightly` looks for new ones:
`NCTOOL_HYPOTHESIS=nightly make test`, or pytest's `--hypothesis-profile=nightly`, which wins.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.kept_lava import KeptLava
from tests.support.runs import export_short, train_short

settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("NCTOOL_HYPOTHESIS", "ci"))


LAVA = KeptLava()
LIST = Path(__file__).parent / "slow.txt"
SLOW = {line for line in LIST.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
"""Files, and tests as `FILE::FUNCTION`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what slow.txt lists, which `make quick` leaves out."""
    for item in items:
        file = item.path.relative_to(LIST.parent).as_posix()
        if not SLOW.isdisjoint({file, f"{file}::{getattr(item, 'originalname', '')}"}):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give tests marked `fresh_lava` a subprocess of their own."""
    LAVA.is_on = item.get_closest_marker("fresh_lava") is None
    if not LAVA.is_on:
        LAVA.end()


@pytest.fixture(scope="session", autouse=True)
def kept_lava() -> Iterator[None]:
    """Let all runs of the Lava engine share a subprocess."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool_deploy.lava.engine.child", LAVA.child)
        yield
    LAVA.end()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run of `digits-cnn`."""
    return train_short(tmp_path_factory.mktemp("digits-cnn"), "digits-cnn")


@pytest.fixture(scope="session")
def digits_model(digits_run: Path) -> Path:
    """That network exported for 4 time steps; tests that change it copy it first."""
    return export_short(digits_run, digits_run / "model.net")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread: on tensors as small as in the tests, several only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
