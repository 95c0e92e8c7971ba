"""Factors of the covariance of signals, as rounding with error feedback reads them: block by block, the last first.

A covariance R' R has a triangular R; its rows say how far an error of one weight reaches the weights before it. R is
a matrix of fan-in times fan-in numbers. Where far fewer patches than weights were looked at, the covariance is a
diagonal and few products of signals; then R is the same diagonal blocks and, right of them, products of two thin
matrices, and nothing of that size is ever made.

In: moments. Out: factors. Must not import torch.

Source: elimination of a diagonal plus a low rank, block by block (Sherman, Morrison, Woodbury); Golub and Van Loan,
Matrix Computations, 4th edition, sections 2.1.4 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray
from nctool.conversion.quantise.second_moments import Moments

BLOCK = 64
"""Weights whose errors are carried on together, by one matrix product."""

THIN = 2
"""From so many times more weights than patches on, two thin matrices are smaller than the triangle."""


@dataclass(frozen=True, eq=False)
class Block:
    """What rounding needs to know of consecutive weights.

    Args:
        start, stop: the weights.
        inner: float64 (weights, weights), upper triangle with ones on the diagonal: how far their errors reach each
            other.
        carried: float64 (weights, channels), what the errors of all weights behind them add to them.
    """

    start: int
    stop: int
    inner: FloatArray
    carried: FloatArray


class Factor(Protocol):
    """The triangular factor of a covariance, its rows divided by its diagonal."""

    @property
    def pivots(self) -> FloatArray:
        """Return the diagonal that was taken out, float64 (fan-in,); zero where no signal varies."""

    @property
    def multiplications(self) -> int:
        """Return what carrying the errors of one channel takes."""

    def blocks(self, error: FloatArray) -> Iterator[Block]:
        """Yield the blocks from the last to the first.

        Args:
            error: float64 (fan-in, channels); the errors of a block are written there before the next one is asked for.
        """


def block_bounds(fan_in: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each block, from the last to the first."""
    return ((max(0, stop - BLOCK), stop) for stop in range(fan_in, 0, -BLOCK))


@dataclass(frozen=True, eq=False)
class Triangle:
    """The whole factor.

    Args:
        upper: float64 (fan-in, fan-in), ones on the diagonal.
        pivots: see `Factor`.
    """

    upper: FloatArray
    pivots: FloatArray

    @property
    def multiplications(self) -> int:
        """Return what carrying the errors of one channel takes."""
        return len(self.upper) ** 2

    def blocks(self, error: FloatArray) -> Iterator[Block]:
        """Yield the blocks from the last to the first."""
        for start, stop in block_bounds(len(error)):
            rows = self.upper[start:stop]
            yield Block(start, stop, rows[:, start:stop], rows[:, stop:] @ error[stop:])


@dataclass(frozen=True, eq=False)
class ThinTriangle:
    """The factor of a diagonal plus a low rank; right of its diagonal blocks it is `weights @ signals`.

    Args:
        inner: diagonal blocks from the first to the last.
        weights: float64 (fan-in, patches).
        signals: float32 (patches, fan-in).
        pivots: see `Factor`.
    """

    inner: tuple[FloatArray, ...]
    weights: FloatArray
    signals: NDArray[np.float32]
    pivots: FloatArray

    @property
    def multiplications(self) -> int:
        """Return what carrying the errors of one channel takes."""
        return 2 * self.weights.size

    def blocks(self, error: FloatArray) -> Iterator[Block]:
        """Yield the blocks from the last to the first."""
        sent = np.zeros((len(self.signals), error.shape[1]))
        for inner, (start, stop) in zip(reversed(self.inner), block_bounds(len(error)), strict=True):
            yield Block(start, stop, inner, self.weights[start:stop] @ sent)
            sent += self.signals[:, start:stop] @ error[start:stop]


def factor(moments: Moments, group: int) -> Factor:
    """Factor the covariance of a group of signals."""
    patches, fan_in = moments.centred.shape[1:]
    if THIN * patches < fan_in:
        return thin_triangle(moments.own(group), moments.centred[group], moments.share)
    return triangle(moments.covariance(group))


def triangle(covariance: FloatArray) -> Triangle:
    """Factor a positive definite matrix, or zero: then each weight is rounded by itself, and no error counts."""
    if not covariance.any():
        return Triangle(np.eye(len(covariance)), np.zeros(len(covariance)))
    upper = np.linalg.cholesky(covariance).T
    pivots = np.diagonal(upper).copy()
    upper /= pivots[:, np.newaxis]
    return Triangle(upper, pivots)


def thin_triangle(own: FloatArray, signals: NDArray[np.float32], share: float) -> ThinTriangle:
    """Factor diag(own) + share * signals' signals, or zero, as `triangle` does.

    Behind the weights that were eliminated, what is left of it has the same form, with a matrix in place of `share`.

    Args:
        own: float64 (fan-in,), above zero, or all zero where no signal varies.
        signals: float32 (patches, fan-in).
        share: above zero.
    """
    blocks = list(block_bounds(len(own)))[::-1]
    inner, weights, pivots = [], np.zeros((len(own), len(signals))), np.zeros(len(own))
    if not own.any():
        return ThinTriangle(tuple(np.eye(stop - start) for start, stop in blocks), weights, signals, pivots)
    middle = share * np.eye(len(signals))
    for start, stop in blocks:
        here = signals[:, start:stop].astype(np.float64)
        reach = here.T @ middle
        upper = np.linalg.cholesky(reach @ here + np.diag(own[start:stop])).T
        rows = np.linalg.solve(upper.T, reach)
        middle -= rows.T @ rows
        pivots[start:stop] = np.diagonal(upper)
        inner.append(upper / np.diagonal(upper)[:, np.newaxis])
        weights[start:stop] = rows / np.diagonal(upper)[:, np.newaxis]
    return ThinTriangle(tuple(inner), weights, signals, pivots)
