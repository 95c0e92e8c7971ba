"""Files of graded networks in the commands: inspect, run-sim, verify with its traces and its explanations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import nctool
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import IntNetwork
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, write
from nctool_deploy.targets.target import find_target
from tests.support.networks import as_pixels, conv, dense, graded, graded_read_out, signed_input

PIXELS = as_pixels(np.arange(-40, 40).reshape(5, 1, 4, 4))


def network() -> IntNetwork:
    """`a` and a skip past it into `b`, and a readout whose sum is not shifted."""
    a = graded("a", replace(conv("input", np.full((2, 1, 1, 1), 3)), exponent=-1), shape=(2, 4, 4), bias=[300, 0])
    skip = replace(conv("input", np.ones((2, 1, 1, 1))), exponent=2)
    b = graded("b", conv("a", np.eye(2).reshape(2, 2, 1, 1)), skip, shape=(2, 4, 4))
    made = IntNetwork(signed_input(1, 4, 4), (a, b, graded_read_out(dense("b", np.eye(3, 32), -4))), 1)
    return with_bounds(made, {name: found.bound("proved") for name, found in prove(made).items()})


def write_file(path: Path, trace: Trace | None = None) -> Path:
    made = network()
    lowered = lower(made, find_target("loihi2"), "graded")
    write(path, lowered, KnownAnswers(PIXELS, trace or simulate(made, PIXELS)))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_file(tmp_path / "graded.net")


def test_inspect_names_the_neurons_and_what_their_spikes_carry(cli, model: Path) -> None:
    """3 * 127 >> 1 is 190, + 300: 9 bits; + 4 * 127: 998, 10 bits."""
    report = nctool.inspect(model)
    assert report.backend == "graded"
    assert [layer.kind for layer in report.layers] == ["conv, graded", "conv, graded", "dense, readout"]
    assert [layer.payload_bits for layer in report.layers] == [9, 10, None]
    assert [layer.threshold_range for layer in report.layers] == [None] * 3
    assert [branch.exponent for layer in report.layers for branch in layer.branches] == [-1, 0, 2, -4]
    lines = [line.split() for line in cli("inspect", model).out.splitlines()]
    assert lines[1][6:8] == ["payload", "head-room"]
    assert lines[3][:11] == ["a", "conv,", "graded", "2x4x4", "32", "32", "3..3", ">>", "1", "9", "bits"]
    assert any(line[:6] == ["+", "input", "conv,", "delay", "1", "32"] and "4" in line for line in lines)


def test_run_sim_counts_messages_and_keeps_payloads(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    report = nctool.run_sim(model, input=tmp_path / "x.npy", output=tmp_path / "out.npz")
    expected = simulate(network(), PIXELS)
    assert report.spikes_per_layer == {n: np.count_nonzero(s) / 5 for n, s in expected.spikes.items()}
    np.testing.assert_array_equal(report.answers, expected.logits[:, 0].argmax(axis=1))
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["spikes/b"].dtype == np.int32
        np.testing.assert_array_equal(arrays["spikes/b"], expected.spikes["b"])


def test_a_sum_without_room_is_warned_of(cli, tmp_path: Path) -> None:
    """The file states a bound that the first image leaves."""
    made = network()
    populations = [replace(p, bound=replace(p.bound, kind="calibrated")) for p in made.populations]
    loud = replace(populations[0].synapses[0], weight=np.full((2, 1, 1, 1), 127, np.int32), exponent=10)
    made = replace(made, populations=(replace(populations[0], synapses=(loud,)), *populations[1:]))
    lowered = lower(network(), find_target("lava"), "graded")
    write(tmp_path / "m.net", replace(lowered, network=made), KnownAnswers(PIXELS, simulate(made, PIXELS)))
    np.save(tmp_path / "x.npy", as_pixels(np.full((1, 1, 4, 4), 127)))
    ended = cli("run-sim", tmp_path / "m.net", "--input", tmp_path / "x.npy")
    assert "WARNING: 64 sums left their register: see rules O1 to O3 in docs/SEMANTICS.md" in ended.out


def test_verify_compares_payloads_and_keeps_them(model: Path, tmp_path: Path) -> None:
    report = nctool.verify(model, engines=("reference", "fast"), layers=tmp_path / "traces.npz")
    assert report.equal
    assert report.known_answers == 5
    with np.load(tmp_path / "traces.npz") as arrays:
        for engine in ("reference", "fast"):
            assert arrays[f"spikes/{engine}/a"].dtype == np.int32
        assert arrays["potentials/reference/a"].min() < 0


def test_verify_says_where_known_payloads_differ(cli, tmp_path: Path) -> None:
    trace = simulate(network(), PIXELS)
    wrong = trace.spikes["b"].copy()
    place = tuple(index[0] for index in np.nonzero(wrong > 1))
    wrong[place] -= 1
    path = write_file(tmp_path / "m.net", replace(trace, spikes={**trace.spikes, "b": wrong}))
    ended = cli("verify", path, "--engines", "reference,fast")
    assert ended.code == 1
    assert "payloads off by 1: 1" in ended.out
    report = cli("verify", path, "--engines", "reference,fast", "--json").json
    assert report["first_divergence"]["layer"] == "b"


@pytest.mark.lava
def test_verify_on_lava(model: Path) -> None:
    assert nctool.verify(model, engines=("reference", "fast", "lava"), samples=5).equal


def test_an_edited_payload_fails_verify(cli, model: Path) -> None:
    with h5py.File(model, "r+") as file:
        file["nctool/known_answers/payloads/0"][0] += 1
    ended = cli("verify", model, "--engines", "reference,fast")
    assert ended.code == 1
    assert "group `/nctool` is not what was exported: its digest differs" in ended.out
