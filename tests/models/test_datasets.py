"""Data sets: what they hold, how they are split, and what a refusal says. No test reaches the network."""

import hashlib
import io
import os
import pickle
import struct
import sys
from dataclasses import replace
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch

from nctool.errors import FormatError, RangeError, UsageError
from nctool.recipe.schema import TrainingSettings
from nctool.training.images.augment import augment
from nctool.training.images.encoding import SpikeTrainEncoding
from nctool_models import load_dataset, training_data
from nctool_models.datasets.dataset import stratified_split
from nctool_models.datasets.load import default_data_dir
from tests.support.datasets import refusal

HINT = (
    "\nhint: the file holds x_train, y_train, x_test, y_test: uint8 images (N, H, W) or (N, H, W, C), whole labels (N,)"
)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits():
    digits = load_dataset("digits")
    assert digits.classes == tuple("0123456789")
    assert (digits.x_train.shape, digits.x_test.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8))
    assert (digits.x_train.dtype, digits.y_train.dtype) == (np.uint8, np.int64)
    assert np.bincount(digits.y_test).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    # 0..16 becomes round(x · 255 / 16): 1 is 15.94, 8 is 127.5 (to even: 128), 16 is 255.
    assert set(np.unique(digits.x_train)) == {round(value * 255 / 16) for value in range(17)}
    assert digits.mean == pytest.approx((digits.x_train.mean() / 255,), rel=1e-12)
    assert digits.std == pytest.approx((digits.x_train.std() / 255,), rel=1e-12)


def test_the_digits_are_those_of_scikit_learn():
    """The hash is that of `load_digits`, scaled and split: a fifth of each class by `stratified_split` of seed 0."""
    digits = load_dataset("digits")
    content = (digits.x_train, digits.y_train, digits.x_test, digits.y_test)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in content)).hexdigest()
    assert digest == "570bd9e85d7ef7b3e9b72c68a47d0fe61217272d25b96caa60ca85ee75cf613c"


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_few_held_out_images_are_of_all_classes_though_the_data_are_sorted_by_class():
    labels = np.repeat(np.arange(20), 100)
    classes = tuple(f"class {label}" for label in range(20))
    digits = load_dataset("digits")
    data = replace(digits, x_train=np.zeros((2000, 1, 8, 8), np.uint8), y_train=labels, classes=classes)
    held_out = training_data(data, 0.5, seed=1).held_out
    assert len(held_out) == 1000
    assert len(torch.unique(held_out.first(100).labels)) == 20


def test_a_split_takes_the_same_part_of_every_class():
    labels = np.repeat([0, 1, 2], [10, 20, 31])
    first, second = stratified_split(labels, 0.1, seed=4)
    assert np.bincount(labels[second]).tolist() == [1, 2, 3]
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(61))


def test_held_out_images_are_training_images_chosen_by_the_seed():
    digits = load_dataset("digits")
    data, again, of_seed_2 = (training_data(digits, 0.1, seed) for seed in (1, 1, 2))
    assert (len(data.train), len(data.held_out), len(data.test)) == (1295, 143, 359)
    assert torch.equal(data.held_out.images, again.held_out.images)
    assert not torch.equal(data.held_out.images, of_seed_2.held_out.images)
    assert torch.equal(data.test.images, of_seed_2.test.images)
    together = torch.cat([data.train.images, data.held_out.images]).flatten(1).tolist()
    assert sorted(together) == sorted(digits.x_train.reshape(1438, -1).tolist())
    assert (data.name, data.classes, data.input_shape) == ("digits", digits.classes, (1, 8, 8))
    assert (data.normalisation.mean, data.normalisation.std) == (digits.mean, digits.std)


# --- .npz -------------------------------------------------------------------------------------------------------------


def arrays(**changes):
    generator = np.random.default_rng(0)
    content = {
        "x_train": generator.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
        "x_test": generator.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
        "y_test": np.array([2, 1, 0]),
    }
    return {key: array for key, array in (content | changes).items() if array is not None}


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> Path:
        np.savez(tmp_path / "mine.npz", **arrays(**changes))
        return tmp_path / "mine.npz"

    return write


