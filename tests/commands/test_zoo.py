"""`nctool zoo`, and `zoo:NAME` in the place of a file."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

import nctool
from nctool.commands import load_all
from nctool.errors import UsageError
from nctool.signature import parameters_of
from nctool_models import load_dataset
from nctool_models.zoo.networks import zoo
from tests.support.runs import assert_error

NAME = "zoo:digits-cnn"
TAKES_A_FILE = "zoo:NAME"
"""What the help of an argument says that takes an exported network."""
MORE = {"bundle": ("-o", "out")}
"""What else a command needs."""


@pytest.mark.parametrize("command", [nctool.finetune, nctool.explore])
def test_a_network_of_the_zoo_is_no_checkpoint(command):
    with pytest.raises(UsageError, match=r"^`zoo:mnist-lenet` is an exported network, allowed: a checkpoint"):
        command("zoo:mnist-lenet")


def test_the_list_has_accuracy_steps_and_cores(cli) -> None:
    listed = cli("zoo", "--json").json["zoo"]
    assert [each["name"] for each in listed] == [network.name for network in zoo()]
    assert all(Path(each["path"]).is_file() and 0.9 < each["accuracy"][str(each["steps"])] <= 1 for each in listed)
    shown = cli("zoo").out
    for network in zoo():
        assert f"zoo:{network.name}" in shown
        assert f"{100 * network.accuracy[str(network.steps)]:.2f} %" in shown


@pytest.mark.parametrize(
    "command",
    [
        command.name
        for command in load_all()
        for parameter in parameters_of(command.function)
        if parameter.option is not None and TAKES_A_FILE in parameter.option.help
    ],
)
def test_every_command_that_takes_a_network_takes_one_of_the_zoo(cli, command: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    engines = ("--engines", "reference,fast") if command == "verify" else ()
    ended = cli(command, "zoo:digits-cnn-stock", *engines, *MORE.get(command, ()), "--json")
    assert (ended.code, ended.err) == (0, "")
    refused = cli(command, "zoo:digit-cnn", *MORE.get(command, ()))
    names = ", ".join(f"`zoo:{network.name}`" for network in zoo())
    text = f"error: no network `zoo:digit-cnn`, allowed: {names}\nhint: did you mean `zoo:digits-cnn`?\n"
    assert_error(refused, 2, text)


def test_every_argument_called_model_says_that_it_takes_the_zoo_or_is_a_network() -> None:
    """A command that takes files, and whose help does not say so, would escape the test above."""
    of_a_model = {c.name: c.function for c in load_all() if "model" in inspect.signature(c.function).parameters}
    files = {name for name, function in of_a_model.items() if TAKES_A_FILE in str(parameters_of(function))}
    assert files | {"check", "convert", "export", "explore", "train", "finetune"} == set(of_a_model)


def test_a_network_of_the_zoo_is_opened_and_lies_in_a_folder_that_is_not_written(cli, tmp_path) -> None:
    images = load_dataset("digits").x_test[:20]
    assert (nctool.open(NAME)(images).argmax(1) == load_dataset("digits").y_test[:20]).mean() > 0.9
    assert str(nctool.inspect(NAME).path) == NAME
    np.save(tmp_path / "x.npy", images)
    answers = nctool.run_sim(NAME, input=tmp_path / "x.npy").answers
    assert list(answers) == nctool.open(NAME)(images).argmax(1).tolist()
