"""`--replicas auto`: neurons go where they take most error away, and never beyond the budget."""

from __future__ import annotations

import pytest

from nctool import export
from nctool.errors import NctoolError, RangeError, UsageError
from nctool.exporting.replica_search import Budget, Trial, spend
from nctool_deploy.netx import read

SIZES = {"a": 100, "b": 10, "c": 10}


def measured(gains: dict[str, float]):
    """Return a measure in which each doubling of a layer halves its share of the error, and what it was asked."""
    asked = []

    def measure(replicas) -> Trial:
        each = dict.fromkeys(SIZES, replicas) if isinstance(replicas, int) else replicas
        asked.append(each)
        neurons = sum(SIZES[name] * number for name, number in each.items())
        return Trial(each, neurons, neurons // 50, sum(gains[name] / number for name, number in each.items()))

    return measure, asked


def test_the_cheapest_error_goes_first():
    measure, _ = measured({"a": 1.0, "b": 0.2, "c": 0.01})
    assert spend(measure, Budget(max_neurons=130), most=4).replicas == {"a": 1, "b": 2, "c": 1}
    assert spend(measure, Budget(max_neurons=240), most=2).replicas == {"a": 2, "b": 2, "c": 2}


def test_no_layer_gets_more_than_allowed():
    measure, asked = measured({"a": 1.0, "b": 1.0, "c": 1.0})
    assert spend(measure, Budget(max_neurons=10**6), most=4).replicas == {"a": 4, "b": 4, "c": 4}
    assert max(max(replicas.values()) for replicas in asked) == 4


def test_what_does_not_help_is_not_bought():
    measure, _ = measured({"a": 0.0, "b": 1.0, "c": 0.0})
    assert spend(measure, Budget(max_neurons=10**6), most=4).replicas == {"a": 1, "b": 4, "c": 1}


def test_both_limits_hold():
    measure, _ = measured({"a": 1.0, "b": 1.0, "c": 1.0})
    found = spend(measure, Budget(max_neurons=10**6, max_cores=3), most=8)
    assert found.cores <= 3
    assert found.neurons > 120


def test_progress_is_what_is_spent_of_the_scarcer():
    measure, _ = measured({"a": 1.0, "b": 1.0, "c": 1.0})
    seen: list[tuple[int, int]] = []
    spend(
        measure,
        Budget(max_neurons=150, max_cores=100),
        most=8,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert seen[0] == (120, 150)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(max_neurons=119), "replicas: one for each activation takes 120 neurons, allowed 119"),
        (Budget(max_cores=1), "replicas: one for each activation takes 2 cores, allowed 1"),
    ],
)
def test_a_budget_that_is_too_small(budget, text):
    measure, _ = measured({"a": 1.0, "b": 1.0, "c": 1.0})
    with pytest.raises(RangeError) as caught:
        spend(measure, budget, most=4)
    assert str(caught.value) == f"{text}\nhint: give a larger budget"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"replicas": "auto"}, "replicas: `auto` needs a budget\nhint: give max_cores=N or max_neurons=N"),
        ({"replicas": "auto", "max_cores": 0}, "max_cores: 0 is out of range, allowed >= 1"),
        (
            {"replicas": "auto", "max_cores": 3, "max_neurons": 5000, "target": "lava"},
            "max_cores: target `lava` does not limit a core, so no network takes any\n"
            'hint: give max_neurons=N, or target="loihi2"',
        ),
        ({"replicas": 2, "max_cores": 3}, 'max_neurons and max_cores: allowed with replicas="auto" only'),
    ],
)
def test_budgets_that_are_refused(digits_run, tmp_path, options, text):
    with pytest.raises(UsageError) as caught:
        export(digits_run, tmp_path / "m.net", **options)
    assert str(caught.value) == text
    assert not list(tmp_path.iterdir())


def test_a_trained_network_within_a_budget(digits_run, tmp_path):
    report = export(digits_run, tmp_path / "m.net", target="loihi", steps=1, replicas="auto", max_neurons=4500)
    assert report.neurons <= 4500
    assert max(report.replicas.values()) > 1
    network = read(tmp_path / "m.net").network
    assert sum(population.n_neurons for population in network.populations) == report.neurons
    again = export(digits_run, tmp_path / "n.net", target="loihi", steps=1, replicas=report.replicas)
    assert again.replicas == report.replicas
    assert (tmp_path / "m.net").read_bytes() == (tmp_path / "n.net").read_bytes()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"backend": "zero-reset", "replicas": 2},
            "replicas: 2 for `conv1`, neurons that a spike sets to zero allow 1: they all start at 0, replicas "
            'differ in where they start\nhint: use backend="autapse", or population',
        ),
        (
            {"backend": "zero-reset", "replicas": "auto", "max_neurons": 99999},
            "replicas: 2 for `conv1`, neurons that a spike sets to zero allow 1: they all start at 0, replicas "
            'differ in where they start\nhint: use backend="autapse", or population',
        ),
        (
            {"backend": "population", "steps": 2},
            'steps: 2, backend `population` allows 1\nhint: leave out steps, or use backend="autapse"',
        ),
    ],
)
def test_designs_that_are_refused(digits_run, tmp_path, options, text):
    with pytest.raises(NctoolError) as caught:
        export(digits_run, tmp_path / "m.net", **options)
    assert str(caught.value) == text
