"""The content of an exported file: `NetxFile` is a `nctool.running.model_file.ModelFile`.

In: a network with what the file says of it. Out: frozen objects. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError
from nctool.image_arrays import channels_first, how_to_pixels
from nctool.ir.arrays import StructuralEquality
from nctool.ir.linear_range import LinearRange
from nctool.ir.network import INPUT_NAME, IntNetwork
from nctool.reference.trace import Trace
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.cost.operations import OperationCounter
from nctool_deploy.cost.report import CostMeter
from nctool_deploy.netx.metadata import EXTRA, Metadata, Provenance

METADATA = f"/{EXTRA}"
PROVED_BOUNDS = "proved bounds"
"""The parts of a file that a check may be about, beside its layers."""

NO_DIGEST = (
    f"an older nctool wrote no digest of `{METADATA}`: class names, target, weight bits and calibrated bounds may have "
    "changed"
)


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
        metadata: target, backend, provenance, changes.
        known_answers: inputs with their expected trace.
        changed_layers: `input` or populations whose content does not match the digest written at export; empty in
            a sound file.
        metadata_changed: whether the group `/nctool` does not match its digest; None in an older file, which has none.
        false_bounds: populations that match their digest, and whose bound says *proved* and is left by some input.
    """

    network: IntNetwork
    metadata: Metadata
    known_answers: KnownAnswers
    changed_layers: tuple[str, ...] = ()
    metadata_changed: bool | None = False
    false_bounds: tuple[str, ...] = ()

    notes: ClassVar[tuple[str, ...]] = ()
    foreign_options: ClassVar[None] = None
    is_classifier: ClassVar[bool] = True
    may_overflow: ClassVar[bool] = False

    @property
    def provenance(self) -> Provenance | None:
        """Return where the network came from, if the file says so."""
        return self.metadata.provenance

    @property
    def checked_parts(self) -> tuple[str, ...]:
        """Return the parts of the file that can change: its layers, `/nctool`, the proved bounds."""
        return (INPUT_NAME, *(population.name for population in self.network.populations), METADATA, PROVED_BOUNDS)

    @property
    def unchecked_parts(self) -> Mapping[str, str]:
        """Return the parts that cannot be checked, each with the reason."""
        return {METADATA: NO_DIGEST} if self.metadata_changed is None else {}

    @property
    def changes(self) -> Mapping[str, str]:
        """Return what is not as it was exported: a text for each layer, for `/nctool` and for the proved bounds."""
        texts = {name: f"layer `{name}` is not what was exported: its digest differs" for name in self.changed_layers}
        if self.metadata_changed:
            texts[METADATA] = f"group `{METADATA}` is not what was exported: its digest differs"
        if self.false_bounds:
            texts[PROVED_BOUNDS] = (
                f"layer `{self.false_bounds[0]}` can leave its bound, although the file calls it proved"
            )
        return texts

    @property
    def first_change(self) -> tuple[str, str] | None:
        """Return the first part that is not as it was exported, and whether its `content` or its `bound` is not."""
        if not self.changes:
            return None
        part = next(iter(self.changes))
        return (self.false_bounds[0], "bound") if part == PROVED_BOUNDS else (part, "content")

    def fit(self, values: NDArray[Any], name: str) -> tuple[NetxFile, NDArray[np.uint8]]:
        """Return the file, and samples as its network takes them: pixels, channels first.

        Args:
            values: the samples of a user; sequences (N, channels, length) are images of height 1.
            name: what messages call them.

        Raises:
            RangeError: they are no pixels, or no numbers, of the shape that the network takes.
        """
        shape = self.network.input.sample_shape
        is_sequence = values.ndim == 3 and (shape[0], *shape[2:]) == values.shape[1:] and shape[1:2] == (1,)
        pixels = values[:, :, np.newaxis] if is_sequence else channels_first(values, f"`{name}`", shape=shape)
        if self.provenance is not None and self.provenance.samples == "numbers":
            return self, self._as_pixels(pixels, name, self.provenance)
        if pixels.dtype == np.uint8 and pixels.shape[1:] == shape:
            return self, pixels
        hint = "give pixels 0..255 of the size that the network was trained on, before any normalisation"
        if pixels.shape[1:] == shape:
            hint = how_to_pixels("x", pixels)
        elif pixels.shape in (shape, shape[1:], (*shape[1:], shape[0])):
            hint = "a single sample needs an axis of samples in front: `numpy.save(path, x[None])`"
        allowed = f"uint8 (samples, {', '.join(map(str, shape))})"
        raise RangeError(f"`{name}`: holds {pixels.dtype} {pixels.shape}, allowed {allowed}", hint)

    def _as_pixels(self, numbers: NDArray[Any], name: str, provenance: Provenance) -> NDArray[np.uint8]:
        shape = self.network.input.sample_shape
        if numbers.dtype.kind != "f" or numbers.shape[1:] != shape:
            allowed = f"floats (samples, {', '.join(map(str, shape))})"
            hint = "the network was converted on numbers, normalised as it takes them: give the same"
            if numbers.dtype == np.uint8 and numbers.shape[1:] == shape:
                hint += "; or convert it on uint8 pixels, with --mean and --std"
            raise RangeError(f"`{name}`: holds {numbers.dtype} {numbers.shape}, allowed {allowed}", hint)
        return LinearRange(provenance.input_mean, provenance.input_std).pixels(numbers, name)

    def cost_meter(self) -> CostMeter:
        """Return a meter of what the network costs on its chip."""
        backend = find_backend(self.metadata.backend)
        return CostMeter(OperationCounter(self.network, backend), self.metadata.chip, backend.name)
