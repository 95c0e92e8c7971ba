"""Fewer groups: the same convolution for a process that counts groups in few bits.

Groups side by side become one, whose kernels are 0 for the channels that they did not read. A depthwise convolution of
256 channels, for example, gets 64 groups of four channels: of the weights of a kernel, three in four are 0.

In: an IntNetwork. Out: an equal one. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nctool.ir.network import IntArray, IntNetwork, Population, Synapse
from nctool.ir.repeat import NO_REPEAT
from nctool_deploy.backends.number_formats import CONVOLUTION_GEOMETRY


def few_groups(network: IntNetwork) -> IntNetwork:
    """Return `network` with no more groups in any convolution than Lava's Conv can count."""
    return replace(network, populations=tuple(_with_few_groups(population) for population in network.populations))


def _with_few_groups(population: Population) -> Population:
    return replace(population, synapses=tuple(_regrouped(synapse) for synapse in population.synapses))


def _regrouped(synapse: Synapse) -> Synapse:
    conv = synapse.conv
    if conv is None or conv.groups <= CONVOLUTION_GEOMETRY.high:
        return synapse
    groups = next(n for n in range(CONVOLUTION_GEOMETRY.high, 0, -1) if conv.groups % n == 0)
    weight = _together(synapse.weight, conv.groups, conv.groups // groups)
    return replace(synapse, weight=weight, conv=replace(conv, groups=groups), repeat=NO_REPEAT)


def _together(weight: IntArray, groups: int, joined: int) -> IntArray:
    """Return weights (out, in / groups, height, width) of which `joined` groups become one."""
    out, group_size, *kernel = weight.shape
    place = np.arange(out) // (out // groups) % joined
    whole = np.zeros((out, joined, group_size, *kernel), weight.dtype)
    whole[np.arange(out), place] = weight
    return whole.reshape(out, joined * group_size, *kernel)
