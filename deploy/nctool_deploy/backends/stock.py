"""Backends out of stock netx: what an unmodified lava-dl Network loads and runs.

The stock LIF clears its voltage v at a spike. Its current holds the input of the present step only (current decay
4096). Two networks of such neurons are exact:

* `population`: v has no memory either, so a neuron compares the drive of one step with its threshold. That is a window
  of one time step, in which the replicas of an activation together are the quantised ANN. One register serves the
  thresholds of a population; what a neuron's own distance differs from it lies in its bias.
* `zero-reset`: v integrates, and a spike sets it to zero. It is cleared when a new sample arrives, so it starts at 0.

Lava's Conv counts groups in eight bits: depthwise convolutions of more of them get fewer, and zeros between.

See docs/SEMANTICS.md, rules P1 to P5.

In: an IntNetwork. Out: an equal one in the form that the registers hold, registers, or every reason why there are none.
Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from nctool.errors import FormatError, RangeError, UnsupportedError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.network import INPUT_NAME, Bound, IntArray, IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends.grouping import few_groups
from nctool_deploy.backends.number_formats import (
    BIAS_MANTISSA,
    FULL_DECAY,
    MAY_FIRE_AGAIN,
    STATE,
    SYNAPSE_EXPONENT,
    THRESHOLD,
    NumberFormat,
)
from nctool_deploy.hdf5 import Node
from nctool_deploy.lava.synapses import as_lava_runs, convolution_violations
from nctool_deploy.mapping.wiring import Wiring

NEURON_STOCK = "CUBA"

WITHOUT_MEMORY: Mapping[str, int] = {"iDecay": FULL_DECAY, "vDecay": FULL_DECAY, "refDelay": MAY_FIRE_AGAIN}
"""Registers of a neuron that knows the present step only."""

BIAS_REACH = BIAS_MANTISSA.high + 1
"""The current holds the drive alone: it exceeds the accumulated input by a bias, which may be as large as this."""

POPULATION_FORMAT = IntegerFormat(
    weight_bits=8,
    threshold_mantissa_max=THRESHOLD.high,
    threshold_exponent_max=0,
    bias_max=BIAS_MANTISSA.high,
    accumulator_max=STATE.high - 3 * BIAS_REACH,  # the bias that was, the one that it becomes (P2), and the drive alone
    comparison_max=BIAS_MANTISSA.high,
    comparison_holds_bias=True,
)
ZERO_RESET_FORMAT = IntegerFormat(
    weight_bits=8,
    threshold_mantissa_max=THRESHOLD.high,
    threshold_exponent_max=0,
    bias_max=BIAS_MANTISSA.high,
    accumulator_max=STATE.high - BIAS_REACH,
    reset="zero",
    one_threshold=True,
)


@dataclass(frozen=True, eq=False)
class StockRegisters(StructuralEquality):
    """Register values of one population.

    Args:
        threshold_mantissa: vth, one for the population; out of reach for a readout.
        bias_mantissa: int64 (channels,), added at every step.
    """

    threshold_mantissa: int
    bias_mantissa: IntArray


class StockBackend:
    """What the backends of stock netx share; see `nctool_deploy.backends.backend.Backend` for the members."""

    exponents: ClassVar[NumberFormat] = SYNAPSE_EXPONENT
    accumulator: ClassVar[NumberFormat] = STATE
    flush_steps: ClassVar = 0
    stored_weight: ClassVar[type[np.signedinteger[Any]]] = np.int32  # netx shifts dense weights up in the type it finds
    stores_exponents: ClassVar = False

    def require_graph(self, network: IntNetwork) -> None:
        """Refuse a network whose populations are not one chain from the input to the readout."""
        previous = INPUT_NAME
        for population in network.populations:
            sources = [synapse.source for synapse in population.synapses]
            if sources != [previous]:
                listed = ", ".join(f"`{source}`" for source in sources)
                raise UnsupportedError(
                    f"population `{population.name}`: driven by {listed}, allowed one synapse from `{previous}`",
                    hint="use --backend autapse: stock netx has no skip connections",
                )
            previous = population.name

    def prepare(self, network: IntNetwork) -> IntNetwork:
        """Return the network with as few groups as Conv can count (P5)."""
        return few_groups(network)

    def network_violations(self, network: IntNetwork) -> list[RangeError]:
        """Return nothing: each population stands for itself."""
        return []

    def synapse_violations(self, synapse: Synapse, largest_message: int, where: str) -> Iterator[RangeError]:
        """Yield what Conv cannot hold: it runs every convolution."""
        return convolution_violations(synapse, largest_message, where)

    def violations(self, population: Population) -> list[RangeError]:
        """Return all that keeps `population` from having registers, and a stock loader from keeping its weights."""
        where = f"population `{population.name}`"
        errors = [*_bias_violations(population, where), *_state_violations(population, where)]
        if isinstance(population.neuron, IntegrateFire):
            errors += _neuron_violations(population.neuron, where)
        for synapse in population.synapses:
            errors += _weight_violations(synapse, where)
        return errors

    def registers(self, population: Population) -> StockRegisters:
        """Return the registers of `population`: it fires when v > vth (P1)."""
        neuron = population.neuron
        threshold = int(neuron.threshold[0]) - 1 if isinstance(neuron, IntegrateFire) else THRESHOLD.high
        return StockRegisters(threshold, population.bias)

    def wirings(self, population: Population) -> tuple[Wiring, ...]:
        """Return nothing: the stock neuron needs no other connections."""
        return ()

    def neuron_data(self, population: Population) -> Mapping[str, Any]:
        """Return the type and the threshold register."""
        return {"type": NEURON_STOCK, "vThMant": np.int64(self.registers(population).threshold_mantissa)}

    def read_neuron(self, node: Node, channels: int, scale: float | None) -> IntegrateFire | Readout:
        """Return the neuron that `neuron_data` wrote."""
        kind = node.text("type")
        if kind != NEURON_STOCK:
            raise FormatError(f"`{node.name}/type` is `{kind}`, allowed {NEURON_STOCK}")
        if scale is not None:
            node.require_integers({"vThMant": THRESHOLD.high})
            return Readout(scale)
        threshold = np.full(channels, node.integer("vThMant") + 1, np.int64)
        return IntegrateFire(threshold, np.zeros(channels, np.int64), reset="zero")


class StockPopulation(StockBackend):
    """The backend `population`: the replicas of an activation together are the quantised ANN, in one step."""

    name: ClassVar[Literal["population"]] = "population"
    description: ClassVar = "stock netx: the quantised ANN in one time step, exact"
    number_format: ClassVar = POPULATION_FORMAT
    steps: ClassVar[int | None] = 1

    def default_replicas(self, levels: int) -> int:
        """Return the levels: each replica stands for one."""
        return levels

    def explored_windows(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """Return the only window."""
        return (1,)

    def explored_replicas(self, wanted: Sequence[int] | None, levels: int) -> Sequence[int]:
        """Return the levels."""
        return (levels,)

    def prepare(self, network: IntNetwork) -> IntNetwork:
        """Return a network of the same spikes and logits in a window of one step, with one threshold a population (P2).

        What the threshold of a neuron, its initial potential and its bias make of the distance that its drive has to
        cover moves into the bias, beside a threshold in the middle of all distances.
        """
        compared = tuple(_compared_once(population) for population in network.populations)
        return super().prepare(replace(network, populations=compared))

    def fixed_registers(self, kind: str) -> Mapping[str, int]:
        """Return those of a neuron without memory (P2)."""
        return WITHOUT_MEMORY

    def network_violations(self, network: IntNetwork) -> list[RangeError]:
        """Return what keeps the whole network from being compared once."""
        if network.n_steps == self.steps:
            return []
        return [
            RangeError(
                f"network: a window of {network.n_steps} time steps, neurons without memory allow 1",
                hint="use --steps 1, or --backend autapse",
            )
        ]


class StockZeroReset(StockBackend):
    """The backend `zero-reset`: rate coded over the window, a spike clears the potential."""

    name: ClassVar[Literal["zero-reset"]] = "zero-reset"
    description: ClassVar = "stock netx: reset to zero, rate coded over the window"
    number_format: ClassVar = ZERO_RESET_FORMAT
    steps: ClassVar[int | None] = None

    def default_replicas(self, levels: int) -> int:
        """Return 1: all neurons start at 0, so that several replicas would do the same."""
        return 1

    def explored_windows(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """Return the windows that the user wants, or longer ones: potential is lost at every spike."""
        return wanted or (4, 8)

    def explored_replicas(self, wanted: Sequence[int] | None, levels: int) -> Sequence[int]:
        """Return 1, as `default_replicas`."""
        return (1,)

    def fixed_registers(self, kind: str) -> Mapping[str, int]:
        """Return those of a voltage that keeps everything (P3)."""
        return {**WITHOUT_MEMORY, "vDecay": 0}


# --- the form that the registers hold -------------------------------------


def _compared_once(population: Population) -> Population:
    neuron = population.neuron
    if not isinstance(neuron, IntegrateFire):
        return population
    distance = neuron.threshold.astype(np.int64) - neuron.initial - population.bias
    centre = int(np.clip((int(distance.max()) + int(distance.min())) // 2, 1, BIAS_MANTISSA.high))
    bias, zero = centre - distance, np.zeros_like(distance)
    return replace(
        population,
        neuron=IntegrateFire(np.full_like(distance, centre), zero, reset="zero"),
        bias=bias,
        bound=_moved(population.bound, bias - population.bias),
    )


def _moved(bound: Bound | None, added: IntArray) -> Bound | None:
    """Return the bound of an accumulated input to which every neuron adds one of `added`."""
    if bound is None:
        return None
    low, high = bound.low + int(added.min()), bound.high + int(added.max())
    return replace(bound, low=min(low, 0), high=max(high, 0))


# --- what does not fit ----------------------------------------------------


def _bias_violations(population: Population, where: str) -> Iterator[RangeError]:
    low, high = int(population.bias.min()), int(population.bias.max())
    if low < BIAS_MANTISSA.low or high > BIAS_MANTISSA.high:
        yield RangeError(
            f"{where}: biases need mantissas {low}..{high}, allowed {BIAS_MANTISSA.low}..{BIAS_MANTISSA.high}",
            hint="use fewer --weight-bits, which lowers biases and thresholds",
        )


def _state_violations(population: Population, where: str) -> Iterator[RangeError]:
    """The current holds the drive without the bias: it must fit whatever the bias makes up for."""
    if population.bound is None:
        return
    reach = max(population.bound.high, -population.bound.low) + int(np.abs(population.bias).max())
    if reach > STATE.high:
        yield RangeError(
            f"{where}: the drive without its bias may reach {reach}, allowed {STATE.high}",
            hint="use fewer --weight-bits",
        )


def _neuron_violations(neuron: IntegrateFire, where: str) -> Iterator[RangeError]:
    low, high = int(neuron.threshold.min()), int(neuron.threshold.max())
    if neuron.reset != "zero":
        yield RangeError(f"{where}: reset is `{neuron.reset}`, the stock neuron allows `zero`")
    if neuron.initial.any():
        yield RangeError(f"{where}: an initial potential is not 0, the stock neuron starts at 0")
    if low != high:
        yield RangeError(f"{where}: thresholds {low}..{high}, the stock neuron allows one for a population")
    if high - 1 > THRESHOLD.high:
        yield RangeError(f"{where}: threshold {high}, allowed 1..{THRESHOLD.high + 1}")


def _weight_violations(synapse: Synapse, where: str) -> Iterator[RangeError]:
    """A stock loader changes some dense matrices without a word."""
    weight, hint = synapse.weight.astype(np.int64), "use --backend autapse, which keeps every weight"
    if synapse.exponent != 0:
        yield RangeError(f"{where}: weight exponent is {synapse.exponent}, stock netx allows 0", hint=hint)
    if synapse.conv is not None or weight.min() < -256 or weight.max() > 255:
        return
    if not weight.any():
        yield RangeError(f"{where}: all weights are 0, on which the stock netx loader fails", hint=hint)
        return
    running, exponent = as_lava_runs(weight, where)
    changed = running != weight << -exponent
    if changed.any():
        at = np.unravel_index(changed.argmax(), changed.shape)
        yield RangeError(
            f"{where}: the stock netx loader runs {int(changed.sum())} of {weight.size} weights with another value, "
            f"{weight[at]} as {running[at] * 2.0**exponent:g}",
            hint=hint,
        )
