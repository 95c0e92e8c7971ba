"""Write a lowered network as netx HDF5.

Stock keys hold what stock netx knows; the group `/nctool` holds the rest. The same input gives the same bytes.

In: a Lowered network with its metadata. Out: a file, whole or not at all. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nctool.errors import FormatError
from nctool.files import write_atomically
from nctool.ir.change import Change
from nctool.ir.network import INPUT_NAME, ConvGeometry, IntNetwork, Population, RateEncoding, Readout, Synapse
from nctool_deploy.backends.backend import Backend, find_backend
from nctool_deploy.lowering import Lowered
from nctool_deploy.netx.known_answers import write_answers
from nctool_deploy.netx.metadata import (
    DIGEST,
    EXTRA,
    FORMAT_NAME,
    FORMAT_VERSION,
    INPUT_DILATION,
    NO_ZEROS_BETWEEN,
    BoundRecord,
    Metadata,
    PopulationRecord,
    Provenance,
    digest,
    group_digest,
    input_digest,
)
from nctool_deploy.netx.netx_file import KnownAnswers


def write(
    path: Path,
    lowered: Lowered,
    known_answers: KnownAnswers,
    *,
    provenance: Provenance | None = None,
    changes: tuple[Change, ...] = (),
    weight_bits: int = 8,
) -> Metadata:
    """Write `lowered` to `path` and return the metadata written.

    Raises:
        UsageError: the file cannot be written; nothing is left behind.
        FormatError: HDF5 failed while writing; nothing is left behind.
    """
    metadata = _metadata(lowered, provenance, changes, weight_bits)
    write_atomically(path, _image(lowered, metadata, known_answers, path))
    return metadata


def _image(lowered: Lowered, metadata: Metadata, known_answers: KnownAnswers, path: Path) -> bytes:
    """Return the bytes of the file: HDF5 ends the process with a fault where a disk is full, so it writes to none."""
    try:
        with h5py.File(path.name, "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
            _write_layers(file.create_group("layer"), lowered)
            _write_extra(file.create_group(EXTRA), lowered.network, metadata, known_answers)
            file.flush()
            image: bytes = file.id.get_file_image()
    except (RuntimeError, ValueError) as error:
        raise FormatError(f"cannot write `{path}`: {error}") from error
    return image


def tool_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("nctool")
    except PackageNotFoundError:
        return "unknown"


def layers(network: IntNetwork) -> Iterator[tuple[str, Population | None]]:
    """Yield (netx layer type, population) in file order; a flatten precedes a first dense synapse on an image."""
    yield "input", None
    shapes = network.shapes
    for population in network.populations:
        synapse = population.synapses[0]
        if synapse.conv is None and len(shapes[synapse.source]) > 1:
            yield "flatten", None
        yield synapse_type(synapse), population


def synapse_type(synapse: Synapse) -> str:
    """Return what netx calls a layer with such weights."""
    return "dense" if synapse.conv is None else "conv"


def _metadata(
    lowered: Lowered, provenance: Provenance | None, changes: tuple[Change, ...], weight_bits: int
) -> Metadata:
    network = lowered.network
    index = {p.name: number for number, (_, p) in enumerate(layers(network)) if p is not None}
    return Metadata(
        tool_version=tool_version(),
        target=lowered.target.name,
        own_target=None if lowered.target.is_built_in else lowered.target,
        realisation=lowered.backend,
        input_encoding=network.pixel_input.encoding,
        input_digest=input_digest(network.pixel_input),
        n_steps=network.n_steps,
        weight_bits=weight_bits,
        populations=tuple(
            _record(p, index[p.name], previous)
            for previous, p in zip([INPUT_NAME, *index], network.populations, strict=False)
        ),
        provenance=provenance,
        changes=changes,
    )


def _record(population: Population, layer: int, previous: str) -> PopulationRecord:
    neuron, bound = population.neuron, population.bound
    sources = tuple(synapse.source for synapse in population.synapses)
    return PopulationRecord(
        name=population.name,
        layer=layer,
        digest=digest(population),
        scale=neuron.scale if isinstance(neuron, Readout) else None,
        bound=None if bound is None else BoundRecord(**vars(bound)),
        sources=() if sources == (previous,) else sources,
    )


def _write_layers(group: h5py.Group, lowered: Lowered) -> None:
    backend = find_backend(lowered.backend)
    for number, (kind, population) in enumerate(layers(lowered.network)):
        layer = group.create_group(str(number))
        _put(layer, "type", kind)
        if kind == "input":
            _put(layer, "shape", np.array(lowered.network.input.shape, np.int64))
        elif population is not None:
            _write_population(layer, population, backend)


def _write_population(layer: h5py.Group, population: Population, backend: Backend) -> None:
    first, *others = population.synapses
    _put(layer, "shape", np.array(population.shape, np.int64))
    _put(layer, "bias", population.bias.astype(np.int32))
    _write_synapse(layer, first, backend)
    for number, synapse in enumerate(others, start=1):
        branch = layer.create_group(f"synapse/{number}")
        _put(branch, "type", synapse_type(synapse))
        _write_synapse(branch, synapse, backend)
    neuron, data = layer.create_group("neuron"), backend.neuron_data(population)
    for key, value in backend.fixed_registers(data["type"]).items():
        _put(neuron, key, np.int64(value))
    for key, value in data.items():
        _put(neuron, key, value)


def _write_synapse(group: h5py.Group, synapse: Synapse, backend: Backend) -> None:
    _put(group, "weight", synapse.weight.astype(backend.stored_weight))
    if backend.stores_exponents:
        _put(group, "wgtExp", np.int64(synapse.exponent))
    if synapse.conv is not None:
        _write_geometry(group, synapse.conv)


def _write_geometry(layer: h5py.Group, conv: ConvGeometry) -> None:
    for key in ("stride", "padding", "dilation"):
        _put(layer, key, np.array(getattr(conv, key), np.int64))
    _put(layer, "groups", np.int64(conv.groups))
    if conv.input_dilation != NO_ZEROS_BETWEEN:
        _put(layer, INPUT_DILATION, np.array(conv.input_dilation, np.int64))


def _write_extra(group: h5py.Group, network: IntNetwork, metadata: Metadata, answers: KnownAnswers) -> None:
    _put(group, "format", FORMAT_NAME)
    _put(group, "version", np.int64(FORMAT_VERSION))
    _put(group, "metadata", metadata.model_dump_json(by_alias=True))
    _put(group, "input_table", network.pixel_input.table)
    if isinstance(network.pixel_input, RateEncoding):
        _put(group, "input_threshold", np.int64(network.pixel_input.threshold))
        _put(group, "input_channels", np.int64(network.pixel_input.sample_shape[0]))
    write_answers(group.create_group("known_answers"), network, answers)
    _put(group, DIGEST, group_digest(group))


def _put(group: h5py.Group, key: str, value: Any) -> None:
    """Store a string as fixed-length ASCII or UTF-8 bytes, a number or an array as it is."""
    group.create_dataset(key, data=np.bytes_(value.encode()) if isinstance(value, str) else value, track_times=False)
