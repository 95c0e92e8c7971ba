"""Export says how far it is, layer by layer and batch by batch, and keeps fewer known answers over a long window."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nctool.api import export, exporting, inspect
from nctool.conversion import Conversion
from nctool.spelling import command_line

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_layer_and_every_batch_is_told(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nctool.conversion.quantise.calibration.CPU_BATCH_BYTES", 2**17)
    told: list[tuple[int, int, str]] = []
    report = export(digits_run, tmp_path / "m.net", progress=lambda *each: told.append(each))
    n_layers = report.layers
    assert told[0] == (0, n_layers, "grading the input")
    assert [each for each in told if each[2].startswith("converting") and "samples" not in each[2]] == [
        (number, n_layers, f"converting `{name}`") for number, name in enumerate(report.bounds)
    ]
    assert told[-3:] == [
        (n_layers, n_layers, "placing neurons on cores"),
        (n_layers, n_layers, "comparing with the float network"),
        (n_layers, n_layers, "running known inputs, and writing"),
    ]
    assert all(before[0] <= after[0] for before, after in pairwise(told))
    first = next(iter(report.bounds))
    batches = [message for _, _, message in told if message.startswith(f"converting `{first}`, ")]
    assert batches[0] == f"converting `{first}`, 0 of 256 samples"
    assert len(batches) > 2


@pytest.mark.parametrize(("spikes", "answers"), [(2**27, 16), (3, 3), (0, 1)])
def test_known_answers_are_as_many_as_their_spikes_allow(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spikes: int, answers: int
) -> None:
    """Every neuron counts at every step, the readout's too."""
    values = spikes if spikes > 3 else spikes * 2 * export(digits_run, tmp_path / "m.net", steps=2).neurons
    monkeypatch.setattr("nctool.api.exporting.KNOWN_SPIKES", values)
    export(digits_run, tmp_path / "m.net", steps=2)
    assert inspect(tmp_path / "m.net").known_answers == answers


def test_every_note_is_in_the_words_of_the_caller(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step of an export it is of."""

    def noted(*given: Any) -> Conversion:
        return replace(converted(*given), notes=("use more --weight-bits",))

    converted, path = exporting.converted, tmp_path / "m.net"
    monkeypatch.setattr(exporting, "converted", noted)
    with command_line():
        in_options = export(digits_run, path, realisation="zero-reset", steps=2).notes
    reset, conversion = export(digits_run, path, realisation="zero-reset", steps=2).notes
    assert in_options == (reset.replace('realisation="autapse"', "--realisation autapse"), "use more --weight-bits")
    assert reset.endswith('; train for it, or export with realisation="autapse"')
    assert conversion == "use more weight_bits"
