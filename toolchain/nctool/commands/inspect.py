"""inspect: what an exported file holds.

In: a file. Out: an InspectReport.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import Model
from nctool.commands.tables import counted, print_changes, print_cores, print_line, print_rows, span
from nctool.ir.network import CurrentBased, GradedReLU, IntArray, IntNetwork, Population, Readout, Synapse
from nctool.reports import Report
from nctool_deploy.foreign import ForeignOptions

if TYPE_CHECKING:
    from nctool.exporting.utilisation import Utilisation
    from nctool_deploy.netx import KnownAnswers, Metadata

Interval = tuple[int, int]


@dataclass(frozen=True)
class BranchReport:
    """One synapse of a population.

    Args:
        source: what it reads, `input` or the name of a population.
        kind: `dense` or `conv`.
        synapses: its connections; a shared kernel counts each of its uses.
        weight_range: smallest and largest weight.
        exponent: its sums are multiplied by 2**exponent.
        delay: time steps that it waits in a pipeline (rule R7); None for a file of another tool.
    """

    source: str
    kind: str
    synapses: int
    weight_range: Interval
    exponent: int
    delay: int | None = None


@dataclass(frozen=True)
class LayerReport:
    """One population: shape, size, ranges of its integers, bound, head-room, and the cores that hold some of it.

    `payload_bits` is what the largest number needs that its graded spikes may carry by the bound; None where there are
    no such spikes, or no bound.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    neurons: int
    synapses: int
    weight_range: Interval | None
    bias_range: Interval
    threshold_range: Interval | None
    bound: str
    bound_range: Interval | None
    head_room_bits: float | None
    branches: tuple[BranchReport, ...]
    cores: int | None = None
    payload_bits: int | None = None


@dataclass(frozen=True)
class InspectReport(Report):
    """A file at a glance: layers first, then what it was made from and for.

    `input_shape` is that of a sample, `input_range` that of its signal, `input_encoding` `graded` or `rate`.
    Of a netx file of another tool, input encoding, target, backend, cores, chips, utilisation, head-room and weight
    bits are None, and `notes` says where Lava runs something else than the file says.
    """

    path: Path
    input_shape: tuple[int, ...]
    input_range: Interval
    layers: tuple[LayerReport, ...]
    neurons: int
    synapses: int
    steps: int
    input_encoding: str | None = None
    cores: int | None = None
    chips: int | None = None
    utilisation: Utilisation | None = None
    head_room_bits: float | None = None
    target: str | None = None
    backend: str | None = None
    weight_bits: int | None = None
    known_answers: int = 0
    tool_version: str | None = None
    provenance: dict[str, Any] | None = None
    changes: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


@public
def inspect(model: Model) -> InspectReport:
    """Show the layers, ranges, head-room and provenance of an exported file.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is bad.
        UnsupportedError: a foreign file holds what cannot be simulated.
    """
    from nctool.running.model_file import model_path, open_model

    content = open_model(model_path(model), ForeignOptions())
    network = content.network
    layers = tuple(_layer(network, population) for population in network.populations)
    report = InspectReport(
        path=Path(model),
        input_shape=network.input.sample_shape,
        input_range=network.input_range,
        layers=layers,
        neurons=sum(layer.neurons for layer in layers),
        synapses=sum(layer.synapses for layer in layers),
        steps=network.n_steps,
        notes=content.notes,
    )
    return report if content.metadata is None else _exported(report, network, content.metadata, content.known_answers)


def _exported(
    report: InspectReport, network: IntNetwork, metadata: Metadata, answers: KnownAnswers | None
) -> InspectReport:
    """Add what only a file that nctool exported says."""
    from nctool.exporting.utilisation import tightest, utilisation
    from nctool_deploy.lowering import lower
    from nctool_deploy.pipeline import delays, depths

    lowered, depth = lower(network, metadata.chip, metadata.backend, chips=None), depths(network)
    return replace(
        report,
        layers=tuple(
            _on_cores(layer, delays(population, depth), lowered.mapping.cores_of(layer.name))
            for layer, population in zip(report.layers, network.populations, strict=True)
        ),
        input_encoding=network.pixel_input.encoding,
        cores=lowered.cores,
        chips=lowered.mapping.chips,
        utilisation=utilisation(lowered.mapping),
        head_room_bits=tightest(network)[0],
        target=metadata.target,
        backend=metadata.backend,
        weight_bits=metadata.weight_bits,
        known_answers=0 if answers is None else len(answers.pixels),
        tool_version=metadata.tool_version,
        provenance=metadata.provenance.model_dump(mode="json") if metadata.provenance else None,
        changes=tuple(asdict(change) for change in metadata.changes),
    )


def _layer(network: IntNetwork, population: Population) -> LayerReport:
    neuron, bound = population.neuron, population.bound
    return LayerReport(
        name=population.name,
        kind=_kind(population),
        shape=population.shape,
        neurons=population.n_neurons,
        synapses=network.synapse_count(population),
        weight_range=_weight_range(population),
        bias_range=_interval(population.bias),
        threshold_range=None if isinstance(neuron, Readout | GradedReLU) else _interval(np.asarray(neuron.threshold)),
        bound="unknown" if bound is None else bound.kind,
        bound_range=None if bound is None else (bound.low, bound.high),
        head_room_bits=population.head_room_bits,
        branches=tuple(_branch(population, synapse) for synapse in population.synapses),
        payload_bits=bound.high.bit_length() if bound and isinstance(neuron, GradedReLU) else None,
    )


