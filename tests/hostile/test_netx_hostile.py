"""Files that are not what `write` wrote: each is a FormatError with a reason, and nothing else ever leaves `read`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nctool.errors import FormatError, NctoolError, UsageError
from nctool.ir.network import Bound, IntNetwork, RateEncoding
from nctool_deploy.lowering import lower
from nctool_deploy.netx import read, write
from nctool_deploy.netx.metadata import group_digest
from nctool_deploy.targets.target import find_target
from tests.deploy.test_netx import CHANGES, CONV_AND_DENSE, EXPORT, PROVENANCE, answers
from tests.support.networks import conv, dense, fire, fitting_graded, random_network, read_out, signed_input
from tests.support.refusals import refused

SEVERAL_LAYERS = 1
"""Seed of a graded network of an image, with skips."""
BILLION = 10**9
SLOWEST_READ_S = 5.0


FITS = Bound("calibrated", -9, 9)
GRAPH = IntNetwork(
    signed_input(1, 2, 2),
    (
        fire("a", conv("input", [[[[1]]], [[[2]]]]), shape=(2, 2, 2), bound=FITS),
        fire("b", dense("a", np.eye(2, 8)), dense("input", np.eye(2, 4), 3), bound=FITS),
        fire("c", conv("a", np.eye(2).reshape(2, 2, 1, 1)), conv("input", [[[[4]]]] * 2), shape=(2, 2, 2), bound=FITS),
        read_out(dense("c", np.eye(3, 8)), dense("b", np.eye(3, 2)), dense("a", np.eye(3, 8)), bound=FITS),
    ),
    2,
)
"""Layers: input, conv `a`, flatten, dense `b`, conv `c`, flatten, dense readout."""


@pytest.fixture(scope="module")
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound file: by default input, convolution, flatten, two dense layers and a readout."""
    path = tmp_path_factory.mktemp("hostile") / "model.net"
    network = getattr(request, "param", random_network(CONV_AND_DENSE))
    backend = "graded" if network.is_graded else "autapse"
    write(path, lower(network, find_target("loihi"), backend), answers(network))
    return path.read_bytes()


chain_and_graph = pytest.mark.parametrize(
    "sound",
    [random_network(CONV_AND_DENSE), GRAPH, fitting_graded(SEVERAL_LAYERS)],
    indirect=True,
    ids=["chain", "graph", "graded"],
)
graph_only = pytest.mark.parametrize("sound", [GRAPH], indirect=True, ids=["graph"])


@pytest.fixture
def path(tmp_path: Path, sound: bytes) -> Path:
    """A sound file to spoil."""
    path = tmp_path / "model.net"
    path.write_bytes(sound)
    return path


def refusal(path: Path) -> str:
    """Return the first line of the error, less the path; the hint is always there."""
    error = refused(FormatError, read, path, check_digests=False)
    assert error.hint in (EXPORT, "update nctool")
    assert str(error).startswith(f"`{path}`: ")
    return error.message.removeprefix(f"`{path}`: ")


def put(path: Path, key: str, value: object, **options: object) -> None:
    """Replace the dataset `key`."""
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        file.create_dataset(key, data=value, **options)


def edit_metadata(path: Path, change: Callable[[dict], object]) -> None:
    with h5py.File(path, "r") as file:
        content = json.loads(file["nctool/metadata"][()])
    change(content)
    put(path, "nctool/metadata", np.bytes_(json.dumps(content).encode()))


def all_keys(content: bytes, tmp_path: Path) -> list[str]:
    path = tmp_path / "keys.net"
    path.write_bytes(content)
    keys: list[str] = []
    with h5py.File(path) as file:
        file.visit(keys.append)
    return keys


# --- what is no such file -----------------------------------------------


def test_the_file_to_spoil_is_sound(path):
    assert read(path).network == random_network(CONV_AND_DENSE)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "none.net")
    assert caught.value.message == f"no such file: `{tmp_path / 'none.net'}`"


def test_a_folder(tmp_path):
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert caught.value.message == f"`{tmp_path}` is a folder, allowed: a netx file"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"# Not a model\n" * 100, b"\x89HDF\r\n\x1a\n", b"\0" * 5000, b"PK\3\4" * 99]
)
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "model.net"
    path.write_bytes(content)
    assert refusal(path).startswith("not a sound HDF5 file (")


def test_a_truncated_file(path, sound):
    for length in [*range(1, 100, 7), *np.linspace(100, len(sound) - 1, 60).astype(int).tolist()]:
        path.write_bytes(sound[:length])
        assert refusal(path).startswith("not a sound HDF5 file (")


def test_a_file_with_bytes_behind_its_end_is_read(path, sound):
    path.write_bytes(sound + b"\0" * 99)
    assert read(path).network == random_network(CONV_AND_DENSE)


def test_netx_of_another_tool(tmp_path):
    path = tmp_path / "foreign.net"
    with h5py.File(path, "w") as file:
        for number, kind in enumerate(("input", "dense")):
            layer = file.create_group(f"layer/{number}")
            layer["type"], layer["shape"] = kind, np.array([2])
        layer["weight"], layer["bias"] = np.ones((2, 2)), np.zeros(2)
        for key, value in {"iDecay": 4095, "vDecay": 128, "vThMant": 10, "refDelay": 1, "type": "CUBA"}.items():
            layer[f"neuron/{key}"] = value
    assert refusal(path) == "a netx file of another tool: the group `/nctool` is missing"


