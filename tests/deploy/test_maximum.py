"""Maximum pooling in the backends (rules R8 and P5): registers, files, cores and operations."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import assume, given

from nctool.errors import FormatError, RangeError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import INPUT_NAME, ConvGeometry, InputEncoding, IntNetwork, Synapse
from nctool.reference.simulate import simulate
from nctool.reference.synapses import convolve
from nctool_deploy.backends.autapse import Autapse
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.backends.grouping import few_groups
from nctool_deploy.backends.stock import StockRegisters
from nctool_deploy.cost.operations import OperationCounter
from nctool_deploy.lowering import lower
from nctool_deploy.mapping.placement import map_network
from nctool_deploy.netx import KnownAnswers, read, write
from nctool_deploy.targets.target import find_target
from tests.support.networks import (
    SPIKING,
    as_pixels,
    conv,
    dense,
    fire,
    maximum,
    random_pixels,
    random_pooled,
    read_out,
    seeds,
    signed_input,
)
from tests.support.refusals import refused

LAVA = find_target("lava")
NAMES = [backend.name for backend in SPIKING]


def pooled(channels: int = 2, reset: str = "subtract", threshold: int = 9) -> IntNetwork:
    """Return a network of one step: each channel of 4x4 pixels fires from `threshold` on, and 2x2 of them are one."""
    encoding = InputEncoding((1, 4, 4), signed_input(1).table)
    weight = np.ones((channels, 1, 1, 1))
    first = fire("a", conv(INPUT_NAME, weight), threshold=threshold, reset=reset, shape=(channels, 4, 4))
    top = maximum("m", "a", (channels, 4, 4), np.ones((2, 2)), stride=(2, 2))
    last = read_out(dense("m", np.arange(2 * channels * 4).reshape(2, -1) % 9 - 4))
    network = IntNetwork(encoding, (first, top, last), 1)
    return with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})


def reset_of(backend: str) -> str:
    return find_backend(backend).number_format.reset


def test_R8_a_maximum_has_the_registers_of_a_neuron_without_memory():
    _, top, _ = pooled().populations
    assert Autapse().violations(top) == []
    assert Autapse().registers(top) == StockRegisters(0, np.array([0, 0]))
    assert Autapse().wirings(top) == ()


@pytest.mark.parametrize("backend", NAMES)
def test_every_backend_holds_a_maximum_and_its_file_comes_back(tmp_path, backend):
    network = pooled(reset=reset_of(backend))
    lowered, pixels = lower(network, LAVA, backend), as_pixels([np.arange(16).reshape(1, 4, 4)])
    write(tmp_path / "m.net", lowered, KnownAnswers(pixels, simulate(lowered.network, pixels)))
    with h5py.File(tmp_path / "m.net") as file:
        stored = {key: file[f"layer/2/neuron/{key}"][()] for key in ("type", "vThMant", "iDecay", "vDecay")}
    decay = 0 if backend == "zero-reset" else 4096
    assert stored == {"type": b"CUBA", "vThMant": 0, "iDecay": 4096, "vDecay": decay}
    content = read(tmp_path / "m.net")
    assert content.network == lowered.network
    assert content.network.populations[1].is_maximum
    assert simulate(content.network, pixels) == simulate(network, pixels)
    assert simulate(network, pixels).spikes["m"][0, 0].astype(int).tolist() == [[[0, 0], [1, 1]]] * 2


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("vThMant", 1, "`/layer/2/neuron/vThMant` is 1, allowed 0"),
        ("iDecay", 0, "`/layer/2/neuron/iDecay` is 0, allowed 4096"),
        ("vDecay", 0, "`/layer/2/neuron/vDecay` is 0, allowed 4096"),
    ],
)
def test_a_changed_maximum_is_refused(tmp_path, key, value, text):
    network, pixels = pooled(), as_pixels([np.zeros((1, 4, 4))])
    write(tmp_path / "m.net", lower(network, LAVA), KnownAnswers(pixels, simulate(network, pixels)))
    with h5py.File(tmp_path / "m.net", "r+") as file:
        file[f"layer/2/neuron/{key}"][()] = value
    assert refused(FormatError, read, tmp_path / "m.net").message == f"`{tmp_path / 'm.net'}`: {text}"


def test_a_stock_neuron_that_is_no_maximum_is_refused_by_the_autapse(tmp_path):
    """The type of a stock neuron beside other weights: it would keep nothing where the rules keep the potential."""
    network, pixels = pooled(), as_pixels([np.zeros((1, 4, 4))])
    write(tmp_path / "m.net", lower(network, LAVA), KnownAnswers(pixels, simulate(network, pixels)))
    with h5py.File(tmp_path / "m.net", "r+") as file:
        file["layer/2/weight"][0, 0, 0, 0] = -1
    changed = read(tmp_path / "m.net", check_digests=False).network
    assert "population `m`: reset is `zero`, the autapse allows `subtract`" in str(
        refused(RangeError, lower, changed, LAVA)
    )


@pytest.mark.parametrize("target", ["loihi1", "loihi2"])
def test_a_maximum_takes_neurons_and_memory_but_no_autapse(target):
    (core,) = map_network(pooled(), find_target(target))[0].cores
    of_a, of_m, _ = core.slices
    assert (of_m.usage.neurons, of_m.usage.input_axons) == (8, 32)
    assert of_a.usage.input_axons == 32 + 16  # autapses, and the pixels


@given(seeds)
def test_operations_of_a_maximum_are_the_spikes_that_its_windows_see(seed):
    network = random_pooled(seed)
    pixels = random_pixels(network, 3, seed)
    trace, counter = simulate(network, pixels), OperationCounter(network, Autapse())
    counter.add(pixels, trace)
    for population in network.populations[1:-1]:
        found, (synapse,) = counter.operations[population.name], population.synapses
        sent = trace.spikes[synapse.source].astype(np.int64)
        ones = np.ones_like(synapse.weight)  # a weight of 0 is a connection, too
        seen = convolve(sent.reshape(-1, *sent.shape[2:]), ones, synapse.conv)
        assert (found.network_operations, found.autapse_operations, found.bias_operations) == (int(seen.sum()), 0, 0)
        assert found.spikes == int(trace.spikes[population.name].sum())


# --- fewer groups -------------------------------------------------------


@given(seeds)
def test_fewer_groups_weigh_the_same(seed):
    rng = np.random.default_rng(seed)
    groups, inputs, outputs = int(rng.integers(100, 400)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    assume(groups * inputs <= 600)
    geometry = ConvGeometry(stride=(1, 2), padding=(1, 0), groups=groups)
    weight = rng.integers(-128, 128, (groups * outputs, inputs, 2, 1)).astype(np.int32)
    population = fire("c", Synapse(INPUT_NAME, weight, conv=geometry), shape=(groups * outputs, 5, 2))
    encoding = InputEncoding((groups * inputs, 4, 3), np.zeros((groups * inputs, 256), np.int8))
    network = IntNetwork(encoding, (population, read_out(dense("c", np.ones((1, 10 * len(weight)))))), 1)
    (found,) = few_groups(network).populations[0].synapses
    assert found.conv.groups <= 127
    assert groups % found.conv.groups == 0
    assert (found is population.synapses[0]) == (groups <= 127)
    image = rng.integers(-128, 128, (2, groups * inputs, 4, 3))
    np.testing.assert_array_equal(convolve(image, found.weight, found.conv), convolve(image, weight, geometry))


@pytest.mark.parametrize("backend", ["population", "zero-reset"])
def test_a_maximum_of_many_channels_gets_fewer_groups_in_stock_netx(backend):
    network = pooled(192, reset_of(backend))
    lowered = lower(network, LAVA, backend).network
    (synapse,) = lowered.populations[1].synapses
    assert (synapse.conv.groups, synapse.weight.shape) == (96, (192, 2, 2, 2))
    assert lowered.populations[1].is_maximum
    pixels = random_pixels(network, 2)
    assert simulate(lowered, pixels).spikes["m"].any()
    assert simulate(lowered, pixels) == simulate(network, pixels)
