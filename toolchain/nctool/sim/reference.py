"""The reference engine: the living definition of docs/SEMANTICS.md, in NumPy int64.

Written to be read. Populations are computed one after the other, each over the whole window: the graph has
no recurrence across populations, so this equals stepping all of them together (rule N2).

In: an IntNetwork and pixels. Out: a Trace. Must not import torch, nor any other engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError
from nctool.network import (
    ACCUMULATOR_LIMIT,
    INPUT_NAME,
    ConvGeometry,
    IntArray,
    IntegrateFire,
    IntNetwork,
    Population,
    Synapse,
)
from nctool.sim.trace import Trace, join

BATCH = 16
Int64 = NDArray[np.int64]
Numbers = TypeVar("Numbers", NDArray[np.int64], NDArray[np.float64])
"""The engine computes in int64; calibration weighs real numbers by the same two functions."""


@dataclass(frozen=True)
class Run:
    """One population over a window.

    Args:
        spikes: bool (samples, steps, *shape).
        potentials: int64 (samples, steps, *shape), after integration and before reset.
        accumulated: int64 (samples, steps, *shape), potentials less the initial potential (rule O1).
    """

    spikes: NDArray[np.bool_]
    potentials: Int64
    accumulated: Int64


def simulate(
    network: IntNetwork, pixels: NDArray[np.uint8], *, n_steps: int | None = None, potentials: bool = False
) -> Trace:
    """Run `network` on `pixels` and return its trace.

    Args:
        pixels: uint8 (samples, *input shape), at least one sample.
        n_steps: length of the window; the network's own by default.
        potentials: also keep the membrane potentials of every population.

    Raises:
        RangeError: the pixels do not fit the input, there is no sample, or n_steps < 1.
    """
    return join(stream(network, pixels, n_steps=n_steps, potentials=potentials))


def stream(
    network: IntNetwork,
    pixels: NDArray[np.uint8],
    *,
    n_steps: int | None = None,
    potentials: bool = False,
    batch: int = BATCH,
) -> Iterator[Trace]:
    """Yield the traces of consecutive batches, so that memory does not grow with the data set."""
    n_steps = network.n_steps if n_steps is None else n_steps
    if n_steps < 1:
        raise RangeError(f"simulation: n_steps is {n_steps}, allowed >= 1")
    if len(pixels) == 0:
        raise RangeError("simulation: number of samples is 0, allowed >= 1")
    return (_window(network, pixels[i : i + batch], n_steps, potentials) for i in range(0, len(pixels), batch))


def _window(network: IntNetwork, pixels: NDArray[np.uint8], n_steps: int, potentials: bool) -> Trace:
    signals: dict[str, IntArray] = {INPUT_NAME: constant_input(network, pixels)}
    runs: dict[str, Run] = {}
    for population in network.populations:
        run = runs[population.name] = run_population(population, signals, n_steps)
        signals[population.name] = run.spikes.astype(np.int64)
    return Trace(
        spikes={p.name: runs[p.name].spikes for p in network.populations[:-1]},
        logits=runs[network.readout.name].potentials,
        overflows={name: int((np.abs(run.accumulated) > ACCUMULATOR_LIMIT).sum()) for name, run in runs.items()},
        potentials={name: run.potentials for name, run in runs.items()} if potentials else {},
    )


def constant_input(network: IntNetwork, pixels: NDArray[np.uint8]) -> Int64:
    """Encode pixels (rule I1); the time axis of length 1 says that the input is the same at every step.

    Returns:
        int64 (samples, 1, *input shape).
    """
    return network.input.encode(pixels).astype(np.int64)[:, np.newaxis]


def run_population(population: Population, signals: Mapping[str, IntArray], n_steps: int) -> Run:
    """Step one population through a window (rules S1 to S4, T1).

    Args:
        signals: per source, int64 (samples, steps or 1, *source shape).
    """
    weighted = [synaptic_input(synapse, signals[synapse.source]) for synapse in population.synapses]
    drive = sum(weighted[1:], weighted[0]) + population.per_neuron(population.bias)
    drive = np.broadcast_to(drive, (len(drive), n_steps, *population.shape))
    neuron = population.neuron
    initial = neuron.initial if isinstance(neuron, IntegrateFire) else np.zeros_like(population.bias)
    start = population.per_neuron(initial)

    membrane = np.broadcast_to(start, drive[:, 0].shape)  # T1
    potentials = np.empty(drive.shape, np.int64)
    spikes = np.zeros(drive.shape, np.bool_)
    for step in range(n_steps):
        membrane = membrane + drive[:, step]  # S1
        potentials[:, step] = membrane
        if isinstance(neuron, IntegrateFire):  # a readout never fires (S4)
            threshold = population.per_neuron(neuron.threshold)
            spikes[:, step] = membrane >= threshold  # S2
            membrane = after_reset(membrane, threshold, spikes[:, step], neuron.reset)
    return Run(spikes, potentials, potentials - start)


def after_reset(membrane: Int64, threshold: IntArray, spikes: NDArray[np.bool_], reset: str) -> Int64:
    """Return the membrane potential after the spikes of this step (rule S3)."""
    return membrane - threshold * spikes if reset == "subtract" else np.where(spikes, 0, membrane)


def synaptic_input(synapse: Synapse, signal: IntArray) -> Int64:
    """Weigh a signal (rules W1 to W3).

    Args:
        signal: integers (samples, steps, *source shape).

    Returns:
        int64 (samples, steps, *driven shape).
    """
    samples, steps = signal.shape[:2]
    flat = signal.reshape(samples * steps, *signal.shape[2:]).astype(np.int64)
    weight = synapse.weight.astype(np.int64)
    weighted = dense(flat, weight) if synapse.conv is None else convolve(flat, weight, synapse.conv)
    return weighted.reshape(samples, steps, *weighted.shape[1:]) << synapse.exponent


def dense(signal: Numbers, weight: Numbers) -> Numbers:
    """Rule W1: out[n, o] = sum_i weight[o, i] * signal[n, i], the source flattened in C order."""
    out: Numbers = np.einsum("ni,io->no", signal.reshape(len(signal), -1), np.ascontiguousarray(weight.T))
    return out


def convolve(signal: Numbers, weight: Numbers, conv: ConvGeometry) -> Numbers:
    """Rule W2: cross-correlation with zero padding, as torch.nn.functional.conv2d defines it.

    Args:
        signal: int64 (batch, channels, height, width).
        weight: int64 (out, channels / groups, kernel height, kernel width).

    Returns:
        int64 (batch, out, height, width).
    """
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = conv.padding, conv.stride, conv.dilation
    high, wide = conv.output_size(signal.shape[1:], (weight.shape[2], weight.shape[3]))
    padded = np.pad(signal, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    taps = [
        padded[:, :, gap_y * y :, gap_x * x :][:, :, : step_y * high : step_y, : step_x * wide : step_x]
        for y in range(weight.shape[2])
        for x in range(weight.shape[3])
    ]
    patches = np.stack(taps, axis=2)  # (batch, channel, tap, height, width)
    outputs = [
        dense(np.moveaxis(block, (1, 2), (3, 4)).reshape(-1, block.shape[1] * block.shape[2]), kernel)
        for block, kernel in zip(
            np.split(patches, conv.groups, axis=1),
            np.split(weight.reshape(len(weight), -1), conv.groups),
            strict=True,
        )
    ]
    return np.moveaxis(np.concatenate(outputs, axis=1).reshape(len(signal), high, wide, -1), 3, 1)
