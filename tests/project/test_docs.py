"""Every code block of README.md and docs/ does what it says, as printed.

The blocks of a page run in order, in a folder of their own that holds what the page presumes (`SURROUNDINGS`). Long
commands are cut short by options behind those that are printed (`shortened`), and MNIST is a stand-in. Output that is
shown is compared word by word; its numbers may be those of a whole training, so that any number will do.

An HTML comment above a block says what else it is: `file: NAME`, `shows: WHAT PRINTS IT`, `example: RULES`, which
tests/project/test_semantics.py works out, or `not run: REASON`. `test_the_blocks_that_are_not_run` lists the last ones.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from torch import nn

import nctool
from nctool.activation.noisy_quant import activations
from nctool.commands.application import app
from nctool.recipe.schema import parse_recipe
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool.running.engines import ENGINES, Job
from nctool_deploy.netx import read
from nctool_deploy.targets.target import find_target
from nctool_models import load_dataset
from tests.models.test_datasets import mnist_files, put
from tests.support.foreign import Draft, dense_layer
from tests.support.markdown import FENCE, PAGES, Block, blocks, commands, page_text
from tests.support.page_reader import Reader, Runs
from tests.support.runs import Finished, export_short, run_command

HEAD = """
name = "head"
[data]
name = "digits"
[model]
architecture = "cnn"
[training]
epochs = 1
"""
"""What a recipe must say, for pages that show another part."""

# --- what a page presumes ---------------------------------------------------------------------------------------------


def own_data(path: str) -> None:
    """Write digits as a data set of one's own."""
    digits = load_dataset("digits")
    train, test = (images.transpose(0, 2, 3, 1) for images in (digits.x_train, digits.x_test))
    np.savez(path, x_train=train, y_train=digits.y_train, x_test=test, y_test=digits.y_test)


def around_readme() -> dict[str, Any]:
    """Make an image, a folder of images, and a network with its data and its recipe."""
    from PIL import Image

    Image.new("L", (28, 28)).save("7.png")
    pixels = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), np.uint8)
    for number, image in enumerate(pixels[:40]):
        path = Path("pets", "train" if number < 30 else "test", "cat" if number % 2 else "dog", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    labels = np.arange(120) % 10
    np.savez("mine.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    (recipe,) = blocks("OWN_MODEL.md", "toml")
    Path("mine.toml").write_text(recipe.text.replace("crop_padding = 1", ""), encoding="utf-8")
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(100, 10))
    first = pixels.transpose(0, 3, 1, 2)
    images = torch.from_numpy(first / 255 - 0.5).float()
    return {"model": model, "images": images, "pixels": first, "mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}


def around_netx() -> dict[str, Any]:
    """Make a file of another tool, spikes for it, and labels."""
    Draft([dense_layer([[9, -5, 7], [3, 8, -6]])]).write(Path("network.net"))
    np.save("spikes.npy", np.ones((3, 20, 3), np.int8))
    np.save("classes.npy", np.array([0, 1, 0]))
    return {}


def around_training() -> dict[str, Any]:
    """Make a data set of one's own, and the frames of an event camera."""
    own_data("mine.npz")
    arrays = {f"x_{part}": np.zeros((4, 2, 34, 34), np.uint8) for part in ("train", "test")}
    return arrays | {f"y_{part}": np.arange(4) % 2 for part in ("train", "test")}


def around_own_model() -> dict[str, Any]:
    """Make a data set of one's own."""
    own_data("mine.npz")
    return {}


SURROUNDINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": around_readme,
    "NETX.md": around_netx,
    "OWN_MODEL.md": around_own_model,
    "TRAINING.md": around_training,
}
"""Beside `runs/digits-cnn`, which is there for every page: files, and the variables that programs find."""


# --- what no command prints every time --------------------------------------------------------------------------------


def a_difference(nctool: Runs) -> str:
    """Verify with a fast engine that loses a spike of the first layer of neurons without an image."""

    def one_spike_less(job: Job) -> Iterator[Trace]:
        (trace,) = before(job)
        spikes = trace.spikes["fc1"].copy()
        neuron = np.argwhere(spikes[0, 1])[0]
        spikes[0, 1, neuron] = False
        yield replace(trace, spikes={**trace.spikes, "fc1": spikes})

    before = ENGINES["fast"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "fast", one_spike_less)
        return nctool("verify", "runs/digits-cnn/model.net", "--engines", "reference,fast").out


def an_epoch(nctool: Runs) -> str:
    """Train an epoch."""
    return nctool("train", "digits-cnn", "-o", "runs/epoch", "--set", "training.epochs=1", "--json").err


SHOWN: dict[str, Callable[[Runs], str]] = {"a lost spike": a_difference, "an epoch": an_epoch}
"""Blocks marked `shows: NAME`; `shows: the program` is what the program above prints."""


# --- what else must hold behind the last block ------------------------------------------------------------------------


def after_readme(reader: Reader) -> None:
    """The network of the example is the one that was exported."""
    report = nctool.verify("mine.net", engines=["reference", "fast"])
    assert report.equal
    assert report.samples == report.known_answers == 16
    assert nctool.run_sim("mine.net", dataset="mine.npz").samples == 120


def after_own_model(reader: Reader) -> None:
    """All three ways give a network that has learned, the recipes of the page do what it says."""
    for name, steps in {"mine": 2, "longer": 4, "looped": 4}.items():
        assert nctool.run_sim(f"{name}.net", dataset="mine.npz").accuracy[str(steps)] > 0.8, name
        assert nctool.verify(f"{name}.net", engines=["reference", "fast"]).equal
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.GELU()), nn.LeakyReLU(), nn.Linear(4, 2))
    kinds = [type(module) for module in reader.names["with_relu"](net).modules()]
    assert kinds == [nn.Sequential, nn.Sequential, nn.Linear, nn.ReLU, nn.ReLU, nn.Linear]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert len(activations(nctool.prepare(reader.names["net"], images))) == 10


