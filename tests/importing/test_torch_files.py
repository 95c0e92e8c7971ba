"""Files of torch.export and TorchScript as torch modules: they give what the network that was saved gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nctool.errors import FormatError, UnsupportedError, UsageError
from nctool.importing import open_network, require_same_as_file
from nctool.importing.open_file import read_network
from tests.importing.test_onnx import IMAGES, Branches, kinds, model
from tests.support.network_files import to_exported, to_script
from tests.support.refusals import refusal


def save(kind: str, net: nn.Module, images: Tensor, path: Path) -> Path:
    if kind.startswith("export"):
        return to_exported(net, images, path / "net.pt2", any_batch=kind.endswith("any"))
    return to_script(net, images, path / "net.pt", traced=kind == "traced")


KINDS = ["exported-any", "exported-two", "traced", "scripted"]


class InPlace(nn.Module):
    """A block of a residual network: activations that change their input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding="same")
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        self.relu(x)
        y = self.norm(self.conv2(x))
        y += x
        y = self.relu(y)
        return self.fc((F.adaptive_avg_pool2d(y, 1) + F.adaptive_max_pool2d(y, 1)).flatten(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", [Branches, InPlace])
def test_a_saved_network_comes_back(tmp_path: Path, kind: str, net: type[nn.Module]) -> None:
    original = model(net)
    path = save(kind, original, IMAGES[:2], tmp_path)
    network = open_network(path, shape=(2, 8, 8))
    require_same_as_file(network, path, IMAGES)
    torch.testing.assert_close(network(IMAGES), original(IMAGES))
    assert {"Conv2d", "BatchNorm2d", "AdaptiveAvgPool2d", "Flatten", "Linear"} <= set(kinds(network))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_is_an_image_of_one_row(tmp_path: Path, kind: str) -> None:
    signals = torch.randn(4, 2, 16)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(32, 3)
    ).eval()
    path = save(kind, net, signals, tmp_path)
    read = read_network(path, (2, 16))
    assert read.sizes == (2, 1, 16)
    read.require_same(signals[:, :, None], "here")
    require_same_as_file(read.network, path, signals)
    torch.testing.assert_close(read.network(signals[:, :, None]), net(signals))


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_cannot_be_converted_is_named_at_once(tmp_path: Path, kind: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 3))
    said = refusal(UnsupportedError, open_network, save(kind, net, IMAGES, tmp_path), shape=(2, 8, 8))
    assert "(silu)" in said and "(sigmoid)" in said and "silu: replace it by nn.ReLU" in said


def test_script_needs_the_shape_of_an_image(tmp_path: Path) -> None:
    path = save("traced", model(), IMAGES, tmp_path)
    assert refusal(UsageError, open_network, path) == (
        f"`{path}`: TorchScript does not say what images it takes\n"
        "hint: give their shape, for example shape=(3, 32, 32); or save the network with torch.export.save"
    )


def test_a_shape_that_is_not_that_of_the_file(tmp_path: Path) -> None:
    path = save("exported-any", model(), IMAGES, tmp_path)
    assert "takes (2, 8, 8)" in refusal(UsageError, open_network, path, shape=(2, 9, 9))


def test_training_mode_is_refused(tmp_path: Path) -> None:
    class Trains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.fc(x), 0.5, training=True)

    path = to_script(Trains(), torch.randn(2, 6), tmp_path / "net.pt", traced=False)
    assert "is in training mode" in refusal(UnsupportedError, open_network, path, shape=(6,))


def test_a_wrong_answer_is_refused(tmp_path: Path) -> None:
    read = read_network(save("exported-any", model(), IMAGES, tmp_path))
    with torch.no_grad():
        next(read.network.parameters()).mul_(1.01)
    assert "differs from torch" in refusal(FormatError, read.require_same, IMAGES, "here")


def test_a_program_of_images_in_another_layout_is_read_or_told_the_way(tmp_path):
    """Of an example whose channels lie last, torch 2.3 writes the pooling by strides, newer ones as any other."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    example = torch.rand(2, 8, 8, 3).permute(0, 3, 1, 2)
    path = to_exported(net, example, tmp_path / "net.pt2", any_batch=False)
    try:
        network = open_network(path)
    except UnsupportedError as error:
        assert "as_strided: export the network again with example images" in str(error)
    else:
        require_same_as_file(network, path, example.contiguous())