@pytest.mark.parametrize(
    ("version", "hint"), [(4, "update nctool"), (BILLION, "update nctool"), (0, EXPORT), (-1, EXPORT)]
)
def test_another_version(path, version, hint):
    put(path, "nctool/version", np.int64(version))
    with pytest.raises(FormatError) as caught:
        read(path)
    assert str(caught.value) == (f"`{path}`: format version {version}, this nctool reads versions 1 to 3\nhint: {hint}")


def test_a_chain_of_the_version_of_graphs(path):
    put(path, "nctool/version", np.int64(2))
    assert refusal(path) == "`/nctool/version` is 2, allowed 1 for such synapses"


@graph_only
def test_a_graph_of_the_version_of_chains(path):
    put(path, "nctool/version", np.int64(1))
    assert refusal(path) == "`/nctool/version` is 1, allowed 2 for such synapses"


def test_another_format(path):
    put(path, "nctool/format", np.bytes_(b"other"))
    assert refusal(path) == "`/nctool/format` is `other`, allowed `nctool-netx`"


# --- keys that are missing, too many, or something else ------------------


@chain_and_graph
def test_every_key_is_needed(path, sound, tmp_path):
    keys = all_keys(sound, tmp_path)
    assert len(keys) > 50
    for key in keys:
        path.write_bytes(sound)
        with h5py.File(path, "r+") as file:
            del file[key]
        expected = "a netx file of another tool: the group" if key == "nctool" else f"`/{key}"
        assert refusal(path) in (f"{expected}` is missing", f"{expected} `/nctool` is missing"), key


def test_no_key_may_be_a_soft_or_an_external_link(path, sound, tmp_path):
    other = tmp_path / "other.net"
    other.write_bytes(sound)
    for key in all_keys(sound, tmp_path):
        for link in (h5py.ExternalLink("other.net", f"/{key}"), h5py.SoftLink("/kept")):
            path.write_bytes(sound)
            with h5py.File(path, "r+") as file:
                file.move(key, "kept")
                file[key] = link
            assert refusal(path) == f"`/{key}` is a soft or external link, allowed plain data", key


def test_no_link_may_lead_nowhere(path):
    with h5py.File(path, "r+") as file:
        del file["layer/1/weight"]
        file["layer/1/weight"] = h5py.SoftLink("/nowhere")
    assert refusal(path) == "`/layer/1/weight` is a soft or external link, allowed plain data"


@chain_and_graph
def test_no_group_may_be_data_and_no_data_a_group(path, sound, tmp_path):
    keys = all_keys(sound, tmp_path)
    with h5py.File(path) as file:
        groups = [key for key in keys if isinstance(file[key], h5py.Group)]
    for key in keys:
        path.write_bytes(sound)
        with h5py.File(path, "r+") as file:
            del file[key]
            if key in groups:
                file[key] = 1
            else:
                file.create_group(key)
        assert refusal(path) == (f"`/{key}` is no group" if key in groups else f"`/{key}` holds no data"), key


@chain_and_graph
def test_no_number_may_have_another_type(path, sound, tmp_path):
    for key in all_keys(sound, tmp_path):
        path.write_bytes(sound)
        with h5py.File(path) as file:
            if isinstance(file[key], h5py.Group):
                continue
            kind, content = file[key].dtype, file[key][()]
        for other in ("f8", ">i2", "u8", "S3"):
            path.write_bytes(sound)
            put(path, key, np.zeros(np.shape(content), other))
            if key == "nctool/digest" and other == "S3":
                assert read(path, check_digests=False).metadata_changed
                continue
            message = refusal(path)
            if kind.kind == "S" and other == "S3":
                continue  # a text of another length: its content is refused
            numbers = "uint8, uint16, uint32" if "payloads" in key else kind
            allowed = (
                "no text of at most 1048576 bytes" if kind.kind == "S" else f"{np.dtype(other)}, allowed {numbers}"
            )
            assert message == f"`/{key}` is {allowed}"


def test_no_dataset_may_be_empty(path, sound, tmp_path):
    for key in all_keys(sound, tmp_path):
        path.write_bytes(sound)
        with h5py.File(path) as file:
            if isinstance(file[key], h5py.Group):
                continue
            kind = file[key].dtype
        put(path, key, h5py.Empty(kind))
        assert refusal(path) == f"`/{key}` holds no data"


@pytest.mark.parametrize("options", [{"chunks": True}, {"chunks": True, "compression": "gzip"}, {"maxshape": (None,)}])
def test_no_dataset_may_be_chunked(path, options):
    put(path, "layer/1/bias", np.zeros(2, np.int32), **options)
    assert refusal(path) == "`/layer/1/bias` is chunked, external or virtual, allowed contiguous"


@pytest.mark.parametrize("value", ["input", [b"input"], 5])
def test_no_text_may_have_a_length_or_an_axis_of_its_own(path, value):
    put(path, "layer/0/type", value)
    assert refusal(path) == "`/layer/0/type` is no text of at most 1048576 bytes"


