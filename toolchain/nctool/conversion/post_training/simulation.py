"""Neurons for which a threshold and a start are sought: what they send, for drives that are given.

Where compiled loops work here, they step the neurons channel by channel; else torch does, all channels at a time. Both
give the same numbers in float32.

In: drives of some neurons at every step. Out: what their activations send in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.activation.surrogate import Reset
from nctool.compiled import failure
from nctool.threads import side_by_side


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
        counts = self._counts(drive, threshold, shift) if _compiled(drive) else self._stepped(drive, threshold, shift)
        return counts * (threshold / (self.replicas * self.n_steps))

    def errors(self, drive: Tensor, wanted: Tensor, threshold: Tensor, shift: Tensor) -> Tensor:
        """Return the mean square error of what each channel sends, for many candidates.

        Args:
            drive: as `sent`.
            wanted: what the activations should send, (rows / together, channels).
            threshold, shift: (candidates, channels).

        Returns:
            float64 (candidates, channels).
        """
        if _compiled(drive):
            return self._squares(drive, wanted, threshold, shift) / len(wanted)
        pairs = zip(threshold, shift, strict=True)
        gaps = (self.sent(drive, *candidate) - wanted for candidate in pairs)
        return torch.stack([gap.square().mean(0, dtype=torch.float64) for gap in gaps])

    def _stepped(self, drive: Tensor, threshold: Tensor, shift: Tensor | float) -> Tensor:
        """Return how often each activation fires, (rows / together, channels)."""
        total = torch.zeros_like(drive[0, :: self.together])
        for start in self.starts(threshold, shift).unbind(1):
            potential = start.expand_as(drive[0])
            for step in drive:
                potential = potential + step
                spikes = (potential >= threshold).to(drive.dtype)
                total += self.largest(spikes)
                potential = potential - threshold * spikes if self.reset == "subtract" else potential * (1 - spikes)
        return total

    def _counts(self, drive: Tensor, threshold: Tensor, shift: Tensor | float) -> Tensor:
        """Return what `_stepped` does, by compiled loops."""
        from nctool.conversion.post_training.fused import spike_counts

        arriving, starts = self._by_channel(drive), self.starts(threshold, shift).contiguous().numpy()
        each, counts = threshold.contiguous().numpy(), np.empty((len(threshold), arriving.shape[3]), np.float32)

        def count(some: slice) -> None:
            spike_counts(arriving[some], each[some], starts[some], self.reset == "zero", counts[some])

        _channel_by_channel(count, len(arriving))
        return torch.from_numpy(counts).T

    def _squares(self, drive: Tensor, wanted: Tensor, threshold: Tensor, shift: Tensor) -> Tensor:
        """Return the sums of the squared errors, float64 (candidates, channels), by compiled loops."""
        from nctool.conversion.post_training.fused import squared_errors

        arriving, should = self._by_channel(drive), wanted.T.contiguous().numpy()
        pairs = zip(threshold, shift, strict=True)
        starts = torch.stack([self.starts(*candidate) for candidate in pairs], 1).contiguous().numpy()
        each, errors = threshold.T.contiguous().numpy(), np.empty((threshold.shape[1], len(threshold)))
        worth = (threshold / (self.replicas * self.n_steps)).T.contiguous().numpy()

        def add_up(some: slice) -> None:
            squared_errors(
                arriving[some], should[some], each[some], starts[some], worth[some], self.reset == "zero", errors[some]
            )

        _channel_by_channel(add_up, len(arriving))
        return torch.from_numpy(errors).T

    def _by_channel(self, drive: Tensor) -> NDArray[np.float32]:
        """Return a drive as (channels, steps, together, rows / together)."""
        apart = drive.unflatten(1, (-1, self.together))
        array: NDArray[np.float32] = apart.permute(3, 0, 2, 1).contiguous().numpy()
        return array

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of the values that a maximum takes together, (rows / together, channels)."""
        return values if self.together == 1 else values.unflatten(0, (-1, self.together)).amax(1)


def _compiled(drive: Tensor) -> bool:
    """Return whether compiled loops take a drive."""
    return drive.dtype == torch.float32 and failure("nctool.conversion.post_training.fused") is None


def _channel_by_channel(action: Callable[[slice], None], n_channels: int) -> None:
    """Let each thread do its share of the channels."""
    n_threads = torch.get_num_threads()
    size = -(-n_channels // n_threads)
    side_by_side(action, [slice(start, start + size) for start in range(0, n_channels, size)], n_threads)
