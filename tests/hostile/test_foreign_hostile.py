"""Hostile netx files that claim another tool: each is refused with a reason, in bounded time and memory."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_dtypes, array_shapes, arrays, scalar_dtypes

from nctool.errors import FormatError, NctoolError, UnsupportedError, UsageError
from nctool.reference.simulate import simulate
from nctool_deploy.foreign import ForeignOptions, is_foreign, read_foreign
from tests.support.foreign import Draft, conv_layer, dense_layer, input_block
from tests.support.refusals import refused

EXPORT = "export it again, with `nctool export` or with the tool that wrote it"
SIMULATED = "only files of current-based neurons (LOIHI, CUBA) are simulated"
UNCOMPRESSED = "up to 536870912 bytes are read where the data is stored without compression"
FRACTION = "Lava would cut it off without a word; quantise the network before the export"
SHAPE = "--input with samples of shape (samples, steps, channel, height, width) says it"
SLOWEST_READ_S = 5.0
MOST_MEMORY_MB = 1500
LARGEST_RUN = 10**5

IMAGE = (2, 4, 4)
LAYERS = [
    input_block(*IMAGE),
    conv_layer(np.arange(-9, 9).reshape(1, 2, 3, 3), IMAGE, bias=[3.0]),
    {"type": "flatten"},
    dense_layer(np.arange(-6, 6).reshape(3, 4), delay=np.arange(3.0), bias=[1.0, -2.0, 3.0]),
    dense_layer(np.arange(6).reshape(2, 3), neuron=None),
]
"""A sound file: layers 0 to 4."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound file that takes 5 time steps."""
    path = Draft(LAYERS).write(tmp_path_factory.mktemp("foreign") / "sound.net")
    with h5py.File(path, "r+") as file:
        file["simulation/tSample"] = 5
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, sound: bytes) -> Path:
    """A sound file to spoil."""
    path = tmp_path / "foreign.net"
    path.write_bytes(sound)
    return path


def refusal(path: Path, kind: type[NctoolError] = FormatError, input_shape=None, **options: Any) -> str:
    """Return the error less the path, and less the hint where it is the usual one."""
    error = refused(kind, read_foreign, path, ForeignOptions(**options), input_shape=input_shape)
    assert error.message.isprintable()
    return str(error).removeprefix(f"`{path}`: ").removesuffix(f"\nhint: {EXPORT}")


def put(path: Path, key: str, value: Any = None, **options: Any) -> None:
    """Replace the dataset `key`, or delete it."""
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        if value is not None or options:
            file.create_dataset(key, data=value, **options)


def layers(path: Path, *content: dict[str, Any]) -> Path:
    """Write a file of these layers."""
    return Draft(list(content)).write(path)


# --- what is no such file, and what is one after all ---------------------


def test_the_file_to_spoil_is_sound(path):
    network = read_foreign(path).network
    assert [p.name for p in network.populations] == ["input0", "conv1", "dense3", "dense4"]
    assert network.n_steps == 5


def test_extra_keys_do_no_harm(path, sound):
    with h5py.File(path, "r+") as file:
        file["layer/1/neuron/wgtExp"], file["layer/3/note"], file["about"] = 3, "text", np.zeros((2, 2))
        file["layer/1/again"] = file["layer"]  # a cycle
        file["layer/1/nowhere"] = h5py.SoftLink("/none")
        file["self"] = file["/"]
    changed = read_foreign(path)
    path.write_bytes(sound)
    assert changed == read_foreign(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"text " * 500, b"\x89HDF\r\n\x1a\n", b"\0" * 5000, b"PK\3\4" * 99])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "foreign.net"
    path.write_bytes(content)
    for reads in (is_foreign, read_foreign):
        with pytest.raises(FormatError) as caught:
            reads(path)
        assert caught.value.message.startswith(f"`{path}`: not a sound HDF5 file (")


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path, message in (
        (tmp_path / "none.net", f"no such file: `{tmp_path / 'none.net'}`"),
        (tmp_path, f"`{tmp_path}` is a folder, allowed: a netx file"),
    ):
        with pytest.raises(UsageError) as caught:
            is_foreign(path)
        assert caught.value.message == message


