"""Nothing that a command reads, and no finished run, is overwritten by what it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import nctool
from nctool.errors import UsageError
from nctool.running.outputs import TRACES, require_outputs
from tests.support.refusals import refusal
from tests.support.runs import SHORT

OWN = "hint: give it a file of its own"
FINISHED = "hint: choose another folder with output, or overwrite=True"


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "last.safetensors", "recipe.toml", "metrics.jsonl"])
def test_export_leaves_the_files_of_the_run(run: Path, name: str) -> None:
    before = contents(run)
    wanted = f"output: `{run / name}` is the run's {name}\n{OWN}"
    assert refusal(UsageError, nctool.export, run, run / name) == wanted
    assert refusal(UsageError, nctool.export, run / "checkpoint.safetensors", str(run / "." / name)) == wanted.replace(
        "the run's checkpoint.safetensors", "the checkpoint"
    )
    assert contents(run) == before


def test_export_leaves_its_target(run: Path) -> None:
    target = run / "mine.toml"
    built_in = Path(__file__).parents[2] / "deploy" / "nctool_deploy" / "targets" / "files" / "loihi2.toml"
    target.write_text(built_in.read_text().replace('name = "loihi2"', 'name = "mine"'))
    before = contents(run)
    assert refusal(UsageError, nctool.export, run, target, target=target) == f"output: `{target}` is the target\n{OWN}"
    assert contents(run) == before


def test_export_writes_its_own_file_again(run: Path) -> None:
    nctool.export(run, run / "model.net", steps=4)
    before = (run / "model.net").read_bytes()
    nctool.export(run, run / "model.net", steps=4)
    assert (run / "model.net").read_bytes() == before


def test_run_sim_leaves_model_samples_labels_and_data_set(digits_model: Path, tmp_path: Path) -> None:
    model, samples, labels, data = (tmp_path / name for name in ("m.net", "x.npy", "y.npy", "d.npz"))
    shutil.copy(digits_model, model)
    pixels, answers = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    np.save(samples, pixels)
    np.save(labels, answers)
    np.savez(data, x_train=pixels, y_train=answers, x_test=pixels, y_test=answers)
    before = contents(tmp_path)
    for path, what in (
        (model, "model"),
        (samples, "samples"),
        (labels, "labels"),
        (tmp_path / "checkpoint.safetensors", "run's checkpoint.safetensors"),
    ):
        found = refusal(UsageError, nctool.run_sim, model, input=samples, labels=labels, output=path)
        assert found == f"output: `{path}` is the {what}\n{OWN}"
    assert (
        refusal(UsageError, nctool.run_sim, model, dataset=data, output=data)
        == f"output: `{data}` is the data set\n{OWN}"
    )
    assert (
        refusal(UsageError, nctool.verify, model, input=samples, layers=samples)
        == f"layers: `{samples}` is the samples\n{OWN}"
    )
    assert contents(tmp_path) == before


def test_a_link_to_an_input_is_that_input(tmp_path: Path) -> None:
    model, link = tmp_path / "m.net", tmp_path / "link.npz"
    model.touch()
    link.symlink_to(model)
    assert (
        refusal(UsageError, require_outputs, {"the model": model}, {"-o": (TRACES, link)})
        == f"-o: `{link}` is the model\n{OWN}"
    )


def test_a_folder_of_images_is_not_written_into(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "photos" / "train" / "cat" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"a cat")
    found = refusal(UsageError, nctool.explore, run, dataset=image.parents[2], plot=image)
    assert found == f"plot: `{image}` lies in the data set\n{OWN}"
    assert image.read_bytes() == b"a cat"


def test_plots_leave_the_files_of_the_run(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    for plot in (nctool.explore, nctool.history):
        for path in before:
            assert refusal(UsageError, plot, run, plot=path) == (
                f"plot `{path}`: ends in `{path.suffix}`, allowed .png, .svg, .pdf"
            )
    assert contents(run) == before
    renamed = tmp_path / "checkpoint.png"
    shutil.copy(run / "checkpoint.safetensors", renamed)
    assert refusal(UsageError, nctool.explore, renamed, plot=renamed) == f"plot: `{renamed}` is the checkpoint\n{OWN}"


def test_a_data_set_by_name_is_no_place(digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    nctool.run_sim(digits_model, samples=2, dataset="digits", output="digits/spikes.npz")
    assert (tmp_path / "digits" / "spikes.npz").is_file()


# --- files of another kind --------------------------------------------------------------------------------------------


def kept(path: Path, kind: str, argument: str) -> str:
    return (
        f"{argument}: `{path}` is there and is no {kind}, so it is not replaced\n"
        "hint: give another name, or remove it first"
    )


def test_export_replaces_networks_only(run: Path, digits_model: Path, tmp_path: Path) -> None:
    recipe, data, hdf5 = (tmp_path / name for name in ("mine.toml", "mine.npz", "mine.h5"))
    recipe.write_text('name = "mine"\n')
    np.savez(data, x_train=np.zeros((4, 8, 8), np.uint8))
    with h5py.File(hdf5, "w") as file:
        file["images"] = np.zeros((4, 8, 8), np.uint8)
    before = contents(tmp_path)
    for path in (recipe, data, hdf5):
        assert refusal(UsageError, nctool.export, run, path) == kept(path, "netx HDF5 file", "output")
    assert contents(tmp_path) == before
    foreign = tmp_path / "foreign.net"
    with h5py.File(foreign, "w") as file:
        file.create_group("layer")
    empty = tmp_path / "empty.net"
    empty.touch()
    for path in (foreign, empty, Path(shutil.copy(digits_model, tmp_path / "old.net"))):
        nctool.export(run, path, steps=2)
        assert nctool.inspect(path).steps == 2


def test_traces_and_junit_replace_their_own_kind_only(digits_model: Path, tmp_path: Path) -> None:
    data, logits, recipe = (tmp_path / name for name in ("mine.npz", "logits.npz", "mine.toml"))
    np.savez(data, x_train=np.zeros((4, 8, 8), np.uint8))
    np.savez(logits, logits=np.zeros((4, 10)), labels=np.arange(4))
    recipe.write_text('name = "mine"\n')
    before = contents(tmp_path)
    for path in (data, logits, recipe):
        traces = ".npz file of traces"
        assert refusal(UsageError, nctool.run_sim, digits_model, samples=2, output=path) == kept(path, traces, "output")
        assert refusal(UsageError, nctool.verify, digits_model, engines="fast", layers=path) == kept(
            path, traces, "layers"
        )
        found = refusal(UsageError, nctool.verify, digits_model, engines="fast", junit=path)
        assert found == kept(path, "JUnit XML file", "junit")
    assert contents(tmp_path) == before
    old, report = tmp_path / "old.npz", tmp_path / "old.xml"
    for _ in range(2):
        nctool.run_sim(digits_model, samples=2, output=old)
        assert np.load(old)["logits"].shape[0] == 2
        nctool.verify(digits_model, engines="fast", samples=1, layers=old, junit=report)
        assert list(np.load(old)["engines"])[-1] == "fast"
        assert report.read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plots_replace_their_own_kind_only(run: Path, tmp_path: Path, suffix: str) -> None:
    photo, figure = tmp_path / f"photo{suffix}", tmp_path / f"figure{suffix}"
    photo.write_bytes(b"a cat")
    for plot in (nctool.history, nctool.explore):
        assert refusal(UsageError, plot, run, plot=photo) == kept(photo, "figure of nctool", "plot")
    assert photo.read_bytes() == b"a cat"
    nctool.history(run, plot=figure)
    before = figure.read_bytes()
    nctool.history(run, plot=figure)
    assert figure.read_bytes() == before


# --- finished runs ----------------------------------------------------------------------------------------------------


def test_a_finished_run_is_replaced_only_if_that_is_wanted(run: Path, digits_run: Path) -> None:
    before, text = contents(run), f"`{run}` holds a finished run\n{FINISHED}"
    assert refusal(UsageError, nctool.train, "digits-cnn", run) == text
    assert refusal(UsageError, nctool.finetune, digits_run, run) == text
    assert contents(run) == before
    nctool.train("digits-mlp", run, overrides={"training.epochs": 1}, overwrite=True)
    assert nctool.history(run).epochs[-1].epoch == 1
    nctool.finetune(digits_run, run, overrides={"finetune.epochs": 1, "finetune.steps": [1]}, overwrite=True)
    assert nctool.history(run).epochs[-1].stage == "finetune"


def test_a_recipe_of_your_own_is_not_taken_for_that_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    recipe = folder / "recipe.toml"
    recipe.write_text(
        '# by hand\nname = "x"\n[data]\nname = "digits"\n[model]\narchitecture = "cnn"\n[training]\nepochs = 1\n'
    )
    before = recipe.read_bytes()
    assert refusal(UsageError, nctool.train, recipe, folder) == (
        f"output `{folder}` holds the recipe itself, as `recipe.toml`, which a run writes anew\n"
        "hint: choose another folder with output, or move the recipe"
    )
    assert recipe.read_bytes() == before


def test_a_finished_run_is_told_again_by_resume(run: Path) -> None:
    checkpoint = (run / "checkpoint.safetensors").read_bytes()
    assert nctool.train("digits-cnn", run, overrides=SHORT, resume=True).best_epoch in (1, 2, 3)
    assert (run / "checkpoint.safetensors").read_bytes() == checkpoint


def test_to_go_on_and_to_begin_anew_are_two_things(run: Path) -> None:
    text = "resume=True and overwrite=True: allowed one of them\nhint: resume=True goes on, overwrite=True begins anew"
    assert refusal(UsageError, nctool.train, "digits-cnn", run, resume=True, overwrite=True) == text
    assert refusal(UsageError, nctool.finetune, run, run.parent / "new", resume=True, overwrite=True) == text
