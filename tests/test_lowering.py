"""Lowering: a network that fits keeps its meaning; every limit is tried from both sides."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from nctool.errors import NctoolError, RangeError, UnsupportedError, UsageError
from nctool.network import Bound, InputEncoding, IntNetwork, Population, Synapse
from nctool_deploy.autapse import registers
from nctool_deploy.lowering import lower
from nctool_deploy.targets import ALIASES, TARGETS, find_target
from tests.networks import conv, dense, fire, random_network, read_out, seeds, signed_input

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


def refusal(network: IntNetwork, target: str = "lava") -> str:
    with pytest.raises(NctoolError) as caught:
        lower(network, find_target(target))
    assert caught.value.exit_code == 3
    return str(caught.value)


# --- what fits ----------------------------------------------------------


@given(seeds)
def test_a_network_that_fits_is_kept_and_gets_registers(seed):
    network = random_network(seed)
    lowered = lower(network, LOIHI)
    assert lowered.network is network
    assert (lowered.target, lowered.realisation) == (LOIHI, "autapse")
    assert lowered.registers == tuple(registers(p) for p in network.populations)
    assert lowered == lower(network, LOIHI)


AT_THE_LIMIT = {
    "weights": with_weight(-128, 127),
    "upper bound": with_bound(0, 131071),
    "lower bound": with_bound(-131071, 0),
    "initial": hidden(threshold=4, initial=3),
    "threshold": hidden(threshold=127 * 128, initial=127 * 64),
    "bias": hidden(bias=[16320, -16320]),
    "groups": grouped(127),
    "kernel": kernel(127),
    "padding": geometry(padding=(127, 0)),
    "stride": geometry(stride=(1, 127)),
    "dilation": geometry(dilation=(127, 127)),
    "sum": summing(516, 3),  # 128 · (516 · 127 + 3) = 8388480
}


@pytest.mark.parametrize("network", AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_a_number_at_its_limit_fits(network):
    assert lower(network, LAVA).network == network


BITS = "export with --weight-bits 8"
FEWER = "export with fewer --weight-bits"
STATE = "export with fewer --steps or fewer --weight-bits"
SMALLER = "use fewer groups or a smaller kernel"
EIGHT_BITS = "or geometry exceed what Lava holds in 8 bits, allowed up to 127"
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
        chain(read_out(dense("input", [[1, 1]], exponent=1))),
        "population `out`: weight exponent is 1, the netx loader allows 0",
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
        "hint: export with fewer --weight-bits, which lowers the biases",
    ),
    "groups": (grouped(128), f"population `c`: groups 128, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}"),
    "kernel": (kernel(128), f"population `c`: groups 1, kernel (1, 128) {EIGHT_BITS}\nhint: {SMALLER}"),
    "padding": (geometry(padding=(128, 0)), f"population `c`: groups 1, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}"),
    "stride": (geometry(stride=(1, 128)), f"population `c`: groups 1, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}"),
    "dilation": (
        geometry(dilation=(128, 1)),
        f"population `c`: groups 1, kernel (1, 1) {EIGHT_BITS}\nhint: {SMALLER}",
    ),
    "sum": (
        summing(516, 4),  # 128 · (516 · 127 + 4)
        f"population `c`: a convolution may sum to 8388608, Lava clamps at 8388607\nhint: {FEWER}",
    ),
}


@pytest.mark.parametrize(("network", "text"), BEYOND.values(), ids=BEYOND)
def test_a_number_beyond_its_limit_is_refused(network, text):
    assert refusal(network) == text


def test_a_convolution_of_spikes_is_not_multiplied_by_the_input():
    synapse = conv("a", np.full((1, 600, 1, 1), 127))
    first = fire("a", conv("input", np.ones((600, 1, 1, 1))), shape=(600, 1, 1))
    network = chain(first, fire("c", synapse, shape=(1, 1, 1)), read_out(dense("c", [[1]])), shape=(1, 1, 1))
    assert lower(network, LAVA).network is network


# --- several violations -------------------------------------------------


def test_all_violations_are_listed_with_each_hint_once():
    network = chain(
        fire("a", dense("input", [[128, 1], [1, 1]]), bias=[16321, 0]),
        fire("b", dense("a", [[-129, 1]], exponent=2), reset="zero"),
        read_out(dense("b", [[1]])),
    )
    assert refusal(network) == (
        "population `a`: weight 128 does not fit signed 8 bit, allowed -128..127\n"
        "population `a`: bias 16321 does not fit two always-on sources, allowed -16320..16320\n"
        "population `b`: weight -129 does not fit signed 8 bit, allowed -128..127\n"
        "population `b`: weight exponent is 2, the netx loader allows 0\n"
        "population `b`: reset is `zero`, the autapse allows `subtract`\n"
        "hint: export with --weight-bits 8; export with fewer --weight-bits, which lowers the biases"
    )


@pytest.mark.parametrize(("n_populations", "more"), [(8, ""), (9, "\n(1 more)"), (20, "\n(12 more)")])
def test_eight_violations_are_listed_and_the_rest_counted(n_populations, more):
    names = ["input", *(f"p{number}" for number in range(n_populations))]
    bad = [fire(name, dense(source, [[128] * (1 + (source == "input"))])) for source, name in pairwise(names)]
    listed = "\n".join(
        f"population `p{number}`: weight 128 does not fit signed 8 bit, allowed -128..127" for number in range(8)
    )
    assert refusal(chain(*bad, read_out(dense(names[-1], [[1]])))) == f"{listed}{more}\nhint: {BITS}"


# --- the graph ----------------------------------------------------------


SKIP = "\nhint: skip connections run on the reference and fast engines, not as netx yet"


@pytest.mark.parametrize(
    ("synapses", "text"),
    [
        (
            (dense("a", [[1]]), dense("input", [[1, 1]])),
            "population `out`: driven by `a`, `input`, allowed one synapse from `a`",
        ),
        ((dense("a", [[1]]), dense("a", [[1]])), "population `out`: driven by `a`, `a`, allowed one synapse from `a`"),
        ((dense("input", [[1, 1]]),), "population `out`: driven by `input`, allowed one synapse from `a`"),
    ],
)
def test_only_a_chain_is_lowered(synapses, text):
    network = chain(fire("a", dense("input", [[1, 1]])), read_out(*synapses))
    with pytest.raises(UnsupportedError) as caught:
        lower(network, LAVA)
    assert str(caught.value) == text + SKIP


def test_an_unknown_realisation_is_refused():
    with pytest.raises(UsageError) as caught:
        lower(with_weight(1, 1), LAVA, "population")
    assert str(caught.value).splitlines()[0] == "unknown realisation `population`, allowed autapse"


# --- cores --------------------------------------------------------------


def wide(n_neurons: int, n_inputs: int = 1) -> IntNetwork:
    weight = np.zeros((n_neurons, n_inputs))
    return chain(read_out(dense("input", weight)), shape=(n_inputs,))


@pytest.mark.parametrize(
    ("network", "cores"),
    [
        (wide(1), 1),
        (wide(8192), 1),
        (wide(8193), 2),
        (wide(192, 1024), 1),  # synaptic memory: 192 KiB
        (wide(193, 1024), 2),
        (hidden(), 2),  # each population has its own cores
    ],
)
def test_cores_by_neurons_and_by_memory(network, cores):
    assert lower(network, LOIHI).cores == cores
    assert lower(network, LAVA).cores == 0


def cores_of(n_cores: int) -> IntNetwork:
    return wide(8192 * (n_cores - 1) + 1)


def test_as_many_cores_as_the_chip_has_fit():
    assert lower(cores_of(120), LOIHI).cores == 120


def test_one_core_more_is_refused_and_simulated():
    assert refusal(cores_of(121), "loihi") == (
        "network: needs at least 121 cores, `loihi2` has 120\n"
        "hint: make the layers narrower, or export with --target lava to simulate only"
    )
    assert lower(cores_of(121), LAVA).cores == 0


def test_a_large_input_table_does_not_count():
    encoding = InputEncoding((2,), np.zeros((2, 256), np.int8))
    assert lower(replace(with_weight(1, 1), input=encoding), LOIHI).cores == 1


# --- targets ------------------------------------------------------------


def test_targets_are_found_by_name_and_alias():
    assert [find_target(target.name) for target in TARGETS] == list(TARGETS)
    assert find_target("loihi") is find_target("loihi2")
    assert set(ALIASES.values()) <= {target.name for target in TARGETS}


def test_an_unknown_target_is_refused():
    with pytest.raises(UsageError) as caught:
        find_target("tpu")
    assert str(caught.value) == "unknown target `tpu`, allowed loihi, loihi2, lava\nhint: see `nctool targets`"


def test_a_number_out_of_range_is_a_range_error():
    with pytest.raises(RangeError):
        lower(with_weight(0, 128), LAVA)
