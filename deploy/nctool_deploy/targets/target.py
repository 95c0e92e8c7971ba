"""Targets: what a chip can hold, each limit with its source.

A target is a TOML file: the built-in ones lie in `files` beside this module, a user gives the path of another.
The ranges of registers and weights are the same for every target: see `number_formats`.

In: a target name or a path. Out: a frozen Target, or an error that names key, value and what is allowed. Must not
import torch or Lava.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from nctool.errors import UsageError
from nctool.toml import DocumentKind, closest, parse_document, read_document, validate_document

LATER_KEYS = ("payload_bits", "graded_operation")
"""Keys that the first targets did not have: where they are absent, they are not written, so that models stay the same
bytes."""


class _Table(BaseModel):
    """A table of a target file: frozen, no unknown keys, no coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        return {key: value for key, value in content.items() if value is not None or key not in LATER_KEYS}


def _source() -> Any:
    return Field(min_length=1, description="a text that says where the value comes from")


class Limit(_Table):
    """A number that a core or chip cannot exceed, and where it comes from."""

    value: int = Field(ge=1, le=2**40, description="a whole number 1..2^40")
    source: str = _source()


class Width(Limit):
    """A number of bits, and where it comes from."""

    value: int = Field(ge=1, le=64, description="a whole number 1..64")


class Feature(_Table):
    """Something that a chip can or cannot do, and where that comes from."""

    value: bool = Field(description="true or false")
    source: str = _source()


class Limits(_Table):
    """`[limits]`: what is absent is not limited.

    Attributes:
        cores_per_chip: neuron cores that a program can use.
        neurons_per_core: neurons, compartments in Loihi's terms.
        synaptic_memory_bytes_per_core: bytes for the synapses into a core's neurons.
        input_axons_per_core: source neurons that send to a core.
        output_axons_per_core: pairs of a neuron of the core and a core that it sends to.
        thresholds_per_core: threshold registers of a core.
        payload_bits: signed width of the number that a graded spike carries; 1 where spikes are binary.
    """

    cores_per_chip: Limit | None = None
    neurons_per_core: Limit | None = None
    synaptic_memory_bytes_per_core: Limit | None = None
    input_axons_per_core: Limit | None = None
    output_axons_per_core: Limit | None = None
    thresholds_per_core: Limit | None = None
    payload_bits: Width | None = None


class Features(_Table):
    """`[features]`: what a chip can do.

    Attributes:
        graded_spikes: spikes carry an integer; without, the input must be 0 or 1, and no neuron is graded.
        shared_kernels: a core stores a kernel once, not once for every position.
    """

    graded_spikes: Feature
    shared_kernels: Feature


class OperationEnergy(_Table):
    """Picojoules of one operation, and where the figure comes from."""

    pj: float = Field(gt=0, le=1e9, description="a number above 0, up to 10^9")
    source: str = _source()


class Energy(_Table):
    """`[energy]`: what an operation takes; see `nctool_deploy.cost.operations` for what is counted.

    Attributes:
        basis: what sort of figures they are, shown beside every sum of them.
        synaptic_operation: one connection that a spike uses.
        graded_operation: one connection that the spike of a graded network uses, where the weight is multiplied; None
            where nobody has published it.
        active_update: a neuron in a step in which it gets a synaptic operation or fires.
        idle_update: a neuron in any other step.
        spike: sending a spike.
    """

    basis: str = Field(min_length=1, description="a text that says how the figures were found")
    synaptic_operation: OperationEnergy
    graded_operation: OperationEnergy | None = None
    active_update: OperationEnergy
    idle_update: OperationEnergy
    spike: OperationEnergy


class StepTime(_Table):
    """Nanoseconds that a time step takes at least, from the best to the worst case, and where that comes from."""

    low_ns: float = Field(gt=0, le=1e12, description="a number above 0, up to 10^12")
    high_ns: float = Field(gt=0, le=1e12, description="a number above 0, up to 10^12")
    source: str = _source()


class Target(_Table):
    """A chip, or the simulator.

    Attributes:
        name: what `--target` calls it.
        description: one line for `nctool targets`.
        energy: of an operation; None where nobody has published it.
        step_time: least time of a step; None where nobody has published it.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="lower-case letters, digits and `-_.`")
    description: str = Field(default="", description="a text")
    limits: Limits = Limits()
    features: Features
    energy: Energy | None = None
    step_time: StepTime | None = None

    @property
    def is_built_in(self) -> bool:
        """Return whether the target came with nctool, so that its name says it all."""
        return self in TARGETS


_KIND = DocumentKind("target", UsageError, "`nctool targets` lists the built-in targets")
_SUFFIX = ".toml"


def read_target(path: Path) -> Target:
    """Read a target file.

    Raises:
        UsageError: the file is missing or not TOML, a key or value is not allowed, or the name is that of a built-in
            target.
    """
    target = parse_target(read_document(path, _KIND), str(path))
    names = (*ALIASES, *(built_in.name for built_in in TARGETS))
    if target.name in names:
        raise UsageError(f'target `{path}`: `name` is "{target.name}", allowed: a name other than {", ".join(names)}')
    return target


def parse_target(text: str, source: str = "target") -> Target:
    """Check TOML text and make a Target of it; a UsageError says what is not allowed, `source` where it came from."""
    target = validate_document(parse_document(text, _KIND, source), Target, _KIND, source)
    step = target.step_time
    if step is not None and step.low_ns > step.high_ns:
        raise UsageError(
            f"target `{source}`: `step_time` is from {step.low_ns:g} to {step.high_ns:g} ns, "
            "allowed: from the smaller to the larger"
        )
    return target


def _built_in(name: str) -> Target:
    path = Path(__file__).parent / "files" / f"{name}{_SUFFIX}"
    return parse_target(read_document(path, _KIND), name)


TARGETS = tuple(_built_in(name) for name in ("loihi2", "loihi1", "lava"))
ALIASES = {"loihi": "loihi2"}


def find_target(name_or_path: str | Path) -> Target:
    """Return a target given by name, or by path: what ends in .toml or holds a separator.

    Raises:
        UsageError: the name is unknown, or as `read_target`.
    """
    name = os.fspath(name_or_path)
    is_path = isinstance(name_or_path, Path) or name.endswith(_SUFFIX) or os.sep in name
    return read_target(Path(name)) if is_path else built_in_target(name)


def built_in_target(name: str) -> Target:
    """Return the built-in target called `name`; a UsageError lists the names that exist."""
    for target in TARGETS:
        if target.name == ALIASES.get(name, name):
            return target
    names = [*ALIASES, *(target.name for target in TARGETS)]
    hint = closest(name, names) or "see `nctool targets`; a target of your own is given by the path of its .toml file"
    raise UsageError(f"unknown target `{name}`, allowed {', '.join(names)}", hint)
