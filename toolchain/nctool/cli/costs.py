"""Print what a run showed, and what a sample costs on the chip.

In: a RunReport. Out: text on stdout. Must not import torch or Lava.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nctool.cli import output
from nctool.cli.tables import counted, print_line, print_rows

if TYPE_CHECKING:
    from nctool.api import RunReport
    from nctool_deploy.cost.report import CostReport, PopulationCost, SplitEnergy

COLUMNS = [
    *("layer", "neurons", "spikes", "bias spikes", "synaptic operations", "of autapses", "of biases"),
    *("active updates", "idle updates"),
]


def print_run(report: RunReport) -> None:
    """Show what the run showed, and the cost where it was asked for."""
    output.print_run(report)
    if report.cost is not None:
        _print_cost(report.cost)


def _print_cost(cost: CostReport) -> None:
    rows = [_row(name, each) for name, each in cost.populations.items()]
    title = f"cost of a sample for {cost.target}, {cost.realisation}: means over {counted(cost.samples, 'sample')}"
    print_rows(title, COLUMNS, [*rows, _row("total", cost.total)])
    window = counted(cost.window_steps, "window step")
    if cost.flush_steps:
        window = f"{cost.window_steps} window and {cost.flush_steps} flush steps"
    print_line(
        f"{window}, one sample every {cost.period_steps}; "
        f"the answer stands after {counted(cost.latency_steps, 'step')}{_time(cost.latency_ns)}"
    )
    if cost.energy is None:
        print_line(f"energy: target {cost.target} has no published figures, so operations only")
    else:
        _print_energy(cost.energy)


def _row(name: str, cost: PopulationCost) -> list[str]:
    counts = (
        cost.spikes,
        cost.bias_spikes,
        cost.synaptic_operations,
        cost.autapse_operations,
        cost.bias_operations,
        cost.active_updates,
        cost.idle_updates,
    )
    return [name, f"{cost.neurons:,}", *(f"{count:,.1f}" for count in counts)]


def _time(latency_ns: tuple[float, float] | None) -> str:
    return "" if latency_ns is None else f", which take at least {latency_ns[0]:,.0f}..{latency_ns[1]:,.0f} ns"


def _print_energy(energy: SplitEnergy) -> None:
    causes = {
        "synaptic operations": energy.synaptic_operations_pj,
        "active updates": energy.active_updates_pj,
        "idle updates": energy.idle_updates_pj,
        "spikes": energy.spikes_pj,
    }
    parts = ", ".join(f"{name} {pj / 1000:,.1f}" for name, pj in causes.items())
    print_line(f"energy in nJ: {parts}; together {energy.total_pj / 1000:,.1f}")
    print_line(f"these figures: {energy.basis}")