def test_a_truncated_file(path, sound):
    for length in [*range(1, 100, 7), *np.linspace(100, len(sound) - 1, 60).astype(int).tolist()]:
        path.write_bytes(sound[:length])
        assert refusal(path).startswith("not a sound HDF5 file (")


def test_an_empty_file_and_one_without_layers(path):
    for key, text in (("layer/4", "`/layer/4` is missing"), ("layer", "`/layer` is missing")):
        with h5py.File(path, "r+") as file:
            del file[key]
            file["layer/extra" if key != "layer" else "other"] = 1
        assert refusal(path) == text
    with h5py.File(path, "r+") as file:
        file.create_group("layer")
    assert refusal(path) == "`/layer` holds 0 layers, allowed 1..1024"


def test_more_layers_than_any_network_has(path):
    with h5py.File(path, "r+") as file:
        for number in range(5, 1025):
            file[f"layer/{number}"] = file["layer/2"]
    assert refusal(path) == "`/layer` holds 1025 layers, allowed 1..1024"


@pytest.mark.parametrize("content", [[{"type": "flatten"}], [{"type": "input", "shape": (3,)}]])
def test_layers_that_compute_nothing(path, content):
    assert refusal(layers(path, *content)) == "`/layer` holds no layer that computes"


# --- what is read, but not supported: refused by name --------------------


@pytest.mark.parametrize(
    "kind",
    ["pool", "average", "concat", "convT", "unpool", "dense_comp", "Dense", "affine", "x" * 256],
)
def test_a_layer_of_another_type(path, kind):
    put(path, "layer/3/type", kind)
    text = f"layer 3: type `{kind}`, allowed input, conv, dense, dense_rec, flatten\nhint: {SIMULATED}"
    assert refusal(path, UnsupportedError) == text


@pytest.mark.parametrize("kind", ["SDNN", "RF", "RF_IZ", "RF_PHASE", "ALIF", "cuba"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_neuron_of_another_type(path, number, kind):
    put(path, f"layer/{number}/neuron/type", np.array([kind.encode()]))
    text = f"layer {number}: neuron `{kind}`, allowed LOIHI, CUBA\nhint: {SIMULATED}"
    assert refusal(path, UnsupportedError) == text


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (np.ones((3, 4)), "layer 3: weight_rec 3x4, allowed 3x3"),
        (np.ones((2, 3)), "layer 3: weight_rec 2x3, allowed 2 axes, 3 neurons out"),
        (np.full((3, 3), 256), "layer 3: weight 256, allowed -256..255"),
        (np.full((3, 3), 0.5), f"`/layer/3/weight_rec` holds 0.5, allowed whole numbers\nhint: {FRACTION}"),
        (None, "`/layer/3/weight_rec` is missing"),
    ],
)
def test_a_recurrent_layer_that_does_not_fit(path, weight, text):
    put(path, "layer/3/type", "dense_rec")
    with h5py.File(path, "r+") as file:
        del file["layer/3/delay"]
    if weight is not None:
        put(path, "layer/3/weight_rec", weight)
    assert refusal(path) == text


def test_a_recurrent_layer_with_delays(path):
    put(path, "layer/3/type", "dense_rec")
    put(path, "layer/3/weight_rec", np.ones((3, 3)))
    assert refusal(path, UnsupportedError) == (
        "layer 3: delays in a recurrent layer\n"
        "hint: Lava leaves the scale of the weights out there, and gives their delays to the recurrent ones too"
    )


@pytest.mark.parametrize("number", [0, 1, 3])
def test_message_bits(path, number):
    put(path, f"layer/{number}/neuron/messageBits", 8)
    text = f"layer {number}: `messageBits`, on which the stock netx loader fails\nhint: leave it out"
    assert refusal(path, UnsupportedError) == text


