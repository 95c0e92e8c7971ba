"""Arrays of the user that are no samples or labels, and outputs that cannot be written: refused before the run."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nctool import run_sim, verify
from nctool.errors import FormatError, NctoolError, RangeError, UsageError
from nctool.image_arrays import channels_first
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import INPUT_NAME, IntNetwork
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool.running.arrays import load_array, load_labels
from nctool.running.engines import ENGINES
from nctool_deploy.foreign import ForeignOptions
from nctool_models import load_dataset
from tests.support.foreign import Draft, dense_layer, input_block
from tests.support.networks import dense, fire, read_out, signed_input, write_network
from tests.support.refusals import refused

SAVE = "save an array of numbers with `numpy.save`"
AXES = "axes are (samples, steps, channel, height, width); Lava's are (width, height, channel, steps)"
WRITE = "choose another place with output, or make the folder and give yourself the right to write there"
FIXED = "steps, reset_interval, num_layers and skip_layers are for netx files of other tools"
STREAM = (
    "input: the samples last 2 steps, allowed one value for all steps: it is a bias (rule I3)\n"
    "hint: run from the next layer on with skip_layers=1 to feed spikes"
)
NUMBERS = "labels are class numbers 0, 1, 2, ..., one for each of the 2 images"
TRANSFORM = "only a file with an input block says how real numbers become integers"


@pytest.fixture
def spiking(tmp_path: Path) -> Path:
    """A file that takes spikes of 3 neurons and answers with 2."""
    return Draft([dense_layer(np.arange(6).reshape(2, 3))]).write(tmp_path / "spiking.net")


@pytest.fixture
def biased(tmp_path: Path) -> Path:
    """A file that takes the biases of 3 neurons: 36 x + 34."""
    return Draft([input_block(3), dense_layer(np.arange(6).reshape(2, 3))]).write(tmp_path / "biased.net")


def saved(folder: Path, values: Any, name: str = "x") -> Path:
    path = folder / f"{name}.npy"
    np.save(path, values)
    return path


def refusal(kind: type[NctoolError], model: Path, array: Any, **options: Any) -> str:
    """Return what `run_sim` says of an array; an array that is a path is taken as it is."""
    path = array if isinstance(array, Path) else saved(model.parent, array)
    return str(refused(kind, run_sim, model, **{"engine": "reference", **options}, input=path))


# --- .npy files ----------------------------------------------------------


def npy(header: str, body: bytes = bytes(64)) -> bytes:
    """Return a .npy file with this header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1") + body


def described(shape: str, kind: str = "'<i4'") -> bytes:
    return npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}")


def as_bytes(values: Any, save: Any = np.save) -> bytes:
    buffer = io.BytesIO()
    save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1,2,3\n",
        b"\x80\x04K\x01.",  # a pickle
        b"PK\3\4" + bytes(99),
        as_bytes(np.zeros(99))[:200],
        as_bytes(np.zeros(99))[:20],
        as_bytes(np.array([{}, "x"], object)),
        described("(-1,)"),
        described("(2.0,)"),
        described("(True, 2)"),
        described("(10000000000000,)"),
        described("(1000000000000000000000000,)"),
        described("(4294967296, 4294967296)"),
        described("(" + "1," * 70 + ")"),
        described("(" + "-" * 4000 + "1,)"),
        described("(1,)", "('<i4', (99999, 99999))"),
        described("(1,)", "'zzz'"),
        npy("{1: 2, 'a': 3}"),
        npy("{"),
        npy(" " * 20_000),
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), 'more': 1}"),
    ],
)
def test_a_file_that_is_no_array(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        load_array(path)
    assert caught.value.message.startswith(f"`{path}`: no sound .npy file (")
    assert caught.value.hint == SAVE


def test_a_folder_and_an_image_are_named_with_the_way_out(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_array(tmp_path)
    assert str(caught.value) == (
        f"`{tmp_path}` is a folder, allowed: a .npy file\n"
        f"hint: a folder with train/ and test/ of class folders is a --dataset; for other images, {SAVE}"
    )
    image = tmp_path / "one.PNG"
    image.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(FormatError) as refused:
        load_array(image)
    assert str(refused.value) == (
        f"`{image}` is an image, allowed: a .npy file\n"
        "hint: save its pixels: `numpy.save('x.npy', numpy.asarray(image)[None])`, image being what Pillow opened"
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.float64(3), "float64 ()"),
        (np.zeros((3, 0)), "float64 (3, 0)"),
        (np.zeros(2, complex), "complex128 (2,)"),
        (np.array(["a", "b"]), "<U1 (2,)"),
        (np.array(["2020-01-01"], "M8[D]"), "datetime64[D] (1,)"),
        (np.zeros(2, "i4,f4"), "[('f0', '<i4'), ('f1', '<f4')] (2,)"),
    ],
)
def test_an_array_of_no_numbers(tmp_path, values, text):
    path = saved(tmp_path, values)
    with pytest.raises(FormatError) as caught:
        load_array(path)
    assert str(caught.value) == f"`{path}`: holds {text}, allowed an array of numbers\nhint: {SAVE}"


