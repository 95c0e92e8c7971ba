"""Networks as people write them convert without training, and the file gives the same bits in every engine.

Those that cannot be converted are refused, with all that stands in the way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import nctool
from nctool.errors import UnsupportedError
from tests.support import user_models
from tests.support.network_files import FILES, to_exported, to_onnx, to_script
from tests.support.refusals import refused
from tests.support.user_models import SHAPES, trained

REFUSED = {
    user_models.DenseNet: [f"function `{name}`: joins `conv0`" for name in ("cat", "cat_1", "cat_2", "cat_3")],
    user_models.image_autoencoder: [
        "module `4` (ConvTranspose2d) cannot be converted",
        "module `6` (ConvTranspose2d) cannot be converted",
        "module `7` (Sigmoid) cannot be converted",
    ],
    user_models.UNet: ["module `up` (ConvTranspose2d) cannot", "module `out`: the output has shape (2, 16, 16)"],
    user_models.Transformer: [
        "function `transpose` cannot be converted",
        "module `encoder` (TransformerEncoderLayer) cannot be converted",
    ],
    user_models.Gated: ["function `silu` cannot", "function `sigmoid` cannot", "function `mul` cannot"],
}
"""Parts of what the refusal of each says, in order."""

CONVERTED = [make for make in SHAPES if make not in REFUSED]
SMALL = [user_models.sensors, user_models.KeywordSpotting, user_models.mobilenet_v1, user_models.mobilenet_v2]
"""Those that Lava runs in moments."""

FROM_FILES = {
    "onnx": (to_onnx, user_models.CifarTutorial),
    "pt2": (to_exported, user_models.Inception),
    "pt2-signal": (to_exported, user_models.KeywordSpotting),
    "pt": (to_script, user_models.basic_resnet),
}


def is_converted(
    model: nn.Module | Path, images: torch.Tensor, folder: Path, backend: str = "autapse"
) -> nctool.commands.convert.ConvertReport:
    """Convert, and run the file in the reference and the fast engine."""
    report = nctool.convert(model, images, folder / "model.net", backend=backend)
    found = nctool.verify(folder / "model.net", engines=["reference", "fast"], input=images[:2].numpy())
    assert found.equal and found.overflows == 0
    assert found.compared_spikes > 0
    return report


@pytest.mark.parametrize("make", CONVERTED, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_converted(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    net, images = trained(make, SHAPES[make])
    assert is_converted(net, images, tmp_path).fidelity.same_as_ann >= 0.5


@pytest.mark.parametrize("make", CONVERTED, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_converted_to_graded_spikes(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    net, images = trained(make, SHAPES[make])
    report = is_converted(net, images, tmp_path, "graded")
    assert report.fidelity.same_as_ann >= 0.95
    assert max(report.losses.values()) < 0.05


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_refused(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    net, images = trained(make, SHAPES[make])
    error = refused(UnsupportedError, nctool.convert, net, images, tmp_path / "model.net")
    places = [error.message.find(part) for part in REFUSED[make]]
    assert -1 not in places and places == sorted(places), error.message
    assert error.hint
    assert not (tmp_path / "model.net").exists()


@pytest.mark.parametrize("kind", FROM_FILES)
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_converted_from_a_file(kind: str, tmp_path: Path) -> None:
    save, make = FROM_FILES[kind]
    net, images = trained(make, SHAPES[make])
    path = save(net, images, tmp_path / f"net.{kind.partition('-')[0]}")
    assert is_converted(path, images, tmp_path).fidelity.same_as_ann >= 0.5


@pytest.mark.parametrize("name", ["keras_cnn", "keras_branches", "keras_pad"])
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_converted_from_keras(name: str, tmp_path: Path) -> None:
    side = 9 if name == "keras_pad" else 8
    images = torch.randn(48, 3, side, side, generator=torch.Generator().manual_seed(0))
    is_converted(FILES / f"{name}.onnx", images, tmp_path)


@pytest.mark.vision
@pytest.mark.parametrize(("backend", "layers"), [("autapse", 19), ("graded", 23)])
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_resnet18_of_torchvision(backend: str, layers: int, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    net, images = trained(lambda: resnet18(num_classes=10), (3, 32, 32))
    report = nctool.convert(net, images[:16], tmp_path / "model.net", target="lava", backend=backend)
    assert nctool.verify(tmp_path / "model.net", engines=["fast"]).equal  # beside the known answers of the file
    assert report.layers == layers


@pytest.mark.vision
@pytest.mark.parametrize(("name", "side", "layers"), [("mobilenet_v2", 32, 36), ("squeezenet1_1", 64, 32)])
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_converted_of_torchvision(name: str, side: int, layers: int, tmp_path: Path) -> None:
    from torchvision import models

    net, images = trained(lambda: getattr(models, name)(num_classes=10), (3, side, side))
    report = nctool.convert(net, images[:16], tmp_path / "model.net", target="lava")
    assert nctool.verify(tmp_path / "model.net", engines=["fast"]).equal  # beside the known answers of the file
    assert report.layers == layers


@pytest.mark.vision
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_refused_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models import densenet121

    net, images = trained(lambda: densenet121(num_classes=10), (3, 32, 32))
    error = refused(UnsupportedError, nctool.convert, net, images[:16], tmp_path / "model.net")
    assert "joins `features.denseblock1.denselayer1.conv2` with no activation between them" in error.message


@pytest.mark.lava
@pytest.mark.parametrize("backend", ["autapse", "graded"])
@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_equal_on_lava(make: Callable[[], nn.Module], backend: str, tmp_path: Path) -> None:
    net, images = trained(make, SHAPES[make])
    nctool.convert(net, images, tmp_path / "model.net", backend=backend)
    assert nctool.verify(tmp_path / "model.net", input=images[:1].numpy()).equal
