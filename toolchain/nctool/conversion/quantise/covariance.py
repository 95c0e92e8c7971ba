"""The covariance of what drives a population: how much an error of a weight matters, and which errors cancel.

With signals x and an error d of the weights of a channel, the output is off by d x: mean square d' E[x x'] d. The mean
of it goes into the bias, so that the covariance of x is what remains.

Rounding with error feedback reads the covariance as R' R with a triangular R, block by block, the last first: its rows
say how far an error of one weight reaches the weights before it. R is a matrix of fan-in times fan-in numbers. Where
far fewer patches than weights were looked at, the covariance is a diagonal and few products of signals; then R is the
same diagonal blocks and, right of them, products of two thin matrices, and nothing of that size is ever made.

In: patches of signals. Out: moments and factors. Must not import torch.

Source of the factors: elimination of a diagonal plus a low rank, block by block (Sherman, Morrison, Woodbury); Golub
and Van Loan, Matrix Computations, 4th edition, sections 2.1.4 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray

DAMPING = 0.01
"""Part of the mean variance that is added to each: what calibration data do not show may still occur.
Source: Frantar et al., GPTQ, arXiv 2210.17323."""

SHRINKAGE = 0.1
"""Part of each covariance that is given up: a few hundred samples show more correlation than there is."""

Float32 = NDArray[np.float32]

BLOCK = 64
"""Weights whose errors are carried on together, by one matrix product."""

THIN = 2
"""From so many times more weights than patches on, two thin matrices are smaller than the triangle."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and deviations of the signals that the weights of one synapse multiply, group by group.

    Args:
        mean: float64 (groups, fan-in).
        centred: float32 (groups, patches, fan-in), the patches without their mean.
    """

    mean: FloatArray
    centred: Float32

    @property
    def share(self) -> float:
        """Return the factor of products of centred signals, summed over the patches, in the covariance."""
        return (1 - SHRINKAGE) / self.centred.shape[1]

    def covariance(self, group: int) -> FloatArray:
        """Return the covariance of a group, float64 (fan-in, fan-in), regularised; all zero where no signal varies."""
        centred = self.centred[group]
        covariance: FloatArray = (centred.T @ centred).astype(np.float64)
        covariance /= len(centred)
        variance = np.diagonal(covariance).copy()
        covariance *= 1 - SHRINKAGE
        np.fill_diagonal(covariance, variance + DAMPING * variance.mean())
        return covariance

    def own(self, group: int) -> FloatArray:
        """Return what is added to products of signals on the diagonal of the covariance, float64 (fan-in,)."""
        variance = np.einsum("pf,pf->f", self.centred[group], self.centred[group], dtype=np.float64)
        variance /= self.centred.shape[1]
        own: FloatArray = SHRINKAGE * variance + DAMPING * variance.mean()
        return own


def moments(patches: Float32) -> Moments:
    """Return the moments of float32 (groups, patches, fan-in)."""
    mean = patches.mean(axis=1, dtype=np.float64)
    return Moments(mean, patches - mean[:, np.newaxis].astype(np.float32))


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of the factor for consecutive weights, and the errors carried into them.

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
        """Return how many multiplications carry the errors of one channel."""

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
        """Return how many multiplications carry the errors of one channel."""
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
        """Return how many multiplications carry the errors of one channel."""
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
