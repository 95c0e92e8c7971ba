"""inspect: what an exported file holds.

In: a file. Out: an InspectReport.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nctool.api.exporting import head_room_bits
from nctool.network import IntegrateFire, IntNetwork, Population
from nctool_deploy.lowering import lower
from nctool_deploy.netx import read
from nctool_deploy.targets import find_target

Interval = tuple[int, int]


@dataclass(frozen=True)
class LayerReport:
    """One population: shape, size, ranges of its integers, bound and head-room."""

    name: str
    kind: str
    shape: tuple[int, ...]
    neurons: int
    synapses: int
    weight_range: Interval
    bias_range: Interval
    threshold_range: Interval | None
    bound: str
    bound_range: Interval | None
    head_room_bits: float | None


@dataclass(frozen=True)
class InspectReport:
    """A file at a glance: layers first, then what it was made from and for."""

    path: Path
    input_shape: tuple[int, ...]
    input_range: Interval
    layers: tuple[LayerReport, ...]
    neurons: int
    synapses: int
    cores: int
    head_room_bits: float
    target: str
    realisation: str
    steps: int
    weight_bits: int
    known_answers: int
    tool_version: str
    provenance: dict[str, Any] | None
    changes: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self) | {"path": str(self.path)}


def inspect(model: Path | str) -> InspectReport:
    """Read an exported file and describe it.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is bad.
    """
    content = read(Path(model))
    network, metadata = content.network, content.metadata
    lowered = lower(network, find_target(metadata.target), metadata.realisation)
    layers = tuple(_layer(network, population) for population in network.populations)
    table = network.input.table
    return InspectReport(
        path=Path(model),
        input_shape=network.input.shape,
        input_range=(int(table.min()), int(table.max())),
        layers=layers,
        neurons=sum(layer.neurons for layer in layers),
        synapses=sum(layer.synapses for layer in layers),
        cores=lowered.cores,
        head_room_bits=head_room_bits(network),
        target=metadata.target,
        realisation=metadata.realisation,
        steps=network.n_steps,
        weight_bits=metadata.weight_bits,
        known_answers=len(content.known_answers.pixels),
        tool_version=metadata.tool_version,
        provenance=metadata.provenance.model_dump(mode="json") if metadata.provenance else None,
        changes=tuple(change.model_dump(mode="json") for change in metadata.changes),
    )


def _layer(network: IntNetwork, population: Population) -> LayerReport:
    synapse, neuron, bound = population.synapses[0], population.neuron, population.bound
    kind = "dense" if synapse.conv is None else "conv"
    return LayerReport(
        name=population.name,
        kind=kind if isinstance(neuron, IntegrateFire) else f"{kind}, readout",
        shape=population.shape,
        neurons=population.n_neurons,
        synapses=network.synapse_count(population),
        weight_range=_interval(synapse.weight),
        bias_range=_interval(population.bias),
        threshold_range=_interval(neuron.threshold) if isinstance(neuron, IntegrateFire) else None,
        bound="unknown" if bound is None else bound.kind,
        bound_range=None if bound is None else (bound.low, bound.high),
        head_room_bits=None if bound is None else bound.head_room_bits,
    )


def _interval(values: Any) -> Interval:
    return int(values.min()), int(values.max())