def test_no_dataset_may_lie_in_another_file(path, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    with h5py.File(path, "r+") as file:
        del file["layer/1/bias"]
        file.create_dataset("layer/1/bias", (2,), np.int32, external=[(str(tmp_path / "secret"), 0, 8)])
    assert refusal(path) == "`/layer/1/bias` is chunked, external or virtual, allowed contiguous"


@pytest.mark.parametrize(("key", "kind"), [("layer/1/bias", "i4"), ("layer/0/type", "S5"), ("nctool/metadata", "S900")])
def test_no_dataset_may_be_virtual(path, sound, tmp_path, key, kind):
    shape = (2,) if kind == "i4" else ()
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(shape, kind))
    layout = h5py.VirtualLayout(shape, kind)
    layout[...] = h5py.VirtualSource(str(tmp_path / "source.h5"), "x", shape)
    with h5py.File(path, "r+") as file:
        del file[key]
        file.create_virtual_dataset(key, layout)
    assert refusal(path) == f"`/{key}` is chunked, external or virtual, allowed contiguous"


@pytest.mark.parametrize("key", ["layer/1/weight", "layer/1/bias", "nctool/input_table", "nctool/known_answers/input"])
def test_no_size_is_believed_that_the_file_does_not_hold(path, key):
    """A dataset of 10⁹ values a axis, never written: nothing is allocated for it."""
    with h5py.File(path, "r+") as file:
        kind, axes = file[key].dtype, file[key].ndim
        del file[key]
        shape = (BILLION,) * min(axes, 2) + (1,) * (axes - 2)
        file.create_dataset(key, shape, kind)
    n_bytes = BILLION ** min(axes, 2) * kind.itemsize
    assert refusal(path) == f"`/{key}` says {n_bytes} bytes, the file holds 0"


def test_no_file_with_holes_is_believed(path):
    """A dataset of 100 GB that takes no room on the disk."""
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "r+") as file:
        del file["layer/3/weight"]
        space = h5py.h5s.create_simple((1000, 10**8))
        h5py.h5d.create(file["layer/3"].id, b"weight", h5py.h5t.STD_I8LE, space, storage)
    assert path.stat().st_size > 10**11
    assert refusal(path) == "`/layer/3/weight` of 100000000000 bytes: the file unpacks to more than 536870912"


def test_no_text_is_read_that_is_too_long(path):
    put(path, "nctool/metadata", np.bytes_(b"x" * (2**20 + 1)))
    assert refusal(path) == "`/nctool/metadata` is no text of at most 1048576 bytes"


def test_no_text_may_be_other_than_utf8(path):
    put(path, "nctool/metadata", np.bytes_(b'{"target": "\xff\xfe"}'))
    assert refusal(path) == "`/nctool/metadata` is no UTF-8 text"


# --- layers -------------------------------------------------------------


