"""Two traces are compared bit for bit, and the first divergence is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from nctool.ir.network import IntNetwork
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool.verification.divergence import Divergence, first_divergence
from tests.support.networks import conv, dense, fire, random_network, random_pixels, read_out, seeds, signed_input

NAMES = ("reference", "lava")


def two_layers() -> IntNetwork:
    first = fire("a", conv("input", np.ones((2, 1, 2, 2))), threshold=100, shape=(2, 2, 1))
    second = fire("b", dense("a", np.ones((3, 4))), threshold=2)
    return IntNetwork(signed_input(1, 3, 2), (first, second, read_out(dense("b", np.ones((2, 3))))), 4)


def flipped(trace: Trace, name: str, *places: tuple[int, ...]) -> Trace:
    spikes = trace.spikes[name].copy()
    for place in places:
        spikes[place] ^= True
    return replace(trace, spikes={**trace.spikes, name: spikes})


@given(seeds)
def test_equal_traces_have_no_divergence(seed):
    network = random_network(seed)
    pixels = random_pixels(network, 3)
    assert first_divergence(network, simulate(network, pixels), simulate(network, pixels), NAMES) is None


@given(seeds)
def test_any_flipped_spike_is_found(seed):
    network = random_network(seed)
    trace = simulate(network, random_pixels(network, 3))
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(trace.spikes)))
    place = tuple(int(rng.integers(size)) for size in trace.spikes[name].shape)
    was = int(trace.spikes[name][place])
    assert first_divergence(network, trace, flipped(trace, name, place), NAMES) == Divergence(
        name, "spike", place[0], place[1] + 1, place[2:], was, 1 - was, *NAMES
    )


def test_a_logit_is_named_with_its_sample_step_and_class():
    network = two_layers()
    trace = simulate(network, random_pixels(network, 3))
    logits = trace.logits.copy()
    logits[2, 0, 1] += 5
    found = first_divergence(network, trace, replace(trace, logits=logits), NAMES, first_sample=100)
    expected = int(trace.logits[2, 0, 1])
    assert found == Divergence("out", "logit", 102, 1, (1,), expected, expected + 5, *NAMES)
    assert str(found) == (
        f"layer `out`, sample 102, step 1, neuron (1,): logit is {expected} in `reference` and {expected + 5} in `lava`"
    )


def test_the_first_layer_comes_first_then_sample_step_and_neuron():
    network = two_layers()
    trace = simulate(network, random_pixels(network, 3))
    places = [(2, 0, 0, 0, 0), (1, 3, 0, 0, 0), (1, 2, 1, 0, 0), (1, 2, 0, 1, 0)]
    other = flipped(flipped(trace, "b", (0, 0, 0)), "a", *places)
    found = first_divergence(network, trace, replace(other, logits=other.logits + 1), NAMES)
    assert (found.layer, found.sample, found.step, found.neuron) == ("a", 1, 3, (0, 1, 0))
    found = first_divergence(network, trace, replace(flipped(trace, "b", (0, 0, 0)), logits=trace.logits + 1), NAMES)
    assert (found.layer, found.quantity) == ("b", "spike")


@pytest.mark.parametrize("part", ["spikes", "logits"])
def test_traces_of_different_lengths_differ(part):
    network = two_layers()
    trace = simulate(network, random_pixels(network, 3))
    shorter = simulate(network, random_pixels(network, 3), n_steps=3)
    if part == "logits":
        shorter = replace(shorter, spikes=trace.spikes)
    found = first_divergence(network, trace, shorter, NAMES)
    shapes = {"spikes": ("a", "(3, 4, 2, 2, 1)", "(3, 3, 2, 2, 1)"), "logits": ("out", "(3, 4, 2)", "(3, 3, 2)")}[part]
    assert (found.layer, found.expected, found.actual) == (shapes[0], f"shape {shapes[1]}", f"shape {shapes[2]}")


def test_changed_content_is_worded_without_a_place():
    divergence = Divergence("a", "content", None, None, None, "as exported", "changed", "file", "file")
    assert str(divergence) == "layer `a` is not what was exported: its content differs"
