"""Folders of images and Tiny-ImageNet: what is read, how sizes are brought together, and what a refusal says."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import nctool
from nctool.errors import FormatError, RangeError, UsageError
from nctool.running.samples import dataset_samples
from nctool_models import load_dataset
from tests.support.datasets import refusal

pytestmark = pytest.mark.vision

LAYOUT = "hint: a folder of images holds train/CLASS/*.jpg, and test/CLASS/*.jpg or val/CLASS/*.jpg"
ANEW = "hint: unpack tiny-imagenet-200.zip anew"


def picture(number, height=12, width=12) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str = "RGB", **options) -> np.ndarray:
    """Write an image file, and return what is to be read from it: uint8 (3, H, W)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two classes, `cat` and `dog`, of three training images and one test image each."""
    for number, (split, name, file) in enumerate(
        (split, name, f"{number}.png")
        for split, n_images in (("train", 3), ("val", 1))
        for name in ("cat", "dog")
        for number in range(n_images)
    ):
        save(tmp_path / "pets" / split / name / file, picture(number))
    return tmp_path / "pets"


# --- trees ------------------------------------------------------------------------------------------------------------


def test_the_first_few_test_images_of_a_tree_are_of_all_classes(tmp_path):
    for split, n_images in (("train", 1), ("test", 30)):
        for label in range(3):
            for number in range(n_images):
                save(tmp_path / "sorted" / split / f"class{label}" / f"{number}.png", picture(30 * label + number))
    dataset = load_dataset(str(tmp_path / "sorted"))
    assert set(dataset.y_test[:12].tolist()) == {0, 1, 2}
    kept = {(label, image.tobytes()) for label, image in zip(dataset.y_test.tolist(), dataset.x_test, strict=True)}
    assert kept == {
        (label, picture(30 * label + number).transpose(2, 0, 1).tobytes()) for label in range(3) for number in range(30)
    }
    again = load_dataset(str(tmp_path / "sorted"))
    np.testing.assert_array_equal(again.y_test, dataset.y_test)


def test_a_tree_is_read_in_the_order_of_its_names(tree):
    dataset = load_dataset(str(tree))
    assert (dataset.name, dataset.classes) == (str(tree), ("cat", "dog"))
    assert (dataset.x_train.dtype, dataset.y_train.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(dataset.x_train, [picture(number).transpose(2, 0, 1) for number in range(6)])
    test_images = [picture(number).transpose(2, 0, 1) for number in (6, 7)]
    np.testing.assert_array_equal(dataset.x_test, [test_images[label] for label in dataset.y_test])
    assert (dataset.y_train.tolist(), sorted(dataset.y_test.tolist())) == ([0, 0, 0, 1, 1, 1], [0, 1])
    assert dataset.x_train.flags.c_contiguous
    assert dataset.mean == pytest.approx(dataset.x_train.mean(axis=(0, 2, 3)) / 255)
    assert dataset.std == pytest.approx(dataset.x_train.std(axis=(0, 2, 3)) / 255)


def test_a_test_folder_goes_before_val(tree):
    for name in ("cat", "dog"):
        wanted = save(tree / "test" / name / "0.png", picture(99))
    np.testing.assert_array_equal(load_dataset(str(tree)).x_test, [wanted, wanted])


def test_a_folder_by_a_name_without_a_separator(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    assert load_dataset("pets").classes == ("cat", "dog")
    tree.rename(tree.parent / "digits")
    assert load_dataset("digits").x_train.shape == (1438, 1, 8, 8)  # a built-in name wins


@pytest.mark.parametrize(
    ("file", "mode", "options"),
    [
        ("a.jpg", "L", {}),
        ("a.jpeg", "CMYK", {}),
        ("a.JPEG", "RGB", {"quality": 60}),
        ("a.png", "P", {}),
        ("a.png", "LA", {}),
        ("a.png", "RGBA", {}),
        ("a.png", "1", {}),
        ("a.webp", "RGB", {"lossless": True}),
    ],
)
def test_grey_and_coloured_files_of_any_kind_become_rgb(tree, file, mode, options):
    wanted = save(tree / "train" / "cat" / file, picture(50), mode, **options)
    np.testing.assert_array_equal(load_dataset(str(tree)).x_train[3], wanted)


def test_hidden_files_are_left_out(tree):
    (tree / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (tree / "train" / "README.txt").write_bytes(b"beside the class folders")
    assert len(load_dataset(str(tree)).x_train) == 6


def test_a_size_is_that_of_the_shorter_side_and_the_middle_is_cut_out(tree):
    from torchvision.transforms import functional

    for path in tree.rglob("0.png"):
        path.unlink()
        wide = save(path, picture(60, 16, 24))
    got = load_dataset(str(tree), image_size=8).x_train
    assert got.shape == (6, 3, 8, 8)
    from PIL import Image

    halved = functional.resize(Image.fromarray(wide.transpose(1, 2, 0)), [8, 12])
    np.testing.assert_array_equal(got[0], np.asarray(halved).transpose(2, 0, 1)[:, :, 2:10])


def test_a_size_that_images_have_changes_nothing(tree):
    np.testing.assert_array_equal(load_dataset(str(tree), image_size=12).x_train, load_dataset(str(tree)).x_train)


def test_images_of_another_size_are_refused(tree):
    save(tree / "val" / "dog" / "wide.png", picture(7, 12, 20))
    assert refusal(FormatError, tree) == (
        f"`{tree}/val/dog/wide.png`: got an image of 12x20 (height x width), "
        f"allowed: 12x12 as in `{tree}/train/cat/0.png`\n"
        "hint: bring all images to one size: data.image_size = 12, for instance"
    )


# --- what is no tree --------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path):
    assert refusal(UsageError, tmp_path / "no") == f"no data set folder `{tmp_path}/no`\n{LAYOUT}"


@pytest.mark.parametrize(("gone", "missing"), [("train", "train"), ("val", "test` or `val")])
def test_a_missing_split_is_named(tree, gone, missing):
    shutil.rmtree(tree / gone)
    assert refusal(FormatError, tree) == f"`{tree}` has no folder `{missing}`\n{LAYOUT}"


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal(FormatError, tmp_path) == f"`{tmp_path}` has no folder `train`\n{LAYOUT}"


def test_images_without_class_folders_are_refused(tree):
    for name in ("cat", "dog"):
        shutil.rmtree(tree / "val" / name)
    save(tree / "val" / "0.png", picture(0))
    assert refusal(FormatError, tree) == f"`{tree}/val` holds no class folder\n{LAYOUT}"


def test_an_empty_class_folder_is_named(tree):
    (tree / "train" / "eel").mkdir()
    assert refusal(FormatError, tree) == f"class folder `{tree}/train/eel` holds no image\n{LAYOUT}"


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_folder_in_one_split_only_is_named(tree, split):
    save(tree / split / "fox" / "0.png", picture(0))
    assert refusal(FormatError, tree) == f"`{tree}`: class folder `fox` is in `{split}` only\n{LAYOUT}"


def test_a_file_that_is_no_image_by_its_name(tree):
    (tree / "train" / "dog" / "notes.txt").write_bytes(b"three dogs")
    allowed = ".jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp"
    assert refusal(FormatError, tree) == (
        f"`{tree}/train/dog/notes.txt`: is no image, allowed: {allowed}\nhint: move it out of there"
    )


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("file", ["x.jpg", "x.png"])
def test_a_truncated_file_is_named(tree, file, kept):
    path = tree / "val" / "dog" / file
    save(path, picture(3))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert refusal(FormatError, tree) == (
        f"`{path}`: got a file that is truncated or no image\nhint: move it out of there, or fetch it anew"
    )


def test_a_file_that_memory_does_not_hold_is_not_called_truncated(tree, monkeypatch):
    def no_room(*_args):
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.convert", no_room)
    assert refusal(RangeError, tree) == (
        f"`{tree}/train/cat/0.png` does not fit into memory\nhint: use smaller images, or end other programs"
    )


@pytest.mark.parametrize("content", [b"not a picture", b"\xff\xd8\xff\xe0 nor this", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_of_other_bytes_is_named(tree, content):
    path = tree / "train" / "cat" / "1.png"
    path.write_bytes(content)
    assert refusal(FormatError, tree) == (
        f"`{path}`: got a file that is truncated or no image\nhint: move it out of there, or fetch it anew"
    )


def test_a_file_of_16_bits_is_refused(tree):
    from PIL import Image

    path = tree / "train" / "cat" / "1.png"
    Image.fromarray(np.full((12, 12), 40_000, dtype=np.uint16)).save(path)
    assert refusal(FormatError, tree) == f"`{path}`: got an image of mode I;16, allowed: 8 bits a channel"


def test_a_link_to_nothing_is_named(tree):
    path = tree / "train" / "cat" / "1.png"
    path.unlink()
    path.symlink_to("nowhere.png")
    assert refusal(UsageError, tree) == f"cannot read `{path}`: no such file or directory"


def test_a_link_that_leads_back_is_named(tree):
    (tree / "train" / "cat" / "loop").symlink_to("..")
    loop = tree / "train" / "cat" / "loop"
    assert refusal(FormatError, tree) == f"`{loop}`: is a link to a folder above it\nhint: remove the link"
    loop.unlink()
    loop.symlink_to("../dog")
    assert len(load_dataset(str(tree)).x_train) == 9  # a link elsewhere is followed
    (tree / "train" / "dog" / "back").symlink_to("../cat")
    assert refusal(FormatError, tree) == f"`{loop}/back`: is a link to a folder above it\nhint: remove the link"


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(tree, monkeypatch):
    pages = {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 3}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    (tree / "val" / "dog" / "0.png").write_bytes(b"bad, and never opened")
    assert refusal(RangeError, tree) == (
        "8 images of 12x12 take 0.0 GiB, allowed: 0.0 GiB, half of the memory of this machine\n"
        "hint: set data.image_size to 8 or less, or use fewer images: all of them are held in memory"
    )
    pages["SC_PHYS_PAGES"] = 7  # 8 · 3 · 12 · 12 = 3456 bytes in half of 7168
    (tree / "val" / "dog" / "0.png").unlink()
    save(tree / "val" / "dog" / "0.png", picture(7))
    assert len(load_dataset(str(tree)).x_train) == 6


def test_a_missing_torchvision_is_named(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert refusal(UsageError, tree) == f'data set `{tree}` needs torchvision\nhint: pip install "nctool[vision]"'


# --- Tiny-ImageNet ----------------------------------------------------------------------------------------------------

WNIDS = ("n02124075", "n01443537", "n03814639")


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Three classes of two training images and one of `val`, in the published layout."""
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for number, wnid in enumerate(WNIDS):
        for image in range(2):
            save(root / "train" / wnid / "images" / f"{wnid}_{image}.JPEG", picture(10 * number + image, 64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        save(root / "val" / "images" / f"val_{number}.JPEG", picture(10 * number + 9, 64, 64))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    save(root / "test" / "images" / "test_0.JPEG", picture(0, 64, 64))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text(
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\n"
    )
    return root


@pytest.mark.parametrize("by_name", [True, False])
def test_tiny_imagenet_is_read_in_its_published_layout(tiny, by_name):
    dataset = load_dataset("tiny-imagenet", tiny.parent) if by_name else load_dataset(str(tiny))
    assert dataset.classes == ("goldfish, Carassius auratus", "Egyptian cat", "n03814639")
    assert (dataset.x_train.shape, dataset.x_test.shape) == ((6, 3, 64, 64), (3, 3, 64, 64))
    assert (dataset.y_train.tolist(), dataset.y_test.tolist()) == ([0, 0, 1, 1, 2, 2], [1, 0, 2])
    np.testing.assert_array_equal(dataset.x_test[0], read(tiny / "val" / "images" / "val_0.JPEG"))
    np.testing.assert_array_equal(dataset.x_train[2], read(tiny / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"))


def read(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def test_tiny_imagenet_may_be_made_smaller(tiny):
    assert load_dataset("tiny-imagenet", tiny.parent, image_size=32).x_train.shape == (6, 3, 32, 32)


def test_tiny_imagenet_is_not_downloaded(tmp_path):
    assert refusal(UsageError, "tiny-imagenet", tmp_path) == (
        f"data set `tiny-imagenet` is not in `{tmp_path}`\n"
        f"hint: unpack tiny-imagenet-200.zip there, to get `{tmp_path}/tiny-imagenet-200/wnids.txt`, "
        "or name another folder with --data-dir"
    )


@pytest.mark.parametrize("part", ["train", "val/val_annotations.txt"])
def test_a_part_of_tiny_imagenet_that_is_missing_is_named(tiny, part):
    (tiny / part).rename(tiny / "elsewhere")
    assert refusal(FormatError, "tiny-imagenet", tiny.parent) == f"`{tiny}` misses `{part}`\n{ANEW}"


def test_classes_of_tiny_imagenet_that_do_not_agree_are_named(tiny):
    shutil.rmtree(tiny / "train" / WNIDS[1])
    assert refusal(FormatError, tiny) == f"`{tiny}`: class `n01443537` is in `wnids.txt` only\n{ANEW}"
    (tiny / "wnids.txt").write_text(WNIDS[0])
    assert refusal(FormatError, tiny) == f"`{tiny}`: class `n03814639` is in `train` only\n{ANEW}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_0.JPEG\tn02124075\nval_1.JPEG\tn9\n", ", line 2: got class `n9`, allowed: those of `wnids.txt`"),
        ("val_0.JPEG\n", ", line 1: got class ``, allowed: those of `wnids.txt`"),
        ("", " lists no image"),
        (b"val_\xff", " is not UTF-8 text (byte 4)"),
    ],
)
def test_bad_annotations_are_refused(tiny, text, message):
    path = tiny / "val" / "val_annotations.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refusal(FormatError, tiny) == f"`{path}`{message}\n{ANEW}"


def test_an_annotated_image_that_is_not_there_is_named(tiny):
    path = tiny / "val" / "images" / "val_1.JPEG"
    path.unlink()
    assert refusal(UsageError, tiny) == f"cannot read `{path}`: no such file or directory"


def test_a_class_of_tiny_imagenet_without_images_is_named(tiny):
    shutil.rmtree(tiny / "train" / WNIDS[0] / "images")
    assert refusal(FormatError, tiny) == f"class folder `{tiny}/train/{WNIDS[0]}` holds no image\n{ANEW}"


# --- from training to a run -------------------------------------------------------------------------------------------


def test_a_folder_trains_tunes_exports_runs_and_verifies(tmp_path):
    """Images of several sizes: the recipe says the size, and what runs the file takes it from the network."""
    root = tmp_path / "pets"
    for split, n_images in (("train", 8), ("test", 3)):
        for label, name in enumerate(("dark", "light")):
            for number in range(n_images):
                pixels = picture(number, 10 + number, 14) // 3 + 160 * label
                save(root / split / name / f"{number}.png", pixels.astype(np.uint8))
    overrides = {"data.name": str(root), "data.image_size": 8, "training.epochs": 2, "training.batch_size": 4}
    report = nctool.train("digits-mlp", tmp_path / "run", overrides=overrides)
    nctool.finetune(report.path, tmp_path / "tuned", overrides={"finetune.epochs": 1})
    nctool.export(tmp_path / "tuned", tmp_path / "model.net", target="lava", steps=4)
    run = nctool.run_sim(tmp_path / "model.net")
    assert (run.dataset, run.samples) == (f"{root}/test", 6)
    assert nctool.run_sim(tmp_path / "model.net", dataset=str(root), split="train").samples == 16
    assert nctool.verify(tmp_path / "model.net", engines=("reference", "fast"), dataset=str(root)).equal
    (root / "train" / "light").rename(root / "train" / "bright")
    (root / "test" / "light").rename(root / "test" / "bright")
    with pytest.raises(RangeError) as caught:
        nctool.run_sim(tmp_path / "model.net")
    assert str(caught.value) == (
        f"data set `{root}`: has the classes bright, dark, the network was trained on dark, light\n"
        "hint: give it a folder for each class that the network was trained on, of the same name"
    )


def test_grey_images_are_read_as_they_are_and_others_by_their_luma(tree):
    path = tree / "train" / "cat" / "0.png"
    grey = save(path, picture(9), "L")[:1]
    images = load_dataset(str(tree), channels=1).x_train
    assert images.shape == (6, 1, 12, 12)
    np.testing.assert_array_equal(images[0], grey)
    red, green, blue = load_dataset(str(tree)).x_train[1].astype(np.int64)
    luma = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
    np.testing.assert_array_equal(images[1, 0], luma)
    assert load_dataset(str(tree), channels=3, image_size=8).x_train.shape == (6, 3, 8, 8)
    assert load_dataset(str(tree), channels=1, image_size=8).x_train.shape == (6, 1, 8, 8)


def test_a_network_for_grey_images_gets_a_folder_in_grey(tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "test"):
        for label, name in enumerate(("dark", "light")):
            for number in range(6):
                save(root / split / name / f"{number}.png", (picture(number) // 3 + 160 * label).astype(np.uint8))
    overrides = {"data.name": str(root), "data.image_size": 8, "data.channels": 1, "training.epochs": 1}
    report = nctool.train("digits-mlp", tmp_path / "run", overrides={**overrides, "training.batch_size": 4})
    nctool.finetune(report.path, tmp_path / "tuned", overrides={"finetune.epochs": 1})
    nctool.export(tmp_path / "tuned", tmp_path / "model.net", target="lava", steps=2)
    assert nctool.inspect(tmp_path / "model.net").input_shape == (1, 8, 8)
    assert nctool.run_sim(tmp_path / "model.net").samples == 12
    assert nctool.verify(tmp_path / "model.net", engines="reference,fast", dataset=root, samples=12).equal
    options = {"backends": "autapse", "steps": [1], "replicas": [1], "weight_bits": [8], "target": "lava"}
    assert nctool.explore(tmp_path / "run", **options).samples == 12


def test_only_the_first_of_many_classes_are_listed(tree):
    trained = tuple("abcdefgh")
    with pytest.raises(RangeError) as caught:
        dataset_samples(str(tree), "test", None, None, (3, 12, 12), len(trained), trained)
    assert caught.value.message == (
        f"data set `{tree}`: has the classes cat, dog, the network was trained on a, b, c, d, e, ... (8 of them)"
    )
