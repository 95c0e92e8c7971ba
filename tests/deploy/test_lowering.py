"""Lowering: a network that fits keeps its meaning; every limit is tried from both sides."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from nctool.errors import RangeError, UsageError
from nctool.ir.network import Bound, InputEncoding, IntNetwork, Population, RateEncoding, Synapse
from nctool_deploy.backends.autapse import Autapse
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from tests.support.networks import conv, dense, fire, random_network, read_out, seeds, signed_input
from tests.support.refusals import refused

LOIHI, LAVA = find_target("loihi"), find_target("lava")
FITS = Bound("proved", -100, 100)


def chain(*populations: Population, shape: tuple[int, ...] = (2,)) -> IntNetwork:
    """Return a network whose populations state a small bound."""
    return IntNetwork(signed_input(*shape), tuple(replace(p, bound=FITS) for p in populations), 1)


def with_weight(*weights: int) -> IntNetwork:
    return chain(read_out(dense("input", [weights])))


def hidden(**options: object) -> IntNetwork:
    return chain(fire("a", dense("input", [[1, 1], [1, 1]]), **options), read_out(dense("a", [[1, 1]])))


def with_bound(low: int, high: int) -> IntNetwork:
    network = with_weight(1, 1)
    return replace(network, populations=(replace(network.readout, bound=Bound("proved", low, high)),))


def image(synapse: Synapse, source: tuple[int, int, int]) -> IntNetwork:
    shape = synapse.output_shape(source)
    out = read_out(dense("c", np.ones((1, int(np.prod(shape))))))
    return chain(fire("c", synapse, shape=shape), out, shape=source)


def grouped(groups: int) -> IntNetwork:
    return image(conv("input", np.ones((groups, 1, 1, 1)), groups=groups), (groups, 1, 1))


def kernel(size: int) -> IntNetwork:
    return image(conv("input", np.ones((1, 1, 1, size))), (1, 1, size))


def geometry(**options: tuple[int, int]) -> IntNetwork:
    return image(conv("input", np.ones((1, 1, 1, 1)), **options), (1, 1, 1))


def summing(n_weights: int, last: int) -> IntNetwork:
    """Return a convolution of graded input ±128 that sums n_weights times 127 and `last`."""
    weight = np.array([127] * n_weights + [last]).reshape(1, -1, 1, 1)
    return image(conv("input", weight), (n_weights + 1, 1, 1))


def refusal(network: IntNetwork, target: str = "lava", backend: str = "autapse") -> str:
    return str(refused(RangeError, lower, network, find_target(target), backend))


# --- what fits ----------------------------------------------------------


@given(seeds)
def test_a_network_that_fits_is_kept_and_gets_registers(seed):
    network = random_network(seed)
    lowered = lower(network, LOIHI)
    assert lowered.network is network
    assert (lowered.target, lowered.backend) == (LOIHI, "autapse")
    assert lowered.registers == tuple(Autapse().registers(p) for p in network.populations)
    assert lowered == lower(network, LOIHI)


AT_THE_LIMIT = {
    "weights": with_weight(-128, 127),
    "upper bound": with_bound(0, 131071),
    "lower bound": with_bound(-131071, 0),
    "initial": hidden(threshold=4, initial=3),
    "threshold": hidden(threshold=127 * 128, initial=127 * 64),
    "bias": hidden(bias=[16320, -16320]),
}


@pytest.mark.parametrize("network", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_a_number_at_its_limit_fits(network):
    assert lower(network, LAVA).network == network


BITS = "use --weight-bits 8"
STATE = "use fewer --steps or fewer --weight-bits"
ROUNDED = "convert with nctool, which rounds weights to that form"
BEYOND = {
    "weight": (
        with_weight(0, 128),
        f"population `out`: weight 128 does not fit signed 8 bit, allowed -128..127\nhint: {BITS}",
    ),
    "negative weight": (
        with_weight(-129, 0),
        f"population `out`: weight -129 does not fit signed 8 bit, allowed -128..127\nhint: {BITS}",
    ),
    "equal weights": (
        with_weight(200, 200),
        f"population `out`: weight 200 does not fit signed 8 bit, allowed -128..127\nhint: {BITS}",
    ),
    "both weights": (
        with_weight(-129, 128),
        "population `out`: weight -129 does not fit signed 8 bit, allowed -128..127\n"
        f"population `out`: weight 128 does not fit signed 8 bit, allowed -128..127\nhint: {BITS}",
    ),
    "exponent": (
        chain(read_out(dense("input", [[1, 1]], exponent=8))),
        f"population `out`: weight exponent is 8, allowed 0..7\nhint: {ROUNDED}",
    ),
    "upper bound": (
        with_bound(-3, 131072),
        f"population `out`: accumulated input reaches -3..131072, allowed -131071..131071\nhint: {STATE}",
    ),
    "lower bound": (
        with_bound(-131072, 7),
        f"population `out`: accumulated input reaches -131072..7, allowed -131071..131071\nhint: {STATE}",
    ),
    "no bound": (
        replace(with_weight(1, 1), populations=(read_out(dense("input", [[1, 1]])),)),
        "population `out`: the range of its accumulated input is not known\nhint: convert with nctool",
    ),
    "reset": (hidden(reset="zero"), "population `a`: reset is `zero`, the autapse allows `subtract`"),
    "initial": (
        hidden(threshold=4, initial=[3, 4]),
        "population `a`: an initial potential reaches its threshold, allowed below it",
    ),
    "threshold": (
        hidden(threshold=128 * 128, initial=64 * 128),
        "population `a`: threshold 16384 is no synaptic weight m * 2**e with one e <= 7 for the layer, "
        "allowed m 1..127 (here e = 7)\nhint: convert with nctool, which rounds thresholds to that form",
    ),
    "bias": (
        hidden(bias=[0, 16321]),
        "population `a`: bias 16321 does not fit two always-on sources, allowed -16320..16320\n"
        "hint: use fewer --weight-bits, which lowers the biases",
    ),
}


@pytest.mark.parametrize(("network", "text"), BEYOND.values(), ids=BEYOND)
def test_a_number_beyond_its_limit_is_refused(network, text):
    assert refusal(network) == text


# --- convolutions -------------------------------------------------------


FITS_CONV = {
    "groups": grouped(127),
    "more groups": grouped(128),
    "kernel": kernel(127),
    "padding": geometry(padding=(127, 0)),
    "stride": geometry(stride=(1, 127)),
    "dilation": geometry(dilation=(127, 127)),
    "sum": summing(516, 3),  # 128 · (516 · 127 + 3) = 8388480
}
EIGHT_BITS = "or geometry exceed what Lava's Conv holds in 8 bits, allowed up to 127"
SMALLER = "use a smaller kernel, stride, padding or dilation, or use --backend autapse"
BEYOND_CONV = {
    "kernel": (kernel(128), f"population `c`: groups 1, kernel (1, 128) {EIGHT_BITS}\nhint: {SMALLER}"),
    "padding": (geometry(padding=(128, 0)), f"population `c`: groups 1, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}"),
    "stride": (geometry(stride=(1, 128)), f"population `c`: groups 1, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}"),
    "dilation": (
        geometry(dilation=(128, 1)),
        f"population `c`: groups 1, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}",
    ),
    "input dilation": (
        geometry(input_dilation=(1, 2)),
        "population `c`: reads an enlarged image (input dilation (1, 2)), Lava's Conv knows none\n"
        "hint: use --backend autapse",
    ),
    "sum": (
        summing(516, 4),  # 128 · (516 · 127 + 4)
        "population `c`: a convolution may sum to 8388608, Lava's Conv clamps at 8388607\n"
        "hint: use fewer --weight-bits, or --backend autapse",
    ),
}


@pytest.mark.parametrize("network", FITS_CONV.values(), ids=FITS_CONV)
def test_a_convolution_at_the_limits_of_conv_fits_stock_netx(network):
    assert lower(network, LAVA, "population").backend == "population"


@pytest.mark.parametrize(("network", "text"), BEYOND_CONV.values(), ids=BEYOND_CONV)
def test_a_convolution_beyond_conv_is_refused_in_stock_netx_only(network, text):
    assert refusal(network, backend="population") == text
    assert lower(network, LAVA, "autapse").network is network


def test_a_convolution_of_spikes_is_not_multiplied_by_the_input():
    synapse = conv("a", np.full((1, 600, 1, 1), 127))
    first = fire("a", conv("input", np.ones((600, 1, 1, 1))), shape=(600, 1, 1))
    network = chain(first, fire("c", synapse, shape=(1, 1, 1)), read_out(dense("c", [[1]])), shape=(1, 1, 1))
    assert lower(network, LAVA, "population").backend == "population"


# --- several violations -------------------------------------------------


def test_all_violations_are_listed_with_each_hint_once():
    network = chain(
        fire("a", dense("input", [[128, 1], [1, 1]]), bias=[16321, 0]),
        fire("b", dense("a", [[-129, 1]], exponent=9), reset="zero"),
        read_out(dense("b", [[1]])),
    )
    assert refusal(network) == (
        "population `a`: weight 128 does not fit signed 8 bit, allowed -128..127\n"
        "population `a`: bias 16321 does not fit two always-on sources, allowed -16320..16320\n"
        "population `b`: weight -129 does not fit signed 8 bit, allowed -128..127\n"
        "population `b`: weight exponent is 9, allowed 0..7\n"
        "population `b`: reset is `zero`, the autapse allows `subtract`\n"
        "hint: use --weight-bits 8; use fewer --weight-bits, which lowers the biases; convert with "
        "nctool, which rounds weights to that form"
    )


def test_every_violation_of_one_population_is_listed():
    """The second check does not wait until the first is mended."""
    synapse = dense("input", [[128, -129], [1, 1]], exponent=8)
    bad = fire("a", synapse, bias=[16321, 0], threshold=[129, 8500], initial=[129, 0], reset="zero")
    network = chain(bad, read_out(dense("a", [[1, 1]])))
    network = replace(network, populations=(replace(network.populations[0], bound=None), network.readout))
    assert refusal(network) == (
        "population `a`: weight -129 does not fit signed 8 bit, allowed -128..127\n"
        "population `a`: weight 128 does not fit signed 8 bit, allowed -128..127\n"
        "population `a`: weight exponent is 8, allowed 0..7\n"
        "population `a`: the range of its accumulated input is not known\n"
        "population `a`: bias 16321 does not fit two always-on sources, allowed -16320..16320\n"
        "population `a`: reset is `zero`, the autapse allows `subtract`\n"
        "population `a`: an initial potential reaches its threshold, allowed below it\n"
        "population `a`: threshold 129 is no synaptic weight m * 2**e with one e <= 7 for the layer, "
        "allowed m 1..127 (here e = 7)\n"
        "population `a`: thresholds spread over 0..8500 above the initial potential need bias mantissas -4250..4250, "
        "allowed -4096..4095\n"
        f"hint: {BITS}; {ROUNDED}; convert with nctool; use fewer --weight-bits, which lowers the biases; "
        "convert with nctool, which rounds thresholds to that form; use fewer --weight-bits, which lowers the "
        "thresholds"
    )


def test_the_violations_of_many_populations_are_all_listed():
    names = ["input", *(f"p{number}" for number in range(20))]
    bad = [fire(name, dense(source, [[128] * (1 + (source == "input"))])) for source, name in pairwise(names)]
    listed = "\n".join(
        f"population `p{number}`: weight 128 does not fit signed 8 bit, allowed -128..127" for number in range(20)
    )
    assert refusal(chain(*bad, read_out(dense(names[-1], [[1]])))) == f"{listed}\nhint: {BITS}"


# --- the graph ----------------------------------------------------------


def ladder(n_layers: int, *synapses: Synapse) -> IntNetwork:
    """Return a readout of `synapses` and of a chain of layers of one neuron, `p0`, `p1`, ..."""
    names = ["input", *(f"p{number}" for number in range(n_layers))]
    layers = [fire(name, dense(source, [[1]])) for source, name in pairwise(names)]
    return chain(*layers, read_out(dense(names[-1], [[1]]), *synapses), shape=(1,))


@pytest.mark.parametrize(
    "network",
    [
        chain(fire("a", dense("input", [[1, 1]])), read_out(dense("a", [[1]]), dense("input", [[1, 1]], exponent=7))),
        chain(fire("a", dense("input", [[1, 1]])), read_out(dense("a", [[1]]), dense("a", [[127]], exponent=7))),
        chain(fire("a", dense("input", [[1, 1]])), read_out(dense("input", [[1, 1]]))),
        ladder(62, dense("input", [[1]])),
        ladder(63, dense("p0", [[1]])),
    ],
)
def test_any_graph_without_a_cycle_is_lowered(network):
    assert lower(network, LAVA).network is network


def test_a_skip_over_more_layers_than_there_are_delays_is_refused():
    network = ladder(64, dense("p62", [[1]]), dense("p0", [[1]]), dense("input", [[1]]))
    assert refusal(network) == (
        "population `out`, branch 3 from `p0`: passes by 63 layers, each a time step of delay, allowed up to 62\n"
        "population `out`, branch 4 from `input`: passes by 64 layers, each a time step of delay, allowed up to 62\n"
        "hint: let the skip begin in a later layer or end in an earlier one"
    )


def test_every_branch_is_checked_and_named():
    first = fire("a", conv("input", np.ones((2, 1, 1, 1))), shape=(2, 2, 2))
    sum_of = (
        replace(conv("a", np.full((600, 2, 1, 1), 127)), exponent=8),
        conv("a", [[[[200]], [[1]]]] * 600),
        conv("input", np.full((600, 1, 1, 1), -129), groups=1),
        replace(conv("a", np.full((600, 2, 2, 2), 127), padding=(1, 1), dilation=(2, 2)), exponent=16),
    )
    second = fire("b", *sum_of, shape=(600, 2, 2), bias=16321)
    network = chain(first, second, read_out(dense("b", np.ones((1, 2400)))), shape=(1, 2, 2))
    assert refusal(network) == (
        "population `b`, branch 1 from `a`: weight exponent is 8, allowed 0..7\n"
        "population `b`, branch 2 from `a`: weight 200 does not fit signed 8 bit, allowed -128..127\n"
        "population `b`, branch 3 from `input`: weight -129 does not fit signed 8 bit, allowed -128..127\n"
        "population `b`, branch 4 from `a`: weight exponent is 16, allowed 0..7\n"
        "population `b`: bias 16321 does not fit two always-on sources, allowed -16320..16320\n"
        f"hint: {ROUNDED}; {BITS}; use fewer --weight-bits, which lowers the biases"
    )


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError) as caught:
        lower(with_weight(1, 1), LAVA, "x")
    assert str(caught.value).splitlines()[0] == "unknown backend `x`, allowed autapse, population, zero-reset, graded"


# --- cores --------------------------------------------------------------


def wide(n_neurons: int, n_inputs: int = 1) -> IntNetwork:
    weight = np.full((n_neurons, n_inputs), 127)
    return chain(read_out(dense("input", weight)), shape=(n_inputs,))


@pytest.mark.parametrize(
    ("network", "cores"),
    [
        (wide(1), 1),
        (wide(8192), 1),
        (wide(8193), 2),
        (wide(174, 1024), 1),  # 1024 axons of 24 words: 192 KiB
        (wide(175, 1024), 2),
        (hidden(), 1),
    ],
)
def test_cores_by_neurons_and_by_memory(network, cores):
    assert lower(network, LOIHI).cores == cores
    assert lower(network, LAVA).cores == 0


def cores_of(n_cores: int) -> IntNetwork:
    return wide(8192 * (n_cores - 1) + 1)


def test_as_many_cores_as_the_chip_has_fit():
    assert lower(cores_of(120), LOIHI).cores == 120


def test_one_core_more_needs_a_second_chip_and_is_simulated():
    assert refusal(cores_of(121), "loihi") == (
        "network: needs 121 cores, 2 chips of `loihi2` with 120 cores each, allowed 1\n"
        "hint: use --chips 2, make the layers narrower, or use --target lava to simulate only"
    )
    assert lower(cores_of(121), LAVA).cores == 0


def test_more_chips_are_taken_when_they_are_allowed():
    for chips in (2, 3, None):
        lowered = lower(cores_of(121), LOIHI, chips=chips)
        assert (lowered.cores, lowered.mapping.chips) == (121, 2)


def test_what_is_too_large_is_listed_with_the_numbers_that_do_not_fit():
    assert refusal(replace(cores_of(121), populations=(replace(cores_of(121).readout, bound=None),)), "loihi") == (
        "population `out`: the range of its accumulated input is not known\n"
        "network: needs 121 cores, 2 chips of `loihi2` with 120 cores each, allowed 1\n"
        "hint: convert with nctool; use --chips 2, make the layers narrower, or use --target lava to "
        "simulate only"
    )


def test_a_large_input_table_does_not_count():
    encoding = InputEncoding((2,), np.zeros((2, 256), np.int8))
    assert lower(replace(with_weight(1, 1), input=encoding), LOIHI).cores == 1


def test_spikes_of_one_bit_sum_to_no_more_than_the_weights():
    graded = summing(516, 4)
    encoding = RateEncoding(graded.input.shape, np.ones((graded.input.shape[0], 256), np.int16), 1)
    assert lower(replace(graded, input=encoding), LAVA, "population").network.has_binary_input


def test_a_number_out_of_range_is_a_range_error():
    with pytest.raises(RangeError):
        lower(with_weight(0, 128), LAVA)