@pytest.mark.parametrize("name", ["6", "extra", "7"])
def test_an_extra_layer(path, name):
    with h5py.File(path, "r+") as file:
        file.copy("layer/5", f"layer/{name}")
    assert refusal(path) == "`/layer` holds 7 layers, allowed 6"


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (0, "flatten", "`/layer/0/type` is `flatten`, allowed input"),
        (1, "pool", "`/layer/1/type` is `pool`, allowed conv, dense"),
        (1, "dense", "`/layer/1/weight` has 4 axes, allowed 2"),
        (2, "dense", "`/layer/2/type` is `dense`, allowed flatten"),
        (3, "conv", "`/layer/3/weight` has 2 axes, allowed 4"),
        (5, "input", "`/layer/5/type` is `input`, allowed conv, dense"),
    ],
)
def test_a_layer_of_another_type(path, number, kind, text):
    put(path, f"layer/{number}/type", np.bytes_(kind.encode()))
    assert refusal(path) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "layer/0/shape",
            np.array([1, 4, BILLION]),
            "`/layer/0/shape` is (1, 4, 1000000000), allowed 1 or 3 sizes 1..16777215",
        ),
        ("layer/0/shape", np.array([1, 0, 5]), "`/layer/0/shape` is (1, 0, 5), allowed 1 or 3 sizes 1..16777215"),
        ("layer/0/shape", np.array([-1]), "`/layer/0/shape` is (-1,), allowed 1 or 3 sizes 1..16777215"),
        ("layer/0/shape", np.array([2, 2]), "`/layer/0/shape` is (2, 2), allowed 1 or 3 sizes 1..16777215"),
        ("layer/0/shape", np.zeros(0, np.int64), "`/layer/0/shape` is (), allowed 1 or 3 sizes 1..16777215"),
        ("layer/1/shape", np.array([2]), "`/layer/1/shape` is (2,), allowed 3 sizes 1..16777215"),
        ("layer/3/shape", np.array([4, 1, 1]), "`/layer/3/shape` is (4, 1, 1), allowed 1 sizes 1..16777215"),
        ("layer/3/shape", np.array([5]), "population `layer1`: bias shape is (4,), allowed (5,)"),
        (
            "layer/3/bias",
            np.zeros(BILLION // 10**8, np.int32),
            "population `layer1`: bias shape is (10,), allowed (4,)",
        ),
        ("layer/1/stride", np.array([1, 0]), None),
        ("layer/1/stride", np.array([1, 2**16]), "`/layer/1/stride` is [1, 65536], allowed two numbers 0..65535"),
        ("layer/1/padding", np.array([-1, 0]), "`/layer/1/padding` is [-1, 0], allowed two numbers 0..65535"),
        ("layer/1/dilation", np.array([1, 1, 1]), "`/layer/1/dilation` is [1, 1, 1], allowed two numbers 0..65535"),
        (
            "layer/1/input_dilation",
            np.array([1, 0]),
            "`/layer/1/input_dilation` is [1, 0], allowed two numbers >= 1, not both 1",
        ),
        (
            "layer/1/input_dilation",
            np.array([1, 1]),
            "`/layer/1/input_dilation` is [1, 1], allowed two numbers >= 1, not both 1",
        ),
        (
            "layer/1/input_dilation",
            np.array([2**15, 2**15]),
            "population `layer0`: places of neurons and the zeros between them is 12885131265, allowed up to 16777216",
        ),
        ("layer/1/groups", np.int64(0), None),
        ("layer/1/groups", np.int64(-(2**63)), None),
        ("layer/1/wgtExp", np.int64(17), "population `layer0`: weight exponent is 17, allowed 0..16"),
        ("layer/1/wgtExp", np.int64(-1), "population `layer0`: weight exponent is -1, allowed 0..16"),
        ("layer/1/neuron/iDecay", np.int64(1), "`/layer/1/neuron/iDecay` is 1, allowed 0"),
        ("layer/1/neuron/vDecay", np.int64(0), "`/layer/1/neuron/vDecay` is 0, allowed 4096"),
        ("layer/5/neuron/refDelay", np.int64(2), "`/layer/5/neuron/refDelay` is 2, allowed 1"),
        ("layer/1/neuron/vThMant", np.zeros(2, np.int32), "population `layer0`: threshold is 0, allowed >= 1"),
        (
            "layer/1/neuron/vInit",
            np.full(2, -(2**31), np.int32),
            "population `layer0`: initial potential is 2147483648, allowed magnitudes below 2**31",
        ),
        (
            "layer/1/neuron/type",
            np.bytes_(b"CUBA"),
            "`/layer/1/neuron/iDecay` is 0, allowed 4096",
        ),
        (
            "layer/1/neuron/type",
            np.bytes_(b"IF-READOUT"),
            "`/layer/1/neuron/type` is `IF-READOUT`, allowed IF, CUBA, or IF-READOUT with a scale",
        ),
        (
            "layer/5/neuron/type",
            np.bytes_(b"IF"),
            "`/layer/5/neuron/type` is `IF`, allowed IF, CUBA, or IF-READOUT with a scale",
        ),
        ("nctool/input_table", np.zeros((2, 256), np.int8), "input: table is int8 (2, 256), allowed int8 (1, 256)"),
    ],
)
def test_a_number_out_of_range(path, key, value, text):
    put(path, key, value)
    found = refusal(path)
    if text is not None:
        assert found == text
    else:
        assert found.startswith("population `layer0`: convolution is ConvGeometry(")


# --- rate input ---------------------------------------------------------

ENCODERS = RateEncoding((2,), np.full((4, 256), 7, np.int16), 9)


@pytest.fixture
def rate_path(tmp_path: Path) -> Path:
    """A sound file whose two pixels enter as four spike trains."""
    path = tmp_path / "rate.net"
    network = IntNetwork(ENCODERS, (read_out(dense("input", np.ones((1, 4))), bound=Bound("proved", 0, 4)),), 1)
    write(path, lower(network, find_target("loihi1")), answers(network))
    assert read(path).network == network
    return path


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("input_table", np.zeros((4, 256), np.int8), "`/nctool/input_table` is int8, allowed int16"),
        ("input_table", np.zeros(256, np.int16), "`/nctool/input_table` has 1 axes, allowed 2"),
        (
            "input_table",
            np.zeros((2, 256), np.int16),
            "`/nctool/input_table` has 2 rows, allowed 4, the input's channels",
        ),
        (
            "input_table",
            np.zeros((4, 255), np.int16),
            "input: table is int16 (4, 255), allowed int16 (a multiple of 2, 256)",
        ),
        ("input_table", np.full((4, 256), -1, np.int16), "input: increment is (-1, -1), allowed 0..9"),
        ("input_table", np.full((4, 256), 10, np.int16), "input: increment is (10, 10), allowed 0..9"),
        ("input_threshold", np.int64(6), "input: increment is (7, 7), allowed 0..6"),
        ("input_threshold", np.int64(0), "input: threshold is 0, allowed 1..32767"),
        ("input_threshold", np.int64(BILLION), f"input: threshold is {BILLION}, allowed 1..32767"),
        ("input_threshold", np.float64(9), "`/nctool/input_threshold` is float64, allowed int64"),
        (
            "input_channels",
            np.int64(0),
            "input: shape is (0,), allowed (channels,) or (channels, height, width), sizes >= 1",
        ),
        ("input_channels", np.int64(3), "input: table is int16 (4, 256), allowed int16 (a multiple of 3, 256)"),
        ("input_channels", np.int64(8), "input: table is int16 (4, 256), allowed int16 (a multiple of 8, 256)"),
        (
            "input_channels",
            np.int64(1),
            "`/nctool/known_answers`: 3 inputs and logits (3, 1, 1) do not fit the network",
        ),
    ],
)
def test_encoders_that_do_not_fit(rate_path, key, value, text):
    put(rate_path, f"nctool/{key}", value)
    assert refusal(rate_path) == text