def test_complex_weights(path):
    with h5py.File(path, "r+") as file:
        file.move("layer/3/weight", "layer/3/real")
        file.move("layer/3/real", "layer/3/weight/real")
        file["layer/3/weight/imag"] = file["layer/3/weight/real"][()]
    assert refusal(path, UnsupportedError) == f"layer 3: complex weights\nhint: {SIMULATED}"


def test_a_second_input(path):
    put(path, "layer/2/type", "input")
    assert refusal(path, UnsupportedError) == "layer 2: an `input` layer, allowed as the first only"


# --- keys and types ------------------------------------------------------

NEEDED = [
    *(f"layer/{number}/type" for number in range(5)),
    *("layer/0/shape", "layer/1/shape", "layer/3/shape", "layer/4/shape"),
    *(f"layer/{number}/weight" for number in (1, 3, 4)),
    *(f"layer/1/{key}" for key in ("stride", "padding", "dilation", "groups", "neuron")),
    *(f"layer/{number}/neuron/{key}" for number in (0, 1, 3) for key in ("type", "iDecay", "vDecay", "vThMant")),
]
OPTIONAL = ["layer/0/weight", "layer/0/bias", "layer/1/bias", "layer/3/bias", "layer/3/delay", "simulation/tSample"]
NUMBERS = [key for key in [*NEEDED, *OPTIONAL] if not key.endswith(("type", "neuron"))]


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key(path, key):
    put(path, key)
    assert refusal(path) == f"`/{key}` is missing"


@pytest.mark.parametrize("key", OPTIONAL)
def test_a_key_that_may_be_missing(path, key):
    put(path, key)
    read_foreign(path)


def test_no_key_may_be_a_soft_or_an_external_link(path, sound):
    for key in ["layer", "layer/3", "simulation", *NEEDED, *OPTIONAL]:
        for link in (h5py.ExternalLink("other.net", f"/{key}"), h5py.SoftLink("/kept"), h5py.SoftLink(f"/{key}")):
            path.write_bytes(sound)
            with h5py.File(path, "r+") as file:
                file.move(key, "kept")
                file[key] = link
            assert refusal(path) == f"`/{key}` is a soft or external link, allowed plain data", key


@pytest.mark.parametrize("key", ["layer", "layer/1", "layer/3/neuron", "simulation"])
def test_no_group_may_be_data(path, key):
    put(path, key, 1)
    assert refusal(path) == f"`/{key}` is no group"


@pytest.mark.parametrize(
    "key", [key for key in [*NUMBERS, "layer/3/type"] if key not in ("layer/3/weight", "layer/4/weight")]
)
def test_no_data_may_be_a_group(path, key):
    put(path, key)
    with h5py.File(path, "r+") as file:
        file.create_group(key)
    assert refusal(path) == f"`/{key}` holds no data"


POINT = np.dtype([("x", "i4"), ("y", "f4")])


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_is_checked(path, key):
    put(path, key, [1.0, np.nan])
    assert refusal(path) == f"`/{key}` reaches from nan to nan, allowed -2147483647..2147483647"


@pytest.mark.parametrize("key", ["layer/0/bias", "layer/1/stride", "layer/3/weight"])
@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        ("8", {}, "is object, allowed numbers"),
        (np.bytes_(b"8"), {}, "is |S1, allowed numbers"),
        (np.complex64(8), {}, "is complex64, allowed numbers"),
        (np.zeros(3, POINT), {}, "is [('x', '<i4'), ('y', '<f4')], allowed numbers"),
        (np.void(b"pickle"), {}, "is |V6, allowed numbers"),
        ([np.arange(2), np.arange(3)], {"dtype": h5py.vlen_dtype(np.int32)}, "is object, allowed numbers"),
        (None, {"shape": (), "dtype": h5py.ref_dtype}, "is object, allowed numbers"),
        (h5py.Empty("f4"), {}, "holds no data"),
        (np.zeros((0, 3)), {}, "is empty"),
        ([1.0, -np.inf], {}, "reaches from -inf to 1.0, allowed -2147483647..2147483647"),
        (2**31, {}, "reaches from 2147483648 to 2147483648, allowed -2147483647..2147483647"),
        (
            np.uint64(2**64 - 1),
            {},
            "reaches from 18446744073709551615 to 18446744073709551615, allowed -2147483647..2147483647",
        ),
        (-(2**31), {}, "reaches from -2147483648 to -2147483648, allowed -2147483647..2147483647"),
        (np.float64(1e300), {}, "reaches from 1e+300 to 1e+300, allowed -2147483647..2147483647"),
        ([0.5, 1.0], {}, f"holds 0.5, allowed whole numbers\nhint: {FRACTION}"),
        (np.float16(-1.25), {}, f"holds -1.25, allowed whole numbers\nhint: {FRACTION}"),
    ],
)
def test_numbers_that_are_none(path, key, value, options, text):
    put(path, key, value, **options)
    assert refusal(path) == f"`/{key}` {text}"


