"""Differences are counted exactly, and the counts of chunks add up to those of the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given

from nctool.ir.network import IntNetwork
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool.verification.counts import COUNT_BINS, LogitCounts, PayloadCounts, SpikeCounts, compare_traces
from tests.support.networks import conv, dense, fire, random_network, random_pixels, read_out, seeds, signed_input

NAMES = ("reference", "lava")
NONE = dict.fromkeys(COUNT_BINS, 0)


def network_of(n_steps: int) -> IntNetwork:
    return IntNetwork(
        signed_input(1), (fire("a", dense("input", [[1], [1]])), read_out(dense("a", [[1, 1]] * 2))), n_steps
    )


def trace_of(spikes: object, logits: object) -> Trace:
    return Trace({"a": np.array(spikes, np.bool_)}, np.array(logits, np.int64), {}, {})


def part(trace: Trace, samples: slice) -> Trace:
    return Trace({name: s[samples] for name, s in trace.spikes.items()}, trace.logits[samples], {}, {})


def noisy(trace: Trace, seed: int) -> Trace:
    """Return `trace` with some spikes flipped and some logits moved."""
    rng = np.random.default_rng(seed)
    spikes = {name: s ^ (rng.random(s.shape) < rng.choice([0, 0.01, 0.3])) for name, s in trace.spikes.items()}
    moved = rng.integers(-300, 300, trace.logits.shape) * (rng.random(trace.logits.shape) < 0.2)
    return replace(trace, spikes=spikes, logits=trace.logits + moved)


def test_spikes_counted_by_hand():
    """Two samples, four steps, two neurons: sample 1 differs at steps 2 to 4; one neuron shifts, one fires 3 more."""
    silent = [[0, 0]] * 4
    expected = trace_of([silent, [[0, 0], [1, 0], [0, 0], [0, 0]]], np.zeros((2, 4, 2)))
    actual = trace_of([silent, [[0, 0], [0, 1], [1, 1], [0, 1]]], np.zeros((2, 4, 2)))
    found = compare_traces(network_of(4), expected, actual, NAMES)
    assert found.spikes == (SpikeCounts("a", 16, 5, 1, 2, {**NONE, "0": 1, "3": 1}),)
    assert found.logits == LogitCounts("out", 16, 0, 0, None, 0, {}, 0)
    assert (found.expected_by, found.actual_by, found.samples) == ("reference", "lava", 2)
    assert (found.equal, found.compared_spikes) == (False, 16)


def test_samples_of_a_layer_of_images_counted_by_hand():
    """Four samples, three steps, 2x1x2 neurons: one spike in sample 1 at step 3, two in sample 3 at step 2."""
    image = fire("a", conv("input", np.ones((2, 1, 1, 1))), shape=(2, 1, 2))
    network = IntNetwork(signed_input(1, 1, 2), (image, read_out(dense("a", np.ones((1, 4))))), 3)
    silent = trace_of(np.zeros((4, 3, 2, 1, 2)), np.zeros((4, 3, 1)))
    spikes = silent.spikes["a"].copy()
    spikes[1, 2, 0, 0, 1] = spikes[3, 1, 0, 0, 0] = spikes[3, 1, 1, 0, 1] = True
    found = compare_traces(network, silent, replace(silent, spikes={"a": spikes}), NAMES)
    assert found.spikes == (SpikeCounts("a", 48, 3, 2, 2, {**NONE, "1": 3}),)


def test_more_than_three_spikes_apart_is_one_bin():
    shape = (1, 9, 2)
    expected = trace_of(np.zeros(shape), np.zeros((1, 9, 2)))
    actual = trace_of(np.ones(shape), np.zeros((1, 9, 2)))
    assert compare_traces(network_of(9), expected, actual, NAMES).spikes[0].count_differences == {**NONE, "more": 2}


def test_logits_counted_by_hand():
    """Differences 1, -2, 3, -4, 1000; the answer of the first sample changes, that of the second does not."""
    spikes = np.zeros((2, 2, 2))
    expected = trace_of(spikes, [[[0, 0], [5, 5]], [[0, 0], [9, 0]]])
    actual = trace_of(spikes, [[[0, 1], [3, 8]], [[0, -4], [1009, 0]]])
    found = compare_traces(network_of(2), expected, actual, NAMES)
    assert found.logits == LogitCounts("out", 8, 5, 2, 1, 1000, {"1": 1, "2": 2, "4": 1, "512": 1}, 1)


def test_payloads_counted_by_hand():
    """Two samples of two neurons: 7 is 5, 300 is 0."""
    expected, actual = (
        Trace({"a": np.array(sent, np.int32)}, np.zeros((2, 1, 2), np.int64), {}, {})
        for sent in ([[[7, 0]], [[1, 300]]], [[[5, 0]], [[1, 0]]])
    )
    found = compare_traces(network_of(1), expected, actual, NAMES)
    assert found.spikes == (PayloadCounts("a", 4, 2, 2, 1, {**NONE, "2": 1, "more": 1}),)
    assert (found + found).spikes == (PayloadCounts("a", 8, 4, 4, 1, {**NONE, "2": 2, "more": 2}),)
    assert found.spikes[0].describe() == (
        "layer `a`: 2 of 4 spike values differ, in 2 samples, from step 1; neurons whose payloads are off by 2 in 1, "
        "more in 1"
    )


@given(seeds)
def test_equal_traces_have_no_differences(seed):
    network = random_network(seed)
    trace = simulate(network, random_pixels(network, 3))
    found = compare_traces(network, trace, trace, NAMES)
    assert found.equal
    assert [layer.differing for layer in found.layers] == [0] * len(network.populations)
    assert found.compared_spikes == sum(s.size for s in trace.spikes.values())


@given(seeds)
def test_chunks_add_up_to_the_whole(seed):
    network = random_network(seed)
    expected = simulate(network, random_pixels(network, 7))
    actual = noisy(expected, seed)
    whole = compare_traces(network, expected, actual, NAMES)
    chunks = [slice(0, 3), slice(3, 4), slice(4, 7)]
    one, two, three = (compare_traces(network, part(expected, c), part(actual, c), NAMES) for c in chunks)
    assert one + two + three == whole
    assert list((one + two + three).logits.magnitudes) == list(whole.logits.magnitudes)


@given(seeds)
def test_every_differing_neuron_and_logit_is_in_one_bin(seed):
    network = random_network(seed)
    expected = simulate(network, random_pixels(network, 3))
    actual = noisy(expected, seed)
    found = compare_traces(network, expected, actual, NAMES)
    for layer in found.spikes:
        apart = expected.spikes[layer.layer] != actual.spikes[layer.layer]
        assert layer.differing == apart.sum()
        assert sum(layer.count_differences.values()) == apart.any(axis=1).sum()
    assert sum(found.logits.magnitudes.values()) == (expected.logits != actual.logits).sum()


def test_traces_of_different_lengths_differ_everywhere():
    network = network_of(3)
    pixels = random_pixels(network, 2)
    found = compare_traces(network, simulate(network, pixels), simulate(network, pixels, n_steps=2), NAMES)
    assert found.spikes == (SpikeCounts("a", 12, 12, 2, 1, NONE),)
    assert found.logits == LogitCounts("out", 12, 12, 2, 1, 0, {}, 0)