@pytest.mark.parametrize("key", ["input_table", "input_threshold", "input_channels"])
def test_encoders_that_are_missing(rate_path, key):
    with h5py.File(rate_path, "r+") as file:
        del file[f"nctool/{key}"]
    assert refusal(rate_path) == f"`/nctool/{key}` is missing"


@pytest.mark.parametrize(("key", "value"), [("input_threshold", np.int64(10)), ("input_table", ENCODERS.table + 1)])
def test_encoders_that_changed(rate_path, key, value):
    put(rate_path, f"nctool/{key}", value)
    with pytest.raises(FormatError) as caught:
        read(rate_path)
    assert caught.value.message == f"`{rate_path}`: layer `input` is not what was exported: its digest differs"


def test_a_encoding_of_another_version(rate_path):
    edit_metadata(rate_path, lambda content: content.update(input_encoding="latency"))
    assert refusal(rate_path) == "`/nctool/metadata`: `input_encoding`: input should be 'graded' or 'rate'"


def test_rate_input_read_as_graded(rate_path):
    edit_metadata(rate_path, lambda content: content.update(input_encoding="graded"))
    assert refusal(rate_path) == "`/nctool/input_table` is int16, allowed int8"


# --- synapses -----------------------------------------------------------


def set_sources(*sources: object, population: int = 3) -> Callable[[dict], object]:
    return lambda m: m["populations"][population].update(sources=list(sources))


@graph_only
def test_the_graph_to_spoil_is_sound(path):
    assert read(path).network == GRAPH


BEFORE = "allowed a population that stands before it"


@graph_only
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (set_sources("c", "b", "nobody"), f"population `out`: source is nobody, {BEFORE}"),
        (set_sources("c", "b", ""), f"population `out`: source is , {BEFORE}"),
        (set_sources("c", "b", "out"), f"population `out`: source is out, {BEFORE}"),
        (set_sources("c", population=1), "`/layer/3/synapse` is there, allowed with several sources only"),
        (set_sources("c", "input", population=1), f"population `b`: source is c, {BEFORE}"),
        (set_sources("b", "input", population=1), f"population `b`: source is b, {BEFORE}"),
        (set_sources("a", "out", population=1), f"population `b`: source is out, {BEFORE}"),
        (set_sources("c", "b"), "`/layer/6/synapse` holds 2 synapses, allowed 1, one for each source but the first"),
        (set_sources(), "`/layer/6/synapse` is there, allowed with several sources only"),
        (
            set_sources("c", "b", "a", "a"),
            "`/layer/6/synapse/3` is missing",
        ),
        (set_sources("c", "a", "b"), "population `out`: weight shape is (3, 2), allowed (3, 8)"),
        (set_sources("a", population=0), f"population `a`: source is a, {BEFORE}"),
        (set_sources("input", "input", population=0), "`/layer/1/synapse` is missing"),
        (set_sources("c", "b", 7), "`/nctool/metadata`: `populations.3.sources.2`: input should be a valid string"),
        (set_sources("c", "b", None), "`/nctool/metadata`: `populations.3.sources.2`: input should be a valid string"),
        (
            lambda m: m["populations"][3].update(sources="cba"),
            "`/nctool/metadata`: `populations.3.sources`: input should be a valid array",
        ),
        (
            lambda m: m["populations"][3].update(sources=None),
            "`/nctool/metadata`: `populations.3.sources`: input should be a valid array",
        ),
    ],
)
def test_sources_that_do_not_fit(path, change, text):
    edit_metadata(path, change)
    assert refusal(path) == text


@graph_only
@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("layer/6/synapse/1/type", np.bytes_(b"pool"), "`/layer/6/synapse/1/type` is `pool`, allowed conv, dense"),
        ("layer/6/synapse/1/type", np.bytes_(b"conv"), "`/layer/6/synapse/1/weight` has 2 axes, allowed 4"),
        ("layer/4/synapse/1/type", np.bytes_(b"dense"), "`/layer/4/synapse/1/weight` has 4 axes, allowed 2"),
        ("layer/3/synapse/1/wgtExp", np.int64(17), "population `b`: weight exponent is 17, allowed 0..16"),
        (
            "layer/4/synapse/1/stride",
            np.array([2, 1]),
            "population `c`: shape driven by `input` is (2, 1, 2), allowed (2, 2, 2)",
        ),
        (
            "layer/4/synapse/1/padding",
            np.array([0, -1]),
            "`/layer/4/synapse/1/padding` is [0, -1], allowed two numbers 0..65535",
        ),
        (
            "layer/6/synapse/2/weight",
            np.zeros((4, 8), np.int8),
            "population `out`: shape driven by `a` is (4,), allowed (3,)",
        ),
    ],
)
def test_a_branch_that_does_not_fit(path, key, value, text):
    put(path, key, value)
    assert refusal(path) == text


