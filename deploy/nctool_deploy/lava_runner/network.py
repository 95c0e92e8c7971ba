"""A netx Network of stock Lava processes that realises an exported file.

Each population becomes one block: its synapse, always-on bias sources, a LIF with the registers of the autapse
realisation, and its resets (docs/SEMANTICS.md, rules R1 to R5).

In: an exported file. Out: a Lava process. Must not import torch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lava.lib.dl.netx import hdf5
from lava.lib.dl.netx.blocks.models import AbstractPyBlockModel
from lava.magma.core.decorator import implements
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.io.reset import Reset
from lava.proc.io.source import RingBuffer as Source
from lava.proc.lif.process import LIFReset
from lava.proc.sparse.process import Sparse
from lava.utils.weightutils import SignMode
from scipy.sparse import diags

from nctool.errors import UnsupportedError
from nctool.network import INPUT_NAME, ConvGeometry, IntArray, Population, Shape, Synapse
from nctool_deploy.autapse import FLUSH_STEPS, AutapseRegisters, BiasSource
from nctool_deploy.lowering import lower
from nctool_deploy.netx import NetxFile, read
from nctool_deploy.schedule import Schedule
from nctool_deploy.unrolling import unroll

GRADED_BITS = 8
STATE_SHIFT = 6
MAX_UNROLLED = 20_000_000
"""Connections up to which a convolution runs as one sparse matrix: Lava's Conv loops over pairs of channels."""


def to_lava(shape: Shape) -> Shape:
    """Return the Lava shape, (width, height, channel), of a (channel, height, width) population."""
    return tuple(reversed(shape))


def lava_order(shape: Shape) -> IntArray:
    """Return, for each neuron in the order that Lava flattens, its index in (channel, height, width) order."""
    return np.arange(np.prod(shape)).reshape(shape).T.reshape(-1)


def mixed(weight: IntArray, exponent: int) -> dict[str, Any]:
    """Return the arguments that make a Dense or Sparse process hold weight * 2**exponent exactly.

    Mixed-sign weights keep even values -256..254, so 8 signed bits are stored doubled and shifted back. The sign
    mode is always given: Lava's own choice rewrites weights that are all negative or all positive.
    Source: lava-nc `lava/utils/weightutils.py`, `truncate_weights`.
    """
    return {"weights": weight * 2, "weight_exp": exponent - 1, "num_weight_bits": 8, "sign_mode": SignMode.MIXED}


