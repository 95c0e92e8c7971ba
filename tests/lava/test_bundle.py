"""A bundle runs in an unmodified Lava, in a process that cannot import nctool, and gives the reference's logits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import nctool
from nctool.ir.network import IntNetwork
from nctool.reference.simulate import simulate
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target
from nctool_models import load_dataset
from tests.lava.test_graded import dense_chain, residual
from tests.lava.test_graphs import GRAPHS
from tests.support.networks import random_graph, random_network, random_pixels, random_pooled

pytestmark = [pytest.mark.lava, pytest.mark.bare_lava]

WITHOUT_NCTOOL = """
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0].startswith("nctool"):
                raise ModuleNotFoundError(f"No module named {name!r}")

    sys.meta_path.insert(0, Missing())
"""
"""A `sitecustomize`: as in an environment in which nctool is not installed."""

SKIPS = (
    "skips of several lengths, from the input too, with exponents",
    "branches of images",
    "a channel of zeros in every branch, and a layer that never fires",
    "a side that is deeper than the readout",
)
ALL = """
    import runpy
    import sys
    from pathlib import Path

    if __name__ == "__main__":
        failed = []
        for folder in sys.argv[1:]:
            for name in ("encoding", "network"):
                sys.modules.pop(name, None)
            sys.path[0], sys.argv = folder, ["run.py"]
            try:
                runpy.run_path(str(Path(folder, "run.py")), run_name="__main__")
            except SystemExit as ended:
                failed += [folder] if ended.code else []
        assert not any(name.startswith("nctool") for name in sys.modules)
        sys.exit(f"different: {failed}" if failed else 0)
"""
"""Runs the bundles in the folders one after the other: Lava takes seconds to load."""


@pytest.fixture
def run(tmp_path: Path):
    """Return what runs a program in a process that cannot import nctool."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(textwrap.dedent(WITHOUT_NCTOOL), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "without")}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_nctool_is_really_missing(run) -> None:
    for name in ("nctool", "nctool_deploy.netx"):
        ended = run("-c", f"import {name}")
        assert ended.returncode == 1
        assert f"ModuleNotFoundError: No module named '{name.partition('.')[0]}" in ended.stderr


def networks() -> dict[str, tuple[IntNetwork, str]]:
    """Return networks with their backend: skips, delays, maxima, spikes as input, enlarged images, graded neurons."""
    drawn = {
        "graph": random_graph(1),
        "spikes enter": random_network(3, rate=True),
        "enlarged": random_network(9, enlarging=True),
        "pooled": random_pooled(2),
        **{name: GRAPHS[name] for name in SKIPS},
    }
    graded = {"graded chain": dense_chain(), "graded residual": residual()}
    return {
        **{name: (each, "autapse") for name, each in drawn.items()},
        **{n: (g, "graded") for n, g in graded.items()},
    }


def test_any_network_gives_its_known_answers(run, tmp_path: Path, digits_run: Path) -> None:
    folders = []
    for number, (network, backend) in enumerate(networks().values()):
        pixels, path = random_pixels(network, 3, number), tmp_path / f"{number}.net"
        write(path, lower(network, find_target("lava"), backend), KnownAnswers(pixels, simulate(network, pixels)))
        nctool.bundle(path, tmp_path / f"b{number}")
        folders.append(tmp_path / f"b{number}")
    for backend in ("population", "graded"):
        model = tmp_path / f"{backend}.net"
        nctool.export(digits_run, model, target="lava", backend=backend, steps=1)
        nctool.bundle(model, tmp_path / backend)
        folders.append(tmp_path / backend)
    (tmp_path / "all.py").write_text(textwrap.dedent(ALL), encoding="utf-8")
    ended = run(tmp_path / "all.py", *folders)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count(" known answers are equal, logit by logit\n") == len(folders)


@pytest.mark.parametrize("backend", ["autapse", "zero-reset"])
def test_a_trained_network_answers_for_pixels(run, tmp_path: Path, digits_run: Path, backend: str) -> None:
    model, folder = tmp_path / "model.net", tmp_path / "bundle"
    nctool.export(digits_run, model, target="lava", backend=backend, steps=3)
    nctool.bundle(model, folder)
    model.unlink()  # the bundle has its own
    pixels = load_dataset("digits").x_test[:5]
    np.save(tmp_path / "x.npy", pixels)
    ended = run(folder / "run.py", tmp_path / "x.npy", tmp_path / "logits.npy")
    assert ended.returncode == 0, ended.stderr[-2000:]
    expected = nctool.open(folder / "model.net")(pixels)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), expected)
    answers = [f"{number} {answer}" for number, answer in enumerate(expected.argmax(1))]
    assert ended.stdout.splitlines()[-5:] == answers


def test_a_wrong_answer_is_seen(run, tmp_path: Path) -> None:
    nctool.bundle("zoo:digits-cnn", tmp_path / "b")
    with np.load(tmp_path / "b" / "known_answers.npz") as known:
        changed = {"pixels": known["pixels"][:2], "logits": known["logits"][:2] + np.array([[0], [1]])}
    np.savez(tmp_path / "b" / "known_answers.npz", **changed)
    ended = run(tmp_path / "b" / "run.py")
    assert ended.returncode == 1
    assert "1 of 2 known answers are equal, logit by logit\n" in ended.stdout
