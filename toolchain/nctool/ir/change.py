"""One step on the way from a trained network to an IntNetwork, as conversion reports it and an exported file keeps it.

In: nothing. Out: a frozen dataclass. Imports nothing of nctool.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """What one step of the conversion did.

    Args:
        step: its name.
        detail: what it changed, in words and numbers.
        exact: True when the network computes the same real function as before, up to float64 rounding.
        worst_error: largest error of a single number that the step introduced: of a pixel relative to the largest, of
            a weight relative to the largest of its channel; None when exact.
        output_error: root mean square error that rounding all synapses and the bias of a population makes in its
            drive, on calibration data, relative to the root mean square of the drive. Only what can change an output
            counts: channels that have weights and, of neurons, the drive from 0 to the threshold. Of a comparison
            with the float network, the error of a layer's spikes (`nctool.conversion.fidelity`). None for other
            steps.
    """

    step: str
    detail: str
    exact: bool
    worst_error: float | None = None
    output_error: float | None = None
