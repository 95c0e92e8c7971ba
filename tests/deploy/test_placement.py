"""Placement: every neuron has one core, no core holds more than it can, and the counts are those worked out by hand."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nctool.ir.network import IntNetwork, Population
from nctool_deploy.lowering import lower
from nctool_deploy.mapping.cores import Mapping, Usage, capacity
from nctool_deploy.mapping.placement import map_network
from nctool_deploy.targets.target import Target, find_target, parse_target
from tests.support.networks import conv, dense, fire, random_network, read_out, seeds, signed_input

FEATURES = '{ value = true, source = "x" }'


def chip(*, shared_kernels: bool = False, **limits: int) -> Target:
    """Return a target with these limits a core; `cores_per_chip` is 4."""
    lines = [f'{name}_per_core = {{ value = {value}, source = "x" }}' for name, value in limits.items()]
    shared = FEATURES if shared_kernels else FEATURES.replace("true", "false")
    return parse_target(
        'name = "chip"\n[limits]\ncores_per_chip = { value = 4, source = "x" }\n'
        + "\n".join(lines)
        + f"\n[features]\ngraded_spikes = {FEATURES}\nshared_kernels = {shared}\n"
    )


def network(*populations: Population, shape: tuple[int, ...] = (2,)) -> IntNetwork:
    return IntNetwork(signed_input(*shape), populations, 1)


def placed(of: IntNetwork, target: Target) -> Mapping:
    mapping, errors = map_network(of, target)
    assert errors == []
    return mapping


def slices(mapping: Mapping) -> list[list[tuple[str, int, int]]]:
    return [[(part.population, part.start, part.stop) for part in core.slices] for core in mapping.cores]


def refusals(of: IntNetwork, target: Target) -> list[str]:
    return [str(error) for error in map_network(of, target)[1]]


# --- by hand --------------------------------------------------------------


TWO_LAYERS = network(fire("a", dense("input", np.ones((5, 2))), bias=1), read_out(dense("a", np.ones((3, 5)))))


def test_the_usage_of_a_core_by_hand():
    """`a`: 2 axons of 5 weights, 1 for the bias, 5 autapses. `out`: 5 axons of 3 weights. Each axon takes one word."""
    mapping = placed(TWO_LAYERS, chip(neurons=100))
    assert slices(mapping) == [[("a", 0, 5), ("out", 0, 3)]]
    a, out = (part.usage for part in mapping.cores[0].slices)
    assert a == Usage(neurons=5, synaptic_memory_bytes=8 * 8, input_axons=8, output_axons=10, thresholds=1)
    assert out == Usage(neurons=3, synaptic_memory_bytes=5 * 8, input_axons=5, output_axons=0, thresholds=1)
    assert mapping.cores[0].usage == Usage(8, 104, 13, 10, 2)


def test_a_bias_beyond_eight_bits_has_two_sources():
    one, two = (network(read_out(dense("input", [[1, 1]]), bias=bias)) for bias in (127, 128))
    assert [placed(n, chip(neurons=9)).cores[0].usage.input_axons for n in (one, two)] == [3, 4]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"neurons": 8}, [[("a", 0, 5), ("out", 0, 3)]]),
        ({"neurons": 7}, [[("a", 0, 5)], [("out", 0, 3)]]),
        ({"neurons": 4}, [[("a", 0, 4)], [("a", 4, 5)], [("out", 0, 3)]]),
        ({"neurons": 3}, [[("a", 0, 3)], [("a", 3, 5)], [("out", 0, 3)]]),
        ({"synaptic_memory_bytes": 104}, [[("a", 0, 5), ("out", 0, 3)]]),
        ({"synaptic_memory_bytes": 103}, [[("a", 0, 5)], [("out", 0, 3)]]),
        ({"synaptic_memory_bytes": 63}, [[("a", 0, 4)], [("a", 4, 5)], [("out", 0, 3)]]),
        ({"input_axons": 13}, [[("a", 0, 5), ("out", 0, 3)]]),
        ({"input_axons": 12}, [[("a", 0, 5)], [("out", 0, 3)]]),
        ({"input_axons": 7}, [[("a", 0, 4)], [("a", 4, 5)], [("out", 0, 3)]]),
        ({"output_axons": 10}, [[("a", 0, 5), ("out", 0, 3)]]),
        ({"output_axons": 9}, [[("a", 0, 4)], [("a", 4, 5)], [("out", 0, 3)]]),
        ({"thresholds": 2}, [[("a", 0, 5), ("out", 0, 3)]]),
        ({"thresholds": 1}, [[("a", 0, 5)], [("out", 0, 3)]]),
    ],
)
def test_each_limit_from_both_sides(limits, expected):
    found = slices(placed(TWO_LAYERS, chip(**limits)))
    assert found == expected


def test_a_source_of_several_slices_has_an_output_axon_for_each():
    """`out` is on three cores: each neuron of `a` sends to all of them and to itself."""
    mapping = placed(TWO_LAYERS, chip(neurons=5, synaptic_memory_bytes=64, thresholds=1))
    assert [part.usage.output_axons for core in mapping.cores for part in core.slices] == [10, 0]
    mapping = placed(TWO_LAYERS, chip(neurons=1))
    assert [core.usage.output_axons for core in mapping.cores] == [4] * 5 + [0] * 3


def test_a_convolution_is_cut_along_the_image():
    """3 channels on 4 by 4 places: 12 neurons are the first 4 places, a row, which looks at two rows of the source."""
    first = fire("a", conv("input", np.ones((3, 2, 3, 3)), padding=(1, 1)), shape=(3, 4, 4))
    mapping = placed(
        network(first, read_out(dense("a", np.ones((1, 48)))), shape=(2, 4, 4)), chip(neurons=12, thresholds=1)
    )
    assert slices(mapping) == [[("a", n, n + 12)] for n in (0, 12, 24, 36)] + [[("out", 0, 1)]]
    axons = [core.usage.input_axons for core in mapping.cores]
    assert axons == [2 * 8 + 12, 2 * 12 + 12, 2 * 12 + 12, 2 * 8 + 12, 48]


def test_several_synapses_add_up():
    """A residual add: both synapses have their axons, and both sources an axon to the core."""
    first = fire("a", dense("input", np.ones((4, 2))))
    second = fire("b", dense("a", np.ones((4, 4))))
    third = read_out(dense("b", np.ones((1, 4))), dense("a", np.ones((1, 4))))
    mapping = placed(network(first, second, third), chip(neurons=4, thresholds=1))
    assert [core.usage.input_axons for core in mapping.cores] == [2 + 4, 4 + 4, 8]
    assert [core.usage.output_axons for core in mapping.cores] == [4 * 3, 4 * 2, 0]


def test_a_skip_takes_memory_for_its_delays():
    """An axon of 4 weights takes a word, and with 6 bits of delay each two; the input passes by `a`, `b` by nothing."""
    first = fire("a", dense("input", np.ones((4, 2))))
    one, skipping = (
        network(first, read_out(dense("a", np.full((4, 4), 127)), dense(source, np.full((4, n), 127))), shape=(2,))
        for source, n in (("a", 4), ("input", 2))
    )
    memory = [placed(of, chip(neurons=4, thresholds=1)).cores[1].usage.synaptic_memory_bytes for of in (one, skipping)]
    assert memory == [8 * (4 + 4), 8 * (4 + 2 * 2)]


def test_what_is_left_of_the_last_core_takes_a_population_that_fits_whole():
    """`b` ends with one neuron on its second core; `a` joins it there."""
    first = fire("a", dense("input", np.ones((2, 2))))
    second = fire("b", dense("a", np.ones((6, 2))))
    mapping = placed(network(first, second, read_out(dense("b", np.ones((5, 6))))), chip(neurons=5))
    assert slices(mapping) == [[("a", 0, 2), ("b", 5, 6)], [("b", 0, 5)], [("out", 0, 5)]]


# --- laws -----------------------------------------------------------------


@given(seeds, st.integers(1, 40), st.integers(200, 6000), st.integers(60, 400), st.integers(20, 400), st.integers(1, 3))
def test_every_neuron_lies_on_one_core_and_no_core_is_overfull(seed, neurons, memory, axons_in, axons_out, thresholds):
    target = chip(
        neurons=neurons,
        synaptic_memory_bytes=memory,
        input_axons=axons_in,
        output_axons=axons_out,
        thresholds=thresholds,
    )
    of = random_network(seed)
    mapping, errors = map_network(of, target)
    for core in mapping.cores:
        assert all(
            used <= limit for used, limit in zip(vars(core.usage).values(), capacity(target).values(), strict=True)
        )
    if errors:
        return
    for population in of.populations:
        parts = [part for core in mapping.cores for part in core.slices if part.population == population.name]
        assert [parts[0].start, parts[-1].stop] == [0, population.n_neurons]
        assert all(one.stop == other.start for one, other in pairwise(sorted(parts, key=lambda part: part.start)))
    assert mapping == map_network(of, target)[0]


@given(seeds)
def test_a_network_of_one_core_has_one_input_axon_for_each_source(seed):
    """Output axons: each firing neuron sends to the next population and to itself."""
    of = random_network(seed, conv=False)
    (core,) = placed(of, chip(neurons=10**6)).cores
    sources = sum(synapse.weight.shape[1] for population in of.populations for synapse in population.synapses)
    biases = sum((abs(p.bias).max() > 0).astype(int) + (abs(p.bias).max() > 127) for p in of.populations)
    firing = sum(population.n_neurons for population in of.populations[:-1])
    assert core.usage.input_axons == sources + biases + firing
    assert core.usage.output_axons == 2 * firing


# --- too large ------------------------------------------------------------


def test_populations_of_which_no_neuron_fits_are_all_named():
    hint = "\nhint: make the layers narrower, or use --target lava to simulate only"
    wide = network(
        fire("a", dense("input", np.ones((5, 9)))),
        fire("b", dense("a", np.ones((2, 5)))),
        read_out(dense("b", [[1, 1]])),
        shape=(9,),
    )
    assert refusals(wide, chip(input_axons=5, synaptic_memory_bytes=40)) == [
        f"population `a`: one neuron needs 80 synaptic memory bytes, a core of `chip` has 40{hint}",
        f"population `a`: one neuron needs 10 input axons, a core of `chip` has 5{hint}",
        f"population `b`: one neuron needs 48 synaptic memory bytes, a core of `chip` has 40{hint}",
        f"population `b`: one neuron needs 6 input axons, a core of `chip` has 5{hint}",
    ]
    assert refusals(wide, chip(input_axons=10, synaptic_memory_bytes=80)) == []


def test_chips_are_filled_one_after_the_other():
    def chips(n_neurons: int) -> int:
        return placed(network(read_out(dense("input", np.ones((n_neurons, 2))))), chip(neurons=10)).chips

    assert [chips(n) for n in (1, 40, 41, 80, 81)] == [1, 1, 2, 2, 3]


def test_a_target_without_limits_has_no_cores():
    mapping = placed(TWO_LAYERS, find_target("lava"))
    assert (mapping.cores, mapping.chips) == ((), 0)


def test_cores_of_a_population():
    mapping = placed(TWO_LAYERS, chip(neurons=4))
    assert [mapping.cores_of(name) for name in ("a", "out")] == [2, 1]


# --- size -----------------------------------------------------------------


def vgg16() -> IntNetwork:
    """Return a network of the shapes of VGG-16 for 32 by 32 images; pooling is folded into the next convolution."""
    rng = np.random.default_rng(0)
    populations, shape, source = [], (3, 32, 32), "input"
    plan = [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)]
    for number, (channels, stride) in enumerate([*plan, (512, 2), (512, 1), (512, 1), (512, 2), (512, 1), (512, 1)]):
        kernel = 3 if stride == 1 else 4  # a 3 by 3 kernel behind 2 by 2 pooling
        weight = rng.integers(-127, 128, (channels, shape[0], kernel, kernel), np.int32)
        synapse = conv(source, weight, stride=(stride, stride), padding=(1, 1))
        source, shape = f"conv{number}", synapse.output_shape(shape)
        populations.append(fire(source, synapse, threshold=64, initial=32, bias=200, shape=shape))
    populations.append(read_out(dense(source, rng.integers(-127, 128, (10, int(np.prod(shape))), np.int32))))
    return network(*populations, shape=(3, 32, 32))


def test_a_network_of_the_size_of_vgg16_is_placed_in_seconds():
    of = vgg16()
    assert sum(population.synapses[0].weight.size for population in of.populations) > 15_000_000
    start = time.perf_counter()
    mapping = placed(of, find_target("loihi2"))
    assert time.perf_counter() - start < 30  # 2.5 s on one core when this was written
    assert (len(mapping.cores), mapping.chips) == (3022, 26)
    assert mapping.cores_of("conv0") == 27


def test_lowering_maps():
    of = random_network(5)
    target = find_target("loihi2")
    assert lower(of, target).mapping == map_network(of, target)[0]
