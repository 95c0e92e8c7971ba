"""The backend `graded`: what it holds, what it refuses, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings

from nctool.errors import FormatError, RangeError, UnsupportedError
from nctool.ir.bounds import prove, prove_sums, with_bounds
from nctool.ir.network import PAYLOAD_LIMIT, Bound, GradedReadout, IntNetwork, Population, Readout
from nctool.ir.population import GRADED_SUM_LIMIT
from nctool.reference.simulate import simulate
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.backends.bias_sources import BiasSource
from nctool_deploy.backends.graded import Graded, GradedRegisters
from nctool_deploy.lowering import lower
from nctool_deploy.mapping.placement import map_network
from nctool_deploy.mapping.wiring import DenseWiring
from nctool_deploy.netx import KnownAnswers, read, write
from nctool_deploy.netx.metadata import digest
from nctool_deploy.netx.netx_file import PROVED_BOUNDS, NetxFile
from nctool_deploy.targets.target import Target, Width, find_target
from tests.deploy.test_netx import PROVENANCE
from tests.hostile.test_netx_hostile import edit_metadata, put, refusal
from tests.support.networks import (
    as_pixels,
    conv,
    dense,
    fire,
    fitting_graded,
    graded,
    graded_read_out,
    random_network,
    random_pixels,
    seeds,
    signed_input,
)
from tests.support.refusals import refused

LAVA, LOIHI2 = find_target("lava"), find_target("loihi2")


def network(*populations: Population, bound: Bound | None = None) -> IntNetwork:
    """Return a network of two inputs; the bound is that of every population, or they are proved."""
    made = IntNetwork(signed_input(2), populations, 1)
    bounds = {name: bound or found.bound("proved") for name, found in prove(made).items()}
    return with_bounds(made, bounds)


def two_layers() -> IntNetwork:
    return network(graded("a", dense("input", [[3, -2], [1, 4]], -1)), graded_read_out(dense("a", [[5, -6]])))


def answers(made: IntNetwork, n_samples: int = 3) -> KnownAnswers:
    pixels = random_pixels(made, n_samples)
    return KnownAnswers(pixels, simulate(made, pixels))


def written(path: Path, made: IntNetwork) -> Path:
    write(path, lower(made, LOIHI2, "graded"), answers(made), provenance=PROVENANCE)
    return path


# --- lowering -----------------------------------------------------------


@given(seeds)
def test_a_network_that_fits_is_kept_and_gets_registers(seed):
    made = fitting_graded(seed)
    lowered = lower(made, LOIHI2, "graded")
    assert lowered.network is made
    assert lowered.backend == "graded"
    for population, values in zip(made.populations, lowered.registers, strict=True):
        parts = (source.weight << source.exponent for source in values.bias_sources)
        np.testing.assert_array_equal(sum(parts, np.zeros_like(population.bias)), population.bias)
        assert values.threshold == 0
    assert lowered.mapping == map_network(made, LOIHI2, find_backend("graded"))[0]
    assert sum(part.stop - part.start for core in lowered.mapping.cores for part in core.slices) == sum(
        population.n_neurons for population in made.populations
    )


def test_a_bias_has_sources_and_nothing_else_is_added():
    plain, biased = graded("a", dense("input", [[1, 1]])), graded("b", dense("input", [[1, 1]]), bias=300)
    assert Graded().registers(plain) == GradedRegisters(0, ())
    assert Graded().registers(biased) == GradedRegisters(
        0, (BiasSource(np.array([2]), 7), BiasSource(np.array([44]), 0))
    )
    assert Graded().wirings(plain) == ()
    assert Graded().wirings(biased) == (DenseWiring(1), DenseWiring(1))


FEWER = "use fewer --activation-bits"
SMALL = Bound("calibrated", -9, 9)


def drives(low: int, high: int, **options: object) -> IntNetwork:
    return network(graded_read_out(dense("input", [[1, 1]]), **options), bound=Bound("calibrated", low, high))


def shifted(exponent: int, reach: int, bias: int = 0, *more: object) -> IntNetwork:
    """Return a readout of a bound whose first synapse is shifted."""
    synapses = (dense("input", [[1, 1]], exponent), *more)
    return network(graded_read_out(*synapses, bias=bias), bound=Bound("calibrated", -reach, 1))


HELD = {
    "drive": drives(-PAYLOAD_LIMIT, PAYLOAD_LIMIT),
    "bias": drives(-9, 9, bias=16320),
    "exponents": network(graded_read_out(dense("input", [[1, 1]], 7), dense("input", [[1, 1]], -16)), bound=SMALL),
    "a sum": shifted(-16, 2**14 - 1),
    "a sum beside a bias": shifted(-16, 2**13 - 1, 2**13),
    "sums of several synapses": shifted(-16, PAYLOAD_LIMIT, 0, dense("input", [[1, 1]])),
    "a sum that is not shifted": shifted(0, PAYLOAD_LIMIT),
}
BEYOND = {
    "drive": (
        drives(-PAYLOAD_LIMIT - 1, 3),
        "population `out`: accumulated input reaches -8388608..3, allowed -8388607..8388607\n"
        f"hint: {FEWER} or fewer --weight-bits",
    ),
    "no bound": (
        replace(drives(0, 1), populations=(graded_read_out(dense("input", [[1, 1]])),)),
        "population `out`: the range of its accumulated input is not known\nhint: convert with nctool",
    ),
    "bias": (
        drives(-9, 9, bias=-16321),
        "population `out`: bias -16321 does not fit two always-on sources, allowed -16320..16320\n"
        f"hint: {FEWER}, which lowers the biases",
    ),
    "exponent": (
        network(graded_read_out(dense("input", [[1, 1]], 8)), bound=SMALL),
        "population `out`: weight exponent is 8, allowed -16..7\n"
        "hint: convert with nctool, which rounds weights to that form",
    ),
    "weight": (
        network(graded_read_out(dense("input", [[128, 1]])), bound=SMALL),
        "population `out`: weight 128 does not fit signed 8 bit, allowed -128..127\nhint: use --weight-bits 8",
    ),
    "a sum": (
        shifted(-16, 2**14),
        f"population `out`: the weighted sum from `input` may reach {GRADED_SUM_LIMIT + 2**16} before it is shifted, "
        f"allowed {GRADED_SUM_LIMIT}\nhint: {FEWER} or fewer --weight-bits",
    ),
    "a sum beside a bias": (
        shifted(-16, 2**13, -(2**13)),
        f"population `out`: the weighted sum from `input` may reach {GRADED_SUM_LIMIT + 2**16} before it is shifted, "
        f"allowed {GRADED_SUM_LIMIT}\nhint: {FEWER} or fewer --weight-bits",
    ),
}


@pytest.mark.parametrize("made", HELD.values(), ids=HELD)
def test_a_number_at_its_limit_fits(made):
    assert lower(made, LAVA, "graded").network is made


@pytest.mark.parametrize(("made", "text"), BEYOND.values(), ids=BEYOND)
def test_a_number_beyond_its_limit_is_refused(made, text):
    assert str(refused(RangeError, lower, made, LAVA, "graded")) == text


@pytest.mark.parametrize("backend", ["autapse", "population", "zero-reset"])
def test_other_backends_have_no_graded_neurons(backend):
    assert str(refused(UnsupportedError, lower, two_layers(), LAVA, backend)) == (
        f"network: graded neurons, backend `{backend}` allows integrate-and-fire neurons\nhint: use --backend graded"
    )


def test_it_has_no_other_neurons():
    spiking = random_network(1)
    assert str(refused(UnsupportedError, lower, spiking, LAVA, "graded")) == (
        "network: integrate-and-fire neurons, backend `graded` allows graded neurons\nhint: use --backend autapse"
    )


def test_a_target_of_binary_spikes_is_refused():
    assert str(refused(UnsupportedError, lower, two_layers(), find_target("loihi1"), "graded")) == (
        "network: graded spikes, the spikes of `loihi1` are binary, allowed integrate-and-fire neurons\n"
        "hint: use --backend autapse, --target loihi2, or --target lava to simulate only"
    )


def summing(n_most: int) -> IntNetwork:
    """Each of 8 neurons sends up to 127 * 127 * 2**7, times 64 or, from some, 127; a second synapse shifts nothing."""
    hidden = graded("a", dense("input", np.tile([127, 0], (8, 1)), 7))
    weight = [[127] * n_most + [64] * (8 - n_most)]
    return network(hidden, graded_read_out(dense("a", weight, -16), dense("input", [[1, -1]])))


def test_the_sum_of_each_of_several_synapses_is_proved():
    """8 * 64 times the largest payload fit, 63 more do not; the drive is small in both."""
    assert prove_sums(summing(0))["out"] == (8 * 64 * 127 * 127 * 2**7, 255)
    assert lower(summing(0), LAVA, "graded").cores == 0
    assert str(refused(RangeError, lower, summing(1), LAVA, "graded")) == (
        f"population `out`: the weighted sum from `a` may reach {(8 * 64 + 63) * 127 * 127 * 2**7} before it is "
        f"shifted, allowed {GRADED_SUM_LIMIT}\nhint: {FEWER} or fewer --weight-bits"
    )


def with_payload_bits(bits: int) -> Target:
    limits = LOIHI2.limits.model_copy(update={"payload_bits": Width(value=bits, source="a test")})
    return LOIHI2.model_copy(update={"name": "narrow", "limits": limits})


def test_a_spike_carries_no_more_than_the_target_says():
    """`a` sends up to 318, ten bits with a sign; the readout sends nothing."""
    assert lower(two_layers(), with_payload_bits(10), "graded").cores == 1
    assert str(refused(RangeError, lower, two_layers(), with_payload_bits(9), "graded")) == (
        "population `a`: a spike may carry 318, spikes of `narrow` carry 9 bits, allowed 0..255\n"
        "hint: use fewer --activation-bits"
    )
    assert str(refused(RangeError, lower, two_layers(), with_payload_bits(7), "graded")).splitlines()[0] == (
        "input: graded values -128..127, spikes of `narrow` carry 7 bits, allowed -64..63"
    )


def test_the_input_of_other_backends_has_as_many_bits():
    made = random_network(1)
    assert lower(made, with_payload_bits(8)).network is made
    assert (
        str(refused(RangeError, lower, made, with_payload_bits(7)))
        .splitlines()[0]
        .startswith("input: graded values -128..127, spikes of `narrow` carry 7 bits")
    )
    assert lower(random_network(1, rate=True), with_payload_bits(2)).cores == 1


# --- the file -----------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("netx") / "model.net"


@settings(max_examples=40)
@given(seed=seeds)
def test_what_is_written_is_read_back(scratch, seed):
    made = fitting_graded(seed)
    expected, lowered = answers(made), lower(made, LAVA, "graded")
    metadata = write(scratch, lowered, expected, provenance=PROVENANCE)
    first = scratch.read_bytes()
    assert read(scratch) == NetxFile(made, metadata, expected, ())
    write(scratch, lowered, expected, provenance=PROVENANCE)
    assert scratch.read_bytes() == first


def test_the_keys_of_a_file(tmp_path):
    """(10, -7) gives 44 >> 1 = 22 and -18 >> 1 = -9, none; (127, 127) gives 63 and 317."""
    made = two_layers()
    pixels = as_pixels([[10, -7], [127, 127]])
    write(tmp_path / "m.net", lower(made, LAVA, "graded"), KnownAnswers(pixels, simulate(made, pixels)))
    with h5py.File(tmp_path / "m.net") as file:
        hidden = file["layer/1"]
        assert sorted(hidden["neuron"]) == ["type", "vThMant"]
        assert (hidden["neuron/type"][()], hidden["neuron/vThMant"][()], hidden["wgtExp"][()]) == (
            b"GRADED-RELU",
            0,
            -1,
        )
        assert hidden["weight"].dtype == np.int8
        assert file["layer/2/neuron/type"][()] == b"GRADED-READOUT"
        known = file["nctool/known_answers"]
        assert known["spikes/0"][()].tolist() == [0b10110000]
        assert (known["payloads/0"].dtype, known["payloads/0"][()].tolist()) == (np.uint16, [22, 63, 317])
        assert known["logits"][()].tolist() == [[[110]], [[5 * 63 - 6 * 317]]]


@pytest.mark.parametrize(
    ("weight", "exponent", "kind"), [(1, 0, np.uint8), (2, 0, np.uint16), (127, 1, np.uint16), (127, 2, np.uint32)]
)
def test_payloads_are_kept_in_as_few_bytes_as_they_need(tmp_path, weight, exponent, kind):
    made = network(graded("a", dense("input", [[weight] * 2], exponent)), graded_read_out(dense("a", [[1]])))
    pixels = as_pixels([[127, 127]])
    write(tmp_path / "m.net", lower(made, LAVA, "graded"), KnownAnswers(pixels, simulate(made, pixels)))
    with h5py.File(tmp_path / "m.net") as file:
        assert file["nctool/known_answers/payloads/0"].dtype == kind
    assert read(tmp_path / "m.net").known_answers.trace.spikes["a"].tolist() == [[[254 * weight << exponent]]]


def test_the_digest_tells_the_kind_of_neuron():
    one = graded("a", dense("input", [[1, 1]]))
    out = graded_read_out(dense("a", [[1]]))
    assert digest(out) != digest(replace(out, neuron=Readout(out.neuron.scale)))
    assert digest(out) != digest(replace(out, neuron=GradedReadout(2.0)))
    assert digest(one) != digest(replace(one, neuron=fire("a", dense("input", [[1, 1]])).neuron))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "layer/1/neuron/type",
            np.bytes_(b"IF"),
            "`/layer/1/neuron/type` is `IF`, allowed GRADED-RELU, or GRADED-READOUT with a scale",
        ),
        (
            "layer/1/neuron/type",
            np.bytes_(b"GRADED-READOUT"),
            "`/layer/1/neuron/type` is `GRADED-READOUT`, allowed GRADED-RELU, or GRADED-READOUT with a scale",
        ),
        (
            "layer/2/neuron/type",
            np.bytes_(b"GRADED-RELU"),
            "`/layer/2/neuron/type` is `GRADED-RELU`, allowed GRADED-RELU, or GRADED-READOUT with a scale",
        ),
        ("layer/1/neuron/vThMant", np.int64(1), "`/layer/1/neuron/vThMant` is 1, allowed 0"),
        ("layer/1/neuron/iDecay", np.int64(0), "`/layer/1/neuron/iDecay` is not written by `nctool export`"),
        ("layer/1/wgtExp", np.int64(-17), "population `a`: weight exponent is -17, allowed -16..16"),
        ("layer/1/wgtExp", np.int64(-(2**63)), f"population `a`: weight exponent is {-(2**63)}, allowed -16..16"),
        (
            "nctool/known_answers/payloads/0",
            np.zeros(4, np.int32),
            "`/nctool/known_answers/payloads/0` is int32, allowed uint8, uint16, uint32",
        ),
        (
            "nctool/known_answers/payloads/0",
            np.ones((2, 2), np.uint8),
            "`/nctool/known_answers/payloads/0` has 2 axes, allowed 1",
        ),
        (
            "nctool/known_answers/payloads/0",
            np.ones(5, np.uint8),
            "`/nctool/known_answers/payloads/0` holds 5 numbers, allowed 4, one for each spike",
        ),
        (
            "nctool/known_answers/payloads/0",
            np.array([1, 1, 0, 1], np.uint8),
            "`/nctool/known_answers/payloads/0` holds 0..1, allowed 1..8388607",
        ),
        (
            "nctool/known_answers/payloads/0",
            np.array([1, 1, 2**32 - 1, 1], np.uint32),
            "`/nctool/known_answers/payloads/0` holds 1..4294967295, allowed 1..8388607",
        ),
        (
            "nctool/known_answers/spikes/0",
            np.zeros(2, np.uint8),
            "`/nctool/known_answers/spikes/0` holds 2 bytes, allowed 1",
        ),
        (
            "nctool/known_answers/spikes/0",
            np.zeros(1, np.uint8),
            "`/nctool/known_answers/payloads/0` holds 4 numbers, allowed 0, one for each spike",
        ),
        (
            "nctool/known_answers/payloads/1",
            np.ones(1),
            "`/nctool/known_answers/payloads/1` is not written by `nctool export`",
        ),
    ],
)
def test_a_file_of_other_numbers_is_refused(tmp_path, key, value, text):
    path = written(tmp_path / "m.net", two_layers())
    put(path, key, value)
    assert refusal(path) == text


def test_a_payload_that_changed_is_found(tmp_path):
    path = written(tmp_path / "m.net", two_layers())
    with h5py.File(path, "r+") as file:
        file["nctool/known_answers/payloads/0"][0] += 1
    assert str(refused(FormatError, read, path)).startswith(f"`{path}`: group `/nctool` is not what was exported")


def test_a_window_of_more_steps_is_refused(tmp_path):
    path = written(tmp_path / "m.net", two_layers())
    edit_metadata(path, lambda m: m.update(n_steps=2))
    assert refusal(path) == "network: n_steps of graded neurons is 2, allowed 1"


def test_another_backend_does_not_take_the_file(tmp_path):
    path = written(tmp_path / "m.net", two_layers())
    edit_metadata(path, lambda m: m.update(realisation="autapse"))
    assert refusal(path) == "`/layer/1/neuron/iDecay` is missing"


def test_a_bound_is_proved_through_the_chain_of_payloads(tmp_path):
    """The readout sees up to 319 and 318 at once: (3 * 127 + 2 * 128) >> 1 and (127 + 4 * 127) >> 1 = 317."""
    made = two_layers()
    reach = made.readout.bound
    assert (reach.low, reach.high) == (-6 * 317, 5 * 318)
    path = written(tmp_path / "m.net", made)
    assert read(path).false_bounds == ()
    narrow = replace(made.readout, bound=Bound("proved", reach.low, reach.high - 1))
    path = written(path, replace(made, populations=(made.populations[0], narrow)))
    assert read(path, check_digests=False).false_bounds == ("out",)
    assert read(path, check_digests=False).changes == {
        PROVED_BOUNDS: "layer `out` can leave its bound, although the file calls it proved"
    }


def test_images_and_skips_are_read_back(tmp_path):
    first = graded("a", conv("input", np.ones((2, 1, 1, 1))), shape=(2, 2, 2))
    skip = conv("input", np.ones((2, 1, 1, 1)))
    second = graded("b", replace(conv("a", np.ones((2, 2, 1, 1))), exponent=-3), skip, shape=(2, 2, 2))
    out = graded_read_out(dense("b", np.ones((3, 8)), -2), dense("a", -np.ones((3, 8))))
    made = IntNetwork(signed_input(1, 2, 2), (first, second, out), 1)
    made = with_bounds(made, {name: found.bound("proved") for name, found in prove(made).items()})
    assert read(written(tmp_path / "m.net", made)).network == made
