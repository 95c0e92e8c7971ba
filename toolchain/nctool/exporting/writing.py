"""Write a network that fits a target, with known answers and where it came from.

In: an Exported network, calibration pixels. Out: a netx file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.exporting.convert import Exported
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntNetwork
from nctool.reference.trace import join
from nctool_deploy.netx import KnownAnswers, Provenance, write

N_KNOWN_ANSWERS = 16
KNOWN_SPIKES = 2**27
"""Spike values that known answers may hold together, 16 MiB in the file; over a long window there are fewer of them."""


def write_network(
    path: Path, result: Exported, pixels: NDArray[np.uint8], provenance: Provenance, weight_bits: int
) -> None:
    """Write a network with answers to the first of some pixels, uint8 (samples, *input shape)."""
    network = result.lowered.network
    pixels = pixels[: n_known_answers(network)]
    known = KnownAnswers(pixels, join(FastEngine(network).traces(pixels)))
    changes = result.conversion.changes
    write(path, result.lowered, known, provenance=provenance, changes=changes, weight_bits=weight_bits)


def n_known_answers(network: IntNetwork) -> int:
    """Return how many samples get known answers, at least one."""
    values = network.n_steps * sum(population.n_neurons for population in network.populations)
    return max(1, min(N_KNOWN_ANSWERS, KNOWN_SPIKES // values))
