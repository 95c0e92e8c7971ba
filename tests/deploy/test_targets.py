"""Targets are data: every limit has a source, files are strict, and a target of one's own travels with the model."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nctool.errors import FormatError, UnsupportedError, UsageError
from nctool.ir.network import InputEncoding
from nctool.reference.simulate import simulate
from nctool_deploy.backends.number_formats import NUMBER_FORMATS
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, read, write
from nctool_deploy.targets.target import ALIASES, TARGETS, Feature, Limit, find_target, parse_target, read_target
from tests.support.networks import random_network, random_pixels
from tests.support.refusals import refused

DOCS = Path(__file__).parents[2] / "docs" / "TARGETS.md"
OWN = """
name = "small-chip"
[limits]
neurons_per_core = { value = 100, source = "data sheet" }
[features]
graded_spikes = { value = true, source = "data sheet" }
shared_kernels = { value = false, source = "data sheet" }
"""


def refusal(text: str) -> str:
    return str(refused(UsageError, parse_target, text, "own.toml"))


# --- built-in targets -----------------------------------------------------


def test_targets_are_found_by_name_and_alias():
    assert [target.name for target in TARGETS] == ["loihi2", "loihi1", "lava"]
    assert [find_target(target.name) for target in TARGETS] == list(TARGETS)
    assert find_target("loihi") is find_target("loihi2")
    assert set(ALIASES.values()) <= {target.name for target in TARGETS}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tpu", "see `nctool targets`; a target of your own is given by the path of its .toml file"),
        ("loihi-2", "did you mean `loihi2`?"),
    ],
)
def test_an_unknown_target_is_refused(name, hint):
    with pytest.raises(UsageError) as caught:
        find_target(name)
    assert str(caught.value) == f"unknown target `{name}`, allowed loihi, loihi2, loihi1, lava\nhint: {hint}"


def test_the_limits_of_the_chips():
    def limits(name: str) -> list[int | None]:
        return [limit and limit.value for _, limit in find_target(name).limits]

    assert limits("loihi2") == [120, 8192, 192 * 1024, None, None, None, 24]
    assert limits("loihi1") == [128, 1024, 128 * 1024, 4096, 4096, 8, 1]
    assert limits("lava") == [*[None] * 6, 24]
    assert [find_target(name).features.graded_spikes.value for name in ("loihi2", "loihi1", "lava")] == [
        True,
        False,
        True,
    ]


def test_every_limit_and_every_number_of_the_page_is_the_one_of_the_code():
    """docs/TARGETS.md shows the values that the files and the code hold."""
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in DOCS.read_text("utf-8").splitlines()]
    table = {row[0]: row[1:] for row in rows}
    for name in dict(TARGETS[0].limits):
        values = [dict(target.limits)[name] for target in TARGETS]
        assert table[name][:3] == [f"{value.value:,}" if value else "no limit" for value in values], name
    for name in dict(TARGETS[0].features):
        values = [dict(target.features)[name].value for target in TARGETS]
        assert table[name][:3] == ["yes" if value else "no" for value in values], name
    for name in ("synaptic_operation", "graded_operation", "active_update", "idle_update", "spike"):
        figures = [target.energy and getattr(target.energy, name) for target in TARGETS]
        assert table[name][:3] == [f"{figure.pj:g}" if figure else "not known" for figure in figures], name
    for number in NUMBER_FORMATS:
        assert table[number.name][0] == f"{number.low}..{number.high}", number.name


# --- files ----------------------------------------------------------------


def test_a_target_of_ones_own():
    target = parse_target(OWN)
    assert target.name == "small-chip"
    assert target.limits.neurons_per_core == Limit(value=100, source="data sheet")
    assert target.limits.cores_per_chip is None
    assert target.features.graded_spikes == Feature(value=True, source="data sheet")


def test_the_example_of_the_page_is_a_target(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "my-chip.toml"
    path.write_text(example, encoding="utf-8")
    assert find_target(str(path)) == find_target(path) == read_target(path)
    assert read_target(path).name == "my-chip"


SIZES = "cores_per_chip, neurons_per_core, synaptic_memory_bytes_per_core"
KEYS = f"{SIZES}, input_axons_per_core, output_axons_per_core, thresholds_per_core, payload_bits"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("value = 100", "value = 0", "`limits.neurons_per_core.value` is 0, allowed: a whole number 1..2^40"),
        (
            "neurons_per_core = { value = 100",
            "payload_bits = { value = 65",
            "`limits.payload_bits.value` is 65, allowed: a whole number 1..64",
        ),
        ("value = 100", 'value = "100"', '`limits.neurons_per_core.value` is "100", allowed: a whole number 1..2^40'),
        ("value = 100", "value = 1.5", "`limits.neurons_per_core.value` is 1.5, allowed: a whole number 1..2^40"),
        (
            '{ value = 100, source = "data sheet" }',
            "{ value = 100 }",
            "`limits.neurons_per_core.source` is missing, allowed: a text that says where the value comes from",
        ),
        (
            '{ value = 100, source = "data sheet" }',
            "100",
            "`limits.neurons_per_core` is 100, allowed: a table of value, source",
        ),
        (
            "neurons_per_core",
            "neuron_per_core",
            f"unknown key `limits.neuron_per_core`, allowed: {KEYS}\nhint: did you mean `limits.neurons_per_core`?",
        ),
        ("small-chip", "Small chip", '`name` is "Small chip", allowed: lower-case letters, digits and `-_.`'),
        ("graded_spikes", "#", "`features.graded_spikes` is missing, allowed: a table of value, source"),
        ("{ value = true", "{ value = 1", "`features.graded_spikes.value` is 1, allowed: true or false"),
    ],
)
def test_what_a_target_file_may_not_hold(old, new, text):
    assert refusal(OWN.replace(old, new, 1)) == f"target `own.toml`: {text}"


def test_the_largest_and_the_smallest_limit_are_allowed():
    for value in (1, 2**40):
        assert parse_target(OWN.replace("100", str(value))).limits.neurons_per_core.value == value
    assert refusal(OWN.replace("100", str(2**40 + 1))).startswith(
        "target `own.toml`: `limits.neurons_per_core.value` is "
    )


def test_text_that_is_no_toml():
    assert refusal("name = ").startswith("target `own.toml` is not valid TOML: ")


def test_a_target_file_that_is_not_there(tmp_path):
    path = tmp_path / "no.toml"
    with pytest.raises(UsageError) as caught:
        find_target(str(path))
    assert str(caught.value) == f"no target file `{path}`\nhint: `nctool targets` lists the built-in targets"


@pytest.mark.parametrize("name", ["loihi", "lava"])
def test_a_target_of_ones_own_has_a_name_of_its_own(tmp_path, name):
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace("small-chip", name), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_target(path)
    assert str(caught.value) == (
        f'target `{path}`: `name` is "{name}", allowed: a name other than loihi, loihi2, loihi1, lava'
    )


# --- in the model's file --------------------------------------------------


def written(path: Path, target: object) -> Path:
    network = random_network(3)
    pixels = random_pixels(network, 1)
    write(path, lower(network, target), KnownAnswers(pixels, simulate(network, pixels)))
    return path


def test_a_target_of_ones_own_travels_with_the_model(tmp_path):
    target = parse_target(OWN)
    metadata = read(written(tmp_path / "model.net", target)).metadata
    assert (metadata.target, metadata.own_target, metadata.chip) == ("small-chip", target, target)


def test_a_built_in_target_is_named_only(tmp_path):
    metadata = read(written(tmp_path / "model.net", find_target("loihi"))).metadata
    assert (metadata.target, metadata.own_target) == ("loihi2", None)
    assert metadata.chip is find_target("loihi2")


def test_a_file_for_a_target_that_this_version_does_not_have(tmp_path):
    metadata = read(written(tmp_path / "model.net", find_target("lava"))).metadata
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    for name in ("loihi9", str(path)):  # a path in a model's file is no path
        with pytest.raises(FormatError) as caught:
            _ = metadata.model_copy(update={"target": name}).chip
        assert str(caught.value) == (
            f"`/nctool/metadata`: unknown target `{name}`, allowed loihi, loihi2, loihi1, lava\nhint: update nctool"
        )


# --- graded input ---------------------------------------------------------


def with_input(low: int, high: int):
    network = random_network(1, conv=False)
    table = np.resize(np.array([low, high], np.int8), (network.input.shape[0], 256))
    return type(network)(InputEncoding(network.input.shape, table), network.populations, network.n_steps)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 2), (-127, 127)])
def test_graded_input_is_refused_where_spikes_are_binary(low, high):
    with pytest.raises(UnsupportedError) as caught:
        lower(with_input(low, high), find_target("loihi1"))
    assert str(caught.value) == (
        f"input: graded values {low}..{high}, the spikes of `loihi1` are binary, allowed 0..1\n"
        "hint: export with --input rate, with --target loihi2, or with --target lava to simulate only"
    )
    lower(with_input(low, high), find_target("loihi2"))


def test_binary_input_is_allowed_where_spikes_are_binary():
    assert lower(with_input(0, 1), find_target("loihi1")).target.name == "loihi1"
