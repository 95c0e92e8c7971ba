"""A network with maximum pooling through the commands: chosen replicas, cores, cost, reports and divergences."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import nctool
from nctool.errors import UsageError
from tests.support.refusals import refused
from tests.support.small_run import POOLED, small_data, small_fit

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["conv1", "conv2", "pool1", "fc1", "fc2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pooled")
    small_fit(folder, (POOLED, "training.epochs=2"))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, small_data().test.images.numpy()[:12])
    return path


@pytest.mark.parametrize("backend", ["autapse", "population", "zero-reset"])
def test_its_file_is_inspected_and_verified(run, images, tmp_path, backend):
    nctool.export(run, tmp_path / "m.net", target="loihi2", backend=backend)
    report = nctool.inspect(tmp_path / "m.net")
    assert [layer.name for layer in report.layers] == LAYERS
    assert [layer.kind for layer in report.layers][2] == "conv, maximum"
    assert report.layers[2].cores == 1
    assert nctool.verify(tmp_path / "m.net", engines=["reference", "fast"], input=images).equal


def test_replicas_are_chosen_for_layers_not_for_maxima(run, tmp_path):
    report = nctool.export(run, tmp_path / "m.net", target="lava", steps=1, replicas="auto", max_neurons=500)
    assert set(report.replicas) == {"conv1", "conv2", "fc1"}
    assert 160 < report.neurons <= 500
    error = refused(UsageError, nctool.export, run, tmp_path / "n.net", target="lava", replicas={"pool1": 2})
    assert error.message == "replicas: no layer `pool1` that spikes, allowed conv1, conv2, fc1"


def test_every_setting_is_explored(run, tmp_path):
    data = small_data()
    splits = {"train": data.train.first(8), "test": data.test.first(12)}
    arrays = {f"x_{name}": split.images.numpy()[:, 0] for name, split in splits.items()}
    np.savez(tmp_path / "d.npz", **arrays, **{f"y_{name}": split.labels.numpy() for name, split in splits.items()})
    report = nctool.explore(
        run,
        backends=["autapse", "population"],
        replicas=[1, 2],
        steps=[1, 2],
        weight_bits=[8],
        target="lava",
        dataset=tmp_path / "d.npz",
    )
    assert len(report.rows) == 5
    assert not any(row.refusal for row in report.rows)


def test_a_divergence_in_a_maximum_is_explained(run, images, tmp_path):
    """Without its weights it stays silent, which the known answers tell."""
    nctool.export(run, tmp_path / "m.net", target="lava", steps=2)
    shutil.copy(tmp_path / "m.net", tmp_path / "changed.net")
    with h5py.File(tmp_path / "changed.net", "r+") as file:
        file["layer/3/weight"][...] = np.zeros_like(file["layer/3/weight"][()])
    report = nctool.verify(tmp_path / "changed.net", engines=["reference"], input=images)
    assert not report.equal
    divergence = report.first_divergence
    assert divergence is not None
    assert (divergence.layer, divergence.neighbourhood.kind) == ("pool1", "maximum")
