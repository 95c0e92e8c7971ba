"""Read netx files of other tools, as Lava's own loader would build them.

Everything that `lava.lib.dl.netx.hdf5.Network` of lava-dl 0.6.0 builds out of current-based neurons becomes an
IntNetwork that computes the same integers. What it reads in another way than the file says is kept as Lava runs it,
and a note says so; what it cannot build is refused by name.

In: a path. Out: a ForeignFile, or an error that names the file, the layer and the reason. Must not import torch or
Lava.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError, RangeError, UnsupportedError, UsageError
from nctool.ir.equality import StructuralEquality
from nctool.ir.inputs import INPUT_LIMIT
from nctool.ir.network import INPUT_NAME, CurrentBased, IntegerInput, IntNetwork, Population, Shape
from nctool_deploy.cost.report import CostMeter
from nctool_deploy.foreign.layers import Layers, Source
from nctool_deploy.foreign.node import ForeignNode
from nctool_deploy.foreign.values import Transform
from nctool_deploy.hdf5 import Node, opened

MAX_LAYERS = 1024
MAX_STEPS = 2**20 - 1
BAD_FILE_HINT = "export it again, with `nctool export` or with the tool that wrote it"


@dataclass(frozen=True, eq=False)
class ForeignFile(StructuralEquality):
    """A netx file of another tool.

    Args:
        network: what Lava would run; its names are the layers' types and numbers, as `conv1`.
        notes: where Lava runs something else than the file says.
        transform: what turns real samples into the bias of the input block; None for a file that takes spikes.
        image_shape: of a sample, where the file says one and its first layer takes it flattened.
        n_layers, skip_layers: which layers were read.
    """

    network: IntNetwork
    notes: tuple[str, ...]
    transform: Transform | None
    image_shape: Shape | None
    n_layers: int
    skip_layers: int

    def cost_meter(self) -> CostMeter:
        """Refuse with an UnsupportedError: it is not known how the neurons of another tool are built."""
        raise UnsupportedError(
            "cost: the file is netx of another tool, allowed one that nctool exported",
            hint="leave --cost out: spikes per layer are reported all the same",
        )

    def samples(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return samples as the network takes them: integers stay, real numbers go through the transform.

        Raises:
            RangeError: a value that is not finite, or a fraction for a network without an input block.
        """
        if self.image_shape is not None and values.ndim > 3 and values.shape[-3:] == self.image_shape:
            values = values.reshape(*values.shape[:-3], -1)
        if values.dtype.kind != "f":
            return values
        if not np.isfinite(values).all():
            raise RangeError(f"input: got {values.dtype} with values that are not finite, allowed numbers")
        if self.transform is not None:
            return self.transform.apply(values)
        if (values != np.rint(values)).any():
            raise RangeError(
                f"input: got {values.dtype} with fractions, allowed whole numbers: spikes or graded spikes",
                hint="only a file with an input block says how real numbers become integers",
            )
        return np.clip(values, -INPUT_LIMIT - 1, INPUT_LIMIT + 1).astype(np.int64)


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


def read_foreign(
    path: Path,
    *,
    num_layers: int | None = None,
    skip_layers: int = 0,
    reset_interval: int | None = None,
    input_shape: Shape | None = None,
) -> ForeignFile:
    """Read a netx file that another tool wrote.

    Args:
        num_layers, skip_layers: only layers skip_layers .. num_layers - 1 of the file, as netx counts them.
        reset_interval: clear all states every so many time steps, from the first step of each layer's data on.
        input_shape: (channel, height, width) of a sample, for a file whose first layer is a convolution and that
            does not say it.

    Raises:
        UsageError: there is no file at `path`, or an option does not fit it.
        FormatError: the file is not sound.
        UnsupportedError: it holds a layer or neuron that Lava cannot build, or that is not current-based.
    """
    with opened(Path(path), hint=BAD_FILE_HINT) as file:
        layer = ForeignNode(file.group, "", file.budget).child("layer")
        stop = _stop(layer, num_layers, skip_layers)
        layers = Layers(Source(INPUT_NAME, input_shape, is_stated=False), skip_layers, reset_interval)
        for number in range(stop):
            layers.read(number, layer.child(str(number)))
        return _assemble(layers, stop, _sample_steps(file))


def _stop(layer: Node, num_layers: int | None, skip_layers: int) -> int:
    """Return the number of layers to read."""
    if not 1 <= len(layer) <= MAX_LAYERS:
        raise FormatError(f"`/layer` holds {len(layer)} layers, allowed 1..{MAX_LAYERS}")
    stop = len(layer) if num_layers is None else min(num_layers, len(layer))
    if not 0 <= skip_layers < stop:
        raise UsageError(f"layers: skips {skip_layers} of {stop}, allowed 0..{stop - 1}")
    return stop


def _assemble(layers: Layers, stop: int, n_steps: int) -> ForeignFile:
    populations = tuple(layers.populations)
    if layers.reset_interval and not any(map(_carries_over, populations)):
        populations = tuple(map(_without_lead, populations))
    if not populations or layers.input_shape is None:
        raise FormatError("`/layer` holds no layer that computes")
    low, high = (0, 1) if layers.takes_spikes_only else (-INPUT_LIMIT, INPUT_LIMIT)
    network = IntNetwork(IntegerInput(layers.input_shape, low, high), populations, n_steps)
    image = layers.declared if layers.declared != layers.input_shape else None
    return ForeignFile(network, tuple(layers.notes), layers.transform, image, stop, layers.skip_layers)


def _carries_over(population: Population) -> bool:
    """Return whether what was sent before a reset may arrive after it: by a delay, or back at its sender."""
    return bool(population.recurrent) or any(synapse.delay is not None for synapse in population.synapses)


def _without_lead(population: Population) -> Population:
    """Return a population that does not run before step 1: the reset at that step clears all traces of it."""
    neuron = population.neuron
    return replace(population, neuron=replace(neuron, lead=0)) if isinstance(neuron, CurrentBased) else population


def _sample_steps(file: Node) -> int:
    """Return the length of a sample that slayer notes in the file, 1 where it does not."""
    if "simulation" not in file:
        return 1
    simulation = ForeignNode(file.group, "", file.budget).child("simulation")
    steps = simulation.number("tSample", 1)
    if not 1 <= steps <= MAX_STEPS:
        raise FormatError(f"`/simulation/tSample` is {steps}, allowed 1..{MAX_STEPS}")
    return steps
