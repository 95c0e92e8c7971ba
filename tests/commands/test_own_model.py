"""A network of your own, from preparation to the exported file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.errors import FormatError, RecipeError, UsageError
from nctool.recipe.schema import read_recipe
from nctool.training import load_checkpoint
from nctool_models import restore_model
from tests.support.refusals import refusal

RECIPE = "digits-mlp"
SHORT = {"training.epochs": 3}


class Own(nn.Module):
    """A small residual network as people write them."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = torch.max_pool2d(self.relu(self.conv2(x) + x), 2)
        return self.fc(x.view(x.shape[0], -1))


def own(classes: int = 10, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return nctool.prepare(Own(classes), torch.randn(32, 1, 8, 8), **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    nctool.train(RECIPE, folder, overrides=SHORT, model=own())
    return folder


def test_it_trains_on_the_recipes_data(run):
    checkpoint = load_checkpoint(run)
    assert checkpoint.recipe.model.architecture == "own"
    assert checkpoint.results["accuracy_ann"] > 0.8
    assert set(checkpoint.results["theta"]) == {"relu", "relu_2"}


FROM_CONVERSION = {"training.epochs": 0, "finetune.epochs": 1, "finetune.steps": [2]}


@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_a_run_starts_from_a_conversion(tmp_path):
    nctool.train(RECIPE, tmp_path / "run", overrides=FROM_CONVERSION, model=own(steps=2))
    checkpoint = load_checkpoint(tmp_path / "run")
    assert {"relu.ratios", "relu.shifts", "relu_2.ratios", "relu_2.shifts"} <= checkpoint.state.keys()
    assert checkpoint.recipe.activation.levels == 2
    assert checkpoint.results["theta"] == {
        name: float(checkpoint.state[f"{name}.threshold"]) for name in ("relu", "relu_2")
    }
    again = own(seed=1, steps=2)
    report = nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava", model=again)
    assert report.steps == 2
    assert torch.equal(again.relu.ratios, checkpoint.state["relu.ratios"])
    nctool.finetune(tmp_path / "run", tmp_path / "tuned", overrides={"finetune.epochs": 1}, model=again)


@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_a_network_with_other_thresholds_than_were_trained_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"the given model does not fit, its .*`relu.ratios`"):
        nctool.export(run, tmp_path / "m.net", model=own(steps=4))


@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_a_ratio_that_is_not_positive_is_refused(tmp_path):
    nctool.train(RECIPE, tmp_path / "run", overrides=FROM_CONVERSION, model=own(steps=2))
    loaded = load_checkpoint(tmp_path / "run")
    loaded.state["relu.ratios"][0] = 0.0
    with pytest.raises(FormatError, match="threshold of `relu` is not positive"):
        restore_model(loaded, own(steps=2))


def test_its_file_is_what_was_trained(run, tmp_path):
    report = nctool.export(run, tmp_path / "m.net", target="lava", steps=4, model=own(seed=1))
    assert report.layers == 4
    found = nctool.run_sim(tmp_path / "m.net")
    assert found.overflows == 0
    assert found.accuracy["4"] > 0.8
    assert nctool.verify(tmp_path / "m.net", engines=["reference", "fast"], samples=20).equal


def test_the_recipe_says_the_levels_and_the_reset_of_its_activations(tmp_path):
    """What is exported by default is what was trained."""
    for name, options in {"finer": {"levels": 8}, "zero": {"reset": "zero"}}.items():
        nctool.train(RECIPE, tmp_path / name, overrides={"training.epochs": 1}, model=own(**options))
        activation = load_checkpoint(tmp_path / name).recipe.activation
        assert (activation.levels, activation.reset) == (options.get("levels", 4), options.get("reset", "subtract"))


def test_the_run_is_not_recorded_as_that_of_the_borrowed_recipe(run):
    """Its description and its first thresholds are those of another network."""
    recipe = read_recipe(run / "recipe.toml")
    assert (recipe.description, recipe.activation.threshold_init) == ("", "data")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of a network of one's own."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ndescription = "kept"\n[data]\nname = "digits"\n'
        '[model]\narchitecture = "own"\n[training]\nepochs = 1\n'
    )
    return path


def test_a_recipe_of_your_own_network_trains_it(recipe, tmp_path):
    report = nctool.train(recipe, tmp_path / "run", model=own())
    assert report.recipe == "mine"
    found = read_recipe(tmp_path / "run" / "recipe.toml")
    assert (found.name, found.description, found.model.architecture) == ("mine", "kept", "own")
    assert nctool.export(tmp_path / "run", tmp_path / "m.net", target="lava", model=own()).layers == 4


