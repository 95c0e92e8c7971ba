"""Parts of a page, on numbers worked out by hand."""

from __future__ import annotations

import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nctool.figures.png import png_of, with_text
from nctool.reporting.pictures import picture_of
from nctool.reporting.published import PUBLISHED
from nctool.reporting.samples import DIGITS, _lines
from nctool.reporting.subjects import Subject
from nctool.reporting.texts import energy, rounded
from nctool.reporting.training import accuracy
from nctool.training.checkpoints.checkpoint import load_checkpoint

# --- pictures ---------------------------------------------------------------------------------------------------------


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 3)])
def test_a_png_holds_its_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(opened(png_of(pixels)), pixels)


def test_a_text_in_a_png_changes_no_pixel() -> None:
    png = with_text(png_of(np.eye(4, dtype=np.uint8)), "nctool figure")
    np.testing.assert_array_equal(opened(png), np.eye(4))
    assert Image.open(BytesIO(png)).info == {"Software": "nctool figure"}


def shown(address: str) -> np.ndarray:
    return opened(base64.b64decode(address.removeprefix("data:image/png;base64,")))


def test_a_large_picture_is_the_means_of_its_blocks() -> None:
    sample = np.arange(96 * 96, dtype=np.float64).reshape(1, 96, 96) % 2 * 255
    np.testing.assert_array_equal(shown(picture_of(sample, 0, 255)), np.full((48, 48), 128))


def test_channels_sequences_and_features() -> None:
    grey = shown(picture_of(np.stack([np.zeros((4, 4)), np.full((4, 4), 200)]), 0, 255))
    np.testing.assert_array_equal(grey, np.full((4, 4), 100))  # two channels: their mean
    assert shown(picture_of(np.zeros((3, 4, 4), np.uint8), 0, 255)).shape == (4, 4, 3)
    assert shown(picture_of(np.zeros((1, 1, 9), np.uint8), 0, 255)).shape == (8, 9)
    assert picture_of(np.zeros(9, np.uint8), 0, 255) == ""


# --- rasters ----------------------------------------------------------------------------------------------------------


def test_neurons_and_steps_share_cells_where_they_are_many() -> None:
    spikes = np.zeros((64, 6), np.bool_)
    spikes[:2, :3] = True  # both steps of the first line, one of two groups
    spikes[3, 5] = True
    lines = list(_lines("fc", spikes, 2))
    assert [line[1] for line in lines[:2]] == ["1-2", "3-4"]
    assert len(lines) == 32
    assert lines[0] == ("fc", "1-2", 6, "z0")
    assert lines[1] == ("fc", "3-4", 6, f"0{DIGITS[round(35 / 6)]}")


def test_one_spike_of_many_neurons_is_seen() -> None:
    spikes = np.zeros((1, 10_000), np.bool_)
    spikes[0, 42] = True
    ((_, _, total, digits),) = _lines("fc", spikes, 10)
    assert (total, digits) == (10_000, "1000000000")


def test_graded_spikes_are_beside_the_largest() -> None:
    ((_, _, _, digits),) = _lines("fc", np.array([[0, 70, 35]], np.int32), 10)
    assert digits == f"0z{DIGITS[round(35 / 2)]}"


# --- texts and curves -------------------------------------------------------------------------------------------------


def test_numbers_have_three_digits() -> None:
    assert [rounded(n) for n in (0, 12.34, 999.6, 1_234, 1_018_831, 2.5e9)] == [
        "0",
        "12.3",
        "1000",
        "1.23 k",
        "1.02 M",
        "2.5 G",
    ]
    assert [energy(pj) for pj in (12.3, 15_700_000, 1.5e9)] == ["12.3 pJ", "15.7 µJ", "1.5 mJ"]


def test_a_recipe_of_the_paper_has_its_curve(digits_run: Path) -> None:
    checkpoint = load_checkpoint(digits_run)
    name = "cifar10-resnet18"
    checkpoint = replace(checkpoint, recipe=checkpoint.recipe.model_copy(update={"name": name}))
    subject = Subject("run", None, None, digits_run, checkpoint, (), "")
    figure, _ = accuracy(subject, None, None, "nothing was exported")
    columns = figure.variants[""].columns
    rows = zip(columns["curve"], columns["at"], columns["value"], strict=True)
    drawn = {at: value for curve, at, value in rows if curve == "published, float SNN"}
    assert drawn == PUBLISHED[name]
    assert "arXiv 2404.17456" in figure.variants[""].text


@pytest.mark.parametrize("results", [{}, {"accuracy_ann": "high", "accuracy_snn": {"x": 1, "2": 7, "4": 0.5}}])
def test_results_that_nctool_did_not_write_are_left_out(digits_run: Path, results: dict[str, object]) -> None:
    checkpoint = replace(load_checkpoint(digits_run), results=results)
    subject = Subject("run", None, None, digits_run, checkpoint, (), "")
    assert subject.accuracy_ann is None
    assert subject.accuracy_snn == ({4: 0.5} if results else {})
