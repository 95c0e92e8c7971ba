"""Open a model: a file that nctool exported, or a netx file of another tool.

In: a path or `zoo:NAME`, and how to read a foreign file. Out: its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from nctool.errors import UsageError
from nctool.ir.network import IntNetwork, Shape
from nctool.running.checkpoints import require_no_checkpoint
from nctool_deploy.cost.report import CostMeter
from nctool_deploy.foreign import ForeignOptions, is_foreign, read_foreign
from nctool_deploy.netx import KnownAnswers, Metadata, Provenance, read
from nctool_models.zoo.networks import is_of_zoo, zoo_path


class ModelFile(Protocol):
    """The content of a file, by nctool or another tool: everything that callers use of it."""

    @property
    def network(self) -> IntNetwork:
        """Return the network."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return where Lava runs something else than the file says."""

    @property
    def metadata(self) -> Metadata | None:
        """Return what nctool wrote beside the network; None in a file of another tool."""

    @property
    def provenance(self) -> Provenance | None:
        """Return where the network came from, if the file says so."""

    @property
    def known_answers(self) -> KnownAnswers | None:
        """Return inputs with their expected trace, if the file holds some."""

    @property
    def foreign_options(self) -> ForeignOptions | None:
        """Return how the file of another tool was read; None for one that nctool exported."""

    @property
    def is_classifier(self) -> bool:
        """Return whether the network takes pixels and answers with a class, rather than integers with integers."""

    @property
    def may_overflow(self) -> bool:
        """Return whether an accumulator may leave its range (rule O2): otherwise that is a defect (rule O1)."""

    @property
    def checked_parts(self) -> tuple[str, ...]:
        """Return the names of the parts that are checked against what was exported."""

    @property
    def unchecked_parts(self) -> Mapping[str, str]:
        """Return the parts that cannot be checked, each with the reason."""

    @property
    def changes(self) -> Mapping[str, str]:
        """Return the parts that are not as they were exported, each with a text that says so."""

    @property
    def first_change(self) -> tuple[str, str] | None:
        """Return the first part that is not as it was exported, and whether its `content` or its `bound` is not."""

    def fit(self, values: NDArray[Any], name: str) -> tuple[ModelFile, NDArray[Any]]:
        """Return the file set up for the samples of a user, and the samples in the form that its network takes.

        Args:
            values: the samples.
            name: what messages call them.

        Raises:
            RangeError: the samples do not fit the network.
        """

    def cost_meter(self) -> CostMeter:
        """Return a meter of what the network costs on its chip; an UnsupportedError refuses files of other tools."""


def model_path(model: Path | str) -> Path:
    """Return the path of a model that is given by its path, or as `zoo:NAME`.

    Raises:
        UsageError: the zoo has no such network.
    """
    return zoo_path(model) if is_of_zoo(model) else Path(model)


def open_model(
    path: Path, options: ForeignOptions, *, input_shape: Shape | None = None, check_digests: bool = True
) -> ModelFile:
    """Read a model of either kind.

    Args:
        input_shape: of one time step of a sample, for a foreign file that does not say it.
        check_digests: refuse an exported file whose layers changed.

    Raises:
        UsageError: there is no such file, it is a checkpoint, or an option is for foreign files only.
        FormatError, UnsupportedError: the file cannot be read.
    """
    options.require_plausible()
    require_no_checkpoint(path)
    if is_foreign(path):
        return read_foreign(path, options, input_shape=input_shape)
    if options != ForeignOptions():
        raise UsageError(
            f"`{path}` was exported by nctool: steps, resets and layers are fixed in it",
            hint="--steps, --reset-interval, --num-layers and --skip-layers are for netx files of other tools",
        )
    return read(path, check_digests=check_digests)
