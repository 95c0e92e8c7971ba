"""`verify` finds what changed, and names exactly the layer that changed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import nctool
from nctool.equivalence import first_divergence
from nctool.errors import FormatError
from nctool.network import IntNetwork, Population
from nctool.sim.reference import simulate
from nctool_deploy import engine
from nctool_deploy.netx import read

LAYERS = ("conv1", "conv2", "fc1", "fc2")


def corrupt(network: IntNetwork, layer: str, index: tuple[int, ...], value: int) -> IntNetwork:
    """Return `network` with one weight of one layer replaced."""

    def changed(population: Population) -> Population:
        weight = population.synapses[0].weight.copy()
        weight[index] = value
        return replace(population, synapses=(replace(population.synapses[0], weight=weight),))

    populations = tuple(changed(p) if p.name == layer else p for p in network.populations)
    return replace(network, populations=populations)


def visible_corruption(network: IntNetwork, layer: str, pixels: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Find one weight of `layer` and a value that changes what the layer does on `pixels`."""
    weight = next(p for p in network.populations if p.name == layer).synapses[0].weight
    expected = simulate(network, pixels)
    for flat in np.argsort(-np.abs(weight.reshape(-1)), kind="stable")[:200]:
        index = tuple(int(i) for i in np.unravel_index(flat, weight.shape))
        value = -int(weight[index])
        actual = simulate(corrupt(network, layer, index, value), pixels)
        if first_divergence(network, expected, actual, ("a", "b")) is not None:
            return index, value
    raise AssertionError(f"no weight of {layer} matters on these samples")


@pytest.mark.parametrize("layer", LAYERS)
def test_one_changed_weight_in_the_file_is_found_in_its_layer(digits_model: Path, tmp_path: Path, layer: str) -> None:
    content = read(digits_model)
    index, value = visible_corruption(content.network, layer, content.known_answers.pixels)
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    number = next(record.layer for record in content.metadata.populations if record.name == layer)
    with h5py.File(path, "r+") as file:
        file[f"layer/{number}/weight"][index] = value
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal
    found = report.first_divergence
    assert found is not None
    assert (found.layer, found.expected_by, found.actual_by) == (layer, "file", "reference")
    assert found.quantity == ("logit" if layer == "fc2" else "spike")
    assert found.expected != found.actual
    with pytest.raises(FormatError, match=f"layer `{layer}` is not what was exported"):
        read(path)


def test_a_change_that_no_trace_shows_is_found_by_its_digest(digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    network = read(path).network
    with h5py.File(path, "r+") as file:
        weight = file["layer/1/weight"]
        weight[0, 0, 0, 0] = weight[0, 0, 0, 0] + 1
    changed = read(path, check_digests=False)
    assert changed.network != network
    assert changed.changed_layers == ("conv1",)
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "conv1"


@pytest.mark.lava
@pytest.mark.parametrize("layer", ["conv2", "fc2"])
def test_one_changed_weight_in_memory_is_found_in_its_layer_on_lava(digits_model: Path, layer: str) -> None:
    content = read(digits_model)
    pixels = content.known_answers.pixels[:3]
    index, value = visible_corruption(content.network, layer, pixels)
    (lava,) = engine.stream(digits_model, content.network, pixels)
    assert first_divergence(content.network, simulate(content.network, pixels), lava, ("reference", "lava")) is None
    found = first_divergence(
        content.network, simulate(corrupt(content.network, layer, index, value), pixels), lava, ("reference", "lava")
    )
    assert found is not None
    assert found.layer == layer


def test_a_sound_file_is_equal_to_its_known_answers(digits_model: Path) -> None:
    report = nctool.verify(digits_model, engines=["reference"])
    assert report.equal
    assert report.samples == report.known_answers == 16
    network = read(digits_model).network
    neurons = sum(p.n_neurons for p in network.populations[:-1])
    assert report.compared_spikes == 16 * network.n_steps * neurons
    assert report.compared_logits == 16 * network.n_steps * 10


def test_an_overflow_is_never_equal(digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "overflow.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        bias = file["layer/1/bias"]
        bias[...] = np.full(bias.shape, -(2**17), np.int32)
    report = nctool.verify(path, engines=["reference"])
    assert not report.equal


@pytest.mark.lava
def test_lava_and_reference_agree_on_a_trained_network(digits_model: Path) -> None:
    report = nctool.verify(digits_model, engines=["reference", "lava"], samples=40)
    assert report.equal, report.first_divergence
    assert report.samples == 40
    assert report.overflows == 0
