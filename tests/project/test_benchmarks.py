"""Benchmarks: each can be loaded, and the one that needs other libraries says so where they are missing."""

import importlib
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from nctool.errors import UnsupportedError
from nctool_models import build_model, load_recipe
from nctool_models.datasets.dataset import Dataset

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("[!_]*.py")))
def test_every_name_that_a_benchmark_imports_is_there(monkeypatch, script):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert callable(runpy.run_path(str(FOLDER / script))["main"])


def test_peers_without_their_environment_give_a_reason_and_no_figure(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "peers.py"), "--environment", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    reason = f"no environment `{tmp_path}`: make it with `make peers`"
    assert done.stderr == f"peers: {reason}\n"
    assert json.loads(done.stdout) == {"fast_over_best_peer": None, "reason": reason}


def test_conversion_without_the_environment_of_the_others_measures_nctool_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "conversion.py"), "--environment", str(tmp_path), "--images", "50"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"conversion: no environment `{tmp_path}`: make it with `make peers`" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ours_minus_best_peer"] == {"digits-cnn": None}
    assert {"K1T1", "K1T16", "K4T1 autapse", "K8T1 population"} <= result["points_below_ann"]["digits-cnn"].keys()
    assert result["networks"]["digits-cnn"]["images"] == 50


def test_graded_measures_a_small_network_by_bits_and_beside_other_neurons():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "graded.py"), "--images", "50", "--counted", "10"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    below = result["points_below_ann"]["digits-cnn"]
    assert {"8 and 8", "8 and 4", "4 and 8", "8 and 4, per layer"} <= below.keys()
    assert abs(below["8 and 8"]) <= 2  # one image of 50
    cost = result["compared"]["digits-cnn"]
    assert 0 < cost["graded"]["graded_operations"] < cost["graded"]["synaptic_operations"]  # those of biases are none
    assert cost["population, K=4"]["graded_operations"] == 0
    assert cost["graded"]["message_bits"] > cost["population, K=4"]["message_bits"] > 0  # pixels carry 8 bits in all
    assert cost["graded"]["period_steps"] == cost["population, K=4"]["period_steps"] == 1
    assert cost["autapse, T=4"]["period_steps"] == 5


def test_conversion_leaves_out_a_backend_that_cannot_hold_the_network(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    ours = importlib.import_module("_conversion_ours")

    def convert(*arguments):
        if arguments[-1].get("backend") == "population":
            raise UnsupportedError("it has skips")

    monkeypatch.setattr(ours, "_convert", convert)
    monkeypatch.setattr(ours, "_run", lambda *_: 0.5)
    accuracy = ours.measure_ours(nn.Identity(), None, None)["accuracy"]
    assert "K4T1 autapse" in accuracy
    assert not any("population" in key for key in accuracy)
    assert "conversion: K4T1 population: it has skips" in capsys.readouterr().err


def test_graded_leaves_out_a_backend_that_cannot_hold_the_network(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    graded = importlib.import_module("_graded")

    def convert(*_, backend, **__):
        if backend != "graded":
            raise UnsupportedError("it has skips")
        return SimpleNamespace(neurons=3, cores=1)

    total = SimpleNamespace(synaptic_operations=1, graded_operations=1, spikes=1, bias_spikes=1, payload_bits=1)
    run = SimpleNamespace(cost=SimpleNamespace(latency_steps=1, period_steps=1, total=total, samples=1))
    monkeypatch.setattr(graded, "_convert", convert)
    monkeypatch.setattr(graded, "_answers", lambda *_: np.zeros(2))
    monkeypatch.setattr(graded.nctool, "run_sim", lambda *_, **__: run)
    data = SimpleNamespace(x_test=np.zeros(2), y_test=np.zeros(2))
    assert list(graded.costs(nn.Identity(), data, 1)) == ["graded"]
    assert "graded: population, K=4: it has skips" in capsys.readouterr().err


def test_images_are_drawn_with_their_labels(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    drawn = runpy.run_path(str(FOLDER / "_relu_images.py"))["drawn"]
    pixels, labels = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1), np.arange(30)
    data = drawn(Dataset.measured("sorted", (tuple(map(str, labels)), pixels, labels, pixels, labels)), 10)
    for images, classes in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        np.testing.assert_array_equal(images.ravel(), classes)
    assert len(data.x_train) == 30
    assert len(data.x_test) == 10
    assert data.y_test.max() > 10  # not the first ten


@pytest.mark.parametrize(
    ("name", "recipe", "shape"),
    [
        ("lenet-avg", "mnist-lenet", (1, 28, 28)),
        ("lenet-max", "mnist-lenet", (1, 28, 28)),
        ("small-vgg-avg", "cifar10-small-vgg", (3, 32, 32)),
        ("small-vgg-max", "cifar10-small-vgg", (3, 32, 32)),
        ("resnet20", "cifar10-resnet20", (3, 32, 32)),
    ],
)
def test_the_networks_that_are_converted_after_training_have_the_widths_of_the_zoo(monkeypatch, name, recipe, shape):
    monkeypatch.syspath_prepend(str(FOLDER))
    plain = runpy.run_path(str(FOLDER / "_relu_networks.py"))["NETWORKS"][name]()
    settings = load_recipe(recipe)
    zoo = build_model(settings.model, shape, 10, settings.activation)

    def widths(network):
        return sorted(tuple(each.shape) for each in network.parameters() if each.ndim > 1)

    assert widths(plain) == widths(zoo)


@pytest.mark.parametrize(("epoch", "rate"), [(0.0, 0.05), (2.0, 1.0), (6.0, 0.5), (10.0, 0.0)])
def test_the_learning_rate_of_the_plain_networks_rises_for_a_fifth_and_falls_on_a_cosine(monkeypatch, epoch, rate):
    monkeypatch.syspath_prepend(str(FOLDER))
    schedule = runpy.run_path(str(FOLDER / "_relu_training.py"))["Schedule"]
    assert math.isclose(schedule(10, 1.0, augment=False).rate(epoch), rate, abs_tol=1e-12)
