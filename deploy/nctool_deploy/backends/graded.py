"""Graded spikes: a ReLU network in one time step, one neuron for each activation.

The stock neuron GradedReluVec has no memory: it sends the sum of what arrives in a step, where that is positive. A
synapse shifts what it carries by its exponent, of either sign, before the sum. A bias comes through synapses from
always-on sources, as that of the autapse does. See docs/SEMANTICS.md, rules G1 to G9.

In: populations of a graded IntNetwork. Out: register values, or every reason why there are none. Must not import torch
or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nctool.errors import FormatError, RangeError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.bounds import prove_sums
from nctool.ir.network import GradedReadout, GradedReLU, IntNetwork, Population, Readout, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends.bias_sources import BIAS_LIMIT, BiasSource, bias_violations, bias_wirings, split_bias
from nctool_deploy.backends.number_formats import GRADED_SUM, PAYLOAD, SHIFT, NumberFormat
from nctool_deploy.hdf5 import Node
from nctool_deploy.mapping.wiring import Wiring

NEURON_GRADED, NEURON_GRADED_READOUT = "GRADED-RELU", "GRADED-READOUT"
"""Types that a stock netx loader rejects: it knows no graded neurons."""

THRESHOLD_OF_ALL = 0
"""`vth` of GradedReluVec: what is above it is sent."""

LOWER = "use fewer --activation-bits"

GRADED_FORMAT = IntegerFormat(
    weight_bits=8,
    threshold_mantissa_max=1,  # there is none
    threshold_exponent_max=0,
    bias_max=BIAS_LIMIT,
    weight_exponent_max=SHIFT.high,
    weight_exponent_min=SHIFT.low,
    accumulator_max=PAYLOAD.high,
    activation_bits=8,
)
"""The numbers that this backend can hold; conversion rounds to them."""


@dataclass(frozen=True, eq=False)
class GradedRegisters(StructuralEquality):
    """Register values of one population.

    Args:
        threshold: of all neurons; a drive above it is sent.
        bias_sources: always-on sources that add up to the bias (R3); none when every bias is 0.
    """

    threshold: int
    bias_sources: tuple[BiasSource, ...]


class Graded:
    """The backend `graded`; its members are those of `nctool_deploy.backends.backend.Backend`."""

    name: ClassVar[Literal["graded"]] = "graded"
    description: ClassVar = "graded spikes: the ReLU network in one time step, one neuron an activation"
    number_format: ClassVar = GRADED_FORMAT
    exponents: ClassVar[NumberFormat] = SHIFT
    accumulator: ClassVar[NumberFormat] = PAYLOAD
    steps: ClassVar[int | None] = 1
    flush_steps: ClassVar = 0
    stored_weight: ClassVar[type[np.signedinteger[Any]]] = np.int8
    stores_exponents: ClassVar = True

    def default_replicas(self, levels: int) -> int:
        """Return 1: a spike carries the whole activation."""
        return 1

    def explored_windows(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """Return the only window."""
        return (1,)

    def explored_replicas(self, wanted: Sequence[int] | None, levels: int) -> Sequence[int]:
        """Return 1, as `default_replicas`."""
        return (1,)

    def require_graph(self, network: IntNetwork) -> None:
        """Do nothing: populations may have any number of synapses."""

    def prepare(self, network: IntNetwork) -> IntNetwork:
        """Return the network as it is."""
        return network

    def network_violations(self, network: IntNetwork) -> list[RangeError]:
        """Return which sums may leave their registers before they are shifted (O3).

        Where the bound of a drive is proved, those of the sums behind it are proved too. Where it is calibrated, it
        says how large the sum of a single synapse is; those of several are counted in every run.
        """
        is_proved = {p.name for p in network.populations if p.bound is not None and p.bound.kind == "proved"}
        proved = prove_sums(network) if is_proved else {}
        errors: list[RangeError] = []
        for population in network.populations:
            sums = proved[population.name] if population.name in is_proved else _sums_by_bound(population)
            errors += _sum_violations(sums, population)
        return errors

    def synapse_violations(self, synapse: Synapse, largest_message: int, where: str) -> Iterator[RangeError]:
        """Yield nothing: a synapse that Conv cannot hold runs as a sparse matrix."""
        yield from ()

    def violations(self, population: Population) -> list[RangeError]:
        """Return all that keeps `population` from having registers; empty when it has."""
        where = f"population `{population.name}`"
        return list(bias_violations(population.bias, where, f"{LOWER}, which lowers the biases"))

    def registers(self, population: Population) -> GradedRegisters:
        """Return the registers of `population`: a graded ReLU, or a readout, whose drive is read."""
        return GradedRegisters(THRESHOLD_OF_ALL, split_bias(population.bias))

    def wirings(self, population: Population) -> tuple[Wiring, ...]:
        """Return the connections of the bias sources (R3)."""
        return bias_wirings(population.bias)

    def fixed_registers(self, kind: str) -> Mapping[str, int]:
        """Return the threshold: the neuron has no other register."""
        return {"vThMant": THRESHOLD_OF_ALL}

    def neuron_data(self, population: Population) -> Mapping[str, Any]:
        """Return the type."""
        return {"type": NEURON_GRADED_READOUT if isinstance(population.neuron, Readout) else NEURON_GRADED}

    def read_neuron(self, node: Node, channels: int, scale: float | None) -> GradedReLU | GradedReadout:
        """Return the neuron that `neuron_data` wrote."""
        kind = node.text("type")
        if kind == NEURON_GRADED and scale is None:
            return GradedReLU()
        if kind == NEURON_GRADED_READOUT and scale is not None:
            return GradedReadout(scale)
        raise FormatError(
            f"`{node.name}/type` is `{kind}`, allowed {NEURON_GRADED}, or {NEURON_GRADED_READOUT} with a scale"
        )


def _sums_by_bound(population: Population) -> tuple[int, ...]:
    """Return how large the sum of the only synapse may be by the bound of the drive; nothing where there are more."""
    if population.bound is None or len(population.synapses) > 1:
        return ()
    reach = max(population.bound.high, -population.bound.low) + int(np.abs(population.bias).max())
    return ((reach + 1 << -min(population.synapses[0].exponent, 0)) - 1,)


def _sum_violations(sums: Sequence[int], population: Population) -> Iterator[RangeError]:
    for synapse, largest in zip(population.synapses, sums, strict=False):
        if largest > GRADED_SUM.high:
            yield RangeError(
                f"population `{population.name}`: the weighted sum from `{synapse.source}` may reach {largest} before "
                f"it is shifted, allowed {GRADED_SUM.high}",
                hint=f"{LOWER} or fewer --weight-bits",
            )
