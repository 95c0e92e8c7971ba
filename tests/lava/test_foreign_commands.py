"""The commands on netx files of other tools, and on samples of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool.running import engines
from nctool_deploy.foreign import ForeignOptions, read_foreign
from nctool_deploy.netx import read
from tests.support.foreign import Draft, dense_layer, input_block, neuron
from tests.support.runs import Finished, run_command

RNG = np.random.default_rng(0)


@pytest.fixture
def nctool(capsys, monkeypatch) -> Callable[..., Finished]:
    return partial(run_command, capsys, monkeypatch)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Six inputs, five hidden neurons, three outputs."""
    hidden = dense_layer(RNG.integers(-60, 61, (5, 6)), neuron=neuron(40, 2048, 512))
    out = dense_layer(RNG.integers(-60, 61, (3, 5)), neuron=neuron(30, 4096, 1024), delay=[1.0, 0.0, 2.0])
    return Draft([hidden, out]).write(tmp_path / "foreign.net")


@pytest.fixture
def spikes(tmp_path: Path) -> Path:
    np.save(tmp_path / "spikes.npy", RNG.integers(0, 2, (4, 9, 6)).astype(np.int8))
    return tmp_path / "spikes.npy"


def assert_error(ended: Finished, code: int, text: str) -> None:
    assert ended.err == text
    assert (ended.code, ended.out) == (code, "")


