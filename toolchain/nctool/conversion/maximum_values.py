"""The maximum over windows of real numbers, as a maximum of the network takes it.

In: a FloatPopulation that is a maximum, numbers of its source. Out: numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nctool.conversion.float_network import FloatPopulation
from nctool.ir.geometry import ConvGeometry


def maximum_values(population: FloatPopulation, signal: Tensor) -> Tensor:
    """Return the largest number in each window, 0 where the window is on padding.

    Args:
        population: a maximum.
        signal: (samples, *shape of its source), numbers that spikes give: >= 0.
    """
    (synapse,) = population.synapses
    geometry, taps = synapse.conv or ConvGeometry(), torch.from_numpy(synapse.weight[0, 0] > 0)
    if bool(taps.all()):
        padded = functional.pad(signal, [geometry.padding[1]] * 2 + [geometry.padding[0]] * 2)
        return functional.max_pool2d(padded, tuple(taps.shape), geometry.stride, dilation=geometry.dilation)
    windows = functional.unfold(
        signal.flatten(0, 1).unsqueeze(1), tuple(taps.shape), geometry.dilation, geometry.padding, geometry.stride
    )
    return windows[:, taps.flatten()].amax(dim=1).reshape(len(signal), *population.shape)