@pytest.mark.parametrize("key", ["layer/3/type", "layer/3/neuron/type"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "is int64 (), allowed a short text"),
        (np.float32([1, 2]), "is float32 (2,), allowed a short text"),
        (np.void(b"dense"), "is |V5 (), allowed a short text"),
        (np.zeros(0, "S5"), "is |S5 (0,), allowed a short text"),
        (np.full(257, b"dense"), "is |S5 (257,), allowed a short text"),
        (np.bytes_(b"d" * 257), "is |S257 (), allowed a short text"),
        pytest.param("d" * 257, "is a text of 257 characters, allowed 256 printable ones", id="long"),
        ("\x1b[2J", "is a text of 4 characters, allowed 256 printable ones"),
        ("dense\nerror: none", "is a text of 17 characters, allowed 256 printable ones"),
        (h5py.Empty("S5"), "holds no data"),
    ],
)
def test_words_that_are_none(path, key, value, text):
    put(path, key, value)
    assert refusal(path) == f"`/{key}` {text}"


@pytest.mark.parametrize("kind", ["u1", "i1", ">i2", "<u8", "f2", ">f4", "f8", "g"])
def test_any_type_of_number_is_read(path, kind):
    expected = read_foreign(path).network
    with h5py.File(path) as file:
        content = {key: file[key][()] for key in ("layer/1/shape", "layer/3/delay", "layer/4/weight")}
    for key, value in content.items():
        put(path, key, np.asarray(value).astype(kind))
    assert read_foreign(path).network == expected


# --- where data lies -----------------------------------------------------


@pytest.mark.parametrize("key", ["layer/3/weight", "layer/3/type"])
def test_no_data_may_lie_in_another_file(path, tmp_path, key):
    (tmp_path / "secret").write_bytes(bytes(48))
    kind, shape = ("i4", (3, 4)) if key.endswith("weight") else ("S5", (1,))
    n_bytes = math.prod(shape) * np.dtype(kind).itemsize
    put(path, key, shape=shape, dtype=kind, external=[(str(tmp_path / "secret"), 0, n_bytes)])
    assert refusal(path) == f"`/{key}` is external or virtual, allowed data in this file"


@pytest.mark.parametrize(("key", "kind", "shape"), [("layer/3/weight", "i4", (3, 4)), ("layer/3/type", "S5", (1,))])
def test_no_data_may_be_virtual(path, tmp_path, key, kind, shape):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(shape, kind))
    layout = h5py.VirtualLayout(shape, kind)
    layout[...] = h5py.VirtualSource(str(tmp_path / "source.h5"), "x", shape)
    put(path, key)
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset(key, layout)
    assert refusal(path) == f"`/{key}` is external or virtual, allowed data in this file"


