"""What `nctool convert` refuses or notes: images, normalisation, networks, options; whole texts of the main ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nctool
from nctool.errors import FormatError, NctoolError, RangeError, UnsupportedError, UsageError
from tests.support.network_files import to_onnx
from tests.support.refusals import refusal

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8)
NUMBERS = ((PIXELS / 255 - 0.5) / 0.25).astype(np.float32)
FIT = "images: {} do not fit the model (given groups=1, weight of size [6, 3, 3, 3], expected input{}\nhint: {}"
NOT_OF_SIZE = "it takes more than one image, of the size that it is trained on; pooling windows must tile them"


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 5)
    return nn.Sequential(*layers).eval()


def normed() -> nn.Module:
    """Batch norms that have seen no data."""
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)).eval()


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> dict[str, Any]:
    """Return arguments that go well; what a test changes, it names."""
    monkeypatch.chdir(tmp_path)
    return {"model": net(), "images": PIXELS, "output": tmp_path / "o.net", "mean": [0.5], "std": [0.25]}


def of_numbers(arguments: dict[str, Any], images: object) -> dict[str, Any]:
    return arguments | {"images": images, "mean": None, "std": None}


# --- normalisation ----------------------------------------------------------------------------------------------------

NO_STATISTICS = (
    "images: uint8 pixels without mean and std\n"
    "hint: give what the training took off and divided by, as torchvision's Normalize takes them; 0 and 1 where it "
    "only divided by 255"
)


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (None, None, NO_STATISTICS),
        (None, [1.0], NO_STATISTICS),
        ([0.0], None, NO_STATISTICS),
        (
            [0.1, 0.2],
            [1.0],
            "mean: got 0.1, 0.2 for images of 3 channels, allowed one number for all channels, or one for each\n"
            "hint: images are (N, channels, height, width)",
        ),
        (
            [0.1],
            [],
            "std: got none for images of 3 channels, allowed one number for all channels, or one for each\n"
            "hint: images are (N, channels, height, width)",
        ),
        ([0.5], [0.2, 0.0, 0.2], "std: 0 is out of range, allowed > 0\nhint: 1 where the training divided by none"),
        ([0.5], [-0.25], "std: -0.25 is out of range, allowed > 0\nhint: 1 where the training divided by none"),
        ([0.5, float("nan"), 0.5], [1.0], "mean[1]: got nan, allowed: a finite number"),
        ([0.5], [float("inf")], "std[0]: got inf, allowed: a finite number"),
        ([1e300], [1.0], "mean 1e+300 and std 1: pixels become numbers up to 1e+300, allowed up to 1e+09"),
        ([0.5], [1e-300], "mean 0.5 and std 1e-300: pixels become numbers up to 5e+299, allowed up to 1e+09"),
    ],
)
def test_what_is_no_normalisation_of_pixels(arguments, mean, std, text):
    assert refusal(UsageError, nctool.convert, **arguments | {"mean": mean, "std": std}) == text


def test_floats_have_no_normalisation(arguments):
    assert refusal(UsageError, nctool.convert, **arguments | {"images": NUMBERS}) == (
        "images: got float32 with mean and std, which are for uint8 pixels\n"
        "hint: give pixels 0..255 of type uint8 with them, or numbers as the network takes them without"
    )


@pytest.mark.parametrize("mean", [[123.7, 116.3, 103.5], [-0.5]])
def test_a_mean_that_pixels_cannot_have_is_noted(arguments, mean):
    shown = ", ".join(f"{value:g}" for value in mean)
    assert nctool.convert(**arguments | {"mean": mean}).notes[0] == (
        f"mean {shown}: of pixel / 255, means lie in 0..1; if it is of pixels 0..255, divide mean and std by 255"
    )


@pytest.mark.parametrize("text", ["nan", "inf", "0.5;0.5", "", "0.5,,0.5", "half", "0.5 0.5"])
def test_an_option_of_numbers(text):
    from nctool.commands.convert import parse_values

    assert refusal(UsageError, parse_values, text, "mean") == (
        f"mean: got `{text}`, allowed a number for each channel, with commas between them"
    )


@pytest.mark.parametrize(
    ("text", "values"), [("0.5", (0.5,)), (".5,-1e-3, 2.", (0.5, -0.001, 2.0)), ("1E2,+3", (100.0, 3.0))]
)
def test_numbers_are_written_as_in_python(text, values):
    from nctool.commands.convert import parse_values

    assert parse_values(text, "mean") == values


# --- images -----------------------------------------------------------------------------------------------------------

AXES = "a single image needs an axis in front, images without colour one for their channel: images[:, None]"
TYPES = "pixels 0..255: images.astype('uint8'), with mean and std; numbers: images.astype('float32')"


@pytest.mark.parametrize(
    ("images", "kind", "text"),
    [
        (
            PIXELS.astype(np.int64),
            UsageError,
            "images: got int64 (40, 3, 8, 8), allowed uint8 pixels, or floats as the network takes them\n"
            f"hint: {TYPES}",
        ),
        (
            PIXELS > 3,
            UsageError,
            f"images: got bool (40, 3, 8, 8), allowed uint8 pixels, or floats as the network takes them\nhint: {TYPES}",
        ),
        (PIXELS[:0], FormatError, "`images`: holds no samples: uint8 (0, 3, 8, 8)"),
        (
            PIXELS.reshape(-1),
            UsageError,
            "images: got uint8 (7680,), allowed (N, channels, height, width), (N, channels, length) or (N, features)\n"
            f"hint: {AXES}",
        ),
        (
            0 * PIXELS,
            UsageError,
            "images: all numbers are 0, from which no threshold can be told\n"
            "hint: give images of the data that the network was trained on",
        ),
        (
            PIXELS.transpose(0, 2, 3, 1),
            UsageError,
            FIT.format(
                "(40, 8, 8, 3)",
                "[2, 8, 8, 3] to have 3 channels, but got 8 channels instead)",
                "the channels stand behind the images' axis: give images.permute(0, 3, 1, 2), of an array "
                "images.transpose(0, 3, 1, 2)",
            ),
        ),
        (
            PIXELS[0],
            UsageError,
            FIT.format(
                "(3, 8, 8)",
                "[1, 2, 8, 8] to have 3 channels, but got 2 channels instead)",
                "a single image needs an axis in front: give images[None]",
            ),
        ),
        (
            PIXELS[:, :2],
            UsageError,
            FIT.format("(40, 2, 8, 8)", "[2, 2, 8, 8] to have 3 channels, but got 2 channels instead)", NOT_OF_SIZE),
        ),
    ],
)
def test_images_that_are_none(arguments, images, kind, text):
    assert refusal(kind, nctool.convert, **arguments | {"images": images}) == text
    assert not Path("o.net").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e10, -1e300])
def test_floats_that_no_network_computes_with(arguments, value):
    images = NUMBERS.astype(np.float64)
    images[3, 1, 2, 2] = value
    assert refusal(UsageError, nctool.convert, **of_numbers(arguments, images)) == (
        f"images: hold {value}, allowed finite numbers up to 1e+09\nhint: a standard deviation of 0 divides by 0"
    )


def test_pixels_as_floats_are_noted(arguments):
    report = nctool.convert(**of_numbers(arguments, PIXELS.astype(np.float32)))
    assert report.notes == (
        "the numbers of the images reach from 0 to 255: if the network takes normalised images, give them normalised",
    )


@pytest.mark.parametrize(("number", "shown"), [(1, "1 image"), (31, "31 images"), (32, None)])
def test_few_images_are_noted(arguments, number, shown):
    notes = nctool.convert(**arguments | {"images": PIXELS[:number]}).notes
    text = f"converted on {shown}: what is chosen by them is a guess, give some hundreds of all classes"
    assert (text in notes) == (shown is not None)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        (
            "x.npz",
            FormatError,
            "`x.npz` is an archive, allowed: a .npy file of one array\n"
            "hint: save one array of it with `numpy.save`; a data set of images and labels is given with dataset",
        ),
        (
            "folder",
            FormatError,
            "`folder` holds no image",
        ),
        ("none.npy", UsageError, "no such file: `none.npy`\nhint: save an array of numbers with `numpy.save`"),
    ],
)
def test_files_that_hold_no_images(arguments, name, kind, text):
    np.savez("x.npz", x=PIXELS)
    Path("folder").mkdir()
    assert refusal(kind, nctool.convert, **arguments | {"images": name}) == text


@pytest.mark.filterwarnings("error")
def test_a_file_of_images_is_read_without_a_warning(arguments):
    np.save("x.npy", PIXELS)
    assert nctool.convert(**arguments | {"images": "x.npy"}).images == len(PIXELS)


# --- networks ---------------------------------------------------------------------------------------------------------


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + torch.rand(1)


def with_dtype(dtype: torch.dtype) -> nn.Module:
    return net().to(dtype)


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        (
            nn.Sequential(
                nn.Conv2d(3, 6, 3), nn.GELU(), nn.GroupNorm(2, 6), nn.Sigmoid(), nn.Flatten(), nn.Linear(216, 5)
            ),
            UnsupportedError,
            "module `1` (GELU) cannot be converted\nmodule `2` (GroupNorm) cannot be converted\n"
            "module `3` (Sigmoid) cannot be converted\n"
            "hint: replace it by nn.ReLU, then nctool.prepare, and train again: a few epochs are enough "
            "(docs/OWN_MODEL.md); use nn.BatchNorm2d and train again: what is normalised by its own statistics has no "
            "fixed weights; behind a hidden layer use nn.ReLU, behind the last one return the logits; leave out gates",
        ),
        (
            Draws(),
            UnsupportedError,
            "model `Draws` (its forward method draws random numbers in evaluation mode) cannot be converted\n"
            "hint: draw them in training mode only: nn.Dropout(p), or functional.dropout(x, p, self.training)",
        ),
        (
            with_dtype(torch.float64),
            UnsupportedError,
            "parameter `0.weight`: is torch.float64, allowed torch.float32\n"
            "hint: model.float() makes all of them torch.float32",
        ),
        (
            with_dtype(torch.float16),
            UnsupportedError,
            "parameter `0.weight`: is torch.float16, allowed torch.float32\n"
            "hint: model.float() makes all of them torch.float32",
        ),
        (
            net().state_dict(),
            UsageError,
            "model: got OrderedDict, allowed a torch.nn.Module\n"
            "hint: build the network, then load its weights: model.load_state_dict(torch.load(path))",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()),
            UnsupportedError,
            "model: the output has shape (5, 6, 6), allowed (classes,)\n"
            "hint: pool and flatten before the last nn.Linear",
        ),
        ("none.onnx", UsageError, "cannot read `none.onnx`: no such file or directory"),
        ("none.py:build", UsageError, "model: no file `none.py`"),
        (
            "some.py",
            UsageError,
            "model: `some.py` does not say what builds the network, allowed file.py:function\n"
            "hint: name a function that returns the network with its weights",
        ),
        ("some.net", UsageError, 'model: `some.net` is converted already\nhint: run it: nctool.run_sim("some.net")'),
    ],
)
def test_networks_that_are_refused(arguments, model, kind, text):
    assert refusal(kind, nctool.convert, **arguments | {"model": model}) == text


def test_a_run_is_exported(arguments, digits_run):
    assert refusal(UsageError, nctool.convert, **arguments | {"model": digits_run}) == (
        f"model: `{digits_run}` is the folder of a training run\n"
        f'hint: export it: nctool.export("{digits_run}", output="MODEL.net")'
    )


@pytest.mark.parametrize(
    ("images", "shape", "hint"),
    [
        (
            PIXELS.transpose(0, 2, 3, 1),
            (8, 8, 3),
            "the channels stand last: give images.transpose(0, 3, 1, 2), of a tensor images.permute(0, 3, 1, 2)",
        ),
        (PIXELS[:, :, 1:], (3, 7, 8), "give images of the size that the network was trained with, channels first"),
    ],
)
def test_a_file_of_another_size(arguments, images, shape, hint):
    to_onnx(net(), torch.zeros(2, 3, 8, 8), Path("m.onnx"))
    assert refusal(UsageError, nctool.convert, **arguments | {"model": "m.onnx", "images": images}) == (
        f"images: have shape {shape}, the network of `m.onnx` takes (3, 8, 8)\nhint: {hint}"
    )


def test_a_file_of_grey_images(arguments):
    to_onnx(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), torch.zeros(2, 1, 8, 8), Path("m.onnx"))
    assert refusal(UsageError, nctool.convert, **arguments | {"model": "m.onnx", "images": PIXELS[:, 0]}) == (
        "images: have shape (8, 8), the network of `m.onnx` takes (1, 8, 8)\n"
        "hint: the axis of the channels is missing: give images[:, None]"
    )


def test_batch_norms_without_data_are_noted(arguments):
    text = "batch norm `1` and 1 more: no data seen, so this network is not trained: load its weights first"
    assert text in nctool.convert(**arguments | {"model": normed()}).notes
    trained = normed().train()
    trained(torch.from_numpy(NUMBERS))
    assert nctool.convert(**arguments | {"model": trained}).notes == ()


@pytest.mark.parametrize("unit", [0.01, 1, 1000])
def test_a_layer_that_is_never_positive_is_noted(arguments, unit):
    """Whatever the units of its drive: nothing else says how large its thresholds are."""
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(unit)
        model[0].bias.fill_(-100 * unit)
    report = nctool.convert(**arguments | {"model": model})
    never, alike = report.notes
    assert never == "no neuron of `0` can fire, whatever the image: train the network again"
    assert alike.startswith("the trained network gives one class for all ")
    assert report.losses == {"0": 0.0}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 5)),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 1)),
        nn.DataParallel(net()),
        net().train(),
    ],
    ids=["no ReLU", "one class", "wrapped", "in training mode"],
)
def test_networks_that_convert(arguments, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    report = nctool.convert(**arguments | {"model": model})
    assert nctool.verify(report.path, engines="reference,fast").equal
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- options and places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"steps": 4, "backend": "population"},
            RangeError,
            'steps: 4, backend `population` allows 1\nhint: leave out steps, or use backend="autapse"',
        ),
        (
            {"replicas": "auto"},
            UsageError,
            "replicas: `auto` is for a network that nctool trained, allowed K, or LAYER=K,...\n"
            "hint: give a number of replicas, or choose by layer from the losses that a conversion reports",
        ),
        ({"replicas": 65}, UsageError, "replicas: 65 for `0`, allowed 1..64"),
        ({"replicas": {"4": 2}}, UsageError, "replicas: no layer `4` that spikes, allowed 0"),
        ({"weight_bits": 9}, UsageError, "weight bits: 9 is out of range, allowed 2..8"),
        ({"chips": 0}, UsageError, "chips: 0 is out of range, allowed >= 1\nhint: give 1 or more chips with chips"),
        (
            {"target": "loihi1"},
            UnsupportedError,
            "input: graded values -63..63, the spikes of `loihi1` are binary, allowed 0..1\n"
            'hint: use input="rate", target="loihi2", or target="lava" to simulate only',
        ),
    ],
)
def test_options_that_do_not_fit(arguments, options, kind, text):
    assert refusal(kind, nctool.convert, **arguments | options) == text


@pytest.mark.parametrize("options", [{"steps": 1}, {"steps": 64}, {"replicas": 64}, {"weight_bits": 2}])
def test_options_at_their_ends(arguments, options):
    assert nctool.verify(nctool.convert(**arguments | options).path, engines="reference,fast").equal


def test_the_longest_window(arguments):
    """Either it fits, or the error says what does."""
    try:
        assert nctool.verify(nctool.convert(**arguments, steps=1032).path, engines="fast").equal
    except NctoolError as error:
        assert type(error) is RangeError
        assert error.hint == "use fewer steps"


def test_too_large_for_one_chip(arguments):
    """A chip like Loihi 2 with two cores."""
    text = (Path(nctool.__file__).parents[2] / "deploy/nctool_deploy/targets/files/loihi2.toml").read_text()
    text = text.replace("cores_per_chip = { value = 120", "cores_per_chip = { value = 2")
    Path("small.toml").write_text(text.replace('name = "loihi2"', 'name = "small"'))
    wide = nn.Sequential(nn.Conv2d(3, 160, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(160, 2))
    options = arguments | {"model": wide, "target": "small.toml"}
    assert refusal(RangeError, nctool.convert, **options) == (
        "network: needs 5 cores, 3 chips of `small` with 2 cores each, allowed 1\n"
        'hint: use chips=3, make the layers narrower, or use target="lava" to simulate only'
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"output": "x.npy", "images": "x.npy"}, "output: `x.npy` is the images\nhint: give it a file of its own"),
        ({"output": "m.onnx", "model": "m.onnx"}, "output: `m.onnx` is the model\nhint: give it a file of its own"),
    ],
)
def test_nothing_that_is_read_is_replaced(arguments, options, text):
    np.save("x.npy", PIXELS)
    to_onnx(net(), torch.zeros(2, 3, 8, 8), Path("m.onnx"))
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert refusal(UsageError, nctool.convert, **arguments | options) == text
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
