"""Current-based neurons agree with two sources that share no code with us: an emulator of Loihi, and slayer.

`tests/lava/test_foreign.py` compares them with Lava. Where the emulator and Lava differ, a test pins how.
"""

from __future__ import annotations

import numpy as np
import pytest

from nctool.ir.network import IntegerInput, IntNetwork, Population, Synapse
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool_deploy.lava.synapses import as_lava_runs
from tests.support.emulator import Chain, Layer, Record, emulate
from tests.support.foreign import ground_truth
from tests.support.networks import leaky

N_STEPS = 30
SEEDS = range(16)


def random_chain(seed: int) -> Chain:
    """Draw up to three dense layers; weights are stored doubled, as netx does, so that odd ones stay odd."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, int(rng.integers(2, 5))).tolist()
    spikes = rng.integers(0, 2, (N_STEPS, sizes[0]))
    return Chain(spikes, [_random_layer(rng, *pair) for pair in zip(sizes[1:], sizes, strict=False)])


def _random_layer(rng: np.random.Generator, n_out: int, n_in: int) -> Layer:
    current_decay, voltage_decay = rng.choice([0, 1, 100, 1024, 4095, 4096], 2).tolist()
    return Layer(
        mantissa=2 * rng.integers(-128, 128, (n_out, n_in)),
        exponent=-1,
        threshold=int(rng.choice([0, 10, 100, 1000])),
        current_decay=current_decay,
        voltage_decay=voltage_decay,
        delay=rng.choice([0, 1, 5, 29], (n_out, n_in)) if rng.integers(2) else 0,
    )


def steady(n_neurons: int, *layers: Layer) -> Chain:
    """Return layers that get a spike from every input in every step."""
    return Chain(np.ones((N_STEPS, n_neurons), int), layers)


DIFFERING = {
    "falling voltage": steady(16, Layer(np.full((1, 16), -254), -1, 1000, 0, 0)),
    "rising current": steady(64, Layer(np.full((1, 64), 254), -1, 131071, 0, 4096)),
    "odd mantissas": steady(1, Layer([[3], [-3]], 0, 1000, 4096, 4096)),
    "small weights": steady(2, Layer([[2, 2]], -2, 1000, 4096, 4096)),
    "refractory delay": steady(1, Layer([[20]], 0, 10, 4096, 0, refractory=3)),
}
"""What the emulator does otherwise than Lava."""


@pytest.fixture(scope="module")
def emulated() -> dict[object, list[Record]]:
    """What the emulator says of all chains, which run in one process because it takes seconds to load."""
    chains = {seed: random_chain(seed) for seed in SEEDS} | DIFFERING
    return dict(zip(chains, emulate(list(chains.values()), N_STEPS), strict=True))


def network_of(chain: Chain) -> IntNetwork:
    populations: list[Population] = []
    for number, layer in enumerate(chain.layers):
        weight = np.array(layer.mantissa, np.int32)
        delay = np.broadcast_to(np.array(layer.delay, np.int32), weight.shape) if np.any(layer.delay) else None
        source = populations[-1].name if populations else "input"
        decays = layer.current_decay, layer.voltage_decay
        neuron = leaky(layer.threshold, *decays, len(weight), latency=number + 1)
        synapses = (Synapse(source, weight, layer.exponent, delay=delay),)
        bias = np.zeros(len(weight), np.int64)
        populations.append(Population(f"layer{number}", (len(weight),), neuron, bias, synapses))
    return IntNetwork(IntegerInput((np.shape(chain.spikes)[1],), 0, 1), tuple(populations), N_STEPS)


def traced(chain: Chain) -> Trace:
    return simulate(network_of(chain), np.array(chain.spikes)[np.newaxis], potentials=True)


def voltages_after_reset(trace: Trace, name: str) -> np.ndarray:
    return np.where(trace.spikes[name], 0, trace.potentials[name])[0]


@pytest.mark.brian
@pytest.mark.parametrize("seed", SEEDS)
def test_W1_W4_C1_to_C3_as_the_emulator_has_them(emulated, seed):
    """Every spike and every voltage, in which every current shows; a layer is a step behind the one before it."""
    trace = traced(random_chain(seed))
    assert not any(trace.overflows.values())
    for late, record in enumerate(emulated[seed]):
        name, n_steps = f"layer{late}", N_STEPS - late
        np.testing.assert_array_equal(trace.spikes[name][0, :n_steps], record.spikes[late:])
        np.testing.assert_array_equal(voltages_after_reset(trace, name)[:n_steps], record.voltages[late:])
        assert not record.voltages[:late].any()


@pytest.mark.brian
def test_the_emulator_compares_something(emulated):
    records = [record for seed in SEEDS for record in emulated[seed]]
    assert sum(int(record.spikes.sum()) for record in records) > 1000
    assert sum(len(np.unique(record.voltages)) for record in records) > 1000


# --- where the emulator and Lava differ ----------------------------------


@pytest.mark.brian
def test_the_emulator_has_no_lowest_voltage(emulated):
    """24 bits hold 1 - 2**23 at least; Lava stops there (rule C2), the emulator goes on."""
    trace, (record,) = traced(DIFFERING["falling voltage"]), emulated["falling voltage"]
    step = np.arange(1, N_STEPS + 1)
    endless = -64 * 127 * 16 * step * (step + 1) // 2
    np.testing.assert_array_equal(record.voltages[:, 0], endless)
    np.testing.assert_array_equal(trace.potentials["layer0"][0, :, 0], np.maximum(endless, 1 - 2**23))
    assert trace.overflows == {"layer0": 20}


@pytest.mark.brian
def test_the_current_of_the_emulator_does_not_wrap(emulated):
    """A sum above 2**23 wraps in Lava (rule C1); the emulator keeps it."""
    trace, (record,) = traced(DIFFERING["rising current"]), emulated["rising current"]
    endless = 64 * 127 * 64 * np.arange(1, N_STEPS + 1)
    np.testing.assert_array_equal(record.currents[:, 0], endless)
    wrapped = np.where(endless > 2**23, endless - 2**24, endless)
    np.testing.assert_array_equal(trace.potentials["layer0"][0, :, 0], wrapped)
    assert trace.overflows == {"layer0": 1}


@pytest.mark.brian
@pytest.mark.lava
def test_the_emulator_rounds_odd_mantissas_towards_zero(emulated):
    """Mantissas of mixed sign are even. Lava rounds -3 to -4; netx doubles them, so that a weight of -3 stays."""
    from lava.utils.weightutils import SignMode, truncate_weights

    (record,), weight = emulated["odd mantissas"], np.array([[3], [-3]], np.int32)
    np.testing.assert_array_equal(record.currents, [[64 * 2, 64 * -2]] * N_STEPS)
    assert truncate_weights(weight, SignMode.MIXED, 8).tolist() == [[2], [-4]]
    running, exponent = as_lava_runs(weight, "layer 0")
    assert (running.tolist(), exponent) == ([[3], [-3]], 0)


@pytest.mark.brian
def test_the_emulator_rounds_each_weight_and_not_their_sum(emulated):
    """2 * 2**-2 + 2 * 2**-2 is 1; the emulator rounds each half down to 0, Lava the sum (rule W3)."""
    trace, (record,) = traced(DIFFERING["small weights"]), emulated["small weights"]
    assert not record.currents.any()
    np.testing.assert_array_equal(trace.potentials["layer0"], np.full((1, N_STEPS, 1), 64))


@pytest.mark.brian
def test_the_emulator_has_a_refractory_delay(emulated):
    """The neuron fires in every step; in the emulator only in every third, which Lava ignores."""
    trace, (record,) = traced(DIFFERING["refractory delay"]), emulated["refractory delay"]
    np.testing.assert_array_equal(np.flatnonzero(record.spikes), np.arange(0, N_STEPS, 3))
    assert trace.spikes["layer0"].all()


# --- slayer --------------------------------------------------------------


@pytest.mark.lava
def test_C1_to_C3_as_slayer_has_them():
    """256 neurons over 2,000 steps: the ground truth that lava-dl tests its dense block with, one step later there."""
    weight, spikes = ground_truth("dense/weight.npy"), ground_truth("dense/in.npy").T
    neuron = leaky(6, 4096, 415, 256)
    synapse = Synapse("input", weight.astype(np.int32))
    population = Population("dense", (256,), neuron, np.zeros(256, np.int64), (synapse,))
    network = IntNetwork(IntegerInput((200,), 0, 1), (population,), len(spikes))
    trace = simulate(network, spikes.astype(np.int64)[np.newaxis])
    expected = ground_truth("dense/out.npy").T
    assert expected.sum() == 1826
    np.testing.assert_array_equal(trace.spikes["dense"][0, :-1], expected[1:])
    assert not expected[0].any()
