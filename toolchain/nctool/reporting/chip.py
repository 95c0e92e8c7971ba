"""What a page shows of the chip: cores and what fills them, operations and energy of a sample by cause.

In: a Subject, the cost that was counted. Out: elements. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nctool.errors import NctoolError
from nctool.exporting.utilisation import Utilisation, utilisation
from nctool.figures.page_charts import CORES_A_ROW
from nctool.reporting.elements import WHOLE, Columns, Element, Figure, LeftOut, Table, Variant
from nctool.reporting.measuring import Activity
from nctool.reporting.subjects import Subject
from nctool.reporting.texts import counted, listed, rounded
from nctool_deploy.cost.report import CostReport, SplitEnergy
from nctool_deploy.lowering import lower
from nctool_deploy.targets.target import Energy, Target

MOST_CORES = 960
"""Cores that a map shows: the first ones."""

CAUSES = (
    ("synaptic operations", "synaptic_operations"),
    ("active updates", "active_updates"),
    ("idle updates", "idle_updates"),
    ("spikes", "spikes"),
)
ENERGIES = (
    ("synaptic operations", "synaptic_operations_pj", "synaptic_operation"),
    ("graded operations", "graded_operations_pj", "graded_operation"),
    ("active updates", "active_updates_pj", "active_update"),
    ("idle updates", "idle_updates_pj", "idle_update"),
    ("spikes", "spikes_pj", "spike"),
)


@dataclass(frozen=True)
class Size:
    """What a network takes of its chip.

    Args:
        cores, chips: 0 where the target limits no core.
        filled: of each core; None where there is no mapping.
        why_not: there is none.
    """

    cores: int = 0
    chips: int = 0
    filled: Utilisation | None = None
    why_not: str = ""


def size_of(subject: Subject) -> Size:
    """Return what the network takes of the chip that it was exported for."""
    metadata = subject.metadata
    if subject.content is None or metadata is None:
        return Size(
            why_not="a netx file of another tool is not placed on cores" if subject.content else "nothing was exported"
        )
    try:
        mapping = lower(subject.content.network, metadata.chip, metadata.backend, chips=None).mapping
    except NctoolError as error:
        return Size(why_not=error.message)
    if not mapping.cores:
        return Size(why_not=f"target `{metadata.target}` does not limit a core: everything fits anywhere")
    return Size(len(mapping.cores), mapping.chips, utilisation(mapping))


def cores(size: Size, target: Target | None) -> Iterator[Element]:
    """Yield the map of cores, by layer and by the resource that is nearest to its limit."""
    if size.filled is None or target is None:
        yield LeftOut("Cores", size.why_not)
        return
    columns, fullest = _map(size.filled, target)
    full = ", ".join(f"{name.replace('_', ' ')} {part:.0%}" for name, part in size.filled.fullest.items())
    more = f" The first {MOST_CORES:,} are shown." if size.cores > MOST_CORES else ""
    text = f"{counted(size.cores, 'core')} on {counted(size.chips, 'chip')}; the most that a core uses: {full}.{more}"
    table = {"core": "core", "chip": "chip", "holds": "holds", "resource": "nearest to its limit", "percent": "full"}
    strong = "The stronger the colour, the nearer to its limit."
    by_layer = Variant(f"{text} Coloured by the layer with most neurons there. {strong}", columns)
    yield Figure("cores_by_layer", "Cores by layer", table, {WHOLE: by_layer})
    nearest = ", ".join(f"{name} in {counted(count, 'core')}" for name, count in fullest.items())
    text = f"Coloured by what is nearest to its limit: {nearest}. {strong}"
    yield Figure("cores_by_resource", "Cores by what fills them", table, {WHOLE: Variant(text, columns)})


def _map(filled: Utilisation, target: Target) -> tuple[Columns, dict[str, int]]:
    """Return a row for each core, and how many cores have least of each resource."""
    limited = {name: limit for name, limit in filled.capacity.items() if limit is not None}
    a_chip = target.limits.cores_per_chip.value if target.limits.cores_per_chip else len(filled.slices)
    rows, fullest = [], dict[str, int]()
    for core, slices in enumerate(filled.slices):
        parts = {name.replace("_", " "): filled.used[name][core] / limit for name, limit in limited.items()}
        resource = max(parts, key=parts.__getitem__)
        fullest[resource] = fullest.get(resource, 0) + 1
        neurons = {name: stop - start for name, start, stop in slices}
        layer, (chip, place) = max(neurons, key=neurons.__getitem__), divmod(core, a_chip)
        holds = listed([f"{name} {count:,}" for name, count in neurons.items()], 3)
        line, column = divmod(place, CORES_A_ROW)
        name = f"chip {chip + 1}" if line == 0 else f"core {line * CORES_A_ROW}, chip {chip + 1}"
        full = parts[resource]
        rows.append((core, chip + 1, column, name, layer, resource, full, f"{full:.0%}", holds))
    fields = ("core", "chip", "column", "row", "layer", "resource", "full", "percent", "holds")
    return dict(zip(fields, zip(*rows[:MOST_CORES], strict=True), strict=True)), fullest


# --- cost -------------------------------------------------------------------------------------------------------------


def cost(activity: Activity | None, target: Target | None) -> Iterator[Element]:
    """Yield operations and energy by cause, and where the figures are from."""
    if activity is None or activity.cost is None:
        yield LeftOut(
            "Cost of a sample", (activity.no_cost if activity else "") or "the network was not run on this page"
        )
        return
    yield _operations(activity.cost)
    if activity.cost.energy is None or target is None or target.energy is None:
        yield LeftOut("Energy", _no_energy(activity.cost))
        return
    yield _energy(activity.cost.energy)
    yield _figures(target.energy)


def _operations(found: CostReport) -> Element:
    rows = [
        (layer, cause, getattr(population, name))
        for cause, name in CAUSES
        for layer, population in found.populations.items()
        if getattr(population, name)
    ]
    total = found.total
    text = (
        f"Counted, means over {counted(found.samples, 'sample')}: {total.synaptic_operations:,.0f} synaptic "
        f"operations, {total.active_updates:,.0f} active and {total.idle_updates:,.0f} idle updates, "
        f"{total.spikes:,.0f} spikes. The answer stands after {counted(found.latency_steps, 'step')}, a sample can "
        f"start every {found.period_steps}."
    )
    layers, causes, values = zip(*rows, strict=True)
    table = {"layer": "layer", "part": "cause", "value": "operations a sample"}
    columns = {"layer": layers, "part": causes, "value": values}
    return Figure("operations", "Operations of a sample by layer and cause", table, {WHOLE: Variant(text, columns)})


def _no_energy(found: CostReport) -> str:
    if found.total.graded_operations:
        return f"target `{found.target}` has no figure for an operation of a graded spike, and none is published"
    return f"target `{found.target}` has no published figures, and none are invented"


def _energy(energy: SplitEnergy) -> Element:
    parts = [(cause, getattr(energy, name) / 1000) for cause, name, _ in ENERGIES if getattr(energy, name)]
    causes, values = zip(*parts, strict=True)
    text = f"{energy.total_pj / 1000:,.1f} nJ in all, of counted operations times published figures: {energy.basis}."
    columns = {"layer": causes, "value": values}
    return Figure(
        "energy", "Energy of a sample by cause, nJ", {"layer": "cause", "value": "nJ"}, {WHOLE: Variant(text, columns)}
    )


def _figures(energy: Energy) -> Element:
    known = [(cause, getattr(energy, figure)) for cause, _, figure in ENERGIES]
    rows = [[cause, f"{figure.pj:g} pJ", figure.source] for cause, figure in known if figure is not None]
    return Table("Where the figures are from", ["operation", "energy", "source"], rows, is_folded=True)


def cost_number(activity: Activity | None) -> tuple[str, str]:
    """Return what a sample costs in a few signs, and what that is."""
    if activity is None or activity.cost is None:
        return "not known", (activity.no_cost if activity else "") or "not run on this page"
    energy, total = activity.cost.energy, activity.cost.total
    operations = f"{rounded(total.synaptic_operations)} synaptic operations"
    if energy is None:
        return f"{rounded(total.synaptic_operations)} operations", "synaptic, counted; no energy is published"
    return (
        f"{rounded(energy.total_pj / 1000)} nJ",
        f"{operations}; a lower bound" if "lower bound" in energy.basis else operations,
    )
