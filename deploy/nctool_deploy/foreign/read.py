"""Read netx files of other tools, as Lava's own loader would build them.

Everything that `lava.lib.dl.netx.hdf5.Network` of lava-dl 0.6.0 builds out of current-based neurons becomes an
IntNetwork that computes the same integers. Where it runs something else than the file says, the network does the same
and a note says so; a layer that it cannot build is refused by name.

In: a path. Out: a ForeignFile, or an error that names the file, the layer and the reason. Must not import torch or
Lava.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nctool.errors import FormatError, UsageError
from nctool.ir.inputs import INPUT_LIMIT
from nctool.ir.network import INPUT_NAME, CurrentBased, IntegerInput, IntNetwork, Population, Shape, find_repeats
from nctool_deploy.foreign.foreign_file import ForeignFile, ForeignOptions
from nctool_deploy.foreign.layers import Layers, Source
from nctool_deploy.foreign.node import ForeignNode
from nctool_deploy.hdf5 import Node, opened

MAX_LAYERS = 1024
MAX_STEPS = 2**20 - 1
BAD_FILE_HINT = "export it again, with `nctool export` or with the tool that wrote it"


def is_foreign(path: Path) -> bool:
    """Return True when the file at `path` is netx HDF5 without the group that nctool writes.

    Raises:
        UsageError, FormatError: as `opened`.
    """
    with opened(path, hint=BAD_FILE_HINT) as file:
        return "nctool" not in file


def is_netx(path: Path) -> bool:
    """Return True when the file at `path` is netx HDF5, of nctool or of another tool.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with opened(path, hint=BAD_FILE_HINT) as file:
            return "nctool" in file or "layer" in file
    except FormatError:
        return False


def read_foreign(path: Path, options: ForeignOptions | None = None, *, input_shape: Shape | None = None) -> ForeignFile:
    """Read a netx file that another tool wrote.

    Args:
        options: which layers to read, and how long they run and when they are cleared.
        input_shape: (channel, height, width) of a sample, for a file whose first layer is a convolution and that
            does not say it.

    Raises:
        UsageError: there is no file at `path`, or an option does not fit it.
        FormatError: the file is not sound.
        UnsupportedError: it holds a layer or neuron that Lava cannot build, or that is not current-based.
    """
    options = options or ForeignOptions()
    with opened(Path(path), hint=BAD_FILE_HINT) as file:
        layer = ForeignNode(file.group, "", file.budget).child("layer")
        stop = _stop(layer, options.num_layers, options.skip_layers)
        layers = Layers(Source(INPUT_NAME, input_shape, is_stated=False), options.skip_layers, options.reset_interval)
        for number in range(stop):
            layers.read(number, layer.child(str(number)))
        return _assemble(layers, replace(options, num_layers=stop), _sample_steps(file))


def _stop(layer: Node, num_layers: int | None, skip_layers: int) -> int:
    """Return the number of layers to read."""
    if not 1 <= len(layer) <= MAX_LAYERS:
        raise FormatError(f"`/layer` holds {len(layer)} layers, allowed 1..{MAX_LAYERS}")
    stop = len(layer) if num_layers is None else min(num_layers, len(layer))
    if not 0 <= skip_layers < stop:
        raise UsageError(f"layers: skips {skip_layers} of {stop}, allowed 0..{stop - 1}")
    return stop


def _assemble(layers: Layers, options: ForeignOptions, n_steps: int) -> ForeignFile:
    populations = tuple(layers.populations)
    if options.reset_interval and not any(map(_carries_over, populations)):
        populations = tuple(map(_without_latency, populations))
    if not populations or layers.input_shape is None:
        raise FormatError("`/layer` holds no layer that computes")
    low, high = (0, 1) if layers.takes_spikes_only else (-INPUT_LIMIT, INPUT_LIMIT)
    network = find_repeats(
        IntNetwork(IntegerInput(layers.input_shape, low, high), populations, options.steps or n_steps)
    )
    image = layers.declared if layers.declared != layers.input_shape else None
    return ForeignFile(network, tuple(layers.notes), layers.transform, image, options)


def _carries_over(population: Population) -> bool:
    """Return whether what was sent before a reset may arrive after it: by a delay, or back at its sender."""
    return bool(population.recurrent) or any(synapse.delay is not None for synapse in population.synapses)


def _without_latency(population: Population) -> Population:
    """Return a population that does not run before step 1: the reset at that step clears all traces of it."""
    neuron = population.neuron
    return replace(population, neuron=replace(neuron, latency=0)) if isinstance(neuron, CurrentBased) else population


def _sample_steps(file: Node) -> int:
    """Return the length of a sample that slayer notes in the file, 1 where it does not."""
    if "simulation" not in file:
        return 1
    simulation = ForeignNode(file.group, "", file.budget).child("simulation")
    steps = simulation.number("tSample", 1)
    if not 1 <= steps <= MAX_STEPS:
        raise FormatError(f"`/simulation/tSample` is {steps}, allowed 1..{MAX_STEPS}")
    return steps
