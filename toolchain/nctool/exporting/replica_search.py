"""Spend neurons where they help: choose the replicas of each layer within a budget.

Greedy: from one replica everywhere, the layer whose doubling lowers the error most for its share of the budget is
doubled, until the budget is spent or nothing helps. No layer gets more replicas than the levels of its training. The
error is measured: integer logits against those of the noise-free ANN.

In: a checkpoint, a design, a budget. Out: replicas by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nctool.conversion import Replicas
from nctool.errors import RangeError, UsageError
from nctool.exporting.convert import Design, converted, of_checkpoint
from nctool.fast.engine import FastEngine
from nctool.ir.network import IntNetwork, Readout
from nctool.progress import ProgressCallback, no_progress
from nctool.training.checkpoints.checkpoint import Checkpoint
from nctool_deploy.mapping.placement import is_mapped, map_network
from nctool_deploy.targets.target import Target

FloatArray = NDArray[np.float64]

IMAGES = 128
"""Calibration images that errors are measured on."""

SMALLEST = 1e-9
"""Keeps a ratio finite."""


@dataclass(frozen=True)
class Budget:
    """The largest numbers of neurons and cores; None is no limit.

    Raises:
        UsageError: neither is given, or one is below 1.
    """

    max_neurons: int | None = None
    max_cores: int | None = None

    def __post_init__(self) -> None:
        limits = {"--max-neurons": self.max_neurons, "--max-cores": self.max_cores}
        if all(limit is None for limit in limits.values()):
            raise UsageError("replicas: `auto` needs a budget", hint="give --max-cores N or --max-neurons N")
        for option, limit in limits.items():
            if limit is not None and limit < 1:
                raise UsageError(f"{option}: {limit} is out of range, allowed >= 1")


@dataclass(frozen=True)
class Trial:
    """Replicas that were tried, and what came of them.

    Args:
        replicas: by layer.
        neurons, cores: numbers that the network takes.
        error: root mean square difference of its logits from those of the ANN, relative to their deviation.
    """

    replicas: dict[str, int]
    neurons: int
    cores: int
    error: float

    def excess(self, budget: Budget) -> str | None:
        """Say what is beyond the budget; None if nothing is."""
        if budget.max_neurons is not None and self.neurons > budget.max_neurons:
            return f"{self.neurons} neurons, allowed {budget.max_neurons}"
        if budget.max_cores is not None and self.cores > budget.max_cores:
            return f"{self.cores} cores, allowed {budget.max_cores}"
        return None

    def spent(self, budget: Budget) -> tuple[int, int]:
        """Return the numbers used and allowed of the scarcer resource."""
        pairs = ((self.neurons, budget.max_neurons), (self.cores, budget.max_cores))
        limited = [(used, limit) for used, limit in pairs if limit is not None]
        return max(limited, key=lambda pair: pair[0] / pair[1])


def _require_cores(target: Target, budget: Budget) -> None:
    """Refuse with a UsageError a budget of cores where every network takes none."""
    if budget.max_cores is not None and not is_mapped(target):
        raise UsageError(
            f"--max-cores: target `{target.name}` does not limit a core, so no network takes any",
            hint="give --max-neurons N, or --target loihi2",
        )


def search_replicas(
    loaded: Checkpoint,
    model: nn.Module,
    design: Design,
    target: Target,
    budget: Budget,
    progress: ProgressCallback = no_progress,
) -> Trial:
    """Return the replicas for `design` within `budget` on `target`.

    Raises:
        RangeError: one replica for each activation is beyond the budget.
        UsageError: the budget is of cores, and nothing is mapped to cores on `target`.
        UsageError, UnsupportedError: as `nctool.conversion.convert`.
    """
    _require_cores(target, budget)
    images, source = loaded.calibration_images[:IMAGES], of_checkpoint(loaded, model, design.backend)
    wanted = source.logits(images)

    def measure(replicas: Replicas) -> Trial:
        conversion = converted(source, replace(design, replicas=replicas))
        network = conversion.network
        logits = np.concatenate([summary.logits[:, -1] for summary in FastEngine(network).summaries(images)])
        mapping, _ = map_network(design.backend.prepare(network), target, design.backend)
        return Trial(
            replicas=conversion.replicas,
            neurons=sum(population.n_neurons for population in network.populations),
            cores=len(mapping.cores),
            error=_relative_error(logits * _scale(network), wanted),
        )

    return spend(measure, budget, loaded.recipe.activation.levels, progress)


def spend(
    measure: Callable[[Replicas], Trial], budget: Budget, most: int, progress: ProgressCallback = no_progress
) -> Trial:
    """Double the replicas of one layer after the other while the budget lasts and the error falls.

    Args:
        measure: tries replicas.
        most: replicas that a layer may get.

    Raises:
        RangeError: one replica for each activation is beyond the budget.
    """
    best = measure(1)
    if excess := best.excess(budget):
        raise RangeError(f"replicas: one for each activation takes {excess}", hint="give a larger budget")
    while True:
        progress(*best.spent(budget), f"choosing replicas, error {best.error:.3f}")
        doubled = [
            best.replicas | {name: 2 * replicas} for name, replicas in best.replicas.items() if 2 * replicas <= most
        ]
        trials = (measure(replicas) for replicas in doubled)
        better = [trial for trial in trials if not trial.excess(budget) and trial.error < best.error]
        if not better:
            return best
        best = max(better, key=partial(_gain, best, budget))


def _gain(before: Trial, budget: Budget, after: Trial) -> float:
    """Return how much the error falls for each share of the budget."""
    (used, limit), (had, had_limit) = after.spent(budget), before.spent(budget)
    return (before.error - after.error) / max(used / limit - had / had_limit, SMALLEST)


def _scale(network: IntNetwork) -> float:
    neuron = network.readout.neuron
    return neuron.scale if isinstance(neuron, Readout) else 1.0


def _relative_error(actual: FloatArray, wanted: FloatArray) -> float:
    return float(np.sqrt(((actual - wanted) ** 2).mean()) / max(wanted.std(), SMALLEST))