@pytest.mark.parametrize(
    ("shape", "kind", "options", "n_bytes"),
    [
        ((10**9, 10**9), "i1", {}, 4 * 10**18),
        ((10**9,), "f8", {"chunks": (1000,), "compression": "gzip"}, 8 * 10**9),
        ((2**33,), "i1", {"chunks": (2**20,)}, 2**35),
        ((10,), "f8", {"chunks": (2**28,), "maxshape": (None,)}, 2**31),
        ((2**32, 2**32, 2**32), "i4", {"chunks": (1, 1, 2**20)}, 2**98),
    ],
)
@pytest.mark.parametrize("key", ["layer/0/shape", "layer/0/neuron/vDecay"])
def test_no_size_is_believed(path, key, shape, kind, options, n_bytes):
    """Of a dataset that was never written nothing is allocated, nor of a single chunk larger than it."""
    put(path, key, shape=shape, dtype=kind, **options)
    start = time.process_time()
    text = f"`/{key}` of {n_bytes} bytes: the file unpacks to more than 134217728\nhint: {UNCOMPRESSED}"
    assert refusal(path) == text
    assert time.process_time() - start < SLOWEST_READ_S


# --- numbers that do not fit together ------------------------------------


ONE_EACH = "allowed one number, or one for each of 3 channels"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("layer/0/shape", [2, 0, 4], "`/layer/0/shape` is 2x0x4, allowed sizes >= 1, up to 16777215 neurons"),
        ("layer/0/shape", [-2, 4, -4], "`/layer/0/shape` is -2x4x-4, allowed sizes >= 1, up to 16777215 neurons"),
        (
            "layer/0/shape",
            [1, 10**9, 1],
            "`/layer/0/shape` is 1x1000000000x1, allowed sizes >= 1, up to 16777215 neurons",
        ),
        (
            "layer/0/shape",
            [2**30, 2**30, 16],  # their product is 2**64
            "`/layer/0/shape` is 1073741824x1073741824x16, allowed sizes >= 1, up to 16777215 neurons",
        ),
        ("layer/0/shape", [2, 4], "`/layer/0/shape` holds 2 numbers, allowed 1 or 3"),
        ("layer/0/shape", np.ones(10**6), "`/layer/0/shape` holds 1000000 numbers, allowed 1 or 3"),
        ("layer/0/shape", 32, "layer 1: a convolution with 4 axes on a source of 1, allowed 4 on 3"),
        ("layer/0/weight", [1, 2], "`/layer/0/weight` holds 2 numbers, allowed 1"),
        ("layer/1/shape", [1, 2, 3], "layer 1: shape 1x2x3, allowed 1x2x2, what it computes"),
        ("layer/1/shape", [4], "`/layer/1/shape` holds 1 numbers, allowed 3"),
        ("layer/1/weight", 5, "layer 1: a convolution with 0 axes on a source of 3, allowed 4 on 3"),
        (
            "layer/1/weight",
            np.ones((1, 2, 3, 3, 2)),
            "layer 1: a convolution with 5 axes on a source of 3, allowed 4 on 3",
        ),
        ("layer/1/weight", np.ones((1, 2, 5, 3)), "layer 1: weight 1x2x5x3 does not fit a source 2x4x4"),
        ("layer/1/weight", np.ones((1, 3, 3, 3)), "layer 1: weight 1x3x3x3 does not fit a source 2x4x4"),
        (
            "layer/1/weight",
            np.ones((1, 2, 128, 1)),
            "layer 1: kernel (128, 1), allowed 1..127, what Lava holds in 8 bits",
        ),
        ("layer/1/stride", [0, 1], "layer 1: stride (0, 1), allowed 1..127, what Lava holds in 8 bits"),
        ("layer/1/stride", 128, "layer 1: stride (128, 128), allowed 1..127, what Lava holds in 8 bits"),
        ("layer/1/stride", [1, 1, 1], "`/layer/1/stride` holds 3 numbers, allowed 1 or 2"),
        ("layer/1/stride", np.ones(10**6), "`/layer/1/stride` holds 1000000 numbers, allowed 1 or 2"),
        ("layer/1/padding", [-1, 0], "layer 1: padding (-1, 0), allowed 0..127, what Lava holds in 8 bits"),
        (
            "layer/1/dilation",
            [1, 10**9],
            "layer 1: dilation (1, 1000000000), allowed 1..127, what Lava holds in 8 bits",
        ),
        ("layer/1/groups", 0, "layer 1: groups (0,), allowed 1..127, what Lava holds in 8 bits"),
        ("layer/1/groups", 128, "layer 1: groups (128,), allowed 1..127, what Lava holds in 8 bits"),
        ("layer/1/groups", 2, "layer 1: 1 channels in 2 groups"),
        ("layer/1/bias", [1, 2], "layer 1: bias 2, allowed one for each of 1 channels"),
        ("layer/1/bias", [[1]], "layer 1: bias 1x1, allowed one for each of 1 channels"),
        ("layer/1/bias", [-(2**15)], "layer 1: bias -32768, allowed below 32768"),
        ("layer/3/bias", [0, 2**31 - 1, 0], "layer 3: bias 2147483647, allowed below 32768"),
        ("layer/3/shape", [4], "layer 3: weight 3x4, allowed 2 axes, 4 neurons out"),
        ("layer/3/shape", [-1, -3], "`/layer/3/shape` is -1x-3, allowed sizes >= 1, up to 16777215 neurons"),
        ("layer/3/weight", np.ones((3, 5)), "layer 3: weight 3x5 does not fit a source 1x2x2"),
        ("layer/3/weight", np.ones(13), "layer 3: weight 13, allowed 2 axes, 3 neurons out"),
        ("layer/3/weight", np.ones((3, 4, 1)), "layer 3: weight 3x4x1, allowed 2 axes, 3 neurons out"),
        ("layer/3/weight", np.full((3, 4), 256), "layer 3: weight 256, allowed -256..255"),
        ("layer/3/weight", np.full((3, 4), -257), "layer 3: weight -257, allowed -256..255"),
        ("layer/3/delay", [0, -1, 2], "layer 3: delay -1, allowed 0..62"),
        ("layer/3/delay", [1, 2], "layer 3: delay 2 does not fit weight 3x4"),
        ("layer/3/delay", np.ones((4, 3)), "layer 3: delay 4x3 does not fit weight 3x4"),
        ("layer/4/weight", np.ones((2, 4)), "layer 4: weight 2x4 does not fit a source 3"),
        ("layer/1/neuron/iDecay", -1, "layer 1: `iDecay` is -1, allowed 0..4096"),
        ("layer/1/neuron/iDecay", 4097, "layer 1: `iDecay` is 4097, allowed 0..4096"),
        ("layer/3/neuron/vDecay", 2**31 - 1, "layer 3: `vDecay` is 2147483647, allowed 0..4096"),
        ("layer/3/neuron/vDecay", [1, 2], f"layer 3: `vDecay` 2, {ONE_EACH}"),
        ("layer/3/neuron/vDecay", [[1], [2], [3]], f"layer 3: `vDecay` 3x1, {ONE_EACH}"),
        ("layer/3/neuron/iDecay", [0, 4097, 5], "layer 3: `iDecay` is 4097, allowed 0..4096"),
        ("layer/3/neuron/iDecay", [0, 5, -1], "layer 3: `iDecay` is -1, allowed 0..4096"),
        ("layer/3/neuron/vThMant", [1, 2, 3], "`/layer/3/neuron/vThMant` holds 3 numbers, allowed 1"),
        ("layer/3/neuron/vThMant", -1, "layer 3: `vThMant` is -1, allowed 0..16777215"),
        ("layer/3/neuron/vThMant", 2**24, "layer 3: `vThMant` is 16777216, allowed 0..16777215"),
        ("simulation/tSample", 0, "`/simulation/tSample` is 0, allowed 1..1048575"),
        ("simulation/tSample", -5, "`/simulation/tSample` is -5, allowed 1..1048575"),
        ("simulation/tSample", 2**20, "`/simulation/tSample` is 1048576, allowed 1..1048575"),
        ("simulation/tSample", [5, 5], "`/simulation/tSample` holds 2 numbers, allowed 1"),
    ],
)
def test_a_number_out_of_range(path, key, value, text):
    put(path, key, value)
    assert refusal(path) == text


