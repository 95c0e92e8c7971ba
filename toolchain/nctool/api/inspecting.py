"""inspect: what an exported file holds.

In: a file. Out: an InspectReport.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nctool.api.exporting import head_room_bits
from nctool.arguments import public
from nctool.exporting.utilisation import Utilisation, utilisation
from nctool.ir.network import CurrentBased, IntArray, IntNetwork, Population, Readout, Synapse
from nctool.running.checkpoints import ModelPath
from nctool.running.model_file import open_model
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.lowering import lower
from nctool_deploy.netx import KnownAnswers, Metadata
from nctool_deploy.pipeline import delays, depths

Interval = tuple[int, int]


@dataclass(frozen=True)
class BranchReport:
    """One synapse of a population.

    Args:
        source: what it reads: `input` or a population.
        kind: `dense` or `conv`.
        synapses: its connections; a shared kernel counts each of its uses.
        weight_range: smallest and largest weight.
        exponent: what it gives is multiplied by 2**exponent.
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
    """One population: shape, size, ranges of its integers, bound, head-room, and the cores that hold some of it."""

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


@dataclass(frozen=True)
class InspectReport:
    """A file at a glance: layers first, then what it was made from and for.

    `input_shape` is that of a sample, `input_range` that of its signal, `input_coding` `graded` or `rate`.
    Of a netx file of another tool, input coding, target, realisation, cores, chips, utilisation, head-room and weight
    bits are None, and `notes` says where Lava runs something else than the file says.
    """

    path: Path
    input_shape: tuple[int, ...]
    input_range: Interval
    layers: tuple[LayerReport, ...]
    neurons: int
    synapses: int
    steps: int
    input_coding: str | None = None
    cores: int | None = None
    chips: int | None = None
    utilisation: Utilisation | None = None
    head_room_bits: float | None = None
    target: str | None = None
    realisation: str | None = None
    weight_bits: int | None = None
    known_answers: int = 0
    tool_version: str | None = None
    provenance: dict[str, Any] | None = None
    changes: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self) | {"path": str(self.path)}


@public
def inspect(model: ModelPath) -> InspectReport:
    """Read a file and describe it.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is bad.
        UnsupportedError: a foreign file holds what cannot be simulated.
    """
    path = Path(model)
    content = open_model(path, ForeignOptions())
    network = content.network
    layers = tuple(_layer(network, population) for population in network.populations)
    report = InspectReport(
        path=path,
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
    lowered, depth = lower(network, metadata.chip, metadata.realisation, chips=None), depths(network)
    return replace(
        report,
        layers=tuple(
            _on_cores(layer, delays(population, depth), lowered.mapping.cores_of(layer.name))
            for layer, population in zip(report.layers, network.populations, strict=True)
        ),
        input_coding=network.pixel_input.coding,
        cores=lowered.cores,
        chips=lowered.mapping.chips,
        utilisation=utilisation(lowered.mapping),
        head_room_bits=head_room_bits(network),
        target=metadata.target,
        realisation=metadata.realisation,
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
        threshold_range=None if isinstance(neuron, Readout) else _interval(np.asarray(neuron.threshold)),
        bound="unknown" if bound is None else bound.kind,
        bound_range=None if bound is None else (bound.low, bound.high),
        head_room_bits=None if bound is None else bound.head_room_bits,
        branches=tuple(_branch(population, synapse) for synapse in population.synapses),
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
    if isinstance(neuron, CurrentBased):
        return f"{kind}, CUBA {_decay(neuron.current_decay)}/{_decay(neuron.voltage_decay)}"
    return kind


def _decay(values: IntArray) -> str:
    low, high = _interval(values)
    return str(low) if low == high else f"{low}..{high}"


def _interval(values: Any) -> Interval:
    return int(values.min()), int(values.max())
