"""What terminals of 60, 80 and 120 columns show: every line fits, and no word or number is torn or left out."""

from __future__ import annotations

import re
import shutil
import sys
from collections import OrderedDict
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nctool
from nctool.commands.application import main
from nctool.commands.tables import print_rows
from nctool.progress import progress_bar
from tests.commands.test_doctor import no_lava
from tests.support.terminal import Terminal, stderr_terminal

TO_COPY = ("next: ", "wrote ")


def shown(monkeypatch: pytest.MonkeyPatch, stream: StringIO, width: int, arguments: Sequence[object]) -> str:
    """Return what a command writes on stdout."""
    with monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(width))
        patch.setattr(sys, "argv", ["nctool", *map(str, arguments)])
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit):
            main()
    return without_codes(stream.getvalue())


def without_codes(text: str) -> str:
    """Return a text without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def words(text: str) -> set[str]:
    """Return the words of an output, but for the speed and what is free, which are others each time."""
    return set(re.sub(r"\S+ (?=images/s|GiB)", "", text).split())


def assert_fits(text: str, width: int) -> None:
    """Every line fits, but for those to copy, and a word that is longer than the terminal is wide."""
    for line in map(str.rstrip, text.splitlines()):
        assert len(line) <= width or line.startswith(TO_COPY) or " " not in line, line


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_before, self.conv_behind = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv_behind(self.relu(self.conv_before(x))) + x)


def long_names() -> nn.Module:
    """Return a network whose layers have names like `encoder.stage_two.conv_before`."""
    stages = {name: Block() for name in ("stage_one", "stage_two")}
    stem = nn.Sequential(OrderedDict(convolution=nn.Conv2d(1, 8, 3, padding=1), relu=nn.ReLU()))
    encoder = nn.Sequential(OrderedDict(stem=stem, **stages))
    head = nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=nn.Linear(512, 10)))
    torch.manual_seed(0)
    return nctool.prepare(nn.Sequential(OrderedDict(encoder=encoder, head=head)), torch.randn(16, 1, 8, 8))


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported residual network of long names, and beside it the same with other weights in a layer."""
    folder, model = tmp_path_factory.mktemp("long"), long_names()
    nctool.train("digits-mlp", folder, overrides={"training.epochs": 1}, model=model)
    nctool.export(folder, folder / "model.net", model=model)
    with h5py.File(shutil.copy(folder / "model.net", folder / "changed.net"), "r+") as file:
        file["layer/2/weight"][...] = -file["layer/2/weight"][...]
    return folder / "model.net"


RELUS = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(6, 3))
"""

COMMANDS = [
    "inspect DIGITS",
    "inspect LONG",
    "run-sim LONG --samples 4 --cost",
    "verify LONG --engines reference,fast",
    "verify CHANGED --engines reference,fast",
    "export RUN -o m.net",
    "convert nets.py:build --images x.npy --mean 0.5 --std 0.25 --steps 2 -o c.net",
    "explore RUN --samples 4 --replicas 1,2 --steps 1 --weight-bits 8 --target loihi1 --input rate",
    "history RUN",
    "doctor",
    "report LONG CHANGED -o r.html --verify 1",
    "recipes",
    "targets",
    "zoo",
    "bundle DIGITS -o bundle",
]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_run: Path, digits_model: Path, long_model: Path
) -> None:
    """Make links to what the commands read, in the current folder, and a network of ReLUs with images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nctool.surroundings.engines._lava", no_lava)
    Path("nets.py").write_text(RELUS, encoding="utf-8")
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), np.uint8))
    changed = long_model.with_name("changed.net")
    for name, path in {"RUN": digits_run, "DIGITS": digits_model, "LONG": long_model, "CHANGED": changed}.items():
        Path(name).symlink_to(path)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command(here: None, monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> None:
    piped, narrow = (shown(monkeypatch, stream, width, command.split()) for stream in (StringIO(), Terminal()))
    assert words(narrow) == words(piped) != set()
    assert_fits(narrow, width)


def test_a_table_goes_on_below_with_its_keys(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Three columns of 6 and two gaps take 22; in 21 the third goes below, with the key before it."""
    rows = [["first", "111111", "222222"], ["second", "333333", "444444"]]
    whole = ["title", "key     a       b     ", "first   111111  222222", "second  333333  444444"]
    parts = ["title", "key     a     ", "first   111111", "second  333333", "", "key     b     ", "first   222222"]
    for width, expected in ((22, whole), (21, [*parts, "second  444444"])):
        stream = Terminal()
        with monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", str(width))
            patch.setattr(sys, "stdout", stream)
            print_rows("title", ["key", "a", "b"], rows)
        assert without_codes(stream.getvalue()).splitlines() == expected
    print_rows("title", ["key", "a", "b"], rows)
    assert capsys.readouterr().out.splitlines() == whole
    monkeypatch.setenv("COLUMNS", "21")
    print_rows("title", ["key", "a", "b"], rows)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        line.rstrip() for line in (*parts, "second  444444")
    ]


@pytest.mark.parametrize("columns", ["", "0", "many"])
def test_a_pipe_has_80_columns(monkeypatch: pytest.MonkeyPatch, capsys, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    cells = [str(10**8 + number) for number in range(12)]
    print_rows("title", ["key", *("a",) * 12], [["first", *cells]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert set(" ".join(lines).split()) == {"title", "key", "a", "first", *cells}


def test_a_wide_table_gets_headers_of_several_lines_before_it_gets_parts(capsys) -> None:
    rows = [["first", *("1",) * 8]]
    print_rows("title", ["key", *("a long header",) * 8], rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["title"], ["a"] * 8, ["long"] * 8, ["key", *["header"] * 8], ["first", *["1"] * 8]]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_of_a_training_run(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    message = "epoch 120/400, loss 0.341, training accuracy 81.1%; held out ANN 86.01%, SNN T=1 82.52%, T=2 84.10%"
    stream = stderr_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(width))
    with progress_bar("fine-tuning") as report:
        report(12345, 140800, message)
    lines = re.split(r"[\r\n]+", without_codes(stream.getvalue()))
    assert max(map(len, lines)) <= width
    assert set(message.split()) <= set(" ".join(lines).split())
    assert any("12345/140800" in line for line in lines)
