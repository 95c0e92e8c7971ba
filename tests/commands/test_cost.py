"""`run-sim --cost` reports what was counted; energy is split by cause, and given only where a target has figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nctool
from nctool.errors import UnsupportedError, UsageError
from nctool.ir.bounds import prove, with_bounds
from nctool.ir.network import IntNetwork
from nctool.reference.simulate import simulate
from nctool_deploy.cost.operations import Operations
from nctool_deploy.cost.report import SplitEnergy, split_energy
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, read, write
from nctool_deploy.targets.target import Target, find_target, parse_target
from tests.support.foreign import Draft, dense_layer
from tests.support.networks import as_pixels, dense, graded, graded_read_out, signed_input

OWN = """
name = "small-chip"
[features]
graded_spikes = { value = true, source = "data sheet" }
shared_kernels = { value = false, source = "data sheet" }
[energy]
basis = "measured on a board"
synaptic_operation = { pj = 2.5, source = "data sheet" }
active_update = { pj = 8, source = "data sheet" }
idle_update = { pj = 4, source = "data sheet" }
spike = { pj = 0.5, source = "data sheet" }
[step_time]
low_ns = 100
high_ns = 300
source = "data sheet"
"""


@pytest.fixture(scope="module")
def own_model(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for a target that states energies; its input spikes differ from sample to sample."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.toml").write_text(OWN, encoding="utf-8")
    nctool.export(digits_run, folder / "model.net", steps=2, target=folder / "own.toml", input="rate")
    return folder / "model.net"


# --- energy ---------------------------------------------------------------


def test_energy_by_hand() -> None:
    operations = Operations(
        spikes=3,
        bias_spikes=1,
        network_operations=6,
        autapse_operations=3,
        bias_operations=1,
        active_updates=7,
        idle_updates=5,
    )
    figures = parse_target(OWN).energy
    assert figures is not None
    assert split_energy(operations, 2, figures) == SplitEnergy(
        synaptic_operations_pj=12.5,
        graded_operations_pj=0.0,
        active_updates_pj=28.0,
        idle_updates_pj=10.0,
        spikes_pj=1.0,
        total_pj=51.5,
        basis="measured on a board",
    )


GRADED_FIGURE = 'graded_operation = { pj = 5, source = "data sheet" }'
WITH_GRADED = OWN.replace("active_update", f"{GRADED_FIGURE}\nactive_update")


def test_the_energy_of_graded_operations_by_hand() -> None:
    operations = Operations(spikes=3, graded_operations=6, bias_operations=4, active_updates=7, idle_updates=5)
    assert split_energy(operations, 2, parse_target(OWN).energy) is None
    assert split_energy(operations, 2, None) is None
    found = split_energy(operations, 2, parse_target(WITH_GRADED).energy)
    assert found == SplitEnergy(
        synaptic_operations_pj=5.0,
        graded_operations_pj=15.0,
        active_updates_pj=28.0,
        idle_updates_pj=10.0,
        spikes_pj=0.75,
        total_pj=58.75,
        basis="measured on a board",
    )


@pytest.mark.parametrize("text", [OWN, WITH_GRADED])
def test_the_cost_of_graded_spikes_is_shown(cli, tmp_path: Path, text: str) -> None:
    """By hand in `tests/deploy/test_operations.py`."""
    hidden = graded("a", dense("input", [[3, -2], [1, 4]]))
    network = IntNetwork(signed_input(2), (hidden, graded_read_out(dense("a", [[5, -6]] * 3), bias=300)), 1)
    network = with_bounds(network, {name: found.bound("proved") for name, found in prove(network).items()})
    pixels = as_pixels([[10, -7]])
    np.save(tmp_path / "x.npy", pixels)
    lowered = lower(network, parse_target(text), "graded")
    write(tmp_path / "m.net", lowered, KnownAnswers(pixels, simulate(network, pixels)))
    ended = cli("run-sim", tmp_path / "m.net", "--input", tmp_path / "x.npy", "--cost")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["a", "2", "1.0", "6.0", "0.0", "4.0", "4.0", "0.0", "2.0", "0.0"] in lines
    assert ["total", "5", "3.0", "15.0", "2.0", "13.0", "7.0", "6.0", "5.0", "0.0"] in lines
    assert "1 window step, one sample every 1; the answer stands after 3 steps" in ended.out
    if text == OWN:
        assert ended.out.splitlines()[-1] == (
            "energy: target small-chip has no figure for an operation of a graded spike, and none is published, so "
            "operations only"
        )
    else:
        assert "energy in nJ: synaptic operations 0.0, graded operations 0.0, active updates 0.0" in ended.out


def test_the_published_figures_of_loihi_1() -> None:
    target = find_target("loihi1")
    assert target.energy is not None
    assert target.energy.graded_operation is None
    assert {name: each.pj for name, each in target.energy if name != "basis" and each} == {
        "synaptic_operation": 23.6,
        "active_update": 81,
        "idle_update": 52,
        "spike": 1.7,
    }
    assert target.energy.basis == (
        "lower bound: pre-silicon simulation (SDF and SPICE, 0.75 V), not measured on a chip"
    )
    assert target.step_time is not None
    assert (target.step_time.low_ns, target.step_time.high_ns) == (113, 465)


@pytest.mark.parametrize("name", ["loihi2", "lava"])
def test_no_energy_is_invented(name: str) -> None:
    target: Target = find_target(name)
    assert (target.energy, target.step_time) == (None, None)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("pj = 2.5", "pj = 0", "`energy.synaptic_operation.pj` is 0, allowed: a number above 0, up to 10^9"),
        (
            'spike = { pj = 0.5, source = "data sheet" }',
            "",
            "`energy.spike` is missing, allowed: a table of pj, source",
        ),
        (
            'basis = "measured on a board"',
            "",
            "`energy.basis` is missing, allowed: a text that says how the figures were found",
        ),
        ("low_ns = 100", "low_ns = 301", "`step_time` is from 301 to 300 ns, allowed: from the smaller to the larger"),
    ],
)
def test_what_the_energies_of_a_target_file_may_not_hold(old: str, new: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(OWN.replace(old, new, 1), "own.toml")
    assert str(caught.value) == f"target `own.toml`: {text}"


# --- the report -----------------------------------------------------------


def test_the_report_holds_what_was_counted(own_model: Path) -> None:
    report = nctool.run_sim(own_model, samples=40, cost=True)
    cost = report.cost
    assert cost is not None
    assert (cost.samples, cost.window_steps, cost.flush_steps) == (40, 2, 1)
    assert (cost.latency_steps, cost.period_steps) == (6, 3)
    assert cost.latency_ns == (600, 1800)
    names = ("conv1", "conv2", "fc1")
    assert {name: cost.populations[name].spikes for name in names} == report.spikes_per_layer
    for name in vars(cost.total):
        parts = sum(getattr(each, name) for each in cost.populations.values())
        assert getattr(cost.total, name) == pytest.approx(parts, rel=1e-12), name
    assert cost.total.active_updates + cost.total.idle_updates == pytest.approx(3 * cost.total.neurons, rel=1e-12)
    assert cost.energy is not None
    assert cost.energy.idle_updates_pj == pytest.approx(4 * cost.total.idle_updates, rel=1e-12)
    assert cost.energy.spikes_pj == pytest.approx(0.5 * (cost.total.spikes + cost.total.bias_spikes), rel=1e-12)


def test_engines_give_one_cost_and_writing_the_spikes_changes_none(own_model: Path, tmp_path: Path) -> None:
    fast = nctool.run_sim(own_model, samples=20, cost=True)
    reference = nctool.run_sim(own_model, samples=20, cost=True, engine="reference", output=tmp_path / "spikes.npz")
    assert fast.cost == reference.cost
    with np.load(tmp_path / "spikes.npz") as content:
        assert content["spikes/conv1"].sum() / 20 == reference.spikes_per_layer["conv1"]


@pytest.mark.lava
def test_lava_gives_the_same_cost(own_model: Path) -> None:
    assert nctool.run_sim(own_model, samples=3, cost=True, engine="lava").cost == (
        nctool.run_sim(own_model, samples=3, cost=True).cost
    )


def test_nothing_is_counted_unasked(digits_model: Path) -> None:
    assert nctool.run_sim(digits_model, samples=2).to_json()["cost"] is None


def test_the_table(cli, own_model: Path) -> None:
    ended = cli("run-sim", own_model, "--samples", 5, "--cost")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    start = lines.index("cost of a sample for small-chip, autapse: means over 5 samples")
    assert [line.split()[0] for line in lines[start + 3 : start + 9]] == [
        "input",
        "conv1",
        "conv2",
        "fc1",
        "fc2",
        "total",
    ]
    assert lines[start + 9] == (
        "2 window and 1 flush steps, one sample every 3; the answer stands after 6 steps, which take at least "
        "600..1,800 ns"
    )
    assert lines[start + 10].startswith("energy in nJ: synaptic operations ")
    assert lines[start + 11] == "these figures: measured on a board"


def test_targets_are_listed_with_their_figures(cli) -> None:
    lines = [line.split() for line in cli("targets").out.splitlines()]
    assert ["energy:", "spike", "not", "known", "1.7", "pJ", "not", "known"] in lines
    assert ["energy:", "graded", "operation", *["not", "known"] * 3] in lines
    assert ["time", "of", "a", "step,", "at", "least", "not", "known", "113..465", "ns", "not", "known"] in lines


def test_a_target_without_figures_gets_operations_only(cli, digits_model: Path) -> None:
    ended = cli("run-sim", digits_model, "--samples", 5, "--cost")
    assert ended.out.splitlines()[-1] == "energy: target loihi2 has no published figures, so operations only"
    found = cli("run-sim", digits_model, "--samples", 5, "--cost", "--json").json["cost"]
    assert (found["energy"], found["latency_ns"]) == (None, None)
    assert list(found["populations"]) == ["input", *(p.name for p in read(digits_model).network.populations)]


def test_a_file_of_another_tool_is_refused(tmp_path: Path) -> None:
    Draft([dense_layer([[9, -5, 7], [3, 8, -6]])]).write(tmp_path / "other.net")
    np.save(tmp_path / "x.npy", np.ones((3, 20, 3), np.int8))
    with pytest.raises(UnsupportedError) as caught:
        nctool.run_sim(tmp_path / "other.net", input=tmp_path / "x.npy", cost=True)
    assert str(caught.value) == (
        "cost: the file is netx of another tool, allowed one that nctool exported\n"
        "hint: leave cost=True out: spikes per layer are reported all the same"
    )


def test_several_workers_are_refused(digits_model: Path) -> None:
    with pytest.raises(UsageError) as caught:
        nctool.run_sim(digits_model, workers=2, cost=True)
    assert str(caught.value) == "cost: counted by one process, allowed one worker\nhint: leave workers out"
