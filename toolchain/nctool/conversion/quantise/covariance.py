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

Floats = Float32 | FloatArray

BLOCK = 64
"""Weights whose errors are carried on together, by one matrix product."""

PANEL = 128
"""Columns of a factor that are found together."""

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

    def covariance(self, group: int) -> Float32:
        """Return the covariance of a group, float32 (fan-in, fan-in), regularised; all zero where no signal varies.

        Half the memory and time of float64, and exact enough to be factored: divided by the deviations on both sides,
        its least eigenvalue is SHRINKAGE or more, far above the roundings.
        """
        centred = self.centred[group]
        covariance: Float32 = centred.T @ centred
        variance = np.diagonal(covariance) / np.float32(len(centred))
        covariance *= np.float32(self.share)
        np.fill_diagonal(covariance, variance + np.float32(DAMPING) * variance.mean(dtype=np.float64))
        return covariance

    def own(self, group: int) -> FloatArray:
        """Return what is added to products of signals on the diagonal of the covariance, float64 (fan-in,)."""
        variance = np.einsum("pf,pf->f", self.centred[group], self.centred[group], dtype=np.float64)
        variance /= self.centred.shape[1]
        own: FloatArray = SHRINKAGE * variance + DAMPING * variance.mean()
        return own


def moments(patches: Float32, mean: FloatArray | None = None) -> Moments:
    """Return the moments of float32 (groups, patches, fan-in), whose mean may be known."""
    mean = patches.mean(axis=1, dtype=np.float64) if mean is None else mean
    return Moments(mean, patches - mean[:, np.newaxis].astype(np.float32))


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of the factor for consecutive weights, and the errors carried into them.

    Args:
        start, stop: the weights.
        inner: (weights, weights), upper triangle with ones on the diagonal: how far their errors reach each other.
        carried: (weights, channels), what the errors of all weights behind them add to them.
    """

    start: int
    stop: int
    inner: Floats
    carried: Floats


class Factor(Protocol):
    """The triangular factor of a covariance, its rows divided by its diagonal; in float32 or float64."""

    @property
    def pivots(self) -> Floats:
        """Return the diagonal that was taken out, (fan-in,), in the type of all; zero where no signal varies."""

    @property
    def multiplications(self) -> int:
        """Return how many multiplications round one channel."""

    def blocks(self, error: Floats) -> Iterator[Block]:
        """Yield the blocks from the last to the first.

        Args:
            error: (fan-in, channels); the errors of a block are written there before the next one is asked for.
        """


def block_bounds(fan_in: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each block, from the last to the first."""
    return ((max(0, stop - BLOCK), stop) for stop in range(fan_in, 0, -BLOCK))


@dataclass(frozen=True, eq=False)
class Triangle:
    """The whole factor.

    Args:
        upper: (fan-in, fan-in), ones on the diagonal.
        pivots: see `Factor`.
    """

    upper: Floats
    pivots: Floats

    @property
    def multiplications(self) -> int:
        """Return how many multiplications round one channel."""
        return len(self.upper) * (len(self.upper) // 2 + BLOCK)

    def blocks(self, error: Floats) -> Iterator[Block]:
        """Yield the blocks from the last to the first."""
        for start, stop in block_bounds(len(error)):
            rows = self.upper[start:stop]
            yield Block(start, stop, rows[:, start:stop], rows[:, stop:] @ error[stop:])


@dataclass(frozen=True, eq=False)
class ThinTriangle:
    """The factor of a diagonal plus a low rank; right of its diagonal blocks it is `weights @ signals`.

    Args:
        inner: diagonal blocks from the first to the last.
        weights, signals: float32 (patches, fan-in).
        pivots: see `Factor`.
    """

    inner: tuple[Float32, ...]
    weights: Float32
    signals: Float32
    pivots: Float32

    @property
    def multiplications(self) -> int:
        """Return how many multiplications round one channel."""
        return 2 * self.weights.size + len(self.pivots) * BLOCK

    def blocks(self, error: Floats) -> Iterator[Block]:
        """Yield the blocks from the last to the first."""
        sent = np.zeros((len(self.signals), error.shape[1]), np.float32)
        for inner, (start, stop) in zip(reversed(self.inner), block_bounds(len(error)), strict=True):
            yield Block(start, stop, inner, self.weights[:, start:stop].T @ sent)
            sent += self.signals[:, start:stop] @ error[start:stop]


def factor(moments: Moments, group: int) -> Factor:
    """Factor the covariance of a group of signals."""
    patches, fan_in = moments.centred.shape[1:]
    if THIN * patches < fan_in:
        return thin_triangle(moments.own(group), moments.centred[group], moments.share)
    return triangle(moments.covariance(group))


def triangle(covariance: Floats) -> Triangle:
    """Factor a positive definite matrix, or zero: then each weight is rounded by itself, and no error counts.

    Args:
        covariance: (fan-in, fan-in); is written over.
    """
    pivots: Floats = np.zeros_like(covariance[0])
    if not covariance.any():
        np.fill_diagonal(covariance, 1)
        return Triangle(covariance, pivots)
    upper = cholesky(covariance).T
    pivots += np.diagonal(upper)
    upper /= pivots[:, np.newaxis]
    return Triangle(upper, pivots)


def cholesky(matrix: Floats) -> Floats:
    """Replace a positive definite matrix by its lower triangular factor, block by block.

    Nearly all of it are products of matrices: in float32, 3,072 rows take a quarter of the time of LAPACK's factor.

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite.
    """
    for start in range(0, len(matrix), PANEL):
        here = slice(start, start + PANEL)
        matrix[start:, here] -= matrix[start:, :start] @ matrix[here, :start].T
        corner = np.linalg.cholesky(matrix[here, here].astype(np.float64))
        matrix[here, here], matrix[here, start + PANEL :] = corner, 0
        below = matrix[start + PANEL :, here]
        below[:] = below @ np.linalg.inv(corner).T.astype(matrix.dtype)
    return matrix


def thin_triangle(own: FloatArray, signals: Float32, share: float) -> ThinTriangle:
    """Factor diag(own) + share * signals' signals, or zero, as `triangle` does.

    Behind the weights that were eliminated, what is left of it has the same form, with a matrix in place of `share`:
    that is kept in float64, as much is taken off it.

    Args:
        own: float64 (fan-in,), above zero, or all zero where no signal varies.
        signals: float32 (patches, fan-in).
        share: above zero.
    """
    blocks = list(block_bounds(len(own)))[::-1]
    inner, weights, pivots = [], np.zeros_like(signals), np.zeros(len(own), np.float32)
    if not own.any():
        eyes = tuple(np.eye(stop - start, dtype=np.float32) for start, stop in blocks)
        return ThinTriangle(eyes, weights, signals, pivots)
    middle = share * np.eye(len(signals))
    for start, stop in blocks:
        here = signals[:, start:stop].astype(np.float64)
        reach = here.T @ middle
        upper = np.linalg.cholesky(reach @ here + np.diag(own[start:stop])).T
        rows = np.linalg.solve(upper.T, reach)
        middle -= rows.T @ rows
        pivots[start:stop] = np.diagonal(upper)
        inner.append((upper / np.diagonal(upper)[:, np.newaxis]).astype(np.float32))
        weights[:, start:stop] = (rows / np.diagonal(upper)[:, np.newaxis]).T
    return ThinTriangle(tuple(inner), weights, signals, pivots)