def test_a_file_without_samples(tmp_path):
    path = saved(tmp_path, np.zeros((0, 3)))
    with pytest.raises(FormatError) as caught:
        load_array(path)
    assert str(caught.value) == f"`{path}`: holds no samples: float64 (0, 3)"
    with pytest.raises(FormatError) as refused:
        load_labels(np.zeros(0, int), 1)
    assert str(refused.value) == "`labels`: holds no labels: int64 (0,)"


def test_an_archive_is_no_array(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(FormatError) as caught:
        load_array(path)
    assert str(caught.value) == (
        f"`{path}` is an archive, allowed: a .npy file of one array\n"
        "hint: save one array of it with `numpy.save`; a data set of images and labels is given with --dataset"
    )


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "none.npy"
    with pytest.raises(UsageError) as caught:
        load_array(path)
    assert str(caught.value) == f"no such file: `{path}`\nhint: {SAVE}"


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(st.integers(0, 127), st.integers(0, 255) | st.sampled_from(b"(){}[],:'0123456789<>|fiOSUV-+e jL")),
        min_size=1,
        max_size=4,
    )
)
def test_a_header_of_other_bytes(tmp_path_factory, changes):
    path, content = tmp_path_factory.getbasetemp() / "x.npy", bytearray(as_bytes(np.zeros((2, 3, 4), "<i4")))
    for position, value in changes:
        content[position] = value
    path.write_bytes(content)
    try:
        assert load_array(path).size > 0
    except NctoolError as error:
        assert error.message.isprintable()


# --- samples -------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (1, 2), (2, 5, 4), (2, 5, 3, 1), (3, 2, 5)])
def test_samples_of_another_shape(spiking, shape):
    text = f"input: got int64 {shape}, allowed integers (samples, steps, *(3,)) or (samples, *(3,))\nhint: {AXES}"
    assert refusal(RangeError, spiking, np.ones(shape, np.int64)) == text


@pytest.mark.parametrize("values", [np.ones((1, 3)), np.ones((2, 4, 3)) * 7])
@pytest.mark.parametrize("kind", ["u1", ">i2", "<u8", "f2", ">f4", "g"])
def test_samples_of_any_type_and_order(spiking, tmp_path, values, kind):
    expected = run_sim(spiking, engine="reference", input=saved(tmp_path, values.astype(np.int64)))
    found = run_sim(spiking, engine="reference", input=saved(tmp_path, np.asfortranarray(values.astype(kind))))
    assert (found.spikes_per_layer, found.steps) == (expected.spikes_per_layer, expected.steps)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (np.nan, "f4", "input: got float32 with values that are not finite, allowed numbers"),
        (-np.inf, "f2", "input: got float16 with values that are not finite, allowed numbers"),
        (
            0.5,
            "f8",
            f"input: got float64 with fractions, allowed whole numbers: spikes or graded spikes\nhint: {TRANSFORM}",
        ),
        (1e300, "f8", "input: values reach from 0 to 32768, allowed -32767..32767"),
        (2**63, "u8", "input: values reach from 0 to 9223372036854775808, allowed -32767..32767"),
        (-(2**15), "i2", "input: values reach from -32768 to 0, allowed -32767..32767"),
    ],
)
def test_samples_of_no_spikes(spiking, value, kind, text):
    assert refusal(RangeError, spiking, np.array([[value, 0, 0]], kind)) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array([[np.nan, 0, 0]]), "input: got float64 with values that are not finite, allowed numbers"),
        (np.array([[0, 0, -1000.0]]), "input: a bias of 35966, allowed below 32768"),
        (np.array([[0, 0, 32768]]), "input: values reach from 0 to 32768, allowed -32767..32767"),
        (np.ones((1, 2, 3), np.int64), STREAM),
    ],
)
def test_samples_of_no_bias(biased, values, text):
    assert refusal(RangeError, biased, values) == text


