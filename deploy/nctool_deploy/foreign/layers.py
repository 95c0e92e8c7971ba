"""The layers of a foreign netx file, one after the other, as lava-dl's netx builds them.

Source of every rule here: lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py` and `lava/lib/dl/netx/blocks/process.py`.

In: nodes of a file. Out: populations, and notes where Lava runs something else than the file says. Must not import
torch or Lava.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nctool.errors import FormatError, UnsupportedError
from nctool.ir.network import LARGEST_DELAY, CurrentBased, IntArray, Population, Shape, Synapse
from nctool_deploy.foreign.foreign_file import Transform
from nctool_deploy.foreign.node import ForeignNode, listed
from nctool_deploy.foreign.values import SIMULATED, read_bias, read_geometry, read_neuron
from nctool_deploy.hdf5 import MAX_SIZE
from nctool_deploy.lava.synapses import parts_as_lava_runs

RECURRENT = "dense_rec"
"""What slayer calls a dense layer whose spikes come back to it."""


@dataclass(frozen=True)
class Source:
    """What drives the next layer.

    Args:
        shape: where it is known.
        is_stated: False where the shape is only that of the user's samples, which a dense layer may see otherwise.
    """

    name: str
    shape: Shape | None
    is_stated: bool = True


class Layers:
    """Populations of the layers that were read so far.

    Args:
        source: what drives the first layer.
        skip_layers: layers that are read for their shape only.
        reset_interval: of every neuron.
    """

    def __init__(self, source: Source, skip_layers: int, reset_interval: int | None) -> None:
        self.source, self.skip_layers, self.reset_interval = source, skip_layers, reset_interval
        self.populations: list[Population] = []
        self.notes: list[str] = []
        self.transform: Transform | None = None
        self.input_shape: Shape | None = None
        self.declared: Shape | None = None
        self.takes_spikes_only = False
        self._flattened = False
        self._hops = 0

    def read(self, number: int, node: ForeignNode) -> None:
        """Read the next layer.

        Raises:
            FormatError: it is not sound.
            UnsupportedError: Lava cannot build it, or it is not current-based.
        """
        kind = node.word("type")
        readers = {"input": self._input, "conv": self._conv, "dense": self._dense, RECURRENT: self._dense}
        if kind == "flatten":
            self._flattened = True
        elif kind in readers:
            readers[kind](number, node)
        else:
            allowed = ", ".join([*readers, "flatten"])
            raise UnsupportedError(f"layer {number}: type `{kind}`, allowed {allowed}", hint=SIMULATED)

    def _input(self, number: int, node: ForeignNode) -> None:
        if number > 0:
            raise UnsupportedError(f"layer {number}: an `input` layer, allowed as the first only")
        shape = node.shape((1, 3))
        self.source, self.declared = Source(self.source.name, shape), shape
        if "neuron" not in node:
            return
        if self.skip_layers > 0:
            self._note_spikes_only()
            return
        self.transform = Transform(node.number("weight", 64), node.number("bias", 0))
        self.input_shape = shape
        neuron, bias = self._neuron(number, node.child("neuron"), shape[0]), np.zeros(shape[0], np.int64)
        self._add(Population(f"input{number}", shape, neuron, bias, ()))

    def _conv(self, number: int, node: ForeignNode) -> None:
        source, where = self.source.shape, f"layer {number}"
        if source is None:
            raise FormatError(
                f"{where}: the file does not say the shape of its input",
                hint="--input with samples of shape (samples, steps, channel, height, width) says it",
            )
        weight = node.numbers("weight")
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if len(source) != 3 or weight.ndim != 4:
            raise FormatError(
                f"{where}: a convolution with {weight.ndim} axes on a source of {len(source)}, allowed 4 on 3"
            )
        conv = read_geometry(node, weight, where)
        synapse = Synapse(self.source.name, weight, conv=conv)
        if source[0] != weight.shape[1] * conv.groups or min(synapse.output_shape(source)) < 1:
            raise FormatError(f"{where}: weight {listed(weight.shape)} does not fit a source {listed(source)}")
        shape = synapse.output_shape(source)
        stated = node.shape((3,))
        if stated != shape:
            raise FormatError(f"{where}: shape {listed(stated)}, allowed {listed(shape)}, what it computes")
        if "delay" in node:
            self.notes.append(f"{where}: has delays, which Lava ignores on a convolution")
        self._compute(number, node, shape, [synapse], node.child("neuron"))

    def _dense(self, number: int, node: ForeignNode) -> None:
        where = f"layer {number}"
        if "weight" in node and not node.is_dataset("weight"):
            raise UnsupportedError(f"{where}: complex weights", hint=SIMULATED)
        n_neurons = math.prod(node.shape((1, 2, 3)))
        weight = _matrix(node, "weight", n_neurons, where)
        self._require_source(where, weight)
        self._flattened = False
        delay, sources, weights = self._delay(node, weight, where), [self.source.name], [weight]
        if node.word("type") == RECURRENT:
            sources, weights = [*sources, f"dense{number}"], [weight, _recurrent_matrix(node, n_neurons, where)]
        running = parts_as_lava_runs(weights, where)
        for matrix, (running_weight, exponent) in zip(weights, running, strict=True):
            self._note_weights(where, matrix, running_weight, exponent)
        synapses = [Synapse(source, *of_lava) for source, of_lava in zip(sources, running, strict=True)]
        synapses[0] = replace(synapses[0], delay=delay)
        self._compute(number, node, (n_neurons,), synapses, node.child("neuron") if "neuron" in node else None)

    def _require_source(self, where: str, weight: IntArray) -> None:
        """Check that a dense weight fits what drives it; where the file is silent, the weight gives the size."""
        source = self.source.shape if self.source.is_stated else None
        if source is not None and math.prod(source) != weight.shape[1]:
            raise FormatError(f"{where}: weight {listed(weight.shape)} does not fit a source {listed(source)}")
        if weight.shape[1] > MAX_SIZE:
            raise FormatError(f"{where}: weight {listed(weight.shape)}, allowed {MAX_SIZE} inputs")
        if not self.populations:
            self.source = Source(self.source.name, (weight.shape[1],))
        elif source is not None and len(source) > 1 and not self._flattened:
            raise FormatError(f"{where}: dense on a source of 3 axes, allowed after a `flatten` layer")

    def _compute(
        self, number: int, node: ForeignNode, shape: Shape, synapses: Sequence[Synapse], neuron: ForeignNode | None
    ) -> None:
        """Add a population that `synapses` drive, the first of them from the layer before."""
        if number < self.skip_layers:
            self._note_spikes_only()
            self.source = Source(self.source.name, shape)
            return
        if self.input_shape is None:
            self.input_shape = self.source.shape
        self._hops += 1
        kind = "dense" if synapses[0].conv is None else "conv"
        bias = read_bias(node, shape, f"layer {number}")
        self._add(Population(f"{kind}{number}", shape, self._neuron(number, neuron, shape[0]), bias, tuple(synapses)))

    def _note_spikes_only(self) -> None:
        """Note that a layer which computes is skipped: netx then takes the input of the next one for spikes."""
        if not self.takes_spikes_only:
            self.notes.append(
                "behind skipped layers, Lava takes every value but 0 for a spike: give samples of 0 and 1"
            )
        self.takes_spikes_only = True

    def _add(self, population: Population) -> None:
        self.populations.append(population)
        self.source = Source(population.name, population.shape)

    def _neuron(self, number: int, node: ForeignNode | None, channels: int) -> CurrentBased:
        where = f"layer {number}"
        neuron = read_neuron(node, channels, where, reset_interval=self.reset_interval, latency=self._hops)
        if node is not None and node.number("refDelay", 1) != 1:
            self.notes.append(f"{where}: has a refractory delay, which Lava ignores")
        return neuron

    def _note_weights(self, where: str, weight: IntArray, running: IntArray, exponent: int) -> None:
        """Note weights that Lava changes."""
        changed = running != weight << -exponent
        if changed.any():
            at = np.unravel_index(changed.argmax(), changed.shape)
            self.notes.append(
                f"{where}: Lava runs {int(changed.sum())} of {weight.size} weights with another value than the file's, "
                f"{weight[at]} as {running[at] * 2.0**exponent:g}"
            )

    def _delay(self, node: ForeignNode, weight: IntArray, where: str) -> IntArray | None:
        if "delay" not in node:
            return None
        delay = node.numbers("delay")
        if delay.min() < 0:
            raise FormatError(f"{where}: delay {delay.min()}, allowed 0..{LARGEST_DELAY}")
        if delay.max() > LARGEST_DELAY:
            self.notes.append(f"{where}: has delays up to {delay.max()}, which Lava cuts to {LARGEST_DELAY}")
        delay = np.minimum(delay, LARGEST_DELAY)
        if delay.ndim == 1 and delay.size == weight.shape[0]:
            delay = delay[:, np.newaxis]
        if delay.shape not in ((), (weight.shape[0], 1), (weight.shape[1],), weight.shape):
            raise FormatError(f"{where}: delay {listed(delay.shape)} does not fit weight {listed(weight.shape)}")
        return np.broadcast_to(delay, weight.shape).copy()


def _matrix(node: ForeignNode, key: str, n_neurons: int, where: str) -> IntArray:
    """Return the weights into `n_neurons`, (out, in); Lava takes them flat, too."""
    weight = node.numbers(key)
    if weight.ndim == 1 and weight.size % n_neurons == 0:
        weight = weight.reshape(n_neurons, -1)
    if weight.ndim != 2 or len(weight) != n_neurons:
        raise FormatError(f"{where}: {key} {listed(weight.shape)}, allowed 2 axes, {n_neurons} neurons out")
    return weight


def _recurrent_matrix(node: ForeignNode, n_neurons: int, where: str) -> IntArray:
    """Return the weights from a layer to itself."""
    if "delay" in node:
        hint = "Lava leaves the scale of the weights out there, and gives their delays to the recurrent ones too"
        raise UnsupportedError(f"{where}: delays in a recurrent layer", hint=hint)
    weight = _matrix(node, "weight_rec", n_neurons, where)
    if weight.shape[1] != n_neurons:
        raise FormatError(f"{where}: weight_rec {listed(weight.shape)}, allowed {n_neurons}x{n_neurons}")
    return weight
