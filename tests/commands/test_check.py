"""`nctool check`: every obstacle at once, what would be changed, and the size on a chip, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nctool
from nctool.conversion import convert
from nctool.errors import UsageError
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import find_target
from tests.support.network_files import to_exported

pytestmark = pytest.mark.usefixtures("one_thread")

CODE = """
from torch import nn

print("building")  # stdout is the report's

def good():
    ends = nn.Flatten(), nn.Linear(72, 5), nn.LogSoftmax(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), *ends)

def bad():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.Flatten(), nn.Linear(288, 5))

def fails():
    raise ValueError("no such weights")

def ends():
    raise SystemExit(0)

number, network, Small = 3, good(), lambda: nn.Linear(4, 2)
"""


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return path


class Net(nn.Module):
    """Skips, pooling and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.hidden, self.fc = nn.MaxPool2d(2), nn.Linear(128, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        x = self.pool(torch.relu(self.two(x) + x))
        return torch.log_softmax(self.fc(torch.relu(self.hidden(x.flatten(1)))), 1)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_a_network_that_converts():
    report = nctool.check(Net(), (2, 8, 8))
    assert (report.model, report.converts, report.obstacles) == ("Net", True, ())
    assert [(change.where, change.before, change.after) for change in report.changes] == [
        ("relu", "relu", "NoisyQuantReLU"),
        ("relu_1", "relu", "NoisyQuantReLU"),
        ("relu_2", "relu", "NoisyQuantReLU"),
        ("log_softmax", "log_softmax", ""),
    ]
    assert "the LogSoftmax behind the logits is left out" in report.remarks[0]
    assert [layer.name for layer in report.layers] == ["one", "two", "pool", "hidden", "fc"]
    assert report.neurons == sum(layer.neurons for layer in report.layers)


@pytest.mark.parametrize(
    ("backend", "target", "input"),
    [("autapse", "loihi", "graded"), ("autapse", "loihi1", "rate"), ("autapse", "lava", "graded")],
)
def test_the_size_is_that_of_the_network_that_is_converted(backend, target, input):  # noqa: A002 - the option's name
    net = Net().eval()
    report = nctool.check(net, (2, 8, 8), target=target, backend=backend, input=input)
    images = torch.randn(64, 2, 8, 8)
    with pytest.warns(nctool.errors.NctoolWarning, match="is left out"):
        prepared = nctool.prepare(net, images)
    conversion = convert(
        prepared.eval(),
        input_shape=(2, 8, 8),
        mean=(0.5,),
        std=(0.25,),
        number_format=find_backend(backend).number_format,
        n_steps=4,
        calibration=np.random.default_rng(0).integers(0, 256, (32, 2, 8, 8), np.uint8),
        input=input,
    )
    lowered = lower(conversion.network, find_target(target), backend)
    assert report.cores == lowered.cores
    assert {layer.name: layer.synapses for layer in report.layers} == {
        layer.name: lowered.network.synapse_count(layer) for layer in lowered.network.populations
    }


def test_replicas_and_images_are_taken():
    images = torch.randn(3, 2, 8, 8)
    once, twice = (nctool.check(Net(), images, replicas=replicas) for replicas in (1, {"one": 2}))
    assert [layer.neurons for layer in twice.layers] == [
        2 * once.layers[0].neurons,
        *(x.neurons for x in once.layers[1:]),
    ]
    assert twice.replicas == {"one": 2}


def test_obstacles_of_the_network():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 3))
    report = nctool.check(model, (2, 8, 8))
    assert not report.converts
    assert [obstacle.what for obstacle in report.obstacles] == [
        "module `1` (GroupNorm) cannot be converted",
        "module `2` (SiLU) cannot be converted",
    ]
    assert all(obstacle.instead for obstacle in report.obstacles)
    assert (report.layers, report.cores) == ((), None)


def test_obstacles_of_the_target_and_the_size_all_the_same():
    wide = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 158 * 158, 3))
    report = nctool.check(wide, (3, 160, 160))
    (obstacle,) = report.obstacles
    assert obstacle.what.startswith("population `3`: one neuron needs")
    assert (report.cores, report.neurons) == (None, 4 * 158 * 158 + 3)
    assert nctool.check(wide, (3, 160, 160), target="lava").converts


def test_a_backend_that_cannot_wire_it():
    report = nctool.check(Net(), (2, 8, 8), backend="population")
    assert "allowed one synapse" in report.obstacles[0].what
    assert report.replicas == 4


def test_binary_spikes_want_rate_input():
    assert "the spikes of `loihi1` are binary" in nctool.check(Net(), (2, 8, 8), target="loihi1").obstacles[0].what


