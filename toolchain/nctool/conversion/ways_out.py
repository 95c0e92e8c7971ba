"""Ways out: what an export can change where rounding takes too much of the weights.

In: rounded populations and what they were rounded to. Out: a hint. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nctool.ir.network import IntegrateFire, Population
from nctool.ir.number_format import WEIGHT_BITS_RANGE, IntegerFormat


def finer_weights(rounded: Sequence[Population], form: IntegerFormat, n_steps: int, otherwise: str) -> str:
    """Return which options give finer weights to some of these populations, or `otherwise` where none does.

    Weights that leave their bits unused are kept small by something else: where the accumulator is full, by the sum
    over all steps, and a shorter window helps. Weights that use their bits get finer with more of them.
    """
    small = [population for population in rounded if 2 * _largest_weight(population) <= form.weight_max]
    ways = []
    if n_steps > 1 and any(_is_held_by_window(population, form) for population in small):
        ways.append("fewer --steps")
    if form.weight_bits < WEIGHT_BITS_RANGE[1] and len(small) < len(rounded):
        ways.append("more --weight-bits")
    return f"export with {', or '.join(ways)}" if ways else otherwise


def _largest_weight(population: Population) -> int:
    return max(int(np.abs(synapse.weight).max()) for synapse in population.synapses)


def _is_held_by_window(population: Population, form: IntegerFormat) -> bool:
    """Return whether the sum over all steps keeps the weights small: it fills the accumulator.

    Where no weight is left, any would: unless bias or threshold fill their own registers.
    """
    if _largest_weight(population) > 0:
        return population.bound is not None and population.bound.head_room_bits < 1
    largest_threshold = form.threshold_mantissa_max * 2**form.threshold_exponent_max
    threshold = population.neuron.threshold if isinstance(population.neuron, IntegrateFire) else np.zeros(1)
    return bool(2 * np.abs(population.bias).max() <= form.bias_max and 2 * threshold.max() <= largest_threshold)
