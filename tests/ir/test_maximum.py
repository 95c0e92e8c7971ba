"""Maximum pooling as the OR of spikes (rules M1 and M2): what is one, and that it is exact in one step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from nctool.fast.engine import FastEngine
from nctool.ir.bounds import prove_population
from nctool.ir.network import INPUT_NAME, InputEncoding, IntNetwork, Population
from nctool.reference.simulate import run_population, simulate
from nctool.reference.trace import join
from tests.support.networks import (
    conv,
    dense,
    fire,
    leaky,
    maximum,
    random_pixels,
    random_pooled,
    random_window,
    read_out,
    seeds,
    signed_input,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SQUARE = np.ones((2, 2))
ONE = maximum("m", "a", (3, 4, 4), SQUARE, stride=(2, 2))

OTHERS = {
    "a threshold of 2 in one channel": fire("m", *ONE.synapses, threshold=[1, 2, 1], reset="zero", shape=ONE.shape),
    "a start above 0": fire("m", *ONE.synapses, threshold=1, initial=-1, reset="zero", shape=ONE.shape),
    "reset by subtraction": fire("m", *ONE.synapses, shape=ONE.shape),
    "a bias": fire("m", *ONE.synapses, bias=[0, 1, 0], reset="zero", shape=ONE.shape),
    "two synapses": replace(ONE, synapses=ONE.synapses * 2),
    "a weight of 2": maximum("m", "a", (3, 4, 4), 2 * SQUARE),
    "a negative weight": maximum("m", "a", (3, 4, 4), -SQUARE),
    "an exponent": replace(ONE, synapses=(replace(ONE.synapses[0], exponent=1),)),
    "the input": maximum("m", INPUT_NAME, (3, 4, 4), SQUARE),
    "a readout": read_out(dense("a", [[1, 0]])),
    "a current-based neuron": Population("m", (1,), leaky(0, 4096, 4096), np.zeros(1, np.int64), (dense("a", [[1]]),)),
}


def test_M1_what_a_maximum_is():
    assert ONE.is_maximum
    assert maximum("m", "a", (3, 4, 4), [[0, 0], [0, 1]]).is_maximum
    assert fire("m", dense("a", [[1, 1, 0]]), reset="zero").is_maximum


@pytest.mark.parametrize("population", OTHERS.values(), ids=OTHERS)
def test_M1_what_is_none(population):
    assert not population.is_maximum


@given(seeds)
def test_M1_a_maximum_fires_where_one_of_its_window_does(seed):
    rng = np.random.default_rng(seed)
    shape = (2, *rng.integers(1, 9, 2).tolist())
    pooling = random_window(rng, shape[1:])
    spikes = rng.integers(0, 5, (3, 4, *shape)) == 0
    pooled = maximum("m", "a", shape, **pooling)
    found = run_population(pooled, {"a": spikes.astype(np.int64)}, 4)
    assert found.overflows == 0
    np.testing.assert_array_equal(found.spikes, pooled_by_torch(spikes, pooling))


def pooled_by_torch(values: np.ndarray, pooling: dict) -> np.ndarray:
    """Return maxima of (samples, steps, channel, height, width), all at least 0; that of padding alone is 0."""
    window, padding = pooling["window"], pooling["padding"]
    gone = len(window) - int(window.any(axis=1).sum())  # rows in front that do not look
    images = torch.from_numpy(values.reshape(-1, *values.shape[2:]).astype(np.float64))
    images = functional.pad(images, (padding[1], padding[1], padding[0] - gone, padding[0]), value=-torch.inf)
    kernel = (len(window) - gone, window.shape[1])
    found = functional.max_pool2d(images, kernel, pooling["stride"], 0, pooling["dilation"]).clamp(min=0).numpy()
    return found.reshape(*values.shape[:2], *found.shape[1:]).astype(values.dtype)


@given(seeds, st.integers(1, 8))
def test_M2_in_one_step_a_maximum_of_spikes_gives_the_spikes_of_the_maximum(seed, replicas):
    """Any drives, any thresholds, any number of replicas: equal in every neuron."""
    rng = np.random.default_rng(seed)
    shape = (3, *rng.integers(1, 9, 2).tolist())
    pooling, threshold = random_window(rng, shape[1:]), rng.integers(1, 500, 3).repeat(replicas)
    initial = threshold * (2 * (np.arange(len(threshold)) % replicas) + 1) // (2 * replicas)
    drive = rng.integers(-300, 600, (4, 1, *shape))
    pooled = pooled_by_torch(drive + 300, pooling) - 300

    def spikes(drives: np.ndarray) -> np.ndarray:
        here = drives.repeat(replicas, axis=2)
        identity = conv("z", np.ones((len(threshold), 1, 1, 1)), groups=len(threshold))
        units = fire("a", identity, threshold=threshold, initial=initial, shape=here.shape[2:])
        return run_population(units, {"z": here}, 1).spikes

    sent = spikes(drive)
    found = run_population(maximum("m", "a", sent.shape[2:], **pooling), {"a": sent.astype(np.int64)}, 1).spikes
    np.testing.assert_array_equal(found, spikes(pooled))


@given(seeds)
def test_M2_in_several_steps_a_maximum_fires_at_least_as_often_as_any_that_it_reads(seed):
    rng = np.random.default_rng(seed)
    spikes = rng.integers(0, 3, (3, 4, 2, 6, 6)) == 0
    pooling = {"window": SQUARE, "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    counts = run_population(maximum("m", "a", (2, 6, 6), **pooling), {"a": spikes.astype(np.int64)}, 4).spikes.sum(1)
    each = spikes.sum(axis=1, keepdims=True)
    assert (counts >= pooled_by_torch(each, pooling)[:, 0]).all()
    together = functional.avg_pool2d(torch.from_numpy(each[:, 0].astype(np.float64)), 2).numpy() * 4
    assert (counts <= together).all()


@given(seeds)
def test_both_engines_give_one_trace(seed):
    network = random_pooled(seed)
    pixels = random_pixels(network, 4, seed)
    expected = simulate(network, pixels, potentials=True)
    assert join(FastEngine(network).traces(pixels)) == simulate(network, pixels)
    for population in network.populations[1:-1]:
        assert population.is_maximum
        assert expected.potentials[population.name].max() <= population.bound.high


def test_the_proved_bound_is_the_window_however_many_steps():
    found = prove_population(maximum("m", "a", (2, 6, 6), np.ones((3, 3)), padding=(1, 1)), signed_input(1), 50)
    assert (found.low.tolist(), found.high.tolist()) == ([0, 0], [9, 9])


def test_a_network_may_pool_all_of_an_image():
    encoding = InputEncoding((1, 3, 5), signed_input(1).table)
    first = fire("a", conv(INPUT_NAME, [[[[1]]]]), threshold=100, shape=(1, 3, 5))
    network = IntNetwork(
        encoding, (first, maximum("m", "a", (1, 3, 5), np.ones((3, 5))), read_out(dense("m", [[7]]))), 1
    )
    pixels = np.full((2, 1, 3, 5), 128, np.uint8)
    pixels[1, 0, 2, 4] = 228
    assert simulate(network, pixels).logits.reshape(-1).tolist() == [0, 7]
