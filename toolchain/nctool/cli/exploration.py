"""Print what `explore` found: one line for each setting, and why the others cannot be exported.

In: an ExploreReport. Out: text on stdout. Must not import torch or Lava.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nctool.cli.tables import counted, print_line, print_rows

if TYPE_CHECKING:
    from nctool.api import ExploreReport
    from nctool.api.exploring import ExploreRow, Measured
    from nctool_deploy.cost.report import SplitEnergy

COLUMNS = [
    *("", "realisation", "K", "T", "bits", "accuracy", "latency", "every", "neurons", "cores", "spikes"),
    *("operations", "active", "idle"),
]
OPTIONAL = ("realisation", "cores")
"""Columns that are left out where they say the same in every row; the title says it once."""
CAUSES = ["energy in nJ", "synaptic operations", "active updates", "idle updates", "spikes", "together"]
LEGEND = (
    "* no other is at least as good in accuracy, latency, neurons and operations, and better in one",
    "K units, T steps; latency: steps until the answer stands; every: steps between samples",
    "of a sample, in the mean: spikes, synaptic operations, active and idle neuron updates",
)


def print_explore(report: ExploreReport) -> None:
    """Show the rows, the reasons, what the columns mean, and energies where the target has figures."""
    found = [(row, row.measured) for row in report.rows if row.measured is not None]
    title = f"{report.checkpoint}: {report.dataset}, {counted(report.samples, 'sample')}, target {report.target}"
    rows = [dict(zip(COLUMNS, _cells(row, measured), strict=True)) for row, measured in found]
    columns = [name for name in COLUMNS if name not in OPTIONAL or len({row[name] for row in rows}) > 1]
    for name in OPTIONAL:
        if name not in columns and rows and rows[0][name]:
            title += f", {name} {rows[0][name]}"
    n_keys = columns.index("accuracy")
    print_rows(title, columns, [[row[name] for name in columns] for row in rows], n_keys)
    for row in report.rows:
        if row.refusal is not None:
            print_line(f"not possible: {row.setting}: {row.refusal}")
    for line in LEGEND:
        print_line(line)
    energies = [(row, measured.cost.energy) for row, measured in found if measured.cost.energy is not None]
    if energies:
        title = f"energy of a sample, by cause; {energies[0][1].basis}"
        print_rows(title, CAUSES, [_energy_cells(row, energy) for row, energy in energies])


def _cells(row: ExploreRow, measured: Measured) -> list[str]:
    setting, cost = row.setting, measured.cost
    return [
        "*" if row.pareto else "",
        setting.realisation,
        str(setting.units),
        str(setting.steps),
        str(setting.weight_bits),
        f"{100 * measured.accuracy:.2f} %",
        str(cost.latency_steps),
        str(cost.period_steps),
        f"{measured.neurons:,}",
        f"{measured.cores:,}" if measured.cores else "",
        f"{cost.total.spikes + cost.total.bias_spikes:,.0f}",
        f"{cost.total.synaptic_operations:,.0f}",
        f"{cost.total.active_updates:,.0f}",
        f"{cost.total.idle_updates:,.0f}",
    ]


def _energy_cells(row: ExploreRow, energy: SplitEnergy) -> list[str]:
    causes = (energy.synaptic_operations_pj, energy.active_updates_pj, energy.idle_updates_pj, energy.spikes_pj)
    return [str(row.setting), *(f"{pj / 1000:,.1f}" for pj in (*causes, energy.total_pj))]