def test_what_a_forward_method_does_in_training_is_remarked():
    class Another(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.training else super().forward(x).exp()

    remarks = nctool.check(Another(), (2, 8, 8)).remarks
    assert any("in training its forward method" in remark for remark in remarks)


def test_the_network_is_left_as_it_was():
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    nctool.check(nn.DataParallel(net), (2, 8, 8))
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_file_on_the_command_line(cli, code):
    ended = cli("check", "nets.py:good", "--shape", "3,8,8")
    assert ended.code == 0
    assert "nets.py:good converts, on images 3x8x8" in ended.out
    assert "building" not in ended.out
    report = cli("check", f"{code}:good", "--shape", "3,8,8", "--json").json
    assert (report["converts"], report["input_shape"]) == (True, [3, 8, 8])
    assert report["changes"] == [
        {"where": "1", "before": "ReLU", "after": "NoisyQuantReLU"},
        {"where": "5", "before": "LogSoftmax", "after": ""},
    ]


def test_obstacles_give_exit_code_3(cli, code):
    ended = cli("check", "nets:bad", "--shape", "3,8,8")
    assert ended.code == 3
    assert "nets:bad: 2 obstacles" in ended.out
    assert "use nn.BatchNorm2d and train again" in ended.out
    ended = cli("check", "nets:bad", "--shape", "3,8,8", "--json")
    assert (ended.code, len(json.loads(ended.out)["obstacles"])) == (3, 2)


def test_a_module_a_class_and_a_package_are_networks_too(cli, code):
    for name, shape in (("nets.py:network", "3x8x8"), ("nets.py:Small", "4"), ("torch.nn:Identity", "4")):
        assert cli("check", name, "--shape", shape).code in (0, 3)


def test_a_network_file_knows_the_shape_of_its_images(cli, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(1, 2, 8, 8),)), tmp_path / "net.pt2")
    report = cli("check", tmp_path / "net.pt2", "--json").json
    assert (report["converts"], report["input_shape"]) == (True, [2, 8, 8])
    assert cli("check", tmp_path / "net.pt2", "--shape", "2,9,9").code == 2


def test_a_network_file_tells_its_obstacles(cli, tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(1, 2, 8, 8),)), tmp_path / "net.pt2")
    ended = cli("check", tmp_path / "net.pt2", "--json")
    assert (ended.code, ended.json["converts"]) == (3, False)
    assert any("gelu" in obstacle["what"].lower() for obstacle in ended.json["obstacles"])


def test_a_damaged_network_file_is_told(cli, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no network")
    assert cli("check", tmp_path / "net.onnx").code in (2, 4)


def test_a_recipe_knows_the_shape_of_its_images(cli):
    report = cli("check", "digits-mlp", "--json").json
    assert (report["converts"], report["input_shape"]) == (True, [1, 8, 8])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nets.py:missing", "--shape", "3,8,8"), "no `missing` there"),
        (("nets.py:number", "--shape", "3,8,8"), "gives int, allowed a torch.nn.Module"),
        (("nets.py:fails", "--shape", "3,8,8"), "fails (ValueError: no such weights)"),
        (("nets.py:ends", "--shape", "3,8,8"), "fails (it ends the program)"),
        (("nets.py:good",), "does not say the shape of its images"),
        (("nets.py:good", "--shape", "3;8"), "got `3;8`, allowed C,H,W"),
        (("nets.py:good", "--shape", "3,0,8"), "allowed sizes of at least 1"),
        (("nets.py:good", "--shape", "1,8,8"), "hint: it takes images of so many channels: --shape 3,H,W"),
        (("nets.py:good", "--shape", "8,8,3"), "--shape 8,8,3: does not fit the model (given groups=1, weight of size"),
        (("nets.py:good", "--shape", "8,8,3"), "hint: the channels come first: --shape 3,8,8"),
        (("nets.py:good", "--shape", "8,8"), "hint: the channels come first: --shape 3,8,8"),
        (("nets.py:good", "--shape", "3,12,8"), "hint: give the size of the images that it is trained on: C,H,W"),
        (("digits-mlp", "--shape", "64"), "--shape 64: allowed C,H,W for the network of a recipe"),
        (("nets.py:good", "--shape", "3,8,8", "--replicas", "auto"), "replicas: auto is for `nctool export`"),
        (("nets.py:good", "--shape", "3,8,8", "--backend", "none"), "unknown backend `none`"),
        (("nets.py:good", "--shape", "3,8,8", "--target", "none"), "unknown target `none`"),
        (("nets.py:good", "--shape", "3,8,8", "--input", "none"), "none"),
        (("gone.py:good", "--shape", "3,8,8"), "no file `gone.py`"),
        (("no_such_package:good", "--shape", "3,8,8"), "cannot be imported (ModuleNotFoundError"),
        (("broken.py:good", "--shape", "3,8,8"), "cannot be imported (SyntaxError"),
        (("nothing-like-it",), "model: `nothing-like-it` is none"),
        (("",), "model: `` is none"),
    ],
)
def test_wrong_usage_is_told(cli, code, arguments, words):
    code.with_name("broken.py").write_text("def good(:\n")
    ended = cli("check", *arguments)
    assert ended.code == 2
    assert words in ended.err


def test_a_shape_that_is_not_that_of_the_file_is_told(cli, tmp_path):
    path = to_exported(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), torch.zeros(2, 2, 8, 8), tmp_path / "net.pt2")
    ended = cli("check", path, "--shape", "2,9,9")
    assert ended.code == 2
    assert ended.err.endswith(
        f"error: --shape 2,9,9: the network of `{path}` takes another\nhint: leave it out, or give --shape 2,8,8\n"
    )


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (3, (2, 8, 8), "model: got int, allowed a torch.nn.Module"),
        (Net(), None, "shape: is missing"),
        (Net(), (2, "8", 8), "shape"),
        (Net(), np.zeros((4, 2, 8, 8)), "images: got ndarray, allowed a float tensor"),
        (Net(), torch.zeros(4, 2, 8, 8, dtype=torch.uint8), "images: got torch.uint8"),
        (Net(), torch.zeros(4, 3, 8, 8), "images: (4, 3, 8, 8) do not fit the model"),
        (Net(), (3, 8, 8), "shape=(3, 8, 8): does not fit the model"),
        (Net(), (2, 0, 8), "shape=(2, 0, 8): allowed sizes of at least 1"),
    ],
)
def test_wrong_arguments_are_told(model, shape, words):
    with pytest.raises(UsageError) as caught:
        nctool.check(model, shape)
    assert words in str(caught.value)
