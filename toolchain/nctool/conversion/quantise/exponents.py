"""Weight exponents for branches of different size that add up in one population.

One potential, one scale: a branch whose weights are large takes few of its bits away from the others if its integers
are multiplied by 2**exponent. A population of one synapse needs none.

In: a folded FloatPopulation and an IntegerFormat. Out: exponents worth trying. Must not import torch.
"""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.ir.number_format import IntegerFormat

SPREAD = 2
"""Exponents tried above the ratio of the sizes: the ratio of some channels is larger than that of most."""


def candidate_exponents(population: FloatPopulation, form: IntegerFormat) -> tuple[tuple[int, ...], ...]:
    """Return tuples of one exponent a synapse, from all zero to a little more than the sizes ask for.

    The branch of the smallest weights keeps exponent 0.
    """
    ratios = size_ratios(population)
    most = max(ratios)
    steps = range(-most, SPREAD + 1) if most > 0 else range(1)
    tried = (tuple(_clip(ratio + step if ratio > 0 else 0, form) for ratio in ratios) for step in steps)
    return tuple(dict.fromkeys(tried))


def size_ratios(population: FloatPopulation) -> list[int]:
    """Return per synapse how many times its weights must be halved to be no larger than those of the smallest.

    The median over the channels counts, of those in which the synapse has weights at all.
    """
    largest = np.array([synapse.largest for synapse in population.synapses])
    least = np.where(largest > 0, largest, np.inf).min(axis=0)
    return [_halvings(sizes[sizes > 0], least[sizes > 0]) for sizes in largest]


def _halvings(sizes: FloatArray, least: FloatArray) -> int:
    return int(np.ceil(np.median(np.log2(sizes) - np.log2(least)))) if len(sizes) else 0


def _clip(exponent: int, form: IntegerFormat) -> int:
    return min(max(exponent, 0), form.weight_exponent_max)
