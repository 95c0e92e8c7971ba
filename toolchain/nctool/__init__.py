"""nctool: from a vision network to an integer spiking network on a chip, verified bit for bit.

    nctool.demo()                                        trains and verifies a small network, and shows how
    nctool.check(model, images)                          tells all that keeps a PyTorch network from being converted
    nctool.convert(model, images, "mine.net", mean=..., std=...)   converts a trained ReLU network, without training
    net = nctool.prepare(model, images)                  makes a PyTorch network trainable for conversion
    nctool.train("mine.toml", "runs/mine", model=net)    trains it; `finetune` trains it further, `history` shows a run
    nctool.export("runs/mine", "mine.net", model=net)    converts it and writes the file; `explore` compares settings
    nctool.run_sim("mine.net")                           runs the file on data; `inspect` shows what it holds
    nctool.open("mine.net")(pixels)                      gives the logits of some images; prepared once, called often
    nctool.verify("mine.net")                            proves that the engines agree, bit for bit
    nctool.bundle("mine.net", "folder")                  all that runs it in an unmodified Lava, without nctool
    nctool.doctor()                                      tells what works here, and the way out where it does not
    nctool.report("mine.net")                            writes one page of HTML about it, or about several networks

Each command of the command line but those that list calls the function of its name. The functions are loaded when first
used: importing `nctool` loads neither torch nor Lava.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nctool.commands.bundle import bundle
    from nctool.commands.check import check
    from nctool.commands.convert import convert
    from nctool.commands.demo import demo
    from nctool.commands.doctor import doctor
    from nctool.commands.explore import explore
    from nctool.commands.export import export
    from nctool.commands.finetune import finetune
    from nctool.commands.history import history
    from nctool.commands.inspect import inspect
    from nctool.commands.report import report
    from nctool.commands.run_sim import run_sim
    from nctool.commands.train import train
    from nctool.commands.verify import verify
    from nctool.exporting.preparing import prepare
    from nctool.running.opened import open_model_file as open  # noqa: A004 - read as `nctool.open`

__all__ = [
    "bundle",
    "check",
    "convert",
    "demo",
    "doctor",
    "explore",
    "export",
    "finetune",
    "history",
    "inspect",
    "open",
    "prepare",
    "report",
    "run_sim",
    "train",
    "verify",
]

_ELSEWHERE = {
    "open": ("nctool.running.opened", "open_model_file"),
    "prepare": ("nctool.exporting.preparing", "prepare"),
}
"""Module and name of the functions that are no commands."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module `nctool` has no attribute `{name}`")
    import_module("nctool.commands").load_all()  # messages know every option
    module, function = _ELSEWHERE.get(name, (f"nctool.commands.{name}", name))
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
