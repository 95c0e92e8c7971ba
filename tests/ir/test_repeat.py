"""Weights that repeat: each once, all of them, and what they read added up give the same drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given

from nctool.errors import RangeError
from nctool.ir.geometry import ConvGeometry, Shape
from nctool.ir.network import IntNetwork, Synapse, find_repeats
from nctool.ir.repeat import NO_REPEAT, Repeat, find_repeat
from nctool.reference.synapses import synaptic_input
from tests.support.networks import dense, fire, read_out, seeds, signed_input


def random_repeat(rng: np.random.Generator) -> Repeat:
    high, wide, copies_in, copies_out = (int(times) for times in rng.integers(1, 4, 4))
    return Repeat((high, wide), copies_in, copies_out)


def random_synapse(rng: np.random.Generator) -> tuple[Synapse, Shape]:
    """Return a convolution, or a dense synapse, that repeats as it says, and the shape of its source."""
    repeat = random_repeat(rng)
    groups, tiles = int(rng.integers(1, 3)), rng.integers(2, 5, 2)
    channels, out = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
    source = (channels * repeat.copies_in, *(int(t) * b for t, b in zip(tiles, repeat.block, strict=True)))
    if rng.random() < 0.3:
        distinct = rng.integers(-99, 100, (out, channels * int(np.prod(tiles))))
        return Synapse("a", repeat.spread(distinct, source).astype(np.int32), repeat=repeat), source
    kernel, stride, padding = (tuple(rng.integers(low, 3, 2).tolist()) for low in (1, 1, 0))
    conv = repeat.on_neurons(ConvGeometry(stride, padding, groups=groups))
    distinct = rng.integers(-99, 100, (out, channels // groups, *kernel))
    return Synapse("a", repeat.spread(distinct, source).astype(np.int32), conv=conv, repeat=repeat), source


@given(seeds)
def test_distinct_weights_on_summed_signals_drive_what_all_weights_do(seed):
    rng = np.random.default_rng(seed)
    synapse, source = random_synapse(rng)
    assume(min(synapse.output_shape(source)) > 0)
    repeat, signal = synapse.repeat, rng.integers(0, 9, (3, *source))
    wanted = synaptic_input(synapse, signal[:, np.newaxis], 1)
    once = Synapse(
        "a",
        repeat.distinct(synapse.weight, source),
        conv=None if synapse.conv is None else repeat.on_blocks(synapse.conv),
    )
    found = synaptic_input(once, repeat.summed(signal)[:, np.newaxis], 1)
    np.testing.assert_array_equal(np.repeat(found, repeat.copies_out, axis=2), wanted)


@given(seeds)
def test_what_is_found_holds_and_is_at_least_what_was_made(seed):
    synapse, source = random_synapse(np.random.default_rng(seed))
    found = find_repeat(synapse.weight, synapse.conv, source)
    assert found.holds(synapse.weight, synapse.conv, source)
    assert synapse.repeat.holds(synapse.weight, synapse.conv, source)
    assert all(more % less == 0 for more, less in zip(found.factors, synapse.repeat.factors, strict=True))


@pytest.mark.parametrize(
    ("conv", "height"),
    [
        (ConvGeometry((1, 2)), 4),  # moves by half a block
        (ConvGeometry((2, 2), padding=(1, 0)), 4),  # padding of half a block
        (ConvGeometry((2, 2), padding=(2, 0)), 5),  # the last row shares its block with padding
        (ConvGeometry((2, 2), dilation=(2, 1)), 4),
        (ConvGeometry((2, 2), input_dilation=(2, 1)), 4),  # no two neurons lie side by side
    ],
)
def test_weights_are_equal_in_blocks_that_a_kernel_does_not_respect(conv, height):
    weight = np.kron([[1, 2], [3, 4]], np.ones((2, 1), int)).reshape(1, 1, 4, 2)
    assert find_repeat(weight, ConvGeometry((2, 2)), (1, 4, 4)) == Repeat((2, 1))
    assert find_repeat(weight, conv, (1, height, 4)) == NO_REPEAT
    assert not Repeat((2, 1)).holds(weight, conv, (1, height, 4))


def network(weight: list[list[int]], repeat: Repeat = NO_REPEAT) -> IntNetwork:
    synapse = replace(dense("input", weight), repeat=repeat)
    populations = (fire("a", synapse, threshold=5), read_out(dense("a", np.ones((1, len(weight))))))
    return IntNetwork(signed_input(len(weight[0])), populations, 3)


def test_a_repetition_that_the_weights_do_not_have_is_refused():
    with pytest.raises(RangeError, match=r"population `a`: repetition of weights from `input` is Repeat\("):
        network([[1, 2]], Repeat(copies_in=2))


def test_networks_are_equal_whether_their_repetition_is_known_or_not():
    known = network([[1, 1], [1, 1]], Repeat(copies_in=2))
    assert known == network([[1, 1], [1, 1]])
    assert find_repeats(known).populations[0].synapses[0].repeat == Repeat(copies_in=2, copies_out=2)
