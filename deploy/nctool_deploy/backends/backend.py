"""The backends: how a neuron of an IntNetwork is built out of the parts of the chip.

In: nothing. Out: the protocol, one object for each backend, and the one of a name. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from nctool.errors import RangeError, UsageError
from nctool.ir.network import GradedReLU, IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends.autapse import Autapse, AutapseRegisters
from nctool_deploy.backends.graded import Graded, GradedRegisters
from nctool_deploy.backends.number_formats import NumberFormat
from nctool_deploy.backends.stock import StockPopulation, StockRegisters, StockZeroReset
from nctool_deploy.hdf5 import Node
from nctool_deploy.mapping.wiring import Wiring

BackendName = Literal["autapse", "population", "zero-reset", "graded"]
Registers = AutapseRegisters | StockRegisters | GradedRegisters


class Backend(Protocol):
    """How neurons are built: the members are all that differs between backends.

    Attributes:
        description: one line.
        number_format: the numbers that it can hold; its neurons are graded if its `is_graded` says so.
        exponents: of weights.
        accumulator: what holds the accumulated input of a neuron.
        steps: the only window that it can run, None for any.
        flush_steps: silent steps between two samples of a stream.
        stored_weight: the type of a weight in a file.
        stores_exponents: a file holds the exponents of weights; otherwise they are 0.
    """

    description: ClassVar[str]
    number_format: ClassVar[IntegerFormat]
    exponents: ClassVar[NumberFormat]
    accumulator: ClassVar[NumberFormat]
    steps: ClassVar[int | None]
    flush_steps: ClassVar[int]
    stored_weight: ClassVar[type[np.signedinteger[Any]]]
    stores_exponents: ClassVar[bool]

    @property
    def name(self) -> BackendName:
        """Return what `--backend` calls it."""

    # what is exported and tried where the user does not say

    def default_replicas(self, levels: int) -> int:
        """Return the replicas of a network whose activations were trained with `levels`."""

    def explored_windows(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """Return the windows that `explore` tries: those that the user wants, where there is a choice."""

    def explored_replicas(self, wanted: Sequence[int] | None, levels: int) -> Sequence[int]:
        """Return the replicas that `explore` tries: those that the user wants, where there is a choice."""

    # lowering

    def require_graph(self, network: IntNetwork) -> None:
        """Refuse with an UnsupportedError a network whose synapses cannot be wired."""

    def prepare(self, network: IntNetwork) -> IntNetwork:
        """Bring a network into the form that the registers hold; spikes and logits stay the same."""

    def network_violations(self, network: IntNetwork) -> list[RangeError]:
        """Return why the registers cannot hold the network as a whole."""

    def synapse_violations(self, synapse: Synapse, largest_message: int, where: str) -> Iterator[RangeError]:
        """Yield why the registers cannot hold a synapse; `where` is what a message calls it."""

    def violations(self, population: Population) -> list[RangeError]:
        """Return why a population can have no registers."""

    def registers(self, population: Population) -> Registers:
        """Return the registers of a population without violations."""

    def wirings(self, population: Population) -> tuple[Wiring, ...]:
        """Return the connections that the backend adds to those of a population."""

    # the file, and the run on Lava

    def fixed_registers(self, kind: str) -> Mapping[str, int]:
        """Return the registers that every neuron of a type has, by their key in a file (docs/SEMANTICS.md, R1, P1).

        Args:
            kind: as `neuron_data` gives it.
        """

    def neuron_data(self, population: Population) -> Mapping[str, Any]:
        """Return the datasets of the neuron of a population in a file, by key; the fixed registers are left out."""

    def read_neuron(self, node: Node, channels: int, scale: float | None) -> IntegrateFire | GradedReLU | Readout:
        """Return the neuron that `neuron_data` wrote, or refuse it with a FormatError.

        Args:
            node: the group of the neuron.
            channels: of its population.
            scale: that of a readout; None for a neuron that fires.
        """


BACKENDS: tuple[Backend, ...] = (Autapse(), StockPopulation(), StockZeroReset(), Graded())
DEFAULT = BACKENDS[0]


def find_backend(name: str) -> Backend:
    """Return the backend called `name`; a UsageError lists those that exist."""
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    allowed = ", ".join(backend.name for backend in BACKENDS)
    raise UsageError(f"unknown backend `{name}`, allowed {allowed}")


def backend_of_reset(reset: str) -> Backend:
    """Return the first backend whose spikes do `reset` to the potential, `subtract` or `zero`."""
    return next(backend for backend in BACKENDS if backend.number_format.reset == reset)
