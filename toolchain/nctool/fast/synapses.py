"""Synapses of current-based populations in the fast engine: delays, roundings, registers (rules W3 to W5).

The weighted input is computed for all time steps at once; a delay only moves it in time.

In: a synapse, signals as tensors. Out: its weighted input. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nctool.fast.choice import Choice
from nctool.fast.kernel import Kernel, kernel_of_synapse
from nctool.fast.layer import signal_range, weighted_sum
from nctool.ir.checks import largest_sum
from nctool.ir.network import IntArray, IntNetwork, Population, Shape, Synapse
from nctool.ir.repeat import NO_REPEAT


@dataclass(frozen=True)
class Delayed:
    """Connections of one delay: they reach the neurons `rows` so many steps late."""

    delay: int
    rows: Tensor
    kernel: Kernel


@dataclass(frozen=True)
class RegisteredSynapse:
    """One synapse, ready to run.

    Args:
        parts: its connections, one for each delay; just one, of all neurons, where it has none.
        is_delayed: whether it has delays.
        exponent: sums are multiplied by 2**exponent.
        register_bits: signed width of its sums; None where no input can leave it.
        shape: of the population that it drives.
    """

    parts: tuple[Delayed, ...]
    is_delayed: bool
    exponent: int
    register_bits: int | None
    shape: Shape

    @classmethod
    def prepare(
        cls,
        synapse: Synapse,
        network: IntNetwork,
        population: Population,
        device: torch.device,
        dtype: torch.dtype,
        choice: Choice,
    ) -> RegisteredSynapse:
        """Split the synapse by delay and bring the numbers to the device."""
        source, signal = network.shapes[synapse.source], signal_range(synapse.source, network.input)

        def kernel(part: Synapse) -> Kernel:
            return kernel_of_synapse(part, source, device, dtype, choice=choice, signal=signal)

        parts = split_by_delay(replace(synapse, exponent=0), kernel, device)
        limit = max(map(abs, signal))
        is_delayed, bits = synapse.delay is not None, synapse.register_bits
        exponent = max(synapse.exponent, 0) if is_delayed else 0
        largest = largest_sum(replace(synapse, exponent=exponent), limit) + len(parts)  # a part may round down by one
        leaves = largest >= 2 ** (bits - 1)
        return cls(tuple(parts), is_delayed, synapse.exponent, bits if leaves else None, population.shape)

    def __call__(self, signals: Mapping[str, Tensor], n_steps: int) -> tuple[Tensor, int]:
        """Weigh signals; count the sums that their register changed (rules W1 to W5 and O2).

        Args:
            signals: per source, (n_steps or 1, samples, *source shape).

        Returns:
            (n_steps or 1, samples, *shape), and the count over n_steps.
        """
        if self.is_delayed:
            return self._held(self._arriving(signals, n_steps), n_steps)
        sums, changed = self._held(weighted_sum([self.parts[0].kernel], signals), n_steps)
        return self._shifted(sums), changed

    def _arriving(self, signals: Mapping[str, Tensor], n_steps: int) -> Tensor:
        """Return what arrives at every step (rule W4)."""
        first = weighted_sum([self.parts[0].kernel], signals)
        total = torch.zeros((n_steps, first.shape[1], *self.shape), dtype=first.dtype, device=first.device)
        for part in self.parts:
            if part.delay < n_steps:
                late = total[part.delay :]
                late[:, :, part.rows] += self._shifted(weighted_sum([part.kernel], signals))[: len(late)]
        return total

    def _shifted(self, sums: Tensor) -> Tensor:
        """Return sums * 2**exponent, rounded towards minus infinity (rule W3)."""
        if self.exponent == 0:
            return sums
        scaled = sums * 2.0**self.exponent
        return scaled.floor_() if self.exponent < 0 else scaled

    def _held(self, sums: Tensor, n_steps: int) -> tuple[Tensor, int]:
        """Return sums as their register holds them, and how many it changed (rule W5)."""
        if self.register_bits is None:
            return sums, 0
        kept = held(sums, self.register_bits)
        return kept, int((kept != sums).sum().item()) * (n_steps // len(sums))


def held(values: Tensor, bits: int) -> Tensor:
    """Return integers as a signed register of `bits` holds them, in float64 (rule W5)."""
    half = 2.0 ** (bits - 1)
    return (values.double() + half).remainder_(2 * half).sub_(half)


def split_by_delay(synapse: Synapse, kernel: Callable[[Synapse], Kernel], device: torch.device) -> list[Delayed]:
    """Return one part per delay, holding only the target neurons that have connections of that delay.

    Args:
        kernel: makes that of a part.
    """
    rows = torch.arange(len(synapse.weight), device=device)
    if synapse.delay is None:
        return [Delayed(0, rows, kernel(synapse))]
    parts = []
    for delay in np.unique(synapse.delay):
        there = synapse.delay == delay
        some = np.flatnonzero(there.any(axis=1))
        weight: IntArray = np.where(there, synapse.weight, 0)[some]
        part = kernel(replace(synapse, weight=weight, delay=None, repeat=NO_REPEAT))
        parts.append(Delayed(int(delay), rows[torch.from_numpy(some).to(device)], part))
    return parts
