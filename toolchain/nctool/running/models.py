"""Open a model: a file that nctool exported, or a netx file of another tool.

In: a path and how to read a foreign file. Out: its content.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nctool.errors import UsageError
from nctool.ir.network import Shape
from nctool.running.checkpoints import require_no_checkpoint
from nctool_deploy.foreign import ForeignFile, is_foreign, read_foreign
from nctool_deploy.netx import NetxFile, read

Content = NetxFile | ForeignFile


@dataclass(frozen=True)
class ForeignOptions:
    """How a netx file of another tool is read; see `nctool_deploy.foreign.read_foreign`.

    Args:
        steps: time steps of a constant input; what the file says by default.
        reset_interval: clear all states every so many time steps.
        num_layers, skip_layers: only these layers, as the stock Network counts them.
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


def open_model(
    path: Path, options: ForeignOptions, *, input_shape: Shape | None = None, check_digests: bool = True
) -> Content:
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
    if not is_foreign(path):
        if options != ForeignOptions():
            raise UsageError(
                f"`{path}` was exported by nctool: steps, resets and layers are fixed in it",
                hint="--steps, --reset-interval, --num-layers and --skip-layers are for netx files of other tools",
            )
        return read(path, check_digests=check_digests)
    content = read_foreign(
        path,
        num_layers=options.num_layers,
        skip_layers=options.skip_layers,
        reset_interval=options.reset_interval,
        input_shape=input_shape,
    )
    return content if options.steps is None else with_steps(content, options.steps)


def with_steps(content: ForeignFile, n_steps: int) -> ForeignFile:
    """Return a foreign file whose network runs for `n_steps`."""
    return replace(content, network=replace(content.network, n_steps=n_steps))