def after_backends(reader: Reader) -> None:
    """Stock Lava gives the logits of the reference engine."""
    logits = simulate(read(Path("model.net")).network, load_dataset("digits").x_test[:5]).logits[:, 0]
    assert reader.printed.splitlines() == [f"{number} {row.tolist()}" for number, row in enumerate(logits)]


AFTER: dict[str, Callable[[Reader], None]] = {
    "README.md": after_readme,
    "OWN_MODEL.md": after_own_model,
    "BACKENDS.md": after_backends,
}

LIBRARIES = {
    "LAVA.md": ["lava"],
    "NETX.md": ["lava"],
    "OWN_MODEL.md": ["vision"],
    "README.md": ["lava", "vision"],
    "BACKENDS.md": ["lava", "bare_lava"],
    "RECIPES.md": ["vision"],
    "START.md": ["vision"],
    "TRAINING.md": ["vision"],
}


@pytest.fixture(scope="module")
def narrow_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a `digits-cnn` of few channels, with its `model.net`: the pages explore and export it often."""
    folder = tmp_path_factory.mktemp("narrow")
    nctool.train("digits-cnn", folder, overrides={"training.epochs": 2, "model.channels": [4, 6], "model.hidden": 16})
    export_short(folder, folder / "model.net")
    return folder


def page_parameters() -> list[Any]:
    """Return every page that has blocks, with the marks of the libraries that these need."""
    names = [page.name for page in PAGES if blocks(page.name)]
    return [
        pytest.param(name, marks=[getattr(pytest.mark, each) for each in LIBRARIES.get(name, [])]) for name in names
    ]


@pytest.mark.filterwarnings("ignore:batch norm .*no data seen:nctool.errors.NctoolWarning")  # the pages say so
@pytest.mark.parametrize("name", page_parameters())
def test_every_block_of_the_page(
    name: str,
    narrow_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: object) -> Finished:
        return run_command(capsys, monkeypatch, *arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    put(tmp_path / "nctool" / "data", mnist_files(300, 20))
    shutil.copytree(narrow_run, "runs/digits-cnn")
    reader = Reader(run, SURROUNDINGS.get(name, dict)(), SHOWN)
    for block in blocks(name):
        reader.read(block)
    AFTER.get(name, lambda _: None)(reader)


# --- blocks that hold no program --------------------------------------------------------------------------------------

EVERY_BLOCK = [block for page in PAGES for block in blocks(page.name)]


def test_the_blocks_that_are_not_run() -> None:
    found = [(block.place.partition(":")[0], block.value) for block in EVERY_BLOCK if block.mark == "not run"]
    assert found == [
        ("README.md", "installs packages, and trains for a minute"),
        ("README.md", "they make the environment, and run all tests, this one too"),
        ("BUNDLE.md", "where Lava is installed; tests/lava/test_bundle.py does it"),
        ("COMMANDS.md", "there is no such file"),
        ("COMMANDS.md", "it is for the file that a shell reads first"),
        ("CONVERT.md", "there is no such file"),
        ("INSTALL.md", "installs packages, from the network"),
        ("LAVA.md", "installs packages, from the network"),
        ("LAVA.md", "of installations that are refused; tests/lava/test_compatibility.py makes them"),
        ("START.md", "installs packages, from the network"),
        ("TRAINING.md", "400 epochs on a GPU, of data that are downloaded"),
        ("TRAINING.md", "a layout of folders"),
        ("TRAINING.md", "wants several GPUs, or a process for each core"),
        ("TRAINING.md", "data that are downloaded, and an hour"),
    ]


TOML = [block for block in EVERY_BLOCK if block.language == "toml" and block.mark != "example"]


@pytest.mark.parametrize("block", TOML, ids=lambda b: b.place)
def test_a_toml_block_is_a_recipe_a_part_of_one_or_a_target(block: Block, tmp_path: Path) -> None:
    if "[limits]" in block.text:
        (tmp_path / "target.toml").write_text(block.text, encoding="utf-8")
        assert find_target(str(tmp_path / "target.toml")).name == "my-chip"
        return
    parse_recipe(block.text if block.text.startswith("name = ") else HEAD + block.text)


def options_of(command: str, arguments: list[str]) -> dict[str, Any]:
    """Return the options of a command of nctool as it would take them; a wrong one raises."""
    return typer.main.get_command(app).commands[command].make_context(command, arguments).params


@pytest.mark.parametrize("block", [b for b in EVERY_BLOCK if list(commands(b))], ids=lambda b: b.place)
def test_a_block_of_commands_has_options_that_nctool_takes(block: Block) -> None:
    """Also where it is not run."""
    for line, _ in commands(block):
        _, found, arguments = line.rpartition("nctool ")
        if found:
            words = shlex.split(re.sub(r" > .*|\$\(.*\)", "", arguments))
            options = options_of(words[0], words[1:])
            assert set(options.get("engines", "fast").split(",")) <= set(ENGINES), line


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        text = page_text(page.name)
        assert text.count("\n```") == 2 * len(blocks(page.name)), page.name
        outside = FENCE.sub("", text)
        assert not re.search(r"(?:\A|\n)\n    \S", outside), f"{page.name}: a block that is not fenced"
    for block in EVERY_BLOCK:
        known = ("python", "console", "sh", "toml", "yaml")
        assert block.mark or block.language in known, f"{block.place}: neither a language nor a mark"
