"""Current-based neurons and their registers, worked by hand at the edges, in the reference and the fast engine.

`tests/lava/test_foreign.py` and `tests/lava/test_oracle.py` compare whole networks with Lava and others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nctool.errors import RangeError
from nctool.fast.choice import FLOAT
from nctool.fast.engine import FastEngine
from nctool.ir.network import (
    ConvGeometry,
    CurrentBased,
    IntArray,
    IntegerInput,
    IntegrateFire,
    IntNetwork,
    Population,
    Synapse,
)
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace, join
from tests.support.networks import CHOICES, leaky

NEVER = 2**24 - 1
"""A threshold that no voltage reaches: the answer is the voltage."""

TOP = 2**23 - 1
"""The highest voltage."""


def traced(population: Population, signal: IntArray) -> Trace:
    """Return the trace of a population that gets one sample, (steps, *shape), on which both engines agree.

    The network takes no other values than the sample's: what the fast engine leaves out must really never happen.
    """
    encoding = IntegerInput(signal.shape[1:], int(signal.min()), int(signal.max()))
    network = IntNetwork(encoding, (population,), len(signal))
    expected = simulate(network, signal[np.newaxis])
    for choice in CHOICES:
        assert join(FastEngine(network, choice=choice).traces(signal[np.newaxis])) == expected, choice
    return expected


def population(synapse: Synapse, neuron: CurrentBased, bias: int = 0) -> Population:
    shape = (1,) if synapse.conv is None else (1, 1, 1)
    return Population("a", shape, neuron, np.full(1, bias, np.int64), (synapse,))


def voltages(weight: int, values: list[int], *, exponent: int = 0, delay: int | None = None, **decays: int) -> Trace:
    """Return the trace of one neuron without memory, unless `decays` say otherwise, on one value a step."""
    neuron = leaky(NEVER, decays.get("current_decay", 4096), decays.get("voltage_decay", 4096))
    delays = None if delay is None else np.full((1, 1), delay)
    synapse = Synapse("input", np.full((1, 1), weight, np.int32), exponent, delay=delays)
    return traced(population(synapse, neuron), np.array(values).reshape(-1, 1))


@pytest.mark.parametrize(
    ("total", "voltage", "count"),
    [
        (2**17 - 1, 2**23 - 64, 0),
        (2**17, TOP, 1),  # a current of 2**23 stays; the voltage is cut
        (2**17 + 1, -(2**23) + 64, 1),
        (1 - 2**17, -(2**23) + 64, 0),
        (-(2**17), TOP, 2),  # a current of -2**23 becomes 2**23
        (-(2**17) - 1, 2**23 - 64, 1),
    ],
)
def test_C1_wraps_above_one_border_and_from_the_other_on(total, voltage, count):
    trace = voltages(abs(total), [np.sign(total)])
    assert (trace.logits.item(), trace.overflows["a"]) == (voltage, count)


@pytest.mark.parametrize(
    ("sign", "expected"), [(1, [2**23 - 64, TOP, -(2**23) + 64]), (-1, [-(2**23) + 64, TOP, 2**23 - 64])]
)
def test_C1_neurons_wrap_each_on_its_own(sign, expected):
    weight = np.array([[2**17 - 1], [2**17], [2**17 + 1]], np.int32)
    neuron = leaky(NEVER, 4096, 4096, 3)
    several = Population("a", (3,), neuron, np.zeros(3, np.int64), (Synapse("input", weight),))
    trace = traced(several, np.array([[sign]]))
    assert (trace.logits[0, 0].tolist(), trace.overflows["a"]) == (expected, 2 if sign > 0 else 3)


@pytest.mark.parametrize(
    ("total", "voltage"),
    [
        (2**25 - 1, TOP),  # 2**31 - 64 - 2**24
        (2**25, -TOP),  # 2**31 is held as -2**31
        (-(2**25), -TOP),
        (-(2**25) - 1, TOP),
        (2**26, 0),  # 2**32 is held as 0
        (2**26 + 5, 320),
    ],
)
def test_C1_a_sum_is_held_in_32_bits(total, voltage):
    assert voltages(abs(total), [np.sign(total)]).logits.item() == voltage


def test_C1_a_current_may_stay_beyond_24_bits():
    """2**26 - 2**24 = 3 * 2**24, half of it is 3 * 2**23, less 2**24 is 2**23, half of it 2**22."""
    trace = voltages(2**20, [1, 0, 0, 0], current_decay=2048)
    assert trace.logits[0, :, 0].tolist() == [TOP, TOP, 2**22, 2**21]
    assert trace.overflows["a"] == 2 + 2  # two wraps, two cuts


def test_C1_C2_every_channel_has_its_own_decays():
    """64 * 4 at step 1. Currents keep all, half, nothing; voltages keep nothing, half, all."""
    neuron = leaky(NEVER, [0, 2048, 4096], [4096, 2048, 0], 3)
    several = Population("a", (3,), neuron, np.zeros(3, np.int64), (Synapse("input", np.full((3, 1), 4, np.int32)),))
    trace = traced(several, np.array([[1], [0], [0]]))
    assert trace.logits[0].tolist() == [[256, 256, 256], [256, 256, 256], [256, 192, 256]]


@pytest.mark.parametrize(
    ("values", "held", "count"),
    [
        ([32767, 255], TOP, 0),
        ([32767, 256], -(2**23), 1),
        ([-32767, -256], -(2**23), 0),
        ([-32767, -257], TOP, 1),
        ([32767, 32767], 32767 * 257 - 2**24, 1),
    ],
)
def test_W5_a_convolution_is_held_in_24_bits(values, held, count):
    """Weights 256 and 1; the voltage is 64 times the sum, less the 2**24 that C1 takes off, and is cut."""
    synapse = Synapse("input", np.array([[[[256, 1]]]], np.int32), conv=ConvGeometry())
    trace = traced(population(synapse, leaky(NEVER, 4096, 4096)), np.array(values).reshape(1, 1, 1, 2))
    assert trace.logits.item() == np.sign(held) * TOP
    assert trace.overflows["a"] == count + 2


def test_W5_a_sum_that_comes_back_is_counted_all_the_same():
    """512 * 32767 + 515 = 2**24 + 3; the same at both steps of a constant input."""
    synapse = Synapse("input", np.array([[[[512, 1]]]], np.int32), conv=ConvGeometry())
    network = IntNetwork(IntegerInput((1, 1, 2)), (population(synapse, leaky(NEVER, 4096, 4096)),), 2)
    sample = np.array([32767, 515]).reshape(1, 1, 1, 2)
    expected = simulate(network, sample)
    for choice in CHOICES:
        assert join(FastEngine(network, choice=choice).traces(sample)) == expected, choice
    assert (expected.logits[0, :, 0].tolist(), expected.overflows) == ([192, 192], {"a": 2})


@pytest.mark.parametrize(
    ("delay", "voltage", "count"),
    [
        (None, -(2**23), 1),  # 2**31 is held as -2**31, shifted to -2**17: a current of -2**23, which becomes 2**23
        (0, 2**23, 0),  # shifted to 2**17 first
    ],
)
def test_W5_a_dense_sum_is_held_before_it_is_shifted_unless_it_has_delays(delay, voltage, count):
    trace = voltages(2**30, [2], exponent=-14, delay=delay)
    assert trace.logits.item() == TOP
    assert trace.overflows["a"] == count + (2 if voltage < 0 else 1)


def test_W5_with_delays_32_bits_hold_what_arrives():
    """2**31 is held as -2**31, and 64 times that, in 32 bits, as 0: two changes."""
    trace = voltages(2**30, [2], delay=0)
    assert (trace.logits.item(), trace.overflows["a"]) == (0, 2)


def test_W6_a_spike_comes_back_one_step_later():
    """The first neuron gets 5 > 4 at step 1; then each gets 5 from the other one."""
    synapses = (
        Synapse("input", np.array([[5], [0]], np.int32)),
        Synapse("a", np.array([[0, 5], [5, 0]], np.int32)),
    )
    pair = Population("a", (2,), leaky(4, 4096, 4096, 2), np.zeros(2, np.int64), synapses)
    trace = traced(pair, np.array([[1], [0], [0], [0]]))
    assert trace.spikes["a"][0].tolist() == [[True, False], [False, True], [True, False], [False, True]]


def test_W6_a_reset_does_not_hold_up_what_comes_back():
    """Bias 3 a step, threshold 4: 3, 6 fires, whose spike brings -2: 1, 4, 7 fires. An interval of 2 clears a 4."""
    synapses = (Synapse("input", np.zeros((1, 1), np.int32)), Synapse("a", np.full((1, 1), -2, np.int32)))
    for interval, expected in ((2, [0, 1, 0, 0, 0, 1]), (None, [0, 1, 0, 0, 1, 0])):
        neuron = replace(leaky(4, 4096, 0), reset_interval=interval)
        trace = traced(Population("a", (1,), neuron, np.full(1, 3, np.int64), synapses), np.zeros((6, 1), np.int64))
        assert trace.spikes["a"][0, :, 0].tolist() == expected, interval


def test_W6_sums_that_come_back_are_held_and_rounded_as_others():
    """2**30 of each of two neurons, shifted down by 14: 2**31 is held as -2**31, a current of -2**23, which wraps."""
    own = Synapse("a", np.array([[2**30, 2**30], [3, 0]], np.int32), -14)
    both = (Synapse("input", np.zeros((2, 1), np.int32)), own)
    trace = traced(
        Population("a", (2,), leaky(0, 4096, 4096, 2), np.full(2, 1, np.int64), both), np.zeros((2, 1), np.int64)
    )
    assert trace.spikes["a"][0].tolist() == [[True, True], [True, True]]
    assert trace.overflows["a"] == 1 + 1 + 1  # W5, C1, C2


def recurrent(**changes: object) -> Population:
    own = replace(Synapse("a", np.ones((1, 1), np.int32)), **changes)
    return Population("a", (1,), leaky(4, 0, 0), np.zeros(1, np.int64), (own,))


@pytest.mark.parametrize(
    ("population", "text"),
    [
        (recurrent(delay=np.ones((1, 1), np.int64)), "synapse to itself is with delays, allowed dense, without delays"),
        (
            replace(recurrent(), neuron=IntegrateFire(np.ones(1, np.int64), np.zeros(1, np.int64))),
            "source is a, allowed a population that stands before it",
        ),
        (recurrent(source="b"), "source is b, allowed a population that stands before it"),
        (recurrent(weight=np.ones((1, 2), np.int32)), "weight shape is (1, 2), allowed (1, 1)"),
    ],
)
def test_W6_what_may_not_come_back(population, text):
    with pytest.raises(RangeError) as caught:
        IntNetwork(IntegerInput((1,)), (population,), 1)
    assert str(caught.value) == f"population `a`: {text}"


@pytest.mark.parametrize(
    ("threshold", "logits"), [(2**17 - 1, [2**22, 0, 2**22]), (2**17, [2**22, TOP, TOP]), (2**17 - 2, [0, 1, 1])]
)
def test_C6_a_voltage_that_is_cut_may_pass_the_threshold_that_says_never(threshold, logits):
    """64 * 2**16 a step: 2**22, then 2**23, cut to 2**23 - 1, which is above 64 * (2**17 - 1)."""
    neuron = leaky(threshold, 4096, 0)
    synapse = Synapse("input", np.zeros((1, 1), np.int32))
    trace = traced(population(synapse, neuron, bias=2**16), np.zeros((3, 1), np.int64))
    assert trace.logits[0, :, 0].tolist() == logits
    assert trace.spikes["a"][0, :, 0].tolist() == [False, threshold < 2**17, False]


def test_a_compiled_loop_steps_what_holds_everything_in_its_registers() -> None:
    synapse = Synapse("input", np.array([[3, -5]], np.int32))
    for neuron, limit, name in ((leaky(9, 1024, 512), 1, "fused"), (leaky(9, 0, 512), 1, "step by step")):
        network = IntNetwork(IntegerInput((2,), 0, limit), (population(synapse, neuron),), 3)
        assert FastEngine(network).kernels == {"a": f"int8, {name}"}
        assert FastEngine(network, choice=FLOAT).kernels == {"a": "float32, step by step"}
