"""`--input IMAGE` and `--input FOLDER`: image files as samples, and a word for everything that is changed in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nctool
from nctool.errors import FormatError, NctoolWarning, RangeError, UsageError
from nctool_models import load_dataset
from nctool_models.datasets.image_files import open_image
from tests.support.foreign import Draft, dense_layer
from tests.support.refusals import refused
from tests.support.runs import assert_error

NAME = "zoo:digits-cnn"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four digits as they are: 8x8, grey."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(load_dataset("digits").x_test[:4]):
        Image.fromarray(pixels[0]).save(folder / f"{number}.png")
    return folder


def test_a_folder_of_images_gives_the_answers_of_its_pixels(cli, images: Path) -> None:
    pixels = load_dataset("digits").x_test[:4]
    report = nctool.run_sim(NAME, input=images)
    assert report.files == ("0.png", "1.png", "2.png", "3.png")
    np.testing.assert_array_equal(report.answers, nctool.run_sim(NAME, input=pixels).answers)
    assert not any("image" in note for note in report.notes)
    assert nctool.run_sim(NAME, input=images, samples=2).files == ("0.png", "1.png")
    assert nctool.run_sim(NAME, input=images, labels=report.answers).accuracy["4"] == 1.0
    assert cli("run-sim", NAME, "--input", images).out.splitlines()[1:3] == [
        "image  answer",
        f"0.png  {report.answers[0]}     ",
    ]


def test_of_many_images_the_first_answers_are_shown(cli, images: Path) -> None:
    for number in range(4, 23):
        Image.new("L", (8, 8)).save(images / f"x{number}.png")
    lines = cli("run-sim", NAME, "--input", images).out.splitlines()
    assert [line.split()[0] for line in lines[2:23]] == [*(path.name for path in sorted(images.iterdir())[:20]), "…"]
    assert lines[22] == "… 3 more in --json"


def test_one_image_is_a_sample(cli, images: Path) -> None:
    found = cli("run-sim", NAME, "--input", images / "1.png", "--json").json
    assert (found["samples"], found["files"]) == (1, ["1.png"])
    assert found["answers"] == list(nctool.run_sim(NAME, input=load_dataset("digits").x_test[1:2]).answers)


def test_what_is_changed_is_told(cli, images: Path) -> None:
    for name, mode, size in (("a.png", "RGBA", (12, 8)), ("b.jpg", "RGB", (16, 16)), ("c.bmp", "L", (8, 20))):
        Image.new(mode, size).save(images / name)
    Image.new("RGB", (16, 16)).save(images / "d.png")
    notes = (
        "2 images, `b.jpg` the first: made grey from RGB; resized from 16x16 to 8x8",
        "image `a.png`: made grey from RGBA; resized from 12x8 to 8x8, what stands over at the sides cut off",
        "image `c.bmp`: resized from 8x20 to 8x8, what stands over at the sides cut off",
    )
    assert nctool.run_sim(NAME, input=images).notes[:3] == notes
    shown = cli("verify", NAME, "--engines", "reference,fast", "--input", images)
    assert [line for line in shown.out.splitlines() if line.startswith("NOTE")] == [f"NOTE: {note}" for note in notes]
    with pytest.warns(NctoolWarning) as told:
        nctool.open(NAME)(images)
    assert tuple(str(warning.message) for warning in told) == notes


def test_the_first_of_several_frames_is_taken_and_that_is_told(images: Path) -> None:
    first, second = (Image.open(images / f"{number}.png") for number in (0, 1))
    first.save(images / "pages.tif", save_all=True, append_images=[second])
    report = nctool.run_sim(NAME, input=images / "pages.tif")
    assert report.notes[0] == "image `pages.tif`: the first of 2 frames taken"
    assert report.answers == nctool.run_sim(NAME, input=images / "0.png").answers


def test_many_kinds_of_changes_are_counted(images: Path) -> None:
    for side in range(9, 16):
        Image.new("L", (side, side)).save(images / f"x{side}.png")
    notes = nctool.run_sim(NAME, input=images).notes
    assert notes[0] == "image `x10.png`: resized from 10x10 to 8x8"
    assert notes[5] == "2 more images: made grey or RGB, or resized, in other ways"


@pytest.mark.vision
@pytest.mark.parametrize("size", [(9, 31), (31, 9), (8, 8), (8, 9), (100, 37), (3, 5), (16, 16)])
def test_an_image_becomes_what_torchvision_makes_of_it(tmp_path: Path, size: tuple[int, int]) -> None:
    from torchvision import transforms

    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    expected = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])(Image.fromarray(noise))
    found = open_image(tmp_path / "x.png").pixels(3, (8, 8))
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1))


def test_an_image_covers_a_size_that_is_no_square(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(12, dtype=np.uint8)[None] * 20, 4, axis=0)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = open_image(tmp_path / "x.png").pixels(1, (4, 6))
    np.testing.assert_array_equal(found[0], pixels[:, 3:9])


# --- what is no image -------------------------------------------------------------------------------------------------


def test_what_is_in_the_folder_beside_images_is_named(cli, images: Path, tmp_path: Path) -> None:
    (images / ".hidden").write_text("left out")
    (images / "notes.txt").write_text("no image")
    text = "error: `{}`: is no image, allowed: .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp\n"
    where = cli("run-sim", NAME, "--input", images)
    assert_error(where, 4, text.format(images / "notes.txt") + "hint: move it out of there\n")
    (images / "notes.txt").unlink()
    (images / "0.png").write_bytes(b"\x89PNG\r\n")
    assert str(refused(FormatError, nctool.run_sim, NAME, input=images)).startswith(
        f"`{images / '0.png'}`: got a file that is truncated or no image"
    )
    (tmp_path / "empty").mkdir()
    assert str(refused(FormatError, nctool.run_sim, NAME, input=tmp_path / "empty")) == (
        f"`{tmp_path / 'empty'}` holds no image"
    )


def test_a_tree_of_classes_is_a_data_set(images: Path) -> None:
    error = refused(UsageError, nctool.run_sim, NAME, input=images.parent)
    assert error.message == f"`{images}` is a folder in a folder, allowed: image files"
    assert (error.hint or "").startswith("a folder with train/ and test/ of class folders is a dataset")


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    error = refused(UsageError, nctool.run_sim, NAME, input=tmp_path / "7.png")
    assert error.message == f"cannot read `{tmp_path / '7.png'}`: no such file or directory"


def test_more_images_than_there_are(images: Path) -> None:
    error = refused(UsageError, nctool.run_sim, NAME, input=images, samples=5)
    assert error.message == f"samples: 5 is out of range, allowed 1..4 ({images})"


def test_a_network_of_another_tool_takes_no_images(images: Path, tmp_path: Path) -> None:
    Draft([dense_layer([[9, -5, 7], [3, 8, -6]])]).write(tmp_path / "other.net")
    error = refused(FormatError, nctool.run_sim, tmp_path / "other.net", input=images / "0.png")
    assert error.message == f"`{images / '0.png'}` is an image, allowed: a .npy file"


def test_a_network_that_takes_no_images(images: Path, tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6), np.uint8)
    nctool.convert(net, pixels, tmp_path / "flat.net", mean=0.5, std=0.5)
    error = refused(RangeError, nctool.run_sim, tmp_path / "flat.net", input=images / "0.png")
    assert error.message == f"`{images / '0.png'}`: is an image, the network takes samples of shape (6)"
    numbers = (pixels / 255).astype(np.float32)
    nctool.convert(net, numbers, tmp_path / "numbers.net")
    error = refused(UsageError, nctool.run_sim, tmp_path / "numbers.net", input=images / "0.png")
    assert error.message == (
        f"`{images / '0.png'}`: images hold pixels, the network takes the numbers that it was converted on"
    )


def test_a_page_is_made_of_images_and_of_a_folder_of_them(cli, images: Path, tmp_path: Path) -> None:
    for source, count in ((images, 4), (images / "1.png", 1)):
        shown = cli("report", NAME, "--input", source, "-o", tmp_path / "r.html", "--json")
        assert (shown.code, shown.json["networks"][0]["compared_samples"]) == (0, count)


def test_an_image_of_too_many_pixels_is_named(tmp_path: Path, monkeypatch) -> None:
    Image.new("L", (50, 50)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    text = f"`{tmp_path / 'big.png'}`: too many pixels to be safe to decode\nhint: make it smaller, or cut it"
    assert str(refused(RangeError, open_image, tmp_path / "big.png")) == text
