"""The stock process of Lava that computes one synapse of a population, with its weights, exponent and delay.

In: a synapse of an IntNetwork. Out: a Lava process. Must not import torch itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix

from nctool.ir.network import ConvGeometry, IntArray, Shape, Synapse
from nctool_deploy.lava.runner.unrolling import unroll
from nctool_deploy.lava.synapses import convolution_violations

GRADED_BITS, PAYLOAD_BITS = 8, 24
"""Bits of a message: of graded input, and of a graded spike."""

MAX_UNROLLED = 20_000_000
"""Connections up to which any convolution runs as one sparse matrix: Lava's Conv loops over pairs of channels."""


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


@dataclass(frozen=True)
class Branch:
    """One synapse of a population, in the pipeline.

    Args:
        synapse: its weights.
        source_shape: (channel, height, width) of what drives it.
        delay: how many time steps it waits for the longest path (rule R7).
        message_bits: of what it carries, 0 for spikes.
        largest_message: the largest magnitude of what it carries.
    """

    synapse: Synapse
    source_shape: Shape
    delay: int
    message_bits: int
    largest_message: int

    @property
    def is_large(self) -> bool:
        """Return whether it has more than MAX_UNROLLED connections."""
        neurons = math.prod(self.synapse.output_shape(self.source_shape))
        return neurons * math.prod(self.synapse.weight.shape[1:]) > MAX_UNROLLED

    @property
    def fits_convolution(self) -> bool:
        """Return whether Lava's Conv, which has neither an exponent nor delays, computes it."""
        beyond = convolution_violations(self.synapse, self.largest_message, self.synapse.source)
        return self.synapse.exponent == self.delay == 0 and not any(beyond)

    def process(self) -> AbstractProcess:
        """Return the stock process that computes it; Conv only where it must, for it is slow."""
        synapse = self.synapse
        if synapse.conv is not None and self.is_large and self.fits_convolution:
            return self._convolution(synapse.conv)
        if synapse.conv is None and self.delay == 0:
            return Dense(num_message_bits=self.message_bits, **mixed(self._matrix(), synapse.exponent))
        weights = mixed(csr_matrix(self._matrix()), synapse.exponent)
        bits = self.message_bits or GRADED_BITS  # spikes of one bit are summed much faster as graded ones
        if self.delay == 0:
            return Sparse(num_message_bits=bits, **weights)
        return DelaySparse(num_message_bits=bits, delays=everywhere(weights["weights"], self.delay), **weights)

    def _matrix(self) -> Any:
        """Return the weights as a matrix, dense or sparse, over neurons in the order that Lava flattens."""
        synapse, order = self.synapse, lava_order(self.source_shape)
        if synapse.conv is None:
            return synapse.weight[:, order]
        matrix = unroll(synapse.weight, synapse.conv, self.source_shape)
        return matrix[lava_order(synapse.output_shape(self.source_shape))][:, order]

    def _convolution(self, conv: ConvGeometry) -> Conv:
        """Return a Conv; Lava's is a true convolution over (width, height): the kernel is flipped and transposed."""
        return Conv(
            input_shape=to_lava(self.source_shape),
            weight=np.ascontiguousarray(self.synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)),
            stride=conv.stride[::-1],
            padding=conv.padding[::-1],
            dilation=conv.dilation[::-1],
            groups=conv.groups,
            num_message_bits=self.message_bits,
        )


def everywhere(weight: Any, delay: int) -> Any:
    """Return a sparse matrix that holds `delay` wherever `weight` has an entry, int64."""
    delays = csr_matrix(weight, dtype=np.int64, copy=True)
    delays.data[:] = delay
    return delays
