"""Layers that enlarge images in files: they give what the file gives, run by onnxruntime or by torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.nn import functional as F

from nctool.errors import UnsupportedError
from nctool.importing import open_network, require_same_as_file
from tests.support.network_files import graph, node, to_exported, to_onnx, to_script
from tests.support.networks import seeds
from tests.support.refusals import refusal

IMAGES = torch.randn(5, 2, 4, 6, generator=torch.Generator().manual_seed(0))
FLAT = [node("Flatten", "enlarged"), node("MatMul", "flatten", "w", to="scores")]


class Enlarging(nn.Module):
    """Every layer that enlarges, as a module or a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.turn = nn.ConvTranspose2d(3, 4, (3, 4), (2, 3), 1, output_padding=(1, 2), dilation=(2, 1), bias=False)
        self.up, self.shuffle, self.last = nn.Upsample(scale_factor=(1.0, 2.0)), nn.PixelShuffle(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(F.relu(self.first(self.up(x))))
        x = F.relu(self.second(F.interpolate(x, size=(16, 24), mode="nearest")))
        return self.last(F.relu(self.turn(x)).mean((2, 3)))


def opened(path: Path, images: Tensor = IMAGES, **options: object) -> nn.Module:
    network = open_network(path, **options)
    require_same_as_file(network, path, images)
    return network


@pytest.mark.parametrize("kind", ["opset 11", "opset 13", "opset 17", "exported", "traced"])
def test_a_network_of_torch_comes_back(tmp_path, kind):
    torch.manual_seed(0)
    net, name = Enlarging().eval(), tmp_path / "net"
    if kind.startswith("opset"):
        network = opened(to_onnx(net, IMAGES, name, opset_version=int(kind.split()[1])))
    elif kind == "exported":
        network = opened(to_exported(net, IMAGES, name))
    else:
        network = opened(to_script(net, IMAGES, name), shape=(2, 4, 6))
    torch.testing.assert_close(network(IMAGES), net(IMAGES))
    kinds = [type(module).__name__ for module in network.children()]
    assert kinds[:6] == ["Upsample", "Conv2d", "ReLU", "PixelShuffle", "Upsample", "Conv2d"]


def test_a_signal_is_an_image_of_one_row(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose1d(2, 4, 4, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=3), nn.Flatten())
    net.append(nn.Linear(144, 3)).eval()
    signals = torch.randn(4, 2, 6)
    paths = [to_onnx(net, signals, tmp_path / "net.onnx"), to_exported(net, signals, tmp_path / "net.pt2")]
    for path in paths:
        torch.testing.assert_close(opened(path, signals)(signals[:, :, None]), net(signals))


@given(seeds)
def test_transposed_convolutions_of_onnx(tmp_path_factory, seed):
    """Strides, dilations, groups, what is cut off on one side more than on the other, sizes that are wanted."""
    rng = np.random.default_rng(seed)
    stride, dilation, kernel = (rng.integers(*ends, 2).tolist() for ends in ((1, 4), (1, 3), (2, 4)))
    options = {"strides": stride, "dilations": dilation, "group": int(rng.integers(1, 3))}
    if rng.integers(3) == 0:
        options["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER"]))
    else:
        more = [int(rng.integers(step)) for step in stride]
        options |= {"pads": rng.integers(0, 3, 4).tolist(), "output_padding": more}
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    nodes = [node("ConvTranspose", "images", "kernel", to="enlarged", **options), node("GlobalAveragePool", "enlarged"),
             node("Flatten", "globalaveragepool", to="scores")]  # fmt: skip
    graph(nodes, (2, 4, 6), path, {"kernel": rng.normal(size=(2, 2, *kernel)).astype(np.float32)})
    try:
        network = open_network(path)
    except UnsupportedError as error:
        assert 2 in dilation
        assert "allowed as much on both sides" in error.message
        return
    require_same_as_file(network, path, IMAGES)