def test_an_npz_file_is_a_data_set(write):
    path, wanted = write(), arrays()
    dataset = load_dataset(str(path))
    assert (dataset.name, dataset.classes) == (str(path), ("0", "1", "2"))
    np.testing.assert_array_equal(dataset.x_train, wanted["x_train"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.x_test, wanted["x_test"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.y_train, wanted["y_train"])
    assert (dataset.y_train.dtype, dataset.y_test.dtype) == (np.int64, np.int64)
    assert dataset.mean == pytest.approx(wanted["x_train"].mean(axis=(0, 1, 2)) / 255)
    assert dataset.std == pytest.approx(wanted["x_train"].std(axis=(0, 1, 2)) / 255)


def test_grey_images_get_a_channel_axis(write):
    grey = np.zeros((6, 4, 5), dtype=np.uint8)
    dataset = load_dataset(str(write(x_train=grey, x_test=grey[:3])))
    assert dataset.x_train.shape == (6, 1, 4, 5)
    assert (dataset.mean, dataset.std) == ((0.0,), (1.0,))  # a channel of one value is not scaled


@pytest.mark.parametrize("axes", [(6, 4, 5), (6, 4, 5, 1), (6, 5, 7, 3)])
def test_images_lie_row_by_row(write, axes):
    """Also those of one channel, whose strides torch would else read as channels-last."""
    images = np.zeros(axes, np.uint8)
    dataset = load_dataset(str(write(x_train=images, x_test=images[:3])))
    for array in (dataset.x_train, dataset.x_test, load_dataset("digits").x_test):
        assert array.strides == np.empty(array.shape, np.uint8).strides


@pytest.mark.vision
def test_batches_of_one_channel_go_through_a_network_row_by_row(one_thread):
    """Whatever the strides of the data set: those of `images` say channels-last."""
    images = np.zeros((40, 8, 8, 1), np.uint8).transpose(0, 3, 1, 2)
    digits = load_dataset("digits")
    dataset = replace(digits, x_train=images, x_test=images, y_train=np.arange(40) % 10, y_test=np.arange(40) % 10)
    data = training_data(dataset, 0.25, seed=0)
    convolution = torch.nn.Conv2d(1, 4, 3)
    changes = TrainingSettings(
        epochs=1,
        batch_size=2,
        learning_rate=0.1,
        crop_padding=1,
        horizontal_flip=True,
        auto_augment="cifar10",
        cutout=2,
    )
    encodings = (data.normalisation, SpikeTrainEncoding(data.normalisation.mean, data.normalisation.std, 2))
    for part in (data.train, data.held_out, data.test, data.calibration(0), data.test.first(4)):
        for batch in part.batches(4):
            for encoded in (*(encoding(batch.images) for encoding in encodings), *encodings[1].steps(batch.images, 2)):
                assert convolution(encoded).is_contiguous()
            assert convolution(augment(batch.images, changes).float()).is_contiguous()


def test_class_names_may_be_given(write):
    assert load_dataset(str(write(classes=np.array(["cat", "dog", "eel", "fox"])))).classes == (
        "cat",
        "dog",
        "eel",
        "fox",
    )


def test_a_missing_npz_file_is_a_usage_error(tmp_path):
    assert refusal(UsageError, tmp_path / "no.npz") == f"no data set file `{tmp_path}/no.npz`{HINT}"


def test_a_folder_called_npz_is_a_usage_error(tmp_path):
    assert refusal(UsageError, tmp_path.rename(tmp_path.with_suffix(".npz"))).endswith(": is a directory")


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_a_missing_key_is_refused(write, key):
    path = write(**{key: None})
    assert refusal(FormatError, path) == f"`{path}` misses the key `{key}`{HINT}"


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
def test_a_truncated_npz_file_is_refused(write, kept):
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert refusal(FormatError, path) == f"`{path}` is no readable .npz file{HINT}"


def test_an_npz_file_with_a_changed_byte_is_refused(write):
    path = write()
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    assert refusal(FormatError, path) == f"`{path}` is no readable .npz file{HINT}"


def test_a_single_array_is_no_data_set(tmp_path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert refusal(FormatError, tmp_path / "array.npz") == f"`{tmp_path}/array.npz` is no readable .npz file{HINT}"


def test_pickled_objects_are_refused(write):
    path = write(y_test=np.array([{}, 1, 2], dtype=object))
    assert refusal(FormatError, path) == f"`{path}` is no readable .npz file{HINT}"


def test_arrays_that_do_not_fit_into_memory_are_refused(write, monkeypatch):
    def full(*_args, **_options):
        raise MemoryError("unable to allocate 71.1 PiB")

    path = write()
    monkeypatch.setattr(np, "load", full)
    assert refusal(RangeError, path) == (
        f"`{path}` does not fit into memory\nhint: use fewer or smaller images: all of them are held in memory"
    )


IMAGES = "uint8 (N, H, W) or (N, H, W, C), no axis of length 0"


@pytest.mark.parametrize(
    ("key", "array", "got", "allowed"),
    [
        ("x_train", np.zeros((0, 4, 5, 3)), "float64 (0, 4, 5, 3)", IMAGES),
        ("x_train", np.zeros((6, 4), dtype=np.uint8), "uint8 (6, 4)", IMAGES),
        ("x_train", np.zeros((0, 4, 5, 3), dtype=np.uint8), "uint8 (0, 4, 5, 3)", IMAGES),
        ("x_test", np.zeros((3, 4, 5, 0), dtype=np.uint8), "uint8 (3, 4, 5, 0)", IMAGES),
        ("x_test", np.zeros((3, 5, 4, 3), dtype=np.uint8), "images of shape (3, 5, 4)", "(3, 4, 5) as in `x_train`"),
        ("y_test", np.array([0, -1, 2]), "labels -1..2", "0..65535"),
        ("y_test", np.array([0, 65536, 2]), "labels 0..65536", "0..65535"),
        ("classes", np.array(["cat", "dog"]), "<U3 (2,)", "3 or more names"),
        ("classes", np.arange(3), "int64 (3,)", "3 or more names"),
        ("layout", np.array("CHW"), "'CHW'", "'NCHW' or 'NHWC'"),
        ("layout", np.array(["NCHW"]), "<U4 (1,)", "'NCHW' or 'NHWC'"),
        ("layout", np.array(3), "'3'", "'NCHW' or 'NHWC'"),
    ],
)
def test_wrong_arrays_are_refused(write, key, array, got, allowed):
    path = write(**{key: array})
    assert refusal(FormatError, path) == f"`{path}`, key `{key}`: got {got}, allowed: {allowed}{HINT}"


@pytest.mark.parametrize(
    ("key", "array", "got", "allowed", "hint"),
    [
        (
            "x_train",
            np.linspace(0, 1, 6 * 4 * 5).reshape(6, 4, 5),
            "float64 (6, 4, 5)",
            IMAGES,
            "pixels are 0..255: save (255 * x_train).round().astype('uint8')",
        ),
        (
            "x_train",
            np.full((6, 4, 5), 255, np.float32),
            "float32 (6, 4, 5)",
            IMAGES,
            "pixels are 0..255: save x_train.round().astype('uint8')",
        ),
        (
            "x_train",
            np.full((6, 4, 5), -0.5, np.float32),
            "float32 (6, 4, 5)",
            IMAGES,
            "pixels are 0..255, before any normalisation; these reach from -0.5 to -0.5",
        ),
        (
            "x_train",
            np.full((6, 4, 5), 65535, np.uint16),
            "uint16 (6, 4, 5)",
            IMAGES,
            "pixels are 0..255, before any normalisation; these reach from 65535 to 65535",
        ),
        (
            "x_train",
            np.zeros((6, 4, 5, 3), dtype=np.int64),
            "int64 (6, 4, 5, 3)",
            IMAGES,
            "save x_train.astype('uint8')",
        ),
        (
            "x_test",
            np.full((3, 4, 5, 3), np.nan),
            "float64 (3, 4, 5, 3)",
            IMAGES,
            "the array holds values that are not finite: replace them first, no pixel stands for them",
        ),
        (
            "y_train",
            np.zeros(5, dtype=np.int64),
            "int64 (5,)",
            "whole numbers (6,)",
            "labels are class numbers 0, 1, 2, ..., one for each of the 6 images",
        ),
        (
            "y_train",
            np.array([[1, 1, 0]] * 6),
            "int64 (6, 3)",
            "whole numbers (6,)",
            "every image has one class: there is no number for several classes, or for shares of them",
        ),
        (
            "y_test",
            np.array([0.5, 2, 3]),
            "float64 (3,)",
            "whole numbers (3,)",
            "labels are class numbers: these look like regression targets; nctool trains classifiers only",
        ),
        (
            "y_train",
            np.eye(6),
            "float64 (6, 6)",
            "whole numbers (6,)",
            "labels are class numbers: save y_train.argmax(1)",
        ),
        (
            "y_train",
            np.zeros((6, 1), dtype=np.int64),
            "int64 (6, 1)",
            "whole numbers (6,)",
            "labels have one axis: save y_train[:, 0]",
        ),
        (
            "y_test",
            np.zeros(3),
            "float64 (3,)",
            "whole numbers (3,)",
            "labels are class numbers: save y_test.astype(int)",
        ),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused_with_the_way_out(write, key, array, got, allowed, hint):
    path = write(**{key: array})
    assert refusal(FormatError, path) == f"`{path}`, key `{key}`: got {got}, allowed: {allowed}\nhint: {hint}"


ORDER = "say the order: add layout='NCHW' (channels first) or layout='NHWC' (channels last) to the .npz file"


@pytest.mark.parametrize("shape", [(1, 34, 34), (2, 34, 34), (3, 32, 32), (2, 8, 8), (8, 8, 8), (5, 3, 8), (3, 4, 4)])
@pytest.mark.parametrize(("layout", "axes"), [("NCHW", (0, 1, 2, 3)), ("NHWC", (0, 3, 1, 2))])
def test_images_whose_order_the_shape_does_not_tell_are_read_as_the_file_says(write, shape, layout, axes):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    path = write(x_train=images, x_test=images[:3])
    assert refusal(FormatError, path) == (
        f"`{path}`, key `x_train`: got images {images.shape}, allowed: a shape that tells which axis the channels are\n"
        f"hint: {ORDER}"
    )
    dataset = load_dataset(str(write(x_train=images, x_test=images[:3], layout=layout)))
    np.testing.assert_array_equal(dataset.x_train, images.transpose(axes))
    np.testing.assert_array_equal(dataset.x_test, images[:3].transpose(axes))


@pytest.mark.parametrize("shape", [(34, 34, 2), (28, 28, 1), (3, 4, 1), (3, 5, 2), (2, 2, 1)])
def test_channels_fewer_than_rows_and_columns_come_last(write, shape):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    dataset = load_dataset(str(write(x_train=images, x_test=images[:3])))
    np.testing.assert_array_equal(dataset.x_train, images.transpose(0, 3, 1, 2))


# --- MNIST and Fashion-MNIST ------------------------------------------------------------------------------------------

FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"


@pytest.fixture
def servers_answer(monkeypatch):
    monkeypatch.setattr("nctool_models.datasets.torchvision_files.urlopen", lambda request, timeout: io.BytesIO())


def offline(*_args, **_options):
    raise URLError("no route to host")


def idx(array) -> bytes:
    """Write IDX: two zero bytes, 8 for uint8, the number of axes, their lengths as big-endian int32, the data."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def mnist_files(n_train=5, n_test=3, side=28):
    generator = np.random.default_rng(1)
    return {
        f"{part}-{kind}-ubyte": array
        for part, n in (("train", n_train), ("t10k", n_test))
        for kind, array in (
            ("images-idx3", generator.integers(0, 256, (n, side, side), dtype=np.uint8)),
            ("labels-idx1", generator.integers(0, 10, n, dtype=np.uint8)),
        )
    }


def put(root, files, folder="MNIST") -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, array in files.items():
        (raw / name).write_bytes(array if isinstance(array, bytes) else idx(array))
    return raw


@pytest.mark.vision
@pytest.mark.parametrize(
    ("name", "folder", "first_class"),
    [("mnist", "MNIST", "0 - zero"), ("fashion-mnist", "FashionMNIST", "T-shirt/top")],
)
def test_idx_files_are_read_as_they_lie(tmp_path, name, folder, first_class):
    files = mnist_files()
    put(tmp_path, files, folder)
    dataset = load_dataset(name, tmp_path, download=False)
    assert (dataset.name, dataset.classes[0], len(dataset.classes)) == (name, first_class, 10)
    assert dataset.x_test.strides == (28 * 28, 28 * 28, 28, 1)
    np.testing.assert_array_equal(dataset.x_train[:, 0], files["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(dataset.y_train, files["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(dataset.x_test[:, 0], files["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(dataset.y_test, files["t10k-labels-idx1-ubyte"])
    assert (dataset.x_train.dtype, dataset.y_train.dtype) == (np.uint8, np.int64)


@pytest.mark.vision
def test_files_that_are_there_are_neither_downloaded_nor_written(tmp_path, monkeypatch):
    raw = put(tmp_path, mnist_files())
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    load_dataset("mnist", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(list(raw.iterdir())) == 4


@pytest.mark.vision
def test_what_is_missing_is_not_downloaded_when_not_wanted(tmp_path):
    assert refusal(UsageError, "mnist", tmp_path, download=False) == (
        f"data set `mnist` is not in `{tmp_path}`\n"
        f"hint: put {FILES} into `{tmp_path}/MNIST/raw`, or name another folder with --data-dir"
    )


@pytest.mark.vision
@pytest.mark.usefixtures("servers_answer")
def test_a_failed_download_says_what_to_put_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    assert refusal(UsageError, "fashion-mnist", tmp_path / "new") == (
        f"cannot download data set `fashion-mnist` to `{tmp_path}/new`\n"
        f"hint: put {FILES} into `{tmp_path}/new/FashionMNIST/raw`, or name another folder with --data-dir"
    )
    assert capsys.readouterr().out == ""


@pytest.mark.vision
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_data_set_that_no_server_answers_for_is_said_at_once(tmp_path, monkeypatch, capsys, name, rank):
    """By the first of several processes."""
    monkeypatch.setenv("RANK", str(rank))
    asked = []

    def silent(request, timeout):
        asked.append((request.full_url, request.method))
        raise URLError("no route to host")

    monkeypatch.setattr("nctool_models.datasets.torchvision_files.urlopen", silent)
    assert refusal(UsageError, name, tmp_path / "new").startswith(
        f"cannot download data set `{name}` to `{tmp_path}/new`: none of its servers answers\nhint: put "
    )
    said = f"data set `{name}` is not in `{tmp_path}/new`: downloading it\n"
    assert capsys.readouterr().err == ("" if rank else said)
    assert len(asked) == {"mnist": 2, "cifar10": 1}[name]
    assert {method for _, method in asked} == {"HEAD"}
    assert not (tmp_path / "new").exists()


@pytest.mark.vision
def test_a_server_that_refuses_has_answered(tmp_path, monkeypatch):
    """It may refuse the question and give the file: torchvision then says that it does not."""

    def refuse(request, timeout):
        raise HTTPError(request.full_url, 403, "Forbidden", Message(), None)

    monkeypatch.setattr("nctool_models.datasets.torchvision_files.urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    assert refusal(UsageError, "mnist", tmp_path).startswith(f"cannot download data set `mnist` to `{tmp_path}`\n")


@pytest.mark.vision
def test_the_folder_that_was_named_is_remembered(tmp_path, monkeypatch):
    put(tmp_path, mnist_files())
    monkeypatch.chdir(tmp_path)
    assert load_dataset("mnist", ".").data_dir == str(tmp_path)
    assert load_dataset("digits", ".").data_dir is None


@pytest.mark.vision
@pytest.mark.usefixtures("servers_answer")
def test_a_download_fills_the_folder(tmp_path, monkeypatch):
    def download(*, url, download_root, **_options):
        (Path(download_root) / url.rpartition("/")[2].removesuffix(".gz")).write_bytes(
            idx(mnist_files()[url.rpartition("/")[2].removesuffix(".gz")])
        )

    def archive(url, download_root, filename=None, md5=None):
        download(url=url, download_root=download_root)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", archive)
    assert load_dataset("mnist", tmp_path / "new").x_train.shape == (5, 1, 28, 28)


TRUNCATED = "a file that is truncated or no IDX file"


@pytest.mark.vision
@pytest.mark.parametrize(
    ("changed", "part", "got"),
    [
        ({"train-images-idx3-ubyte": b""}, "train", TRUNCATED),
        ({"train-images-idx3-ubyte": b"PK\x03\x04 something else"}, "train", TRUNCATED),
        ({"t10k-images-idx3-ubyte": idx(mnist_files()["t10k-images-idx3-ubyte"])[:-1]}, "t10k", TRUNCATED),
        ({"t10k-labels-idx1-ubyte": idx(mnist_files()["t10k-labels-idx1-ubyte"])[:9]}, "t10k", TRUNCATED),
        ({"train-labels-idx1-ubyte": np.zeros((5, 1), np.uint8)}, "train", TRUNCATED),
        ({"train-labels-idx1-ubyte": np.zeros(4, np.uint8)}, "train", "4 labels for uint8 images (5, 28, 28)"),
        ({"t10k-images-idx3-ubyte": np.zeros((3, 27, 28), np.uint8)}, "t10k", "3 labels for uint8 images (3, 27, 28)"),
        ({"t10k-labels-idx1-ubyte": np.array([1, 10, 3], np.uint8)}, "t10k", "labels 1..10"),
    ],
)
def test_corrupt_files_are_refused(tmp_path, changed, part, got):
    raw = put(tmp_path, mnist_files() | changed)
    assert refusal(FormatError, "mnist", tmp_path) == (
        f"data set `mnist`, `{raw}/{part}-*`: got {got}, allowed: images of 28x28 with labels 0..9\n"
        "hint: move the files away, they are then downloaded again"
    )


# --- CIFAR ------------------------------------------------------------------------------------------------------------

CIFAR = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py", "labels", "label_names", 10),
    "cifar100": ("CIFAR100", "cifar-100-python", "fine_labels", "fine_label_names", 100),
}


def cifar_lists(name):
    """Name the training, test and meta files of torchvision's class, as it does."""
    from torchvision import datasets

    loader = getattr(datasets, CIFAR[name][0])
    return [file for file, _ in loader.train_list], [file for file, _ in loader.test_list], loader.meta["filename"]


def cifar_files(name, n_images=2):
    """Make the content of every file; an image is 3072 bytes: all of red, then green, then blue, each row by row."""
    generator = np.random.default_rng(2)
    _, _, labels, names, n_classes = CIFAR[name]
    train, test, meta = cifar_lists(name)
    content = {meta: {names: [f"class {number}" for number in range(n_classes)]}}
    for file in (*train, *test):
        images = generator.integers(0, 256, (n_images, 3072), dtype=np.uint8)
        content[file] = {"data": images, labels: generator.integers(0, n_classes, n_images).tolist()}
    return content


@pytest.fixture
def put_cifar(tmp_path, monkeypatch):
    """Write files and let torchvision expect their MD5 sums, except those of `unknown`."""

    def put_cifar(name, content, unknown=()) -> Path:
        from torchvision import datasets

        loader, folder = getattr(datasets, CIFAR[name][0]), tmp_path / CIFAR[name][1]
        folder.mkdir()
        for file, entry in content.items():
            (folder / file).write_bytes(pickle.dumps(entry))
        md5 = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in content if file not in unknown}
        train, test, meta = cifar_lists(name)
        monkeypatch.setattr(loader, "train_list", [[file, md5.get(file, "0" * 32)] for file in train])
        monkeypatch.setattr(loader, "test_list", [[file, md5.get(file, "0" * 32)] for file in test])
        monkeypatch.setattr(loader, "meta", loader.meta | {"md5": md5.get(meta, "0" * 32)})
        return folder

    return put_cifar


@pytest.mark.vision
@pytest.mark.parametrize("name", list(CIFAR))
def test_cifar_files_are_read_as_they_lie(tmp_path, put_cifar, name):
    files, labels = cifar_files(name), CIFAR[name][2]
    train, test, _ = cifar_lists(name)
    put_cifar(name, files)
    dataset = load_dataset(name, tmp_path, download=False)
    assert (dataset.name, dataset.classes) == (name, tuple(f"class {number}" for number in range(CIFAR[name][4])))
    for images, classes, parts in (
        (dataset.x_train, dataset.y_train, train),
        (dataset.x_test, dataset.y_test, test),
    ):
        wanted = np.concatenate([files[part]["data"] for part in parts])
        np.testing.assert_array_equal(images, wanted.reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(classes, np.concatenate([files[part][labels] for part in parts]))
        assert (images.dtype, images.flags.c_contiguous, classes.dtype) == (np.uint8, True, np.int64)
    assert len(dataset.mean) == len(dataset.std) == 3


@pytest.mark.vision
@pytest.mark.parametrize("name", list(CIFAR))
def test_missing_cifar_files_are_those_that_torchvision_reads(tmp_path, name):
    train, test, meta = cifar_lists(name)
    folder = tmp_path / CIFAR[name][1]
    assert refusal(UsageError, name, tmp_path, download=False) == (
        f"data set `{name}` is not in `{tmp_path}`\n"
        f"hint: put {', '.join((*train, *test, meta))} into `{folder}`, or name another folder with --data-dir"
    )


@pytest.mark.vision
@pytest.mark.usefixtures("servers_answer")
def test_a_failed_download_of_cifar_says_what_to_put_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    assert refusal(UsageError, "cifar100", tmp_path) == (
        f"cannot download data set `cifar100` to `{tmp_path}`\n"
        f"hint: put train, test, meta into `{tmp_path}/cifar-100-python`, or name another folder with --data-dir"
    )
    assert capsys.readouterr().out == ""


class Attack:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.vision
@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_cifar_file_with_another_md5_sum_is_refused_and_never_unpickled(tmp_path, put_cifar, file):
    folder = put_cifar("cifar10", cifar_files("cifar10") | {file: Attack(tmp_path / "made")}, unknown=[file])
    assert refusal(FormatError, "cifar10", tmp_path) == (
        f"data set `cifar10`, `{folder}/*`: got a file that is not the published one, "
        "allowed: images of 32x32x3 with labels 0..9\nhint: move the files away, they are then downloaded again"
    )
    assert not (tmp_path / "made").exists()


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "class_and_label"),
    [
        ({"y_train": np.array([0, 2, 2, 0, 2, 2])}, "`1` (label 1)"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 5])}, "`3` (label 3)"),
        ({"y_test": np.array([2, 3, 0])}, "`3` (label 3)"),
        ({"classes": np.array(["cat", "dog", "eel", "fox"])}, "`fox` (label 3)"),
    ],
)
def test_a_class_without_a_training_image_is_refused_in_training(write, changes, class_and_label):
    dataset = load_dataset(str(write(**changes)))
    with pytest.raises(UsageError) as caught:
        training_data(dataset, 0.1, seed=1)
    assert str(caught.value) == (
        f"data set `{dataset.name}`: class {class_and_label} has no training image\n"
        "hint: number the classes 0, 1, 2, ... without a gap, each with images in the training split"
    )


# --- names, folders, packages -----------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused():
    assert refusal(UsageError, "flowers") == (
        "unknown data set `flowers`, allowed: cifar10, cifar100, digits, fashion-mnist, mnist, tiny-imagenet, "
        "or the path of an .npz file or of a folder of images"
    )


def test_a_name_that_is_nearly_one_is_mended():
    assert refusal(UsageError, "mnst").endswith("\nhint: did you mean `mnist`?")


def test_the_data_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "nctool" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_data_dir() == tmp_path / "home" / ".cache" / "nctool" / "data"


@pytest.mark.parametrize("name", ["digits", "mnist", "mine.npz"])
@pytest.mark.parametrize(("key", "value"), [("image_size", 32), ("channels", 1)])
def test_size_and_channels_are_for_folders_of_images_only(name, key, value):
    assert refusal(UsageError, name, **{key: value}) == (
        f"data set `{name}`: got `data.{key}` {value}, allowed: none, its images are taken as they are\n"
        "hint: leave it out: it is for folders of images"
    )


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert refusal(UsageError, "mnist") == 'data set `mnist` needs torchvision\nhint: pip install "nctool[vision]"'
