"""Graded neurons: hand-worked numbers of the reference engine, and the fast engine beside it (rules G1 to G6, O3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from nctool.errors import RangeError
from nctool.fast.engine import FastEngine
from nctool.ir.bounds import prove, prove_sums
from nctool.ir.network import PAYLOAD_LIMIT, GradedReadout, IntNetwork, Population
from nctool.reference.simulate import simulate
from nctool.reference.synapses import synaptic_input
from nctool.reference.trace import Trace, join
from tests.support.networks import (
    CHOICES,
    as_pixels,
    conv,
    dense,
    fire,
    graded,
    measured,
    random_graded,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)


def answer(*synapses: object, bias: object = 0) -> Population:
    return replace(read_out(*synapses, bias=bias), neuron=GradedReadout(1.0))  # type: ignore[arg-type]


def run(network: IntNetwork, values: object) -> Trace:
    return simulate(network, as_pixels(values), potentials=True)


def test_G2_a_spike_carries_the_shifted_sum_where_it_is_positive():
    """(3, -5) * 10 and -7: 30 - 7 = 23 >> 2 = 5, + 1 = 6; -50 >> 2 = -13 (down), + 20 = 7; -50 >> 2 = -13: none."""
    hidden = graded("a", dense("input", [[3, 1], [-5, 0], [-5, 0]], exponent=-2), bias=[1, 20, 0])
    network = IntNetwork(signed_input(2), (hidden, answer(dense("a", [[1, 10, 100]]), bias=-1)), 1)
    trace = run(network, [[10, -7]])
    assert trace.spikes["a"].dtype == np.int32
    assert trace.spikes["a"].tolist() == [[[6, 7, 0]]]
    assert trace.potentials["a"].tolist() == [[[6, 7, -13]]]
    assert trace.logits.tolist() == [[[75]]]
    assert trace.summary().spike_counts == {"a": 2}


def test_W3_every_synapse_rounds_on_its_own():
    """3 >> 1 is 1, twice; 6 >> 1 were 3."""
    hidden = graded("a", dense("input", [[1, 0]], exponent=-1), dense("input", [[0, 1]], exponent=-1))
    network = IntNetwork(signed_input(2), (hidden, answer(dense("a", [[1]]))), 1)
    assert run(network, [[3, 3]]).logits.tolist() == [[[2]]]


def test_G5_the_maximum_of_a_window_takes_two_levels_of_differences():
    """max(7, 3, 9, 8) = 9, max(0, 0, 1, 0) = 1: x0 + d1 + e, with d = (3 - 7, 8 - 9), e = (9 + 0) - (7 + 0)."""
    x = graded("x", dense("input", np.eye(4, dtype=int)))
    d = graded("d", dense("x", [[-1, 1, 0, 0], [0, 0, -1, 1]]))
    e = graded("e", dense("x", [[-1, 0, 1, 0]]), dense("d", [[-1, 1]]))
    m = graded("m", dense("x", [[1, 0, 0, 0]]), dense("d", [[1, 0]]), dense("e", [[1]]))
    network = IntNetwork(signed_input(4), (x, d, e, m, answer(dense("m", [[1]]))), 1)
    values = np.random.default_rng(0).integers(0, 128, (200, 4))
    trace = run(network, values)
    np.testing.assert_array_equal(trace.logits[:, 0, 0], values.max(axis=1))
    assert run(network, [[7, 3, 9, 8]]).spikes["d"].tolist() == [[[0, 0]]]


def test_G6_an_upper_bound_takes_two_neurons():
    below = graded("below", dense("input", [[-1]]), bias=6)
    capped = graded("capped", dense("below", [[-1]]), bias=6)
    network = IntNetwork(signed_input(1), (below, capped, answer(dense("capped", [[1]]))), 1)
    values = np.arange(-20, 21)[:, None]
    np.testing.assert_array_equal(run(network, values).logits[:, 0], np.clip(values, 0, 6))


def test_O3_what_has_no_room_is_cut_off_and_counted_alike():
    """127 * 127 * 2**10 is beyond 24 bits; so is its negative, which sends nothing. The next layer gets 2**23 - 1."""
    hidden = graded("a", dense("input", [[127], [-127]], exponent=10))
    network = IntNetwork(signed_input(1), (hidden, answer(dense("a", [[1, 0]], exponent=-10))), 1)
    trace = run(network, [[127], [1]])
    assert trace.spikes["a"].tolist() == [[[PAYLOAD_LIMIT, 0]], [[127 << 10, 0]]]
    assert trace.overflows["a"] == 2
    assert trace.logits[0].tolist() == [[PAYLOAD_LIMIT >> 10]]
    assert_same(network, as_pixels([[127], [1]]))


def test_O3_a_sum_beyond_32_bits_is_counted_though_its_shift_fits():
    """300 neurons of 2**16 payload times 127 make 2.5e9 > 2**31, shifted by 16 about 38,000."""
    hidden = graded("a", dense("input", np.full((300, 1), 64), exponent=10))
    network = IntNetwork(signed_input(1), (hidden, answer(dense("a", np.full((1, 300), 127), exponent=-16))), 1)
    trace = run(network, [[1], [0]])
    assert trace.overflows == {"a": 0, "out": 1}
    assert trace.logits.tolist() == [[[300 * 127 * 2**16 >> 16]], [[0]]]
    assert_same(network, as_pixels([[1], [0]]))


def test_weights_wider_than_float32_holds_are_weighed_exactly():
    """2**24 + 1 is none of its numbers."""
    hidden = graded("a", dense("input", [[2**24 + 1, -1]], exponent=-5))
    network = IntNetwork(signed_input(2), (hidden, answer(dense("a", [[2**24 + 1]], exponent=-16))), 1)
    assert_same(network, as_pixels([[1, 0], [1, 1], [3, -5], [0, 0]]))


def assert_same(network: IntNetwork, pixels: np.ndarray) -> None:
    expected = simulate(network, pixels)
    for choice in (None, *CHOICES):
        assert join(FastEngine(network, choice=choice).traces(pixels)) == expected
    (summary,) = FastEngine(network).summaries(pixels)
    assert summary == expected.summary()


@settings(max_examples=60)
@given(seeds)
def test_the_fast_engine_gives_the_same_numbers(seed):
    network = random_graded(seed)
    assert_same(network, random_pixels(network, 5, seed))


@settings(max_examples=60)
@given(seeds)
def test_proved_bounds_hold(seed):
    network = random_graded(seed)
    trace = simulate(network, random_pixels(network, 20, seed), potentials=True)
    for name, proved in prove(network).items():
        found = measured(trace.potentials[name])
        assert (proved.low <= found.low).all() and (found.high <= proved.high).all()


@settings(max_examples=60)
@given(seeds)
def test_proved_sums_hold(seed):
    """Every sum before its shift, by the reference engine without exponents."""
    network = random_graded(seed)
    pixels = random_pixels(network, 20, seed)
    sent = {"input": network.input.signal(pixels, 1), **simulate(network, pixels).spikes}
    for population in network.populations:
        for synapse, largest in zip(population.synapses, prove_sums(network)[population.name], strict=True):
            sums = synaptic_input(replace(synapse, exponent=0), sent[synapse.source].astype(np.int64), 1)
            assert np.abs(sums).max() <= largest


def test_a_proved_bound_is_reached():
    """Input -128..127: 2 * 127 + 3 * 128 = 638, >> 1 = 319 of payload, * 5 = 1595 of logit."""
    hidden = graded("a", dense("input", [[2, -3]], exponent=-1))
    network = IntNetwork(signed_input(2), (hidden, answer(dense("a", [[5]]))), 1)
    assert [int(found.high[0]) for found in prove(network).values()] == [319, 1595]
    assert run(network, [[127, -128]]).logits.tolist() == [[[1595]]]


def test_G1_graded_neurons_stand_beside_no_others():
    hidden = graded("a", dense("input", [[1, 2]]))
    spiking = fire("b", dense("a", [[1]]))
    with pytest.raises(RangeError) as caught:
        IntNetwork(signed_input(2), (hidden, spiking, answer(dense("b", [[1]]))), 1)
    assert str(caught.value) == "network: populations beside graded ones is ['b'], allowed none"
    with pytest.raises(RangeError) as caught:
        IntNetwork(signed_input(2), (hidden, read_out(dense("a", [[1]]))), 1)
    assert str(caught.value) == "network: populations beside graded ones is ['out'], allowed none"


def test_G1_the_window_is_one_step():
    hidden = graded("a", dense("input", [[1, 2]]))
    with pytest.raises(RangeError) as caught:
        IntNetwork(signed_input(2), (hidden, answer(dense("a", [[1]]))), 2)
    assert str(caught.value) == "network: n_steps of graded neurons is 2, allowed 1"
    network = IntNetwork(signed_input(2), (hidden, answer(dense("a", [[1]]))), 1)
    for run_it in (lambda: simulate(network, as_pixels([[0, 0]]), n_steps=2), lambda: FastEngine(network, n_steps=2)):
        with pytest.raises(RangeError) as caught:
            run_it()
        assert str(caught.value) == "simulation: n_steps is 2, allowed 1, the window of graded neurons"


def test_convolutions_share_their_kernels():
    """A kernel of ones over pairs of columns, shifted by 1: (1 + 2) >> 1 = 1, (2 + 4) >> 1 = 3."""
    synapse = replace(conv("input", [[[[1, 1]]]]), exponent=-1)
    network = IntNetwork(
        signed_input(1, 1, 3), (graded("a", synapse, shape=(1, 1, 2)), answer(dense("a", [[1, 10]]))), 1
    )
    assert run(network, [[[[1, 2, 4]]]]).logits.tolist() == [[[31]]]
