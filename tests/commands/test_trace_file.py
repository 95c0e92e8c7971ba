"""`verify --layers` keeps the traces of every engine, readable without pickle, in the same bytes each time."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nctool
from nctool.errors import UnsupportedError, UsageError
from nctool.ir.network import IntNetwork
from nctool.reference.simulate import simulate
from nctool.running.samples import load_samples
from nctool.verification import trace_file
from nctool_deploy.netx import read
from tests.support.networks import dense, fire, fitting_graded, random_pixels, read_out, signed_input


def two_layers(name: str = "a") -> IntNetwork:
    first = fire(name, dense("input", [[1, 2, 3], [4, 5, 6]]))
    return IntNetwork(signed_input(3), (first, read_out(dense(name, [[1, 1]] * 4))), 5)


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def test_it_holds_the_traces_of_every_engine_and_the_pixels(digits_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "traces.npz"
    nctool.verify(digits_model, engines=["reference", "fast"], samples=20, layers=path)
    found, content = load(path), read(digits_model)
    pixels, _ = load_samples(content, None, "test", 20, None)
    expected = simulate(content.network, pixels, potentials=True)
    assert found.pop("engines").tolist() == ["reference", "fast"]
    assert found.pop("layers").tolist() == ["conv1", "conv2", "fc1", "fc2"]
    np.testing.assert_array_equal(found.pop("pixels"), pixels)
    for engine in ("reference", "fast"):
        np.testing.assert_array_equal(found.pop(f"logits/{engine}"), expected.logits)
        for layer, spikes in expected.spikes.items():
            np.testing.assert_array_equal(found.pop(f"spikes/{engine}/{layer}"), spikes)
    for layer, potentials in expected.potentials.items():
        np.testing.assert_array_equal(found.pop(f"potentials/reference/{layer}"), potentials)
    assert found == {}


def test_chunks_are_put_together(digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nctool.verify(digits_model, engines=["reference", "fast"], layers=tmp_path / "one.npz")
    monkeypatch.setattr("nctool_deploy.lava.engine.MAX_SAMPLES_PER_RUN", 5)
    nctool.verify(digits_model, engines=["reference", "fast"], layers=tmp_path / "four.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "four.npz").read_bytes()


def test_the_bytes_do_not_depend_on_the_time(tmp_path: Path) -> None:
    network = two_layers()
    pixels = random_pixels(network, 2)
    trace_file.write_traces(tmp_path / "a.npz", network, pixels, {"fast": [simulate(network, pixels)]})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("engines", [("reference", "fast"), ("fast",)])
@pytest.mark.parametrize("network", [two_layers(), fitting_graded(4)], ids=["spiking", "graded"])
def test_the_size_is_known_beforehand(tmp_path: Path, network: IntNetwork, engines: tuple[str, ...]) -> None:
    pixels = random_pixels(network, 7)
    traces = {name: [simulate(network, pixels, potentials=name == "reference")] for name in engines}
    trace_file.write_traces(tmp_path / "a.npz", network, pixels, traces)
    held = sum(array.nbytes for name, array in load(tmp_path / "a.npz").items() if name not in ("engines", "layers"))
    assert held == 7 * trace_file.bytes_per_sample(network, engines)


def test_traces_up_to_the_bound_are_kept_and_larger_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network, engines = two_layers(), ("reference", "lava")
    per_sample = 3 + 5 * (2 * (2 + 4 * 8) + 8 * 6)
    assert trace_file.bytes_per_sample(network, engines) == per_sample
    monkeypatch.setattr(trace_file, "MAX_BYTES", 4000 * per_sample)
    trace_file.require_fit(network, engines, 4000)
    with pytest.raises(UsageError) as caught:
        trace_file.require_fit(network, engines, 4001)
    assert str(caught.value) == (
        "--layers: the traces of 4001 samples in 2 engines take 2,332,583 bytes, allowed 2,332,000\n"
        "hint: give --samples 4000, or fewer engines"
    )
    monkeypatch.setattr(trace_file, "MAX_BYTES", per_sample - 1)
    with pytest.raises(UsageError, match=r"hint: one sample is too large to keep: give fewer engines$"):
        trace_file.require_fit(network, engines, 1)


@pytest.mark.parametrize("name", ["a/b", "..", "n" * 201])
def test_run_sim_refuses_such_a_name_too(name, digits_model, tmp_path, monkeypatch) -> None:
    """Before anything runs."""
    content = replace(read(digits_model), network=two_layers(name))
    monkeypatch.setattr("nctool.running.model_file.open_model", lambda *_, **__: content)
    monkeypatch.setattr("nctool.running.samples.choose_samples", lambda *_: pytest.fail("it went on"))
    with pytest.raises(UnsupportedError) as caught:
        nctool.run_sim(digits_model, samples=1, output=tmp_path / "out.npz")
    assert str(caught.value) == (
        f"output: layer {name!r} cannot name an array, allowed up to 200 characters without `/`, `\\` and control "
        "characters"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\0b", "..", "n" * 201])
def test_a_layer_whose_name_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        trace_file.require_fit(two_layers(name), ("fast",), 1)
    assert str(caught.value) == (
        f"--layers: layer {name!r} cannot name an array, allowed up to 200 characters without `/`, `\\` and control "
        "characters"
    )
    trace_file.require_fit(two_layers("features.0.conv"), ("fast",), 1)


def test_a_file_that_is_not_what_was_exported_gives_its_known_answers_and_the_reference(
    digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = read(digits_model)
    answers = replace(content.known_answers.trace, logits=content.known_answers.trace.logits + 1)
    changed = replace(content, known_answers=replace(content.known_answers, trace=answers))
    monkeypatch.setattr("nctool.running.model_file.read", lambda path, check_digests: changed)
    nctool.verify(digits_model, engines=["reference", "fast"], layers=tmp_path / "traces.npz")
    found = load(tmp_path / "traces.npz")
    assert found["engines"].tolist() == ["file", "reference"]
    assert len(found["pixels"]) == 16
    np.testing.assert_array_equal(found["logits/file"], found["logits/reference"] + 1)
    assert "potentials/reference/fc1" in found and "potentials/file/fc1" not in found
