"""What an exported file says beside the stock netx keys: the group `/nctool`.

In: JSON text. Out: validated frozen objects. Must not import torch or Lava.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from nctool.errors import FormatError, UsageError
from nctool.ir.change import Change
from nctool.ir.inputs import EncodingName, PixelEncoding
from nctool.ir.network import IntArray, IntegrateFire, Pair, Population, RateEncoding
from nctool.ir.number_format import WEIGHT_BITS_RANGE
from nctool_deploy.backends.backend import BackendName
from nctool_deploy.targets.target import Target, built_in_target

FORMAT_NAME = "nctool-netx"
CHAIN_VERSION = 1
"""Version of an older file without a digest of `/nctool`, if each population has one synapse, from the one before."""

GRAPH_VERSION = 2
"""Version of such a file with any other synapses."""

FORMAT_VERSION = 3
"""Version of the files that this nctool writes."""

EXTRA = "nctool"
"""The group that holds what stock netx keys cannot say."""

DIGEST = "digest"
"""The key in it that holds the digest of all its others."""

INPUT_DILATION = "input_dilation"
"""The key of a convolution that stock netx does not have: how far apart the neurons lie that it reads (rule W2)."""

NO_ZEROS_BETWEEN: Pair = (1, 1)
"""What it is where it is left out."""


_PIXELS = ("samples", "pixels")


class Strict(BaseModel):
    """Frozen, no unknown keys, no conversion between types, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BoundRecord(Strict):
    """The bound of one population; see `nctool.ir.network.Bound`."""

    kind: Literal["proved", "calibrated"]
    low: int = Field(le=0)
    high: int = Field(ge=0)
    margin: float = Field(ge=1.0)


class PopulationRecord(Strict):
    """What stock netx keys cannot say of one population.

    Attributes:
        sources: what each synapse reads; left out where it is one, from the population before.
    """

    name: str
    layer: int
    digest: str
    scale: float | None
    bound: BoundRecord | None
    sources: tuple[str, ...] = Field(default=(), strict=False)

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `sources` out of a chain, so that its files stay the same bytes."""
        content: dict[str, Any] = serialise(self)
        return content if self.sources else {key: content[key] for key in content if key != "sources"}


class Provenance(Strict):
    """Where the network came from.

    Attributes:
        recipe, seed, dataset, checkpoint_sha256: of the training, where nctool trained it.
        model: what was converted, where nctool did not.
        samples: what the network takes: `pixels`, or real `numbers`, which mean and deviation turn into pixels.
    """

    recipe: str | None = None
    seed: int | None = None
    dataset: str | None = None
    checkpoint_sha256: str | None = None
    input_mean: tuple[float, ...] = Field(strict=False)
    input_std: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(strict=False)
    classes: tuple[str, ...] = Field(default=(), strict=False)
    model: str | None = None
    samples: Literal["pixels", "numbers"] = "pixels"

    @model_serializer(mode="wrap")
    def _without_the_usual(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not known, and pixels, so that files of trained networks stay as they were."""
        content: dict[str, Any] = serialise(self)
        return {key: value for key, value in content.items() if value is not None and (key, value) != _PIXELS}


class Metadata(Strict):
    """The JSON text of `/nctool/metadata`.

    Attributes:
        target: name of the chip that the network was lowered for.
        own_target: its limits, where it is no built-in target.
        backend: how neurons are built; its key in the file is the word of the first version.
    """

    tool_version: str
    target: str
    own_target: Target | None = None
    backend: BackendName = Field(alias="realisation")
    input_encoding: EncodingName
    input_digest: str
    n_steps: int = Field(ge=1)
    weight_bits: int = Field(ge=WEIGHT_BITS_RANGE[0], le=WEIGHT_BITS_RANGE[1])
    populations: tuple[PopulationRecord, ...] = Field(strict=False)
    provenance: Provenance | None
    changes: tuple[Change, ...] = Field(strict=False)

    @property
    def older_version(self) -> int:
        """Return the version that an older file of this content has."""
        return GRAPH_VERSION if any(record.sources for record in self.populations) else CHAIN_VERSION

    @property
    def chip(self) -> Target:
        """Return the target with its limits.

        Raises:
            FormatError: the file names a built-in target that this nctool does not have.
        """
        if self.own_target is not None:
            return self.own_target
        try:
            return built_in_target(self.target)
        except UsageError as error:
            raise FormatError(f"`/nctool/metadata`: {error.message}", hint="update nctool") from error


def digest(population: Population) -> str:
    """Return the SHA-256 of everything that a file says of `population`."""
    (first, *others), neuron = population.synapses, population.neuron
    arrays, kind = [first.weight, population.bias], getattr(neuron, "scale", None)
    if neuron.is_graded:
        kind = ("graded", kind)
    if isinstance(neuron, IntegrateFire):
        arrays, kind = [*arrays, neuron.threshold, neuron.initial], neuron.reset
    facts = (population.name, population.shape, first.source, first.exponent, first.conv, kind)
    more = tuple((synapse.source, synapse.exponent, synapse.conv) for synapse in others)
    apart = tuple((k, conv.input_dilation) for k, conv in enumerate(s.conv for s in population.synapses) if conv)
    spread = tuple(each for each in apart if each[1] != NO_ZEROS_BETWEEN)  # `repr` of a geometry does not say it
    return _hash((*facts, *more, *spread), [*arrays, *(synapse.weight for synapse in others)])


def input_digest(encoding: PixelEncoding) -> str:
    """Return the SHA-256 of how the pixels are encoded."""
    if isinstance(encoding, RateEncoding):
        return _hash((encoding.sample_shape, encoding.threshold), [encoding.table])
    return _hash((encoding.shape,), [encoding.table])


def group_digest(group: h5py.Group) -> str:
    """Return the SHA-256 of all data in the group `/nctool` but the digest itself: paths, types, shapes and bytes."""
    hasher = hashlib.sha256()
    for path, data in _datasets(group, ""):
        if path != DIGEST:
            hasher.update(f"{path} {data.dtype.str} {data.shape}\n".encode() + np.asarray(data[()]).tobytes())
    return hasher.hexdigest()


def _datasets(group: h5py.Group, prefix: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset below a group with its path, in the order of the paths of each group."""
    for key in sorted(group):
        if isinstance(group[key], h5py.Group):
            yield from _datasets(group[key], f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", group[key]


def _hash(facts: tuple[object, ...], arrays: list[IntArray]) -> str:
    hasher = hashlib.sha256(repr(facts).encode())
    for array in arrays:
        hasher.update(repr(array.shape).encode() + array.astype("<i8").tobytes())
    return hasher.hexdigest()
