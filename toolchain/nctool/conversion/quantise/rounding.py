"""Round weights so that their errors cancel in the output.

Weights are rounded one after the other; the error of each is carried into those not yet rounded, as far as their
signals vary together. In the triangular factor of the covariance this is back substitution with rounding: optimal
brain quantisation in a fixed order.

In: weights in integer units, the factor of a covariance. Out: integers. Must not import torch.

Source: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, arXiv
2210.17323; as back substitution: Chen et al., The Geometry of LLM Quantization, arXiv 2507.18553.
"""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatArray
from nctool.conversion.quantise.factors import Factor
from nctool.ir.network import IntArray


def round_with_feedback(wanted: FloatArray, factor: Factor, largest: int) -> tuple[IntArray, FloatArray]:
    """Round the weights of each channel from the last to the first; what is left of an error goes into those before.

    Args:
        wanted: float64 (channels, fan-in), in integer units.
        factor: of the covariance of the signals.
        largest: magnitude that no integer exceeds.

    Returns:
        int64 (channels, fan-in), and the mean square error of each channel's output, float64 (channels,).
    """
    columns = np.ascontiguousarray(wanted.T)
    rounded, error = np.empty_like(columns), np.zeros_like(columns)
    square = np.zeros(len(wanted))
    for block in factor.blocks(error):
        here = slice(block.start, block.stop)
        targets = columns[here] + block.carried
        _round_block(targets, columns[here], rounded[here], error[here], block.inner, largest)
        square += np.square(factor.pivots[here, np.newaxis] * (targets - rounded[here])).sum(axis=0)
    return rounded.T.astype(np.int64), square


def _round_block(
    targets: FloatArray, wanted: FloatArray, rounded: FloatArray, error: FloatArray, inner: FloatArray, largest: int
) -> None:
    """Round the weights of a block, (weights, channels), from the last to the first; all but `wanted` are written to.

    Args:
        targets: what each weight is rounded from, as far as weights behind the block say.
        inner: see `Block`.
    """
    for row in reversed(range(len(targets))):
        targets[row] += inner[row, row + 1 :] @ error[row + 1 :]
        np.rint(targets[row], out=rounded[row])
        np.minimum(rounded[row], largest, out=rounded[row])  # twice as fast as np.clip, which counts here
        np.maximum(rounded[row], -largest, out=rounded[row])
        np.subtract(wanted[row], rounded[row], out=error[row])
