"""Recipes: what is allowed, what a refusal says, and that a resolved recipe reads back equal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import nctool
from nctool.errors import RecipeError
from nctool.recipe.overrides import parse_overrides
from nctool.recipe.schema import (
    ChipSettings,
    CnnSettings,
    LenetSettings,
    MlpSettings,
    Recipe,
    ResnetSettings,
    SmallVggSettings,
    VggSettings,
    parse_recipe,
    read_recipe,
    require_changed_images,
)
from nctool.toml import literal, parse_value, tables_of, tags_of
from nctool_models.recipes.load import list_recipes, load_recipe, recipe_path
from tests.support.refusals import refused

RECIPES = (
    "cifar10-resnet18",
    "cifar10-resnet20",
    "cifar10-resnet34",
    "cifar10-resnet8",
    "cifar10-small-vgg",
    "cifar10-vgg16",
    "cifar100-resnet18",
    "cifar100-resnet20",
    "cifar100-vgg16",
    "digits-cnn",
    "digits-cnn-finetuned",
    "digits-cnn-rate",
    "digits-cnn-zero-reset",
    "digits-mlp",
    "fashion-mnist-lenet",
    "mnist-lenet",
    "mnist-mlp",
    "tiny-imagenet-resnet34",
    "tiny-imagenet-vgg16",
)
TEXT = """
name = "small"
[data]
name = "digits"
[model]
architecture = "cnn"
[training]
epochs = 3
"""


def changed(*texts: str, seed: int | None = None) -> Recipe:
    """Return the recipe with changes as the command line has them."""
    return parse_recipe(TEXT, parse_overrides(texts), seed)


def refusal(*overrides: str | dict[str, Any], text: str = TEXT) -> str:
    """Return what is said of changes as the command line has them, or of one mapping."""

    def parse() -> Recipe:
        is_mapping = bool(overrides) and isinstance(overrides[0], dict)
        return parse_recipe(text, overrides[0] if is_mapping else parse_overrides(overrides), source="small")

    return str(refused(RecipeError, parse))


def test_defaults_fill_what_is_left_out():
    recipe = parse_recipe(TEXT)
    assert (recipe.seed, recipe.description) == (1, "")
    assert recipe.data.validation_fraction == 0.1
    assert recipe.model == CnnSettings(architecture="cnn", channels=(16, 32), kernel=3, hidden=64)
    assert (recipe.activation.levels, recipe.activation.threshold_init) == (4, "data")
    assert (recipe.noise.source, recipe.noise.steps, recipe.noise.images) == ("ideal", 4, "clean")
    assert recipe.training.model_dump() == {
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.05,
        "schedule": "cosine",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "crop_padding": 0,
        "resized_crop": 0.0,
        "auto_augment": "none",
        "horizontal_flip": False,
        "cutout": 0,
        "cutout_fill": "black",
        "precision": "float32",
        "deterministic": False,
    }


def test_a_recipe_of_before_with_a_schedule_is_that_without():
    recipe = parse_recipe(TEXT.replace("[training]", '[training]\nschedule = "cosine"'))
    assert recipe == parse_recipe(TEXT)
    assert 'schedule = "cosine"\n' in recipe.to_toml()


def test_the_keys_of_an_older_recipe_are_read_under_their_new_names():
    older = '[input]\ncoding = "rate"\n[noise]\nsource = "chip"\n[chip]\nrealisation = "autapse"\nunits = 2\n'
    newer = older.replace("coding", "encoding").replace("realisation", "backend").replace("units", "replicas")
    assert parse_recipe(TEXT + older) == parse_recipe(TEXT + newer)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(TEXT + older + "replicas = 2\n")
    assert "`chip.units` is the older name of `chip.replicas`, allowed: one of them" in str(caught.value)


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError):
        parse_recipe(TEXT).seed = 2


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=7", 7),
        ("training.epochs = 7", 7),
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=1", 1.0),
        ("training.horizontal_flip=true", True),
        ("model.channels=[4, 8]", (4, 8)),
        ("data.name=folder/of=mine.npz", "folder/of=mine.npz"),
        ('data.name="quoted"', "quoted"),
        ("noise.source=none", "none"),
        ("description=two words", "two words"),
        ("description=1\nseed = 2", "1\nseed = 2"),
    ],
)
def test_an_override_is_a_toml_literal_or_plain_text(override, value):
    setting: Any = changed(override)
    for key in override.partition("=")[0].strip().split("."):
        setting = getattr(setting, key)
    assert setting == value
    assert type(setting) is type(value)


@pytest.mark.parametrize("key", ["chip.units", " chip . units", "chip.replicas"])
@pytest.mark.parametrize("table", ["units = 2", "replicas = 2"])
def test_an_override_replaces_a_value_by_either_name_of_its_key(key, table):
    text = f'{TEXT}[noise]\nsource = "chip"\n[chip]\n{table}\n'
    for overrides in ({key: 3}, parse_overrides([f"{key}=3"])):
        chip = parse_recipe(text, overrides).chip
        assert chip is not None
        assert chip.replicas == 3


def test_the_last_override_wins_and_the_seed_argument_wins_over_all():
    recipe = changed("training.epochs=4", "training.epochs=5", "seed=6", seed=7)
    assert (recipe.training.epochs, recipe.seed) == (5, 7)


@pytest.mark.parametrize("override", ["epochs", ""])
def test_an_override_without_value_is_refused(override):
    assert refusal(override) == (
        f"--set got `{override}`, allowed: KEY=VALUE\nhint: for instance --set training.epochs=3"
    )


@pytest.mark.parametrize("key", ["", "training.", ".epochs"])
def test_an_override_without_key_is_refused(key):
    text = f"--set got the key `{key}`, allowed: KEY or TABLE.KEY\nhint: for instance training.epochs"
    assert refusal(f"{key}=3") == text
    assert refusal({key: 3}) == text


def test_the_values_of_a_mapping_are_never_read_as_text():
    name = 'a\\b "c" = 3\nseed = 4\x7f'
    changes = {
        "description": name,
        "data.name": Path("d") / "x.npz",
        "training.epochs": np.int64(5),
        "training.learning_rate": np.float32(0.5),
        "finetune.steps": np.arange(1, 3),
        "model": {"architecture": "mlp", "hidden": [np.int64(3), 4]},
    }
    recipe = parse_recipe(TEXT, changes)
    assert (recipe.description, recipe.data.name, recipe.training.epochs) == (name, "d/x.npz", 5)
    assert (recipe.training.learning_rate, recipe.finetune.steps, recipe.model.hidden) == (0.5, (1, 2), (3, 4))
    assert parse_recipe(TEXT, {"training.epochs": 5}) == changed("training.epochs=5")


@pytest.mark.parametrize("key", ["name", "description", "data.name", "activation.threshold_init"])
def test_text_that_no_file_can_hold_is_refused(key):
    """The command line gets such text for bytes that are not UTF-8."""
    assert refusal({key: "a\udcff"}).startswith(f'recipe `small`: `{key}` is "a\udcff", allowed: ')


def test_a_value_of_a_mapping_is_of_its_own_type():
    assert refusal({"training.epochs": "5"}).startswith('recipe `small`: `training.epochs` is "5", allowed: a whole')
    assert refusal({"a=b": 5}).startswith("recipe `small`: unknown key `a=b`, allowed: name, ")
    for value in (None, b"x", [1, None], {"a": {1}}):
        assert "allowed: a text, a number, a list or a mapping" in refusal({"training.epochs": value})


def test_an_override_below_a_value_is_refused():
    assert refusal("training.epochs.x=1") == "--set got the key `training.epochs.x`, but `training.epochs` is no table"


# --- refusals ---------------------------------------------------------------------------------------------------------

TOP = "name, description, seed, data, input, model, activation, noise, chip, training, finetune"
TRAINING = (
    "epochs, batch_size, learning_rate, schedule, momentum, weight_decay, "
    "crop_padding, resized_crop, horizontal_flip, auto_augment, cutout, cutout_fill, precision, deterministic"
)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.epoch=3",
            f"unknown key `training.epoch`, allowed: {TRAINING}\nhint: did you mean `training.epochs`?",
        ),
        ("trainng.epochs=3", f"unknown key `trainng`, allowed: {TOP}\nhint: did you mean `training`?"),
        ("xyz.epochs=3", f"unknown key `xyz`, allowed: {TOP}"),
        (
            "model.kernal=3",
            "unknown key `model.kernal`, allowed: architecture, channels, kernel, hidden, pooling\n"
            "hint: did you mean `model.kernel`?",
        ),
        (
            "model.dropout=0.5",
            "unknown key `model.dropout`, allowed: architecture, channels, kernel, hidden, pooling\n"
            "hint: it is a key of architecture mlp, small-vgg, vgg: leave it out, or replace the whole table: "
            "--set 'model={architecture = \"NAME\"}'",
        ),
        ("model.width=0.5", "unknown key `model.width`, allowed: architecture, channels, kernel, hidden, pooling"),
        (
            ("model.batch_norm=true", "model.architecture=cnn"),
            "unknown key `model.batch_norm`, allowed: architecture, channels, kernel, hidden, pooling\n"
            "hint: it is a key of architecture mlp: leave it out, or replace the whole table: "
            "--set 'model={architecture = \"NAME\"}'",
        ),
        ("input.coding=latency", '`input.encoding` is "latency", allowed: graded, rate'),
        ("training.epochs=-1", "`training.epochs` is -1, allowed: a whole number 0..10000"),
        (
            "training.epochs=0",
            "`training.epochs` is 0, allowed: 1 or more\n"
            "hint: 0 is for recipes with [finetune], which then train the spiking network from the start",
        ),
        (
            "activation.function=relu",
            '`noise.source` is "ideal", allowed: none\n'
            'hint: with activation.function = "relu" the network is trained without noise',
        ),
        ("finetune.steps=[1, 2, 1]", "`finetune.steps` is [1, 2, 1], allowed: each window once"),
        (
            ("activation.reset=zero", "finetune.replicas=2"),
            "`finetune.replicas` is 2, allowed: 1\n"
            'hint: with activation.reset = "zero" every neuron starts at 0, replicas differ in where they start',
        ),
        (
            ("finetune.activation_bits=4", "finetune.steps=[1]", "finetune.replicas=2"),
            "`finetune.replicas` is 2, allowed: 1\n"
            "hint: with finetune.activation_bits the network is trained for graded neurons, which need no replicas",
        ),
        ("finetune.steps=[0]", "`finetune.steps[0]` is 0, allowed: a list of whole numbers 1..64"),
        ("finetune.weight_bits=9", "`finetune.weight_bits` is 9, allowed: a whole number 2..8"),
        ("training.epochs=10001", "`training.epochs` is 10001, allowed: a whole number 0..10000"),
        ("training.epochs=1.5", "`training.epochs` is 1.5, allowed: a whole number 0..10000"),
        ("training.epochs=true", "`training.epochs` is true, allowed: a whole number 0..10000"),
        ("training.epochs=many", '`training.epochs` is "many", allowed: a whole number 0..10000'),
        ("training.momentum=1.0", "`training.momentum` is 1.0, allowed: a number from 0 to below 1"),
        ("training.momentum=nan", "`training.momentum` is nan, allowed: a number from 0 to below 1"),
        ("training.learning_rate=0", "`training.learning_rate` is 0, allowed: a number above 0"),
        ("training.learning_rate=inf", "`training.learning_rate` is inf, allowed: a number above 0"),
        ("training.horizontal_flip=1", "`training.horizontal_flip` is 1, allowed: true or false"),
        (
            "training.auto_augment=svhn",
            '`training.auto_augment` is "svhn", allowed: none, cifar10, imagenet, cifar10-pillow',
        ),
        ("training.schedule=step", '`training.schedule` is "step", allowed: cosine, cosine-by-epoch, one-cycle'),
        ("training.resized_crop=1.5", "`training.resized_crop` is 1.5, allowed: a number from 0 to 1"),
        ("training.cutout_fill=grey", '`training.cutout_fill` is "grey", allowed: black, mean'),
        (
            "training.cutout_fill=mean",
            '`training.cutout_fill` is "mean", allowed: black\n'
            "hint: with training.cutout = 0 there is no square to fill",
        ),
        (
            ("training.epochs=0", "finetune.epochs=1", "training.schedule=one-cycle"),
            '`training.schedule` is "one-cycle", allowed: cosine\n'
            "hint: with training.epochs = 0 there is only fine-tuning, whose rate falls by a cosine of its own",
        ),
        ("noise.images=changed", '`noise.images` is "changed", allowed: clean, augmented'),
        (
            ("noise.source=none", "noise.images=augmented", "training.horizontal_flip=true"),
            '`noise.images` is "augmented", allowed: clean\nhint: with noise.source = "none" no noise is measured',
        ),
        (
            ("training.epochs=0", "finetune.epochs=1", "noise.images=augmented", "training.horizontal_flip=true"),
            '`noise.images` is "augmented", allowed: clean\nhint: with training.epochs = 0 no noise is measured',
        ),
        ("noise.source=idael", '`noise.source` is "idael", allowed: ideal, none, chip\nhint: did you mean `ideal`?'),
        ("noise.steps=65", "`noise.steps` is 65, allowed: a whole number 1..64"),
        ("chip.replicas=65", "`chip.replicas` is 65, allowed: a whole number 1..64"),
        ("chip.weight_bits=9", "`chip.weight_bits` is 9, allowed: a whole number 2..8"),
        ("chip=8", "`chip` is 8, allowed: a table of backend, replicas, weight_bits"),
        (
            "chip.backend=autaps",
            '`chip.backend` is "autaps", allowed: autapse, zero-reset, population\nhint: did you mean `autapse`?',
        ),
        ("activation.levels=65", "`activation.levels` is 65, allowed: a whole number 1..64"),
        ("activation.threshold_init=-1", "`activation.threshold_init` is -1, allowed: data, a number above 0"),
        (
            "activation.threshold_init=date",
            '`activation.threshold_init` is "date", allowed: data, a number above 0\nhint: did you mean `data`?',
        ),
        ("data.validation_fraction=0", "`data.validation_fraction` is 0, allowed: a number 0.01..0.5"),
        (
            "data.name=3",
            "`data.name` is 3, allowed: the name of a data set, or the path of an .npz file or of a folder of images",
        ),
        ("data.channels=2", "`data.channels` is 2, allowed: 1 or 3"),
        ("data.image_size=7", "`data.image_size` is 7, allowed: a whole number 8..1024"),
        (
            "data.mean=0.5",
            "`data.mean` is 0.5, allowed: a list of numbers, one a channel\n"
            "hint: a list has brackets: 'data.mean=[0.5]'",
        ),
        (
            "finetune.steps=1,2",
            '`finetune.steps` is "1,2", allowed: a list of whole numbers 1..64\n'
            "hint: a list has brackets: 'finetune.steps=[1,2]'",
        ),
        (
            "epochs=2",
            f"unknown key `epochs`, allowed: {TOP}\nhint: did you mean `training.epochs` or `finetune.epochs`?",
        ),
        ("levels=2", f"unknown key `levels`, allowed: {TOP}\nhint: did you mean `activation.levels`?"),
        (
            "training.levels=2",
            f"unknown key `training.levels`, allowed: {TRAINING}\nhint: did you mean `activation.levels`?",
        ),
        ("data.std=[0.5, 0]", "`data.std[1]` is 0, allowed: a list of numbers above 0, one a channel"),
        (
            ["data.mean=[0.5]", "data.std=[0.2, 0.3]"],
            "`data.mean` and `data.std` have lengths 1 and 2, allowed: equal ones, a number for each channel\n"
            "hint: without both, those of the training images are taken",
        ),
        (
            "data.mean=[0.5]",
            "`data.mean` and `data.std` have lengths 1 and 0, allowed: equal ones, a number for each channel\n"
            "hint: without both, those of the training images are taken",
        ),
        ("data.mean=true", "`data.mean` is true, allowed: a list of numbers, one a channel"),
        ("finetune.steps=abc", '`finetune.steps` is "abc", allowed: a list of whole numbers 1..64'),
        ("seed=-1", "`seed` is -1, allowed: a whole number 0..4294967295"),
        ("name=../up", '`name` is "../up", allowed: lower-case letters, digits and `-_.`'),
        ("model.kernel=4", "`model.kernel` is 4, allowed: 1, 3, 5 or 7"),
        (
            "model.channels=[4, 0]",
            "`model.channels[1]` is 0, allowed: a list of whole numbers 1..16384, two of them",
        ),
        (
            "model.channels=[4]",
            "`model.channels[1]` is missing, allowed: a list of whole numbers 1..16384, two of them",
        ),
        (
            "model.architecture=lenett",
            '`model.architecture` is "lenett", allowed: mlp, cnn, lenet, small-vgg, vgg, resnet, own\n'
            "hint: did you mean `lenet`?",
        ),
        ("model={architecture='resnet', depth=19}", "`model.depth` is 19, allowed: 8, 18, 20 or 34"),
        ("model={architecture='resnet'}", "`model.depth` is missing, allowed: 8, 18, 20 or 34"),
        ("model={architecture='vgg', depth=13}", "`model.depth` is 13, allowed: 11 or 16"),
        ("model={}", "`model.architecture` is missing, allowed: mlp, cnn, lenet, small-vgg, vgg, resnet, own"),
        ("training=3", f"`training` is 3, allowed: a table of {TRAINING}"),
        ("training.epochs=" + "x" * 99, f'`training.epochs` is "{"x" * 59}…, allowed: a whole number 0..10000'),
    ],
)
def test_refusals_name_key_value_and_what_is_allowed(override, message):
    overrides = (override,) if isinstance(override, str) else override
    assert refusal(*overrides) == f"recipe `small`: {message}"


def test_the_table_of_another_architecture_is_replaced_as_the_hint_says():
    assert changed('model={architecture = "lenet"}').model.architecture == "lenet"


def test_an_unknown_key_is_named_before_the_key_it_leaves_missing():
    text = TEXT.replace("epochs", "epoch")
    assert refusal(text=text) == (
        f"recipe `small`: unknown key `training.epoch`, allowed: {TRAINING}\nhint: did you mean `training.epochs`?"
    )


def test_a_missing_key_is_named():
    assert refusal(text=TEXT.replace("epochs = 3", "")) == (
        "recipe `small`: `training.epochs` is missing, allowed: a whole number 0..10000"
    )


def test_a_missing_table_is_named():
    assert refusal(text=TEXT.replace('[data]\nname = "digits"', "")) == (
        "recipe `small`: `data` is missing, allowed: a table of name, image_size, channels, validation_fraction, mean, "
        "std"
    )


def test_text_that_is_no_toml_is_refused():
    assert refusal(text="name = ") == "recipe `small` is not valid TOML: invalid value (at end of document)"


def test_text_nested_too_deep_is_refused():
    assert refusal(text="a = " + "[" * 100_000).startswith("recipe `small` is not valid TOML: ")


# --- files and names --------------------------------------------------------------------------------------------------


def test_a_recipe_file_is_read(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    assert load_recipe(str(path), {"training.epochs": 4}, 5) == changed("training.epochs=4", seed=5)
    assert load_recipe(path) == read_recipe(path) == parse_recipe(TEXT)


def test_messages_about_a_file_name_its_path(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text("name = 3")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == (f"recipe `{path}`: `name` is 3, allowed: lower-case letters, digits and `-_.`")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "none.toml"))
    assert str(caught.value) == (
        f"no recipe file `{tmp_path / 'none.toml'}`\nhint: `nctool recipes` lists the built-in recipes"
    )


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path)
    assert str(caught.value) == f"cannot read recipe `{tmp_path}`: is a directory"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"name\xff")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"recipe `{path}` is not UTF-8 text (byte 4)"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digits-cmn", "did you mean `digits-cnn` or `digits-mlp` or `digits-cnn-rate`?"),
        ("xyz", "a recipe of your own is given by the path of its .toml file;"),
    ],
)
def test_an_unknown_recipe_names_the_nearest(name, hint):
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert str(caught.value) == f"unknown recipe `{name}`\nhint: {hint} `nctool recipes` lists those built in"


def test_the_built_in_recipes_are_listed():
    assert list_recipes() == RECIPES


@pytest.mark.parametrize("name", list_recipes())
def test_every_built_in_recipe_is_valid_and_named_like_its_file(name):
    recipe = load_recipe(name)
    assert recipe.name == recipe_path(name).stem == name
    assert recipe.description


# --- round trip -------------------------------------------------------------------------------------------------------


def test_the_resolved_text():
    recipe = parse_recipe(TEXT.replace('"cnn"', '"mlp"\nhidden = [20, 10]'), {"description": 'a "b" \\ ü'}, 9)
    assert (
        recipe.to_toml()
        == """\