def test_layers_in_an_order_that_does_not_work(path):
    image, wide = conv_layer(np.ones((1, 2, 3, 3)), IMAGE), dense_layer(np.ones((2, 4)))
    no_source = f"layer 0: the file does not say the shape of its input\nhint: {SHAPE}"
    assert refusal(layers(path, image)) == no_source
    text = "layer 1: a convolution with 4 axes on a source of 1, allowed 4 on 3"
    assert refusal(layers(path, wide, image)) == text
    text = "layer 2: dense on a source of 3 axes, allowed after a `flatten` layer"
    assert refusal(layers(path, {"type": "input", "shape": IMAGE}, image, wide)) == text
    text = "layer 1: weight 2x4 does not fit a source 2x4x4"
    assert refusal(layers(path, {"type": "input", "shape": IMAGE}, wide)) == text


def test_a_shape_of_samples_that_does_not_fit(path):
    image = conv_layer(np.ones((1, 2, 3, 3)), IMAGE)
    text = "layer 0: a convolution with 4 axes on a source of 2, allowed 4 on 3"
    assert refusal(layers(path, image), input_shape=(5, 7)) == text
    text = "layer 0: weight 1x2x3x3 does not fit a source 2x4x2"
    assert refusal(path, input_shape=(2, 4, 2)) == text
    text = "layer 0: shape 1x2x2, allowed 1x3x2, what it computes"
    assert refusal(path, input_shape=(2, 5, 4)) == text