def test_images_are_normalised_as_pretrained_weights_want_them(recipe, tmp_path):
    """In training, in fine-tuning and in the exported file."""
    overrides = {"data.mean": [0.5], "data.std": [0.25]}
    nctool.train(recipe, tmp_path / "run", overrides=overrides, model=own())
    nctool.finetune(tmp_path / "run", tmp_path / "tuned", overrides={"finetune.epochs": 1}, model=own())
    for name in ("run", "tuned"):
        checkpoint = load_checkpoint(tmp_path / name)
        assert (checkpoint.mean, checkpoint.std) == ((0.5,), (0.25,))
    nctool.export(tmp_path / "tuned", tmp_path / "m.net", target="lava", model=own())
    found = nctool.run_sim(tmp_path / "m.net").accuracy["4"]
    assert found == pytest.approx(load_checkpoint(tmp_path / "tuned").results["accuracy_snn"]["4"], abs=0.05)


def test_a_normalisation_for_other_channels_is_refused(recipe, tmp_path):
    overrides = {"data.mean": [0.5, 0.4, 0.3], "data.std": [0.2, 0.2, 0.2]}
    assert refusal(UsageError, nctool.train, recipe, tmp_path / "run", overrides=overrides, model=own()) == (
        "data set `digits`: `data.mean` and `data.std` have 3 numbers, allowed: 1, one for each channel"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ({"activation.levels": 8}, "`activation.levels` is 8, allowed: 4"),
        ({"activation.reset": "zero"}, '`activation.reset` is "zero", allowed: subtract'),
        ({"activation.threshold_init": 2.0}, "`activation.threshold_init` is 2.0, allowed: data"),
    ],
)
def test_a_recipe_of_your_own_network_that_says_something_else_of_it_is_refused(recipe, tmp_path, override, text):
    assert refusal(RecipeError, nctool.train, recipe, tmp_path / "run", overrides=override, model=own()) == (
        f"recipe `mine`: {text}, as the model was prepared\n"
        "hint: leave it out: nctool.prepare gives a network of your own its levels, reset and first thresholds"
    )
    assert not (tmp_path / "run").exists()


def test_a_staircase_that_the_noise_is_not_measured_for_is_refused(tmp_path):
    model = nctool.prepare(Own(), torch.randn(32, 1, 8, 8), levels=3, reset="zero")
    text = refusal(RecipeError, nctool.train, RECIPE, tmp_path, model=model)
    assert text.startswith("recipe `digits-mlp`: `noise.steps` is 4, allowed: 3, as `activation.levels`")


def test_it_can_be_explored(run):
    report = nctool.explore(
        run, backends=["autapse"], steps=[2], replicas=[1, 2], weight_bits=[8], samples=50, target="lava", model=own()
    )
    assert [row.refusal for row in report.rows] == [None, None]


def test_the_same_seeds_give_the_same_weights(run, tmp_path):
    nctool.train(RECIPE, tmp_path, overrides=SHORT, model=own())
    first, second = (load_checkpoint(folder).state for folder in (run, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


FROM_PYTHON = "hint: give it from Python: nctool.train, finetune, explore and export take it as model=net"
NO_MODULE = (
    "model: got str, allowed a torch.nn.Module\n"
    "hint: build the network, then load its weights: model.load_state_dict(torch.load(path))"
)
AS_TRAINED = "hint: give the network that was trained, made by nctool.prepare with the same options"


def test_a_network_of_your_own_must_be_given_again(run, tmp_path):
    assert refusal(UsageError, nctool.export, run, tmp_path / "m.net") == (
        f"checkpoint of recipe `digits-mlp`: its network is your own\n{FROM_PYTHON}"
    )


@pytest.mark.parametrize("command", [["export", "-o", "m.net"], ["finetune", "-o", "tuned"], ["explore"]])
def test_the_commands_say_where_to_give_it(cli, run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    ended = cli(command[0], run, *command[1:])
    assert ended.code == 2
    assert ended.err.endswith(f"{FROM_PYTHON}\n")


def test_a_recipe_of_your_own_network_needs_it(tmp_path):
    text = refusal(RecipeError, nctool.train, "digits-cnn", tmp_path, overrides={"model": {"architecture": "own"}})
    assert text == f'`model.architecture` is "own": no network was given\n{FROM_PYTHON}'


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (own(classes=7), "the given model does not fit, its tensor `fc.bias` has shape (7,), allowed: (10,)"),
        (Own(), "the given model does not fit, its tensor `relu.sigma` is missing"),
        (
            own(levels=8),
            "activation `relu` of the given model has (levels, reset) (8, 'subtract'), allowed: (4, 'subtract')",
        ),
        (
            own(reset="zero"),
            "activation `relu` of the given model has (levels, reset) (4, 'zero'), allowed: (4, 'subtract')",
        ),
    ],
)
def test_another_network_than_was_trained_is_refused(run, tmp_path, model, text):
    refused = refusal(UsageError, nctool.export, run, tmp_path / "m.net", model=model)
    assert refused == f"checkpoint of recipe `digits-mlp`: {text}\n{AS_TRAINED}"


def test_a_network_for_a_built_in_recipe_is_refused(digits_run, tmp_path):
    assert refusal(UsageError, nctool.export, digits_run, tmp_path / "m.net", model=own()) == (
        "checkpoint of recipe `digits-cnn`: its network is `cnn`, got a model too\nhint: leave out model="
    )


@pytest.mark.parametrize("function", [nctool.finetune, nctool.export])
def test_a_path_for_a_network_is_refused(run, tmp_path, function):
    assert refusal(UsageError, function, run, tmp_path / "new", model="model.pt") == NO_MODULE


TRAIN_IT = 'hint: nctool.train("mine.toml", "runs/mine", model=net), then give "runs/mine"'
EXPORT_IT = 'hint: nctool.export("runs/mine", "mine.net", model=net), then give "mine.net"'


@pytest.mark.parametrize("given", [Own(), Own().state_dict()])
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda given, folder: nctool.export(given, folder / "m.net"),
            f"checkpoint: got a {{}}, allowed: a path or a text\n{TRAIN_IT}",
        ),
        (nctool.finetune, f"checkpoint: got a {{}}, allowed: a path or a text\n{TRAIN_IT}"),
        (lambda given, _: nctool.explore(given), f"checkpoint: got a {{}}, allowed: a path or a text\n{TRAIN_IT}"),
        (lambda given, _: nctool.history(given), f"run: got a {{}}, allowed: a path or a text\n{TRAIN_IT}"),
        (lambda given, _: nctool.run_sim(given), f"model: got a {{}}, allowed: a path or a text\n{EXPORT_IT}"),
        (lambda given, _: nctool.verify(given), f"model: got a {{}}, allowed: a path or a text\n{EXPORT_IT}"),
        (lambda given, _: nctool.inspect(given), f"model: got a {{}}, allowed: a path or a text\n{EXPORT_IT}"),
        (
            lambda given, folder: nctool.export(folder, given),
            "output: got a {}, allowed: a path or a text\nhint: give the network as model=net",
        ),
        (
            nctool.train,
            "recipe: got a {}, allowed: a path or a text\n"
            'hint: give a network with model=net, changes of a recipe with overrides={{"training.epochs": 3}}',
        ),
    ],
)
def test_a_network_for_a_path_is_refused(tmp_path, given, function, text):
    assert refusal(UsageError, function, given, tmp_path) == text.format(type(given).__name__)