name = "small"
description = "a \\"b\\" \\\\ ü"
seed = 9

[data]
name = "digits"
validation_fraction = 0.1

[input]
encoding = "graded"

[model]
architecture = "mlp"
hidden = [20, 10]
# batch_norm = true
# dropout = 0.0

[activation]
function = "quantised"
levels = 4
threshold_init = "data"
reset = "subtract"

[noise]
source = "ideal"
steps = 4
images = "clean"

[training]
epochs = 3
batch_size = 128
learning_rate = 0.05
schedule = "cosine"
momentum = 0.9
weight_decay = 0.0005
crop_padding = 0
resized_crop = 0.0
horizontal_flip = false
auto_augment = "none"
cutout = 0
cutout_fill = "black"
precision = "float32"
deterministic = false
"""
    )


widths = st.integers(1, 16384)
fractions = st.floats(0, 1, exclude_max=True)
models = st.one_of(
    st.builds(
        MlpSettings,
        architecture=st.just("mlp"),
        hidden=st.lists(widths, min_size=1, max_size=4).map(tuple),
        batch_norm=st.booleans(),
        dropout=fractions,
    ),
    st.builds(CnnSettings, architecture=st.just("cnn"), channels=st.tuples(widths, widths), hidden=widths),
    st.builds(LenetSettings, architecture=st.just("lenet"), channels=st.tuples(widths, widths)),
    st.builds(SmallVggSettings, architecture=st.just("small-vgg"), channels=st.tuples(widths, widths, widths)),
    st.builds(
        VggSettings,
        architecture=st.just("vgg"),
        depth=st.sampled_from((11, 16)),
        hidden=st.lists(widths, max_size=4).map(tuple),
        dropout=fractions,
    ),
    st.builds(ResnetSettings, architecture=st.just("resnet"), depth=st.sampled_from((8, 18, 20, 34))),
)
texts = st.text(st.characters(blacklist_categories=("Cs",)))


@given(
    model=models,
    description=texts,
    data=texts.filter(bool),
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(0, 1e300, exclude_min=True),
)
def test_a_resolved_recipe_reads_back_equal(model, description, data, seed, rate):
    content = parse_recipe(TEXT).model_dump()
    content |= {"model": model.model_dump(), "description": description, "seed": seed}
    content["data"]["name"] = data
    content["training"]["learning_rate"] = rate
    recipe = Recipe.model_validate(content)
    assert parse_recipe(recipe.to_toml()) == recipe


@given(st.recursive(texts | st.integers(-(2**60), 2**60) | st.booleans() | st.floats(allow_nan=False), st.lists))
def test_a_literal_reads_back_equal(value):
    assert parse_value(literal(value)) == value


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("three", "three"), ("", ""), ("[1, 2]", [1, 2]), ("1\nb = 2", "1\nb = 2")]
)
def test_a_value_that_is_no_literal_is_text(text, value):
    assert parse_value(text) == value


def test_a_staircase_is_trained_for_its_own_window():
    staircase = ["activation.reset=zero", "activation.levels=3", "noise.steps=4"]
    with pytest.raises(RecipeError) as caught:
        changed(*staircase)
    assert str(caught.value) == (
        "recipe `recipe`: `noise.steps` is 4, allowed: 3, as `activation.levels`\n"
        'hint: with activation.reset = "zero" the levels are the time steps of the window'
    )
    assert changed(*staircase, "noise.steps=3").activation.reset == "zero"


# --- the chip ---------------------------------------------------------------------------------------------------------

ON_A_CHIP = "noise.source=chip"


@pytest.mark.parametrize(("overrides", "bits"), [((), 4), (("finetune.weight_bits=8",), 8)])
def test_fine_tuning_is_for_the_weights_of_the_chip_unless_it_says_others(overrides, bits):
    recipe = changed(ON_A_CHIP, "chip.weight_bits=4", "finetune.epochs=1", *overrides)
    assert recipe.finetune is not None
    assert recipe.finetune.weight_bits == bits
    assert parse_recipe(recipe.to_toml()) == recipe


LAWS = {name: recipe_path(name).read_text(encoding="utf-8") for name in ("digits-cnn-finetuned", "cifar10-resnet8")}
LAWS |= {
    "nothing said": TEXT,
    "chip": TEXT + '[noise]\nsource = "chip"\n',
    "chip and finetune": TEXT + '[noise]\nsource = "chip"\n[chip]\nweight_bits = 4\n[finetune]\n',
    "all said": TEXT + '[noise]\nsource = "chip"\n[chip]\nweight_bits = 4\n[finetune]\nweight_bits = 4\n',
    "empty chip": TEXT + '[noise]\nsource = "chip"\n[chip]\n',
}
VALUES: tuple[Any, ...] = (0, 1, 2, 4, 6, 0.5, True, "none", "chip", "zero", "population", [1], [3, 5], {})


def every_override() -> list[dict[str, Any]]:
    """Return changes of each key of a recipe, and of each table."""
    tables = [(name, table) for name, field in Recipe.model_fields.items() for table in tables_of(field)]
    keys = dict.fromkeys(
        [*Recipe.model_fields, *(f"{name}.{key}" for name, table in tables for key in table.model_fields)]
    )
    changes = [{key: value} for key in keys for value in VALUES]
    tags = [tag for table in tables_of(Recipe.model_fields["model"]) for tag in tags_of(table)]
    changes += [change for tag in tags for change in ({"model.architecture": tag}, {"model": {"architecture": tag}})]
    pairs = ({"noise.source": "chip", "chip.weight_bits": 6}, {"chip.weight_bits": 6, "finetune.epochs": 2})
    return [*changes, *pairs, {"model.architecture": "resnet", "model.depth": 8}]


def outcome(text: str, change: dict[str, Any]) -> Any:
    try:
        return parse_recipe(text, change)
    except RecipeError as error:
        return str(error)


@pytest.mark.parametrize("name", LAWS)
def test_resolving_and_then_overriding_is_overriding_and_then_resolving(name):
    resolved = parse_recipe(LAWS[name])
    text = resolved.to_toml()
    assert parse_recipe(text) == resolved
    assert parse_recipe(text).to_toml() == text
    for change in every_override():
        assert outcome(text, change) == outcome(LAWS[name], change), change


def test_what_follows_from_another_key_is_written_behind_a_mark():
    text = parse_recipe(LAWS["chip and finetune"]).to_toml()
    assert '[chip]\nbackend = "autapse"\nreplicas = 1\nweight_bits = 4\n' in text
    assert "steps = [1, 2, 4]\n# replicas = 1\n# weight_bits = 4\nlearning_rate" in text
    assert (
        '# [chip]\n# backend = "autapse"\n# replicas = 1\n# weight_bits = 8\n' in parse_recipe(LAWS["chip"]).to_toml()
    )
    assert "\nsteps = [1, 2, 4]\n# replicas = 1\nweight_bits = 4\n" in parse_recipe(LAWS["all said"]).to_toml()


def test_a_chip_is_there_where_noise_is_measured_on_it_and_reads_back():
    assert parse_recipe(TEXT).chip is None
    assert "chip" not in parse_recipe(TEXT).to_toml()
    recipe = changed(ON_A_CHIP)
    assert recipe.chip == ChipSettings(backend="autapse", replicas=1, weight_bits=8)
    assert parse_recipe(recipe.to_toml()) == recipe
    assert changed(ON_A_CHIP, "chip.replicas=3").chip == ChipSettings(replicas=3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["chip.replicas=2"],
            'has a table `chip`, but `noise.source` is "ideal"\nhint: set noise.source = "chip", or leave out [chip]',
        ),
        (
            [ON_A_CHIP, "activation.reset=zero"],
            '`chip.backend` is "autapse", allowed: zero-reset\n'
            'hint: with activation.reset = "zero" the network is trained for neurons that a spike sets to zero',
        ),
        (
            [ON_A_CHIP, "chip.backend=population"],
            "`noise.steps` is 4, allowed: 1, the window of population\n"
            "hint: with chip.replicas = activation.levels, one step gives the quantised activation",
        ),
        (
            [ON_A_CHIP, "chip.backend=zero-reset", "chip.replicas=2"],
            "`chip.replicas` is 2, allowed: 1\n"
            "hint: zero-reset starts every neuron at 0, replicas differ in where they start",
        ),
    ],
)
def test_a_chip_that_contradicts_the_recipe_is_refused(overrides, message):
    assert refusal(*overrides) == f"recipe `small`: {message}"


# --- noise of changed images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        *("training.crop_padding=1", "training.resized_crop=0.5", "training.horizontal_flip=true"),
        *("training.auto_augment=imagenet", "training.cutout=4"),
    ],
)
def test_noise_of_changed_images_is_for_training_that_changes_them(change):
    require_changed_images(changed("noise.images=augmented", change))
    require_changed_images(changed())
    with pytest.raises(RecipeError) as caught:
        require_changed_images(changed("noise.images=augmented"))
    assert str(caught.value) == (
        'recipe `small`: `noise.images` is "augmented", allowed: clean\n'
        "hint: [training] changes no images, so that the augmented ones are the clean ones"
    )


def test_training_without_changed_images_is_refused_before_data_are_read():
    with pytest.raises(RecipeError, match="changes no images"):
        nctool.train("digits-mlp", overrides={"noise.images": "augmented", "data.name": "gone.npz"})


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("training.cutout=0", "training.cutout_fill"),
        ("noise.source=none", "noise.images"),
        (" noise . source =none", "noise.images"),
    ],
)
def test_a_key_that_a_change_leaves_without_use_goes_back_to_its_default(override, key):
    table, name = key.split(".")
    recipe, method = (load_recipe("cifar10-resnet20", parse_overrides(texts)) for texts in ([override], []))
    default = type(getattr(recipe, table)).model_fields[name].default
    assert getattr(getattr(recipe, table), name) == default
    said = getattr(getattr(method, table), name)
    assert said != default
    with pytest.raises(RecipeError, match=f"`{key}` is "):
        load_recipe("cifar10-resnet20", parse_overrides([override, f"{key}={said}"]))
