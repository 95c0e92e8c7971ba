"""Read what `write` wrote, and trust nothing: types, sizes, ranges and links are checked before use.

In: a path. Out: a NetxFile, or a FormatError that names the file, the key and the reason. Must not import
torch or Lava.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from nctool.errors import FormatError
from nctool.ir.bounds import Range, prove
from nctool.ir.inputs import PixelEncoding
from nctool.ir.network import (
    INPUT_NAME,
    Bound,
    ConvGeometry,
    InputEncoding,
    IntNetwork,
    Pair,
    Population,
    RateEncoding,
    Shape,
    Synapse,
    find_repeats,
)
from nctool_deploy.backends.backend import Backend, find_backend
from nctool_deploy.hdf5 import MAX_SIZE, Node, opened
from nctool_deploy.netx.known_answers import read_answers
from nctool_deploy.netx.metadata import (
    CHAIN_VERSION,
    DIGEST,
    EXTRA,
    FORMAT_NAME,
    FORMAT_VERSION,
    INPUT_DILATION,
    NO_ZEROS_BETWEEN,
    Metadata,
    PopulationRecord,
    digest,
    group_digest,
    input_digest,
)
from nctool_deploy.netx.netx_file import NetxFile
from nctool_deploy.netx.write import layers

VERSIONS = range(CHAIN_VERSION, FORMAT_VERSION + 1)
EXPORT_HINT = "write it again, with `nctool export` or `nctool convert`"


def read(path: Path, *, check_digests: bool = True) -> NetxFile:
    """Read an exported file.

    Args:
        check_digests: refuse a file that changed since export; False says what did in `NetxFile.changes` instead.

    Raises:
        UsageError: there is no file at `path`, or it may not be read.
        FormatError: the file is not sound HDF5, foreign, newer or inconsistent.
    """
    with opened(Path(path), hint=EXPORT_HINT) as file:
        content = _read(file)
    if content.changes and check_digests:
        hint = "`nctool verify` shows the first difference; " + EXPORT_HINT
        raise FormatError(f"`{path}`: {next(iter(content.changes.values()))}", hint=hint)
    return content


def _read(file: Node) -> NetxFile:
    metadata, written_digest = _read_metadata(file)
    extra, layer = file.child(EXTRA), file.child("layer")
    encoding = _read_encoding(extra, _read_shape(layer.child("0"), (1, 3)), metadata)
    backend = find_backend(metadata.backend)
    populations: list[Population] = []
    for record in metadata.populations:
        sources = record.sources or (populations[-1].name if populations else INPUT_NAME,)
        populations.append(_read_population(layer.child(str(record.layer)), record, sources, backend))
    network = find_repeats(IntNetwork(encoding, tuple(populations), metadata.n_steps))
    _require_layers(layer, network, metadata)
    known_answers = read_answers(extra.child("known_answers"), network)
    file.require_all_taken()
    changed = _changed_layers(network, metadata)
    return NetxFile(
        network=network,
        metadata=metadata,
        known_answers=known_answers,
        changed_layers=changed,
        metadata_changed=None if written_digest is None else group_digest(extra.group) != written_digest,
        false_bounds=tuple(name for name in _false_bounds(network) if name not in changed),
    )


def _read_encoding(extra: Node, shape: Shape, metadata: Metadata) -> PixelEncoding:
    """Return how pixels become a signal of `shape`."""
    if metadata.input_encoding == "graded":
        return InputEncoding(shape, extra.array("input_table", np.int8, 2))
    channels, table = extra.integer("input_channels"), extra.array("input_table", np.int16, 2)
    if len(table) != shape[0]:
        raise FormatError(f"`{extra.name}/input_table` has {len(table)} rows, allowed {shape[0]}, the input's channels")
    return RateEncoding((channels, *shape[1:]), table, extra.integer("input_threshold"))


def _read_population(layer: Node, record: PopulationRecord, sources: tuple[str, ...], backend: Backend) -> Population:
    """Return the population that a layer and its record describe.

    Args:
        sources: names of what drives it, one for each synapse.
    """
    first, *others = sources
    bound = None if record.bound is None else Bound(**record.bound.model_dump())
    synapse, neuron = _read_synapse(layer, first, backend), layer.child("neuron")
    shape = _read_shape(layer, (1,) if synapse.conv is None else (3,))
    neuron.require_integers(backend.fixed_registers(neuron.text("type")))
    bias = layer.array("bias", np.int32, 1).astype(np.int64)
    return Population(
        name=record.name,
        shape=shape,
        neuron=backend.read_neuron(neuron, len(bias), record.scale),
        bias=bias,
        synapses=(synapse, *_read_branches(layer, others, backend)),
        bound=bound,
    )


def _read_shape(layer: Node, n_axes: Sequence[int]) -> Shape:
    """Return the shape that a layer states, of as many axes as one of `n_axes` says."""
    shape = tuple(layer.array("shape", np.int64, 1).tolist())
    if len(shape) not in n_axes or not all(1 <= size <= MAX_SIZE for size in shape):
        axes = " or ".join(map(str, n_axes))
        raise FormatError(f"`{layer.name}/shape` is {shape}, allowed {axes} sizes 1..{MAX_SIZE}")
    return shape


def _read_branches(layer: Node, sources: Sequence[str], backend: Backend) -> list[Synapse]:
    """Return the synapses beside the first one: as many as there are sources, no more and no fewer."""
    if not sources:
        if "synapse" in layer:
            raise FormatError(f"`{layer.name}/synapse` is there, allowed with several sources only")
        return []
    group = layer.child("synapse")
    synapses = [
        _read_synapse(group.child(str(number)), source, backend) for number, source in enumerate(sources, start=1)
    ]
    if len(group) != len(synapses):
        raise FormatError(
            f"`{group.name}` holds {len(group)} synapses, allowed {len(synapses)}, one for each source but the first"
        )
    return synapses


def _read_synapse(node: Node, source: str, backend: Backend) -> Synapse:
    kind = node.text("type")
    if kind not in ("conv", "dense"):
        raise FormatError(f"`{node.name}/type` is `{kind}`, allowed conv, dense")
    weight = node.array("weight", backend.stored_weight, 4 if kind == "conv" else 2).astype(np.int32)
    exponent = node.integer("wgtExp") if backend.stores_exponents else 0
    return Synapse(source, weight, exponent, _geometry(node) if kind == "conv" else None)


def _geometry(layer: Node) -> ConvGeometry:
    stride, padding, dilation = (_pair(layer, key) for key in ("stride", "padding", "dilation"))
    return ConvGeometry(stride, padding, dilation, layer.integer("groups"), _input_dilation(layer))


def _input_dilation(layer: Node) -> Pair:
    """Return the distance of the neurons that a convolution reads; only one that is not 1 is written."""
    if INPUT_DILATION not in layer:
        return NO_ZEROS_BETWEEN
    found = _pair(layer, INPUT_DILATION)
    if found == NO_ZEROS_BETWEEN or min(found) < 1:
        raise FormatError(f"`{layer.name}/{INPUT_DILATION}` is {list(found)}, allowed two numbers >= 1, not both 1")
    return found


def _pair(layer: Node, key: str) -> Pair:
    values = layer.array(key, np.int64, 1).tolist()
    if len(values) != 2 or not all(0 <= value < 2**16 for value in values):
        raise FormatError(f"`{layer.name}/{key}` is {values}, allowed two numbers 0..65535")
    return values[0], values[1]


def _require_layers(node: Node, network: IntNetwork, metadata: Metadata) -> None:
    """Check that the file holds the layers that `write` makes of `network`: no other, no more, no fewer."""
    kinds = list(layers(network))
    stated = [record.layer for record in metadata.populations]
    expected = [number for number, (_, population) in enumerate(kinds) if population is not None]
    if stated != expected:
        raise FormatError(f"`/nctool/metadata`: populations are layers {stated}, allowed {expected}")
    for number, (kind, _) in enumerate(kinds):
        written = node.child(str(number)).text("type")
        if written != kind:
            raise FormatError(f"`{node.name}/{number}/type` is `{written}`, allowed {kind}")
    if len(node) != len(kinds):
        raise FormatError(f"`{node.name}` holds {len(node)} layers, allowed {len(kinds)}")


def _changed_layers(network: IntNetwork, metadata: Metadata) -> tuple[str, ...]:
    written = {INPUT_NAME: metadata.input_digest} | {record.name: record.digest for record in metadata.populations}
    current = {INPUT_NAME: input_digest(network.pixel_input)} | {p.name: digest(p) for p in network.populations}
    return tuple(name for name in written if current[name] != written[name])


def _false_bounds(network: IntNetwork) -> list[str]:
    """Return the populations whose bound says *proved* and holds less than every possible input needs."""
    bounds = {p.name: p.bound for p in network.populations if p.bound is not None and p.bound.kind == "proved"}
    ranges = prove(network) if bounds else {}
    return [name for name, bound in bounds.items() if not _holds(bound, ranges[name])]


def _holds(bound: Bound, needed: Range) -> bool:
    return bool(bound.low <= needed.low.min() and needed.high.max() <= bound.high)


def _read_metadata(file: Node) -> tuple[Metadata, str | None]:
    """Return the metadata, and the digest of the group that holds them; an older file has none."""
    if EXTRA not in file.group:
        raise FormatError("a netx file of another tool: the group `/nctool` is missing")
    extra = file.child(EXTRA)
    if extra.text("format") != FORMAT_NAME:
        raise FormatError(f"`/nctool/format` is `{extra.text('format')}`, allowed `{FORMAT_NAME}`")
    version = extra.integer("version")
    if version not in VERSIONS:
        raise FormatError(
            f"format version {version}, this nctool reads versions {VERSIONS[0]} to {VERSIONS[-1]}",
            hint="update nctool" if version > FORMAT_VERSION else EXPORT_HINT,
        )
    try:
        metadata = Metadata.model_validate_json(extra.text("metadata"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"`/nctool/metadata`: `{key}`: {first['msg'].lower()}") from error
    if version == FORMAT_VERSION:
        return metadata, extra.text(DIGEST)
    if version != metadata.older_version:
        raise FormatError(f"`/nctool/version` is {version}, allowed {metadata.older_version} for such synapses")
    return metadata, None
