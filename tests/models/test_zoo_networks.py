"""The networks that come with nctool are those that were measured, and do what is said of them."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest

import nctool
from nctool.errors import UsageError
from nctool_deploy.netx import read
from nctool_models import load_recipe
from nctool_models.zoo.networks import FOLDER, ZooNetwork, zoo, zoo_path
from tests.support.refusals import refused

NETWORKS = pytest.mark.parametrize("network", zoo(), ids=lambda network: network.name)
MOST_BYTES = 2_000_000
"""Of all files of the zoo, which everybody who installs nctool gets."""


def test_every_file_is_described_and_they_are_small() -> None:
    files = list(FOLDER.glob("*.net"))
    assert {path.stem for path in files} == {network.name for network in zoo()}
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


@NETWORKS
def test_the_file_is_the_one_that_was_measured(network: ZooNetwork) -> None:
    content = network.path.read_bytes()
    assert (len(content), sha256(content).hexdigest()) == (network.size, network.sha256)
    assert re.fullmatch("[0-9a-f]{7,40}", network.commit)  # of a tree without changes
    provenance = read(network.path).provenance
    assert provenance is not None
    assert (provenance.recipe, provenance.seed) == (load_recipe(network.recipe).name, network.seed)
    assert provenance.dataset == network.dataset


@NETWORKS
def test_the_file_is_sound_and_takes_as_many_cores_as_is_said(network: ZooNetwork) -> None:
    assert nctool.verify(f"zoo:{network.name}", engines="reference,fast").equal
    report = nctool.inspect(f"zoo:{network.name}")
    assert (report.cores, report.steps) == (network.cores, network.steps)


@pytest.mark.parametrize("name", [network.name for network in zoo() if network.dataset == "digits"])
def test_the_accuracy_is_the_one_that_is_said(name: str) -> None:
    (network,) = (each for each in zoo() if each.name == name)
    report = nctool.run_sim(f"zoo:{name}")
    assert (report.accuracy, report.samples) == (network.accuracy, network.samples)


def test_an_unknown_network_is_told_with_the_nearest() -> None:
    names = ", ".join(f"`zoo:{network.name}`" for network in zoo())
    assert str(refused(UsageError, zoo_path, "zoo:mnist-lent")) == (
        f"no network `zoo:mnist-lent`, allowed: {names}\nhint: did you mean `zoo:mnist-lenet`?"
    )
    assert refused(UsageError, zoo_path, "zoo:").hint == "`nctool zoo` lists them"