def test_a_bias_that_is_added_behind_becomes_that_of_the_layer(tmp_path):
    kernel, bias = np.ones((2, 3, 2, 2), np.float32), np.array([[[1]], [[2]], [[3]]], np.float32)
    nodes = [
        node("ConvTranspose", "images", "kernel", to="turned", strides=[2, 2]),
        node("Add", "turned", "bias", to="enlarged"),
    ]
    path = graph([*nodes, *FLAT], (2, 4, 6), tmp_path / "net.onnx", {"kernel": kernel, "bias": bias, "w": weights(288)})
    network = opened(path)
    assert [type(module).__name__ for module in network.children()] == ["ConvTranspose2d", "Flatten", "Linear"]


def weights(features: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(features, 2)).astype(np.float32)


COUNTING = [
    ("half_pixel", "round_prefer_floor", 3),
    ("half_pixel", "round_prefer_ceil", 2),
    ("asymmetric", "floor", 3),
    ("asymmetric", "round_prefer_floor", 2),
    ("pytorch_half_pixel", "round_prefer_floor", 2),
]


@pytest.mark.parametrize(("counting", "rounding", "factor"), COUNTING)
def test_places_of_onnx_that_repeat_each_number_as_often(tmp_path, counting, rounding, factor):
    assert opened(resized(tmp_path, counting, rounding, [1, 1, factor, 2]))


def resized(tmp_path: Path, counting: str, rounding: str, scales: list[float], **options: object) -> Path:
    options |= {"coordinate_transformation_mode": counting, "nearest_mode": rounding}
    features = int(48 * min(np.prod(scales), 6))
    held = {"scales": np.array(scales, np.float32), "w": weights(features)}
    nodes = [node("Resize", "images", "", "scales", to="enlarged", **options), *FLAT]
    return graph(nodes, (2, 4, 6), tmp_path / "net.onnx", held)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (("half_pixel", "floor", [1, 1, 2, 2]), "counts places by half_pixel and floor, which repeats some more often"),
        (("align_corners", "floor", [1, 1, 2, 2]), "counts places by align_corners and floor"),
        (("asymmetric", "round_prefer_floor", [1, 1, 1, 3]), "counts places by asymmetric and round_prefer_floor"),
        (("asymmetric", "floor", [1, 1, 1.5, 2]), "enlarges (1.5, 2.0) times, allowed whole numbers up to 32768"),
        (("asymmetric", "floor", [1, 1, 1e9, 1]), "enlarges (1000000000.0,) times, allowed whole numbers up to 32768"),
        (("asymmetric", "floor", [1, 2, 1, 1]), "enlarges something else than the height and width of images"),
    ],
)
def test_places_that_are_not_repeated_evenly_are_refused(tmp_path, path, reason):
    said = refusal(UnsupportedError, open_network, resized(tmp_path, *path))
    assert f"`the_Resize` (Resize: {reason}" in said


def test_what_interpolates_is_refused(tmp_path):
    path = resized(tmp_path, "half_pixel", "floor", [1, 1, 2, 2], mode="linear")
    assert "`the_Resize` (Resize: has mode linear, allowed nearest)" in refusal(UnsupportedError, open_network, path)
    net = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten(), nn.Linear(192, 2))
    said = refusal(UnsupportedError, open_network, to_script(net, IMAGES, tmp_path / "net.pt"), shape=(2, 4, 6))
    assert "(upsample_bilinear2d)" in said and "hint: upsample_bilinear2d: use mode='nearest'" in said
    said = refusal(UnsupportedError, open_network, to_exported(net, IMAGES, tmp_path / "net.pt2"))
    assert "use mode='nearest'" in said


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_channels_that_become_pixels(tmp_path, mode):
    kernel = np.random.default_rng(0).normal(size=(8, 2, 1, 1)).astype(np.float32)
    nodes = [
        node("Conv", "images", "kernel"),
        node("DepthToSpace", "conv", to="enlarged", blocksize=2, mode=mode),
        *FLAT,
    ]
    path = graph(nodes, (2, 4, 6), tmp_path / "net.onnx", {"kernel": kernel, "w": weights(192)})
    if mode == "CRD":
        assert [type(module).__name__ for module in opened(path).children()][1] == "PixelShuffle"
    else:
        assert "DepthToSpace: has mode DCR, allowed CRD" in refusal(UnsupportedError, open_network, path)
