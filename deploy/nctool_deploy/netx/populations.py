"""Read one population of an exported file: its synapses, its neurons, its bias.

In: a layer of the file, and the record of it in the metadata. Out: a Population, or a FormatError that names the key
and the reason. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nctool.errors import FormatError
from nctool.ir.network import Bound, ConvGeometry, Pair, Population, Shape, Synapse
from nctool_deploy.backends.backend import Realisation
from nctool_deploy.hdf5 import MAX_SIZE, Node
from nctool_deploy.netx.metadata import PopulationRecord


def read_population(
    layer: Node, record: PopulationRecord, sources: tuple[str, ...], realisation: Realisation
) -> Population:
    """Return the population that a layer and its record describe.

    Args:
        layer: the layer's group in the file.
        record: what the metadata says of it.
        sources: names of what drives it, one for each synapse.
        realisation: how the file's neurons are built.

    Raises:
        FormatError: a value is missing, of another type, out of range or not what `write` writes.
    """
    first, *others = sources
    bound = None if record.bound is None else Bound(**record.bound.model_dump())
    synapse, neuron = _read_synapse(layer, first, realisation), layer.child("neuron")
    shape = read_shape(layer, (1,) if synapse.conv is None else (3,))
    neuron.require_integers(realisation.fixed_registers)
    bias = layer.array("bias", np.int32, 1).astype(np.int64)
    return Population(
        name=record.name,
        shape=shape,
        neuron=realisation.read_neuron(neuron, len(bias), record.scale),
        bias=bias,
        synapses=(synapse, *_read_branches(layer, others, realisation)),
        bound=bound,
    )


def read_shape(layer: Node, n_axes: Sequence[int]) -> Shape:
    """Return the shape that a layer states, of as many axes as one of `n_axes` says."""
    shape = tuple(layer.array("shape", np.int64, 1).tolist())
    if len(shape) not in n_axes or not all(1 <= size <= MAX_SIZE for size in shape):
        axes = " or ".join(map(str, n_axes))
        raise FormatError(f"`{layer.name}/shape` is {shape}, allowed {axes} sizes 1..{MAX_SIZE}")
    return shape


def _read_branches(layer: Node, sources: Sequence[str], realisation: Realisation) -> list[Synapse]:
    """Return the synapses beside the first one: as many as there are sources, no more and no fewer."""
    if not sources:
        if "synapse" in layer:
            raise FormatError(f"`{layer.name}/synapse` is there, allowed with several sources only")
        return []
    group = layer.child("synapse")
    synapses = [
        _read_synapse(group.child(str(number)), source, realisation) for number, source in enumerate(sources, start=1)
    ]
    if len(group) != len(synapses):
        raise FormatError(
            f"`{group.name}` holds {len(group)} synapses, allowed {len(synapses)}, one for each source but the first"
        )
    return synapses


def _read_synapse(node: Node, source: str, realisation: Realisation) -> Synapse:
    kind = node.text("type")
    if kind not in ("conv", "dense"):
        raise FormatError(f"`{node.name}/type` is `{kind}`, allowed conv, dense")
    weight = node.array("weight", realisation.stored_weight, 4 if kind == "conv" else 2).astype(np.int32)
    exponent = node.integer("wgtExp") if realisation.stores_exponents else 0
    return Synapse(source, weight, exponent, _geometry(node) if kind == "conv" else None)


def _geometry(layer: Node) -> ConvGeometry:
    stride, padding, dilation = (_pair(layer, key) for key in ("stride", "padding", "dilation"))
    return ConvGeometry(stride, padding, dilation, layer.integer("groups"))


def _pair(layer: Node, key: str) -> Pair:
    values = layer.array(key, np.int64, 1).tolist()
    if len(values) != 2 or not all(0 <= value < 2**16 for value in values):
        raise FormatError(f"`{layer.name}/{key}` is {values}, allowed two numbers 0..65535")
    return values[0], values[1]
