"""How the learning rate goes, as a share of its largest value.

In: how much of a stage is done. Out: a number from 0 to 1. It depends on nothing else, so that a run that is resumed
goes on as if it had not been interrupted. The momentum does not change.
"""

from __future__ import annotations

import math

_WARM_UP = 0.3
"""The part of a stage in which one cycle rises. Source: Smith and Topin, arXiv 1708.07120; torch's `OneCycleLR`."""
_FIRST = 1 / 25
"""Where one cycle begins. Source: torch's `OneCycleLR`."""


def rate(schedule: str, epoch: int, n_epochs: int, batch: int, n_batches: int) -> float:
    """Return the learning rate of a batch, as a share of the largest.

    Args:
        schedule: `cosine` falls from batch to batch; `cosine-by-epoch` is that of an epoch's first batch in all of it;
            `one-cycle` rises in a line from 1/25 over the first 30 % of all batches, and falls by a cosine from there.
        epoch: of the stage, from 0.
        n_epochs: of the stage.
        batch: of the epoch, from 0.
        n_batches: of an epoch.
    """
    if schedule == "cosine-by-epoch":
        batch = 0
    done, total = epoch * n_batches + batch, n_epochs * n_batches
    if schedule != "one-cycle":
        return 0.5 * (1.0 + math.cos(math.pi * done / total))
    rest = done / total - _WARM_UP
    if rest < 0.0:
        return 1.0 + (1.0 - _FIRST) * rest / _WARM_UP
    return 0.5 * (1.0 + math.cos(math.pi * rest / (1.0 - _WARM_UP)))
