"""Neurons of the reference engine: step a population through a window, in NumPy int64.

Written to be read, with `nctool.reference.synapses` and docs/SEMANTICS.md beside it.

In: a neuron and its drive. Out: a Run. Must not import torch, nor an engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import (
    ACCUMULATOR_LIMIT,
    PAYLOAD_LIMIT,
    CurrentBased,
    IntArray,
    IntegrateFire,
    Population,
    Readout,
)
from nctool.ir.population import SUM_BITS
from nctool.reference.synapses import held, registered_input
from nctool.reference.trace import Spikes

STATE_SHIFT = 6
"""Weights, biases and thresholds meet the states of a current-based neuron shifted left by so many bits.
Source: lava-nc 0.10.0, `lava/proc/lif/models.py` (`act_shift`, `vth_shift`; netx sets `bias_exp`)."""

STATE_LIMIT = 2**23
"""Half the range of a 24-bit state. Source: the same file (`max_uv_val`)."""

DECAY_SHIFT = 12
"""Decays are in parts of 2**12. Source: the same file (`decay_shift`)."""

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One population over a window.

    Args:
        spikes: bool (samples, steps, *shape); int32, the numbers that they carry, of a graded population.
        potentials: int64 (samples, steps, *shape), after integration and before reset.
        overflows: how many accumulated inputs left the accumulator (rule O1), how often a state of 24 bits
            wrapped or saturated (rule O2), or how often a graded population has no room (rule O3).
    """

    spikes: Spikes
    potentials: Int64
    overflows: int


def integrate_and_fire(population: Population, drive: Int64) -> Run:
    """Step an integrate-and-fire population or a readout through a window (rules S1 to S4, T1, O1).

    Args:
        drive: int64 (samples, steps, *shape), bias included.
    """
    neuron, start = population.neuron, initial_potential(population)
    membrane = np.broadcast_to(start, drive[:, 0].shape)  # T1
    potentials = np.empty(drive.shape, np.int64)
    spikes = np.zeros(drive.shape, np.bool_)
    for step in range(drive.shape[1]):
        membrane = membrane + drive[:, step]  # S1
        potentials[:, step] = membrane
        if isinstance(neuron, IntegrateFire):  # a readout never fires (S4)
            threshold = population.per_neuron(neuron.threshold)
            spikes[:, step] = membrane >= threshold  # S2
            membrane = after_reset(membrane, threshold, spikes[:, step], neuron.reset)
    overflows = np.abs(potentials - start) > ACCUMULATOR_LIMIT  # O1
    return Run(spikes, potentials, int(overflows.sum()))


def graded(population: Population, drive: Int64) -> Run:
    """Step a graded population through a window (rules G2 to G4, O3).

    Args:
        drive: int64 (samples, steps, *shape), bias included.
    """
    beyond = np.abs(drive) > PAYLOAD_LIMIT  # O3
    payload = np.clip(drive, 0, PAYLOAD_LIMIT).astype(np.int32)  # G2
    sent: Spikes = np.zeros(drive.shape, np.bool_) if isinstance(population.neuron, Readout) else payload  # G4
    return Run(sent, drive, int(beyond.sum()))


def initial_potential(population: Population) -> Int64:
    """Return the membrane potential at the start of a window, int64 (*shape)."""
    return population.per_neuron(population.start)


def after_reset(membrane: Int64, threshold: IntArray, spikes: NDArray[np.bool_], reset: str) -> Int64:
    """Return the membrane potential after the spikes of this step (rule S3)."""
    return membrane - threshold * spikes if reset == "subtract" else np.where(spikes, 0, membrane)


def current_based(population: Population, neuron: CurrentBased, weighted: Int64, bias: Int64, latency: int) -> Run:
    """Step a current-based population through a window and the steps before it (rules W6, C1 to C5, O2).

    Args:
        neuron: of the population.
        weighted: int64 (samples, steps, *shape), without bias and without what the population sends to itself.
        bias: int64, broadcasts to (samples, *shape).
        latency: how many of the steps come before time step 1.
    """
    current_decay, voltage_decay = map(population.per_neuron, (neuron.current_decay, neuron.voltage_decay))
    current = voltage = np.zeros_like(weighted[:, 0])
    voltages, spikes, overflows = np.zeros_like(weighted), np.zeros(weighted.shape, np.bool_), 0
    for step in range(latency - neuron.latency, weighted.shape[1]):  # C4
        arriving, sums_changed = _from_itself(population, spikes, step)
        if neuron.reset_interval and (step - latency) % neuron.reset_interval == 0:  # C5
            current = voltage = np.zeros_like(current)
        sum_of_current = decayed(current, current_decay) + (weighted[:, step] + arriving << STATE_SHIFT)
        current = wrapped(sum_of_current)  # C1
        sum_of_voltage = decayed(voltage, voltage_decay) + current + (bias << STATE_SHIFT)
        voltage = np.clip(sum_of_voltage, -STATE_LIMIT + 1, STATE_LIMIT - 1)  # C2
        fired = voltage > neuron.threshold << STATE_SHIFT
        voltages[:, step], spikes[:, step] = voltage, fired
        overflows += int((current != sum_of_current).sum() + (voltage != sum_of_voltage).sum()) + sums_changed  # O2
        voltage = np.where(fired, 0, voltage)  # C3
    return Run(spikes, voltages, overflows)


def _from_itself(population: Population, spikes: NDArray[np.bool_], step: int) -> tuple[Int64, int]:
    """Return what a population's own spikes of the step before bring, and how many sums a register changed (W6, O2)."""
    total, changed = np.zeros((len(spikes), *population.shape), np.int64), 0
    for synapse in population.recurrent if step else ():
        arriving, sums_changed = registered_input(synapse, spikes[:, step - 1 : step].astype(np.int64), 1)
        total, changed = total + arriving[:, 0], changed + sums_changed
    return total, changed


def decayed(state: Int64, decay: Int64) -> Int64:
    """Return what is left of a state after one step, rounded towards zero (rules C1 and C2)."""
    left: Int64 = np.sign(state) * (np.abs(state) * (2**DECAY_SHIFT - decay) >> DECAY_SHIFT)
    return left


def wrapped(state: Int64) -> Int64:
    """Return a sum as the register of the current holds it: of 32 bits, it wraps to 24 once (rule C1)."""
    state = held(state, SUM_BITS)
    turn = (state <= -STATE_LIMIT).astype(np.int64) - (state > STATE_LIMIT)
    return state + 2 * STATE_LIMIT * turn
