"""The integers of a maximum: weights of 0 and 1, and a threshold of 1. Nothing is rounded.

In: a FloatPopulation that is a maximum. Out: a Population with a proved bound. Must not import torch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nctool.conversion.float_network import FloatPopulation
from nctool.ir.bounds import prove_population
from nctool.ir.inputs import PixelEncoding
from nctool.ir.network import IntegrateFire, Population, Synapse


def integer_maximum(real: FloatPopulation, encoding: PixelEncoding, n_steps: int) -> Population:
    """Return the population of rule M1.

    Args:
        encoding: of the input of the network.
        n_steps: length of the window.
    """
    channels = real.shape[0]
    one, none = np.ones(channels, np.int64), np.zeros(channels, np.int64)
    synapses = tuple(Synapse(s.source, s.weight.astype(np.int32), conv=s.conv) for s in real.synapses)
    population = Population(real.name, real.shape, IntegrateFire(one, none, reset="zero"), none, synapses)
    return replace(population, bound=prove_population(population, encoding, n_steps).bound("proved"))
