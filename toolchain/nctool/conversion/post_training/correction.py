"""Correct the weights and the bias of a population for what the populations before it really send.

Spikes are a coarse picture of the activations that they stand for, with errors that vary together. The weights that
give the drive of the float network from these spikes, with the least squared error, are a little off those that were
trained. How far they may go is a ridge, chosen on images that they were not fitted to; where no correction helps there,
the weights stay, and the bias takes the mean of the error. Weights that are 0 by design stay 0: a synapse in which many
are keeps all.

In: what the synapses see, the drive that is wanted. Out: a population of other weights and bias.

Source of the criterion: Li et al., A Free Lunch From ANN, ICML 2021, arXiv 2106.06984 (bias), with the weights by ridge
regression: Hoerl and Kennard, Technometrics 12 (1970).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.quantise.covariance import Float32
from nctool.conversion.quantise.patches import View
from nctool.ir.population import IntArray

RIDGES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
"""Ridges tried, in mean variances of the signals."""

HELD_OUT = 4
"""One image in so many is held out to choose the ridge."""

LARGEST_SYSTEM = 1536
"""Unknowns of one system of equations: where the fan-in is larger, as many patches are fitted to."""

MOST_ZEROS = 0.1
"""Share of weights that are 0 above which a synapse keeps its weights."""

LEAST_GAIN = 0.01
"""Part of the squared error that a correction must take away on held-out images."""


def correct(
    population: FloatPopulation, views: Sequence[View], wanted: Float32, samples: IntArray, fixed: Collection[str] = ()
) -> FloatPopulation:
    """Return `population` with weights and a bias that give the drive that is wanted.

    Args:
        views: what its synapses see, in real units: means over the window.
        wanted: the drive of the trained network, float32 (patches, channels).
        samples: the image of each patch, int64 (patches,).
        fixed: names of modules whose weights stay; where all do, the bias does too.
    """
    if all(synapse.module in fixed for synapse in population.synapses):
        return population
    left = wanted - population.bias.astype(np.float32) - sum(view.output(view.synapse.weight) for view in views)
    synapses = []
    for view in views:
        synapse = view.synapse
        if synapse.module not in fixed:
            weight = _corrected_weight(view, left, samples % HELD_OUT == 0)
            left = left - view.output(weight - synapse.weight)
            synapse = replace(synapse, weight=weight)
        synapses.append(synapse)
    bias = synapses[0].bias + left.mean(axis=0, dtype=np.float64)
    return replace(population, synapses=(replace(synapses[0], bias=bias), *synapses[1:]))


def _corrected_weight(view: View, left: Float32, held_out: NDArray[np.bool_]) -> FloatArray:
    """Return the weights of one synapse with what they make up for of `left`, the error of the drive."""
    weight = view.synapse.weight
    if np.count_nonzero(weight == 0) > MOST_ZEROS * weight.size or held_out.all() or not held_out.any():
        return weight
    of_groups = np.split(left, len(view.patches), axis=1)
    moves = [_move(seen, error, held_out) for seen, error in zip(view.patches, of_groups, strict=True)]
    moved: FloatArray = weight + np.concatenate(moves).reshape(weight.shape)
    return moved


def _move(seen: Float32, error: Float32, held_out: NDArray[np.bool_]) -> Float32:
    """Return what to add to the weights of a group, (channels, fan-in): of the best ridge, or nothing."""
    fitted = np.flatnonzero(~held_out)
    if seen.shape[1] > LARGEST_SYSTEM:
        fitted = fitted[:: -(-len(fitted) // LARGEST_SYSTEM)]
    x, y = seen[fitted] - seen[fitted].mean(axis=0), error[fitted] - error[fitted].mean(axis=0)
    beside, wanted = seen[held_out] - seen[fitted].mean(axis=0), error[held_out] - error[fitted].mean(axis=0)
    basis = None if x.shape[1] <= len(x) else x.T  # the smaller of two equal systems
    solutions = ridge_solutions(x, y, basis)
    through = beside if basis is None else beside @ basis
    errors = [np.square(wanted - through @ solution).sum(dtype=np.float64) for solution in solutions]
    best = int(np.argmin(errors))
    if errors[best] >= np.square(wanted).sum(dtype=np.float64) * (1 - LEAST_GAIN):
        return np.zeros((error.shape[1], seen.shape[1]), np.float32)
    solution = solutions[best]
    return (solution if basis is None else basis @ solution).T


def ridge_solutions(x: Float32, y: Float32, basis: Float32 | None) -> list[Float32]:
    """Return for each ridge what gives the most of `y`: weights, (fan-in, channels), or shares of a basis.

    The least ridge is a thirtieth of the mean of the matrix's diagonal: single precision is far finer than that.
    """
    unit = float(np.square(x).sum(dtype=np.float64)) / x.shape[1] or 1.0
    square, right = (x.T @ x, x.T @ y) if basis is None else (x @ basis, y)
    diagonal, wanted = np.diagonal(square).copy(), torch.from_numpy(np.ascontiguousarray(right))
    solutions = []
    for ridge in RIDGES:
        np.fill_diagonal(square, diagonal + np.float32(ridge * unit))
        lower = torch.linalg.cholesky(torch.from_numpy(square))
        solutions.append(torch.cholesky_solve(wanted, lower).numpy())
    return solutions
