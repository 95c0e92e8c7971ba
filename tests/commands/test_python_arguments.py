"""Arguments as Python callers write them: paths as text, arrays in place of files, one name in place of a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nctool
from nctool.arguments import split_names
from nctool.errors import FormatError, NctoolError, RangeError, UsageError
from nctool_models import load_dataset

ENGINE = "reference"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return load_dataset("digits").x_test[:6]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return load_dataset("digits").y_test[:6]


def test_paths_may_be_texts(digits_run, digits_model, tmp_path, pixels, labels):
    given = {name: str(tmp_path / name) for name in ("x.npy", "y.npy", "out.npz", "traces.npz", "j.xml", "h.svg")}
    np.save(given["x.npy"], pixels)
    np.save(given["y.npy"], labels)
    options = {"engine": ENGINE, "labels": given["y.npy"], "output": given["out.npz"]}
    report = nctool.run_sim(str(digits_model), input=given["x.npy"], **options)
    assert (report.dataset, report.samples) == (given["x.npy"], 6)
    verified = nctool.verify(
        str(digits_model), engines=ENGINE, input=given["x.npy"], layers=given["traces.npz"], junit=given["j.xml"]
    )
    assert (verified.equal, verified.samples) == (True, 6)
    nctool.history(str(digits_run), plot=given["h.svg"])
    assert all(Path(path).stat().st_size > 0 for path in given.values())


def test_a_data_set_may_be_a_path(digits_model, tmp_path, pixels, labels):
    path = tmp_path / "d.npz"
    np.savez(path, x_train=pixels[:, 0], y_train=labels, x_test=pixels[:, 0], y_test=labels)
    assert nctool.run_sim(digits_model, dataset=path, data_dir=str(tmp_path)).dataset == f"{path}/test"
    assert nctool.verify(digits_model, engines=ENGINE, dataset=path, samples=6).samples == 6


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_samples_and_labels_may_be_arrays(digits_model, tmp_path, pixels, labels, make):
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "y.npy", labels)
    from_files = nctool.run_sim(digits_model, input=tmp_path / "x.npy", labels=tmp_path / "y.npy")
    given = make(pixels) if make is not np.ndarray.tolist else pixels
    from_arrays = nctool.run_sim(digits_model, input=given, labels=make(labels))
    assert from_arrays.dataset == "input"
    assert from_arrays.accuracy == from_files.accuracy
    assert from_arrays.spikes_per_layer == from_files.spikes_per_layer
    assert nctool.verify(digits_model, engines="reference,fast", input=given).samples == 6


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (
            RangeError,
            {"input": np.zeros((2, 1, 8, 8))},
            "`input`: holds float64 (2, 1, 8, 8), allowed uint8 (samples, 1, 8, 8)\n"
            "hint: pixels are 0..255: save (255 * x).round().astype('uint8')",
        ),
        (
            FormatError,
            {"input": np.zeros((0, 1, 8, 8))},
            "`input`: holds no samples: float64 (0, 1, 8, 8)",
        ),
        (
            FormatError,
            {"input": torch.zeros(1, requires_grad=True)},
            "`input`: no array (can't call numpy() on tensor that requires grad. use tensor.detach().numpy() "
            "instead.)\n"
            "hint: give a NumPy array",
        ),
        (
            FormatError,
            {"input": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(1, int)},
            "`labels`: labels are int64 (1,), allowed class numbers for 2 samples\n"
            "hint: labels are class numbers 0, 1, 2, ..., one for each of the 2 images",
        ),
        (
            RangeError,
            {"input": np.zeros((2, 8, 8), np.uint8), "labels": np.array([1, 10])},
            "`labels`: label 10, the network has 10 classes\nhint: classes are 0..9: save y - 1",
        ),
        (
            RangeError,
            {"input": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 10])},
            "`labels`: label 10, the network has 10 classes",
        ),
        (
            UsageError,
            {"input": np.zeros((2, 8, 8), np.uint8), "dataset": "digits"},
            "two sources of samples: `input` and data set `digits`",
        ),
        (
            UsageError,
            {"input": np.zeros((2, 8, 8), np.uint8), "split": "train"},
            "split: allowed with a data set only, got the samples `input`\nhint: leave it out",
        ),
        (
            UsageError,
            {"input": np.zeros((2, 8, 8), np.uint8), "data_dir": "data"},
            "data_dir: allowed with a data set only, got the samples `input`\nhint: leave it out",
        ),
        (UsageError, {"labels": np.zeros(2, int)}, "labels without samples\nhint: give the samples with input"),
    ],
)
def test_arrays_are_checked_as_files_are(digits_model, kind, options, text):
    with pytest.raises(NctoolError) as caught:
        nctool.run_sim(digits_model, **options)
    assert (type(caught.value), str(caught.value)) == (kind, text)


def test_names_in_a_text_or_a_list():
    assert split_names("reference, fast,") == split_names(["reference", "fast"]) == ("reference", "fast")


def test_engines_and_realisations_may_be_a_text(digits_run, digits_model):
    assert nctool.verify(digits_model, engines="fast,reference", samples=2).engines == ("fast", "reference")
    report = nctool.explore(digits_run, realisations="autapse", steps=[1], units=[1], weight_bits=[8], samples=2)
    assert [row.setting.realisation for row in report.rows] == ["autapse"]


def test_training_takes_a_mapping(digits_run, tmp_path):
    nctool.train("digits-mlp", tmp_path / "run", overrides={"training.epochs": 1})
    assert len(nctool.history(tmp_path / "run").epochs) == 1
    nctool.finetune(digits_run, tmp_path / "tuned", overrides={"finetune.epochs": 1, "finetune.steps": [1]})
    assert nctool.history(tmp_path / "tuned").epochs[-1].stage == "finetune"


def test_a_mapping_in_place_of_a_recipe_is_refused():
    with pytest.raises(UsageError) as caught:
        nctool.train({"training": {"epochs": 1}})
    assert str(caught.value) == (
        "recipe: got a dict, allowed: a path or a text\n"
        'hint: give a network with model=net, changes of a recipe with overrides={"training.epochs": 3}'
    )


def test_an_argument_that_is_not_there_is_told_with_the_function() -> None:
    with pytest.raises(TypeError) as caught:
        nctool.history("runs/d", overwrite=True)  # type: ignore[call-arg]
    assert str(caught.value) == "nctool.history: got an unexpected keyword argument 'overwrite', allowed: run, plot"
