"""A netx Network of stock Lava processes that runs an exported file.

Each population becomes one block: its synapses, always-on bias sources, a LIF with the registers of the autapse
backend, and its resets (docs/SEMANTICS.md, rules R1 to R7); a maximum is its synapse and a LIF (R8).

In: an exported file. Out: a Lava process. Must not import torch itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from lava.lib.dl.netx import hdf5
from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel
from lava.magma.core.decorator import implements
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.process import Dense
from lava.proc.io.reset import Reset
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import Sparse
from scipy.sparse import diags

from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, IntArray, Population, Synapse
from nctool_deploy.backends.autapse import FLUSH_STEPS, Autapse, AutapseRegisters, BiasSource
from nctool_deploy.backends.backend import Registers
from nctool_deploy.backends.number_formats import FULL_DECAY
from nctool_deploy.lava.runner.branch import GRADED_BITS, Branch, mixed, to_lava
from nctool_deploy.lava.synapses import largest_message
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.netx import read
from nctool_deploy.pipeline import Schedule, delays, depths

STATE_SHIFT = 6


class IFBlock(AbstractProcess):
    """One population: a synapse for each branch, bias synapses, LIF, autapse and resets.

    Args:
        population: what to build.
        branches: its synapses.
        values: its registers.
        layer: its depth in the pipeline, 1 for what only the input drives.
        schedule: the run that the resets serve.
    """

    def __init__(
        self,
        population: Population,
        branches: Sequence[Branch],
        values: Registers,
        layer: int,
        schedule: Schedule,
    ) -> None:
        super().__init__(name=population.name)
        self.shape = to_lava(population.shape)
        self.output_message_bits = 0
        self.bias_synapses: list[Dense] = []
        bias = np.ascontiguousarray(population.per_neuron(values.bias_mantissa).T)
        same = {"shape": self.shape, "dv": FULL_DECAY, "vth": values.threshold_mantissa, "bias_mant": bias}
        if isinstance(values, AutapseRegisters):
            cleared = layer if values.self_weight is not None else layer + 1
            clearing = {"reset_interval": schedule.period, "reset_offset": cleared}
            self.neuron = LIFReset(du=-1, bias_exp=STATE_SHIFT, **clearing, **same)
        else:
            self.neuron = LIF(du=FULL_DECAY - 1, bias_exp=STATE_SHIFT, **same)
        self.inputs = [self._connect_branch(branch, number) for number, branch in enumerate(branches)]
        self.inp = self.inputs[0]
        if isinstance(values, AutapseRegisters):
            self._connect_own(population, values, layer, schedule)
        self.out = OutPort(shape=self.neuron.s_out.shape)
        self.neuron.s_out.connect(self.out)

    def _connect_own(self, population: Population, values: AutapseRegisters, layer: int, schedule: Schedule) -> None:
        """Connect what the membrane in the current needs: bias sources, autapse, and the reset behind a window."""
        self._connect_bias(population, values.bias_sources, layer, schedule.depth)
        if values.self_weight is not None:
            self._connect_autapse(population.per_neuron(values.self_weight), values.self_exponent)
            self.reset = Reset(interval=schedule.period, offset=schedule.n_steps + layer)
            self.reset.connect_var(self.neuron.u)

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

    def _connect_autapse(self, weight: IntArray, exponent: int) -> None:
        matrix = diags(weight.T.reshape(-1), dtype=np.int64).tocsr()
        self.autapse = Sparse(num_message_bits=GRADED_BITS, **mixed(matrix, exponent))
        self.neuron.s_out.flatten().connect(self.autapse.s_in)
        self.autapse.a_out.reshape(self.shape).connect(self.neuron.a_in)


class Network(hdf5.Network):
    """A netx Network that holds neurons of type `IF`, built of stock Lava processes.

    Args:
        net_config: path of a file that nctool exported.
        n_samples: windows that one run will stream.
        n_steps: length of a window; the file's own by default.

    Raises:
        NctoolError: as `nctool_deploy.netx.read` and `nctool_deploy.lowering.lower`.
    """

    def __init__(self, net_config: str | Path, n_samples: int = 1, n_steps: int | None = None) -> None:
        content = read(Path(net_config))
        self.lowered = lower(content.network, content.metadata.chip, content.metadata.backend, chips=None)
        _require_autapse(self.lowered, net_config)
        depth = max(depths(content.network).values())
        self.schedule = Schedule(n_steps or content.network.n_steps, FLUSH_STEPS, depth, n_samples)
        bits = 0 if content.network.has_binary_input else GRADED_BITS
        super().__init__(net_config=str(net_config), input_message_bits=bits)
        for port in self._input_ports():
            if port is not self.in_layer.inp:  # which the stock Network has connected
                self.inp.connect(port)

    def _create(self) -> list[IFBlock]:
        network, depth = self.lowered.network, depths(self.lowered.network)
        active = [self.schedule.active(layer) for layer in range(1, self.schedule.depth + 1)]
        self.bias_source = Source(data=np.array(active, np.int32))
        blocks: dict[str, IFBlock] = {}
        for population, values in zip(network.populations, self.lowered.registers, strict=True):
            waits = zip(population.synapses, delays(population, depth), strict=True)
            branches = [self._branch(synapse, delay) for synapse, delay in waits]
            block = IFBlock(population, branches, values, depth[population.name], self.schedule)
            for branch, port in zip(branches, block.inputs, strict=True):
                if branch.synapse.source != INPUT_NAME:
                    blocks[branch.synapse.source].out.connect(port)
            if block.bias_synapses:
                self.bias_source.s_out.connect(block.bias_inp)
            blocks[population.name] = block
        return list(blocks.values())

    def _branch(self, synapse: Synapse, delay: int) -> Branch:
        network, source = self.lowered.network, synapse.source
        bits = self.input_message_bits if source == INPUT_NAME else 0
        return Branch(synapse, network.shapes[source], delay, bits, largest_message(network, source))

    def _input_ports(self) -> Iterator[InPort]:
        """Yield the ports that take the input of the network."""
        for population, block in zip(self.lowered.network.populations, self.layers, strict=True):
            for synapse, port in zip(population.synapses, block.inputs, strict=True):
                if synapse.source == INPUT_NAME:
                    yield port


def _require_autapse(lowered: Lowered, path: str | Path) -> None:
    """Refuse a file of another backend with an UnsupportedError."""
    if lowered.backend != Autapse.name:
        raise UnsupportedError(
            f"`{path}`: backend `{lowered.backend}`, this Network allows `{Autapse.name}`",
            hint="the file is stock netx: lava.lib.dl.netx.hdf5.Network runs it",
        )


@implements(proc=IFBlock, protocol=LoihiProtocol)
class PyIFBlockModel(AbstractPyBlockModel):
    """The block is its parts: nothing to compute."""


@implements(proc=Network, protocol=LoihiProtocol)
class PyNetworkModel(AbstractPyBlockModel):
    """The network is its blocks: nothing to compute."""