@pytest.mark.lava
def test_lava_takes_no_stream_for_a_bias(biased):
    assert refusal(RangeError, biased, np.ones((1, 2, 3), np.int64), engine="lava") == STREAM


def test_steps_that_the_samples_do_not_last(spiking):
    text = "steps: got 9, and samples that last 7\nhint: leave steps out"
    options = ForeignOptions(steps=9)
    assert refusal(UsageError, spiking, np.ones((1, 7, 3), np.int64), options=options) == text
    with pytest.raises(UsageError) as caught:
        verify(spiking, engines=["reference"], input=spiking.parent / "x.npy", options=options)
    assert str(caught.value) == text


@pytest.mark.parametrize("count", [0, -1, 3])
def test_more_samples_than_there_are(spiking, count):
    text = f"samples: {count} is out of range, allowed 1..2 ({spiking.parent / 'x.npy'})"
    assert refusal(UsageError, spiking, np.ones((2, 3), np.int64), samples=count) == text


@pytest.mark.parametrize("name", ["steps", "reset_interval", "num_layers"])
@pytest.mark.parametrize("value", [0, -3])
def test_options_below_one(spiking, name, value):
    text = f"{name}: {value} is out of range, allowed >= 1"
    assert refusal(UsageError, spiking, np.ones((2, 3), np.int64), options=ForeignOptions(**{name: value})) == text


def test_options_of_foreign_files_on_our_own(digits_model, tmp_path):
    text = f"`{digits_model}` was exported by nctool: steps, resets and layers are fixed in it\nhint: {FIXED}"
    path = saved(tmp_path, np.zeros((1, 1, 8, 8), np.uint8))
    assert refusal(UsageError, digits_model, path, options=ForeignOptions(reset_interval=4)) == text


# --- images for a network of our own ----


@pytest.mark.parametrize(
    ("shape", "given", "axes"),
    [
        ((1, 2, 3), (5, 2, 3), (0, 1, 2)),  # no axis of channels
        ((1, 2, 3), (5, 2, 3, 1), (0, 3, 1, 2)),
        ((3, 2, 4), (5, 2, 4, 3), (0, 3, 1, 2)),
        ((3, 2, 4), (5, 3, 2, 4), (0, 1, 2, 3)),
        ((1, 1, 1), (5, 1, 1, 1), (0, 1, 2, 3)),  # either order is the same
        ((2, 2, 3), (5, 2, 3, 2), (0, 3, 1, 2)),
        ((2, 2, 3), (5, 2, 2, 3), (0, 1, 2, 3)),
        ((4,), (5, 4), (0, 1)),
    ],
)
def test_images_in_the_order_of_image_files_are_taken(shape, given, axes):
    values = np.arange(np.prod(given), dtype=np.uint8).reshape(given)
    np.testing.assert_array_equal(channels_first(values, "`x`", shape=shape), values.transpose(axes).reshape(5, *shape))


def test_images_that_could_have_their_channels_first_or_last_are_refused():
    with pytest.raises(FormatError) as caught:
        channels_first(np.zeros((5, 3, 3, 3), np.uint8), "`x.npy`", shape=(3, 3, 3))
    assert str(caught.value) == (
        "`x.npy`: got images (5, 3, 3, 3), allowed: a shape that tells which axis the channels are\n"
        "hint: both orders fit: save them as an .npz data set with layout='NCHW' or layout='NHWC', and give it with "
        "--dataset"
    )


@pytest.mark.parametrize(("layout", "axes"), [("NCHW", (0, 1, 2, 3)), ("NHWC", (0, 2, 3, 1))])
def test_a_data_set_says_the_order_that_a_shape_does_not_tell(tmp_path, layout, axes):
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 3, 3), np.uint8)
    hidden = fire("hidden", dense(INPUT_NAME, np.random.default_rng(1).integers(-9, 10, (8, 27))), threshold=2000)
    out = read_out(dense("hidden", np.random.default_rng(2).integers(-9, 10, (3, 8))))
    network = IntNetwork(signed_input(3, 3, 3), (hidden, out), 4)
    network = with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})
    model = write_network(network, tmp_path / "m.net", images)
    wanted, other = (simulate(network, x).logits[:, -1].argmax(axis=1) for x in (images, images.transpose(0, 2, 3, 1)))
    x, y = images.transpose(axes), wanted
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x, y_train=y, y_test=y, layout=layout)
    assert (wanted != other).any()
    assert run_sim(model, engine="reference", dataset=tmp_path / "x.npz").accuracy["4"] == 1.0