def test_run_sim_writes_what_the_reference_engine_computes(nctool, foreign: Path, spikes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    ended = nctool("run-sim", foreign, "--input", spikes, "--reset-interval", 4, "-o", out, "--json")
    assert ended.code == 0, ended.err
    network = read_foreign(foreign, ForeignOptions(reset_interval=4)).network
    expected = simulate(network, np.load(spikes), n_steps=9)
    with np.load(out) as found:
        assert sorted(found.files) == ["logits", "spikes/dense0", "spikes/dense1"]
        for name, values in expected.spikes.items():
            np.testing.assert_array_equal(found[f"spikes/{name}"], values)
        np.testing.assert_array_equal(found["logits"], expected.logits)
    report = ended.json
    assert (report["samples"], report["steps"], report["accuracy"], report["notes"]) == (4, 9, {}, [])
    assert report["answers"] == []  # what the output of another tool's network means is not known
    assert report["spikes_per_layer"]["dense0"] == expected.spikes["dense0"].sum() / 4


def test_labels_give_an_accuracy(nctool, foreign: Path, spikes: Path, tmp_path: Path) -> None:
    network = read_foreign(foreign).network
    answers = simulate(network, np.load(spikes), n_steps=9).logits[:, -1].argmax(axis=1)
    np.save(tmp_path / "labels.npy", np.where(np.arange(4) < 3, answers, (answers + 1) % 3))
    report = nctool("run-sim", foreign, "--input", spikes, "--labels", tmp_path / "labels.npy", "--json").json
    assert list(report["accuracy"]) == ["1", "2", "4", "8", "9"]
    assert report["accuracy"]["9"] == 0.75


def test_the_steps_of_a_constant_input_are_given(nctool, tmp_path: Path) -> None:
    path = Draft([input_block(2), dense_layer([[60, 60]])]).write(tmp_path / "x.net")
    np.save(tmp_path / "real.npy", np.array([[0.5, -0.5]]))
    report = nctool("run-sim", path, "--input", tmp_path / "real.npy", "--steps", 7, "--json").json
    expected = simulate(read_foreign(path).network, np.array([[52, 16]]), n_steps=7)
    assert report["steps"] == 7
    assert report["spikes_per_layer"] == {name: spikes.sum() for name, spikes in expected.spikes.items()}


def test_verify_compares_the_engines(nctool, foreign: Path, spikes: Path) -> None:
    ended = nctool("verify", foreign, "--input", spikes, "--engines", "reference,fast")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[0] == "EQUAL, bit for bit: reference = fast"
    report = nctool("verify", foreign, "--input", spikes, "--engines", "reference,fast", "--json").json
    assert report["equal"] and report["samples"] == 4
    assert report["compared_spikes"] == 4 * 9 * (5 + 3)
    assert {check["group"] for check in report["checks"]} == {"reference = fast"}


def test_verify_shows_where_an_engine_differs(nctool, monkeypatch, foreign: Path, spikes: Path) -> None:
    def flips_a_spike(job: engines.Job) -> Iterator[Trace]:
        for trace in engines.traces("reference", job):
            trace.spikes["dense1"][2, 5, 1] ^= True
            yield trace

    monkeypatch.setitem(engines.ENGINES, "fast", flips_a_spike)
    ended = nctool("verify", foreign, "--input", spikes, "--engines", "reference,fast")
    assert ended.code == 1
    assert "first divergence: layer `dense1`, sample 2, step 6, neuron (1,): spike is" in ended.out
    assert "the neuron: current-based" in ended.out


@pytest.mark.lava
def test_lava_runs_the_same_file(nctool, foreign: Path, spikes: Path) -> None:
    ended = nctool("verify", foreign, "--input", spikes, "--samples", 2, "--engines", "reference,lava")
    assert ended.code == 0, ended.out + ended.err


def test_inspect_shows_neurons_and_notes(nctool, tmp_path: Path) -> None:
    path = Draft([dense_layer([[-128, 0]], neuron=neuron(40, 2048, 512))]).write(tmp_path / "x.net")
    lines = nctool("inspect", path).out.splitlines()
    assert "dense, CUBA 2048/512" in lines[3]
    assert lines[4] == "NOTE: layer 0: Lava runs 1 of 2 weights with another value than the file's, -128 as -64"
    path = Draft([dense_layer([[1], [2]], neuron=neuron(40, [7, 9], 512))]).write(tmp_path / "x.net")
    assert "dense, CUBA 7..9/512" in nctool("inspect", path).out
    report = nctool("inspect", path, "--json").json
    assert (report["target"], report["cores"], report["head_room_bits"]) == (None, None, None)


def test_samples_of_your_own_run_on_an_exported_file(nctool, digits_model: Path, tmp_path: Path) -> None:
    pixels = read(digits_model).known_answers.pixels
    np.save(tmp_path / "pixels.npy", pixels)
    report = nctool("run-sim", digits_model, "--input", tmp_path / "pixels.npy", "--json").json
    assert (report["samples"], report["dataset"]) == (len(pixels), str(tmp_path / "pixels.npy"))


# --- refusals -----------------------------------------------------------


def test_a_foreign_file_needs_samples(nctool, foreign: Path) -> None:
    assert_error(
        nctool("run-sim", foreign),
        2,
        "error: a netx file of another tool does not say what data it is for\nhint: give samples with --input X.npy\n",
    )


def test_options_of_foreign_files_do_not_fit_exported_ones(nctool, digits_model: Path) -> None:
    assert_error(
        nctool("run-sim", digits_model, "--reset-interval", 4),
        2,
        f"error: `{digits_model}` was exported by nctool: steps, resets and layers are fixed in it\n"
        "hint: --steps, --reset-interval, --num-layers and --skip-layers are for netx files of other tools\n",
    )


def test_two_sources_of_samples(nctool, digits_model: Path, spikes: Path) -> None:
    assert_error(
        nctool("run-sim", digits_model, "--input", spikes, "--dataset", "digits"),
        2,
        f"error: two sources of samples: `{spikes}` and data set `digits`\n",
    )


def test_samples_of_another_shape(nctool, foreign: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 9, 5), np.int8))
    assert_error(
        nctool("run-sim", foreign, "--input", tmp_path / "x.npy"),
        3,
        "error: input: got int8 (2, 9, 5), allowed integers (samples, steps, *(6,)) or (samples, *(6,))\n"
        "hint: axes are (samples, steps, channel, height, width); Lava's are (width, height, channel, steps)\n",
    )


def test_labels_beyond_the_classes(nctool, foreign: Path, spikes: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2, 3]))
    path = tmp_path / "labels.npy"
    assert_error(
        nctool("run-sim", foreign, "--input", spikes, "--labels", path),
        3,
        f"error: `{path}`: label 3, the network has 3 classes\n",
    )


def test_an_output_that_cannot_be_written_is_refused_before_the_run(nctool, foreign, spikes, tmp_path) -> None:
    path = tmp_path / "missing" / "out.npz"
    ended = nctool("run-sim", foreign, "--input", spikes, "-o", path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: cannot write `{path}`: no such file or directory\n")
