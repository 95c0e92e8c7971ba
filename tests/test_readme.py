"""The Python example in README.md works as written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nctool
from nctool.nq import NoisyQuantReLU

README = Path(__file__).parent.parent / "README.md"


def test_a_model_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), NoisyQuantReLU(4, 1.0), nn.AvgPool2d(3))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(100, 10))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    monkeypatch.chdir(tmp_path)
    exec(code, {"model": model, "pixels": pixels})
    report = nctool.verify("model.net", engines=["reference", "fast"])
    assert report.equal
    assert report.samples == report.known_answers == 16

    images, labels = pixels.transpose(0, 2, 3, 1), np.arange(20) % 10
    np.savez("mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert nctool.run_sim("model.net", dataset="mine.npz").samples == 20
