"""The commands as a user types them: exit codes, JSON keys, error texts, no traceback, nothing half-written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from nctool_models import load_dataset, load_recipe
from tests.support.runs import Finished, run_command

TARGET_HINT = "see `nctool targets`; a target of your own is given by the path of its .toml file"


@pytest.fixture
def nctool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def run(*arguments: object) -> Finished:
        return run_command(capsys, monkeypatch, *arguments)

    return run


def assert_error(ended: Finished, code: int, text: str) -> None:
    assert ended.err == text
    assert ended.code == code
    assert ended.out == ""


def test_train_export_run_verify_inspect(nctool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = nctool("train", "digits-mlp", "-o", run, "--set", "training.epochs=2", "--seed", 5, "--json")
    assert trained.code == 0
    assert {"accuracy_ann", "accuracy_snn", "theta", "sigma", "seconds_per_epoch"} <= set(trained.json)
    assert list(trained.json["accuracy_snn"]) == ["1", "2", "4", "8", "16"]
    assert 0.5 < trained.json["accuracy_ann"] <= 1
    assert trained.json["seed"] == 5

    model = tmp_path / "model.net"
    exported = nctool("export", run, "--target", "loihi", "--steps", 3, "-o", model, "--json")
    assert exported.code == 0
    assert {"path", "layers", "neurons", "synapses", "cores", "head_room_bits"} <= set(exported.json)
    assert exported.json["path"] == str(model)
    assert exported.json["head_room_bits"] >= 0
    again = tmp_path / "again.net"
    assert nctool("export", run / "checkpoint.safetensors", "--steps", 3, "-o", again).code == 0
    assert again.read_bytes() == model.read_bytes()

    ran = nctool("run-sim", model, "--engine", "reference", "--samples", 100, "--json")
    assert ran.code == 0
    assert {"engine", "accuracy", "samples", "images_per_second", "spikes_per_layer"} <= set(ran.json)
    assert list(ran.json["accuracy"]) == ["1", "2", "3"]
    assert (ran.json["engine"], ran.json["samples"], ran.json["overflows"]) == ("reference", 100, 0)

    verified = nctool("verify", model, "--engines", "reference", "--json")
    assert verified.code == 0
    assert {"equal", "engines", "samples", "compared_spikes", "first_divergence"} <= set(verified.json)
    assert verified.json["equal"] is True

    inspected = nctool("inspect", model, "--json")
    assert inspected.code == 0
    assert [layer["name"] for layer in inspected.json["layers"]] == ["fc1", "fc2", "fc3"]
    assert inspected.json["provenance"]["recipe"] == "digits-mlp"
    assert inspected.json["neurons"] == exported.json["neurons"]


@pytest.mark.lava
def test_run_sim_on_lava_gives_the_accuracy_of_the_reference(nctool, digits_model: Path) -> None:
    reference = nctool("run-sim", digits_model, "--samples", 30, "--json").json
    lava = nctool("run-sim", digits_model, "--samples", 30, "--engine", "lava", "--json").json
    assert lava["engine"] == "lava"
    assert lava["accuracy"] == reference["accuracy"]
    assert lava["spikes_per_layer"] == reference["spikes_per_layer"]
    assert lava["overflows"] is None


def test_people_get_tables(nctool, digits_run: Path, digits_model: Path, tmp_path: Path) -> None:
    exported = nctool("export", digits_run, "-o", tmp_path / "m.net")
    assert " on 1 chip; the most that a core uses: neurons " in exported.out
    assert "fold batch norm" in exported.out and f"wrote {tmp_path / 'm.net'}" in exported.out
    table = re.findall(
        r"^step +what +largest +output|^round `conv1` .* (?:[\d.]+%) +(?:[\d.]+%)", exported.out, re.MULTILINE
    )
    assert len(table) == 2
    inspected = nctool("inspect", tmp_path / "m.net").out
    assert all(row.rstrip() in inspected for row in table)
    assert "accuracy" in nctool("run-sim", digits_model, "--samples", 8).out
    verified = nctool("verify", digits_model, "--engines", "reference")
    assert verified.out.startswith("EQUAL, bit for bit: file = reference\n")
    inspected = nctool("inspect", digits_model)
    assert "conv1" in inspected.out and "recipe: digits-cnn" in inspected.out
    assert "digits-cnn" in nctool("recipes").out
    assert ["neurons", "per", "core", "8,192", "1,024", "no", "limit"] in map(
        str.split, nctool("targets").out.splitlines()
    )


def test_per_layer_gives_a_layer_one_threshold(nctool, digits_run: Path, tmp_path: Path) -> None:
    def thresholds(*options: str) -> list[list[int]]:
        report = nctool("export", digits_run, "-o", tmp_path / "m.net", "--json", *options).json
        assert report["per_layer"] is bool(options)
        layers = nctool("inspect", tmp_path / "m.net", "--json").json["layers"]
        return [layer["threshold_range"] for layer in layers if layer["threshold_range"]]

    assert all(low == high for low, high in thresholds("--per-layer"))
    assert any(low < high for low, high in thresholds())


def test_a_recipe_is_written_out_so_that_it_reads_back(nctool, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(nctool("recipes", "digits-cnn").out, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.toml") == load_recipe("digits-cnn")
    (as_json,) = nctool("recipes", tmp_path / "mine.toml", "--json").json["recipes"]
    assert as_json["name"] == "digits-cnn"
    refused = nctool("recipes", "digit-cnn")
    assert refused.code == 2
    assert "unknown recipe `digit-cnn`" in refused.err


def test_the_version_is_that_of_the_package(nctool) -> None:
    shown = nctool("--version")
    assert (shown.code, shown.out) == (0, f"nctool {version('nctool')}\n")


def test_samples_of_your_own_without_labels_get_answers(nctool, digits_model: Path, tmp_path: Path) -> None:
    digits = load_dataset("digits")
    np.save(tmp_path / "x.npy", digits.x_test[:25])
    asked = nctool("run-sim", digits_model, "--input", tmp_path / "x.npy", "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as traces:
        expected = traces["logits"][:, -1].argmax(axis=1).tolist()
    shown = ", ".join(map(str, expected[:20]))
    assert f"answers, a class for each sample: {shown}, … (25 in --json)\n" in asked.out
    assert asked.out.endswith(f"wrote {tmp_path / 'out.npz'}\n")
    assert nctool("run-sim", digits_model, "--input", tmp_path / "x.npy", "--json").json["answers"] == expected
    np.save(tmp_path / "y.npy", digits.y_test[:25])
    labelled = nctool("run-sim", digits_model, "--input", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--json")
    assert (labelled.json["answers"], labelled.json["answer_names"]) == ([], [])


def test_answers_go_by_the_names_of_the_classes(nctool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    pixels[labels == 1] = 255
    data, classes = tmp_path / "two.npz", np.array(["dark", "light"])
    np.savez(data, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, classes=classes)
    options = ["--set", "training.epochs=20", "--set", f"data.name={data}", "--set", "training.batch_size=4"]
    assert nctool("train", "digits-mlp", "-o", tmp_path / "run", *options).code == 0
    assert nctool("export", tmp_path / "run", "-o", tmp_path / "m.net", "--steps", 1).code == 0
    np.save(tmp_path / "x.npy", pixels[:3])
    asked = nctool("run-sim", tmp_path / "m.net", "--input", tmp_path / "x.npy")
    assert asked.out.splitlines()[:2] == [
        f"{tmp_path / 'x.npy'}, 3 samples of 1 time step, engine fast",
        "answers, a class for each sample: 0 dark, 1 light, 0 dark",
    ]
    found = nctool("run-sim", tmp_path / "m.net", "--input", tmp_path / "x.npy", "--json").json
    assert (found["answers"], found["answer_names"]) == ([0, 1, 0], ["dark", "light", "dark"])


def test_one_is_singular(nctool, digits_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.net"
    exported = nctool("export", digits_run, "-o", model, "--realisation", "population", "--target", "lava")
    assert exported.out.endswith(f"wrote {model}\nnext: nctool run-sim {model}\n")
    ran = nctool("run-sim", model, "--samples", 1, "--cost").out
    assert ran.splitlines()[0] == "digits/test, 1 sample of 1 time step, engine fast"
    assert "\n1 window step, one sample every 1; the answer stands after 5 steps" in ran
    assert nctool("verify", model, "--samples", 1, "--engines", "fast").out.splitlines()[1].startswith("1 sample, ")
    assert "\ncores: " not in nctool("inspect", model).out  # the simulator has none


def test_files_that_are_no_checkpoint_are_called_by_their_names(nctool, digits_run: Path, digits_model: Path) -> None:
    run, folder = "allowed: a checkpoint\nhint: give the folder of the run\n", digits_run
    for path, what in (
        (digits_model, "an exported network"),
        (folder / "recipe.toml", "a recipe"),
        (folder / "last.safetensors", "the state of a run"),
    ):
        for command in (["export", path, "-o", folder / "new.net"], ["explore", path], ["finetune", path]):
            assert_error(nctool(*command), 2, f"error: `{path}` is {what}, {run}")


def test_the_state_of_an_unfinished_run_is_for_resume(nctool, digits_run: Path, tmp_path: Path) -> None:
    state = Path(shutil.copy(digits_run / "last.safetensors", tmp_path))
    text = f"error: `{state}` is the state of a run, allowed: a checkpoint\n"
    hint = "hint: the run is not finished: repeat its command with --resume\n"
    assert_error(nctool("export", state, "-o", tmp_path / "new.net"), 2, text + hint)


def test_a_checkpoint_is_no_exported_network(nctool, digits_run: Path, tmp_path: Path) -> None:
    run, checkpoint = tmp_path, tmp_path / "checkpoint.safetensors"
    shutil.copy(digits_run / checkpoint.name, checkpoint)
    for path, what in ((run, "the folder of a training run"), (checkpoint, "a checkpoint")):
        text = f"error: `{path}` is {what}, allowed: an exported network\n"
        hint = f"hint: export it first: nctool export {path} -o MODEL.net\n"
        for command in ("inspect", "run-sim", "verify"):
            assert_error(nctool(command, path), 2, text + hint)
    state = Path(shutil.copy(digits_run / "last.safetensors", tmp_path))
    recipe = Path(shutil.copy(digits_run / "recipe.toml", tmp_path))
    for path, what in ((state, "the state of a training run"), (recipe, "a recipe")):
        text = f"error: `{path}` is {what}, allowed: an exported network\nhint: give a file of `nctool export`\n"
        assert_error(nctool("inspect", path), 2, text)
    (run / "model.net").touch()
    text = f"error: `{run}` is the folder of a training run, allowed: an exported network\n"
    assert_error(nctool("inspect", run), 2, f"{text}hint: name the network in it: {run / 'model.net'}\n")


def test_data_is_called_by_its_name(nctool, digits_model: Path, tmp_path: Path) -> None:
    data, array = tmp_path / "mine.npz", tmp_path / "x.npy"
    np.savez(data, x_test=np.zeros((1, 8, 8), np.uint8))
    np.save(array, np.zeros((1, 8, 8), np.uint8))
    for path, what, option in ((data, "an .npz file", "--dataset"), (array, "a .npy file", "--input")):
        error = f"error: `{path}` is {what}, allowed: "
        hint = f"hint: give it with the network: {option} {path}\n"
        for command in ("run-sim", "verify", "inspect"):
            assert_error(nctool(command, path), 2, f"{error}an exported network\n{hint}")
        text = f"{error}a checkpoint\nhint: give the folder of the run\n"
        assert_error(nctool("export", path, "-o", tmp_path / "m.net"), 2, text)
        hint = f"hint: a recipe names its data: nctool train RECIPE --set data.name={path}\n"
        assert_error(nctool("train", path), 2, f"{error}the name of a recipe or a .toml file\n{hint}")


def test_networks_are_no_recipes_and_no_runs(nctool, digits_run: Path, digits_model: Path) -> None:
    checkpoint = digits_run / "checkpoint.safetensors"
    for path, what in ((digits_model, "an exported network"), (checkpoint, "a checkpoint")):
        text = f"error: `{path}` is {what}, allowed: the name of a recipe or a .toml file\n"
        assert_error(nctool("train", path), 2, text + "hint: `nctool finetune RUN` trains a network on\n")
    for path, what in ((digits_model, "an exported network"), (checkpoint, "a file")):
        text = f"error: `{path}` is {what}, allowed: the folder of a run\nhint: give the folder of the run\n"
        assert_error(nctool("history", path), 2, text)


def test_explore_says_which_file_it_wrote(nctool, digits_run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.pdf"
    options = ["--realisations", "autapse", "--steps", 1, "--units", 1, "--weight-bits", 8, "--samples", 2]
    assert nctool("explore", digits_run, *options, "--plot", plot).out.endswith(f"\nwrote {plot}\n")
    assert plot.read_bytes().startswith(b"%PDF")


def test_a_reset_that_was_not_trained_for_is_noted(nctool, digits_run: Path, tmp_path: Path) -> None:
    asked = ("export", digits_run, "-o", tmp_path / "m.net", "--realisation")
    note = (
        'trained with activation.reset = "subtract", but a spike of `zero-reset` sets to zero: expect to lose '
        "accuracy; train for it, or export with --realisation autapse"
    )
    assert nctool(*asked, "zero-reset", "--json").json["notes"] == [note]
    assert f"note: {note}\n" in nctool(*asked, "zero-reset").out
    assert nctool(*asked, "population", "--json").json["notes"] == []


def test_the_least_head_room_is_that_of_the_layer_named(nctool, digits_run: Path, tmp_path: Path) -> None:
    exported = nctool("export", digits_run, "-o", tmp_path / "m.net", "--json").json
    rooms = {
        layer["name"]: layer["head_room_bits"]
        for layer in nctool("inspect", tmp_path / "m.net", "--json").json["layers"]
        if layer["head_room_bits"] is not None
    }
    assert rooms[exported["tightest_layer"]] == min(rooms.values()) == exported["head_room_bits"]
    said = nctool("export", digits_run, "-o", tmp_path / "m.net").out
    assert f"least head-room {min(rooms.values()):.2f} bits, in {exported['tightest_layer']}; bounds: " in said


def test_a_folder_in_place_of_a_file_is_named(nctool, tmp_path: Path) -> None:
    hint = f"hint: name a file in it, `{tmp_path}/model.net` perhaps"
    text = f"error: `{tmp_path}` is a folder, allowed: a netx file\n{hint}\n"
    assert_error(nctool("inspect", tmp_path), 2, text)


def test_lists_as_json(nctool) -> None:
    assert {"digits-cnn", "digits-mlp", "mnist-mlp", "mnist-lenet"} <= {
        recipe["name"] for recipe in nctool("recipes", "--json").json["recipes"]
    }
    listed = nctool("targets", "--json").json
    assert [target["name"] for target in listed["targets"]] == ["loihi2", "loihi1", "lava"]
    assert listed["aliases"] == {"loihi": "loihi2"}
    limits = [limit for target in listed["targets"] for limit in target["limits"].values() if limit is not None]
    assert len(limits) == 9
    assert all(each["source"] for each in [*limits, *listed["numbers"]])


OWN_TARGET = """
name = "small-chip"
[limits]
cores_per_chip = { value = 5, source = "data sheet" }
neurons_per_core = { value = 500, source = "data sheet" }
[features]
graded_spikes = { value = true, source = "data sheet" }
shared_kernels = { value = true, source = "data sheet" }
"""


def test_a_target_of_ones_own_and_its_chips(nctool, digits_run: Path, tmp_path: Path) -> None:
    """16 x 8 x 8, 32 x 8 x 8, 64 and 10 neurons, 500 a core: 3 + 5 cores, and one for the dense layers."""
    target, model = tmp_path / "chip.toml", tmp_path / "m.net"
    target.write_text(OWN_TARGET, encoding="utf-8")
    assert_error(
        nctool("export", digits_run, "--target", target, "-o", model),
        3,
        "error: network: needs 9 cores, 2 chips of `small-chip` with 5 cores each, allowed 1\n"
        "hint: export with --chips 2, make the layers narrower, or export with --target lava to simulate only\n",
    )
    assert not model.exists()
    options = ["--target", target, "--chips", 2, "-o", model]
    exported = nctool("export", digits_run, *options, "--json").json
    target.unlink()
    inspected = nctool("inspect", model, "--json").json
    for report in (exported, inspected):
        assert (report["target"], report["cores"], report["chips"]) == ("small-chip", 9, 2)
        assert report["utilisation"] == exported["utilisation"]
    used, slices = exported["utilisation"]["used"], exported["utilisation"]["slices"]
    assert sum(used["neurons"]) == exported["neurons"] == 1024 + 2048 + 64 + 10
    assert {len(column) for column in [slices, *used.values()]} == {9}
    assert [layer["cores"] for layer in inspected["layers"]] == [3, 5, 1, 1]
    said = nctool("inspect", model).out
    assert "\ncores: of a layer, those that hold some of it; small layers share one\n9 cores on 2 chips; the " in said
    assert "9 cores on 2 chips; the most that a core uses: neurons 100%" in said
    assert nctool("verify", model, "--engines", "reference,fast").code == 0


def test_a_simulator_without_cores(nctool, digits_run: Path, tmp_path: Path) -> None:
    report = nctool("export", digits_run, "--target", "lava", "-o", tmp_path / "m.net", "--json").json
    assert (report["cores"], report["chips"], report["utilisation"]["slices"]) == (0, 0, [])
    assert " on 1 chip" not in nctool("export", digits_run, "--target", "lava", "-o", tmp_path / "m.net").out


def test_graded_input_for_a_chip_of_binary_spikes(nctool, digits_run: Path, tmp_path: Path) -> None:
    ended = nctool("export", digits_run, "--target", "loihi1", "-o", tmp_path / "m.net")
    assert ended.code == 3
    assert re.fullmatch(
        r"error: input: graded values -?\d+\.\.\d+, the spikes of `loihi1` are binary, allowed 0\.\.1\n"
        r"hint: export with --input rate, with --target loihi2, or with --target lava to simulate only\n",
        ended.err,
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.lava
def test_rate_input_for_a_chip_of_binary_spikes(nctool, digits_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.net"
    exported = nctool("export", digits_run, "--target", "loihi1", "--input", "rate", "-o", model, "--json").json
    assert (exported["input"], exported["target"], exported["chips"]) == ("rate", "loihi1", 1)
    assert [change["step"] for change in exported["changes"]][3:5] == ["split the channels", "code the input as rates"]
    inspected = nctool("inspect", model, "--json").json
    assert (inspected["input_coding"], inspected["input_range"]) == ("rate", [0, 1])
    assert inspected["input_shape"] == [1, 8, 8]
    assert nctool("inspect", model).out.splitlines()[2].split() == ["input", "rate", "1x8x8", "0..1"]
    verified = nctool("verify", model, "--engines", "reference,fast,lava", "--samples", 20, "--json")
    assert (verified.code, verified.json["equal"]) == (0, True)


def test_verify_exits_1_on_a_difference(nctool, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][...] = -file["layer/1/weight"][...]
    ended = nctool("verify", path, "--engines", "reference")
    assert ended.code == 1
    assert "DIFFERENT" in ended.out
    assert "first divergence: layer `conv1`, sample 0, step 1, neuron (" in ended.out
    divergence = nctool("verify", path, "--engines", "reference", "--json").json["first_divergence"]
    assert {"layer", "sample", "step", "neuron", "expected", "actual"} <= set(divergence)


def test_verify_shows_what_drove_the_neuron_and_how_much_differs(nctool, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["layer/2/weight"][...] = -file["layer/2/weight"][...]
    ended = nctool("verify", path, "--engines", "reference,fast")
    lines = ended.out.splitlines()
    assert lines[0] == "DIFFERENT: file ≠ reference"
    assert lines[2:4] == [
        "layer `conv2` is not what was exported: its digest differs",
        "not run: reference = fast: the file is not what was exported",
    ]
    assert lines[4].startswith("first divergence: layer `conv2`, sample 0, step 1, neuron (")
    assert lines[5].startswith("the neuron: integrate-and-fire, threshold ")
    assert lines[6] == "its window, potentials before fire:"
    assert " ".join(lines[7].split()) == ("step drive potential file spike file potential reference spike reference")
    assert "not kept" in lines[8]
    assert lines[9].startswith("by the rules it is ") and lines[9].endswith(", as in `reference`")
    assert lines[10].endswith(" inputs were active at step 1, largest first; both sides agree on all of them:")
    assert lines[11].split()[:4] == ["source", "neuron", "value", "weight"]
    assert "`file` ≠ `reference` on 16 samples:" in lines
    last = {line.split()[0] for line in lines[lines.index("`file` ≠ `reference` on 16 samples:") + 2 :]}
    assert {"conv1", "conv2", "fc1", "fc2"} <= last


def test_verify_names_the_engines_that_differ(nctool, digits_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from nctool.reference.simulate import simulate
    from nctool.running.engines import ENGINES

    def higher(job):
        trace = simulate(job.network, job.pixels)
        return iter([replace(trace, logits=trace.logits + 1000 * (np.arange(10) == 3))])

    monkeypatch.setitem(ENGINES, "lava", higher)
    out = nctool("verify", digits_model, "--samples", 16).out
    assert out.startswith("DIFFERENT: reference ≠ lava\n16 samples, ")
    assert "first divergence: layer `fc2`, sample 0, step 1, neuron (3,): logit is " in out
    assert "by 512..1023: 64; " in out and " predictions change" in out


def test_verify_writes_its_files_when_engines_differ_too(nctool, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][...] = -file["layer/1/weight"][...]
    options = ["--junit", tmp_path / "out.xml", "--layers", tmp_path / "traces.npz"]
    assert nctool("verify", path, "--engines", "reference", *options).code == 1
    assert b"<failure " in (tmp_path / "out.xml").read_bytes()
    assert np.load(tmp_path / "traces.npz")["engines"].tolist() == ["file", "reference"]


@pytest.mark.parametrize("option", ["--junit", "--layers"])
def test_outputs_of_verify_that_cannot_be_written_are_refused_before_the_run(
    nctool, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def run(*_: object) -> None:
        raise AssertionError("an engine ran")

    monkeypatch.setattr("nctool.api.verifying.compare_known_answers", run)
    hint = f"hint: choose another place with {option}, or make the folder and give yourself the right to write there\n"
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path / "no" / "out", "no such file or directory"),
        (tmp_path / "file" / "out", "not a directory"),
        (tmp_path, "is a directory"),
        (Path("/dev/null"), "it is a device, a pipe or a socket"),
    ]:
        ended = nctool("verify", digits_model, option, path)
        assert_error(ended, 2, f"error: cannot write `{path}`: {reason}\n{hint}")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_outputs_of_verify_overwrite_neither_an_input_nor_each_other(
    nctool, digits_model: Path, tmp_path: Path
) -> None:
    path, hint = tmp_path / "out", "hint: give it a file of its own\n"
    for options, text in [
        (["--junit", digits_model], f"--junit: `{digits_model}` is the model"),
        (["--layers", path, "--dataset", path], f"--layers: `{path}` is the data set"),
        (["--layers", path, "--junit", path], f"--junit: `{path}` is the file of --layers"),
    ]:
        assert_error(nctool("verify", digits_model, *options), 2, f"error: {text}\n{hint}")
    assert not list(tmp_path.iterdir())


def test_traces_that_are_too_large_are_refused_before_the_run(
    nctool, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nctool.verification.trace_file.MAX_BYTES", 10**6)
    ended = nctool("verify", digits_model, "--engines", "reference,fast", "--layers", tmp_path / "traces.npz")
    assert_error(
        ended,
        2,
        "error: --layers: the traces of 16 samples in 2 engines take 2,023,424 bytes, allowed 1,000,000\n"
        "hint: give --samples 7, or fewer engines\n",
    )
    assert not list(tmp_path.iterdir())


def test_an_unknown_recipe(nctool) -> None:
    ended = nctool("train", "digits-cmn")
    assert ended.code == 2
    assert ended.err == (
        "error: unknown recipe `digits-cmn`\n"
        "hint: did you mean `digits-cnn` or `digits-mlp` or `digits-cnn-rate`? `nctool recipes` lists those built in\n"
    )


def test_a_missing_checkpoint(nctool, tmp_path: Path) -> None:
    assert_error(
        nctool("export", tmp_path / "no", "-o", tmp_path / "m.net"),
        2,
        f"error: no checkpoint at `{tmp_path / 'no'}`\nhint: `nctool train RECIPE -o DIR` makes one\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_missing_file(nctool, tmp_path: Path) -> None:
    for command in ("run-sim", "verify", "inspect"):
        assert_error(
            nctool(command, tmp_path / "no.net"),
            2,
            f"error: no such file: `{tmp_path / 'no.net'}`\n"
            "hint: export one with `nctool export CHECKPOINT --target loihi`\n",
        )


def test_a_truncated_file(nctool, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.net"
    path.write_bytes(digits_model.read_bytes()[:5000])
    ended = nctool("run-sim", path)
    assert ended.code == 4
    assert ended.err.startswith(f"error: `{path}`: not a sound HDF5 file (")
    assert ended.err.endswith("hint: export it again, with `nctool export` or with the tool that wrote it\n")


def test_a_foreign_file_without_a_shape(nctool, tmp_path: Path) -> None:
    path = tmp_path / "foreign.net"
    with h5py.File(path, "w") as file:
        file["layer/0/type"] = np.bytes_("input")
    assert_error(
        nctool("inspect", path),
        4,
        f"error: `{path}`: `/layer/0/shape` is missing\n"
        "hint: export it again, with `nctool export` or with the tool that wrote it\n",
    )


def test_a_newer_file(nctool, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "newer.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["nctool/version"][()] = 4
    assert_error(
        nctool("inspect", path),
        4,
        f"error: `{path}`: format version 4, this nctool reads versions 1 to 3\nhint: update nctool\n",
    )


def test_an_output_that_cannot_be_written(nctool, digits_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "no" / "m.net"
    assert_error(
        nctool("export", digits_run, "-o", path),
        2,
        f"error: cannot write `{path}`: no such file or directory\n"
        "hint: choose another place with -o, or make the folder and give yourself the right to write there\n",
    )
    (tmp_path / "file").touch()
    ended = nctool("train", "digits-mlp", "-o", tmp_path / "file" / "run")
    assert ended.code == 2
    assert ended.err.startswith(f"error: cannot write `{tmp_path / 'file' / 'run'}`: not a directory\n")


@pytest.mark.parametrize("steps", [0, -3, 1033])
def test_a_window_out_of_range(nctool, digits_run: Path, tmp_path: Path, steps: int) -> None:
    ended = nctool("export", digits_run, "--steps", steps, "-o", tmp_path / "m.net")
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
        (["--realisation", "x"], "error: unknown realisation `x`, allowed autapse, population, zero-reset\n"),
        (["--chips", "0"], "error: chips: 0 is out of range, allowed >= 1\nhint: give 1 or more chips with --chips\n"),
        (["--input", "latency"], "error: unknown input encoding `latency`, allowed graded, rate\n"),
        (["--weight-bits", "9"], "error: weight bits: 9 is out of range, allowed 2..8\n"),
        (["--unknown"], "error: no such option: --unknown\nhint: see `nctool --help`, or `nctool COMMAND --help`\n"),
    ],
)
def test_bad_options_of_export(nctool, digits_run: Path, tmp_path: Path, options: list[str], text: str) -> None:
    assert_error(nctool("export", digits_run, "-o", tmp_path / "m.net", *options), 2, text)
    assert not list(tmp_path.iterdir())


def test_bad_options_of_run_sim_and_verify(nctool, digits_model: Path) -> None:
    assert_error(
        nctool("run-sim", digits_model, "--engine", "brian"),
        2,
        "error: unknown engine `brian`, allowed reference, fast, lava\n",
    )
    assert_error(
        nctool("verify", digits_model, "--engines", "reference,brian"),
        2,
        "error: unknown engine `brian`, allowed reference, fast, lava\n",
    )
    assert_error(
        nctool("verify", digits_model, "--engines", ","),
        2,
        "error: no engine to verify\nhint: name them with --engines reference,lava\n",
    )
    assert_error(
        nctool("run-sim", digits_model, "--samples", 1000),
        2,
        "error: samples: 1000 is out of range, allowed 1..359 (digits, test)\n",
    )
    assert_error(
        nctool("run-sim", digits_model, "--split", "dev"), 2, "error: unknown split `dev`, allowed test, train\n"
    )


def test_a_data_set_of_the_wrong_shape(nctool, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.npz"
    pixels, labels = np.zeros((4, 8, 9), np.uint8), np.array([0, 1, 2, 3], np.uint8)
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    assert_error(
        nctool("run-sim", digits_model, "--dataset", path),
        3,
        f"error: data set `{path}`: samples have shape (1, 8, 9), the network takes (1, 8, 8)\n"
        "hint: give the data set that the network was trained on with --dataset\n",
    )


def test_a_missing_data_set(nctool, digits_model: Path, tmp_path: Path) -> None:
    ended = nctool("run-sim", digits_model, "--dataset", tmp_path / "no.npz")
    assert ended.code == 2
    assert f"`{tmp_path / 'no.npz'}`" in ended.err
    assert len(ended.err.splitlines()) <= 2


def test_training_data_that_is_elsewhere_is_named(nctool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    np.savez(here / "good.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    monkeypatch.chdir(here)
    options = ["--set", "training.epochs=1", "--set", "data.name=good.npz", "--set", "activation.threshold_init=1.0"]
    assert nctool("train", "digits-mlp", "-o", "run", *options).code == 0
    assert nctool("export", "run", "-o", "m.net").code == 0
    assert nctool("run-sim", "m.net", "--json").json["dataset"] == "good.npz/test"
    monkeypatch.chdir(elsewhere)
    text = "error: the network was trained on `good.npz`, which is not here\nhint: name the data with --dataset PATH\n"
    for command in (
        ["run-sim", here / "m.net"],
        ["verify", here / "m.net", "--samples", 20],
        ["explore", here / "run"],
    ):
        assert_error(nctool(*command), 2, text)
    missing = nctool("run-sim", here / "m.net", "--dataset", "good.npz").err
    assert missing.startswith("error: no data set file `good.npz`\n")


def test_a_bug_shows_no_traceback(nctool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("nctool.api.inspect", broken)
    assert_error(
        nctool("inspect", tmp_path),
        70,
        "error: internal error: ZeroDivisionError: boom\n"
        "hint: this is a bug in nctool; run again with NCTOOL_DEBUG=1 for a traceback and report it\n",
    )


def test_python_m_nctool_in_a_real_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nctool", "inspect", str(tmp_path / "no.net")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: no such file: ")
    assert "Traceback" not in ended.stderr


def test_an_unsupported_layer_is_named(tmp_path: Path) -> None:
    from nctool.activation.noisy_quant import NoisyQuantReLU
    from nctool.conversion import convert
    from nctool.errors import UnsupportedError
    from nctool_deploy.backends.autapse import AUTAPSE_FORMAT

    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 2, 3))
    model.add_module("act1", NoisyQuantReLU(4))
    model.add_module("pool1", nn.MaxPool2d(2))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc1", nn.Linear(18, 2))
    torch.manual_seed(0)
    with pytest.raises(UnsupportedError) as caught:
        convert(
            model.eval(),
            input_shape=(1, 8, 8),
            mean=(0.5,),
            std=(0.5,),
            form=AUTAPSE_FORMAT,
            n_steps=4,
            calibration=np.zeros((2, 1, 8, 8), np.uint8),
        )
    assert str(caught.value) == (
        "module `pool1` (MaxPool2d) cannot be converted\n"
        "hint: spikes cannot represent a maximum: use nn.AvgPool2d and train again"
    )
    assert caught.value.exit_code == 3