class IFBlock(AbstractProcess):
    """One population: synapse, bias synapses, LIF, autapse and resets.

    Args:
        population: what to build.
        source_shape: (channel, height, width) of what drives it.
        values: its registers.
        layer: 1 for the first population.
        schedule: the run that the resets serve.
        message_bits: of what drives it, 0 for binary spikes.
    """

    def __init__(
        self,
        population: Population,
        source_shape: Shape,
        values: AutapseRegisters,
        layer: int,
        schedule: Schedule,
        message_bits: int,
    ) -> None:
        super().__init__(name=population.name)
        self.shape = to_lava(population.shape)
        self.output_message_bits = 0
        self.input_message_bits = message_bits
        spiking = values.self_weight is not None
        self.neuron = LIFReset(
            shape=self.shape,
            du=-1,
            dv=4096,
            vth=values.threshold_mantissa,
            bias_mant=np.ascontiguousarray(population.per_neuron(values.bias_mantissa).T),
            bias_exp=STATE_SHIFT,
            reset_interval=schedule.period,
            reset_offset=layer if spiking else layer + 1,
        )
        self._connect_input(population.synapses[0], source_shape)
        self._connect_bias(population, values.bias_sources, layer, schedule.n_layers)
        if values.self_weight is not None:
            self._connect_autapse(population.per_neuron(values.self_weight), values.self_exponent)
            self.reset = Reset(interval=schedule.period, offset=schedule.n_steps + layer)
            self.reset.connect_var(self.neuron.u)
        self.out = OutPort(shape=self.neuron.s_out.shape)
        self.neuron.s_out.connect(self.out)

    def _connect_input(self, synapse: Synapse, source_shape: Shape) -> None:
        self.inp = InPort(shape=to_lava(source_shape))
        conv, weight, order = synapse.conv, synapse.weight, lava_order(source_shape)
        if conv is None:
            values = mixed(weight[:, order], synapse.exponent)
            self.synapse = Dense(num_message_bits=self.input_message_bits, **values)
        elif np.prod(self.shape) * np.prod(weight.shape[1:]) <= MAX_UNROLLED:
            matrix = unroll(weight, conv, source_shape)[lava_order(synapse.output_shape(source_shape))][:, order]
            self.synapse = Sparse(num_message_bits=GRADED_BITS, **mixed(matrix, synapse.exponent))
        else:
            self.synapse = self._convolution(weight, conv, source_shape)
        source = self.inp if len(self.synapse.s_in.shape) == len(self.inp.shape) else self.inp.flatten()
        source.connect(self.synapse.s_in)
        self.synapse.a_out.reshape(self.shape).connect(self.neuron.a_in)

    def _convolution(self, weight: IntArray, conv: ConvGeometry, source_shape: Shape) -> Conv:
        """Return a Conv; Lava's is a true convolution over (width, height): the kernel is flipped and transposed."""
        return Conv(
            input_shape=to_lava(source_shape),
            weight=np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)),
            stride=conv.stride[::-1],
            padding=conv.padding[::-1],
            dilation=conv.dilation[::-1],
            groups=conv.groups,
            num_message_bits=self.input_message_bits,
        )

    def _connect_bias(self, population: Population, parts: Sequence[BiasSource], layer: int, n_layers: int) -> None:
        """Give this layer a synapse per part from its own always-on neuron in `Network.bias_source`."""
        self.bias_inp = InPort(shape=(n_layers,))
        self.bias_synapses = []
        for part in parts:
            weight = np.zeros((population.n_neurons, n_layers), np.int64)
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
        _require_autapse(content, net_config)
        self.lowered = lower(content.network, content.metadata.chip, content.metadata.realisation, chips=None)
        populations = content.network.populations
        self.schedule = Schedule(n_steps or content.network.n_steps, n_samples, len(populations), FLUSH_STEPS)
        bits = 0 if content.network.has_binary_input else GRADED_BITS
        super().__init__(net_config=str(net_config), input_message_bits=bits)

    def _create(self) -> list[IFBlock]:
        network = self.lowered.network
        layers: list[IFBlock] = []
        source = network.shapes[INPUT_NAME]
        active = [self.schedule.active(layer) for layer in range(1, self.schedule.n_layers + 1)]
        self.bias_source = Source(data=np.array(active, np.int32))
        registers = [values for values in self.lowered.registers if isinstance(values, AutapseRegisters)]
        for layer, (population, values) in enumerate(zip(network.populations, registers, strict=True), start=1):
            bits = 0 if layers else self.input_message_bits
            layers.append(IFBlock(population, source, values, layer, self.schedule, bits))
            if len(layers) > 1:
                layers[-2].out.connect(layers[-1].inp)
            if layers[-1].bias_synapses:
                self.bias_source.s_out.connect(layers[-1].bias_inp)
            source = population.shape
        return layers


def _require_autapse(content: NetxFile, path: str | Path) -> None:
    if content.metadata.realisation != "autapse":
        raise UnsupportedError(
            f"`{path}`: realisation `{content.metadata.realisation}`, this Network allows `autapse`",
            hint="the file is stock netx: lava.lib.dl.netx.hdf5.Network runs it",
        )


@implements(proc=IFBlock, protocol=LoihiProtocol)
class PyIFBlockModel(AbstractPyBlockModel):
    """The block is its parts: nothing to compute."""


@implements(proc=Network, protocol=LoihiProtocol)
class PyNetworkModel(AbstractPyBlockModel):
    """The network is its blocks: nothing to compute."""
