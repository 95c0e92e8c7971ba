"""A netx Network of stock Lava processes that runs an exported file.

Each population becomes one block (`nctool_deploy.lava.runner.blocks`); the input, the blocks and the always-on sources
are joined as the synapses say, each with the delay that brings it in step (docs/SEMANTICS.md, rule R7).

In: an exported file. Out: a Lava process. Must not import torch itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from lava.lib.dl.netx import hdf5
from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel
from lava.magma.core.decorator import implements
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.io.source import RingBuffer as Source

from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, Population, Synapse
from nctool_deploy.backends.autapse import Autapse
from nctool_deploy.backends.backend import Registers, find_backend
from nctool_deploy.backends.graded import Graded, GradedRegisters
from nctool_deploy.lava.runner.blocks import Block, GradedBlock, IFBlock
from nctool_deploy.lava.runner.branch import GRADED_BITS, PAYLOAD_BITS, Branch
from nctool_deploy.lava.synapses import largest_message
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.netx import read
from nctool_deploy.pipeline import Schedule, delays, depths


class Network(hdf5.Network):
    """A netx Network of integrate-and-fire or graded neurons, built of stock Lava processes.

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
        _require_own(self.lowered, net_config)
        depth, flush_steps = max(depths(content.network).values()), find_backend(self.lowered.backend).flush_steps
        self.schedule = Schedule(content.network.window(n_steps), flush_steps, depth, n_samples)
        bits = 0 if content.network.has_binary_input else GRADED_BITS
        super().__init__(net_config=str(net_config), input_message_bits=bits)
        for port in self._input_ports():
            if port is not self.in_layer.inp:  # which the stock Network has connected
                self.inp.connect(port)

    def _create(self) -> list[Block]:
        network, depth = self.lowered.network, depths(self.lowered.network)
        active = [self.schedule.active(layer) for layer in range(1, self.schedule.depth + 1)]
        self.bias_source = Source(data=np.array(active, np.int32))
        blocks: dict[str, Block] = {}
        for population, values in zip(network.populations, self.lowered.registers, strict=True):
            waits = zip(population.synapses, delays(population, depth), strict=True)
            branches = [self._branch(synapse, delay) for synapse, delay in waits]
            block = _block(population, branches, values, depth[population.name], self.schedule)
            for branch, port in zip(branches, block.inputs, strict=True):
                if branch.synapse.source != INPUT_NAME:
                    blocks[branch.synapse.source].out.connect(port)
            if block.bias_synapses:
                self.bias_source.s_out.connect(block.bias_inp)
            blocks[population.name] = block
        return list(blocks.values())

    def _branch(self, synapse: Synapse, delay: int) -> Branch:
        network, source = self.lowered.network, synapse.source
        of_spikes = PAYLOAD_BITS if network.is_graded else 0
        bits = self.input_message_bits if source == INPUT_NAME else of_spikes
        return Branch(synapse, network.shapes[source], delay, bits, largest_message(network, source))

    def _input_ports(self) -> Iterator[InPort]:
        """Yield the ports that take the input of the network."""
        for population, block in zip(self.lowered.network.populations, self.layers, strict=True):
            for synapse, port in zip(population.synapses, block.inputs, strict=True):
                if synapse.source == INPUT_NAME:
                    yield port


def _block(
    population: Population, branches: Sequence[Branch], values: Registers, layer: int, schedule: Schedule
) -> Block:
    if isinstance(values, GradedRegisters):
        return GradedBlock(population, branches, values, layer, schedule)
    return IFBlock(population, branches, values, layer, schedule)


def _require_own(lowered: Lowered, path: str | Path) -> None:
    """Refuse a file of a backend of stock netx with an UnsupportedError."""
    if lowered.backend not in (Autapse.name, Graded.name):
        raise UnsupportedError(
            f"`{path}`: backend `{lowered.backend}`, this Network allows `{Autapse.name}` and `{Graded.name}`",
            hint="the file is stock netx: lava.lib.dl.netx.hdf5.Network runs it",
        )


@implements(proc=Network, protocol=LoihiProtocol)
class PyNetworkModel(AbstractPyBlockModel):
    """The network is its blocks: nothing to compute."""