@graph_only
@pytest.mark.parametrize("name", ["3", "0", "x"])
def test_a_branch_without_a_source(path, name):
    with h5py.File(path, "r+") as file:
        file.copy("layer/6/synapse/1", f"layer/6/synapse/{name}")
    assert refusal(path) == "`/layer/6/synapse` holds 3 synapses, allowed 2, one for each source but the first"


@graph_only
def test_branches_are_numbered_from_one(path):
    with h5py.File(path, "r+") as file:
        file.move("layer/6/synapse/1", "layer/6/synapse/3")
    assert refusal(path) == "`/layer/6/synapse/1` is missing"


def test_a_branch_in_a_chain(path):
    with h5py.File(path, "r+") as file:
        file.create_group("layer/3/synapse")
    assert refusal(path) == "`/layer/3/synapse` is there, allowed with several sources only"


@graph_only
def test_weights_that_branches_share_are_counted_for_each(path):
    """2000 branches, all of them links to one matrix of a megabyte."""
    with h5py.File(path, "r+") as file:
        branch = file["layer/6/synapse/1"]
        del branch["weight"]
        branch["weight"] = np.zeros((1, 2**20), np.int8)
        for number in range(3, 2001):
            file[f"layer/6/synapse/{number}"] = branch
    edit_metadata(path, set_sources("c", "b", "a", *["b"] * 1998))
    assert refusal(path) == ("`/layer/6/synapse/129/weight` of 1048576 bytes: the file unpacks to more than 134217728")


# --- known answers ------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "change", "text"),
    [
        (
            "input",
            lambda a: a[:0],
            "`/nctool/known_answers`: 0 inputs and logits (3, {steps}, 7) do not fit the network",
        ),
        (
            "input",
            lambda a: a[:2],
            "`/nctool/known_answers`: 2 inputs and logits (3, {steps}, 7) do not fit the network",
        ),
        (
            "input",
            lambda a: a[..., :4],
            "`/nctool/known_answers`: 3 inputs and logits (3, {steps}, 7) do not fit the network",
        ),
        ("input", lambda a: a.reshape(3, -1), "`/nctool/known_answers/input` has 2 axes, allowed 4"),
        (
            "logits",
            lambda a: a[:, :, :6],
            "`/nctool/known_answers`: 3 inputs and logits (3, {steps}, 6) do not fit the network",
        ),
        ("spikes/0", lambda a: a[:-1], "`/nctool/known_answers/spikes/0` holds {less} bytes, allowed {bytes}"),
    ],
)
def test_known_answers_that_do_not_fit(path, key, change, text):
    with h5py.File(path) as file:
        content = file[f"nctool/known_answers/{key}"][()]
        steps = file["nctool/known_answers/logits"].shape[1]
    put(path, f"nctool/known_answers/{key}", change(content))
    assert refusal(path) == text.format(steps=steps, bytes=content.size, less=content.size - 1)


# --- metadata -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.update(surprise=1), "`surprise`: extra inputs are not permitted"),
        (lambda m: m["populations"][1].update(x=1), "`populations.1.x`: extra inputs are not permitted"),
        (lambda m: m.pop("target"), "`target`: field required"),
        (lambda m: m["populations"][0].pop("digest"), "`populations.0.digest`: field required"),
        (lambda m: m.update(n_steps="4"), "`n_steps`: input should be a valid integer"),
        (lambda m: m.update(n_steps=4.5), "`n_steps`: input should be a valid integer"),
        (lambda m: m.update(n_steps=0), "`n_steps`: input should be greater than or equal to 1"),
        (lambda m: m.update(populations=5), "`populations`: input should be a valid array"),
        (
            lambda m: m.update(realisation="magic"),
            "`realisation`: input should be 'autapse', 'population', 'zero-reset' or 'graded'",
        ),
        (
            lambda m: m["populations"][3].update(scale=float("nan")),
            "`populations.3.scale`: input should be a finite number",
        ),
        (
            lambda m: m["populations"][3].update(scale=float("inf")),
            "`populations.3.scale`: input should be a finite number",
        ),
        (
            lambda m: m["populations"][0]["bound"].update(margin=float("nan")),
            "`populations.0.bound.margin`: input should be a finite number",
        ),
        (
            lambda m: m["populations"][0]["bound"].update(low=1),
            "`populations.0.bound.low`: input should be less than or equal to 0",
        ),
        (
            lambda m: m["populations"][0]["bound"].update(high=-1),
            "`populations.0.bound.high`: input should be greater than or equal to 0",
        ),
        (
            lambda m: m["populations"][0]["bound"].update(margin=0.5),
            "`populations.0.bound.margin`: input should be greater than or equal to 1",
        ),
        (lambda m: m.update(weight_bits=1), "`weight_bits`: input should be greater than or equal to 2"),
        (lambda m: m.update(weight_bits=9), "`weight_bits`: input should be less than or equal to 8"),
        (
            lambda m: m["populations"][0]["bound"].update(kind="hoped"),
            "`populations.0.bound.kind`: input should be 'proved' or 'calibrated'",
        ),
        (lambda m: m["populations"][0].update(name=None), "`populations.0.name`: input should be a valid string"),
    ],
)
def test_metadata_that_is_not_valid(path, change, text):
    edit_metadata(path, change)
    assert refusal(path) == f"`/nctool/metadata`: {text}"


