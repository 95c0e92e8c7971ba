"""The registers of a network as flat arrays, for a runner that knows stock Lava processes only.

In: a lowered network. Out: facts for JSON, and arrays by name. Must not import torch or Lava.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, IntArray, Population, Readout, Shape, Synapse
from nctool_deploy.backends.autapse import AutapseRegisters
from nctool_deploy.backends.backend import Registers, find_backend
from nctool_deploy.backends.graded import GradedRegisters
from nctool_deploy.lava.connections import connections
from nctool_deploy.lowering import Lowered
from nctool_deploy.pipeline import delays, depths

Arrays = dict[str, NDArray[Any]]

MOST_CONNECTIONS = 20_000_000
"""Of a bundle: each is written with both its ends."""

_PARTS = ("weights", "targets", "sources")
_OF_INPUT, _OF_PAYLOADS = 8, 24
"""Bits of a message; spikes of one bit are summed much faster as graded ones, of as many bits as the input."""


def registers(lowered: Lowered) -> tuple[dict[str, Any], Arrays]:
    """Return what a runner must know of each layer, and its numbers.

    Raises:
        UnsupportedError: there are too many connections to write each of them.
    """
    network = lowered.network
    depth, shapes = depths(network), network.shapes
    n_connections = sum(_n_connections(p, synapse) for p in network.populations for synapse in p.synapses)
    if n_connections > MOST_CONNECTIONS:
        raise UnsupportedError(
            f"network: {n_connections:,} connections, a bundle holds up to {MOST_CONNECTIONS:,}",
            hint="nctool_deploy.Network runs the file where nctool is installed",
        )
    arrays: Arrays = {}
    layers = []
    for population, values in zip(network.populations, lowered.registers, strict=True):
        waits = delays(population, depth)
        branches = [
            _synapse(synapse, shapes[synapse.source], delay, network.is_graded)
            for synapse, delay in zip(population.synapses, waits, strict=True)
        ]
        facts = {"name": population.name, "neurons": population.n_neurons, "depth": depth[population.name]}
        layers.append({**facts, **_neuron(population, values, arrays), "synapses": branches})
        for number, synapse in enumerate(population.synapses):
            parts = connections(synapse.weight, synapse.conv, shapes[synapse.source])
            kept = parts[0] != 0
            for part, numbers, kind in zip(_PARTS, parts, (np.int8, np.int32, np.int32), strict=True):
                arrays[f"{population.name}/{number}/{part}"] = numbers[kept].astype(kind)
    flush = find_backend(lowered.backend).flush_steps
    return {"depth": max(depth.values()), "flush_steps": flush, "layers": layers}, arrays


def _n_connections(population: Population, synapse: Synapse) -> int:
    return population.n_neurons * math.prod(synapse.weight.shape[1:])


def _synapse(synapse: Synapse, source: Shape, delay: int, is_graded: bool) -> dict[str, Any]:
    bits = _OF_PAYLOADS if is_graded and synapse.source != INPUT_NAME else _OF_INPUT
    return {
        "source": synapse.source,
        "inputs": math.prod(source),
        "exponent": synapse.exponent,
        "delay": delay,
        "bits": bits,
    }


def _neuron(population: Population, values: Registers, arrays: Arrays) -> dict[str, Any]:
    """Return the facts of the neurons of a population, and add their numbers."""
    name, sources = population.name, getattr(values, "bias_sources", ())
    for number, source in enumerate(sources):
        arrays[f"{name}/bias/{number}"] = _flat(population, source.weight)
    facts: dict[str, Any] = {"bias_exponents": [source.exponent for source in sources]}
    if isinstance(values, GradedRegisters):
        kind = "graded readout" if isinstance(population.neuron, Readout) else "graded"
        return {"kind": kind, "threshold": values.threshold, **facts}
    facts["threshold"] = values.threshold_mantissa
    arrays[f"{name}/bias_mantissa"] = _flat(population, values.bias_mantissa)
    if not isinstance(values, AutapseRegisters):
        return {"kind": "maximum", **facts}
    if values.self_weight is None:
        return {"kind": "readout", **facts}
    arrays[f"{name}/self_weight"] = _flat(population, values.self_weight)
    return {"kind": "fires", "self_exponent": values.self_exponent, **facts}


def _flat(population: Population, values: IntArray) -> IntArray:
    """Return one value for each neuron, in (channel, height, width) order."""
    return population.per_neuron(values).reshape(-1).astype(np.int32)
