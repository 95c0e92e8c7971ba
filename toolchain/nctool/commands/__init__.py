"""The commands: one module each, with its options, its function, its report and its table.

The functions are the public ones of `nctool`; `application` is the command line, which calls them. Nothing but this
list is loaded to show it, or to complete a word: the module of a command is loaded when the command is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nctool.commands.command import Command


@dataclass(frozen=True)
class Entry:
    """A command in the list of all.

    Args:
        summary: what it does, in a line of a terminal.
        module: of this package, that holds it.
        name: of the `Command` in the module.
    """

    summary: str
    module: str
    name: str = "COMMAND"


COMMANDS = {
    "demo": Entry("Show all steps, from training to proof.", "demo"),
    "check": Entry("Say what keeps a network from being converted.", "check"),
    "train": Entry("Train a network for the chip, by a recipe.", "train"),
    "finetune": Entry("Train it on as the spiking network itself.", "finetune"),
    "export": Entry("Convert a trained network, and write the file.", "export"),
    "convert": Entry("Convert a trained ReLU network as it is.", "convert"),
    "explore": Entry("Compare many ways to export a network.", "explore"),
    "run-sim": Entry("Run a file on data: accuracy, speed, spikes.", "run_sim"),
    "verify": Entry("Prove that engines agree, bit for bit.", "verify"),
    "report": Entry("Write one page about runs and networks.", "report"),
    "inspect": Entry("Show what a file holds.", "inspect"),
    "bundle": Entry("Write a folder that runs a file without nctool.", "bundle"),
    "history": Entry("Show what a training run measured, by epoch.", "history"),
    "doctor": Entry("Show what works here, and the way out if not.", "doctor"),
    "recipes": Entry("List the built-in recipes, or write one out.", "lists", "RECIPES"),
    "zoo": Entry("List the trained networks that come with nctool.", "lists", "ZOO"),
    "targets": Entry("List chips and simulators, with their limits.", "lists", "TARGETS"),
}
"""By name, in the order of the help."""


@cache
def load(name: str) -> Command:
    """Return the command called `name`."""
    entry = COMMANDS[name]
    command: Command = getattr(import_module(f"nctool.commands.{entry.module}"), entry.name)
    return command


def load_all() -> tuple[Command, ...]:
    """Return every command; from then on messages know the options of all."""
    return tuple(map(load, COMMANDS))
