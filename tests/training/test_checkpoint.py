"""Checkpoints: round trip, the same bytes, and every way in which a file can be bad."""

import hashlib
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nctool
from nctool.errors import FormatError, UsageError
from nctool.recipe.schema import parse_recipe
from nctool.running.checkpoints import remembered
from nctool.training import Checkpoint, load_checkpoint, save_checkpoint
from nctool.training.checkpoints.tensor_file import first_mismatch
from nctool_models import restore_model
from tests.support.refusals import refused
from tests.support.runs import run_command
from tests.support.small_run import small_model, small_recipe

MISFIT = "checkpoint does not fit its recipe `small`"
HUGE = "1" + 400 * "0"
NOT_FINITE = "mean and std are not all finite, or a std is not positive"
OTHER_SHAPE = f"`calibration.images` is uint8 (6, 1, 4, 4), allowed: uint8 (N, *(1, 4, {HUGE}))"
NOT_OURS = "metadata `dataset` or `results` is not what nctool writes"


def small_checkpoint() -> Checkpoint:
    recipe = small_recipe()
    return Checkpoint(
        recipe=recipe,
        state=small_model(recipe).state_dict(),
        calibration_images=np.arange(96, dtype=np.uint8).reshape(6, 1, 4, 4),
        calibration_labels=np.array([0, 1, 1, 0, 0, 1]),
        dataset_name="halves",
        input_shape=(1, 4, 4),
        classes=("left", "right"),
        mean=(0.1,),
        std=(0.2,),
        results={"accuracy_ann": 0.5, "accuracy_snn": {"1": 0.25}, "theta": {"act1": 2.0}},
    )


@pytest.fixture
def run(tmp_path):
    save_checkpoint(tmp_path, small_checkpoint())
    return tmp_path


def rewrite(path, tensors=(), **metadata):
    """Write the file anew with some tensors replaced (None: left out) and some metadata replaced."""
    with safe_open(path, framework="pt") as file:
        texts = file.metadata() | metadata
    content = load_file(path) | dict(tensors)
    save_file(
        {name: tensor for name, tensor in content.items() if tensor is not None},
        path,
        {key: text for key, text in texts.items() if text is not None},
    )


def refusal(path) -> str:
    return str(refused(FormatError, load_checkpoint, path))


def test_what_is_written_reads_back_equal(run):
    wanted, loaded = small_checkpoint(), load_checkpoint(run)
    assert loaded.state.keys() == wanted.state.keys()
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in wanted.state.items())
    assert {name: tensor.dtype for name, tensor in loaded.state.items()} == {
        n: t.dtype for n, t in wanted.state.items()
    }
    np.testing.assert_array_equal(loaded.calibration_images, wanted.calibration_images)
    np.testing.assert_array_equal(loaded.calibration_labels, wanted.calibration_labels)
    arrays = {"state", "calibration_images", "calibration_labels", "sha256"}
    for field in fields(Checkpoint):
        if field.name not in arrays:
            assert getattr(loaded, field.name) == getattr(wanted, field.name)


def test_folder_and_file_are_the_same_and_the_hash_is_that_of_the_file(run):
    path = run / "checkpoint.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_checkpoint(run).sha256 == load_checkpoint(path).sha256 == load_checkpoint(str(path)).sha256 == digest


def test_the_file_is_enough_and_plain_safetensors_reads_it(run, tmp_path):
    with safe_open(run / "checkpoint.safetensors", framework="np") as file:
        metadata = file.metadata()
        assert {"calibration.images", "calibration.labels", "model.fc1.weight"} <= set(file.keys())
    assert set(metadata) == {"format", "version", "recipe", "dataset", "results"}
    assert (metadata["format"], metadata["version"]) == ("nctool-checkpoint", "1")
    assert parse_recipe(metadata["recipe"]) == small_recipe()
    assert metadata["recipe"] == (run / "recipe.toml").read_text()
    assert json.loads(metadata["dataset"]) == {
        "name": "halves",
        "input_shape": [1, 4, 4],
        "classes": ["left", "right"],
        "mean": [0.1],
        "std": [0.2],
    }
    (run / "recipe.toml").unlink()
    assert load_checkpoint(run).recipe == small_recipe()


def test_equal_checkpoints_give_equal_bytes(tmp_path):
    paths = [save_checkpoint(tmp_path / str(k), small_checkpoint()) for k in range(4)]
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_long_text_with_every_kind_of_character_is_kept(tmp_path):
    names = ("θ", '"', "\\", "\n", "𝄞", "x" * 1000)
    wanted = replace(small_checkpoint(), classes=names, dataset_name="σ/ü.npz")
    save_checkpoint(tmp_path, wanted)
    assert load_checkpoint(tmp_path).classes == names
    assert load_checkpoint(tmp_path).dataset_name == "σ/ü.npz"


