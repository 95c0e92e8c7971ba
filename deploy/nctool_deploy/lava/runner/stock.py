"""Run files in the stock Network of lava-dl, unchanged: those exported for it, and those of other tools.

In: a netx file, and integer samples. Out: a Lava process, or the spikes and answers of each sample, each layer in the
time of its own data. Must not import torch itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lava.lib.dl.netx import hdf5
from lava.proc.io.extractor import VarWire
from lava.proc.io.source import RingBuffer as Source
from numpy.typing import NDArray

from nctool.ir.network import CurrentBased, IntArray, IntNetwork
from nctool_deploy.foreign import ForeignFile, ForeignOptions, read_foreign
from nctool_deploy.lava.runner.record import BUFFERED_STEPS, run_and_record, tap

Traces = tuple[dict[str, NDArray[np.bool_]], NDArray[np.int64]]
GRADED_BITS, MESSAGE_BITS = 8, 16
FIRST_DATA = 1
"""`reset_offset` that clears each layer when the first data of a sample arrives: the input layer has no neuron."""


def exported_network(path: Path, network: IntNetwork, reset_interval: int | None) -> tuple[hdf5.Network, Any]:
    """Return the stock Network of a file that holds `network`, and the voltage of its readout.

    Args:
        reset_interval: clear all states every so many time steps; None for never.
    """
    process = hdf5.Network(
        net_config=str(path),
        input_message_bits=0 if network.has_binary_input else GRADED_BITS,
        reset_interval=reset_interval,
        reset_offset=FIRST_DATA,
    )
    return process, process.out_layer.neuron.v


def run_foreign(model: Path, samples: IntArray, n_steps: int, options: ForeignOptions) -> Traces:
    """Run each sample of a file of another tool in a run of its own, from fresh states.

    Args:
        samples: integers (samples, n_steps or 1, *input shape).
        options: how the file is read.

    Returns:
        spikes per population, bool (samples, n_steps, *shape), and the answers, int64 (samples, n_steps, neurons).
    """
    content = read_layers(model, samples, options)
    runs = [_run_sample(model, content, sample, n_steps) for sample in samples]
    names = [population.name for population in content.network.populations]
    spikes = {name: np.stack([own_spikes[name] for own_spikes, _ in runs]) for name in names}
    return spikes, np.stack([answers for _, answers in runs])


def read_layers(model: Path, samples: IntArray, options: ForeignOptions) -> ForeignFile:
    """Read what `run_foreign` runs."""
    return read_foreign(model, options, input_shape=samples.shape[2:] if samples.ndim == 5 else None)


def _run_sample(model: Path, content: ForeignFile, sample: IntArray, n_steps: int) -> Traces:
    populations = content.network.populations
    hops = np.cumsum([len(population.feedforward) for population in populations]).tolist()
    n_total = n_steps + hops[-1]
    network = _foreign_network(model, content, sample, n_total, n_steps)
    voltage = VarWire(buffer_size=BUFFERED_STEPS)
    voltage.connect_var(network.out_layer.neuron.v)
    recorded = run_and_record(network, [*map(tap, network.layers), voltage], n_total)
    own = [_own_time(data, late, n_steps) for data, late in zip(recorded, [*hops, hops[-1]], strict=True)]
    spikes = {p.name: data.astype(np.bool_) for p, data in zip(populations, own[:-1], strict=True)}
    neuron = populations[-1].neuron
    by_voltage = isinstance(neuron, CurrentBased) and neuron.answers_by_voltage
    answer = own[-1] if by_voltage else own[-2].cumsum(axis=0)
    return spikes, answer.reshape(n_steps, -1).astype(np.int64)


def _foreign_network(model: Path, content: ForeignFile, sample: IntArray, n_total: int, n_steps: int) -> hdf5.Network:
    """Return the stock Network with the sample as its input: the bias of an input block, or a source of spikes."""
    takes_bias, options = content.transform is not None, content.foreign_options
    network = hdf5.Network(
        net_config=str(model),
        num_layers=options.num_layers,
        skip_layers=options.skip_layers,
        input_message_bits=MESSAGE_BITS if sample.min() < 0 or sample.max() > 1 else 0,
        input_shape=tuple(reversed(sample.shape[1:])),
        reset_interval=options.reset_interval,
        reset_offset=0 if takes_bias else FIRST_DATA,
    )
    if takes_bias:
        network.in_layer.neuron.bias_mant.init = np.ascontiguousarray(sample[0].T)
        return network
    data = np.zeros((*reversed(sample.shape[1:]), n_total), np.int32)
    data[..., :n_steps] = np.broadcast_to(sample, (n_steps, *sample.shape[1:])).T
    source = Source(data=data)
    source.s_out.connect(network.inp)
    return network


def _own_time(data: NDArray[Any], late: int, n_steps: int) -> NDArray[Any]:
    """Return a recording, (n_total, *Lava shape), in the layer's own time, (n_steps, *shape)."""
    own = data[late : late + n_steps]
    return own.transpose(0, *reversed(range(1, own.ndim)))
