"""`nctool bundle`: what it writes, and what it refuses; tests/lava/test_bundle.py runs it."""

from __future__ import annotations

import json
import runpy
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

import nctool
from nctool.errors import FormatError, UnsupportedError, UsageError
from nctool_deploy.bundle import registers
from nctool_deploy.netx import read
from nctool_models.zoo.networks import zoo_path
from tests.support.foreign import Draft, dense_layer
from tests.support.networks import random_network, random_pixels, seeds, write_network
from tests.support.refusals import refused

NETX = {
    "README.md",
    "encoding.npz",
    "encoding.py",
    "known_answers.npz",
    "model.net",
    "network.json",
    "network.py",
    "run.py",
}


def test_a_bundle_holds_the_file_and_says_what_is_in_it(cli, tmp_path: Path) -> None:
    report = cli("bundle", "zoo:digits-cnn-stock", "-o", tmp_path / "b", "--json").json
    assert set(report["files"]) == {path.name for path in (tmp_path / "b").iterdir()} == NETX
    for name, digest in report["files"].items():
        assert sha256((tmp_path / "b" / name).read_bytes()).hexdigest() == digest
    assert (tmp_path / "b" / "model.net").read_bytes() == zoo_path("zoo:digits-cnn-stock").read_bytes()
    assert (report["backend"], report["steps"], report["known_answers"]) == ("zero-reset", 4, 16)
    assert report["labels"] == json.loads((tmp_path / "b" / "network.json").read_text())["labels"]
    page = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "pip install lava-nc==0.10.0 lava-dl==0.6.0\n" in page
    assert report["files"]["model.net"] in page
    assert "{" not in page
    shown = cli("bundle", "zoo:digits-cnn", "-o", tmp_path / "own").out
    assert f"next: python {tmp_path / 'own' / 'run.py'}\n" in shown
    assert {path.name for path in (tmp_path / "own").iterdir()} == NETX | {"registers.npz"}
    assert "pip install lava-nc==0.10.0\n" in (tmp_path / "own" / "README.md").read_text(encoding="utf-8")


def test_the_same_file_gives_the_same_bytes_in_place_of_an_older_bundle(tmp_path: Path) -> None:
    first = nctool.bundle("zoo:digits-cnn", tmp_path / "b")
    nctool.bundle("zoo:digits-cnn-stock", tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").iterdir()} == NETX
    assert nctool.bundle("zoo:digits-cnn", tmp_path / "b").files == first.files


def test_the_runner_is_short_and_knows_nothing_of_nctool(tmp_path: Path) -> None:
    nctool.bundle("zoo:digits-cnn-stock", tmp_path / "b")
    programs = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "b").glob("*.py")}
    assert len((programs["run.py"] + programs["network.py"]).splitlines()) < 85
    assert not any("import nctool" in text or "from nctool" in text for text in programs.values())
    assert "import numpy" in programs["encoding.py"]
    assert not any(library in programs["encoding.py"] for library in ("torch", "h5py", "lava"))


@given(seed=seeds)
def test_pixels_are_encoded_as_the_rules_say(tmp_path_factory, seed: int) -> None:
    network = random_network(seed, rate=seed % 2 == 1)
    pixels, folder = random_pixels(network, 4, seed), tmp_path_factory.mktemp("b")
    nctool.bundle(write_network(network, folder / "m.net", pixels), folder / "b")
    encode = runpy.run_path(str(folder / "b" / "encoding.py"))["encode"]
    expected = network.pixel_input.signal(pixels, network.n_steps)
    np.testing.assert_array_equal(encode(pixels), np.broadcast_to(expected, encode(pixels).shape))


def test_pixels_of_another_shape_or_type_are_refused_by_the_runner(tmp_path: Path) -> None:
    nctool.bundle("zoo:digits-cnn", tmp_path / "b")
    encode = runpy.run_path(str(tmp_path / "b" / "encoding.py"))["encode"]
    for wrong in (np.zeros((2, 8, 8), np.uint8), np.zeros((2, 1, 8, 8))):
        with pytest.raises(SystemExit) as ended:
            encode(wrong)
        assert str(ended.value) == f"got {wrong.dtype} {wrong.shape}, allowed: uint8 (samples, 1, 8, 8)"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("all of it")
    error = refused(UsageError, nctool.bundle, "zoo:digits-cnn", tmp_path / "b")
    assert error.message == f"output: `{tmp_path / 'b'}` holds `thesis.tex`, which is of no bundle"
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    assert refused(UsageError, nctool.bundle, "zoo:digits-cnn", tmp_path / "file").exit_code == 2


def test_a_file_of_another_tool_and_a_changed_one(tmp_path: Path) -> None:
    import h5py

    Draft([dense_layer([[9, -5, 7], [3, 8, -6]])]).write(tmp_path / "other.net")
    error = refused(UnsupportedError, nctool.bundle, tmp_path / "other.net", tmp_path / "b")
    assert str(error) == (
        f"`{tmp_path / 'other.net'}`: a netx file of another tool says neither what its input is nor what to answer\n"
        "hint: lava.lib.dl.netx.hdf5.Network runs it as it is"
    )
    (tmp_path / "m.net").write_bytes(zoo_path("zoo:digits-cnn").read_bytes())
    with h5py.File(tmp_path / "m.net", "r+") as file:
        file["layer/1/bias"][0] += 1
    assert refused(FormatError, nctool.bundle, tmp_path / "m.net", tmp_path / "b").exit_code == 4
    assert not (tmp_path / "b").exists()


def test_a_network_that_takes_numbers(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    numbers = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    nctool.convert(net, numbers, tmp_path / "numbers.net")
    error = refused(UnsupportedError, nctool.bundle, tmp_path / "numbers.net", tmp_path / "b")
    assert error.message == f"`{tmp_path / 'numbers.net'}`: takes real numbers, a bundle encodes pixels"


def test_a_network_of_too_many_connections(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(registers, "MOST_CONNECTIONS", 1000)
    synapses = sum(p.synapses[0].weight.size for p in read(zoo_path("zoo:digits-cnn")).network.populations)
    assert synapses > 1000
    error = refused(UnsupportedError, nctool.bundle, "zoo:digits-cnn", tmp_path / "b")
    assert str(error) == (
        "network: 435,840 connections, a bundle holds up to 1,000\n"
        "hint: nctool_deploy.Network runs the file where nctool is installed"
    )
    assert not (tmp_path / "b").exists()
