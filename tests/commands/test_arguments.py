"""The arguments of every public function: those of another type are refused by name, whatever they are."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import numpy as np
import pytest
import torch
from torch import nn

import nctool
from nctool.arguments import public, split_names
from nctool.errors import FormatError, NctoolError, RangeError, UsageError
from nctool.spelling import command_line, spoken
from nctool_deploy.foreign import ForeignOptions
from nctool_models import load_dataset

HOSTILE = (object(), b"x", 1j, float("nan"), -(10**400), [object()], {"a": object()}, {3: 4}, "a\0b", torch.zeros(0))


@pytest.fixture
def given(digits_run, digits_model, tmp_path) -> dict[str, dict[str, Any]]:
    """Return arguments that go well."""
    images = torch.rand(4, 1, 4, 4)
    return {
        "prepare": {
            "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)),
            "images": images,
        },
        "check": {"model": nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)), "shape": images},
        "train": {"recipe": "digits-mlp", "output": tmp_path / "run"},
        "finetune": {"checkpoint": digits_run, "output": tmp_path / "tuned"},
        "history": {"run": digits_run},
        "explore": {"checkpoint": digits_run},
        "export": {"checkpoint": digits_run, "output": tmp_path / "m.net"},
        "convert": {
            "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)),
            "images": images.numpy(),
            "output": tmp_path / "m.net",
        },
        "run_sim": {"model": digits_model},
        "verify": {"model": digits_model, "engines": "fast"},
        "report": {"networks": digits_model, "output": tmp_path / "report.html", "verify": 1},
        "inspect": {"model": digits_model},
        "open": {"model": digits_model},
        "demo": {"output": tmp_path / "demo"},
        "bundle": {"model": digits_model, "output": tmp_path / "bundle"},
        "doctor": {},
    }


def parameters() -> list[tuple[str, str]]:
    names = [name for name in nctool.__all__ if callable(getattr(nctool, name))]
    return [(name, each) for name in names for each in inspect.signature(getattr(nctool, name)).parameters]


@pytest.mark.parametrize(("function", "name"), parameters())
def test_no_argument_of_any_type_is_a_bug(given, tmp_path, monkeypatch, function, name):
    monkeypatch.chdir(tmp_path)
    for value in HOSTILE:
        with pytest.raises(NctoolError) as caught:
            getattr(nctool, function)(**given[function] | {name: value})
        assert caught.value.exit_code != 70
        assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (function, name)
        for function, name in parameters()
        if "Path" in str(inspect.signature(getattr(nctool, function)).parameters[name]) and name != "data_dir"
    ],
)
def test_a_name_that_no_file_can_have_is_no_bug(given, tmp_path, monkeypatch, function, name):
    """Python asks the system in many places; where one may not look into a folder, it fails as for a long name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NctoolError) as caught:
        getattr(nctool, function)(**given[function] | {name: "x" * 300})
    assert caught.value.exit_code == 2


def test_what_the_system_says_of_a_path_is_told_and_other_errors_stay():
    @public
    def function(error: Any) -> None:
        raise error

    with pytest.raises(UsageError) as caught:
        function(PermissionError(13, "Permission denied", "a/b"))
    assert str(caught.value) == "`a/b`: permission denied"
    for kept in (BrokenPipeError(32, "Broken pipe"), OSError(12, "Cannot allocate memory"), OSError("odd")):
        with pytest.raises(type(kept)) as raised:
            function(kept)
        assert raised.value is kept


class Alias:
    """A type as `type ArrayLike = ...` makes it in numpy 2.5: neither a class nor with attributes of its own."""

    __slots__ = ("__name__",)

    def __init__(self) -> None:
        self.__name__ = "Alias"

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007 - what `|` gives

    def __call__(self) -> None:
        """Be what `Union` takes."""


ALIAS = Alias()


def test_what_an_alias_stands_for_has_a_check_of_its_own():
    @public
    def function(value: Path | ALIAS) -> Any:
        return value

    assert function(Path("x")) == Path("x")
    assert function("x") == "x"
    assert function([1, 2]) == [1, 2]


