"""The file: what is written is read back, the same bytes each time, whole or not at all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given

from nctool.errors import FormatError, UsageError
from nctool.ir.change import Change
from nctool.ir.network import Bound, IntNetwork
from nctool.reference.simulate import simulate
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, Provenance, read, write
from nctool_deploy.netx.metadata import digest
from nctool_deploy.netx.netx_file import NetxFile
from nctool_deploy.targets.target import find_target
from tests.support.networks import (
    conv,
    dense,
    fire,
    random_enlarged,
    random_graph,
    random_network,
    random_pixels,
    read_out,
    seeds,
    signed_input,
)

CONV_AND_DENSE = 2
"""Seed of a network of a convolution, two dense layers and a readout."""
EXPORT = "write it again, with `nctool export` or `nctool convert`"
PROVENANCE = Provenance(
    recipe="digits-µ",
    seed=7,
    dataset="digits",
    checkpoint_sha256="0" * 64,
    input_mean=(0.1, 1 / 3),
    input_std=(0.2,),
    classes=("cat", "猫"),
)
CHANGES = (
    Change(step="fold", detail="into `a`", exact=True),
    Change(step="r", detail="", exact=False, worst_error=0.1),
)


def answers(network: IntNetwork, n_samples: int = 3) -> KnownAnswers:
    pixels = random_pixels(network, n_samples)
    return KnownAnswers(pixels, simulate(network, pixels))


def written(path: Path, seed: int = CONV_AND_DENSE, **options: object) -> IntNetwork:
    """Write the random network of `seed` and return it."""
    network = random_network(seed)
    write(path, lower(network, find_target("loihi")), answers(network), **options)
    return network


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("netx") / "model.net"


# --- read(write(n)) = n -------------------------------------------------


@pytest.mark.parametrize("draw", [random_network, partial(random_network, rate=True), random_graph, random_enlarged])
@given(seed=seeds)
def test_what_is_written_is_read_back(scratch, draw, seed):
    network = draw(seed)
    expected = answers(network)
    lowered = lower(network, find_target("lava"))
    metadata = write(scratch, lowered, expected, provenance=PROVENANCE, changes=CHANGES, weight_bits=5)
    content = read(scratch)
    assert content == NetxFile(network, metadata, expected, ())
    assert (metadata.target, metadata.backend, metadata.weight_bits) == ("lava", "autapse", 5)
    assert metadata.input_encoding == (network.pixel_input.encoding)
    assert (metadata.provenance, metadata.changes) == (PROVENANCE, CHANGES)


def test_a_file_may_leave_out_its_provenance(tmp_path):
    written(tmp_path / "model.net")
    metadata = read(tmp_path / "model.net").metadata
    assert (metadata.provenance, metadata.changes, metadata.weight_bits) == (None, (), 8)


@given(seeds)
def test_the_same_content_gives_the_same_bytes(scratch, seed):
    written(scratch, seed, provenance=PROVENANCE)
    first = scratch.read_bytes()
    written(scratch, seed, provenance=PROVENANCE)
    assert scratch.read_bytes() == first


def test_a_read_file_is_written_again_with_the_same_bytes(tmp_path):
    path, again = tmp_path / "model.net", tmp_path / "again.net"
    written(path, provenance=PROVENANCE, changes=CHANGES)
    content = read(path)
    lowered = lower(content.network, find_target(content.metadata.target))
    write(again, lowered, content.known_answers, provenance=PROVENANCE, changes=CHANGES)
    assert again.read_bytes() == path.read_bytes()


def test_the_layers_carry_the_stock_keys(tmp_path):
    network = written(tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        kinds = [file[f"layer/{number}/type"][()] for number in range(len(file["layer"]))]
        conv = file["layer/1"]
        assert kinds[0] == b"input"
        assert tuple(file["layer/0/shape"]) == network.input.shape
        assert tuple(conv["shape"]) == network.populations[0].shape
        np.testing.assert_array_equal(conv["weight"], network.populations[0].synapses[0].weight)
        assert conv["weight"].dtype == np.int8
        np.testing.assert_array_equal(conv["bias"], network.populations[0].bias)
        assert {key: int(conv["neuron"][key][()]) for key in ("iDecay", "vDecay", "refDelay")} == {
            "iDecay": 0,
            "vDecay": 4096,
            "refDelay": 1,
        }
        assert conv["neuron/type"][()] == b"IF"
        assert file[f"layer/{len(kinds) - 1}/neuron/type"][()] == b"IF-READOUT"
        assert file["nctool/format"][()] == b"nctool-netx"
        assert json.loads(file["nctool/metadata"][()])["n_steps"] == network.n_steps
    assert b"conv" in kinds
    assert kinds.index(b"flatten") == kinds.index(b"dense") - 1


# --- several synapses ---------------------------------------------------


def graph() -> IntNetwork:
    """Return an image, a convolution `a`, a sum `b` of it and the input, and a readout of `b` and `a`."""
    bound = Bound("calibrated", -9, 9)
    image = {"shape": (2, 2, 2), "bound": bound}
    a = fire("a", conv("input", [[[[1]]], [[[2]]]]), **image)
    b = fire("b", conv("a", np.eye(2).reshape(2, 2, 1, 1)), replace(conv("input", [[[[4]]]] * 2), exponent=3), **image)
    out = read_out(dense("b", np.eye(3, 8)), dense("a", np.eye(3, 8)), bound=bound)
    return IntNetwork(signed_input(1, 2, 2), (a, b, out), 2)


def test_further_synapses_stand_beside_the_stock_keys(tmp_path):
    network, path = graph(), tmp_path / "model.net"
    write(path, lower(network, find_target("lava")), answers(network))
    with h5py.File(path) as file:
        assert [file[f"layer/{number}/type"][()] for number in range(5)] == [
            b"input",
            b"conv",
            b"conv",
            b"flatten",
            b"dense",
        ]
        assert [list(file[f"layer/{number}"].get("synapse", [])) for number in (1, 2, 4)] == [[], ["1"], ["1"]]
        branch = file["layer/2/synapse/1"]
        assert list(branch) == ["dilation", "groups", "padding", "stride", "type", "weight", "wgtExp"]
        assert (branch["type"][()], branch["wgtExp"][()], branch["weight"].dtype) == (b"conv", 3, np.int8)
        assert list(file["layer/4/synapse/1"]) == ["type", "weight", "wgtExp"]
        metadata = json.loads(file["nctool/metadata"][()])
        assert [record.get("sources") for record in metadata["populations"]] == [None, ["a", "input"], ["b", "a"]]
        assert file["nctool/version"][()] == 3


def test_the_file_of_a_chain_stays_as_it_was(tmp_path):
    """No sources, and the digests that nctool gave before it knew of graphs."""
    written(tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        records = json.loads(file["nctool/metadata"][()])["populations"]
    assert {tuple(record) for record in records} == {("name", "layer", "digest", "scale", "bound")}
    a = fire("a", conv("input", [[[[1, -2]]]], padding=(0, 1)), shape=(1, 2, 3), threshold=5, initial=2, bias=-1)
    assert digest(a) == "3f7a51a970f7397bfa1ac24366a923f17a1c5dfeca724100ebe7ba99243ff08d"
    out = read_out(dense("a", [[3] * 6]), scale=0.5, bias=4)
    assert digest(out) == "656c5683967cf2904f4b6f51de16856d5eaf493af65a851e5f18d8513343da14"


# --- atomic -------------------------------------------------------------


class _Disk(Exception):
    """Stands for whatever may go wrong in the middle of writing."""


def broken(error: Exception):
    def fail(*args: object) -> None:
        raise error

    return fail


IMAGE = (sys.modules[write.__module__], "_write_extra")
"""What makes the content of a file, in memory."""


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    ("place", "error", "kind", "text"),
    [
        (IMAGE, RuntimeError("no space"), FormatError, "cannot write `{path}`: no space"),
        (IMAGE, ValueError("bad type"), FormatError, "cannot write `{path}`: bad type"),
        (
            (Path, "write_bytes"),
            OSError(28, "No space left on device"),
            UsageError,
            "cannot write `{path}`: no space left on device\n"
            "hint: choose another place with -o, or make the folder and give yourself the right to write there",
        ),
        (IMAGE, _Disk("anything"), _Disk, "anything"),
    ],
)
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, exists, place, error, kind, text):
    path = tmp_path / "model.net"
    if exists:
        path.write_bytes(b"precious")
    monkeypatch.setattr(*place, broken(error))
    with pytest.raises(kind) as caught:
        written(path)
    assert str(caught.value) == text.format(path=path)
    assert [each.name for each in tmp_path.iterdir()] == (["model.net"] if exists else [])
    assert not exists or path.read_bytes() == b"precious"


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "model.net"
    written(path, 1)
    other = written(path, 2)
    assert read(path).network == other


def test_a_missing_folder_is_said(tmp_path):
    path = tmp_path / "missing" / "model.net"
    with pytest.raises(UsageError) as caught:
        written(path)
    assert str(caught.value) == (
        f"cannot write `{path}`: no such file or directory\n"
        "hint: choose another place with -o, or make the folder and give yourself the right to write there"
    )


# --- changed files ------------------------------------------------------


def edit(path: Path, key: str, index: object, change) -> None:
    with h5py.File(path, "r+") as file:
        file[key][index] = change(file[key][index])


@pytest.mark.parametrize(
    ("key", "index", "change", "name"),
    [
        ("layer/1/weight", (0, 0, 0, 0), lambda value: value ^ 1, "layer0"),
        ("layer/1/bias", 0, lambda value: value + 1, "layer0"),
        ("layer/1/neuron/vThMant", 1, lambda value: value + 1, "layer0"),
        ("layer/1/neuron/vInit", 0, lambda value: value - 1, "layer0"),
        ("layer/3/weight", (1, 2), lambda value: value ^ 1, "layer1"),
        ("layer/4/neuron/vInit", 6, lambda value: value - 1, "layer2"),
        ("layer/5/weight", (0, 0), lambda value: value ^ 1, "readout"),
        ("layer/5/bias", -1, lambda value: value + 1, "readout"),
        ("nctool/input_table", (0, 17), lambda value: value ^ 1, "input"),
    ],
)
def test_one_changed_number_names_exactly_its_layer(tmp_path, key, index, change, name):
    path = tmp_path / "model.net"
    written(path)
    edit(path, key, index, change)
    assert read(path, check_digests=False).changed_layers == (name,)
    with pytest.raises(FormatError) as caught:
        read(path)
    assert str(caught.value) == (
        f"`{path}`: layer `{name}` is not what was exported: its digest differs\n"
        f"hint: `nctool verify` shows the first difference; {EXPORT}"
    )


def test_a_changed_geometry_is_named_even_where_it_has_no_effect(tmp_path):
    bound = Bound("calibrated", -1, 1)
    hidden = fire("a", conv("input", [[[[1]]]]), shape=(1, 2, 2), bound=bound)
    network = IntNetwork(signed_input(1, 2, 2), (hidden, read_out(dense("a", [[1] * 4]), bound=bound)), 1)
    path = tmp_path / "model.net"
    write(path, lower(network, find_target("lava")), answers(network))
    edit(path, "layer/1/dilation", 0, lambda value: value + 1)
    assert read(path, check_digests=False).changed_layers == ("a",)


def test_a_changed_scale_is_named(tmp_path):
    path = tmp_path / "model.net"
    written(path)
    with h5py.File(path, "r+") as file:
        text = file["nctool/metadata"][()]
        file["nctool/metadata"][()] = text.replace(b'"scale":0.5', b'"scale":0.7')
        assert file["nctool/metadata"][()] != text
    assert read(path, check_digests=False).changed_layers == ("readout",)


def test_every_changed_layer_is_named_in_order(tmp_path):
    path = tmp_path / "model.net"
    network = written(path)
    with h5py.File(path, "r+") as file:
        for group in file["layer"].values():
            if "bias" in group:
                group["bias"][0] += 1
    assert read(path, check_digests=False).changed_layers == tuple(p.name for p in network.populations)


@pytest.mark.parametrize(
    ("key", "index", "change", "name"),
    [
        ("layer/2/weight", (0, 0, 0, 0), lambda value: value ^ 1, "b"),
        ("layer/2/synapse/1/weight", (1, 0, 0, 0), lambda value: value ^ 1, "b"),
        ("layer/2/synapse/1/wgtExp", (), lambda value: value - 1, "b"),
        ("layer/2/synapse/1/dilation", 0, lambda value: value + 1, "b"),
        ("layer/4/synapse/1/weight", (2, 7), lambda value: value ^ 1, "out"),
    ],
)
def test_one_changed_number_of_a_branch_names_its_layer(tmp_path, key, index, change, name):
    network, path = graph(), tmp_path / "model.net"
    write(path, lower(network, find_target("lava")), answers(network))
    edit(path, key, index, change)
    assert read(path, check_digests=False).changed_layers == (name,)


def test_branches_exchanged_change_the_layer(tmp_path):
    network, path = graph(), tmp_path / "model.net"
    write(path, lower(network, find_target("lava")), answers(network))
    with h5py.File(path, "r+") as file:
        text = file["nctool/metadata"][()]
        file["nctool/metadata"][()] = text.replace(b'"sources":["b","a"]', b'"sources":["a","b"]')
        assert file["nctool/metadata"][()] != text
    assert read(path, check_digests=False).changed_layers == ("out",)


def test_a_digest_knows_every_synapse_and_their_order():
    one, other = dense("a", [[1]]), dense("b", [[1]])
    sums = [
        (one,),
        (one, other),
        (other, one),
        (one, one),
        (one, other, other),
        (one, dense("b", [[2]])),
        (one, dense("b", [[1]], 1)),
        (one, conv("b", [[[[1]]]])),
    ]
    assert len({digest(read_out(*synapses)) for synapses in sums}) == len(sums)


def test_a_digest_knows_the_name_and_the_source():
    network = random_network(CONV_AND_DENSE)
    population = network.populations[1]
    other = replace(population.synapses[0], source="elsewhere")
    digests = {digest(p) for p in (population, replace(population, name="b"), replace(population, synapses=(other,)))}
    assert len(digests) == 3
    assert digest(population) == digest(random_network(CONV_AND_DENSE).populations[1])
