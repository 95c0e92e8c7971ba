"""`nctool export`: targets, windows, what is likely to cost accuracy, how far it is, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nctool import export, inspect
from nctool.conversion import Conversion
from nctool.exporting import convert
from nctool.spelling import command_line
from tests.support.runs import assert_error

pytestmark = pytest.mark.usefixtures("one_thread")

TARGET_HINT = "see `nctool targets`; a target of your own is given by the path of its .toml file"


def test_per_layer_gives_a_layer_one_threshold(cli, digits_run: Path, tmp_path: Path) -> None:
    def thresholds(*options: str) -> list[list[int]]:
        report = cli("export", digits_run, "-o", tmp_path / "m.net", "--json", *options).json
        assert report["per_layer"] is bool(options)
        layers = cli("inspect", tmp_path / "m.net", "--json").json["layers"]
        return [layer["threshold_range"] for layer in layers if layer["threshold_range"]]

    assert all(low == high for low, high in thresholds("--per-layer"))
    assert any(low < high for low, high in thresholds())


def test_a_reset_that_was_not_trained_for_is_noted(cli, digits_run: Path, tmp_path: Path) -> None:
    asked = ("export", digits_run, "-o", tmp_path / "m.net", "--backend")
    note = (
        'trained with activation.reset = "subtract", but a spike of `zero-reset` sets to zero: expect to lose '
        "accuracy; train for it, or use --backend autapse"
    )
    assert cli(*asked, "zero-reset", "--json").json["notes"] == [note]
    assert f"note: {note}\n" in cli(*asked, "zero-reset").out
    assert cli(*asked, "population", "--json").json["notes"] == []


def test_the_least_head_room_is_that_of_the_layer_named(cli, digits_run: Path, tmp_path: Path) -> None:
    exported = cli("export", digits_run, "-o", tmp_path / "m.net", "--json").json
    rooms = {
        layer["name"]: layer["head_room_bits"]
        for layer in cli("inspect", tmp_path / "m.net", "--json").json["layers"]
        if layer["head_room_bits"] is not None
    }
    assert rooms[exported["tightest_layer"]] == min(rooms.values()) == exported["head_room_bits"]
    said = cli("export", digits_run, "-o", tmp_path / "m.net").out
    assert f"least head-room {min(rooms.values()):.2f} bits, in {exported['tightest_layer']}; bounds: " in said


OWN_TARGET = """
name = "small-chip"
[limits]
cores_per_chip = { value = 5, source = "data sheet" }
neurons_per_core = { value = 500, source = "data sheet" }
[features]
graded_spikes = { value = true, source = "data sheet" }
shared_kernels = { value = true, source = "data sheet" }
"""


def test_a_target_of_ones_own_and_its_chips(cli, digits_run: Path, tmp_path: Path) -> None:
    """16 x 8 x 8, 32 x 8 x 8, 64 and 10 neurons, 500 a core: 3 + 5 cores, and one for the dense layers."""
    target, model = tmp_path / "chip.toml", tmp_path / "m.net"
    target.write_text(OWN_TARGET, encoding="utf-8")
    assert_error(
        cli("export", digits_run, "--target", target, "-o", model),
        3,
        "error: network: needs 9 cores, 2 chips of `small-chip` with 5 cores each, allowed 1\n"
        "hint: use --chips 2, make the layers narrower, or use --target lava to simulate only\n",
    )
    assert not model.exists()
    options = ["--target", target, "--chips", 2, "-o", model]
    exported = cli("export", digits_run, *options, "--json").json
    target.unlink()
    inspected = cli("inspect", model, "--json").json
    for report in (exported, inspected):
        assert (report["target"], report["cores"], report["chips"]) == ("small-chip", 9, 2)
        assert report["utilisation"] == exported["utilisation"]
    used, slices = exported["utilisation"]["used"], exported["utilisation"]["slices"]
    assert sum(used["neurons"]) == exported["neurons"] == 1024 + 2048 + 64 + 10
    assert {len(column) for column in [slices, *used.values()]} == {9}
    assert [layer["cores"] for layer in inspected["layers"]] == [3, 5, 1, 1]
    said = cli("inspect", model).out
    assert "\ncores: of a layer, those that hold some of it; small layers share one\n9 cores on 2 chips; the " in said
    assert "9 cores on 2 chips; the most that a core uses: neurons 100%" in said
    assert cli("verify", model, "--engines", "reference,fast").code == 0


def test_a_simulator_without_cores(cli, digits_run: Path, tmp_path: Path) -> None:
    report = cli("export", digits_run, "--target", "lava", "-o", tmp_path / "m.net", "--json").json
    assert (report["cores"], report["chips"], report["utilisation"]["slices"]) == (0, 0, [])
    assert " on 1 chip" not in cli("export", digits_run, "--target", "lava", "-o", tmp_path / "m.net").out


def test_graded_input_for_a_chip_of_binary_spikes(cli, digits_run: Path, tmp_path: Path) -> None:
    ended = cli("export", digits_run, "--target", "loihi1", "-o", tmp_path / "m.net")
    assert ended.code == 3
    assert re.fullmatch(
        r"error: input: graded values -?\d+\.\.\d+, the spikes of `loihi1` are binary, allowed 0\.\.1\n"
        r"hint: use --input rate, --target loihi2, or --target lava to simulate only\n",
        ended.err,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.lava
def test_rate_input_for_a_chip_of_binary_spikes(cli, digits_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.net"
    exported = cli("export", digits_run, "--target", "loihi1", "--input", "rate", "-o", model, "--json").json
    assert (exported["input"], exported["target"], exported["chips"]) == ("rate", "loihi1", 1)
    assert [change["step"] for change in exported["changes"]][3:5] == ["split the channels", "code the input as rates"]
    inspected = cli("inspect", model, "--json").json
    assert (inspected["input_encoding"], inspected["input_range"]) == ("rate", [0, 1])
    assert inspected["input_shape"] == [1, 8, 8]
    assert cli("inspect", model).out.splitlines()[2].split() == ["input", "rate", "1x8x8", "0..1"]
    verified = cli("verify", model, "--engines", "reference,fast,lava", "--samples", 20, "--json")
    assert (verified.code, verified.json["equal"]) == (0, True)


def test_an_output_that_cannot_be_written(cli, digits_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "no" / "m.net"
    assert_error(
        cli("export", digits_run, "-o", path),
        2,
        f"error: cannot write `{path}`: no such file or directory\n"
        "hint: choose another place with -o, or make the folder and give yourself the right to write there\n",
    )
    (tmp_path / "file").touch()
    ended = cli("train", "digits-mlp", "-o", tmp_path / "file" / "run")
    assert ended.code == 2
    assert ended.err.startswith(f"error: cannot write `{tmp_path / 'file' / 'run'}`: not a directory\n")


@pytest.mark.parametrize("steps", [0, -3, 1033])
def test_a_window_out_of_range(cli, digits_run: Path, tmp_path: Path, steps: int) -> None:
    ended = cli("export", digits_run, "--steps", steps, "-o", tmp_path / "m.net")
    assert_error(
        ended,
        2,
        f"error: steps: {steps} is out of range, allowed 1..1032\n"
        "hint: give another number of time steps with --steps: over a longer window, the accumulator does not hold "
        "what a single weight of 8 bits adds up to\n",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--target", "tpu"],
            f"error: unknown target `tpu`, allowed loihi, loihi2, loihi1, lava\nhint: {TARGET_HINT}\n",
        ),
        (["--backend", "x"], "error: unknown backend `x`, allowed autapse, population, zero-reset, graded\n"),
        (["--chips", "0"], "error: chips: 0 is out of range, allowed >= 1\nhint: give 1 or more chips with --chips\n"),
        (["--input", "latency"], "error: unknown input encoding `latency`, allowed graded, rate\n"),
        (["--weight-bits", "9"], "error: weight bits: 9 is out of range, allowed 2..8\n"),
        (["--unknown"], "error: no such option: --unknown\nhint: see `nctool --help`, or `nctool COMMAND --help`\n"),
    ],
)
def test_bad_options_of_export(cli, digits_run: Path, tmp_path: Path, options: list[str], text: str) -> None:
    assert_error(cli("export", digits_run, "-o", tmp_path / "m.net", *options), 2, text)
    assert not list(tmp_path.iterdir())


def test_a_missing_checkpoint(cli, tmp_path: Path) -> None:
    assert_error(
        cli("export", tmp_path / "no", "-o", tmp_path / "m.net"),
        2,
        f"error: no checkpoint at `{tmp_path / 'no'}`\nhint: `nctool train RECIPE -o DIR` makes one\n",
    )
    assert not list(tmp_path.iterdir())


def test_an_unsupported_layer_is_named(tmp_path: Path) -> None:
    from nctool.activation.noisy_quant import NoisyQuantReLU
    from nctool.conversion import convert
    from nctool.errors import UnsupportedError
    from nctool_deploy.backends.autapse import AUTAPSE_FORMAT

    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 2, 3))
    model.add_module("act1", NoisyQuantReLU(4))
    model.add_module("pool1", nn.LPPool2d(2, 2))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc1", nn.Linear(18, 2))
    torch.manual_seed(0)
    with pytest.raises(UnsupportedError) as caught:
        convert(
            model.eval(),
            input_shape=(1, 8, 8),
            mean=(0.5,),
            std=(0.5,),
            number_format=AUTAPSE_FORMAT,
            n_steps=4,
            calibration=np.zeros((2, 1, 8, 8), np.uint8),
        )
    assert str(caught.value) == (
        "module `pool1` (LPPool2d) cannot be converted\n"
        "hint: roots and powers have no form: use nn.MaxPool2d or nn.AvgPool2d"
    )
    assert caught.value.exit_code == 3


# --- from Python ------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr("nctool.exporting.writing.KNOWN_SPIKES", values)
    export(digits_run, tmp_path / "m.net", steps=2)
    assert inspect(tmp_path / "m.net").known_answers == answers


def test_every_note_is_in_the_words_of_the_caller(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step of an export it is of."""

    def noted(*given: Any) -> Conversion:
        return replace(converted(*given), notes=("use more --weight-bits",))

    converted, path = convert.converted, tmp_path / "m.net"
    monkeypatch.setattr(convert, "converted", noted)
    with command_line():
        in_options = export(digits_run, path, backend="zero-reset", steps=2).notes
    reset, conversion = export(digits_run, path, backend="zero-reset", steps=2).notes
    assert in_options == (reset.replace('backend="autapse"', "--backend autapse"), "use more --weight-bits")
    assert reset.endswith('; train for it, or use backend="autapse"')
    assert conversion == "use more weight_bits"