@pytest.mark.parametrize("text", [b"{", b"", b"null", b"[]", b"[" * 100_000, b'{"n_steps": 1e999}', b"1" * 5000])
def test_metadata_that_is_no_object(path, text):
    put(path, "nctool/metadata", np.array(text, f"S{max(1, len(text))}"))
    assert refusal(path).startswith("`/nctool/metadata`: ")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m["populations"].clear(), "network: number of populations is 0, allowed >= 1"),
        (lambda m: m["populations"].pop(), "network: readouts is [], allowed one, the last population"),
        (
            lambda m: m["populations"][1].update(name="layer0"),
            "population `layer0`: name is layer0, allowed a name not used before",
        ),
        (
            lambda m: m["populations"][0].update(name="input"),
            "population `input`: name is input, allowed a name not used before",
        ),
        (lambda m: m["populations"][0].update(layer=-1), "`/layer/-1` is missing"),
        (lambda m: m["populations"][0].update(layer=BILLION), "`/layer/1000000000` is missing"),
        (lambda m: m["populations"][1].update(layer=2), "`/layer/2/type` is `flatten`, allowed conv, dense"),
        (
            lambda m: m["populations"][3].update(scale=0.0),
            "population `readout`: scale is 0.0, allowed a positive number",
        ),
        (
            lambda m: m["populations"][3].update(scale=None),
            "`/layer/5/neuron/type` is `IF-READOUT`, allowed IF, CUBA, or IF-READOUT with a scale",
        ),
        (
            lambda m: m["populations"][0].update(scale=1.0),
            "`/layer/1/neuron/type` is `IF`, allowed IF, CUBA, or IF-READOUT with a scale",
        ),
        (lambda m: m.update(n_steps=m["n_steps"] + 1), None),
        (lambda m: m.update(n_steps=10**30), None),
    ],
)
def test_metadata_that_does_not_fit_the_layers(path, change, text):
    edit_metadata(path, change)
    found = refusal(path)
    if text is not None:
        assert found == text
    else:
        assert found.startswith("`/nctool/known_answers`: 3 inputs and logits (3, ")


@pytest.mark.parametrize("layers", [[2, 1, 3], [1, 1, 3]])
def test_populations_stand_in_the_order_of_the_layers(tmp_path, layers):
    """Layers of one shape, so that nothing but the numbers is wrong."""
    path, bound = tmp_path / "square.net", Bound("calibrated", -9, 9)
    one, two = (fire(n, dense(s, np.eye(2)), bound=bound) for n, s in (("a", "input"), ("b", "a")))
    network = IntNetwork(signed_input(2), (one, two, read_out(dense("b", np.eye(2)), bound=bound)), 1)
    write(path, lower(network, find_target("lava")), answers(network))
    edit_metadata(path, lambda m: [p.update(layer=n) for p, n in zip(m["populations"], layers, strict=True)])
    assert refusal(path) == f"`/nctool/metadata`: populations are layers {layers}, allowed [1, 2, 3]"


def test_layers_of_two_populations_exchanged(path):
    with h5py.File(path, "r+") as file:
        file.move("layer/4", "layer/spare")
        file.move("layer/3", "layer/4")
        file.move("layer/spare", "layer/3")
    assert refusal(path) == "population `layer1`: weight shape is (7, 4), allowed (7, 36)"


# --- what takes no part in the computation --------------------------------


def flip_first(path: Path, key: str) -> None:
    with h5py.File(path, "r+") as file:
        values = file[key][()]
        values.flat[0] ^= 1
        file[key][...] = values


def sign_again(path: Path) -> None:
    """Write the digest that fits what the file says now."""
    with h5py.File(path, "r+") as file:
        digest = group_digest(file["nctool"])
    put(path, "nctool/digest", np.bytes_(digest))


def as_older(path: Path, version: int = 1) -> None:
    """Make the file what nctool wrote before it knew of digests of metadata."""
    with h5py.File(path, "r+") as file:
        del file["nctool/digest"]
    put(path, "nctool/version", np.int64(version))


