"""Neurons for which a threshold and a start are sought: what they send, for drives that are given.

In: drives of some neurons at every step. Out: what their activations send in a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nctool.activation.surrogate import Reset


@dataclass(frozen=True)
class Window:
    """The neurons that a population may have.

    Args:
        n_steps: T, length of the window.
        replicas: K, neurons that share an activation.
        reset: what a spike does to the membrane potential.
        together: neurons, one behind the other, whose spikes a maximum takes together; 1 for none.
    """

    n_steps: int
    replicas: int
    reset: Reset
    together: int = 1

    def starts(self, threshold: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Return where each replica starts, (channels, replicas): threshold * (k + 1/2) / K and the shift (rule U1)."""
        if self.reset == "zero":
            return threshold.new_zeros(len(threshold), self.replicas)
        middle = (torch.arange(self.replicas, dtype=threshold.dtype) + 0.5) / self.replicas
        return threshold[:, None] * middle + (shift * torch.ones_like(threshold))[:, None]

    def sent(self, drive: Tensor, threshold: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        """Return what each activation sends, the mean over the window of what its spikes are worth.

        Args:
            drive: float (n_steps, rows, channels).
            threshold: (channels,), above zero.
            shift: of the starts, (channels,).

        Returns:
            (rows / together, channels).
        """
        total = torch.zeros_like(drive[0, :: self.together])
        for start in self.starts(threshold, shift).unbind(1):
            potential = start.expand_as(drive[0])
            for step in drive:
                potential = potential + step
                spikes = (potential >= threshold).to(drive.dtype)
                total += self.largest(spikes)
                potential = potential - threshold * spikes if self.reset == "subtract" else potential * (1 - spikes)
        return total * (threshold / (self.replicas * self.n_steps))

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of the values that a maximum takes together, (rows / together, channels)."""
        return values if self.together == 1 else values.unflatten(0, (-1, self.together)).amax(1)
