"""The Python example in README.md works as written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nctool

README = Path(__file__).parent.parent / "README.md"
RECIPE = """
name = "mine"
[data]
name = "mine.npz"
[model]
architecture = "own"
[training]
epochs = 2
"""


def test_a_model_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3))
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), np.uint8)
    given = {
        "model": nn.Sequential(*layers, nn.Flatten(), nn.Linear(100, 10)),
        "images": torch.from_numpy(pixels / 255 - 0.5).float(),
    }
    monkeypatch.chdir(tmp_path)
    images, labels = pixels.transpose(0, 2, 3, 1), np.arange(120) % 10
    np.savez("mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    Path("mine.toml").write_text(RECIPE)
    exec(example, given)
    report = nctool.verify("mine.net", engines=["reference", "fast"])
    assert report.equal
    assert report.samples == report.known_answers == 16
    assert nctool.run_sim("mine.net", dataset="mine.npz").samples == 120
