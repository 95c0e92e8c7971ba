"""Lowering: check an IntNetwork against a target and realise it with the target's parts.

In: an IntNetwork, a target, a realisation. Out: a frozen Lowered, or one error that lists every violation.
Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.network import (
    FOREIGN_HINT,
    INPUT_NAME,
    Bound,
    CurrentBased,
    IntegrateFire,
    IntNetwork,
    Population,
    Synapse,
)
from nctool_deploy.autapse import AutapseRegisters, registers
from nctool_deploy.targets import (
    CONVOLUTION_GROUPS_MAX,
    CONVOLUTION_SUM_LIMIT,
    STATE_LIMIT,
    SYNAPSE_MANTISSA,
    Target,
)

REALISATIONS = ("autapse",)
MAX_LISTED = 8


@dataclass(frozen=True)
class Lowered:
    """A network with the register values that realise it.

    Args:
        network: what is realised; the realised network gives the same trace.
        target: the chip whose limits were checked.
        realisation: how the neuron is built out of stock parts.
        registers: one per population, in order.
    """

    network: IntNetwork
    target: Target
    realisation: str
    registers: tuple[AutapseRegisters, ...]

    @property
    def cores(self) -> int:
        """Return how many cores the neurons and the synaptic memory need at least.

        Each connection counts one byte; index bits, axons and shared kernels are not counted.
        """
        return sum(self._cores(population) for population in self.network.populations)

    def _cores(self, population: Population) -> int:
        neurons, memory = self.target.neurons_per_core, self.target.synapse_bytes_per_core
        by_neurons = -(-population.n_neurons // neurons) if neurons else 0
        by_memory = -(-self.network.synapse_count(population) // memory) if memory else 0
        return max(by_neurons, by_memory)


def lower(network: IntNetwork, target: Target, realisation: str = "autapse") -> Lowered:
    """Realise `network` on `target`.

    Raises:
        UsageError: the realisation is unknown.
        UnsupportedError: the network is no chain of populations, or holds current-based neurons.
        RangeError: a number or a reset does not fit; all violations are listed.
    """
    if realisation not in REALISATIONS:
        raise UsageError(f"unknown realisation `{realisation}`, allowed {', '.join(REALISATIONS)}")
    _require_integrate_fire(network)
    require_chain(network)
    _raise_all([violation for population in network.populations for violation in _violations(network, population)])
    lowered = Lowered(network, target, realisation, tuple(registers(p) for p in network.populations))
    if target.cores_per_chip and lowered.cores > target.cores_per_chip:
        raise RangeError(
            f"network: needs at least {lowered.cores} cores, `{target.name}` has {target.cores_per_chip}",
            hint="make the layers narrower, or export with --target lava to simulate only",
        )
    return lowered


def _require_integrate_fire(network: IntNetwork) -> None:
    for population in network.populations:
        if isinstance(population.neuron, CurrentBased):
            raise UnsupportedError(
                f"population `{population.name}`: current-based neurons, allowed integrate-and-fire neurons",
                hint=FOREIGN_HINT,
            )


def require_chain(network: IntNetwork) -> None:
    """Refuse a network whose populations are not one chain from the input to the readout.

    Raises:
        UnsupportedError: a population has several incoming synapses, or skips its predecessor.
    """
    previous = INPUT_NAME
    for population in network.populations:
        sources = [synapse.source for synapse in population.synapses]
        if sources != [previous]:
            listed = ", ".join(f"`{source}`" for source in sources)
            raise UnsupportedError(
                f"population `{population.name}`: driven by {listed}, allowed one synapse from `{previous}`",
                hint="skip connections run on the reference and fast engines, not as netx yet",
            )
        previous = population.name


def _violations(network: IntNetwork, population: Population) -> Iterator[RangeError]:
    where = f"population `{population.name}`"
    yield from _synapse_violations(network, population.synapses[0], where)
    yield from _bound_violations(population.bound, where)
    neuron = population.neuron
    if isinstance(neuron, IntegrateFire) and neuron.reset != "subtract":
        yield RangeError(f"{where}: reset is `{neuron.reset}`, the autapse allows `subtract`")
        return
    if isinstance(neuron, IntegrateFire) and (neuron.initial >= neuron.threshold).any():
        yield RangeError(f"{where}: an initial potential reaches its threshold, allowed below it")
    yield from _caught(lambda: registers(population))


def _synapse_violations(network: IntNetwork, synapse: Synapse, where: str) -> Iterator[RangeError]:
    low, high = SYNAPSE_MANTISSA
    for extreme in sorted({int(synapse.weight.min()), int(synapse.weight.max())}):
        if not low <= extreme <= high:
            yield RangeError(
                f"{where}: weight {extreme} does not fit signed 8 bit, allowed {low}..{high}",
                hint="export with --weight-bits 8",
            )
    if synapse.exponent != 0:
        yield RangeError(f"{where}: weight exponent is {synapse.exponent}, the netx loader allows 0")
    if synapse.conv is None:
        return
    small = max(synapse.conv.groups, *synapse.conv.padding, *synapse.conv.stride, *synapse.conv.dilation)
    if max(small, *synapse.weight.shape[2:]) > CONVOLUTION_GROUPS_MAX:
        yield RangeError(
            f"{where}: groups {synapse.conv.groups}, kernel {synapse.weight.shape[2:]} or geometry exceed what Lava "
            f"holds in 8 bits, allowed up to {CONVOLUTION_GROUPS_MAX}",
            hint="use fewer groups or a smaller kernel",
        )
    biggest = int(np.abs(network.pixel_input.table.astype(int)).max()) if synapse.source == INPUT_NAME else 1
    total = biggest * int(np.abs(synapse.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    if total > CONVOLUTION_SUM_LIMIT:
        yield RangeError(
            f"{where}: a convolution may sum to {total}, Lava clamps at {CONVOLUTION_SUM_LIMIT}",
            hint="export with fewer --weight-bits",
        )


def _bound_violations(bound: Bound | None, where: str) -> Iterator[RangeError]:
    if bound is None:
        yield RangeError(f"{where}: the range of its accumulated input is not known", hint="convert with nctool")
    elif max(bound.high, -bound.low) > STATE_LIMIT:
        yield RangeError(
            f"{where}: accumulated input reaches {bound.low}..{bound.high}, allowed -{STATE_LIMIT}..{STATE_LIMIT}",
            hint="export with fewer --steps or fewer --weight-bits",
        )


def _caught(action: Callable[[], object]) -> Iterator[RangeError]:
    try:
        action()
    except RangeError as error:
        yield error


def _raise_all(errors: list[RangeError]) -> None:
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    more = f"\n({len(errors) - MAX_LISTED} more)" if len(errors) > MAX_LISTED else ""
    hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
    raise RangeError("\n".join(error.message for error in errors[:MAX_LISTED]) + more, hint="; ".join(hints) or None)
