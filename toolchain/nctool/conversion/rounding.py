"""Round weights so that their errors cancel in the output.

Weights are rounded one after the other; the error of each is carried into those not yet rounded, as far as their
signals vary together. In the triangular factor of the covariance this is back substitution with rounding: optimal
brain quantisation in a fixed order.

In: weights in integer units, a covariance. Out: integers. Must not import torch.

Source: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, arXiv
2210.17323; as back substitution: Chen et al., The Geometry of LLM Quantization, arXiv 2507.18553.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nctool.conversion.float_network import FloatArray
from nctool.network import IntArray

BLOCK = 64
"""Weights whose errors are carried on together, by one matrix product."""


@dataclass(frozen=True, eq=False)
class Triangle:
    """The Cholesky factor R of a covariance R' R, its rows divided by its diagonal.

    Args:
        upper: float64 (fan-in, fan-in), ones on the diagonal.
        pivots: float64 (fan-in,), the diagonal that was taken out; zero where no signal varies.
    """

    upper: FloatArray
    pivots: FloatArray


def triangle(covariance: FloatArray) -> Triangle:
    """Factor a positive definite matrix, or zero: then each weight is rounded by itself, and no error counts."""
    if not covariance.any():
        return Triangle(np.eye(len(covariance)), np.zeros(len(covariance)))
    upper = np.linalg.cholesky(covariance).T
    pivots = np.diagonal(upper).copy()
    return Triangle(upper / pivots[:, np.newaxis], pivots)


def round_with_feedback(wanted: FloatArray, factor: Triangle, largest: int) -> tuple[IntArray, FloatArray]:
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
    for stop in range(len(columns), 0, -BLOCK):
        start = max(0, stop - BLOCK)
        carried = factor.upper[start:stop, stop:] @ error[stop:]
        for row in reversed(range(start, stop)):
            inner = factor.upper[row, row + 1 : stop] @ error[row + 1 : stop]
            target = columns[row] + carried[row - start] + inner
            rounded[row] = np.clip(np.rint(target), -largest, largest)
            error[row] = columns[row] - rounded[row]
            square += (factor.pivots[row] * (target - rounded[row])) ** 2
    return rounded.T.astype(np.int64), square