def _branch(population: Population, synapse: Synapse) -> BranchReport:
    return BranchReport(
        source=synapse.source,
        kind=_weights_kind(synapse),
        synapses=population.n_neurons * math.prod(synapse.weight.shape[1:]),
        weight_range=_interval(synapse.weight),
        exponent=synapse.exponent,
    )


def _on_cores(layer: LayerReport, waits: tuple[int, ...], cores: int) -> LayerReport:
    """Add the delay of each branch and how many cores hold some of the layer."""
    branches = tuple(replace(branch, delay=delay) for branch, delay in zip(layer.branches, waits, strict=True))
    return replace(layer, branches=branches, cores=cores)


def _weight_range(population: Population) -> Interval | None:
    """Return the smallest and largest weight of all branches; None where there is none."""
    ranges = [_interval(synapse.weight) for synapse in population.synapses]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None


def _weights_kind(synapse: Synapse) -> str:
    return "dense" if synapse.conv is None else "conv"


def _kind(population: Population) -> str:
    """Return the kind of synapse, and of neuron where it is no plain integrate-and-fire one."""
    neuron = population.neuron
    kind = _weights_kind(population.synapses[0]) if population.synapses else "bias"
    if isinstance(neuron, Readout):
        return f"{kind}, readout"
    if population.is_maximum:
        return f"{kind}, maximum"
    if isinstance(neuron, GradedReLU):
        return f"{kind}, graded"
    if isinstance(neuron, CurrentBased):
        return f"{kind}, CUBA {_decay(neuron.current_decay)}/{_decay(neuron.voltage_decay)}"
    return kind


def _decay(values: IntArray) -> str:
    low, high = _interval(values)
    return str(low) if low == high else f"{low}..{high}"


def _interval(values: Any) -> Interval:
    return int(values.min()), int(values.max())


# --- for people -------------------------------------------------------------------------------------------------------

COLUMNS = [
    *("layer", "kind", "shape", "neurons", "synapses", "weights", "thresholds", "payload", "head-room", "bound"),
    "cores",
]


def print_inspect(report: InspectReport) -> None:
    """Show the layers of a file and where it came from."""
    shape = "x".join(map(str, report.input_shape))
    signal = span(report.input_range)
    rows = [["input", report.input_encoding or "integers", shape, "", "", signal, *[""] * (len(COLUMNS) - 6)]]
    for layer in report.layers:
        rows.append(_layer_row(layer))
        rows += [_branch_row(branch) for branch in layer.branches if len(layer.branches) > 1]
    is_graded = any(layer.payload_bits is not None for layer in report.layers)
    kept = [n for n, name in enumerate(COLUMNS) if name != ("thresholds" if is_graded else "payload")]
    print_rows(str(report.path), [COLUMNS[n] for n in kept], [[row[n] for n in kept] for row in rows])
    if report.changes:
        print_changes("conversion", report.changes)
    for note in report.notes:
        print_line(f"NOTE: {note}")
    if report.target is None:
        print_line(f"netx file of another tool, T={report.steps}; CUBA decays are current/voltage, in parts of 4096")
    else:
        _print_origin(report)


def _layer_row(layer: LayerReport) -> list[str]:
    shift = _shift(layer.branches[0]) if len(layer.branches) == 1 else ""
    return [
        layer.name,
        layer.kind,
        "x".join(map(str, layer.shape)),
        f"{layer.neurons:,}",
        f"{layer.synapses:,}",
        span(layer.weight_range) + shift,
        span(layer.threshold_range),
        "" if layer.payload_bits is None else counted(layer.payload_bits, "bit"),
        "" if layer.head_room_bits is None else f"{layer.head_room_bits:.2f} bits",
        layer.bound or "",
        str(layer.cores or ""),
    ]


def _branch_row(branch: BranchReport) -> list[str]:
    kind = f"{branch.kind}, delay {branch.delay}" if branch.delay else branch.kind
    weights = span(branch.weight_range) + _shift(branch)
    return [f"+ {branch.source}", kind, "", "", f"{branch.synapses:,}", weights, *[""] * (len(COLUMNS) - 6)]


def _shift(branch: BranchReport) -> str:
    """Return what the exponent makes of the weighted sum: a multiple, or one shifted to the right."""
    if branch.exponent < 0:
        return f" >> {-branch.exponent}"
    return f" x {2**branch.exponent}" if branch.exponent else ""


def _print_origin(report: InspectReport) -> None:
    """Show what only a file that nctool exported says."""
    if report.cores and report.chips and report.utilisation:
        if sum(layer.cores or 0 for layer in report.layers) > report.cores:
            print_line("cores: of a layer, those that hold some of it; small layers share one")
        print_cores(report.cores, report.chips, report.utilisation)
    print_line(
        f"target {report.target}, backend {report.backend}, T={report.steps}, "
        f"{report.weight_bits}-bit weights, {report.known_answers} known answers, nctool {report.tool_version}"
    )
    known = {key: value for key, value in (report.provenance or {}).items() if value != []}
    for key, value in known.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print_line(f"{key}: {shown}")


COMMAND = Command(inspect, print_inspect)
