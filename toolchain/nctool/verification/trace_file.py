"""Write the traces that were compared as an .npz file; docs/TRACES.md says what it holds.

In: a path, pixels, traces. Out: the file, whole or not at all, the same bytes for the same traces. Loading it
needs no pickle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import UsageError
from nctool.ir.inputs import Samples
from nctool.ir.network import IntegerInput, IntNetwork, Readout
from nctool.reference.trace import Trace, join
from nctool.running.arrays import require_array_names, save_arrays
from nctool.verification.compare import REFERENCE

OPTION = "--layers"
MAX_BYTES = 2**30
"""Largest file: all of it is held in memory before it is written."""


def require_fit(network: IntNetwork, engines: Sequence[str], n_samples: int) -> None:
    """Refuse traces that are too large to keep, or layers whose names cannot be kept, before they are made.

    Raises:
        UsageError: the file would be larger than MAX_BYTES.
        UnsupportedError: the name of a layer cannot name an array.
    """
    require_array_names((population.name for population in network.populations), OPTION)
    per_sample = bytes_per_sample(network, engines)
    if n_samples * per_sample > MAX_BYTES:
        way_out = f"give --samples {MAX_BYTES // per_sample}, or fewer engines"
        raise UsageError(
            f"{OPTION}: the traces of {n_samples} samples in {len(engines)} engines take "
            f"{n_samples * per_sample:,} bytes, allowed {MAX_BYTES:,}",
            hint=way_out if per_sample <= MAX_BYTES else "one sample is too large to keep: give fewer engines",
        )


def bytes_per_sample(network: IntNetwork, engines: Sequence[str]) -> int:
    """Return the size of one sample and its traces at most: what `write_traces` writes, headers left out."""
    neurons = sum(population.n_neurons for population in network.populations)
    spiking = sum(p.n_neurons for p in network.populations if not isinstance(p.neuron, Readout))
    of_spike = np.dtype(np.int32 if network.is_graded else np.bool_).itemsize
    of_engine = spiking * of_spike + network.readout.n_neurons * np.dtype(np.int64).itemsize
    potentials = neurons * np.dtype(np.int64).itemsize if REFERENCE in engines else 0
    sample = int(np.prod(network.input.sample_shape))
    if isinstance(network.input, IntegerInput):
        sample *= network.n_steps * np.dtype(np.int64).itemsize
    return sample + network.n_steps * (len(engines) * of_engine + potentials)


def write_traces(path: Path, network: IntNetwork, pixels: Samples, traces: Mapping[str, Iterable[Trace]]) -> None:
    """Write the traces of every side.

    Args:
        pixels: uint8 (samples, *input shape), or what a foreign network takes; at least as many as the traces hold,
            the rest was not run.
        traces: per engine, or `file` for the known answers, in consecutive chunks.

    Raises:
        UsageError: the file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {
        "engines": np.array(list(traces), np.str_),
        "layers": np.array([population.name for population in network.populations], np.str_),
    }
    for engine, chunks in traces.items():
        trace = join(chunks)
        arrays["pixels"] = pixels[: trace.n_samples]
        arrays[f"logits/{engine}"] = trace.logits
        arrays |= {f"spikes/{engine}/{layer}": spikes for layer, spikes in trace.spikes.items()}
        arrays |= {f"potentials/{engine}/{layer}": values for layer, values in trace.potentials.items()}
    save_arrays(path, arrays, OPTION)
