"""IntNetwork: what it refuses (rules N1 to N3), what it counts, when two are equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from nctool.errors import RangeError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.network import Bound, ConvGeometry, InputEncoding, IntNetwork, Population, Readout, Synapse
from nctool.reference.simulate import simulate
from tests.support.networks import conv, dense, fire, random_network, random_pixels, read_out, seeds, signed_input

HIDDEN = fire("hidden", dense("input", [[1, 2]]))
OUT = read_out(dense("hidden", [[1]]))
IMAGE = signed_input(2, 4, 4)
KERNEL = np.ones((2, 2, 3, 3), int)


def chain(*populations: Population, encoding: InputEncoding | None = None, n_steps: int = 1) -> IntNetwork:
    return IntNetwork(signed_input(2) if encoding is None else encoding, populations, n_steps)


def conv_chain(synapse: Synapse, shape: tuple[int, ...] = (2, 2, 2)) -> IntNetwork:
    hidden = fire("c", synapse, shape=shape)
    return chain(hidden, read_out(dense("c", np.ones((1, int(np.prod(shape)))))), encoding=IMAGE)


def with_weight(weight: np.ndarray, exponent: int = 0) -> IntNetwork:
    return chain(replace(OUT, synapses=(Synapse("input", weight, exponent),)))


def test_N3_a_drive_that_int64_could_not_hold_is_refused():
    """A sum of magnitude 2**32 times 2**7 for the input and 2**exponent: 2**53 is one exponent too far."""
    weight = np.full((1, 2), 2**30)

    def network(exponent: int) -> IntNetwork:
        hidden = fire("a", Synapse("input", weight, exponent))
        return IntNetwork(signed_input(2), (hidden, read_out(dense("a", [[1]]))), 1)

    network(14)
    with pytest.raises(RangeError) as caught:
        network(15)
    assert str(caught.value) == "population `a`: possible drive of one step is 9.01e+15, allowed below 2**53"


def test_a_sound_chain_is_accepted():
    network = chain(HIDDEN, OUT)
    assert network.shapes == {"input": (2,), "hidden": (1,), "out": (1,)}
    assert network.readout is OUT


@pytest.mark.parametrize(
    ("build", "text"),
    [
        # N1: the graph
        (chain, "network: number of populations is 0, allowed >= 1"),
        (lambda: chain(OUT, n_steps=0), "network: n_steps is 0, allowed >= 1"),
        (lambda: chain(HIDDEN), "network: readouts is [], allowed one, the last population"),
        (
            lambda: chain(replace(OUT, name="a", synapses=(dense("input", [[1, 1]]),)), HIDDEN),
            "network: readouts is ['a'], allowed one, the last population",
        ),
        (
            lambda: chain(replace(OUT, name="a", synapses=(dense("input", [[1, 1]]),)), HIDDEN, OUT),
            "network: readouts is ['a', 'out'], allowed one, the last population",
        ),
        (
            lambda: chain(HIDDEN, HIDDEN, OUT),
            "population `hidden`: name is hidden, allowed a name not used before",
        ),
        (
            lambda: chain(replace(HIDDEN, name="input"), OUT),
            "population `input`: name is input, allowed a name not used before",
        ),
        (lambda: chain(OUT), "population `out`: source is hidden, allowed a population that stands before it"),
        (
            lambda: chain(fire("a", dense("a", [[1]])), OUT),
            "population `a`: source is a, allowed a population that stands before it",
        ),
        (
            lambda: chain(replace(HIDDEN, synapses=()), OUT),
            "population `hidden`: number of synapses is 0, allowed >= 1",
        ),
        # shapes
        (
            lambda: chain(replace(HIDDEN, shape=())),
            "population `hidden`: shape is (), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
        (
            lambda: chain(replace(HIDDEN, shape=(1, 1))),
            "population `hidden`: shape is (1, 1), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
        (
            lambda: chain(replace(HIDDEN, shape=(1, 0, 1))),
            "population `hidden`: shape is (1, 0, 1), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
        (
            lambda: chain(HIDDEN, OUT, encoding=replace(signed_input(2), shape=())),
            "input: shape is (), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
        (
            lambda: chain(HIDDEN, OUT, encoding=signed_input(2, 1)),
            "input: shape is (2, 1), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
        (
            lambda: chain(HIDDEN, OUT, encoding=InputEncoding((2,), np.zeros((1, 256), np.int8))),
            "input: table is int8 (1, 256), allowed int8 (2, 256)",
        ),
        (
            lambda: chain(HIDDEN, OUT, encoding=InputEncoding((2,), np.zeros((2, 256), np.int16))),
            "input: table is int16 (2, 256), allowed int8 (2, 256)",
        ),
        (
            lambda: chain(replace(HIDDEN, bias=np.zeros(2, int))),
            "population `hidden`: bias shape is (2,), allowed (1,)",
        ),
        (
            lambda: chain(replace(HIDDEN, neuron=replace(HIDDEN.neuron, threshold=np.ones((1, 1), int)))),
            "population `hidden`: threshold shape is (1, 1), allowed (1,)",
        ),
        (
            lambda: chain(replace(HIDDEN, neuron=replace(HIDDEN.neuron, initial=np.zeros(3, int)))),
            "population `hidden`: initial potential shape is (3,), allowed (1,)",
        ),
        (
            lambda: chain(replace(HIDDEN, shape=(2,), bias=np.zeros(2, int), neuron=Readout(1.0))),
            "population `hidden`: shape driven by `input` is (1,), allowed (2,)",
        ),
        # synapses
        (lambda: with_weight(np.array(1)), "population `out`: dense weight is (), allowed 2 axes"),
        (lambda: with_weight(np.ones(2, int)), "population `out`: dense weight is (2,), allowed 2 axes"),
        (lambda: with_weight(np.ones((1, 3), int)), "population `out`: weight shape is (1, 3), allowed (1, 2)"),
        (lambda: with_weight(np.ones((1, 2))), "population `out`: weight type is float64, allowed signed integers"),
        (
            lambda: with_weight(np.ones((1, 2), np.uint8)),
            "population `out`: weight type is uint8, allowed signed integers",
        ),
        (lambda: with_weight(np.ones((1, 2), int), -1), "population `out`: weight exponent is -1, allowed 0..16"),
        (lambda: with_weight(np.ones((1, 2), int), 17), "population `out`: weight exponent is 17, allowed 0..16"),
        (
            lambda: chain(fire("c", conv("input", KERNEL)), OUT),
            "population `c`: conv weight is (2, 2, 3, 3), allowed 4 axes of sizes >= 1 on a 3-axis source",
        ),
        (
            lambda: conv_chain(conv("input", np.ones((2, 2, 3)))),
            "population `c`: conv weight is (2, 2, 3), allowed 4 axes of sizes >= 1 on a 3-axis source",
        ),
        (
            lambda: conv_chain(conv("input", np.ones((2, 2, 0, 3)))),
            "population `c`: conv weight is (2, 2, 0, 3), allowed 4 axes of sizes >= 1 on a 3-axis source",
        ),
        (
            lambda: conv_chain(conv("input", KERNEL, stride=(0, 1))),
            "population `c`: convolution is ConvGeometry(stride=(0, 1), padding=(0, 0), dilation=(1, 1), groups=1), "
            "allowed stride, dilation, groups >= 1, padding >= 0",
        ),
        (
            lambda: conv_chain(conv("input", KERNEL, padding=(0, -1))),
            "population `c`: convolution is ConvGeometry(stride=(1, 1), padding=(0, -1), dilation=(1, 1), groups=1), "
            "allowed stride, dilation, groups >= 1, padding >= 0",
        ),
        (
            lambda: conv_chain(conv("input", np.ones((3, 1, 3, 3)), groups=2), (3, 2, 2)),
            "population `c`: groups is 2, allowed a divisor of 2 and 3",
        ),
        (
            lambda: conv_chain(conv("input", KERNEL, groups=2)),
            "population `c`: weight shape is (2, 2, 3, 3), allowed (2, 1, 3, 3)",
        ),
        (
            lambda: conv_chain(conv("input", np.ones((2, 2, 5, 3)))),
            "population `c`: shape driven by `input` is (2, 0, 2), allowed (2, 2, 2)",
        ),
        # N3: ranges
        (
            lambda: with_weight(np.array([[2**31, 0]])),
            "population `out`: weight is 2147483648, allowed magnitudes below 2**31",
        ),
        (
            lambda: with_weight(np.array([[-(2**31), 0]])),
            "population `out`: weight is 2147483648, allowed magnitudes below 2**31",
        ),
        (
            lambda: chain(replace(HIDDEN, bias=np.array([2**31]))),
            "population `hidden`: bias is 2147483648, allowed magnitudes below 2**31",
        ),
        (
            lambda: chain(fire("a", dense("input", [[1, 1]]), threshold=0)),
            "population `a`: threshold is 0, allowed >= 1",
        ),
        (
            lambda: chain(fire("a", dense("input", [[1, 1]]), threshold=2**31)),
            "population `a`: threshold is 2147483648, allowed magnitudes below 2**31",
        ),
        (
            lambda: chain(fire("a", dense("input", [[1, 1]]), initial=-(2**31))),
            "population `a`: initial potential is 2147483648, allowed magnitudes below 2**31",
        ),
        (
            lambda: chain(fire("a", dense("input", [[1, 1]]), reset="never")),
            "population `a`: reset is never, allowed subtract, zero",
        ),
        (
            lambda: chain(read_out(dense("input", [[1, 1]]), scale=0.0)),
            "population `out`: scale is 0.0, allowed a positive number",
        ),
        (
            lambda: chain(read_out(dense("input", [[1, 1]]), scale=float("nan"))),
            "population `out`: scale is nan, allowed a positive number",
        ),
        (
            lambda: chain(read_out(dense("input", [[1, 1]]), scale=float("inf"))),
            "population `out`: scale is inf, allowed a positive number",
        ),
    ],
)
def test_a_broken_rule_is_named(build, text):
    with pytest.raises(RangeError) as caught:
        build()
    assert str(caught.value) == text


def test_N3_the_largest_magnitudes_are_accepted():
    weight = np.array([[2**31 - 1, -(2**31 - 1)]])
    hidden = fire("a", Synapse("input", weight, 14), threshold=2**31 - 1, initial=-(2**31 - 1), bias=2**31 - 1)
    assert chain(hidden, read_out(dense("a", [[1]]))).populations[0].synapses[0].exponent == 14


def test_output_size_counts_whole_windows():
    geometry = ConvGeometry(stride=(2, 3), padding=(1, 0), dilation=(2, 1))
    assert geometry.output_size((1, 8, 10), (3, 4)) == (3, 3)  # (8 + 2 - 5) // 2 + 1, (10 - 4) // 3 + 1


def test_connections_are_out_neurons_times_fan_in():
    network = conv_chain(conv("input", np.ones((2, 1, 3, 3)), groups=2, padding=(1, 1)), (2, 4, 4))
    assert network.populations[0].n_neurons == 32
    assert [network.synapse_count(p) for p in network.populations] == [32 * 9, 32]


def test_connections_of_all_synapses_are_counted():
    out = read_out(dense("hidden", [[1]]), dense("input", [[1, 1]]))
    assert chain(HIDDEN, out).synapse_count(out) == 3


def test_per_neuron_spreads_channels():
    hidden = fire("a", conv("input", np.ones((2, 2, 3, 4))), shape=(2, 2, 1))
    np.testing.assert_array_equal(hidden.per_neuron(np.array([5, -7])), [[[5], [5]], [[-7], [-7]]])


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 131071, 0.0), (-131071, 5, 0.0), (-10, 131071 // 2, 1.0), (0, 0, np.log2(131071))]
)
def test_head_room_is_the_number_of_doublings(low, high, bits):
    assert replace(OUT, bound=Bound("proved", low, high)).head_room_bits == pytest.approx(bits, abs=1e-4)
    assert OUT.head_room_bits is None


def test_encode_looks_up_pixels_per_channel():
    """Rule I1."""
    table = np.zeros((2, 256), np.int8)
    table[0, [0, 7, 255]], table[1, [0, 7, 255]] = (-128, 3, 127), (1, 2, -1)
    pixels = np.array([[[[0, 7]], [[255, 0]]]], np.uint8)
    encoded = InputEncoding((2, 1, 2), table).encode(pixels)
    assert encoded.dtype == np.int8
    np.testing.assert_array_equal(encoded, [[[[-128, 3]], [[-1, 1]]]])


@pytest.mark.parametrize(
    ("pixels", "got"), [(np.zeros((3, 2)), "float64 (2,)"), (np.zeros((3, 2, 1), np.uint8), "uint8 (2, 1)")]
)
def test_encode_refuses_other_pixels(pixels, got):
    with pytest.raises(RangeError) as caught:
        signed_input(2).encode(pixels)
    assert str(caught.value) == (
        f"input: got {got} per sample, allowed uint8 (2,)\n"
        "hint: give the data set that the network was trained on, as pixels 0..255"
    )


@given(seeds)
def test_networks_of_one_seed_are_equal_and_of_changed_parts_not(seed):
    one, other = random_network(seed), random_network(seed)
    assert one == other
    last = one.readout
    changes = (
        {"bias": last.bias + 1},
        {"bias": last.bias.astype(np.int32)},
        {"neuron": Readout(0.25)},
        {"bound": None},
        {"synapses": (replace(last.synapses[0], weight=last.synapses[0].weight[:, ::-1] + 1),)},
    )
    for change in changes:
        assert one != replace(one, populations=(*one.populations[:-1], replace(last, **change)))
    assert one != replace(one, n_steps=one.n_steps + 1)
    assert one != replace(one, input=replace(one.input, table=one.input.table ^ 1))


def test_traces_are_compared_by_content():
    network = random_network(3)
    pixels = random_pixels(network, 2)
    one, other = (simulate(network, pixels, potentials=True) for _ in range(2))
    assert one == other
    name = network.populations[0].name
    assert one != replace(other, spikes={**other.spikes, name: ~other.spikes[name]})
    assert one != replace(other, potentials={})


def test_objects_with_arrays_equal_no_other_type_and_have_no_hash():
    assert HIDDEN != 1
    assert StructuralEquality.__hash__ is None
    with pytest.raises(TypeError):
        hash(HIDDEN)