def test_a_checkpoint_that_is_there_is_replaced_and_nothing_else_left(run):
    save_checkpoint(run, replace(small_checkpoint(), dataset_name="other"))
    assert load_checkpoint(run).dataset_name == "other"
    assert {path.name for path in run.iterdir()} == {"checkpoint.safetensors", "recipe.toml"}


# --- paths that are not there -----------------------------------------------------------------------------------------


def test_a_missing_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_checkpoint(tmp_path / "none")
    assert (caught.value.exit_code, str(caught.value)) == (
        2,
        f"no checkpoint at `{tmp_path}/none`\nhint: `nctool train RECIPE -o DIR` makes one",
    )


def test_a_folder_without_checkpoint_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_checkpoint(tmp_path)
    assert (caught.value.exit_code, str(caught.value)) == (
        2,
        f"no checkpoint.safetensors in `{tmp_path}`\nhint: `nctool train RECIPE -o DIR` makes one",
    )
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(UsageError, match="hint: the run is not finished: repeat its command with --resume"):
        load_checkpoint(tmp_path)


def test_a_path_that_cannot_be_read_is_a_usage_error(tmp_path):
    (tmp_path / "checkpoint.safetensors").mkdir()
    with pytest.raises(UsageError) as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value) == f"cannot read `{tmp_path}/checkpoint.safetensors`: is a directory"


# --- bad files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(run, kept):
    path = run / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    assert refusal(run) == f"`{path}` is truncated or no safetensors file"


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 100, b"\xff" * 64, b"\x08" + bytes(7) + b"not json", bytes(64)])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert refusal(path) == f"`{path}` is truncated or no safetensors file"


def test_safetensors_of_somebody_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert refusal(path) == f"`{path}` has format `none`, allowed: nctool-checkpoint"
    save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    assert refusal(path) == f"`{path}` has format `pt`, allowed: nctool-checkpoint"


@pytest.mark.parametrize(("version", "shown"), [("2", "2"), (None, "none")])
def test_another_version_is_refused(run, version, shown):
    path = run / "checkpoint.safetensors"
    rewrite(path, version=version)
    assert refusal(path) == (f"`{path}` has version `{shown}`, allowed: 1\nhint: read it with the nctool that wrote it")


FACTS = {"name": "halves", "input_shape": [1, 4, 4], "classes": ["left", "right"], "mean": [0.1], "std": [0.2]}


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"recipe": None}, "metadata `recipe` is missing"),
        ({"dataset": None}, "metadata `dataset` is missing"),
        ({"results": None}, "metadata `results` is missing"),
        ({"recipe": "name = 3"}, "recipe `checkpoint`: `name` is 3, allowed: lower-case letters, digits and `-_.`"),
        ({"dataset": "{"}, NOT_OURS),
        ({"dataset": "[]"}, NOT_OURS),
        ({"dataset": "[" * 100_000}, NOT_OURS),
        ({"dataset": json.dumps({"input_shape": [1, 4, 4]})}, NOT_OURS),
        ({"dataset": json.dumps(FACTS | {"input_shape": [4, 4]})}, NOT_OURS),
        ({"dataset": json.dumps(FACTS | {"mean": ["high"]})}, NOT_OURS),
        ({"dataset": json.dumps(FACTS | {"mean": None})}, NOT_OURS),
        ({"dataset": json.dumps(FACTS | {"input_shape": [1, 4, float("inf")]})}, NOT_OURS),
        ({"dataset": json.dumps(FACTS).replace("0.1", "1e400")}, NOT_FINITE),
        ({"dataset": json.dumps(FACTS).replace("0.1", HUGE)}, NOT_FINITE),
        ({"dataset": json.dumps(FACTS).replace("4, 4", f"4, {HUGE}")}, OTHER_SHAPE),
        ({"results": "3"}, NOT_OURS),
    ],
)
def test_bad_metadata_is_refused(run, metadata, problem):
    path = run / "checkpoint.safetensors"
    rewrite(path, **metadata)
    assert refusal(path) == f"`{path}`: {problem}"


@pytest.mark.parametrize("name", ["calibration.images", "calibration.labels"])
def test_a_missing_calibration_tensor_is_refused(run, name):
    path = run / "checkpoint.safetensors"
    rewrite(path, {name: None})
    assert refusal(path) == f"`{path}`: tensor `{name}` is missing"