def test_images_without_an_axis_of_channels_answer_as_with_it(digits_model, tmp_path):
    images = load_dataset("digits").x_test[:4]
    answers = [
        run_sim(digits_model, input=saved(tmp_path, each)).answers
        for each in (images, images[:, 0], images.transpose(0, 2, 3, 1))
    ]
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.ones((2, 1, 8, 8), np.float32), "pixels are 0..255: save (255 * x).round().astype('uint8')"),
        (
            np.full((2, 1, 8, 8), np.nan),
            "the array holds values that are not finite: replace them first, no pixel stands for them",
        ),
        (np.zeros((2, 1, 9, 8), np.uint8), "give pixels 0..255 of the size that the network was trained on, "),
        (np.zeros((1, 9, 8), np.uint8).T, "give pixels 0..255 of the size that the network was trained on, "),
        (np.zeros((8, 8), np.uint8), "a single sample needs an axis of samples in front: `numpy.save(path, x[None])`"),
        (
            np.zeros((8, 8, 1), np.uint8),
            "a single sample needs an axis of samples in front: `numpy.save(path, x[None])`",
        ),
    ],
)
def test_images_of_another_kind_are_refused(digits_model, tmp_path, values, hint):
    path = saved(tmp_path, values)
    hint += "before any normalisation" if hint.endswith(", ") else ""
    assert refusal(RangeError, digits_model, path) == (
        f"`{path}`: holds {values.dtype} {values.shape}, allowed uint8 (samples, 1, 8, 8)\nhint: {hint}"
    )


# --- labels --------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.zeros(3, np.int64), f"labels are int64 (3,), allowed class numbers for 2 samples\nhint: {NUMBERS}"),
        (np.zeros(1, np.int64), f"labels are int64 (1,), allowed class numbers for 2 samples\nhint: {NUMBERS}"),
        (
            np.zeros((2, 1), np.int64),
            "labels are int64 (2, 1), allowed class numbers for 2 samples\nhint: labels have one axis: save y[:, 0]",
        ),
        (
            np.zeros(3),
            "labels are float64 (3,), allowed class numbers for 2 samples\n"
            "hint: labels are class numbers: save y.astype(int)",
        ),
        (
            np.eye(2),
            "labels are float64 (2, 2), allowed class numbers for 2 samples\n"
            "hint: labels are class numbers: save y.argmax(1)",
        ),
        (np.zeros(2, bool), f"labels are bool (2,), allowed class numbers for 2 samples\nhint: {NUMBERS}"),
        (np.array([0, -1]), "labels reach from -1 to 0, allowed 0..2147483647"),
        (np.array([0, 2**64 - 1], np.uint64), "labels reach from 0 to 18446744073709551615, allowed 0..2147483647"),
    ],
)
def test_labels_that_are_none(spiking, values, text):
    path = saved(spiking.parent, values, "labels")
    found = refusal(FormatError, spiking, np.ones((2, 3), np.int64), labels=path)
    assert found == f"`{path}`: {text}"


def test_labels_of_more_classes_than_the_network_has(spiking):
    path = saved(spiking.parent, np.array([0, 2]), "labels")
    text = f"`{path}`: label 2, the network has 2 classes"
    assert refusal(RangeError, spiking, np.ones((2, 3), np.int64), labels=path) == text


def test_labels_beyond_the_samples_do_no_harm(tmp_path):
    assert load_labels(saved(tmp_path, np.array([1, 0, -1])), 2).tolist() == [1, 0]


# --- output --------------------------------------------------------------


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the reference engine fail as soon as it runs."""

    def fails(job: Any) -> Iterator[Trace]:
        pytest.fail("the engine ran")
        yield

    monkeypatch.setitem(ENGINES, "reference", fails)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none/out.npz", "no such file or directory"),
        ("folder", "is a directory"),
        ("spiking.net/out.npz", "not a directory"),
        ("pipe", "it is a device, a pipe or a socket"),
        ("x" * 300, "file name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_run(spiking, tmp_path, no_run, name, text):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / name
    found = refusal(UsageError, spiking, np.ones((1, 3), np.int64), output=path)
    assert found == f"cannot write `{path}`: {text}\nhint: {WRITE}"