def test_every_public_function_is_covered(given):
    assert sorted(given) == sorted(nctool.__all__)
    assert len(parameters()) > 80


REPLICAS = "a whole number or a mapping of whole numbers or 'auto' or None"
PATH = "a path or a text"


@pytest.mark.parametrize(
    ("function", "name", "value", "text"),
    [
        ("export", "replicas", "2", f"replicas: got '2', allowed: {REPLICAS}"),
        ("export", "replicas", {"conv1": "2"}, "replicas['conv1']: got '2', allowed: a whole number"),
        ("export", "replicas", {1: 2}, "replicas, key 1: got 1, allowed: a text"),
        ("export", "steps", True, "steps: got True, allowed: a whole number or None"),
        ("export", "steps", 4.0, "steps: got 4.0, allowed: a whole number or None"),
        ("export", "per_layer", 1, "per_layer: got 1, allowed: True or False"),
        ("export", "checkpoint", None, f"checkpoint: got None, allowed: {PATH}"),
        ("export", "target", b"loihi", f"target: got a bytes, allowed: {PATH}"),
        ("export", "output", "a\0", "output: got 'a\\x00', allowed: a path without null characters"),
        ("explore", "steps", 4, "steps: got 4, allowed: a list of whole numbers or None"),
        ("explore", "steps", "1,2", "steps: got '1,2', allowed: a list of whole numbers or None"),
        ("explore", "weight_bits", [8, "4"], "weight_bits[1]: got '4', allowed: a whole number"),
        ("explore", "progress", "yes", "progress: got 'yes', allowed: a function or True or False"),
        ("run_sim", "samples", "3", "samples: got '3', allowed: a whole number or None"),
        ("run_sim", "samples", np.bool_(True), "samples: got a bool, allowed: a whole number or None"),
        ("run_sim", "timeout_s", float("nan"), "timeout_s: got nan, allowed: a finite number"),
        ("run_sim", "timeout_s", float("inf"), "timeout_s: got inf, allowed: a finite number"),
        ("run_sim", "timeout_s", 0, "timeout_s: 0 is out of range, allowed >= 1"),
        ("run_sim", "options", {"steps": 3}, "options: got a dict, allowed: a ForeignOptions or None"),
        ("run_sim", "options", ForeignOptions(steps="3"), "options.steps: got '3', allowed: a whole number or None"),
        ("verify", "engines", ["fast", 3], "engines[1]: got 3, allowed: a text"),
        ("verify", "all_differences", "no", "all_differences: got 'no', allowed: True or False"),
        ("train", "seed", "1", "seed: got '1', allowed: a whole number or None"),
        ("train", "overrides", 3, "overrides: got 3, allowed: a mapping or None"),
        (
            "train",
            "overrides",
            ["seed=3"],
            'overrides: got a list, allowed: a mapping or None\nhint: overrides={"training.epochs": 3}',
        ),
        ("train", "overrides", {3: 4}, "overrides, key 3: got 3, allowed: a text"),
        ("train", "on_epoch", 3, "on_epoch: got 3, allowed: a function"),
        ("prepare", "levels", "4", "levels: got '4', allowed: a whole number or None"),
        ("prepare", "reset", "none", "reset: got 'none', allowed: 'subtract', 'zero'"),
        ("history", "plot", 3, f"plot: got 3, allowed: {PATH} or None"),
        ("inspect", "model", 3, f"model: got 3, allowed: {PATH}"),
    ],
)
def test_the_argument_is_named_with_what_it_takes(given, function, name, value, text):
    with pytest.raises(UsageError) as caught:
        getattr(nctool, function)(**given[function] | {name: value})
    assert str(caught.value) == text


def test_numbers_of_numpy_are_numbers(digits_run, digits_model, tmp_path):
    path = tmp_path / "m.net"
    report = nctool.export(digits_run, path, steps=np.int64(2), weight_bits=np.uint8(4), per_layer=np.bool_(False))
    assert (report.steps, type(report.steps)) == (2, int)
    assert nctool.run_sim(path, samples=np.int32(3), timeout_s=np.float32(9)).samples == 3
    found = nctool.explore(digits_run, backends=("autapse",), steps=np.arange(1, 2), replicas=range(1, 2), samples=2)
    assert [row.setting.steps for row in found.rows] == [1, 1]