def test_layers_that_are_left_out(path):
    assert refusal(path, UsageError, skip_layers=5) == "layers: skips 5 of 5, allowed 0..4"
    assert refusal(path, UsageError, num_layers=2, skip_layers=2) == "layers: skips 2 of 2, allowed 0..1"
    assert refusal(path, UsageError, skip_layers=-1) == "layers: skips -1 of 5, allowed 0..4"
    assert refusal(path, num_layers=3, skip_layers=2) == "`/layer` holds no layer that computes"
    assert read_foreign(path, ForeignOptions(num_layers=99)) == read_foreign(path)


# --- bombs ---------------------------------------------------------------

READ = """
import sys, time
from pathlib import Path
from nctool.errors import NctoolError
from nctool_deploy.foreign import ForeignOptions, read_foreign
start = time.process_time()
try:
    result = len(read_foreign(Path(sys.argv[1])).network.populations)
except NctoolError as error:
    result = error.message
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(result, time.process_time() - start, int(status["VmHWM"].split()[0]) // 1024, sep="|")
"""


def read_apart(path: Path) -> str:
    """Read a file in a process of its own and return how many populations it has, or the error less the path.

    The peak of its memory is the kernel's VmHWM: what getrusage tells begins with that of the process that started it.
    """
    found = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    result, seconds, megabytes = found.stdout.rsplit("|", 2)
    assert float(seconds) < SLOWEST_READ_S
    assert int(megabytes) < MOST_MEMORY_MB
    return result.removeprefix(f"`{path}`: ")


def bomb(path: Path, n_out: int, n_in: int, kind: str, n_layers: int = 1) -> Path:
    """Write dense layers of one size whose weights are hard links to one compressed dataset of 1, -1, 77 and -128."""
    with h5py.File(path, "w") as file:
        rows = min(2**7, n_out)
        weight = file.create_dataset("weight", (n_out, n_in), kind, chunks=(rows, n_in), compression="gzip")
        for start in range(0, n_out, rows):
            weight[start : start + rows] = np.resize(np.array([1, -1, 77, -128], kind), (rows, n_in))
        for number in range(n_layers):
            layer = file.create_group(f"layer/{number}")
            layer["type"], layer["shape"], layer["weight"] = "dense", [n_out], weight
    assert path.stat().st_size < 2 * 2**20
    return path


def test_what_a_small_file_may_unpack_to(tmp_path):
    assert read_apart(bomb(tmp_path / "foreign.net", 2**12, 2**13 - 1, "f4")) == "1"


def test_many_layers_that_share_a_small_weight(tmp_path):
    assert read_apart(bomb(tmp_path / "foreign.net", 2**7, 2**7, "i1", n_layers=1024)) == "1024"


