"""The fast engine gives the reference engine's trace, bit for bit, on whatever an IntNetwork can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from nctool.errors import RangeError, UsageError
from nctool.fast.choice import FLOAT
from nctool.fast.engine import FastEngine, exact_arithmetic
from nctool.fast.integer_weights import FLOAT32_EXACT
from nctool.ir.network import (
    INPUT_NAME,
    ConvGeometry,
    InputEncoding,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Synapse,
    find_repeats,
)
from nctool.reference.simulate import simulate
from nctool.reference.synapses import synaptic_input
from nctool.reference.trace import join
from tests.support.networks import (
    CHOICES,
    conv,
    dense,
    fire,
    random_enlarged,
    random_network,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)


def fast(network: IntNetwork, pixels: np.ndarray, batch: int = 3, n_steps: int | None = None):
    """Run with every choice of kernels, and return what all of them give."""
    engines = [FastEngine(network, n_steps=n_steps, choice=choice) for choice in CHOICES]
    for engine in engines:
        engine.batch = batch
    first, *others = (join(engine.traces(pixels)) for engine in engines)
    for engine, other in zip(engines[1:], others, strict=True):
        assert other == first, engine
    return first


def as_dag(network: IntNetwork, seed: int) -> IntNetwork:
    """Give every population a second synapse with an exponent: from its source, or from the input if it is flat."""
    rng = np.random.default_rng(seed)
    populations = []
    for population in network.populations:
        first = population.synapses[0]
        extra = replace(first, weight=rng.integers(-128, 128, first.weight.shape).astype(np.int32), exponent=2)
        if len(population.shape) == 1:
            weight = rng.integers(-9, 10, (population.shape[0], int(np.prod(network.input.shape)))).astype(np.int32)
            extra = Synapse(INPUT_NAME, weight, exponent=1)
        populations.append(replace(population, synapses=(first, extra)))
    return replace(network, populations=tuple(populations))


def with_reset_to_zero(network: IntNetwork) -> IntNetwork:
    def changed(population: Population) -> Population:
        if isinstance(population.neuron, Readout):
            return population
        return replace(population, neuron=replace(population.neuron, reset="zero"))

    return replace(network, populations=tuple(map(changed, network.populations)))


@given(seeds, st.integers(1, 5), st.sampled_from([random_network, random_enlarged]))
def test_a_chain(seed: int, batch: int, draw: Callable[[int], IntNetwork]) -> None:
    network = draw(seed)
    pixels = random_pixels(network, 5, seed)
    assert fast(network, pixels, batch) == simulate(network, pixels)


@given(seeds, st.sampled_from([random_network, random_enlarged]))
def test_a_dag_with_exponents_and_overflows(seed: int, draw: Callable[[int], IntNetwork]) -> None:
    network = as_dag(draw(seed), seed)
    pixels = random_pixels(network, 4, seed)
    assert fast(network, pixels) == simulate(network, pixels)


@given(seeds)
def test_reset_to_zero(seed: int) -> None:
    network = with_reset_to_zero(random_network(seed))
    pixels = random_pixels(network, 4, seed)
    assert fast(network, pixels) == simulate(network, pixels)


@given(seeds, st.integers(1, 9))
def test_another_window(seed: int, n_steps: int) -> None:
    network = random_network(seed)
    pixels = random_pixels(network, 2, seed)
    assert fast(network, pixels, n_steps=n_steps) == simulate(network, pixels, n_steps=n_steps)


def repeating_network(seed: int) -> tuple[IntNetwork, tuple[int, int], int]:
    """A convolution and a dense layer whose weights repeat in blocks, and for each replica of an activation."""
    rng = np.random.default_rng(seed)
    block = tuple(int(b) for b in rng.integers(1, 4, 2))
    kernel, stride, padding = (rng.integers(low, 3, 2).tolist() for low in (1, 1, 0))
    groups, copies = (int(rng.integers(1, 3)) for _ in range(2))
    rest = [int(rng.integers(0, b)) if p == 0 else 0 for b, p in zip(block, padding, strict=True)]
    source = (2, *(b * int(rng.integers(2, 5)) + r for b, r in zip(block, rest, strict=True)))
    small = rng.integers(-128, 128, (4, 2 // groups, *kernel)).astype(np.int32).repeat(copies, axis=0)
    geometry = ConvGeometry(
        stride=tuple(s * b for s, b in zip(stride, block, strict=True)),
        padding=tuple(p * b for p, b in zip(padding, block, strict=True)),
        groups=groups,
    )
    synapse = Synapse(INPUT_NAME, small.repeat(block[0], axis=2).repeat(block[1], axis=3), conv=geometry)
    shape = synapse.output_shape(source)
    threshold = rng.integers(1, 128, 4 * copies) << 6
    weight = rng.integers(-99, 100, (3, 4)).repeat(copies * int(np.prod(shape[1:])), axis=1).astype(np.int32)
    populations = (
        Population(
            "conv", shape, IntegrateFire(threshold, threshold // 2), rng.integers(-99, 99, 4 * copies), (synapse,)
        ),
        Population("readout", (3,), Readout(1.0), np.zeros(3, np.int64), (Synapse("conv", weight),)),
    )
    table = rng.integers(-128, 128, (2, 256)).astype(np.int8)
    return find_repeats(IntNetwork(InputEncoding(source, table), populations, 3)), block, copies


@given(seeds)
def test_weights_that_repeat_are_taken_once(seed: int) -> None:
    network, block, copies = repeating_network(seed)
    pixels = random_pixels(network, 4, seed)
    assert fast(network, pixels) == simulate(network, pixels)
    found, last = (layer.kernels[0] for layer in FastEngine(network).layers)
    assert all(f % b == 0 for f, b in zip(found.repeat.block, block, strict=True))
    assert last.weights.shape == (3, 4)
    assert last.repeat.copies_in == found.repeat.copies_out == copies


@pytest.mark.parametrize("bias", [0, 40])
def test_a_convolution_that_sees_padding_only_gives_the_bias(bias: int) -> None:
    """By hand: columns 0 and 2 of a padded image of one column hold zeros. Ends in a fault in oneDNN of torch 2.3."""
    synapse = conv(INPUT_NAME, np.ones((12, 2, 2, 1)), stride=(2, 2), padding=(0, 1), groups=2)
    assert synapse.output_shape((4, 3, 1)) == (12, 1, 2)
    network = IntNetwork(
        signed_input(4, 3, 1),
        (
            fire("c", synapse, threshold=100, initial=50, bias=bias, shape=(12, 1, 2)),
            read_out(dense("c", np.ones((1, 24)))),
        ),
        n_steps=4,
    )
    found = fast(network, random_pixels(network, 32), batch=16)
    assert found.spikes["c"][0, :, 0, 0, 0].tolist() == ([False, True, False, True] if bias else [False] * 4)
    assert found == simulate(network, random_pixels(network, 32))


@given(seeds)
def test_what_a_convolution_reaches(seed: int) -> None:
    """A kernel of ones on an image of ones sums to 0 everywhere, or somewhere to more."""
    rng = np.random.default_rng(seed)
    ranges = ((1, 4), (1, 4), (1, 5), (0, 5), (1, 4), (1, 4))
    size, kernel, stride, padding, dilation, apart = (tuple(rng.integers(*ends, 2).tolist()) for ends in ranges)
    ones = np.ones((1, 1, *kernel))
    synapse = conv(INPUT_NAME, ones, stride=stride, padding=padding, dilation=dilation, input_dilation=apart)
    assume(min(synapse.output_shape((1, *size))) > 0)
    assert synapse.conv.reaches((1, *size), kernel) == synaptic_input(synapse, np.ones((1, 1, 1, *size)), 1).any()


def wide_network(weight: int, fan_in: int = 2**12) -> IntNetwork:
    """A graded dense layer whose drive reaches fan_in * 127 * weight, and one odd replica on top."""
    table = np.full((fan_in, 256), 127, np.int8)
    table[0] = 1
    hidden = Population(
        "hidden",
        (2,),
        IntegrateFire(np.array([3, 5]), np.array([1, 2])),
        np.array([0, 1]),
        (Synapse(INPUT_NAME, np.full((2, fan_in), weight, np.int32)),),
    )
    readout = Population("readout", (1,), Readout(1.0), np.array([0]), (Synapse("hidden", np.ones((1, 2), np.int32)),))
    return IntNetwork(InputEncoding((fan_in,), table), (hidden, readout), 2)


def test_sums_beyond_float32_are_computed_in_float64() -> None:
    network = wide_network(127)
    pixels = random_pixels(network, 2)
    engine = FastEngine(network)
    assert [layer.kernels[0].weights.name for layer in engine.layers] == ["float64", "int8"]
    total = 127 * 127 * (2**12 - 1) + 127
    assert total > FLOAT32_EXACT
    assert fast(network, pixels) == simulate(network, pixels)
    assert sum(fast(network, pixels).overflows.values()) == 8


def test_a_narrow_sum_stays_in_float32() -> None:
    assert FastEngine(wide_network(1), choice=FLOAT).layers[0].kernels[0].weights.dtype == torch.float32


def test_sums_beyond_float64_are_refused() -> None:
    """One step's drive always fits; a long window of it may not."""
    network = wide_network(2**28, fan_in=2**15)
    assert FastEngine(network).layers[0].kernels[0].weights.dtype == torch.float64
    with pytest.raises(RangeError, match=r"population `hidden`: sums may reach \d+, the fast engine is exact below"):
        FastEngine(network, n_steps=8)


