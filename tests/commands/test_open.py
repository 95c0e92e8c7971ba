"""nctool.open: a model that is prepared once and called with images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nctool
from nctool.errors import RangeError, UsageError
from nctool.fast.engine import FastEngine
from nctool.reference.simulate import simulate
from nctool_deploy.foreign import ForeignOptions, read_foreign
from nctool_deploy.netx import read
from nctool_models import load_dataset
from tests.support.foreign import Draft, dense_layer


def test_it_gives_the_logits_of_the_reference_for_one_image_or_many(digits_model: Path, monkeypatch) -> None:
    model, prepared = nctool.open(digits_model), []
    monkeypatch.setattr(FastEngine, "_layer", lambda *_: prepared.append(0))
    pixels = load_dataset("digits").x_test[:40]
    expected = simulate(read(digits_model).network, pixels).logits[:, -1]
    for some in (slice(0, 1), slice(0, 40), slice(7, 9)):
        found = model(pixels[some])
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected[some])
    np.testing.assert_array_equal(model(pixels[:3].transpose(0, 2, 3, 1)), expected[:3])
    assert prepared == []


def test_it_says_which_kernels_run(digits_model: Path) -> None:
    model = nctool.open(digits_model)
    assert model.kernels["conv2"] == "int8, fused"
    assert repr(model).endswith(", kernels int8, fused)")


def test_images_that_do_not_fit_are_refused(digits_model: Path) -> None:
    with pytest.raises(RangeError, match="`images`: holds float64 "):
        nctool.open(digits_model)(np.zeros((1, 1, 8, 8)))


def test_what_cannot_be_opened_is_refused(digits_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        nctool.open(tmp_path / "none.net")
    with pytest.raises(UsageError, match="unknown device `tpu`, allowed cpu, cuda"):
        nctool.open(digits_model, device="tpu")


def test_a_file_of_another_tool_takes_its_window_from_the_samples(tmp_path: Path) -> None:
    path = Draft([dense_layer(np.arange(-6, 6).reshape(3, 4))]).write(tmp_path / "other.net")
    model, rng = nctool.open(path), np.random.default_rng(0)
    for n_steps, high in ((5, 2), (9, 40)):
        samples = rng.integers(0, high, (3, n_steps, 4))
        content, integers = read_foreign(path, ForeignOptions()).fit(samples, "samples")
        np.testing.assert_array_equal(model(samples), simulate(content.network, integers).logits[:, -1])
