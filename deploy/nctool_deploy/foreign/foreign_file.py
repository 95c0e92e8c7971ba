"""The content of a netx file of another tool, and the options to read it with.

`ForeignFile` is a `nctool.running.model_file.ModelFile`.

In: a network with what the file says of it. Out: frozen objects. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.inputs import INPUT_LIMIT
from nctool.ir.network import IntArray, IntegerInput, IntNetwork, Shape

BIAS_LIMIT = 2**15
"""Lava keeps bias mantissas in 16 bits, beyond them they wrap. Source: lava-nc 0.10.0, `lava/proc/lif/models.py`."""


@dataclass(frozen=True)
class ForeignOptions:
    """How a netx file of another tool is read; see `nctool_deploy.foreign.read_foreign`.

    Args:
        steps: time steps of a constant input; what the file says by default.
        reset_interval: clear all states every so many time steps, from the first step of each layer's data on.
        num_layers, skip_layers: only layers skip_layers .. num_layers - 1 of the file, as the stock Network counts
            them.
    """

    steps: int | None = None
    reset_interval: int | None = None
    num_layers: int | None = None
    skip_layers: int = 0

    def require_plausible(self) -> None:
        """Refuse numbers below 1 with a UsageError."""
        for name in ("steps", "reset_interval", "num_layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: {value} is out of range, allowed >= 1")

    def require_steps(self, n_steps: int) -> None:
        """Refuse `steps` with a UsageError where the samples have a time axis, of another length."""
        if self.steps not in (None, n_steps):
            raise UsageError(f"steps: got {self.steps}, and samples that last {n_steps}", hint="leave --steps out")


@dataclass(frozen=True)
class Transform:
    """How an input block turns a real number x, usually -1 .. 1, into a bias: weight * x + bias, towards zero."""

    weight: int
    bias: int

    def apply(self, values: NDArray[np.generic]) -> IntArray:
        """Return the bias mantissas of real samples, which must be finite.

        Raises:
            RangeError: a bias does not fit.
        """
        real = self.weight * values.astype(np.float64) + self.bias
        largest = np.abs(real).max()
        if largest >= BIAS_LIMIT:
            raise RangeError(f"input: a bias of {largest:g}, allowed below {BIAS_LIMIT}")
        return real.astype(np.int64)


@dataclass(frozen=True, eq=False)
class ForeignFile(StructuralEquality):
    """A netx file of another tool.

    Args:
        network: what Lava would run; its names are the layers' types and numbers, as `conv1`.
        notes: where Lava runs something else than the file says.
        transform: what turns real samples into the bias of the input block; None for a file that takes spikes.
        image_shape: of a sample, where the file says one and its first layer takes it flattened.
        foreign_options: how it was read, the number of layers filled in.
    """

    network: IntNetwork
    notes: tuple[str, ...]
    transform: Transform | None
    image_shape: Shape | None
    foreign_options: ForeignOptions

    metadata: ClassVar[None] = None
    provenance: ClassVar[None] = None
    known_answers: ClassVar[None] = None
    is_classifier: ClassVar[bool] = False
    may_overflow: ClassVar[bool] = True
    checked_parts: ClassVar[tuple[str, ...]] = ()
    unchecked_parts: ClassVar[Mapping[str, str]] = {}
    changes: ClassVar[Mapping[str, str]] = {}
    first_change: ClassVar[None] = None

    def fit(self, values: NDArray[Any], name: str) -> tuple[ForeignFile, NDArray[Any]]:  # noqa: ARG002 - as NetxFile.fit
        """Return the file set up for some samples, and these as its network takes them.

        Raises:
            RangeError: as `samples` and `fitted_to`.
        """
        integers = self.samples(values)
        return self.fitted_to(integers), integers

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

    def fitted_to(self, integers: NDArray[Any]) -> ForeignFile:
        """Return the file with a network that lasts as long as some samples do and knows their range.

        Args:
            integers: as `samples` returns them.

        Raises:
            RangeError: they do not fit the input.
        """
        network = self.network
        has_steps = integers.ndim == len(network.input.sample_shape) + 2
        signal = network.input.signal(integers, integers.shape[1] if has_steps else network.n_steps)
        if has_steps:
            network = replace(network, n_steps=signal.shape[1])
        low, high = int(signal.min()), int(signal.max())
        return replace(self, network=replace(network, input=IntegerInput(network.input.shape, low, high)))

    def cost_meter(self) -> NoReturn:
        """Refuse with an UnsupportedError: it is not known how the neurons of another tool are built."""
        raise UnsupportedError(
            "cost: the file is netx of another tool, allowed one that nctool exported",
            hint="leave --cost out: spikes per layer are reported all the same",
        )
