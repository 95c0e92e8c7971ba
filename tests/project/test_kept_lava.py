"""The subprocess that tests share is as good as one of their own: it finds their files, and says why it failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from nctool.errors import EngineError
from nctool.reference.simulate import simulate
from nctool_deploy.lava import engine
from tests.lava.test_lava import assert_same
from tests.support.networks import random_network, random_pixels, write_network

pytestmark = pytest.mark.lava


class _Unreadable:
    """What the subprocess fails to receive."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("not a number",)


@dataclass(frozen=True)
class _BrokenJob(engine.LavaJob):
    broken: object = _Unreadable()


def test_a_file_is_found_in_the_folder_of_the_test_and_a_failure_has_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(4)
    pixels = random_pixels(network, 1)
    write_network(network, tmp_path / "n.net", pixels)
    job = Path("n.net"), network.input.signal(pixels, network.n_steps), network.n_steps
    for name in ("one", "other"):  # the subprocess is from the first, or from an earlier test
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        (tmp_path / name / "n.net").hardlink_to(tmp_path / "n.net")
        (trace,) = engine.run_jobs([engine.LavaJob(*job)])
        assert_same(simulate(network, pixels), trace)
    with pytest.raises(EngineError) as caught:
        engine.run_jobs([_BrokenJob(*job)])
    assert caught.value.message == ("engine `lava`: ValueError: invalid literal for int() with base 10: 'not a number'")
