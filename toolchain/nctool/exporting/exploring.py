"""Try settings to export a checkpoint with, one after the other: what each gives, and what it costs.

In: a checkpoint, and the choices of a user. Out: a row for each setting, or an error before any work is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nctool.conversion.replicas import MAX_REPLICAS
from nctool.errors import RangeError, UnsupportedError, UsageError
from nctool.exporting.convert import converted, design, of_checkpoint
from nctool.fast.engine import FastEngine
from nctool.ir.inputs import EncodingName
from nctool.ir.number_format import LONGEST_WINDOW, WEIGHT_BITS_RANGE
from nctool.progress import ProgressCallback
from nctool.spelling import spoken
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool_deploy.backends.backend import find_backend
from nctool_deploy.cost.operations import OperationCounter
from nctool_deploy.cost.report import CostMeter, CostReport
from nctool_deploy.lowering import Lowered, lower
from nctool_deploy.targets.target import Target


@dataclass(frozen=True)
class Setting:
    """One way to export a checkpoint: the options of `nctool export`.

    Args:
        backend: its name.
        replicas: neurons that share an activation, in every layer.
        steps: the window.
        weight_bits: 2..8.
    """

    backend: str
    replicas: int
    steps: int
    weight_bits: int

    def __str__(self) -> str:
        return f"{self.backend}, K={self.replicas}, T={self.steps}, {self.weight_bits} bits"


# --- which settings ---------------------------------------------------------------------------------------------------


def settings(
    backends: Sequence[str],
    steps: Sequence[int] | None,
    replicas: Sequence[int] | None,
    weight_bits: Sequence[int],
    levels: int,
) -> list[Setting]:
    """Return every combination that a backend allows, in the order of the arguments.

    Args:
        backends: names; a backend of one fixed window has that window, and `levels` replicas.
        steps: windows of the other backends.
        replicas: for backends whose neurons can start at different potentials; the others have 1.
        weight_bits: 2..8 each.
        levels: of the activation that the network was trained with.

    Raises:
        UsageError: a name is unknown, a number is out of range, or nothing is left to try.
    """
    for what, values in {
        "backends": backends,
        "steps": steps,
        "replicas": replicas,
        "weight bits": weight_bits,
    }.items():
        _require_some(what, values)
    low, high = WEIGHT_BITS_RANGE
    _require_range("steps", steps or (), 1, LONGEST_WINDOW)
    _require_range("replicas", replicas or (), 1, MAX_REPLICAS)
    _require_range("weight bits", weight_bits, low, high)
    tried = []
    for backend in map(find_backend, dict.fromkeys(backends)):
        windows, copies = backend.explored_windows(steps), backend.explored_replicas(replicas, levels)
        tried += [Setting(backend.name, k, t, bits) for bits, k, t in product(weight_bits, copies, windows)]
    return list(dict.fromkeys(tried))


def _require_some(what: str, values: Sequence[object] | None) -> None:
    if values is not None and not values:
        raise UsageError(f"{what}: none given, allowed one or more")


def _require_range(what: str, values: Iterable[int], low: int, high: int) -> None:
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{what}: {value} is out of range, allowed {low}..{high}")


# --- what each gives --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a setting gives, and what it costs; counts are means over the samples.

    Args:
        accuracy: fraction of correct answers after the whole window.
        neurons: of all layers.
        cores, chips: that the mapping uses; 0 where the target does not limit a core.
        cost: of a sample.
    """

    accuracy: float
    neurons: int
    cores: int
    chips: int
    cost: CostReport

    @property
    def objectives(self) -> tuple[float, ...]:
        """Return the numbers that a user wants to be small: errors, steps, neurons, synaptic operations."""
        return (1 - self.accuracy, self.cost.latency_steps, self.neurons, self.cost.total.synaptic_operations)


@dataclass(frozen=True)
class ExploreRow:
    """One setting, and what it gives or why it is refused.

    Args:
        setting: the options of `nctool export` that give this network.
        measured: None where it cannot be exported.
        refusal: why it cannot, all reasons; None where it can.
        pareto: no other row is at least as good in every objective and better in one.
    """

    setting: Setting
    measured: Measured | None
    refusal: str | None
    pareto: bool = False


@dataclass(frozen=True, eq=False)
class Trial:
    """What all settings share.

    Args:
        loaded, model: what is exported, and its network.
        encoding: of the input; the recipe's where it is None.
        target, chips: what it must fit.
        pixels, labels: uint8 (samples, *shape) and int64 (samples,), what it runs on.
        device: `cpu` or `cuda`, for the fast engine.
        progress: called with the samples done and to do, and the setting.
    """

    loaded: Checkpoint
    model: nn.Module
    encoding: EncodingName | None
    target: Target
    chips: int
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    device: str
    progress: ProgressCallback

    def rows(self, tried: Sequence[Setting]) -> tuple[ExploreRow, ...]:
        """Export and run every setting, and mark those that no other beats."""
        rows = []
        for number, setting in enumerate(tried):
            rows.append(self._row(setting, partial(self._report, setting, number, len(tried))))
        marks = iter(best([row.measured.objectives for row in rows if row.measured is not None]))
        return tuple(row if row.measured is None else replace(row, pareto=next(marks)) for row in rows)

    def _row(self, setting: Setting, report: Callable[[int], None]) -> ExploreRow:
        """Export and run one setting; where it does not fit, the row holds the reason."""
        report(0)
        try:
            return ExploreRow(setting, self._measure(self._lower(setting), report), None)
        except (RangeError, UnsupportedError) as error:
            return ExploreRow(setting, None, spoken(error.message))

    def _lower(self, setting: Setting) -> Lowered:
        """Convert anew for each setting: scales depend on the window."""
        backend = find_backend(setting.backend)
        chosen = design(self.loaded, backend, setting.steps, setting.replicas, setting.weight_bits, self.encoding)
        conversion = converted(of_checkpoint(self.loaded, self.model, backend), chosen)
        return lower(conversion.network, self.target, setting.backend, self.chips)

    def _measure(self, lowered: Lowered, report: Callable[[int], None]) -> Measured:
        network, backend = lowered.network, find_backend(lowered.backend)
        meter = CostMeter(OperationCounter(network, backend), self.target, backend.name)
        done = correct = overflows = 0
        for trace in meter.watch(FastEngine(network, device=self.device).traces(self.pixels), self.pixels):
            answers = trace.logits[:, -1].argmax(axis=1)
            correct += int((answers == self.labels[done : done + trace.n_samples]).sum())
            overflows += sum(trace.overflows.values())
            done += trace.n_samples
            report(done)
        if overflows:
            rule = "O3" if network.is_graded else "O1"
            raise RangeError(f"network: {overflows} accumulated inputs left the accumulator (rule {rule}), allowed 0")
        return Measured(
            accuracy=correct / done,
            neurons=sum(population.n_neurons for population in network.populations),
            cores=lowered.cores,
            chips=lowered.mapping.chips,
            cost=meter.report(),
        )

    def _report(self, setting: Setting, number: int, n_settings: int, done: int) -> None:
        n_samples = len(self.pixels)
        self.progress(number * n_samples + done, n_settings * n_samples, str(setting))


def best(choices: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each choice whether no other is at most as large in every objective and smaller in one."""
    return [not any(_beats(rival, choice) for rival in choices) for choice in choices]


def _beats(rival: Sequence[float], choice: Sequence[float]) -> bool:
    pairs = list(zip(rival, choice, strict=True))
    return all(its <= mine for its, mine in pairs) and any(its < mine for its, mine in pairs)
