"""Lowering: check an IntNetwork against a target and choose the registers and cores that run it.

In: an IntNetwork, a target, a backend. Out: a frozen Lowered with its mapping to cores, or one error that lists
every violation. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nctool.errors import RangeError, UnsupportedError
from nctool.ir.network import (
    FOREIGN_HINT,
    LARGEST_DELAY,
    CurrentBased,
    IntNetwork,
    Population,
    Synapse,
)
from nctool_deploy.backends.backend import DEFAULT, Backend, BackendName, Registers, find_backend
from nctool_deploy.backends.graded import LOWER, Graded
from nctool_deploy.backends.number_formats import SYNAPSE_MANTISSA
from nctool_deploy.lava.synapses import largest_message
from nctool_deploy.mapping.cores import Mapping
from nctool_deploy.mapping.placement import map_network
from nctool_deploy.pipeline import delays, depths
from nctool_deploy.targets.target import Target


@dataclass(frozen=True)
class Lowered:
    """A network with the register values that run it.

    Args:
        network: it gives the same trace as the network that was lowered, in the form that the registers hold.
        target: the chip whose limits were checked.
        backend: how the neuron is built out of stock parts.
        registers: one per population, in order.
        mapping: which core holds which neurons.
    """

    network: IntNetwork
    target: Target
    backend: BackendName
    registers: tuple[Registers, ...]
    mapping: Mapping

    @property
    def cores(self) -> int:
        """Return how many cores the mapping uses; 0 where the target does not limit a core."""
        return len(self.mapping.cores)


def lower(network: IntNetwork, target: Target, backend: str = DEFAULT.name, chips: int | None = 1) -> Lowered:
    """Choose the registers and cores that run `network` on `target`.

    Args:
        chips: how many chips there are; None for as many as it takes.

    Raises:
        UsageError: the backend is unknown.
        UnsupportedError: the network holds neurons that the backend does not build, or spikes or an input that the
            target's spikes cannot carry.
        RangeError: a number or a reset does not fit, or the chips are too small; all violations are listed.
    """
    chosen = find_backend(backend)
    _require_neurons(network, chosen)
    _require_spikes(network, target)
    chosen.require_graph(network)
    prepared = chosen.prepare(network)
    mapping, too_large = map_network(prepared, target, chosen)
    errors = [*chosen.network_violations(prepared), *_payload_violations(prepared, target)]
    depth = depths(prepared)
    for population in prepared.populations:
        errors += _violations(prepared, population, depth, chosen)
    _raise_all([*errors, *(too_large or _chip_violations(mapping, chips))])
    return Lowered(prepared, target, chosen.name, tuple(chosen.registers(p) for p in prepared.populations), mapping)


def _chip_violations(mapping: Mapping, chips: int | None) -> Iterator[RangeError]:
    limit = mapping.target.limits.cores_per_chip
    if limit is not None and chips is not None and mapping.chips > chips:
        yield RangeError(
            f"network: needs {len(mapping.cores)} cores, {mapping.chips} chips of `{mapping.target.name}` with "
            f"{limit.value} cores each, allowed {chips}",
            hint=f"export with --chips {mapping.chips}, make the layers narrower, or export with --target lava to "
            "simulate only",
        )


def _require_neurons(network: IntNetwork, backend: Backend) -> None:
    """Refuse neurons that the backend does not build."""
    for population in network.populations:
        if isinstance(population.neuron, CurrentBased):
            raise UnsupportedError(
                f"population `{population.name}`: current-based neurons, allowed integrate-and-fire neurons",
                hint=FOREIGN_HINT,
            )
    is_graded = backend.number_format.is_graded
    if network.is_graded != is_graded:
        found, allowed = ("integrate-and-fire", "graded") if is_graded else ("graded", "integrate-and-fire")
        raise UnsupportedError(
            f"network: {found} neurons, backend `{backend.name}` allows {allowed} neurons",
            hint=f"export with --backend {DEFAULT.name if is_graded else Graded.name}",
        )


def _require_spikes(network: IntNetwork, target: Target) -> None:
    """Refuse spikes, and an input, of more than one bit where spikes have only one."""
    if target.features.graded_spikes.value:
        return
    if network.is_graded:
        raise UnsupportedError(
            f"network: graded spikes, the spikes of `{target.name}` are binary, allowed integrate-and-fire neurons",
            hint="export with --backend autapse, with --target loihi2, or with --target lava to simulate only",
        )
    if not network.has_binary_input:
        low, high = network.input_range
        raise UnsupportedError(
            f"input: graded values {low}..{high}, the spikes of `{target.name}` are binary, allowed 0..1",
            hint="export with --input rate, with --target loihi2, or with --target lava to simulate only",
        )


def _payload_violations(network: IntNetwork, target: Target) -> Iterator[RangeError]:
    """Yield what graded spikes may carry that the spikes of the target cannot."""
    limit = target.limits.payload_bits
    if limit is None or (network.has_binary_input and not network.is_graded):
        return
    most = 2 ** (limit.value - 1) - 1
    low, high = network.input_range
    if low < -most - 1 or high > most:
        yield RangeError(
            f"input: graded values {low}..{high}, spikes of `{target.name}` carry {limit.value} bits, allowed "
            f"{-most - 1}..{most}",
            hint="export with --input rate",
        )
    for population in network.populations[:-1]:
        if population.neuron.is_graded and population.bound is not None and population.bound.high > most:
            yield RangeError(
                f"population `{population.name}`: a spike may carry {population.bound.high}, spikes of "
                f"`{target.name}` carry {limit.value} bits, allowed 0..{most}",
                hint=LOWER,
            )


def _violations(
    network: IntNetwork, population: Population, depth: dict[str, int], backend: Backend
) -> Iterator[RangeError]:
    where = f"population `{population.name}`"
    for synapse, delay, branch in zip(
        population.synapses, delays(population, depth), _branch_names(population), strict=True
    ):
        yield from _synapse_violations(synapse, branch, backend)
        yield from _delay_violations(delay, branch)
        yield from backend.synapse_violations(synapse, largest_message(network, synapse.source), branch)
    yield from _bound_violations(population, where, backend)
    yield from backend.violations(population)


def _branch_names(population: Population) -> list[str]:
    """Return what a message calls each synapse: like the population where it is the only one."""
    where, synapses = f"population `{population.name}`", population.synapses
    if len(synapses) == 1:
        return [where]
    return [f"{where}, branch {number} from `{synapse.source}`" for number, synapse in enumerate(synapses, start=1)]


def _synapse_violations(synapse: Synapse, where: str, backend: Backend) -> Iterator[RangeError]:
    low, high = SYNAPSE_MANTISSA.low, SYNAPSE_MANTISSA.high
    for extreme in sorted({int(synapse.weight.min()), int(synapse.weight.max())}):
        if not low <= extreme <= high:
            yield RangeError(
                f"{where}: weight {extreme} does not fit signed 8 bit, allowed {low}..{high}",
                hint="export with --weight-bits 8",
            )
    low, high = backend.exponents.low, backend.exponents.high
    if not low <= synapse.exponent <= high:
        yield RangeError(
            f"{where}: weight exponent is {synapse.exponent}, allowed {low}..{high}",
            hint="convert with nctool, which rounds weights to that form",
        )


def _delay_violations(delay: int, where: str) -> Iterator[RangeError]:
    if delay > LARGEST_DELAY:
        yield RangeError(
            f"{where}: passes by {delay} layers, each a time step of delay, allowed up to {LARGEST_DELAY}",
            hint="let the skip begin in a later layer or end in an earlier one",
        )


def _bound_violations(population: Population, where: str, backend: Backend) -> Iterator[RangeError]:
    bound, limit = population.bound, backend.accumulator.high
    if bound is None:
        yield RangeError(f"{where}: the range of its accumulated input is not known", hint="convert with nctool")
    elif max(bound.high, -bound.low) > limit:
        lower = LOWER if backend.number_format.is_graded else "export with fewer --steps"
        yield RangeError(
            f"{where}: accumulated input reaches {bound.low}..{bound.high}, allowed -{limit}..{limit}",
            hint=f"{lower} or fewer --weight-bits",
        )


def _raise_all(errors: Sequence[RangeError]) -> None:
    """Raise one RangeError with the message of each of `errors` on a line of its own and each hint once, if any.

    A user can then mend all of them before trying again.
    """
    if errors:
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise RangeError("\n".join(error.message for error in errors), hint="; ".join(hints) or None)