# --- the words of the caller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("use --steps 1, or --backend autapse", 'use steps=1, or backend="autapse"'),
        ("leave --steps out", "leave steps out"),
        ("give --max-cores N or --max-neurons N", "give max_cores=N or max_neurons=N"),
        ("name them with --engines reference,lava", 'name them with engines="reference,lava"'),
        ("give it with --shape C,H,W, or --shape 3,8,8: x", "give it with shape=(C, H, W), or shape=(3, 8, 8): x"),
        ("give samples with --input X.npy", 'give samples with input="X.npy"'),
        ("take another folder by -o, or --overwrite", "take another folder by output, or overwrite=True"),
        ("give more with --timeout, or fewer --samples", "give more with timeout_s, or fewer samples"),
        ("for instance --set training.epochs=3", 'for instance overrides={"training.epochs": 3}'),
        ("--set 'model={architecture = \"NAME\"}'", 'overrides={"model": {"architecture": "NAME"}}'),
        ("`nctool train RECIPE -o DIR` makes one", '`nctool.train("RECIPE", output="DIR")` makes one'),
        ("export it: nctool export 'my run' -o M.net", 'export it: nctool.export("my run", output="M.net")'),
        ("`a --steps 3` is no file, `--engine fast` is", '`a --steps 3` is no file, `engine="fast"` is'),
        ("`pip install --no-deps x`, start 4 with --nproc-per-node", None),
        ("a file that nctool exported", None),
        ("see `nctool targets`; a well-o-iled word - or -other", None),
    ],
)
def test_a_message_names_arguments_in_python_and_options_on_the_command_line(text, python):
    assert spoken(text) == (python or text)
    with command_line():
        assert spoken(text) == text
    assert spoken(text) == (python or text)


def test_errors_of_public_functions_are_in_the_words_of_the_caller(digits_run, tmp_path):
    with pytest.raises(UsageError) as caught:
        nctool.export(digits_run, tmp_path / "m.net", chips=0)
    assert caught.value.hint == "give 1 or more chips with chips"
    with command_line(), pytest.raises(UsageError) as caught:
        nctool.export(digits_run, tmp_path / "m.net", chips=0)
    assert caught.value.hint == "give 1 or more chips with --chips"


def test_a_checked_function_is_called_as_before():
    @public
    def function(path: Path | str, number: int = 3, *, flag: bool = False) -> Any:
        """Do nothing."""
        return path, number, flag

    calls: list[Callable[[], Any]] = [lambda: function("a", "1"), lambda: function("a", 1, flag=None)]
    assert function.__doc__ == "Do nothing."
    assert function("a", np.int8(1), flag=True) == ("a", 1, True)
    assert function(Path("a")) == (Path("a"), 3, False)
    for call in calls:
        with pytest.raises(UsageError):
            call()


def test_what_has_a_check_of_its_own_keeps_its_hint(digits_model):
    with pytest.raises(UsageError) as caught:
        nctool.prepare("model.pt", torch.zeros(1, 1))
    assert caught.value.hint == "build the network, then load its weights: model.load_state_dict(torch.load(path))"
    with pytest.raises(FormatError) as refused:
        nctool.run_sim(digits_model, input=object())
    assert str(refused.value) == "`input`: holds object (), allowed an array of numbers"


# --- as Python callers write them -------------------------------------------------------------------------------------


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


def test_engines_and_backends_may_be_a_text(digits_run, digits_model):
    assert nctool.verify(digits_model, engines="fast,reference", samples=2).engines == ("fast", "reference")
    report = nctool.explore(digits_run, backends="autapse", steps=[1], replicas=[1], weight_bits=[8], samples=2)
    assert [row.setting.backend for row in report.rows] == ["autapse"]


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


def test_help_shows_types_and_no_options():
    text = pydoc.plain(pydoc.render_doc(nctool.export))
    assert "steps: int | None = None" in text
    assert "Option(" not in text
    assert "input: 'Input' = None" in pydoc.plain(pydoc.render_doc(nctool.run_sim))