@pytest.mark.parametrize(
    ("n_out", "n_in", "n_layers", "text"),
    [
        (2**12, 2**13, 1, "`/layer/0/weight` of 134217728 bytes"),
        (2**12, 2**12, 1024, "`/layer/1/weight` of 67108864 bytes"),
        (2**8, 2**8, 1024, "`/layer/511/weight` of 262144 bytes"),
    ],
)
def test_weights_that_unpack_to_more_than_that(tmp_path, n_out, n_in, n_layers, text):
    """One weight, or one that many layers share."""
    path = bomb(tmp_path / "foreign.net", n_out, n_in, "i1", n_layers)
    assert read_apart(path) == f"{text}: the file unpacks to more than 134217728"


def test_a_file_with_holes(tmp_path):
    """A file that says to hold 100 GB, and does so on paper only."""
    path, storage = tmp_path / "foreign.net", h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"], layer["shape"] = np.bytes_(b"dense"), [1000]
        h5py.h5d.create(layer.id, b"weight", h5py.h5t.STD_I8LE, h5py.h5s.create_simple((1000, 10**8)), storage)
    assert path.stat().st_size > 10**11
    text = "`/layer/0/weight` of 400000000000 bytes: the file unpacks to more than 536870912"
    assert read_apart(path) == text


def test_a_source_of_too_many_neurons(path):
    text = "layer 0: weight 1x16777216, allowed 16777215 inputs"
    assert refusal(layers(path, dense_layer(np.ones((1, 2**24), np.int8)))) == text


# --- random files --------------------------------------------------------


def assert_runs_or_refuses(path: Path) -> None:
    """Read a file and run what it holds; any exception but an NctoolError fails the test, and so does a long wait."""
    start = time.process_time()
    try:
        network = read_foreign(path, ForeignOptions(reset_interval=2)).network
        if sum(population.n_neurons for population in network.populations) < LARGEST_RUN:
            simulate(network, np.ones((1, 2, *network.input.shape), np.int64), n_steps=2)
    except NctoolError as error:
        assert error.message.isprintable()
    assert time.process_time() - start < SLOWEST_READ_S


@settings(max_examples=200)
@given(flips=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes(sound, tmp_path_factory, flips):
    content = bytearray(sound)
    for position, mask in flips:
        content[position % len(sound)] ^= mask
    path = tmp_path_factory.getbasetemp() / "flipped.net"
    path.write_bytes(content)
    assert_runs_or_refuses(path)


any_number = st.one_of(
    st.integers(-3, 6),
    st.sampled_from([62, 63, 127, 128, 255, 256, 4096, 2**15, 2**17, 2**24]),
    st.floats(),
    st.booleans(),
)
any_array = st.one_of(
    any_number,
    st.lists(st.integers(-1, 9), max_size=5),
    arrays(scalar_dtypes() | array_dtypes(), array_shapes(min_dims=0, max_dims=5, max_side=4)),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(["CUBA", "LOIHI", "input", "conv", "dense", "flatten"]),
)


@settings(max_examples=200)
@given(
    edits=st.dictionaries(st.sampled_from([*NEEDED, *OPTIONAL, "layer/2/weight"]), any_array, min_size=1, max_size=3)
)
def test_other_content(sound, tmp_path_factory, edits):
    path = tmp_path_factory.getbasetemp() / "other.net"
    path.write_bytes(sound)
    for key, value in edits.items():
        with suppress(TypeError, ValueError, OSError):  # what HDF5 cannot hold
            put(path, key, value)
    assert_runs_or_refuses(path)


@settings(max_examples=100)
@given(order=st.lists(st.sampled_from(range(7)), min_size=1, max_size=6))
def test_layers_in_any_order(tmp_path_factory, order):
    kinds = [*LAYERS, {"type": "input", "shape": IMAGE}, dense_layer(np.ones((3, 3)))]
    assert_runs_or_refuses(layers(tmp_path_factory.getbasetemp() / "order.net", *(kinds[kind] for kind in order)))
