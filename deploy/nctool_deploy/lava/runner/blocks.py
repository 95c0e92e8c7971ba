"""A population as a process of stock Lava processes: neurons, and what drives them.

An `IFBlock` has a LIF with the registers of the autapse backend and its resets (docs/SEMANTICS.md, rules R1 to R7), or
of a maximum (R8); a `GradedBlock` has a graded neuron (rules G7 to G9).

In: a population with its registers. Out: a Lava process. Must not import torch itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel
from lava.magma.core.decorator import implements
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.process import Dense
from lava.proc.graded.process import GradedReluVec, GradedVec
from lava.proc.io.reset import Reset
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import Sparse
from scipy.sparse import diags

from nctool.ir.network import IntArray, Population, Readout
from nctool_deploy.backends.autapse import AutapseRegisters
from nctool_deploy.backends.bias_sources import BiasSource
from nctool_deploy.backends.graded import GradedRegisters
from nctool_deploy.backends.number_formats import FULL_DECAY
from nctool_deploy.backends.stock import StockRegisters
from nctool_deploy.lava.runner.branch import GRADED_BITS, Branch, mixed, to_lava
from nctool_deploy.pipeline import Schedule

STATE_SHIFT = 6


class Block(AbstractProcess):
    """One population: neurons, a synapse for each branch, bias synapses.

    Args:
        population: what to build.
        branches: its synapses.
        neuron: a stock process of its neurons, in Lava's shape.
        sources: always-on sources that drive it.
        layer: its depth in the pipeline, 1 for what only the input drives.
        depth: of the pipeline.
    """

    output_message_bits = 0

    def __init__(
        self,
        population: Population,
        branches: Sequence[Branch],
        neuron: AbstractProcess,
        sources: Sequence[BiasSource],
        layer: int,
        depth: int,
    ) -> None:
        super().__init__(name=population.name)
        self.shape = to_lava(population.shape)
        self.neuron = neuron
        self.bias_synapses: list[Dense] = []
        self.inputs = [self._connect_branch(branch, number) for number, branch in enumerate(branches)]
        self.inp = self.inputs[0]
        if sources:
            self._connect_bias(population, sources, layer, depth)
        self.out = OutPort(shape=neuron.s_out.shape)
        neuron.s_out.connect(self.out)

    def _connect_branch(self, branch: Branch, number: int) -> InPort:
        """Let a branch drive the neurons, and return the port that its source sends to."""
        port, synapse = InPort(shape=to_lava(branch.source_shape)), branch.process()
        setattr(self, f"inp{number}", port)  # Lava finds the ports of a process among its attributes
        source = port if len(synapse.s_in.shape) == len(port.shape) else port.flatten()
        source.connect(synapse.s_in)
        synapse.a_out.reshape(self.shape).connect(self.neuron.a_in)
        return port

    def _connect_bias(self, population: Population, parts: Sequence[BiasSource], layer: int, depth: int) -> None:
        """Add a synapse per part from the always-on neuron of this depth in `Network.bias_source`."""
        self.bias_inp = InPort(shape=(depth,))
        for part in parts:
            weight = np.zeros((population.n_neurons, depth), np.int64)
            weight[:, layer - 1] = population.per_neuron(part.weight).T.reshape(-1)
            synapse = Dense(**mixed(weight, part.exponent))
            self.bias_inp.connect(synapse.s_in)
            synapse.a_out.reshape(self.shape).connect(self.neuron.a_in)
            self.bias_synapses.append(synapse)


class IFBlock(Block):
    """A population of integrate-and-fire neurons, or their readout, with the autapse and resets.

    Args:
        population: what to build.
        branches: its synapses.
        values: its registers.
        layer: its depth in the pipeline.
        schedule: the run that the resets serve.
    """

    def __init__(
        self,
        population: Population,
        branches: Sequence[Branch],
        values: AutapseRegisters | StockRegisters,
        layer: int,
        schedule: Schedule,
    ) -> None:
        neuron, sources = _lif(population, values, layer, schedule), getattr(values, "bias_sources", ())
        super().__init__(population, branches, neuron, sources, layer, schedule.depth)
        if isinstance(values, AutapseRegisters) and values.self_weight is not None:
            self._connect_autapse(population.per_neuron(values.self_weight), values.self_exponent)
            self.reset = Reset(interval=schedule.period, offset=schedule.n_steps + layer)
            self.reset.connect_var(self.neuron.u)

    def _connect_autapse(self, weight: IntArray, exponent: int) -> None:
        matrix = diags(weight.T.reshape(-1), dtype=np.int64).tocsr()
        self.autapse = Sparse(num_message_bits=GRADED_BITS, **mixed(matrix, exponent))
        self.neuron.s_out.flatten().connect(self.autapse.s_in)
        self.autapse.a_out.reshape(self.shape).connect(self.neuron.a_in)


def _lif(
    population: Population, values: AutapseRegisters | StockRegisters, layer: int, schedule: Schedule
) -> LIF | LIFReset:
    """Return the neurons: the membrane in the current, cleared behind a window, or without memory (R8)."""
    bias = np.ascontiguousarray(population.per_neuron(values.bias_mantissa).T)
    same = {"shape": to_lava(population.shape), "dv": FULL_DECAY, "vth": values.threshold_mantissa, "bias_mant": bias}
    if not isinstance(values, AutapseRegisters):
        return LIF(du=FULL_DECAY - 1, bias_exp=STATE_SHIFT, **same)
    cleared = layer if values.self_weight is not None else layer + 1
    clearing = {"reset_interval": schedule.period, "reset_offset": cleared}
    return LIFReset(du=-1, bias_exp=STATE_SHIFT, **clearing, **same)


class GradedBlock(Block):
    """A population of graded neurons, or their readout, which sends its drive whatever its sign.

    Args:
        population: what to build.
        branches: its synapses.
        values: its registers.
        layer: its depth in the pipeline.
        schedule: of the run.
    """

    def __init__(
        self,
        population: Population,
        branches: Sequence[Branch],
        values: GradedRegisters,
        layer: int,
        schedule: Schedule,
    ) -> None:
        kind = GradedVec if isinstance(population.neuron, Readout) else GradedReluVec
        neuron = kind(shape=to_lava(population.shape), vth=values.threshold)
        super().__init__(population, branches, neuron, values.bias_sources, layer, schedule.depth)


@implements(proc=IFBlock, protocol=LoihiProtocol)
class PyIFBlockModel(AbstractPyBlockModel):
    """The block is its parts: nothing to compute."""


@implements(proc=GradedBlock, protocol=LoihiProtocol)
class PyGradedBlockModel(AbstractPyBlockModel):
    """As above."""