@pytest.fixture(params=["whole.pt", "state.pth", "weights.bin", "old.pt", "scripted.pt", "network.onnx"])
def of_another_tool(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of another tool that holds a network, or its weights."""
    path, net = tmp_path / request.param, Own()
    if path.suffix == ".onnx":
        path.write_bytes(b"\x08\x07\x12\x07pytorch")
    elif path.stem == "scripted":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of newer torch
            torch.jit.script(net).save(path)
    else:
        held = net if path.stem == "whole" else net.state_dict()
        torch.save(held, path, _use_new_zipfile_serialization=path.stem != "old")
    return path


def test_files_of_other_tools_are_called_by_their_names(of_another_tool, tmp_path):
    what = "an ONNX file" if of_another_tool.suffix == ".onnx" else "a file of torch.save"
    hint = (
        "hint: build the network in Python and load its weights, then nctool.prepare(model, images), and nctool.train "
        "with model="
    )
    for allowed, function, arguments in (
        ("a checkpoint", nctool.export, [tmp_path / "m.net"]),
        ("a checkpoint", nctool.finetune, [tmp_path / "run"]),
        ("the name of a recipe or a .toml file", nctool.train, [tmp_path / "run"]),
        ("an exported network", nctool.run_sim, []),
        ("an exported network", nctool.inspect, []),
    ):
        text = refusal(UsageError, function, of_another_tool, *arguments)
        assert text == f"`{of_another_tool}` is {what}, allowed: {allowed}\n{hint}"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("model.pt", NO_MODULE),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            "model: has no NoisyQuantReLU\nhint: make it trainable with nctool.prepare(model, images)",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 9), NoisyQuantReLU(2), nn.Linear(9, 9), NoisyQuantReLU(4)),
            "model: activations of (levels, reset) [(2, 'subtract'), (4, 'subtract')], allowed one for all",
        ),
        (own(classes=3), "model: gives (2, 3) for two images, allowed (2, 10), a logit for each class"),
    ],
)
def test_models_that_are_refused(tmp_path, model, text):
    assert refusal(UsageError, nctool.train, RECIPE, tmp_path / "run", model=model) == text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [None, 2])
def test_images_of_one_number_are_refused(steps):
    with pytest.raises(UsageError, match=r"^images: all numbers are 0\.5, from"):
        nctool.prepare(
            nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
            torch.full((9, 1, 2, 2), 0.5),
            steps=steps,
        )


def test_images_that_do_not_fit_are_said(tmp_path):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(81, 5), nn.ReLU(), nn.Linear(5, 10))
    prepared = nctool.prepare(layers, torch.randn(4, 1, 9, 9))
    text = refusal(UsageError, nctool.train, RECIPE, tmp_path, model=prepared)
    assert text.startswith("model: does not take images (2, 1, 8, 8) (")
