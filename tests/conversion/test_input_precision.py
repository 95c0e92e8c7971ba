"""How finely the input is graded is chosen on some channels where the weights are many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nctool.conversion.float_network import FloatNetwork, FloatPopulation, FloatSynapse
from nctool.conversion.quantise.input_precision import choose_input, drive_error, round_readers
from nctool.ir.network import INPUT_NAME, ConvGeometry
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT
from tests.support.scales import thresholds

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 40), np.uint8)


def network(channels: int, size: float) -> FloatNetwork:
    """Return two layers, the first of which reads the input."""
    weight = size * np.random.default_rng(1).normal(size=(channels, 40))
    first = FloatSynapse("fc1", INPUT_NAME, (40,), weight, np.zeros(channels), None)
    last = FloatSynapse("fc2", "fc1", (channels,), np.ones((2, channels)), np.zeros(2), None)
    hidden = FloatPopulation("fc1", (channels,), (first,), thresholds(1.0, channels))
    return FloatNetwork((40,), (hidden, FloatPopulation("fc2", (2,), (last,))))


@pytest.mark.parametrize("size", [0.02, 0.5, 2.0])
def test_what_some_channels_choose_is_nearly_as_good_as_what_all_do(size):
    numbers, normalisation = replace(AUTAPSE_FORMAT, accumulator_max=2**13), ((0.5,), (0.25,))
    whole = network(64, size).up_to_readers_of(INPUT_NAME)
    of_all = choose_input(whole, *normalisation, numbers, PIXELS, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nctool.conversion.quantise.input_precision.WEIGHTS", 40 * 16)
        of_some = choose_input(whole, *normalisation, numbers, PIXELS, 4)
    best, found = (
        drive_error(round_readers(whole, graded, numbers, PIXELS, 4), graded, PIXELS, 4) for graded in (of_all, of_some)
    )
    assert found <= 1.1 * best


def test_the_populations_up_to_the_last_reader_are_all_that_may_read():
    whole = network(4, 1.0)
    assert [p.name for p in whole.up_to_readers_of(INPUT_NAME).populations] == ["fc1"]
    assert whole.up_to_readers_of("fc1") == whole


def test_channels_in_groups_are_all_taken(monkeypatch):
    """A part of the channels of a group reads nothing that a convolution could say."""
    monkeypatch.setattr("nctool.conversion.quantise.input_precision.WEIGHTS", 1)
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3))
    grouped = FloatSynapse("c", INPUT_NAME, (2, 5, 5), weight, np.zeros(4), ConvGeometry(groups=2))
    population = FloatPopulation("c", (4, 3, 3), (grouped,), thresholds(1.0, 4))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 2, 5, 5), np.uint8)
    found = choose_input(FloatNetwork((2, 5, 5), (population,)), (0.5,) * 2, (0.25,) * 2, AUTAPSE_FORMAT, pixels, 4)
    assert len(found.real) == 2
