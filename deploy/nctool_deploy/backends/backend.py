"""The realisations: how a neuron of an IntNetwork is built out of the parts of the chip.

In: nothing. Out: one frozen description for each. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nctool.errors import RangeError, UsageError
from nctool.ir.network import IntNetwork, Population
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends import autapse, stock
from nctool_deploy.mapping.wiring import Wiring

FULL_DECAY = 4096
"""Of 4096 parts: nothing is left after a step. Source: lava-nc 0.10.0, lava/proc/lif/models.py."""

RealisationName = Literal["autapse", "population", "zero-reset"]
Registers = autapse.AutapseRegisters | stock.StockRegisters


@dataclass(frozen=True)
class Realisation:
    """How neurons are built.

    Args:
        name: what `--realisation` calls it.
        description: one line.
        form: the numbers that it can hold.
        is_stock: its file runs in an unmodified netx Network of lava-dl.
        current_decay, voltage_decay: of the stock neuron, of 4096 parts a step.
        prepare: brings a network into the form that the registers hold; spikes and logits stay the same.
        network_violations, violations: what keeps a network, or one of its populations, from having registers.
        registers: the registers of a population without violations.
        wirings: connections of a population that the realisation adds.
        steps: the only window that it can run, None for any.
        flush_steps: silent steps between two samples of a stream.
    """

    name: RealisationName
    description: str
    form: IntegerFormat
    is_stock: bool
    current_decay: int
    voltage_decay: int
    prepare: Callable[[IntNetwork], IntNetwork]
    network_violations: Callable[[IntNetwork], list[RangeError]]
    violations: Callable[[Population], list[RangeError]]
    registers: Callable[[Population], Registers]
    wirings: Callable[[Population], tuple[Wiring, ...]]
    steps: int | None = None
    flush_steps: int = 0


def _as_it_is(network: IntNetwork) -> IntNetwork:
    return network


def _none(_: IntNetwork | Population) -> list[RangeError]:
    return []


def _no_wirings(_: Population) -> tuple[Wiring, ...]:
    return ()


REALISATIONS = (
    Realisation(
        name="autapse",
        description="reset by subtraction, exact; runs in nctool's own Network",
        form=autapse.AUTAPSE_FORMAT,
        is_stock=False,
        current_decay=0,
        voltage_decay=FULL_DECAY,
        prepare=_as_it_is,
        network_violations=_none,
        violations=autapse.violations,
        registers=autapse.registers,
        wirings=autapse.wirings,
        flush_steps=autapse.FLUSH_STEPS,
    ),
    Realisation(
        name="population",
        description="stock netx: the quantised ANN in one time step, exact",
        form=stock.POPULATION_FORMAT,
        is_stock=True,
        current_decay=FULL_DECAY,
        voltage_decay=FULL_DECAY,
        prepare=stock.compare_once,
        network_violations=stock.network_violations,
        violations=stock.violations,
        registers=stock.registers,
        wirings=_no_wirings,
        steps=1,
    ),
    Realisation(
        name="zero-reset",
        description="stock netx: reset to zero, rate coded over the window",
        form=stock.ZERO_RESET_FORMAT,
        is_stock=True,
        current_decay=FULL_DECAY,
        voltage_decay=0,
        prepare=_as_it_is,
        network_violations=_none,
        violations=stock.violations,
        registers=stock.registers,
        wirings=_no_wirings,
    ),
)


def find_realisation(name: str) -> Realisation:
    """Return the realisation called `name`; a UsageError lists those that exist."""
    for realisation in REALISATIONS:
        if realisation.name == name:
            return realisation
    allowed = ", ".join(realisation.name for realisation in REALISATIONS)
    raise UsageError(f"unknown realisation `{name}`, allowed {allowed}")
