"""Compare traces bit for bit and name the first divergence.

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
    for population in network.populations:
        if population.name not in expected.spikes:
            continue
        one, other = expected.spikes[population.name], actual.spikes[population.name]
        found = _first_difference(one, other)
        if found is not None:
            return _divergence(population.name, "spike", one, other, found, names, first_sample)
    found = _first_difference(expected.logits, actual.logits)
    if found is None:
        return None
    return _divergence(network.readout.name, "logit", expected.logits, actual.logits, found, names, first_sample)


def _first_difference(one: NDArray[Any], other: NDArray[Any]) -> tuple[int, ...] | None:
    if one.shape != other.shape:
        return (0,) * one.ndim
    differs = one != other
    if not differs.any():
        return None
    return tuple(int(axis) for axis in np.unravel_index(int(differs.argmax()), differs.shape))


def _divergence(
    layer: str,
    quantity: str,
    one: NDArray[Any],
    other: NDArray[Any],
    where: tuple[int, ...],
    names: tuple[str, str],
    first_sample: int,
) -> Divergence:
    if one.shape != other.shape:
        expected: int | str = f"shape {one.shape}"
        actual: int | str = f"shape {other.shape}"
    else:
        expected, actual = int(one[where]), int(other[where])
    return Divergence(layer, quantity, where[0] + first_sample, where[1] + 1, where[2:], expected, actual, *names)