@pytest.mark.parametrize(
    ("tensors", "facts", "problem"),
    [
        (
            {"calibration.images": torch.zeros(6, 1, 4, 5, dtype=torch.uint8)},
            {},
            "`calibration.images` is uint8 (6, 1, 4, 5), allowed: uint8 (N, *(1, 4, 4))",
        ),
        (
            {"calibration.images": torch.zeros(6, 1, 4, 4)},
            {},
            "`calibration.images` is float32 (6, 1, 4, 4), allowed: uint8 (N, *(1, 4, 4))",
        ),
        (
            {"calibration.labels": torch.zeros(5, dtype=torch.int64)},
            {},
            "`calibration.labels` is int64 (5,), allowed: int64 (6,)",
        ),
        (
            {"calibration.labels": torch.zeros(6, dtype=torch.int32)},
            {},
            "`calibration.labels` is int32 (6,), allowed: int64 (6,)",
        ),
        ({"calibration.labels": torch.full((6,), 2)}, {}, "`calibration.labels` holds labels outside 0..1"),
        ({"calibration.labels": torch.full((6,), -1)}, {}, "`calibration.labels` holds labels outside 0..1"),
        ({}, {"mean": [0.1, 0.2]}, "mean and std have 2 and 1 values, allowed: 1"),
        ({}, {"std": [0.0]}, "mean and std are not all finite, or a std is not positive"),
        ({}, {"mean": [float("inf")]}, "mean and std are not all finite, or a std is not positive"),
        (
            {"model.fc1.weight": torch.full((12, 16), float("nan"))},
            {},
            "`model.fc1.weight` holds values that are not finite",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(run, tensors, facts, problem):
    path = run / "checkpoint.safetensors"
    rewrite(path, tensors, dataset=json.dumps(FACTS | facts))
    assert refusal(path) == f"`{path}`: {problem}"


# --- back to a model --------------------------------------------------------------------------------------------------


def test_the_model_is_restored_for_evaluation(run):
    model, wanted = restore_model(load_checkpoint(run)), small_model(small_recipe()).eval()
    images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not model.training
    assert torch.equal(model(images), wanted(images))


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"model.fc1.weight": None}, f"{MISFIT}: tensor `fc1.weight` is missing"),
        ({"model.fc9.bias": torch.zeros(1)}, f"{MISFIT}: tensor `fc9.bias` is not wanted"),
        (
            {"model.fc1.weight": torch.zeros(12, 15)},
            f"{MISFIT}: tensor `fc1.weight` has shape (12, 15), allowed: (12, 16)",
        ),
        (
            {"model.act2.threshold": torch.tensor(0.0)},
            "checkpoint of recipe `small`: threshold of `act2` is not positive",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_recipe_are_refused(run, tensors, problem):
    rewrite(run / "checkpoint.safetensors", tensors)
    with pytest.raises(FormatError) as caught:
        restore_model(load_checkpoint(run))
    assert str(caught.value) == problem


def test_equal_names_and_shapes_are_no_mismatch():
    assert first_mismatch({"a": torch.zeros(2)}, {"a": torch.ones(2)}) is None


# --- the folder of data sets ------------------------------------------------------------------------------------------


def test_the_folder_of_data_sets_is_kept_where_one_was_named(tmp_path):
    plain, named = small_checkpoint(), replace(small_checkpoint(), data_dir="/data sets")
    assert load_checkpoint(save_checkpoint(tmp_path / "plain", plain)).data_dir is None
    assert load_checkpoint(save_checkpoint(tmp_path / "named", named)).data_dir == "/data sets"


def test_the_folder_is_that_of_the_training_where_none_is_given():
    named = replace(small_checkpoint(), data_dir="/data sets")
    assert remembered(None, named, "halves") == "/data sets"
    assert remembered("other", named, "halves") == "other"
    assert remembered(None, named, "another data set") is None
    assert remembered(None, small_checkpoint(), "halves") is None


def test_export_prints_a_next_command_that_finds_the_data(digits_run, tmp_path, capsys, monkeypatch):
    run, model = tmp_path / "a run", tmp_path / "m.net"
    save_checkpoint(run, replace(load_checkpoint(digits_run), data_dir="/data sets"))
    ended = run_command(capsys, monkeypatch, "export", run, "-o", model)
    assert ended.out.splitlines()[-1] == f"next: nctool run-sim {model} --data-dir '/data sets'"
    assert nctool.export(digits_run, model).data_dir is None
