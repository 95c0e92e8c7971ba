"""What an exported file says beside the stock netx keys: the group `/nctool`.

In: JSON text. Out: validated frozen objects. Must not import torch or Lava.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nctool.equality import StructuralEquality
from nctool.network import IntegrateFire, IntNetwork, Population
from nctool.sim.trace import Trace

FORMAT_NAME = "nctool-netx"
FORMAT_VERSION = 1


class Strict(BaseModel):
    """Frozen, no unknown keys, no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ChangeRecord(Strict):
    """One conversion step: what it changed, whether it is exact, and its worst relative error."""

    step: str
    detail: str
    exact: bool
    worst_error: float | None = None


class BoundRecord(Strict):
    """The bound of one population; see `nctool.network.Bound`."""

    kind: Literal["proved", "calibrated"]
    low: int
    high: int
    margin: float


class PopulationRecord(Strict):
    """What stock netx keys cannot say of one population."""

    name: str
    layer: int
    digest: str
    scale: float | None
    bound: BoundRecord | None


class Provenance(Strict):
    """Where the network came from."""

    recipe: str
    seed: int
    dataset: str
    checkpoint_sha256: str
    input_mean: tuple[float, ...] = Field(strict=False)
    input_std: tuple[float, ...] = Field(strict=False)
    classes: tuple[str, ...] = Field(strict=False)


class Metadata(Strict):
    """The JSON text of `/nctool/metadata`."""

    tool_version: str
    target: str
    realisation: Literal["autapse"]
    input_encoding: Literal["graded"]
    n_steps: int = Field(ge=1)
    weight_bits: int
    populations: tuple[PopulationRecord, ...] = Field(strict=False)
    provenance: Provenance | None
    changes: tuple[ChangeRecord, ...] = Field(strict=False)


@dataclass(frozen=True, eq=False)
class KnownAnswers(StructuralEquality):
    """A few inputs with what the network must answer, by the reference engine.

    Args:
        pixels: uint8 (samples, *input shape).
        trace: spikes of every population and the logits after every step.
    """

    pixels: NDArray[np.uint8]
    trace: Trace


@dataclass(frozen=True, eq=False)
class NetxFile(StructuralEquality):
    """Everything that a file holds.

    Args:
        network: the integer network.
        metadata: target, realisation, provenance, changes.
        known_answers: inputs with their expected trace.
        changed_layers: populations whose content does not match the digest written at export; empty in a
            sound file.
    """

    network: IntNetwork
    metadata: Metadata
    known_answers: KnownAnswers
    changed_layers: tuple[str, ...] = ()


def digest(population: Population) -> str:
    """Return the SHA-256 of everything in `population` that takes part in the computation."""
    synapse, neuron = population.synapses[0], population.neuron
    text = repr((population.name, population.shape, synapse.source, synapse.exponent, synapse.conv))
    arrays = [synapse.weight, population.bias]
    if isinstance(neuron, IntegrateFire):
        text += neuron.reset
        arrays += [neuron.threshold, neuron.initial]
    hasher = hashlib.sha256(text.encode())
    for array in arrays:
        hasher.update(repr(array.shape).encode() + array.astype("<i8").tobytes())
    return hasher.hexdigest()
