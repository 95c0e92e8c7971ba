"""Name the first place where two traces differ.

In: traces of the same network and samples. Out: a Divergence or None. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import IntNetwork
from nctool.reference.trace import Trace
from nctool.verification.explain import Neighbourhood


@dataclass(frozen=True)
class Divergence:
    """The first place where two traces differ: first layer in network order, then sample, step, neuron.

    Args:
        layer: name of the population, or `/nctool`: the group of a file that holds what stock keys cannot say.
        quantity: `spike`, `logit`, or, when the file itself changed and no trace shows it, `content` or `bound`.
        sample, step: zero-based sample and one-based time step; None where the file changed.
        neuron: index, (channel,) or (channel, height, width); None where the file changed.
        expected, actual: the two values.
        expected_by, actual_by: which engine, or `file`, said so.
        neighbourhood: what drove the neuron; None where there is no such place, or where nobody looked.
    """

    layer: str
    quantity: str
    sample: int | None
    step: int | None
    neuron: tuple[int, ...] | None
    expected: int | str
    actual: int | str
    expected_by: str
    actual_by: str
    neighbourhood: Neighbourhood | None = None

    def __str__(self) -> str:
        if self.sample is None:
            what = "group" if self.layer.startswith("/") else "layer"
            return f"{what} `{self.layer}` is not what was exported: its {self.quantity} differs"
        return (
            f"layer `{self.layer}`, sample {self.sample}, step {self.step}, neuron {self.neuron}: {self.quantity} is "
            f"{self.expected} in `{self.expected_by}` and {self.actual} in `{self.actual_by}`"
        )


def first_divergence(
    network: IntNetwork, expected: Trace, actual: Trace, names: tuple[str, str], first_sample: int = 0
) -> Divergence | None:
    """Return the first difference of two traces of `network`, or None when they are equal.

    Args:
        names: who produced `expected` and `actual`.
        first_sample: number of the first sample in the traces.
    """
    spiking = [p.name for p in network.populations if p.name in expected.spikes]
    layers: list[tuple[str, str, NDArray[Any], NDArray[Any]]] = [
        *((name, "spike", expected.spikes[name], actual.spikes[name]) for name in spiking),
        (network.readout.name, "logit", expected.logits, actual.logits),
    ]
    for layer, quantity, expected_values, actual_values in layers:
        where = _first_difference(expected_values, actual_values)
        if where is not None:
            values = _shown(expected_values, actual_values, where)
            return Divergence(layer, quantity, where[0] + first_sample, where[1] + 1, where[2:], *values, *names)
    return None


def _first_difference(expected: NDArray[Any], actual: NDArray[Any]) -> tuple[int, ...] | None:
    """Return the first index at which two arrays differ: that of the first value, if their shapes do."""
    if expected.shape != actual.shape:
        return (0,) * expected.ndim
    differs = expected != actual
    if not differs.any():
        return None
    return tuple(int(axis) for axis in np.unravel_index(int(differs.argmax()), differs.shape))


def _shown(expected: NDArray[Any], actual: NDArray[Any], where: tuple[int, ...]) -> tuple[int | str, int | str]:
    """Return what a divergence says of the two sides: their values, or their shapes if these differ."""
    if expected.shape != actual.shape:
        return f"shape {expected.shape}", f"shape {actual.shape}"
    return int(expected[where]), int(actual[where])