ATTACKS = {
    "class names": lambda m: m["provenance"]["classes"].reverse(),
    "data set": lambda m: m["provenance"].update(dataset="other"),
    "target": lambda m: m.update(target="lava"),
    "weight bits": lambda m: m.update(weight_bits=4),
    "tool version": lambda m: m.update(tool_version="9"),
    "conversion": lambda m: m["changes"][1].update(exact=True),
    "bound": lambda m: m["populations"][1]["bound"].update(low=-1, high=1),
    "kind of a bound": lambda m: m["populations"][1]["bound"].update(kind="calibrated"),
    "spaces": lambda m: None,
}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A sound file with provenance and conversion steps."""
    path = tmp_path / "described.net"
    network = random_network(CONV_AND_DENSE)
    write(path, lower(network, find_target("loihi")), answers(network), provenance=PROVENANCE, changes=CHANGES)
    return path


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_changed_metadata_are_refused(described, attack):
    edit_metadata(described, attack)
    with pytest.raises(FormatError) as caught:
        read(described)
    assert caught.value.message == f"`{described}`: group `/nctool` is not what was exported: its digest differs"


@pytest.mark.parametrize("key", ["input", "logits", "spikes/0", "spikes/2"])
def test_changed_known_answers_are_refused(described, key):
    flip_first(described, f"nctool/known_answers/{key}")
    content = read(described, check_digests=False)
    assert content.changes == {"/nctool": "group `/nctool` is not what was exported: its digest differs"}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-1, None), (None, 1), (-1, 1)])
def test_a_proved_bound_must_hold_whatever_a_digest_says(described, older, low, high):
    def narrow(metadata: dict) -> None:
        bound = metadata["populations"][1]["bound"]
        bound.update({key: value for key, value in (("low", low), ("high", high)) if value is not None})

    edit_metadata(described, narrow)
    as_older(described) if older else sign_again(described)
    with pytest.raises(FormatError) as caught:
        read(described)
    assert caught.value.message == (
        f"`{described}`: layer `layer1` can leave its bound, although the file calls it proved"
    )


def test_a_wider_bound_and_a_calibrated_one_are_no_lies(described):
    def widen(metadata: dict) -> None:
        metadata["populations"][0]["bound"].update(low=-131071, high=131071)
        metadata["populations"][1]["bound"].update(low=-1, high=1, kind="calibrated", margin=2.0)

    edit_metadata(described, widen)
    sign_again(described)
    assert read(described).changes == {}


@chain_and_graph
def test_older_files_are_read_without_a_digest_of_their_metadata(path):
    expected = read(path)
    as_older(path, expected.metadata.older_version)
    found = read(path)
    assert found.metadata_changed is None
    assert replace(found, metadata_changed=False) == expected


def test_a_newer_file_needs_its_digest(path):
    with h5py.File(path, "r+") as file:
        del file["nctool/digest"]
    assert refusal(path) == "`/nctool/digest` is missing"


def test_an_older_file_has_no_digest(path):
    put(path, "nctool/version", np.int64(1))
    assert refusal(path) == "`/nctool/digest` is not written by `nctool export`"


@pytest.mark.parametrize(
    "key",
    ["layer/1/delay", "layer/3/neuron/messageBits", "layer/2/weight", "nctool/note", "nctool/known_answers/x", "x"],
)
def test_keys_that_nobody_reads_are_refused(path, key):
    """A stock loader might: `delay` and `messageBits` change what Lava runs."""
    put(path, key, np.int64(1))
    assert refusal(path) == f"`/{key}` is not written by `nctool export`"


def test_a_second_name_of_known_data_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["layer/1/delay"] = file["layer/1/bias"]
        file["layer/1/neuron/again"] = file["layer"]
    assert refusal(path) == "`/layer/1/delay` is not written by `nctool export`"


@pytest.mark.parametrize("key", ["/", "/layer", "/layer/1", "/layer/1/weight", "/nctool", "/nctool/metadata"])
def test_attributes_are_refused(path, key):
    with h5py.File(path, "r+") as file:
        file[key].attrs["delay"] = 3
    assert refusal(path) == f"`{key}` has 1 attributes, allowed none"


# --- flipped bytes ------------------------------------------------------


def assert_reads_or_refuses(path: Path, content: bytes) -> bool:
    """Return whether `content` was read; any exception but an NctoolError fails the test, and so does a long wait."""
    path.write_bytes(content)
    start = time.monotonic()
    try:
        read(path)
    except NctoolError:
        return False
    finally:
        assert time.monotonic() - start < SLOWEST_READ_S
    return True


@settings(max_examples=300)
@given(flips=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_refused_or_do_not_matter(sound, tmp_path_factory, flips):
    content = bytearray(sound)
    for position, mask in flips:
        content[position % len(sound)] ^= mask
    path = tmp_path_factory.getbasetemp() / "flipped.net"
    assert_reads_or_refuses(path, bytes(content))


def test_a_flipped_byte_of_a_weight_never_passes(path, sound):
    """What takes part in the computation is under a digest: here every byte of every weight, bias and threshold."""
    with h5py.File(path) as file:
        keys = [f"layer/{layer}/{key}" for layer in (1, 3, 4, 5) for key in ("weight", "bias", "shape")]
        keys += [f"layer/{layer}/neuron/{key}" for layer in (1, 3, 4) for key in ("vThMant", "vInit")]
        places = [(file[key].id.get_offset(), file[key].nbytes) for key in [*keys, "nctool/input_table"]]
    rng = np.random.default_rng(0)
    positions = [position for start, length in places for position in rng.integers(start, start + length, 3)]
    for position in positions:
        content = bytearray(sound)
        content[position] ^= 1 << int(rng.integers(8))
        assert not assert_reads_or_refuses(path, bytes(content)), position
