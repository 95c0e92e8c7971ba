"""Turn samples into the signal of the input, for every engine.

In: a network and samples. Out: integers over time. Must not import torch, nor an engine.
"""

from __future__ import annotations

import numpy as np

from nctool.errors import RangeError
from nctool.ir.inputs import Samples
from nctool.ir.network import IntArray, IntNetwork


def input_signal(network: IntNetwork, samples: Samples, n_steps: int) -> IntArray:
    """Turn samples into what drives the network, and the steps before step 1 (rules I1, I2, I4 and C4).

    Returns:
        integers (samples, latency + n_steps, *input shape), or (samples, 1, *input shape) for the same at every step.

    Raises:
        RangeError: as `own_signal`.
    """
    signal = own_signal(network, samples, n_steps)
    if network.latency == 0:
        return signal
    steps = np.broadcast_to(signal, (len(signal), n_steps, *signal.shape[2:]))
    return np.pad(steps, [(0, 0), (network.latency, 0), *[(0, 0)] * (signal.ndim - 2)])


def own_signal(network: IntNetwork, samples: Samples, n_steps: int) -> IntArray:
    """Turn samples into what drives the network from step 1 on (rules I1, I2 and I4).

    Returns:
        integers (samples, n_steps, *input shape), or (samples, 1, *input shape) for the same at every step.

    Raises:
        RangeError: the samples do not fit the input, or last another number of steps.
    """
    signal = network.input.signal(samples, n_steps)  # type: ignore[arg-type]  # each kind of input checks its samples
    if signal.shape[1] > 1 and any(not population.synapses for population in network.populations):
        raise RangeError(
            f"input: the samples last {signal.shape[1]} steps, allowed one value for all steps: it is a bias (rule I3)",
            hint="run from the next layer on with --skip-layers 1 to feed spikes",
        )
    return signal
