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

from tests.support.runs import assert_error


def test_train_export_run_verify_inspect(cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = cli("train", "digits-mlp", "-o", run, "--set", "training.epochs=2", "--seed", 5, "--json")
    assert trained.code == 0
    assert {"accuracy_ann", "accuracy_snn", "theta", "sigma", "seconds_per_epoch"} <= set(trained.json)
    assert trained.json["precision"] == "float32"
    assert list(trained.json["accuracy_snn"]) == ["1", "2", "4", "8", "16"]
    assert 0.5 < trained.json["accuracy_ann"] <= 1
    assert trained.json["seed"] == 5

    model = tmp_path / "model.net"
    exported = cli("export", run, "--target", "loihi", "--steps", 3, "-o", model, "--json")
    assert exported.code == 0
    assert {"path", "layers", "neurons", "synapses", "cores", "head_room_bits"} <= set(exported.json)
    assert exported.json["path"] == str(model)
    assert exported.json["head_room_bits"] >= 0
    again = tmp_path / "again.net"
    assert cli("export", run / "checkpoint.safetensors", "--steps", 3, "-o", again).code == 0
    assert again.read_bytes() == model.read_bytes()

    ran = cli("run-sim", model, "--engine", "reference", "--samples", 100, "--json")
    assert ran.code == 0
    assert {"engine", "accuracy", "samples", "images_per_second", "spikes_per_layer"} <= set(ran.json)
    assert list(ran.json["accuracy"]) == ["1", "2", "3"]
    assert (ran.json["engine"], ran.json["samples"], ran.json["overflows"]) == ("reference", 100, 0)

    verified = cli("verify", model, "--engines", "reference", "--json")
    assert verified.code == 0
    assert {"equal", "engines", "samples", "compared_spikes", "first_divergence"} <= set(verified.json)
    assert verified.json["equal"] is True

    inspected = cli("inspect", model, "--json")
    assert inspected.code == 0
    assert [layer["name"] for layer in inspected.json["layers"]] == ["fc1", "fc2", "fc3"]
    assert inspected.json["provenance"]["recipe"] == "digits-mlp"
    assert inspected.json["neurons"] == exported.json["neurons"]


def test_people_get_tables(cli, digits_run: Path, digits_model: Path, tmp_path: Path) -> None:
    exported = cli("export", digits_run, "-o", tmp_path / "m.net")
    assert " on 1 chip; the most that a core uses: neurons " in exported.out
    assert "fold batch norm" in exported.out and f"wrote {tmp_path / 'm.net'}" in exported.out
    table = re.findall(
        r"^step +what +largest +output|^round `conv1` .* (?:[\d.]+%) +(?:[\d.]+%)", exported.out, re.MULTILINE
    )
    assert len(table) == 2
    inspected = cli("inspect", tmp_path / "m.net").out
    assert all(row.rstrip() in inspected for row in table)
    assert "accuracy" in cli("run-sim", digits_model, "--samples", 8).out
    verified = cli("verify", digits_model, "--engines", "reference")
    assert verified.out.startswith("EQUAL, bit for bit: file = reference\n")
    inspected = cli("inspect", digits_model)
    assert "conv1" in inspected.out and "recipe: digits-cnn" in inspected.out
    assert "digits-cnn" in cli("recipes").out
    assert ["neurons", "per", "core", "8,192", "1,024", "no", "limit"] in map(
        str.split, cli("targets").out.splitlines()
    )


def test_the_version_is_that_of_the_package(cli) -> None:
    shown = cli("--version")
    assert (shown.code, shown.out) == (0, f"nctool {version('nctool')}\n")


def test_one_is_singular(cli, digits_run: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.net"
    exported = cli("export", digits_run, "-o", model, "--backend", "population", "--target", "lava")
    assert exported.out.endswith(f"wrote {model}\nnext: nctool run-sim {model}\n")
    ran = cli("run-sim", model, "--samples", 1, "--cost").out
    assert ran.splitlines()[0] == "digits/test, 1 sample of 1 time step, engine fast"
    assert "\n1 window step, one sample every 1; the answer stands after 5 steps" in ran
    assert cli("verify", model, "--samples", 1, "--engines", "fast").out.splitlines()[1].startswith("1 sample, ")
    assert "\ncores: " not in cli("inspect", model).out  # the simulator has none


def test_files_that_are_no_checkpoint_are_called_by_their_names(cli, digits_run: Path, digits_model: Path) -> None:
    run, folder = "allowed: a checkpoint\nhint: give the folder of the run\n", digits_run
    for path, what in (
        (digits_model, "an exported network"),
        (folder / "recipe.toml", "a recipe"),
        (folder / "last.safetensors", "the state of a run"),
    ):
        for command in (["export", path, "-o", folder / "new.net"], ["explore", path], ["finetune", path]):
            assert_error(cli(*command), 2, f"error: `{path}` is {what}, {run}")


def test_the_state_of_an_unfinished_run_is_for_resume(cli, digits_run: Path, tmp_path: Path) -> None:
    state = Path(shutil.copy(digits_run / "last.safetensors", tmp_path))
    text = f"error: `{state}` is the state of a run, allowed: a checkpoint\n"
    hint = "hint: the run is not finished: repeat its command with --resume\n"
    assert_error(cli("export", state, "-o", tmp_path / "new.net"), 2, text + hint)


def test_a_checkpoint_is_no_exported_network(cli, digits_run: Path, tmp_path: Path) -> None:
    run, checkpoint = tmp_path, tmp_path / "checkpoint.safetensors"
    shutil.copy(digits_run / checkpoint.name, checkpoint)
    for path, what in ((run, "the folder of a training run"), (checkpoint, "a checkpoint")):
        text = f"error: `{path}` is {what}, allowed: an exported network\n"
        hint = f"hint: export it first: nctool export {path} -o MODEL.net\n"
        for command in ("inspect", "run-sim", "verify"):
            assert_error(cli(command, path), 2, text + hint)
    state = Path(shutil.copy(digits_run / "last.safetensors", tmp_path))
    recipe = Path(shutil.copy(digits_run / "recipe.toml", tmp_path))
    for path, what in ((state, "the state of a training run"), (recipe, "a recipe")):
        text = f"error: `{path}` is {what}, allowed: an exported network\nhint: give a file of `nctool export`\n"
        assert_error(cli("inspect", path), 2, text)
    (run / "model.net").touch()
    text = f"error: `{run}` is the folder of a training run, allowed: an exported network\n"
    assert_error(cli("inspect", run), 2, f"{text}hint: name the network in it: {run / 'model.net'}\n")


def test_data_is_called_by_its_name(cli, digits_model: Path, tmp_path: Path) -> None:
    data, array = tmp_path / "mine.npz", tmp_path / "x.npy"
    np.savez(data, x_test=np.zeros((1, 8, 8), np.uint8))
    np.save(array, np.zeros((1, 8, 8), np.uint8))
    for path, what, option in ((data, "an .npz file", "--dataset"), (array, "a .npy file", "--input")):
        error = f"error: `{path}` is {what}, allowed: "
        hint = f"hint: give it with the network: {option} {path}\n"
        for command in ("run-sim", "verify", "inspect"):
            assert_error(cli(command, path), 2, f"{error}an exported network\n{hint}")
        text = f"{error}a checkpoint\nhint: give the folder of the run\n"
        assert_error(cli("export", path, "-o", tmp_path / "m.net"), 2, text)
        hint = f"hint: a recipe names its data: nctool train RECIPE --set data.name={path}\n"
        assert_error(cli("train", path), 2, f"{error}the name of a recipe or a .toml file\n{hint}")


def test_networks_are_no_recipes_and_no_runs(cli, digits_run: Path, digits_model: Path) -> None:
    checkpoint = digits_run / "checkpoint.safetensors"
    for path, what in ((digits_model, "an exported network"), (checkpoint, "a checkpoint")):
        text = f"error: `{path}` is {what}, allowed: the name of a recipe or a .toml file\n"
        assert_error(cli("train", path), 2, text + "hint: `nctool finetune RUN` trains a network on\n")
    for path, what in ((digits_model, "an exported network"), (checkpoint, "a file")):
        text = f"error: `{path}` is {what}, allowed: the folder of a run\nhint: give the folder of the run\n"
        assert_error(cli("history", path), 2, text)


def test_explore_says_which_file_it_wrote(cli, digits_run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.pdf"
    options = ["--backends", "autapse", "--steps", 1, "--replicas", 1, "--weight-bits", 8, "--samples", 2]
    assert cli("explore", digits_run, *options, "--plot", plot).out.endswith(f"\nwrote {plot}\n")
    assert plot.read_bytes().startswith(b"%PDF")


def test_a_folder_in_place_of_a_file_is_named(cli, tmp_path: Path) -> None:
    hint = f"hint: name a file in it, `{tmp_path}/model.net` perhaps"
    text = f"error: `{tmp_path}` is a folder, allowed: a netx file\n{hint}\n"
    assert_error(cli("inspect", tmp_path), 2, text)


def test_a_missing_file(cli, tmp_path: Path) -> None:
    for command in ("run-sim", "verify", "inspect"):
        assert_error(
            cli(command, tmp_path / "no.net"),
            2,
            f"error: no such file: `{tmp_path / 'no.net'}`\n"
            "hint: export one with `nctool export CHECKPOINT --target loihi`\n",
        )


def test_a_truncated_file(cli, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.net"
    path.write_bytes(digits_model.read_bytes()[:5000])
    ended = cli("run-sim", path)
    assert ended.code == 4
    assert ended.err.startswith(f"error: `{path}`: not a sound HDF5 file (")
    assert ended.err.endswith("hint: export it again, with `nctool export` or with the tool that wrote it\n")


def test_a_foreign_file_without_a_shape(cli, tmp_path: Path) -> None:
    path = tmp_path / "foreign.net"
    with h5py.File(path, "w") as file:
        file["layer/0/type"] = np.bytes_("input")
    assert_error(
        cli("inspect", path),
        4,
        f"error: `{path}`: `/layer/0/shape` is missing\n"
        "hint: export it again, with `nctool export` or with the tool that wrote it\n",
    )


def test_a_newer_file(cli, digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "newer.net"
    shutil.copy(digits_model, path)
    with h5py.File(path, "r+") as file:
        file["nctool/version"][()] = 4
    assert_error(
        cli("inspect", path),
        4,
        f"error: `{path}`: format version 4, this nctool reads versions 1 to 3\nhint: update nctool\n",
    )


def test_a_bug_shows_no_traceback(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("nctool.running.model_file.open_model", broken)
    assert_error(
        cli("inspect", tmp_path),
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