def test_a_summary_counts_what_the_trace_holds() -> None:
    network = random_network(3)
    pixels = random_pixels(network, 6)
    engine = FastEngine(network)
    engine.batch = 6
    (summary,) = engine.summaries(pixels)
    assert summary == simulate(network, pixels).summary()


def test_a_residual_add_on_images() -> None:
    rng = np.random.default_rng(1)
    geometry = ConvGeometry(padding=(1, 1))

    def conv(source: str, channels: int) -> Synapse:
        return Synapse(source, rng.integers(-40, 41, (4, channels, 3, 3)).astype(np.int32), conv=geometry)

    threshold = np.array([300, 400, 500, 600])
    neuron = IntegrateFire(threshold, threshold // 2)
    skip = Synapse("one", (np.eye(4, dtype=np.int32) * 100).reshape(4, 4, 1, 1), exponent=1, conv=ConvGeometry())
    network = IntNetwork(
        InputEncoding((2, 6, 5), rng.integers(-10, 11, (2, 256)).astype(np.int8)),
        (
            Population("one", (4, 6, 5), neuron, np.zeros(4, np.int64), (conv(INPUT_NAME, 2),)),
            Population("two", (4, 6, 5), neuron, rng.integers(-50, 51, 4), (conv("one", 4), skip)),
            Population(
                "out",
                (3,),
                Readout(1.0),
                np.zeros(3, np.int64),
                (Synapse("two", rng.integers(-9, 9, (3, 120)).astype(np.int32)),),
            ),
        ),
        4,
    )
    pixels = random_pixels(network, 5)
    expected = simulate(network, pixels)
    assert expected.spikes["two"].any() and not expected.spikes["two"].all()
    assert fast(network, pixels) == expected


def test_reduced_precision_is_off_inside_and_restored_after() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.enabled
        assert torch.backends.cudnn.enabled
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_bad_arguments() -> None:
    network = random_network(0)
    with pytest.raises(RangeError, match="n_steps is 0, allowed >= 1"):
        FastEngine(network, n_steps=0)
    with pytest.raises(RangeError, match="number of samples is 0, allowed >= 1"):
        list(FastEngine(network).traces(random_pixels(network, 1)[:0]))
    with pytest.raises(UsageError, match="unknown device `tpu`, allowed cpu, cuda"):
        FastEngine(network, device="tpu")
