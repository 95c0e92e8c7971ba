"""How far the OR of spikes is from the maximum of what neurons send, on random drives.

    python benchmarks/maximum_pooling.py

Windows of four neurons get constant drives of N(0.2, 0.4) thresholds. K replicas run for T steps; their spike counts
are divided by K * T. For each K and T: the part of all windows in which the OR counts what the window's largest count
is, and by how many thresholds the OR, and the mean of the window, differ from the largest in the mean.

The last line of stdout is one JSON object; its key `excess` holds the difference of the OR for each "K, T".
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from _common import environment
from nctool.ir.network import ConvGeometry, IntArray, IntegrateFire, Population, Synapse
from nctool.reference.simulate import run_population

WINDOWS, WINDOW = 20_000, 4
THRESHOLD = 960
"""Divisible by 2 K, so that replicas start at exact parts of it."""

REPLICAS, STEPS = (1, 2, 4, 8), (1, 2, 4, 8)


def depthwise(source: str, channels: int, width: int) -> Synapse:
    """Return the sum of `width` neighbours for each channel."""
    return Synapse(source, np.ones((channels, 1, 1, width), np.int32), conv=ConvGeometry((1, 1), groups=channels))


def spikes(drive: IntArray, replicas: int, n_steps: int) -> tuple[IntArray, IntArray]:
    """Return how often the neurons of each window fire, (windows, 4), and how often their OR does, (windows,)."""
    threshold = np.full(replicas, THRESHOLD)
    initial = THRESHOLD * (2 * np.arange(replicas) + 1) // (2 * replicas)
    none = np.zeros(replicas, np.int64)
    neuron = IntegrateFire(threshold, initial)
    units = Population("units", (replicas, 1, WINDOW), neuron, none, (depthwise("drive", replicas, 1),))
    memoryless = IntegrateFire(np.ones(replicas, np.int64), none, "zero")
    either = Population("or", (replicas, 1, 1), memoryless, none, (depthwise("units", replicas, WINDOW),))
    signal = np.broadcast_to(drive[:, np.newaxis, np.newaxis, np.newaxis], (WINDOWS, 1, replicas, 1, WINDOW))
    sent = run_population(units, {"drive": signal}, n_steps).spikes
    pooled = run_population(either, {"units": sent.astype(np.int64)}, n_steps).spikes
    return sent.sum(axis=(1, 2, 3)), pooled.sum(axis=(1, 2, 3, 4))


def measure(drive: IntArray, replicas: int, n_steps: int) -> dict[str, Any]:
    """Return how the OR, and the mean, compare with the largest count, in thresholds."""
    counts, either = spikes(drive, replicas, n_steps)
    largest, unit = counts.max(axis=1), 1 / (replicas * n_steps)
    return {
        "replicas": replicas,
        "steps": n_steps,
        "equal": float((either == largest).mean()),
        "excess": float((either - largest).mean()) * unit,
        "average": float((counts.mean(axis=1) - largest).mean()) * unit,
    }


def main() -> None:
    """Measure all K and T, print a table and one JSON line."""
    drive = np.rint(THRESHOLD * np.random.default_rng(0).normal(0.2, 0.4, (WINDOWS, WINDOW))).astype(np.int64)
    rows = [measure(drive, replicas, n_steps) for replicas in REPLICAS for n_steps in STEPS]
    print(" K  T    equal  OR - maximum  mean - maximum, thresholds")
    for row in rows:
        print(
            f"{row['replicas']:2} {row['steps']:2}  {row['equal']:6.1%}  {row['excess']:12.3f}  {row['average']:14.3f}"
        )
    excess = {f"{row['replicas']}, {row['steps']}": row["excess"] for row in rows}
    print(json.dumps({"excess": excess, "rows": rows, **environment()}))


if __name__ == "__main__":
    main()
